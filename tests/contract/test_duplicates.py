"""`on_duplicate`, over every SQL store: what becomes of a record whose key is there already.

Whichever mode, each record is counted once (stored, filtered or dead), and a record that is bad
for another reason is a dead letter.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import Batch, Stored
from appliance.config import Column, OnDuplicate
from appliance.contracts import Store
from appliance.errors import Unavailable
from appliance.stores.sqlite import SQLiteStore
from tests.sql_server import SERVERS, SQLDatabase, SQLServer, empty_database

RUN = bytes(range(16))
COLUMNS = {
    "id": Column(type="INTEGER UNIQUE", path="id"),
    "key": Column(type="VARCHAR(9) UNIQUE", path="key"),
    "team": Column(type="VARCHAR(9) NOT NULL", path="team"),
}
MODES: Sequence[OnDuplicate] = get_args(OnDuplicate)
OTHER = "since"  # a column of the user's that no record fills

Row = tuple[Any, ...]


class Bench:
    """One database, its table and stores that write into it."""

    def open(self, mode: OnDuplicate) -> Store: ...
    def run(self, sql: str) -> list[Row]: ...

    def rows(self) -> list[Row]:
        """What the table has."""
        return self.run("SELECT id, `key`, team FROM records ORDER BY seq")

    def dead(self) -> list[Row]:
        """Frame, position, bytes and code of the dead letters."""
        return self.run("SELECT frame, position, raw, code FROM nfl_dead ORDER BY frame, position")

    def counted(self) -> Row:
        """The ledger's records, stored, filtered and dead."""
        names = ("records", "stored", "filtered", "dead")
        sums = ", ".join(f"SUM(`{name}`)" for name in names)
        [row] = self.run(f"SELECT {sums} FROM nfl_runs")
        return tuple(int(count) for count in row)

    def empty(self) -> None:
        """Forget all that was stored."""
        for table in ("records", "nfl_runs", "nfl_frames", "nfl_dead"):
            self.run(f"DELETE FROM {table}")


class SQLiteBench(Bench):
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, mode: OnDuplicate) -> Store:
        return SQLiteStore(str(self._path), "nfl", "records", COLUMNS, on_duplicate=mode)

    def run(self, sql: str) -> list[Row]:
        connection = sqlite3.connect(self._path, isolation_level=None)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class ServerBench(Bench):
    def __init__(self, database: SQLDatabase) -> None:
        self._database = database

    def open(self, mode: OnDuplicate) -> Store:
        return self._database.store(COLUMNS, on_duplicate=mode)

    def run(self, sql: str) -> list[Row]:
        return self._database.run(sql)


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def tables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bench]:
    """A database with its tables, for the whole module."""
    if request.param == "sqlite":
        yield prepared(SQLiteBench(tmp_path_factory.mktemp("duplicates") / "nfl.db"))
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with empty_database(server) as database:
        yield prepared(ServerBench(database))


def prepared(bench: Bench) -> Bench:
    store = bench.open("dead")
    store.prepare()
    store.close()
    bench.run(f"ALTER TABLE records ADD COLUMN {OTHER} INTEGER DEFAULT 7")
    return bench


@pytest.fixture
def bench(tables: Bench) -> Bench:
    """The same, empty."""
    tables.empty()
    return tables


def batch(number: int, *rows: Row) -> Batch:
    raws = [repr(row).encode() for row in rows]
    positions = list(range(len(rows)))
    return Batch(RUN, number, "s", len(rows), 0, 1.0, 2.0, list(rows), positions, raws)


# ── the three modes ─────────────────────────────────────────────────────────────────────

