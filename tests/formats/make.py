"""Writes one of each of today's formats: `python -m tests.formats.make`.

Everything in it is fixed, so that the same program writes the same bytes: `written` is also what a
test compares the newest folder with.
"""

import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.config import Column
from appliance.counters import Board
from appliance.frame import Gap, Header, RunEnd, checksum, encode_header
from appliance.instance import Instance
from appliance.note import KILLED, Note, open_note, replace_file
from appliance.queues.keys import Keys
from appliance.sources.absence import SERVER_AWAY, Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.kernel import Stretch
from appliance.spool import DiskSpool
from appliance.status import ChildState, report
from appliance.stores.address import parse_url
from appliance.stores.ledger import LedgerStore
from appliance.stores.mysql import MySQLStore
from appliance.stores.sqlite import SQLiteStore
from appliance.stores.tables import SCHEMA, TABLES, Table
from tests.formats import HERE

BOOT = "b007" * 8
FIRST_RUN = "0190c0de00007000800000000000000a"
RUN = "0190c0de00017000800000000000000b"
FILE_RUN = "0190c0de00027000800000000000000c"
AT = 1_700_000_000.25
COOKIE = 4711
ID = bytes(range(16))  # random, in an instance
CHILDREN = (("recovery", "", ""), ("collector", "tweets", "tcp"), ("subscriber", "1", ""))
COLUMNS = {"raw": Column(type="LONGTEXT", path="")}

Files = dict[str, bytes]
Frame = tuple[Header, bytes]


# ── frames ──────────────────────────────────────────────────────────────────────────────


def _frame(number: int, body: bytes, before: tuple[int, int] = (0, 0), **more: Any) -> Frame:
    fields: dict[str, Any] = {"run": RUN, "source": "tweets"} | more
    header = Header(
        number=number,
        records=body.count(b"\n"),
        records_before=before[0],
        bytes_before=before[1],
        body_bytes=len(body),
        crc=checksum(body),
        first_received=AT + number,
        last_received=AT + number + 0.5,
        **fields,
    )
    return header, body


def frames() -> dict[str, Frame]:
    """One of each kind. Those of RUN follow one another, but for number 4, which is missing."""
    return {
        "plain": _frame(1, 'a\n{"b": "é"}\n\n'.encode(), previous=RunEnd(FIRST_RUN, 7, 70, 700)),
        "rejected": _frame(
            2, b"c\nfirst bytes\nd\n", (3, 15), rejected={1: "too long"}, skipped_bytes=10**6
        ),
        "gaps": _frame(
            3,
            b"e\nhalf\n",
            (6, 31),
            rejected={1: "cut"},
            gaps=(
                Gap("cut"),
                Gap("connection lost", 2, 20),
                Gap("source down", None, None, AT - 60, AT),
            ),
        ),
        "hole-and-lacks": _frame(5, b"f\n", (20, 200), hole=KILLED, lacks=2, lacks_bytes=20),
        "made": _frame(6, b"", (23, 222), hole="queue forgot"),
        "cursor": _frame(
            1, b"g\nh\n", run=FILE_RUN, source="log", cursor_before="", cursor_after="1:2:3:4"
        ),
    }


def item(frame: Frame) -> bytes:
    """A frame as it is in the queue and in the spool."""
    return encode_header(frame[0]) + frame[1]


def _frames() -> Files:
    return {f"frames/{name}.frame": item(frame) for name, frame in frames().items()}


# ── files of the state directory ────────────────────────────────────────────────────────


def _spool(place: Path) -> Files:
    spool = DiskSpool(place / "spool" / "tweets", 2**30)
    spool.open()
    for header, body in frames().values():
        spool.append(encode_header(header), body)
    spool.close()
    [segment] = (place / "spool" / "tweets").iterdir()
    return {f"spool/{segment.name}": segment.read_bytes()}


