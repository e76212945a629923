"""P4: one bad record costs one record.

Whatever is wrong with it and wherever in its frame it stands, it is one dead letter with its
bytes and the reason, its neighbours are rows, and the stream goes on. One instance takes all of
it, into a table that the user had made before, over SQLite and over MariaDB.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.ports import free_port
from tests.system.daemon import Daemon, connect, send_and_close, unstarted
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest
from tests.system.window import Window, shared_store

SHORT_BYTES_MAX = 64 * 1024
KEPT_BYTES = SHORT_BYTES_MAX - 1  # of an over-long record: a line's bytes, without its newline
LONG_BYTES = 3 * 1024**2

TABLE = """CREATE TABLE records (
    seq {serial}, id BIGINT UNIQUE, word VARCHAR(10), must INT NOT NULL, small SMALLINT,
    seen DATETIME(6), colour {colour}, raw LONGTEXT, since VARCHAR(20) DEFAULT 'the beginning')"""

COLUMNS = """
[store.columns]
id = { path = "id", type = "BIGINT" }
word = { path = "user.word", type = "VARCHAR(10)" }
must = { path = "must", type = "INT" }
small = { path = "small", type = "SMALLINT" }
seen = { path = "seen", type = "DATETIME(6)" }
colour = { path = "colour", type = "VARCHAR(10)" }
raw = { path = "", type = "LONGTEXT" }
"""


@dataclass(frozen=True)
class Instance:
    window: Window
    ports: dict[str, int]


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def instance(request: pytest.FixtureRequest) -> Iterator[Instance]:
    """A running instance over a table of the user's own."""
    ports = {name: free_port() for name in ("docs", "short")}
    with shared_store(request.param, request) as store:
        config = (
            source("docs", ports, "")
            + source("short", ports, f"record_bytes_max = {SHORT_BYTES_MAX}\n")
            + store.section()
            + COLUMNS
        )
        with unstarted(config) as daemon:
            make_table(store, daemon)
            daemon.start()
            send_and_close(ports["docs"], [line(good(0))])
            daemon.until_stored(1)
            yield Instance(Window(daemon, store), ports)
            assert daemon.stop() == 0


@pytest.fixture
def window(instance: Instance) -> Window:
    """What this test alone has stored."""
    return Window(instance.window.daemon, instance.window.store)


def source(name: str, ports: dict[str, int], more: str) -> str:
    listen = f"127.0.0.1:{ports[name]}"
    return f'[source.{name}]\ntype = "tcp"\nlisten = "{listen}"\nformat = "json"\n{more}'


def make_table(store: StoreUnderTest, daemon: Daemon) -> None:
    if isinstance(store, MariaDB):
        serial = "BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY"
        store.rows(daemon, TABLE.format(serial=serial, colour="ENUM('red', 'green')"))
        return
    directory = daemon.directory / "state" / "stream"
    directory.mkdir(parents=True)
    connection = sqlite3.connect(directory / "stream.db")
    connection.execute(TABLE.format(serial="INTEGER PRIMARY KEY", colour="TEXT"))
    connection.close()


# ── records ─────────────────────────────────────────────────────────────────────────────

numbers = iter(range(1, 10**6))


def good(number: int) -> bytes:
    """A record that every database takes."""
    return document(id=number, must=1)


def some_good() -> bytes:
    return good(next(numbers))


def document(**values: object) -> bytes:
    return json.dumps(values, ensure_ascii=False).encode()


def line(record: bytes) -> bytes:
    return record + b"\n"


