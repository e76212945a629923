"""Bulks: the server stores, converts and refuses the rows exactly as it does as text."""

import itertools
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.batch import Batch, Block, DeadLetter, Same, Stored, Texts, Values
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.stores import bulk
from appliance.stores.address import parse_url
from appliance.stores.ledger import AT_ONCE_BYTES_MAX
from appliance.stores.mysql import MySQLStore
from tests.database_server import PASSWORD, Database

RUN = bytes(range(16))
MIB = 1024 * 1024
ODD = ("", "'", "\\", "\\'", "a\nb", "nul \0", "❤ 𝄞 é", "%s ? %b", "x" * 300, "y" * 70_000)
LATIN1 = (
    "CREATE TABLE records (seq BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,"
    " k LONGTEXT, x VARCHAR(9) CHARACTER SET latin1) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
)


class Watched(MySQLStore):
    """Counts the bulks that the server takes."""

    bulks = 0
    leaves_out = 0  # so many rows of each

    def run_bulk(self, statement: bytes, rows: bulk.BulkRows, lo: int, hi: int) -> int | None:
        changed = super().run_bulk(statement, rows, lo + self.leaves_out, hi)
        self.bulks += changed is not None
        return changed


def store_of(
    database: Database, options: str = "", record_bytes_max: int = 100_000, **more: Any
) -> Watched:
    columns = {name: Column(type="LONGTEXT", path=name) for name in ("k", "x")}
    url = parse_url(database.url() + options)
    store = Watched(url, PASSWORD, "nfl", "records", columns, record_bytes_max, **more)
    store.prepare()
    return store


def batch(number: int, values: Values, count: int, same: Values | None = None) -> Batch:
    raws = [f"{n}".encode() for n in range(count)]
    rows = Block(count, (Same("it's ❤") if same is None else same, values))
    size = AT_ONCE_BYTES_MAX + 1  # small ones go as text
    return Batch(RUN, number, "tweets", count, size, 1.0, 2.0, rows, list(range(count)), raws)


def text_batch(number: int, texts: list[str], same: str = "it's ❤") -> Batch:
    return batch(number, Texts([text.encode() for text in texts]), len(texts), Same(same))


def stored(database: Database) -> list[Any]:
    return [x for (x,) in database.run("SELECT x FROM records ORDER BY seq")]


def all_goes_as_text(database: Database) -> None:
    store = store_of(database)
    texts = [f"'{n}\\" for n in range(100)]
    assert store.store([text_batch(1, texts)]) == Stored(1, 100)
    assert stored(database) == texts
    assert store.bulks == 0
    store.close()


def test_every_text_arrives_as_it_was(mariadb_database: Database) -> None:
    store = store_of(mariadb_database)
    texts = [f"{text}{n}" for n, text in zip(range(1300), itertools.cycle(ODD), strict=False)]
    few = ["a", "b'"]
    batches = [text_batch(1, few), text_batch(2, texts), text_batch(3, [])]
    assert store.store(batches) == Stored(3, 1302)
    assert stored(mariadb_database) == few + texts
    assert mariadb_database.run("SELECT DISTINCT k FROM records") == [("it's ❤",)]
    assert store.bulks
    store.close()


def test_automatic_keys_have_no_holes(mariadb_database: Database) -> None:
    store = store_of(mariadb_database)
    for number, count in enumerate((1, 5, 16, 100, 1000, 4095, 5000), 1):
        store.store([text_batch(number, ["x"] * count)])
    [keys] = mariadb_database.run("SELECT COUNT(*), MIN(seq), MAX(seq) FROM records")
    assert keys == (10217, 1, 10217)
    assert store.bulks > 10
    store.close()


def test_they_are_taken_over_an_encrypted_connection(mariadb_database: Database) -> None:
    store = store_of(mariadb_database, "?tls=require")
    assert store.store([text_batch(1, ["x"] * 31)]) == Stored(1, 31)
    assert store.run("SHOW STATUS LIKE 'Ssl_version'")[0][1].startswith("TLS")
    assert store.bulks == 1
    store.close()


def test_mysql_gets_them_as_text(mysql_database: Database) -> None:
    all_goes_as_text(mysql_database)