A, B, C = (1, "a", "Lions"), (2, "b", "Bears"), (3, "c", "Rams")
A2, B2 = (1, "a", "Jets"), (2, "b", "Bills")
AGAIN = [[A, B, A2], [B2, C, A], [A2, A2, C]]  # three frames
EXPECTED = {  # rows, stored, filtered, dead
    "dead": ([A, B, C], 3, 0, 6),
    "ignore": ([A, B, C], 3, 6, 0),
    "update": ([A2, B2, C], 9, 0, 0),
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_repeated_records(bench: Bench, mode: OnDuplicate, together: bool) -> None:
    store = bench.open(mode)
    batches = [batch(number, *rows) for number, rows in enumerate(AGAIN, start=1)]
    for lease in [batches] if together else [[one] for one in batches]:
        store.store(lease)
        assert store.store(lease) == Stored()
    store.fold()
    rows, stored, filtered, dead = EXPECTED[mode]
    assert bench.rows() == rows
    assert bench.counted() == (9, stored, filtered, dead)
    assert {code for *_, code in bench.dead()} <= {"duplicate"}
    assert len(bench.dead()) == dead
    store.close()


@pytest.mark.parametrize("mode", MODES)
def test_what_else_is_wrong_stays_a_dead_letter(bench: Bench, mode: OnDuplicate) -> None:
    """An INSERT IGNORE would store '' or cut the text here."""
    store = bench.open(mode)
    store.store([batch(1, A, (1, "a", None), (4, "d", None), B)])
    assert bench.rows() == [A, B]
    assert [row[1] for row in bench.dead()] == [1, 2]
    assert "null" in {row[3] for row in bench.dead()}
    store.close()


def test_an_update_writes_the_configured_columns_only(bench: Bench) -> None:
    store = bench.open("update")
    store.store([batch(1, A, B)])
    bench.run(f"UPDATE records SET {OTHER} = 8")
    before = bench.run("SELECT seq FROM records ORDER BY seq")
    store.store([batch(2, A2, C)])
    found = bench.run(f"SELECT seq, {OTHER} FROM records ORDER BY seq")
    assert [row[:1] for row in found[:2]] == before
    assert [row[1] for row in found] == [8, 8, 7]
    store.close()


@pytest.mark.parametrize(
    ("mode", "rows", "counted"),
    [
        ("dead", [A, B], (5, 2, 0, 3)),
        ("ignore", [A, B], (5, 2, 3, 0)),
        ("update", [(1, "new", "Colts"), (9, "b", "Colts")], (5, 4, 0, 1)),
    ],
)
def test_two_unique_keys(bench: Bench, mode: OnDuplicate, rows: list[Row], counted: Row) -> None:
    """Either key counts; who has one of one row and one of another can't be written."""
    store = bench.open(mode)
    store.store([batch(1, A, B, (1, "b", "Chiefs"), (1, "new", "Colts"), (9, "b", "Colts"))])
    store.fold()
    assert bench.rows() == rows
    assert bench.counted() == counted
    assert [row[1:] for row in bench.dead() if mode == "update"] == [
        (2, repr((1, "b", "Chiefs")).encode(), "duplicate") for _ in range(mode == "update")
    ]
    store.close()


# ── any history ─────────────────────────────────────────────────────────────────────────


@dataclass
class Model:
    """What the table must be: rows by id (key is the id's letter), and the counts."""

    mode: OnDuplicate
    rows: dict[int, Row] = field(default_factory=dict)
    stored: int = 0
    filtered: int = 0
    dead: list[tuple[int, int, str]] = field(default_factory=list)

    def take(self, number: int, position: int, row: Row) -> None:
        """One record."""
        known = row[0] in self.rows
        if row[2] is None:
            self.dead.append((number, position, "duplicate" if known else "null"))
        elif not known or self.mode == "update":
            self.rows[row[0]] = row
            self.stored += 1
        elif self.mode == "ignore":
            self.filtered += 1
        else:
            self.dead.append((number, position, "duplicate"))


TEAMS = st.sampled_from(["Lions", "Bears", None])
RECORDS = st.tuples(st.integers(1, 8), TEAMS).map(lambda pair: (pair[0], f"k{pair[0]}", pair[1]))


@pytest.mark.parametrize("mode", MODES)
@given(st.lists(st.lists(RECORDS, max_size=20), max_size=4))
@settings(max_examples=30, deadline=None)
def test_any_history(tables: Bench, mode: OnDuplicate, frames: list[list[Row]]) -> None:
    tables.empty()
    store, model = tables.open(mode), Model(mode)
    batches = [batch(number, *rows) for number, rows in enumerate(frames, start=1)]
    for one in batches:
        for position, row in enumerate(one.rows):
            model.take(one.number, position, row)
    store.store(batches)
    store.fold()
    assert tables.rows() == list(model.rows.values())
    # A null that is a duplicate too may be called either.
    assert [row[:2] for row in tables.dead()] == [row[:2] for row in model.dead]
    if batches:
        records = sum(map(len, frames))
        assert tables.counted() == (records, model.stored, model.filtered, len(model.dead))
        assert records == model.stored + model.filtered + len(model.dead)
    store.close()


# ── at the same time ────────────────────────────────────────────────────────────────────


@contextmanager
def opened(bench: Bench, mode: OnDuplicate) -> Iterator[Store]:
    store = bench.open(mode)
    try:
        yield store
    finally:
        store.close()


def insist(store: Store, one: Batch) -> None:
    """As the subscriber does; only a quiet outage (a deadlock) may come."""
    while True:
        try:
            store.store([one])
            return
        except Unavailable as error:
            if error.loud:
                raise


@pytest.mark.parametrize("mode", MODES)
def test_two_subscribers_with_the_same_keys(bench: Bench, mode: OnDuplicate) -> None:
    """They meet in other orders, so that they deadlock now and then: nothing is counted twice."""

    def hold(half: int) -> None:
        with opened(bench, mode) as store:
            for number in range(10):
                rows = [(n, f"k{n}", f"{half}") for n in range(1, 21)]
                one = batch(number * 2 + half, *rows[:: 1 if half else -1])
                insist(store, one)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(hold, half) for half in (1, 2)]:
            done.result()
    with opened(bench, mode) as store:
        store.fold()
    assert sorted(row[0] for row in bench.rows()) == list(range(1, 21))
    stored, filtered, dead = {"dead": (20, 0, 380), "ignore": (20, 380, 0), "update": (400, 0, 0)}[
        mode
    ]
    assert bench.counted() == (400, stored, filtered, dead)