NOT_JSON = {
    "broken": b'{"id": 1, "must": 1',
    "word": b"nonsense",
    "two": b'{"must": 1} {"must": 1}',
    "single quotes": b"{'must': 1}",
    "comma": b'{"must": 1,}',
    "nan": b'{"must": NaN}',
    "infinite": b'{"must": 1e400}',
    "lone surrogate": b'{"must": 1, "text": "\\ud83d"}',
    "surrogates swapped": b'{"must": 1, "text": "\\ude00\\ud83d"}',
    "nul": b'{"must": 1, "text": "a\0b"}',
    "only nul": b"\0",
    "control": b'{"must": 1, "text": "a\x1fb"}',
    "bom": b'\xef\xbb\xbf{"must": 1}',
    "utf-16": '{"must": 1}'.encode("utf-16-be"),
    "deep": b"[" * 2000 + b"]" * 2000,
    "space": b" ",
}
NOT_UTF8 = {
    "latin-1": b'{"must": 1, "text": "caf\xe9"}',
    "cut": b'{"must": 1, "text": "\xf0\x9f\x98',
    "overlong": b'{"must": 1, "text": "\xc0\x80"}',
    "surrogate": b'{"must": 1, "text": "\xed\xa0\x80"}',
    "beyond unicode": b'{"must": 1, "text": "\xf5\x80\x80\x80"}',
}
EVERYWHERE = {  # refused by every database: {name: (record, code)}
    "not an object": (b"5", "null"),
    "null": (b"null", "null"),
    "null for not null": (document(must=None), "null"),
    "missing for not null": (document(id=-1), "null"),
    "duplicate": (document(id=0, must=1), "duplicate"),
    "too large for any integer": (document(id=2**64 - 1, must=1), "range"),
}
STRICT = {  # refused by a server that enforces types
    "text too long": (document(must=1, user={"word": "elevenchars"}), "too long"),
    "text for number": (document(must="many"), "value"),
    "empty text for number": (document(must=""), "value"),
    "text in the middle": (document(must="1e"), "truncated"),
    "object for number": (document(must={"a": 1}), "value"),
    "out of range": (document(must=1, small=32768), "range"),
    "float out of range": (document(must=1, id=2**70), "range"),
    "number below": (document(must=-(2**31) - 1), "range"),
    "no time": (document(must=1, seen="yesterday"), "value"),
    "no such day": (document(must=1, seen="2026-02-30T00:00:00Z"), "value"),
    "no such colour": (document(must=1, colour="blue"), "truncated"),
}


# ── tests ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("position", ["first", "middle", "last", "only"])
@pytest.mark.parametrize("kind", ["json", "utf8", "null", "duplicate"])
def test_everywhere_in_a_frame(
    window: Window, instance: Instance, kind: str, position: str
) -> None:
    record = {
        "json": NOT_JSON["broken"],
        "utf8": NOT_UTF8["latin-1"],
        "null": document(must=None),
        "duplicate": document(id=0, must=1),
    }[kind]
    before = {"first": 0, "middle": 5, "last": 10, "only": 0}[position]
    after = {"first": 10, "middle": 5, "last": 0, "only": 0}[position]
    neighbours = [some_good() for _ in range(before + after)]
    expect(window, instance, [*neighbours[:before], record, *neighbours[before:]], {before: kind})


def test_records_that_are_no_json(window: Window, instance: Instance) -> None:
    expect_each(window, instance, dict.fromkeys(NOT_JSON.values(), "json"))
    assert all(reason for *_, reason in window.dead())


def test_records_that_are_no_utf8(window: Window, instance: Instance) -> None:
    expect_each(window, instance, dict.fromkeys(NOT_UTF8.values(), "utf8"))
    assert all("not UTF-8" in reason for *_, reason in window.dead())


def test_records_that_every_database_refuses(window: Window, instance: Instance) -> None:
    expect_each(window, instance, dict(EVERYWHERE.values()))


def test_records_that_a_strict_database_refuses(window: Window, instance: Instance) -> None:
    """SQLite enforces no types and no lengths: there they are rows."""
    if not isinstance(window.store, MariaDB):
        expect(window, instance, [record for record, _ in STRICT.values()], {})
        return
    expect_each(window, instance, dict(STRICT.values()))
    names = (
        "word",
        "must",
        "must",
        "must",
        "must",
        "small",
        "id",
        "must",
        "seen",
        "seen",
        "colour",
    )
    for (*_, reason), name in zip(window.dead(), names, strict=True):
        assert name in reason  # the column that is to blame


def test_nothing_but_bad_records(window: Window, instance: Instance) -> None:
    bad = [NOT_JSON["broken"], NOT_UTF8["latin-1"], document(must=None)] * 50
    expect(window, instance, bad, dict(enumerate(["json", "utf8", "null"] * 50)))


def test_two_of_the_same_key_in_one_frame(window: Window, instance: Instance) -> None:
    """The first is a row, whichever statement they are in."""
    record = some_good()
    expect(window, instance, [some_good(), record, some_good(), record], {3: "duplicate"})


