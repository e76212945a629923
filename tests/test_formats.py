"""What each released version has written is read by today's program, and stays what it was."""

import gzip
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import __version__
from appliance.batch import DeadLetter, Stored
from appliance.contracts import Push, Pushed, SourceState
from appliance.errors import Corrupt
from appliance.frame import FORMAT, Frame, Gap, Header, RunEnd, decode, encode_header
from appliance.instance import Instance
from appliance.note import KILLED, Missing, open_note, read_note
from appliance.queues.keys import Keys
from appliance.queues.redis import RedisQueue
from appliance.sources.absence import SERVER_AWAY, STOPPED, Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.kernel import Stretch
from appliance.spool import DiskSpool
from appliance.status import awaited, exit_code, screen
from appliance.stores.ledger import LedgerStore
from appliance.stores.tables import SCHEMA, TABLES
from tests.contract.test_store import SQLBench, batch, made
from tests.formats import make, versions
from tests.redis_servers import PrivateRedis

VERSIONS = versions()
NEWEST = VERSIONS[-1]
RUN = bytes.fromhex(make.RUN)
GIB = 2**30


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> Path:
    """The folder of a released version."""
    folder: Path = request.param
    return folder


def expected(version: Path) -> dict[str, Any]:
    """What is in it."""
    found: dict[str, Any] = json.loads((version / "expected.json").read_bytes())
    return found


def header_of(fields: dict[str, Any]) -> Header:
    """A header as the file of what is expected has it."""
    previous = fields["previous"]
    known = {
        "gaps": tuple(Gap(**gap) for gap in fields["gaps"]),
        "previous": RunEnd(**previous) if previous else None,
        "rejected": {int(index): code for index, code in fields["rejected"].items()},
    }
    return Header(**fields | known)


def frames_of(version: Path) -> dict[str, Frame]:
    """The frames that it has written, by what they show."""
    found = expected(version)["frames"]
    return {
        name: Frame(header_of(frame["header"]), frame["body"].encode())
        for name, frame in found.items()
    }


FRAMES = [(version, name) for version in VERSIONS for name in frames_of(version)]


# ── what is written today ───────────────────────────────────────────────────────────────


def test_every_version_has_its_folder() -> None:
    assert NEWEST.name == __version__


@pytest.mark.parametrize("name", make.written())
def test_what_is_written_today_is_what_the_newest_version_writes(name: str) -> None:
    """Who changes a format on purpose keeps the old folder, and makes one for what comes next."""
    today = make.written()[name]
    if name == "status.json":  # more keys may come, none goes
        assert missing(json.loads((NEWEST / name).read_bytes()), json.loads(today)) == []
    else:
        assert unpacked(name, (NEWEST / name).read_bytes()) == unpacked(name, today), (
            f"{name} isn't what {NEWEST.name} has written: if that is meant, raise __version__, "
            "run `python -m tests.formats.make`, and keep reading the old one"
        )


def missing(old: object, new: object, at: str = "") -> list[str]:
    """Keys of the old that are not in the new, or hold another type."""
    if isinstance(old, dict):
        here = new if isinstance(new, dict) else {}
        gone = [f"{at}.{key}" for key in old.keys() - here.keys()]
        both = old.keys() & here.keys()
        return gone + [one for key in both for one in missing(old[key], here[key], f"{at}.{key}")]
    if isinstance(old, list) and old and isinstance(new, list) and new:
        return missing(old[0], new[0], f"{at}[]")
    known = {int: "number", float: "number", type(None): "null"}
    kinds = [known.get(type(value), type(value).__name__) for value in (old, new)]
    return [] if kinds[0] == kinds[1] or "null" in kinds else [f"{at}: {kinds}"]


def test_a_key_that_goes_is_noticed() -> None:
    old = {"a": 1, "b": [{"c": 1, "d": ""}], "e": None}
    assert missing(old, {"a": 2.5, "b": [{"c": 2, "d": "x", "more": 1}], "e": "", "f": 1}) == []
    assert sorted(missing(old, {"a": "1", "b": [{"c": 2}]})) == [
        ".a: ['number', 'str']",
        ".b[].d",
        ".e",
    ]


# ── frames ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("version", "name"), FRAMES, ids=lambda part: getattr(part, "name", part))
def test_a_frame_is_read(version: Path, name: str) -> None:
    item = (version / "frames" / f"{name}.frame").read_bytes()
    assert decode(item) == frames_of(version)[name]


def test_a_frame_of_a_later_format_is_refused_by_its_number(version: Path) -> None:
    item = (version / "frames" / "plain.frame").read_bytes()
    later = re.sub(rb'"format":\d+', b'"format":%d' % (FORMAT + 1), item)
    with pytest.raises(
        Corrupt, match=f"format {FORMAT + 1} can't be read by this version"
    ) as caught:
        decode(later)
    assert "upgrade this one" in caught.value.hint