def notes() -> dict[str, Note]:
    """Of a frame that was handed over, and of the one in hand."""
    claim = {"parts": [{"cookie": COOKIE, "start": 100, "length": 8, "ending": False}]}
    done = Note(1, 0, 0, 2, 8, AT, AT + 0.5, claim, hole="queue forgot")
    in_hand = Note(2, 2, 8, 3, 12, AT + 1, AT + 2, claim, cursor_before="a", cursor_after="b")
    return {"done": done, "in hand": in_hand}


def _note(place: Path) -> Files:
    path = place / "tweets.note"
    open_note(path, "a" * 32, "tcp", lambda _after: FIRST_RUN)
    note = open_note(path, BOOT, "tcp", lambda _after: RUN)
    note.start_run(RUN, "3:4", RunEnd(FIRST_RUN, 7, 70, 700))
    done, in_hand = notes().values()
    note.begin(done)
    note.may_miss(1, KILLED)
    note.done(1)
    note.begin(in_hand)
    return {"tweets.note.gz": gzip.compress(path.read_bytes(), mtime=0)}


def _beginning(place: Path) -> Files:
    directory = place / "tweets.beginnings"
    beginning = Beginnings(directory, BOOT, lambda: 5).begin(COOKIE)
    beginning.write(b"kept, ", Stretch(100, 6, False))
    beginning.keep()
    beginning.write(b"pending", Stretch(106, 7, True))
    [path] = directory.iterdir()
    return {f"beginnings/{path.name}": path.read_bytes()}


def _absence(place: Path) -> Files:
    path, clock = place / "feed.absence", iter((AT, AT + 60, AT + 60))
    absence = Absence(path, replace_file, clock=lambda: next(clock, AT), monotonic=lambda: 0.0)
    absence.found()
    files = {"absence/connected": path.read_bytes()}
    absence._clock = lambda: AT
    absence.lost(SERVER_AWAY, clean=True)
    files["absence/away"] = path.read_bytes()
    absence._clock = lambda: AT + 60
    absence.found()
    files["absence/back"] = path.read_bytes()
    return files


# ── tables ──────────────────────────────────────────────────────────────────────────────


def _recorded(store: LedgerStore, make: Callable[[], None]) -> list[str]:
    """What a store would say to its database."""
    said: list[str] = []

    def query(sql: str, *_: object) -> list[Any]:
        said.append(sql)
        return []

    store._query = store._execute = query  # type: ignore[assignment,method-assign,attr-defined]
    make()
    return said


def table_statements(kind: str, tables: dict[str, Table]) -> list[str]:
    """How the tables of the ledger are made in this database."""
    store: LedgerStore
    if kind == "sqlite":
        store = SQLiteStore("/nowhere", "nfl", "records", COLUMNS)
    else:
        address = parse_url("mysql://u@h/d")
        store = MySQLStore(address, None, "nfl", "records", COLUMNS, 1024)

    def make() -> None:
        for name, table in tables.items():
            store._make_ledger_table(f"nfl_{name}", table)

    return [statement.replace('"', "`") for statement in _recorded(store, make)]


def _inserted(table: str, **row: str) -> str:
    names = ", ".join(f"`{name}`" for name in row)
    return f"INSERT INTO nfl_{table} ({names}) VALUES ({', '.join(row.values())})"


def _counted(records: int, dead: int = 0) -> dict[str, str]:
    rest = {"filtered": "0", "dead": f"{dead}", "blank": "0", "lost": "0"}
    counts = {
        "records": f"{records}",
        "stored": f"{records - dead}",
        **rest,
        "bytes": f"{records}0",
    }
    return counts | dict.fromkeys(
        ("first_received", "last_received"), "'2023-11-14 22:13:20.250000'"
    )