def test_a_column_of_another_character_set_is_converted_and_judged_as_ever(
    mariadb_database: Database,
) -> None:
    mariadb_database.run(LATIN1)
    store = store_of(mariadb_database)
    texts = ["é" * (n % 10) for n in range(100)]
    texts[7], texts[30] = "no ❤", "é" * 10
    assert store.store([text_batch(1, texts)]) == Stored(1, 98, dead=2)
    good = [text for at, text in enumerate(texts) if at not in (7, 30)]
    assert stored(mariadb_database) == good
    rows = mariadb_database.run("SELECT position, code FROM nfl_dead ORDER BY position")
    assert rows == [(7, "value"), (30, "too long")]
    [(size,)] = mariadb_database.run("SELECT MAX(LENGTH(x)) FROM records")
    assert size == 9
    assert store.bulks
    store.close()


# What each kind of value becomes in columns of many types: in bulk what it becomes as text.
TYPES = [
    *("TINYINT", "INT UNSIGNED", "BIGINT", "BIGINT UNSIGNED", "DECIMAL(12,3)", "FLOAT", "DOUBLE"),
    *("BIT(8)", "YEAR", "DATE", "DATETIME(3)", "TIMESTAMP NULL", "TIME(6)", "CHAR(5)"),
    *("VARCHAR(12)", "LONGTEXT", "BINARY(4)", "VARBINARY(9)", "LONGBLOB", "JSON", "INET6", "UUID"),
    *("ENUM('a','1','1.5')", "SET('a','b')", "VARCHAR(12) CHARACTER SET latin1"),
]
COLUMNS: dict[str, list[Any]] = {
    "integers": [0, 1, -1, 7, 127, 128, 2000, 20220911, 2**31, -(2**63), 2**63 - 1, 20220911170000],
    "doubles": [0.0, -0.0, 0.5, 1.0, -1.5, 1e300, 5e-324, 1e15, 1e16, 0.1, 2022.0, 123456.789],
    "texts": ["", "a", "b", "a,b", "1", "-1", "1.5", "2022", "1e3", " 1", "1x", "é", "❤", "[1]"],
    "more": ["2022-09-11", "2022-09-11 17:00:00.1239", "17:00:00", "::1", "null", "x" * 12, "1\0"],
    "long": ["6f3b1a52-0000-4000-8000-000000000001"],
    "bytes": [b"", b"a", b"\0", b"12", b"\xff\xfe", b"2022-09-11"],
}


@pytest.fixture
def judging(mariadb_database: Database) -> Iterator[tuple[Database, Watched]]:
    """A store that keeps what it is given in column x, whatever its type is made."""
    store = store_of(mariadb_database)
    yield mariadb_database, store
    store.close()


@pytest.mark.parametrize("type_name", TYPES)
def test_a_column_gets_what_it_gets_by_text(
    judging: tuple[Database, Watched], monkeypatch: pytest.MonkeyPatch, type_name: str
) -> None:
    database, store = judging
    database.run(f"ALTER TABLE records MODIFY x {type_name}")
    number = itertools.count(1)

    def judged(values: list[Any]) -> list[Any]:
        """Of each value what the column has then, or the code of its dead letter."""
        database.run("DELETE FROM records")
        database.run("DELETE FROM nfl_dead")
        position = list(range(len(values)))
        store.store([batch(next(number), values, len(values), position)])
        kept = database.run("SELECT k + 0, HEX(x), x FROM records")
        dead = database.run("SELECT position, code FROM nfl_dead")
        return sorted([*kept, *dead], key=lambda row: row[0])

    for value in itertools.chain(*COLUMNS.values()):
        monkeypatch.setattr(bulk, "ROWS_MIN", 1)
        in_bulk = judged([value, None, value])
        monkeypatch.setattr(bulk, "ROWS_MIN", 1000)
        assert judged([value, None, value]) == in_bulk, value
    assert store.bulks


def test_many_rows_of_many_kinds(mariadb_database: Database) -> None:
    store = store_of(mariadb_database)
    mixed = [1, 2.5, "x", None] * 10
    batches = [
        batch(1, [None] * 20, 20),
        batch(2, list(range(300)), 300, same=Same(None)),
        batch(3, [0.5, None] * 50, 100, same=Same(None)),
        batch(4, mixed, 40),
        batch(5, [2**64, *range(30)], 31, same=[b"b"] * 31),
    ]
    for one in batches:  # each alone, since together they would be of several kinds
        assert store.store([one]).stored == len(one.rows)
    wanted = [None] * 20 + [str(n) for n in range(300)] + ["0.5", None] * 50
    wanted += ["1", "2.5", "x", None] * 10 + [str(2**64), *map(str, range(30))]
    assert stored(mariadb_database) == wanted
    assert store.bulks
    store.close()