# ── files ───────────────────────────────────────────────────────────────────────────────


def put(version: Path, name: str, to: Path) -> Path:
    """A copy of one of its files, where today's program looks for it."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(unpacked(name, (version / name).read_bytes()))
    return to


def unpacked(name: str, content: bytes) -> bytes:
    """Each zlib packs in its own way."""
    return gzip.decompress(content) if name.endswith(".gz") else content


def test_a_spool_is_replayed(version: Path, tmp_path: Path) -> None:
    for path in (version / "spool").iterdir():
        put(version, f"spool/{path.name}", tmp_path / "tweets" / path.name)
    spool = DiskSpool(tmp_path / "tweets", GIB)
    spool.open()
    found = []
    while frame := spool.oldest():
        found.append(decode(frame.line + bytes(frame.body)))
        spool.forget(frame)
    spool.close()
    assert found == [*frames_of(version).values()]
    assert (spool.notices(), [*(tmp_path / "tweets").iterdir()]) == ([], [])


def test_a_spooled_frame_of_a_later_format_is_kept(version: Path, tmp_path: Path) -> None:
    item = (version / "frames" / "plain.frame").read_bytes()
    line, _, body = item.replace(b'"format":1', b'"format":%d' % (FORMAT + 1)).partition(b"\n")
    spool = DiskSpool(tmp_path / "tweets", GIB)
    spool.open()
    spool.append(line + b"\n", body)
    spool.close()
    spool.open()
    assert spool.oldest() is None
    [notice] = spool.notices()
    assert f"format {FORMAT + 1} can't be read by this version" in notice
    [bad] = (tmp_path / "tweets").iterdir()
    assert bad.suffix == ".bad"
    assert bad.read_bytes().endswith(line + b"\n" + body)
    spool.close()


def test_a_note_is_taken_up(version: Path, tmp_path: Path) -> None:
    path = put(version, "tweets.note.gz", tmp_path / "tweets.note")
    notes = expected(version)["notes"]
    handed = read_note(path, "tweets", make.BOOT)
    assert (handed.run, handed.number, handed.records) == (make.RUN, 1, 2), (
        "the frame in hand apart"
    )
    assert (handed.in_hand, handed.missing) == (3, KILLED)
    note = open_note(path, make.BOOT, "tcp", lambda _after: "f" * 32)
    assert (note.run, note.word, note.cursor) == (make.RUN, 3, "3:4")
    assert note.previous == RunEnd(make.FIRST_RUN, 7, 70, 700)
    assert note.missing == Missing(1, KILLED)
    last = note.last()
    assert last is not None
    assert {name: getattr(last, name) for name in notes["in hand"]} == notes["in hand"]
    note.done(2)
    later = open_note(path, "another boot", "tcp", lambda after: f"{int(after, 16) + 1:032x}")
    assert later.run > make.RUN
    assert later.previous == RunEnd(make.RUN, 2, 5, 20)
    assert later.cursor == "b"


def test_the_beginning_of_a_record_is_found(version: Path, tmp_path: Path) -> None:
    [path] = (version / "beginnings").iterdir()
    put(version, f"beginnings/{path.name}", tmp_path / "b" / path.name)
    found = Beginnings(tmp_path / "b", make.BOOT, lambda: 0).find(make.COOKIE, 5)
    assert found is not None
    assert (found.length, found.pending) == (6, Stretch(106, 7, True))
    kept = bytearray(6)
    found.read_into(memoryview(kept))
    assert kept == b"kept, "


ABSENCES: dict[str, Gap | None] = {  # what the next frame tells, once there is a connection again
    "connected": Gap(STOPPED, began=make.AT, ended=make.AT + 90),
    "away": Gap(SERVER_AWAY, began=make.AT, ended=make.AT + 90),
    "back": Gap(SERVER_AWAY, began=make.AT, ended=make.AT + 90),
}


@pytest.mark.parametrize("name", ABSENCES)
def test_the_absence_of_a_server_is_told(name: str, version: Path, tmp_path: Path) -> None:
    path = put(version, f"absence/{name}", tmp_path / "feed.absence")
    os.utime(path, (make.AT, make.AT))
    absence = Absence(path, Path.write_bytes, clock=lambda: make.AT + 90, monotonic=lambda: 0.0)
    absence.born(connected=False, told=())
    absence.found()
    assert absence.gap == ABSENCES[name]


def test_an_instance_stays_itself(version: Path, tmp_path: Path) -> None:
    """What is made of its random bytes stands in Redis, where other machines compare it."""
    put(version, "id", tmp_path / "id")
    assert Instance(tmp_path).identity("machine") == expected(version)["identity"]


# ── in Redis ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def name() -> str:
    """Of an instance that nobody else has."""
    return f"formats_{os.getpid()}"


@pytest.fixture
def queue(redis_server: PrivateRedis, name: str) -> Iterator[RedisQueue]:
    made = RedisQueue(redis_server.address, None, name, "collector-log", GIB, 5.0)
    yield made
    made.close()
    with redis_server.client() as client:
        for key in client.keys(Keys(name).every):
            client.delete(key)


def a_push(header: Header, body: bytes) -> Push:
    line, sums = encode_header(header), (header.records, header.body_bytes)
    cursors = (header.cursor_before, header.cursor_after)
    return Push(header.source, header.run, header.number, line, body, *sums, *cursors)


def test_what_redis_knows_of_a_source_is_gone_on_with(
    version: Path, queue: RedisQueue, redis_server: PrivateRedis, name: str
) -> None:
    """The keys are those of the version, and its last frame is recognised when it comes again."""
    frame = frames_of(version)["cursor"]
    fields = json.loads((version / "source.json").read_bytes())
    names = json.loads((version / "keys.json").read_bytes())
    mine = {what: key.replace("{nfl}", f"{{{name}}}") for what, key in names.items()}
    with redis_server.client() as client:
        client.hset(mine["source"].replace("tweets", "log"), mapping=fields)
        client.set(mine["bytes"], 0)
        again = queue.push(a_push(frame.header, frame.body))
        assert again is Pushed.HAVE_IT
        assert queue.source_state("log") == SourceState(frame.header.run, 1, "1:2:3:4", 2, 4)
        assert client.llen(mine["working"]) == 0


def test_what_is_pushed_today_is_known_by_the_same_words(
    queue: RedisQueue, redis_server: PrivateRedis, name: str
) -> None:
    header, body = make.frames()["cursor"]
    assert queue.push(a_push(header, body)) is Pushed.TAKEN
    fields = json.loads((NEWEST / "source.json").read_bytes())
    keys = Keys(name)
    with redis_server.client() as client:
        found = client.hgetall(keys.source("log"))
        assert {key.decode(): value.decode() for key, value in found.items()} == fields
        assert client.lrange(keys.working, 0, -1) == [make.item((header, body))]


# ── tables ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=["sqlite", "mariadb"])
def bench(request: pytest.FixtureRequest) -> Iterator[SQLBench]:
    for bench in made(request.param, request):
        assert isinstance(bench, SQLBench)
        yield bench


def load(bench: SQLBench, version: Path, schema: int) -> LedgerStore:
    """The tables of a version, in place of ours."""
    for name in TABLES:
        bench.query(f"DROP TABLE nfl_{name}")
    kind = "sqlite" if type(bench).__name__.startswith("SQLite") else "mysql"
    for line in (version / f"ledger-{schema}.{kind}.sql").read_text().splitlines():
        bench.query(line.removesuffix(";"))
    store = bench.open()
    assert isinstance(store, LedgerStore)
    return store


def schemas(version: Path) -> list[int]:
    return sorted({int(path.name[7]) for path in version.glob("ledger-*.sql")})


@pytest.mark.parametrize(
    ("version", "schema"),
    [(version, schema) for version in VERSIONS for schema in schemas(version)],
    ids=lambda part: getattr(part, "name", part),
)
def test_a_ledger_is_gone_on_with(version: Path, schema: int, bench: SQLBench) -> None:
    store = load(bench, version, schema)
    store.prepare()
    assert bench.query("SELECT value FROM nfl_meta WHERE name = 'schema'")[0][0] == b"%d" % SCHEMA
    assert store.identity() == "abc"
    assert bench.dead() == [(2, DeadLetter(0, b"raw", "json", "why"))]
    assert [row[:2] for row in bench.gaps()] == [("cut", 7)]
    known = [batch(number, 1, run=RUN) for number in (1, 2, 4, 6)]
    assert store.store(known) == Stored(), "each is known"
    exact = schema > 1  # the first one didn't know how large a hole is
    later = batch(
        1, 1, run=bytes(16).replace(b"\0", b"\xff"), previous=RunEnd(make.RUN, 6, 21, 210)
    )
    assert store.store([later]).frames == 1
    holes = store.fold()
    sizes = [(hole.first, hole.records) for hole in holes if hole.run == RUN]
    assert sizes == [(3, 3 if exact else None), (5, 5 if exact else None)]
    late = [batch(3, 1, 2, 3, run=RUN), batch(5, 1, 2, 3, 4, 5, run=RUN)]
    assert store.store(late).stored == 8
    store.fold()
    assert (bench.up_to(RUN), bench.folded(RUN)) == (6, 21)


# ── the control socket ──────────────────────────────────────────────────────────────────


def test_the_answer_of_an_older_instance_is_shown(version: Path) -> None:
    """`status`, `stop` and `collect --detach` of a new version may meet a running old one."""
    report = json.loads((version / "status.json").read_bytes())
    assert screen(report).startswith("nfl collects and stores (pid 7, since ")
    assert awaited(report) == []
    assert exit_code(report) in (0, 2)
    assert {"pid", "ready", "paused"} <= report.keys()