def test_what_looks_bad_and_is_not(window: Window, instance: Instance) -> None:
    """Values that need care on their way into SQL arrive as they were."""
    words = ["a\0b", "a'b\\", '"`--', "%s\x1a\x7f", "\u2028\n\r", "😀" * 10, "", "שלום", "\ufeff"]
    records = [document(id=next(numbers), must=1, user={"word": word}) for word in words]
    records += [b'{"must": 1, "user": {"word": "\\ud83d\\ude00"}}', b'{"must": 1, "must": 2}']
    records += [document(must=True, seen="2026-01-02T03:04:05.678+02:00", user={"word": [1, {}]})]
    expect(window, instance, records, {})
    stored = window.rows("word, must, seen, since")
    assert [row[0] for row in stored] == [*words, "😀", None, "[1,{}]"]
    assert [row[1] for row in stored] == [1] * (len(words) + 1) + [2, 1]
    assert str(stored[-1][2]) == "2026-01-02 01:04:05.678000"
    assert {row[3] for row in stored} == {"the beginning"}  # a column that we don't know


def test_an_over_long_record(window: Window, instance: Instance) -> None:
    """Only its beginning is kept; the same connection goes on behind it."""
    long = document(id=1, text="x" * LONG_BYTES)
    longest = document(id=next(numbers), must=1, text="")
    longest = longest[:-2] + b"y" * (KEPT_BYTES - len(longest)) + longest[-2:]
    before, after = some_good(), some_good()
    records = [before, long, after, longest, longest[:-1] + b" }"]
    send_and_close(instance.ports["short"], map(line, records))
    window.until_settled(5)
    assert sorted(window.raws()) == sorted([before, after, longest])
    dead = [(raw, code) for _, raw, code, _ in window.dead()]
    assert dead == [(long[:KEPT_BYTES], "too long"), (records[4][:KEPT_BYTES], "too long")]
    assert all("record_bytes_max" in reason for *_, reason in window.dead())


def test_an_over_long_record_without_end(window: Window, instance: Instance) -> None:
    with connect(instance.ports["short"]) as connection:
        connection.sendall(line(first := some_good()) + b"z" * LONG_BYTES)
    window.until_settled(2)
    assert window.raws() == [first]
    assert [row[:3] for row in window.dead()] in (
        [(0, b"z" * KEPT_BYTES, "too long")],  # in a frame of its own
        [(1, b"z" * KEPT_BYTES, "too long")],
    )


def test_format_text_takes_what_is_utf8() -> None:
    """No JSON is asked for: only bytes that are no text are refused."""
    port = free_port()
    taken = [b"nonsense", b"a\0b", b"\0", b'{"broken', b" ", "\ufeffé😀".encode(), b"\\ud800"]
    refused = list(NOT_UTF8.values())
    config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
    store = Sqlite()
    with Daemon(config) as daemon:
        send_and_close(port, map(line, taken + refused))
        daemon.until_stored(len(taken) + len(refused))
        assert list(store.raws(daemon)) == taken
        found = store.rows(daemon, "SELECT raw, code FROM stream_dead ORDER BY frame, position")
        assert found == [(raw, "utf8") for raw in refused]


# ── what must come out ──────────────────────────────────────────────────────────────────


def expect_each(window: Window, instance: Instance, bad: dict[bytes, str]) -> None:
    """Each bad record between good neighbours."""
    records, codes = [some_good()], {}
    for record, code in bad.items():
        codes[len(records)] = code
        records += [record, some_good()]
    expect(window, instance, records, codes)


def expect(window: Window, instance: Instance, records: list[bytes], codes: dict[int, str]) -> None:
    """One frame of these records: those named in `codes` are dead, all others rows."""
    with connect(instance.ports["docs"]) as connection:
        connection.sendall(b"".join(map(line, records)))
    window.until_settled(len(records))
    assert window.raws() == [raw for at, raw in enumerate(records) if at not in codes]
    dead = [(position, raw, code) for position, raw, code, _ in window.dead()]
    assert dead == [(position, records[position], codes[position]) for position in codes]
    assert window.daemon.status()["state"] == "healthy"