def rows(schema: int) -> Iterator[str]:
    """What is in them: frames 1, 2, 4 and 6 of a run with six, and one dead letter, one gap."""
    run = f"X'{RUN}'"
    new = schema >= 2
    yield _inserted(
        "runs",
        run=run,
        source="'tweets'",
        up_to="2",
        **_counted(3, dead=1),
        **({"up_to_records": "3", "up_to_bytes": "30", "last": "6"} if new else {}),
        **({"last_records": "21", "last_bytes": "210"} if new else {}),
    )
    for number, records, before in ((4, 4, 6), (6, 6, 15)):
        sums = {"records_before": f"{before}", "bytes_before": f"{before}0", "hole": "'killed'"}
        yield _inserted(
            "frames",
            run=run,
            frame=f"{number}",
            **_counted(records),
            **(sums if new else {}),
        )
    yield _inserted(
        "dead",
        run=run,
        frame="2",
        position="0",
        source="'tweets'",
        raw="X'726177'",
        code="'json'",
        reason="'why'",
        dead_at="'2023-11-14 22:13:20.250000'",
        **({"received_at": "'2023-11-14 22:13:19.000000'"} if new else {}),
    )
    yield _inserted("gaps", run=run, source="'tweets'", cause="'cut'", records="7")
    yield _inserted("meta", name="'store'", value="X'616263'")
    yield _inserted("meta", name="'schema'", value=f"X'{f'{schema}'.encode().hex()}'")


def tables(schema: int, known: dict[str, Table]) -> Files:
    """Statements that make the ledger of a version with something in it, for both databases."""
    return {
        f"ledger-{schema}.{kind}.sql": "".join(
            f"{statement};\n" for statement in (*table_statements(kind, known), *rows(schema))
        ).encode()
        for kind in ("sqlite", "mysql")
    }


# ── in Redis, and on the control socket ─────────────────────────────────────────────────


def _status() -> Files:
    """What `status --json` says, one of each kind of process."""
    board = Board()
    children = [
        ChildState(kind, name, kind_of, 7, 0, board.slot(kind), "", "")
        for kind, name, kind_of in CHILDREN
    ]
    identity = {"name": "nfl", "version": "0", "pid": 7, "since": "2026-01-02T03:04:05+00:00"}
    said = report(identity, children, False, False, lambda _name: 1.5, AT)
    return {"status.json": _json(said)}


def _keys() -> Files:
    keys = Keys("nfl")
    names = ("working", "bad", "bad_bytes", "store", "bytes", "attempts")
    known = {name: getattr(keys, name) for name in names}
    known |= {"busy": keys.busy("OWNER"), "source": keys.source("tweets")}
    return {"keys.json": _json(known)}


def _redis() -> Files:
    """What the push script writes of a source (the test sees that it does)."""
    header = frames()["cursor"][0]
    known = {"run": header.run, "number": "1", "records": "2", "bytes": "4", "cursor": "1:2:3:4"}
    return {"source.json": _json(known)}


# ── the whole ───────────────────────────────────────────────────────────────────────────


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _expected() -> Files:
    """The contents in words that no format of ours is needed for."""
    known = {
        "frames": {
            name: {"header": asdict(header), "body": body.decode()}
            for name, (header, body) in frames().items()
        },
        "notes": {name: asdict(note) for name, note in notes().items()},
        "identity": _identity(),
    }
    return {"expected.json": _json(known), "id": ID}


def _identity() -> str:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "id").write_bytes(ID)
        return Instance(Path(folder)).identity("machine")


@cache
def written() -> Files:
    """Today's formats, by their file names."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        from_disk = [make(place) for make in (_spool, _note, _beginning, _absence)]
    in_memory = [_frames(), tables(SCHEMA, TABLES), _keys(), _redis(), _status(), _expected()]
    return {name: content for files in (*from_disk, *in_memory) for name, content in files.items()}


def main() -> None:
    """Write the folder of this version."""
    folder = HERE / __version__
    for name, content in written().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"{folder}: written")


if __name__ == "__main__":
    main()