def test_rows_that_replace_others(mariadb_database: Database) -> None:
    mariadb_database.run(
        "CREATE TABLE records (seq BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,"
        " k INT UNIQUE, x TEXT) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    )
    store = store_of(mariadb_database, on_duplicate="update")
    texts = Texts([b"old"] * 40)
    store.store([batch(1, texts, 40, same=list(range(40)))])
    store.store([batch(2, Texts([b"new"] * 40), 40, same=list(range(20, 60)))])
    assert stored(mariadb_database) == ["old"] * 20 + ["new"] * 40
    assert store.bulks == 2
    store.close()


def test_a_changed_table_and_a_new_connection(mariadb_database: Database) -> None:
    store = store_of(mariadb_database)
    texts = [f"{n}" for n in range(31)]
    store.store([text_batch(1, texts)])
    mariadb_database.run("ALTER TABLE records ADD COLUMN more INT, DROP COLUMN k, ADD k TEXT")
    store.store([text_batch(2, texts)])
    [(session,)] = store.run("SELECT CONNECTION_ID()")
    mariadb_database.server.run(f"KILL {session}")
    with pytest.raises(Unavailable):
        store.store([text_batch(3, texts)])
    assert store.store([text_batch(3, texts)]) == Stored(1, 31)
    assert stored(mariadb_database) == texts * 3
    assert store.bulks == 3
    store.close()


def test_where_a_server_leaves_out_rows_without_a_word_they_go_as_text(
    mariadb_database: Database,
) -> None:
    store = store_of(mariadb_database)
    store.leaves_out = 1
    texts = [f"{n}" for n in range(100)]
    assert store.store([text_batch(1, texts)]) == Stored(1, 100)
    assert sorted(stored(mariadb_database)) == sorted(texts)
    assert store.bulks
    store.close()


@pytest.mark.parametrize("command", ["COM_STMT_PREPARE", "COM_STMT_BULK_EXECUTE"])
def test_where_a_command_is_unknown_the_next_session_does_without(
    mariadb_database: Database, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(bulk, command, 0xEE)
    store = store_of(mariadb_database)
    texts = [f"{n}" for n in range(100)]
    with pytest.raises(Unavailable, match="1047"):
        store.store([text_batch(1, texts)])
    assert store.store([text_batch(1, texts)]) == Stored(1, 100)
    assert stored(mariadb_database) == texts
    store.close()


@pytest.mark.parametrize("when", ["BEFORE INSERT", "AFTER INSERT", "BEFORE UPDATE"])
def test_a_trigger_may_insert_rows_of_its_own(mariadb_database: Database, when: str) -> None:
    store = store_of(mariadb_database, on_duplicate="update")
    mariadb_database.run("ALTER TABLE records MODIFY x VARCHAR(9) UNIQUE")
    mariadb_database.run("CREATE TABLE seen (x VARCHAR(9))")
    mariadb_database.run(
        f"CREATE TRIGGER seeing {when} ON records FOR EACH ROW INSERT INTO seen VALUES (NEW.x)"
    )
    texts = [f"{n}" for n in range(31)]
    for number in (1, 2):
        assert store.store([text_batch(number, texts)]) == Stored(1, 31)
    assert stored(mariadb_database) == texts
    [(seen,)] = mariadb_database.run("SELECT COUNT(*) FROM seen")
    assert seen == (62 if when == "BEFORE INSERT" else 31)
    assert store.bulks
    store.close()


@pytest.fixture
def setting(mariadb_database: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database on a server with another setting, for as long as the test takes."""
    name, value = request.param
    mariadb_database.server.run(f"SET GLOBAL {name} = {value}")
    yield mariadb_database
    mariadb_database.server.run(f"SET GLOBAL {name} = DEFAULT")


@pytest.mark.parametrize("setting", [("max_prepared_stmt_count", 0)], indirect=True)
def test_where_the_server_prepares_nothing_rows_go_as_text(setting: Database) -> None:
    all_goes_as_text(setting)


@pytest.mark.parametrize("setting", [("max_allowed_packet", 1048576)], indirect=True)
def test_a_bulk_is_never_longer_than_a_packet(setting: Database) -> None:
    store = store_of(setting)
    # Of each size so many that their bytes alone, but for a few, are as many as a packet may have.
    frames = [["x" * (1048576 // rows - 6)] * rows for rows in (1023, 255, 15)]
    for number, texts in enumerate(frames, 1):
        assert store.store([text_batch(number, texts, same="")]) == Stored(1, len(texts))
    assert stored(setting) == list(itertools.chain(*frames))
    assert store.bulks > 3
    store.close()


def test_a_record_that_is_too_large_for_a_bulk_is_never_decoded(
    mariadb_database: Database,
) -> None:
    """One emoji, and as a str it would have four bytes for each letter."""
    store = store_of(mariadb_database, record_bytes_max=4 * MIB)
    for number, others in enumerate(([], [b"y" * 300_000] * 3), 1):
        large = "❤".encode() + b"x" * (3 * MIB)
        frame = batch(number, Texts([large, *others]), 1 + len(others), same=Same(""))
        tracemalloc.start()
        assert store.store([frame]).stored == 1 + len(others)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * (len(large) + sum(map(len, others)))
    lengths = mariadb_database.run("SELECT LENGTH(x) FROM records")
    assert sorted(size for (size,) in lengths)[-2:] == [len(large)] * 2
    store.close()


@pytest.mark.parametrize("setting", [("max_allowed_packet", 327680)], indirect=True)
def test_a_neighbour_is_refused_and_a_row_is_stored_whose_text_is_too_long(
    setting: Database,
) -> None:
    """In bulk it has room, and so it is stored when all are taken."""
    store = store_of(setting)
    setting.run("ALTER TABLE records ADD CHECK (x <> 'bad')")
    long = "\\" * 99_000  # twice as long as text, in two columns
    rows = ["good", long, "bad"]
    assert store.store([batch(1, rows, 3, same=["", long, ""])]) == Stored(1, 2, dead=1)
    assert sorted(stored(setting)) == sorted(["good", long])
    assert setting.run("SELECT position FROM nfl_dead") == [(2,)]
    store.close()


@pytest.mark.parametrize("setting", [("max_allowed_packet", 1048576)], indirect=True)
def test_what_is_left_of_a_bulk_is_never_longer_than_a_packet_either(
    setting: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LARGE_BYTES", 10**9)  # as if the server were far away
    check_large_dead_letters(setting)


@pytest.mark.parametrize("setting", [("max_allowed_packet", 1048576)], indirect=True)
def test_nor_are_rows_that_were_to_go_in_bulk(setting: Database) -> None:
    setting.server.run("SET GLOBAL max_prepared_stmt_count = 0")
    try:
        check_large_dead_letters(setting)
    finally:
        setting.server.run("SET GLOBAL max_prepared_stmt_count = DEFAULT")


def check_large_dead_letters(database: Database) -> None:
    """As text they are twice as long."""
    store = store_of(database)
    dead = [DeadLetter(position, b"x" * 60_000, "json", "no") for position in range(30)]
    frame = Batch(RUN, 1, "tweets", 30, 1_800_000, 1.0, 2.0, [], [], [], dead)
    assert store.store([frame]) == Stored(1, dead=30)
    store.close()


# ── cutting ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [
        ([1] * 15, [(15, False)]),
        ([1] * 16, [(15, True), (1, False)]),
        ([1] * 1100, [(1023, True), (63, True), (14, False)]),
        ([100] * 47, [(31, True), (15, True), (1, False)]),
        ([5000, *[1] * 32], [(1, False), (31, True), (1, False)]),
        ([1300] * 5, [(3, True), (2, False)]),
        ([1500] * 3, [(1, True), (2, False)]),
        ([5000] * 2, [(1, False), (1, False)]),
        ([], []),
    ],
)
def test_rows_are_cut_where_no_key_is_left_over(
    sizes: list[int], parts: list[tuple[int, bool]]
) -> None:
    spans = bulk.cut(sizes, 4000, 16)
    assert [(hi - lo, in_bulk) for (lo, hi), in_bulk in spans] == parts


@given(st.lists(st.integers(1, 3000), max_size=100), st.integers(1, 9000), st.integers(1, 20))
def test_cut_keeps_all_rows_within_the_limit(
    sizes: list[int], size_max: int, rows_min: int
) -> None:
    parts = bulk.cut(sizes, size_max, rows_min)
    assert [at for (lo, hi), _ in parts for at in range(lo, hi)] == list(range(len(sizes)))
    for (lo, hi), in_bulk in parts:
        assert sum(sizes[lo:hi]) <= size_max or (hi - lo == 1 and not in_bulk)
        assert not in_bulk or hi - lo in bulk.COUNTS


# ── how values are sent ─────────────────────────────────────────────────────────────────


def test_what_is_of_several_kinds_goes_as_text() -> None:
    texts = Texts([b"a", b"b"])
    assert bulk.bulk_rows([Block(2, (texts, [1, 1.5]))]) is None
    assert bulk.bulk_rows([Block(2, (texts, [1, 2])), Block(1, (Texts([b"c"]), ["3"]))]) is None
    assert bulk.bulk_rows([Block(2, (texts, [1, 2**63]))]) is None
    assert bulk.bulk_rows([Block(2, ())]) is None
    assert bulk.bulk_rows([]) is None


def test_how_values_are_sent() -> None:
    long = "y" * 251
    blocks = [
        Block(2, (Same("é"), Texts([b"a", b""]), [1, None], [None, None], [0.5, 1.0])),
        [("é", long, None, b"\0", -0.5)],
    ]
    rows = bulk.bulk_rows(blocks)
    assert rows
    assert rows.kinds == [bulk.TEXT, bulk.TEXT, bulk.INTEGER, bulk.BYTES, bulk.DOUBLE]
    same, double = b"\0\2\xc3\xa9", struct.Struct("<xd").pack
    wanted = [
        same + b"\0\1a" + struct.pack("<xq", 1) + b"\1" + double(0.5),
        same + b"\0\0" + b"\1" + b"\1" + double(1.0),
        same + b"\0\xfc\xfb\0" + long.encode() + b"\1" + b"\0\1\0" + double(-0.5),
    ]
    assert [rows.packed(at, at + 1) for at in range(3)] == wanted
    assert rows.packed(0, 3) == b"".join(wanted)
    assert rows.sizes() == list(map(len, wanted))
    assert rows.bytes_max >= len(b"".join(wanted))


def test_how_the_lengths_of_texts_are_sent() -> None:
    sizes = (0, 250, 251, 2047)
    rows = bulk.bulk_rows([Block(4, (Texts([b"x" * size for size in sizes]),))])
    assert rows
    lengths = [rows.packed(at, at + 1)[: -size or None] for at, size in enumerate(sizes)]
    assert lengths == [b"\0\0", b"\0\xfa", b"\0\xfc\xfb\0", b"\0\xfc\xff\7"]
    longer = bulk.bulk_rows([Block(2, (Texts([b"", b"x" * 2048]),))])
    assert longer
    eight = b"\0\xfe" + bytes(8) + b"\0\xfe\0\x08" + bytes(6)
    assert longer.packed(0, 2) == eight + b"x" * 2048


@pytest.mark.parametrize(
    ("capabilities", "more", "can"),
    [(0xF7FE, 0x1D, True), (0xF7FF, 0x1D, False), (0xF7FE, 0x19, False)],
)
def test_who_takes_bulks_says_so_when_it_greets(capabilities: int, more: int, can: bool) -> None:
    assert bulk.can_bulk(greeting(capabilities, more)) is can
    assert not bulk.can_bulk(greeting(capabilities, more)[:40])


@pytest.mark.parametrize(
    ("version", "can"),
    [
        ("5.5.5-10.3.39-MariaDB", False),
        ("5.5.5-10.5.26-MariaDB", False),
        ("5.5.5-10.5.27-MariaDB", True),
        ("5.5.5-10.6.19-15-MariaDB-enterprise", False),
        ("5.5.5-10.6.20-16-MariaDB-enterprise", True),
        ("5.5.5-10.10.99-MariaDB", False),
        ("5.5.5-10.11.10-MariaDB-0+deb12u1", True),
        ("11.4.3-MariaDB", False),
        ("11.4.4-MariaDB-log", True),
        ("11.5.2-MariaDB", False),
        ("11.7.1-MariaDB", True),
        ("12.0.2-MariaDB", True),
        ("MariaDB", False),
    ],
)
def test_servers_whose_triggers_take_values_of_a_bulk_get_none(version: str, can: bool) -> None:
    assert bulk.can_bulk(greeting(0xF7FE, 0x1D, version)) is can


def greeting(capabilities: int, more: int, version: str = "5.5.5-10.11.19-MariaDB") -> bytes:
    """What a server says first."""
    begin = b"\x0a" + version.encode() + b"\0" + bytes(4) + b"saltsalt\0"
    numbers = struct.pack("<HBHHB6xI", capabilities, 45, 2, 0x81FF, 21, more)
    return begin + numbers + b"more salt  \0"
