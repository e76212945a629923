"""Bound values: the server stores, converts and refuses them exactly as the same rows in a text."""

import itertools
from collections.abc import Iterator

import pytest

from appliance.batch import Batch, Block, Same, Stored, Texts
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.stores import bound
from appliance.stores.address import parse_url
from appliance.stores.mysql import MySQLStore
from tests.database_server import PASSWORD, Database

RUN = bytes(range(16))
ODD = ("", "'", "\\", "\\'", "a\nb", "nul \0", "❤ 𝄞 é", "%s ? %b", "x" * 300, "y" * 70_000)


class Watched(MySQLStore):
    """Counts the rows that it stores as bound values."""

    bound_values = 0

    def run_bound(self, statement: bytes, parameters: int, values: bytes) -> bool:
        done = super().run_bound(statement, parameters, values)
        self.bound_values += parameters if done else 0
        return done


def store_of(database: Database, type_name: str = "LONGTEXT") -> Watched:
    columns = {name: Column(type=type_name, path=name) for name in ("k", "x")}
    return Watched(parse_url(database.url()), PASSWORD, "nfl", "records", columns, 100_000)


def batch(number: int, texts: list[str], same: str = "it's ❤") -> Batch:
    raws = [text.encode() for text in texts]
    rows = Block(len(raws), (Same(same), Texts(raws)))
    positions = list(range(len(raws)))
    return Batch(RUN, number, "tweets", len(raws), 0, 1.0, 2.0, rows, positions, raws)


def stored(database: Database) -> list[str]:
    return [x for (x,) in database.run("SELECT x FROM records ORDER BY seq")]


def test_every_text_arrives_as_it_was(server_database: Database) -> None:
    store = store_of(server_database)
    store.prepare()
    texts = [f"{text}{n}" for n, text in zip(range(1300), itertools.cycle(ODD), strict=False)]
    few = ["a", "b'"]
    assert store.store([batch(1, few), batch(2, texts), batch(3, [])]) == Stored(3, 1302)
    assert stored(server_database) == few + texts
    assert server_database.run("SELECT DISTINCT k FROM records") == [("it's ❤",)]
    assert store.bound_values >= 2 * 1280
    store.close()


def test_a_column_of_another_character_set_is_converted_and_judged_as_ever(
    server_database: Database,
) -> None:
    server_database.run(
        "CREATE TABLE records (seq BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,"
        " k LONGTEXT, x VARCHAR(9) CHARACTER SET latin1) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    )
    store = store_of(server_database)
    store.prepare()
    texts = ["é" * (n % 10) for n in range(40)]
    texts[7], texts[30] = "no ❤", "é" * 10
    assert store.store([batch(1, texts)]) == Stored(1, 38, dead=2)
    good = [text for at, text in enumerate(texts) if at not in (7, 30)]
    assert stored(server_database) == good
    rows = server_database.run("SELECT position, code FROM nfl_dead ORDER BY position")
    assert rows == [(7, "value"), (30, "too long")]
    [(size,)] = server_database.run("SELECT MAX(LENGTH(x)) FROM records")
    assert size == 9
    assert store.bound_values == 0  # all of them were in the part that was refused, or too few
    store.close()


@pytest.mark.parametrize(
    ("type_name", "refused", "good", "kept"), [("YEAR", "-1", "0", 2000), ("BIT(8)", "12", "2", 50)]
)
def test_a_number_behind_one_that_was_refused(
    server_database: Database, type_name: str, refused: str, good: str, kept: int
) -> None:
    server_database.run(
        "CREATE TABLE records (seq BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,"
        f" k TEXT, x {type_name}) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
    )
    store = store_of(server_database)
    store.prepare()
    store.store([batch(1, [good] * 16)])
    assert store.store([batch(2, [refused] * 16)]) == Stored(1, 0, dead=16)
    store.store([batch(3, [good] * 16)])
    assert server_database.run("SELECT x + 0, COUNT(*) FROM records GROUP BY 1") == [(kept, 32)]
    store.close()


def test_a_changed_table_and_a_new_connection(server_database: Database) -> None:
    store = store_of(server_database)
    store.prepare()
    texts = [f"{n}" for n in range(32)]
    store.store([batch(1, texts)])
    server_database.run("ALTER TABLE records ADD COLUMN more INT, DROP COLUMN k, ADD COLUMN k TEXT")
    store.store([batch(2, texts)])
    [(session,)] = store.run("SELECT CONNECTION_ID()")
    server_database.server.run(f"KILL {session}")
    with pytest.raises(Unavailable):
        store.store([batch(3, texts)])
    assert store.store([batch(3, texts)]) == Stored(1, 32)
    assert stored(server_database) == texts * 3
    assert store.bound_values == 2 * 32 * 3
    store.close()


@pytest.fixture
def prepares_nothing(mariadb_database: Database) -> Iterator[Database]:
    server = mariadb_database.server
    server.run("SET GLOBAL max_prepared_stmt_count = 0")
    yield mariadb_database
    server.run("SET GLOBAL max_prepared_stmt_count = DEFAULT")


def test_where_the_server_prepares_nothing_rows_go_as_text(prepares_nothing: Database) -> None:
    store = store_of(prepares_nothing)
    store.prepare()
    texts = [f"'{n}\\" for n in range(100)]
    assert store.store([batch(1, texts)]) == Stored(1, 100)
    assert stored(prepares_nothing) == texts
    assert store.bound_values == 0
    store.close()


@pytest.fixture
def takes_small_packets(mariadb_database: Database) -> Iterator[Database]:
    server = mariadb_database.server
    server.run("SET GLOBAL max_allowed_packet = 1048576")
    yield mariadb_database
    server.run("SET GLOBAL max_allowed_packet = DEFAULT")


def test_a_packet_of_bound_values_is_never_too_large(takes_small_packets: Database) -> None:
    store = store_of(takes_small_packets)
    store.prepare()
    # Of each size so many that their bytes alone, but for a few, are as many as a packet may have.
    frames = [["x" * (1048576 // rows - 6)] * rows for rows in (1024, 256, 16)]
    for number, texts in enumerate(frames, 1):
        assert store.store([batch(number, texts, same="")]) == Stored(1, len(texts))
    assert stored(takes_small_packets) == list(itertools.chain(*frames))
    assert store.bound_values > 2 * 1024
    store.close()


# ── cutting ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sizes", "columns", "parts"),
    [
        ([1] * 15, 1, [(15, False)]),
        ([1] * 1100, 1, [(1024, True), (64, True), (12, False)]),
        ([1] * 1100, 100, [(512, True), (512, True), (64, True), (12, False)]),
        ([1] * 20, 5000, [(16, False), (4, False)]),
        ([100] * 40, 1, [(32, True), (8, False)]),
        ([5000, *[1] * 32], 1, [(1, False), (32, True)]),
        ([300] * 17, 1, [(13, False), (4, False)]),
    ],
)
def test_rows_are_cut_into_few_kinds_of_statements(
    sizes: list[int], columns: int, parts: list[tuple[int, bool]]
) -> None:
    spans = bound.cut(sizes, columns, 4000)
    assert [(hi - lo, is_bound) for (lo, hi), is_bound in spans] == parts
    edges = [edge for span, _ in spans for edge in span]
    assert edges[0] == 0
    assert edges[-1] == len(sizes)
    assert edges[1:-1:2] == edges[2::2]


def test_values_that_may_be_no_text_are_not_bound() -> None:
    texts = Texts([b"a", b"b"])
    assert bound.bound_rows([Block(2, (texts, Same(1)))], 2) is None
    assert bound.bound_rows([Block(2, (texts, ["a", None]))], 2) is None
    assert bound.bound_rows([[("a",), ("b",)]], 1) is None
    rows = bound.bound_rows([Block(2, (Same("é"), texts))], 2)
    assert rows
    assert rows.sizes == [3 + 2 * bound.BESIDE] * 2
    assert rows.sent(1, 2) == b"\xfe\2\0\0\0\0\0\0\0\xc3\xa9\xfe\1\0\0\0\0\0\0\0b"
