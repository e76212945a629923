"""The store's contract, over every store: each frame once, whoever brings it how often.

Contents are compared, not counts. Crashes are tried at every call that a store makes, by a
`beat` that raises, cuts the connection or waits there.
"""

import random
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pymysql
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import Batch, Block, DeadLetter, Stored, Texts
from appliance.config import Column
from appliance.contracts import NO_RECORD, Store
from appliance.errors import Rejected, Unavailable
from appliance.frame import Gap
from appliance.stores.address import parse_url
from appliance.stores.mysql import MySQLStore
from appliance.stores.sqlite import SQLiteStore
from tests.database_server import PASSWORD, Database, new_database
from tests.fake_store import MemoryDatabase, MemoryStore

RUN, LATER_RUN = bytes(range(16)), bytes(range(1, 17))
BAD = -13  # the value that the table refuses
COLUMNS = {
    "n": Column(type=f"BIGINT NOT NULL CHECK (n <> {BAD})", path="n"),
    "raw": Column(type="LONGTEXT", path=""),
}
RECEIVED_AT, UNTIL = 1_700_000_000.25, 1_700_000_003.5
CALLS_MAX = 200  # no store makes more calls for what is stored here
BLOCKED_S = 0.15  # who isn't done by then waits for the other one

Beat = Callable[[], None]


def no_beat() -> None:
    """Nothing to do."""


def batch(
    number: int, *values: int, run: bytes = RUN, texts: Sequence[str] = (), **more: Any
) -> Batch:
    """A frame of these values; the text of value 7 in frame 3 is "3:7" unless given.

    Frames with even numbers have their rows as a block, the others as a list.
    """
    texts = texts or [f"{number}:{n}" for n in values]
    raws = [text.encode() for text in texts]
    rows: Sequence[tuple[Any, ...]] = list(zip(values, texts, strict=True))
    if number % 2 == 0:
        rows = Block(len(rows), (values, Texts(raws)))
    dead, blank, filtered = more.get("dead", []), more.get("blank", 0), more.get("filtered", 0)
    return Batch(
        run=run,
        number=number,
        source="tweets",
        records=len(rows) + len(dead) + blank + filtered,
        bytes=sum(map(len, raws)) + len(raws),
        first_received=RECEIVED_AT,
        last_received=UNTIL,
        rows=rows,
        positions=list(range(len(rows))),
        raws=raws,
        **more,
    )


def rows_of(*batches: Batch) -> list[tuple[Any, ...]]:
    """The rows that the table must hold, sorted."""
    return sorted(row for one in batches for row in one.rows if row[0] != BAD)


class Bench:
    """One kind of database under test, and how to look into it."""

    def open(self, beat: Beat = no_beat) -> Store: ...
    def rows(self) -> list[tuple[Any, ...]]: ...
    def dead(self) -> list[tuple[int, DeadLetter]]: ...
    def gaps(self) -> list[tuple[Any, ...]]: ...
    def up_to(self, run: bytes = RUN) -> int: ...
    def folded(self, run: bytes = RUN) -> int: ...
    def waiting(self) -> list[int]: ...
    def outage(self) -> None: ...
    def end_outage(self) -> None: ...
    def close(self) -> None: ...


class MemoryBench(Bench):
    def __init__(self) -> None:
        self.database = MemoryDatabase(refuse_bad)

    def open(self, beat: Beat = no_beat) -> Store:
        return MemoryStore(self.database, beat)

    def rows(self) -> list[tuple[Any, ...]]:
        return list(self.database.tables.rows)

    def dead(self) -> list[tuple[int, DeadLetter]]:
        items = self.database.tables.dead.items()
        return [(number, letter) for (_, number, _), letter in sorted(items, key=lambda x: x[0])]

    def gaps(self) -> list[tuple[Any, ...]]:
        return [gap[1:] for gap in self.database.tables.gaps]

    def up_to(self, run: bytes = RUN) -> int:
        return self.database.tables.runs[run].up_to

    def folded(self, run: bytes = RUN) -> int:
        return self.database.tables.runs[run].records

    def waiting(self) -> list[int]:
        return sorted(number for _, number in self.database.tables.frames)

    def outage(self) -> None:
        self.database.away = Unavailable("switched off")

    def end_outage(self) -> None:
        self.database.away = None


def refuse_bad(row: tuple[Any, ...]) -> Rejected | None:
    return Rejected("CHECK constraint failed", "check") if row[0] == BAD else None


class SQLBench(Bench):
    """What SQLite and the servers have in common: SQL."""

    def __init__(self) -> None:
        self.stores: list[Store] = []

    def query(self, sql: str) -> list[tuple[Any, ...]]: ...
    def make(self, beat: Beat) -> Store: ...

    def open(self, beat: Beat = no_beat) -> Store:
        self.stores.append(self.make(beat))
        return self.stores[-1]

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def rows(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT n, raw FROM records ORDER BY seq")

    def dead(self) -> list[tuple[int, DeadLetter]]:
        rows = self.query(
            "SELECT frame, position, raw, code, reason FROM nfl_dead ORDER BY run, frame, position"
        )
        return [(frame, DeadLetter(*letter)) for frame, *letter in rows]

    def gaps(self) -> list[tuple[Any, ...]]:
        return self.query("SELECT cause, records, bytes FROM nfl_gaps ORDER BY gap")

    def up_to(self, run: bytes = RUN) -> int:
        return int(self.query(f"SELECT up_to FROM nfl_runs WHERE run = X'{run.hex()}'")[0][0])

    def folded(self, run: bytes = RUN) -> int:
        return int(self.query(f"SELECT records FROM nfl_runs WHERE run = X'{run.hex()}'")[0][0])

    def waiting(self) -> list[int]:
        return [row[0] for row in self.query("SELECT frame FROM nfl_frames ORDER BY run, frame")]


class SQLiteBench(SQLBench):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder / "here"
        self.folder.mkdir()

    def make(self, beat: Beat) -> Store:
        return SQLiteStore(str(self.folder / "nfl.db"), "nfl", "records", COLUMNS, beat)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.folder / "nfl.db", isolation_level=None)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def outage(self) -> None:
        self.close()
        self.folder.rename(self.folder.with_name("gone"))

    def end_outage(self) -> None:
        self.folder.with_name("gone").rename(self.folder)


class ServerBench(SQLBench):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database

    def make(self, beat: Beat) -> Store:
        address = parse_url(f"{self.database.url()}?unix_socket={self.database.server.unix_socket}")
        return MySQLStore(address, PASSWORD, "nfl", "records", COLUMNS, 1024, beat)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.database.run(sql)

    def outage(self) -> None:
        self.database.server.stop()

    def end_outage(self) -> None:
        self.database.server.start()


def made(kind: str, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A fresh database of a kind, its tables made."""
    if kind == "memory":
        bench: Bench = MemoryBench()
    elif kind == "sqlite":
        bench = SQLiteBench(request.getfixturevalue("tmp_path"))
    else:
        bench = ServerBench(request.getfixturevalue(f"{kind}_database"))
    bench.open().prepare()
    yield bench
    bench.close()


@pytest.fixture(params=["memory", "sqlite", "mariadb", "mysql"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from made(request.param, request)


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def sql_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The same without the one in memory: what only SQL can show."""
    yield from made(request.param, request)


class Crash(BaseException):
    """The process ends here."""


class At:
    """A beat that does something at one of its calls."""

    def __init__(self, call: int, action: Callable[[], None]) -> None:
        self.calls_left = call
        self.action = action

    def __call__(self) -> None:
        self.calls_left -= 1
        if self.calls_left == 0:
            self.action()


def crash() -> None:
    raise Crash


def insist(call: Callable[..., Any], *arguments: Any) -> Any:
    """As the subscriber does: try the same again until the database does its work."""
    while True:
        try:
            return call(*arguments)
        except Unavailable as error:
            if error.loud:
                raise


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls in threads of their own; their results, or the first error."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


# ── storing once ────────────────────────────────────────────────────────────────────────


def test_rows_arrive_whole_and_in_order(bench: Bench) -> None:
    stored = bench.open().store([batch(1, 5, 3, 4), batch(2, 1, 2, blank=2, filtered=3)])
    assert bench.rows() == [(5, "1:5"), (3, "1:3"), (4, "1:4"), (1, "2:1"), (2, "2:2")]
    assert stored == Stored(frames=2, stored=5, filtered=3, blank=2)


def test_nothing_to_store(bench: Bench) -> None:
    assert bench.open().store([]) == Stored()
    assert bench.open().store([batch(1, blank=1)]) == Stored(frames=1, blank=1)
    assert bench.rows() == []


def test_the_same_again_is_skipped(bench: Bench) -> None:
    one, two, three, other = batch(1, 1), batch(2, 2, 3), batch(3, 4), batch(1, 9, run=LATER_RUN)
    store = bench.open()
    assert store.store([one, two]) == Stored(frames=2, stored=3)
    assert store.store([one, two]) == Stored()
    assert bench.open().store([three, two, one, two, three]) == Stored(frames=1, stored=1)
    store.fold()
    assert bench.open().store([two, other, one]) == Stored(frames=1, stored=1)
    store.fold()
    assert store.store([other, three]) == Stored()
    assert sorted(bench.rows()) == rows_of(one, two, three, other)


def test_fold_stops_at_a_hole_and_goes_on_when_it_is_filled(bench: Bench) -> None:
    store = bench.open()
    store.store([batch(1, 1), batch(2, 2), batch(4, 4), batch(5, 5)])
    store.fold()
    assert (bench.up_to(), bench.waiting()) == (2, [4, 5])
    store.fold()
    assert (bench.up_to(), bench.waiting()) == (2, [4, 5])
    assert store.store([batch(3, 3), batch(4, 4)]) == Stored(frames=1, stored=1)
    store.fold()
    assert (bench.up_to(), bench.waiting()) == (5, [])
    assert store.store([batch(n, n) for n in (1, 2, 3, 4, 5)]) == Stored()
    assert sorted(bench.rows()) == [(n, f"{n}:{n}") for n in (1, 2, 3, 4, 5)]


def test_an_older_frame_of_a_late_collector_is_new(bench: Bench) -> None:
    store = bench.open()
    store.store([batch(7, 7)])
    store.fold()
    assert store.store([batch(6, 6)]) == Stored(frames=1, stored=1)


@pytest.mark.parametrize("folding", [False, True])
def test_many_holders_of_the_same_frames(bench: Bench, folding: bool) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    runs, numbers = (RUN, LATER_RUN), range(1, 21)
    batches = [batch(n, n * 10, n * 10 + 1, run=run) for run in runs for n in numbers]

    def hold(dice: random.Random) -> int:
        store = bench.open()
        frames = 0
        for _ in range(12):
            frames += insist(store.store, dice.sample(batches, 12)).frames
            if folding:
                insist(store.fold)
        frames += insist(store.store, batches).frames
        store.close()
        return frames

    frames = together(*[partial(hold, random.Random(seed + n)) for n in range(4)])
    assert sorted(bench.rows()) == rows_of(*batches)
    assert sum(frames) == len(batches)
    bench.open().fold()
    assert [(bench.up_to(run), bench.folded(run)) for run in runs] == [(20, 40)] * 2


def test_two_holders_and_their_folds_meet_at_every_point(bench: Bench) -> None:
    """One stands still at its n-th call while another does the same; nobody has to retry."""
    expected: list[Batch] = []
    for call in range(1, CALLS_MAX):
        lease = [batch(1, call, run=call.to_bytes(16, "big")), batch(call, call, call)]
        expected += lease
        reached, go_on = threading.Event(), threading.Event()
        beat = At(call, partial(stand_still, reached, go_on))

        def hold(beat: Beat, leave: Beat, lease: Sequence[Batch] = lease) -> None:
            store = bench.open(beat)
            try:
                store.store(lease)
                store.fold()
            finally:
                store.close()
                leave()

        def follow(
            hold: Callable[[Beat, Beat], None] = hold,
            reached: threading.Event = reached,
            go_on: threading.Event = go_on,
        ) -> None:
            reached.wait()
            timer = threading.Timer(BLOCKED_S, go_on.set)  # it may have to wait for the first one
            timer.start()
            hold(no_beat, go_on.set)
            timer.cancel()

        together(partial(hold, beat, reached.set), follow)
        assert sorted(bench.rows()) == rows_of(*expected), f"at call {call}"
        assert (bench.up_to(), bench.folded()) == (call, 2 * call), f"at call {call}"
        if beat.calls_left > 0:
            return
    pytest.fail("a store makes more calls than expected")


def stand_still(reached: threading.Event, go_on: threading.Event) -> None:
    reached.set()
    go_on.wait()


# ── one by one ──────────────────────────────────────────────────────────────────────────


def test_one_by_one_is_the_same_row_by_row(bench: Bench) -> None:
    own = DeadLetter(1, b"\xff", "utf8", "not UTF-8")
    one = replace(batch(1, 1, BAD, 3, 2, dead=[own], blank=1), positions=[0, 2, 5, 6])
    held: list[tuple[int, int]] = []
    store = bench.open(lambda: held.append((held[-1][0] if held else NO_RECORD, 1)))
    calls = store.store_one_by_one(one, lambda position: held.append((position, 0)))
    assert calls == Stored(frames=1, stored=3, dead=2, blank=1)
    assert [position for position, beat in held if not beat] == [0, 2, 5, 6, NO_RECORD]
    for position in (0, 2, 5, 6):  # the database is asked while it is named, and not only then
        assert (position, 1) in held
    assert (NO_RECORD, 1) in held[held.index((NO_RECORD, 0)) :], "the commit"
    assert bench.rows() == [(1, "1:1"), (3, "1:3"), (2, "1:2")]
    assert [(x.position, x.code) for _, x in bench.dead()] == [(1, "utf8"), (2, "check")]
    assert store.store([one]) == Stored()
    assert store.store_one_by_one(one, lambda _: None) == Stored()
    assert bench.open().store_one_by_one(batch(2), lambda _: None) == Stored(frames=1)


def test_a_crash_at_any_call_of_one_by_one_stores_all_or_nothing(bench: Bench) -> None:
    for call in range(1, CALLS_MAX):
        frame, beat = batch(call, call, BAD, call), At(call, crash)
        try:
            bench.open(beat).store_one_by_one(frame, lambda _: None)
        except Crash:
            pass
        assert len(bench.rows()) in (2 * call - 2, 2 * call), f"half of it at call {call}"
        bench.open().store_one_by_one(frame, lambda _: None)
        assert bench.rows()[-2:] == [(call, f"{call}:{call}")] * 2, f"at call {call}"
        assert (len(bench.rows()), len(bench.dead())) == (2 * call, call)
        if beat.calls_left > 0:
            return
    pytest.fail("a store makes more calls than expected")


def test_nothing_is_made_of_a_row_before_it_was_named(mariadb_database: Database) -> None:
    """Not even its part of a statement, which is where a value may kill."""
    bench, held = ServerBench(mariadb_database), [NO_RECORD]
    bench.open().prepare()
    frame = replace(batch(1, 1, 2, 3), rows=[(1, "one"), (2, object()), (3, "three")])  # type: ignore[list-item]
    with pytest.raises((KeyError, TypeError)):
        bench.open().store_one_by_one(frame, held.append)
    assert held == [NO_RECORD, 0, 1]
    assert bench.rows() == []
    bench.close()


# ── few questions ───────────────────────────────────────────────────────────────────────


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What servers are sent."""
    asked: list[bytes] = []
    execute = pymysql.connections.Connection._execute_command

    def spy(connection: Any, command: int, sql: str | bytes) -> None:
        asked.append(sql if isinstance(sql, bytes) else sql.encode())
        execute(connection, command, sql)

    monkeypatch.setattr(pymysql.connections.Connection, "_execute_command", spy)
    return asked


def test_a_small_lease_is_two_questions(server_database: Database, asked: list[bytes]) -> None:
    store = ServerBench(server_database).open()
    store.prepare()
    for number in range(1, 4):  # the first one makes the run's row
        asked.clear()
        assert store.store([batch(number, 1, 2)]) == Stored(1, 2)
    look, write = (sql.split(b" ")[0].split(b";")[0] for sql in asked)
    assert (look, write) == (b"START", b"INSERT")
    assert store.store([batch(3, 1, 2)]) == Stored()
    store.close()


def test_the_rows_of_a_small_lease_are_text_behind_their_ledger_row(
    mariadb_database: Database, asked: list[bytes]
) -> None:
    """A bulk can't be joined with it, and would be there before it."""
    store = ServerBench(mariadb_database).open()
    store.prepare()
    for number in (2, 4):  # those have their rows as a block
        asked.clear()
        assert store.store([batch(number, *range(20))]) == Stored(1, 20)
        at_once = asked[-1]
        ledger_row, rows, commit = at_once.split(b";")
        assert ledger_row.startswith(b"INSERT INTO `nfl_frames`")
        assert rows.startswith(b"INSERT INTO `records`")
        assert rows.count(b"),(") == 20 - 1
        assert commit == b"COMMIT"
    store.close()


def test_behind_a_refusal_one_lease_goes_step_by_step(
    server_database: Database, asked: list[bytes]
) -> None:
    """What is refused once is often refused again, and all of it would have to be sent twice."""
    store = ServerBench(server_database).open()
    store.prepare()
    with_savepoints = []
    for number, value in enumerate([1, BAD, BAD, 1, 1], 1):
        asked.clear()
        assert store.store([batch(number, value)]).frames == 1
        with_savepoints.append(b"SAVEPOINT part" in asked)
    assert with_savepoints == [False, True, True, True, False]
    assert len(asked) == 2
    store.close()


# ── rejected rows ───────────────────────────────────────────────────────────────────────


def test_a_rejected_row_costs_one_record(bench: Bench) -> None:
    own = DeadLetter(5, b"\xff\x00 broken", "utf8", "not UTF-8")
    lease = [batch(1, 1, 2), batch(2, 3, BAD, 4, dead=[own]), batch(3, BAD), batch(4, 5)]
    assert bench.open().store(lease) == Stored(frames=4, stored=5, dead=3)
    assert bench.rows() == [(1, "1:1"), (2, "1:2"), (3, "2:3"), (4, "2:4"), (5, "4:5")]
    letters = bench.dead()
    assert [(n, x.position, x.raw, x.code) for n, x in letters] == [
        (2, 1, f"2:{BAD}".encode(), "check"),
        (2, 5, own.raw, "utf8"),
        (3, 0, f"3:{BAD}".encode(), "check"),
    ]
    assert "CONSTRAINT" in letters[0][1].reason.upper()
    assert letters[1][1] == own
    assert bench.open().store(lease) == Stored()
    assert bench.dead() == letters


def test_all_rows_rejected(bench: Bench) -> None:
    values = [BAD] * 9
    lease = [batch(1, *values), batch(2, *values)]
    assert bench.open().store(lease) == Stored(frames=2, dead=18)
    assert bench.rows() == []
    assert [(number, x.position) for number, x in bench.dead()] == [
        (number, position) for number in (1, 2) for position in range(9)
    ]
    assert bench.open().store(lease) == Stored()


@given(st.lists(st.lists(st.sampled_from([1, 2, BAD]), max_size=8), max_size=6), st.data())
@settings(max_examples=60, deadline=None)
def test_the_store_in_memory_and_sqlite_do_the_same(
    values: list[list[int]], data: st.DataObject
) -> None:
    """Any history of stores and folds; so that tests over the fake mean something."""
    memory = MemoryBench()
    twins = [memory.open(), SQLiteStore(":memory:", "nfl", "records", COLUMNS)]
    batches = [batch(number, *row) for number, row in enumerate(values, start=1)]
    for twin in twins:
        twin.prepare()
    for _ in range(data.draw(st.integers(1, 6))):
        lease = data.draw(st.lists(st.sampled_from(batches), max_size=5)) if batches else []
        one, other = (twin.store(lease) for twin in twins)
        assert one == other
        if data.draw(st.booleans()):
            for twin in twins:
                twin.fold()
    sqlite = twins[1]
    assert isinstance(sqlite, SQLiteStore)
    assert sqlite._connection is not None
    rows = sqlite._connection.execute("SELECT n, raw FROM records ORDER BY seq").fetchall()
    assert rows == memory.rows()
    sqlite.close()


# ── content ─────────────────────────────────────────────────────────────────────────────

NASTY = [
    "",
    " ",
    "it's",
    'say "hi"',
    "back\\slash\\",
    "\\'",
    "\\0\\n\\Z%s%%?",
    "nul \x00 inside",
    "\x1a\b\t\r\v\x7f",
    "line\nbreak",
    "‘’“”«»",
    "🏈🏈 touchdown 👩‍👩‍👧",
    "𝕌𝕟𝕚𝕔𝕠𝕕𝕖 \U0010ffff \ufffe",
    "नमस्ते שלום 你好 e\u0301",
    "'); DROP TABLE records; --",
    "x" * 70_000,
]


@pytest.mark.parametrize("number", [1, 2])  # a list of rows, a block
def test_texts_come_back_as_they_went(bench: Bench, number: int) -> None:
    texts = [*NASTY, *(f"{one}{other}" for one in NASTY[:-1] for other in NASTY[:-1])]
    values = range(100, 100 + len(texts))
    bench.open().store([batch(number, *values, texts=texts)])
    assert bench.rows() == list(zip(values, texts, strict=True))


@given(st.lists(st.text(), min_size=5, max_size=50))
@settings(max_examples=25, deadline=None)
def test_any_text_through_the_escaping(server_text: Callable[..., Any], texts: list[str]) -> None:
    assert server_text(texts) == texts


@pytest.fixture(scope="module", params=["mariadb", "mysql"])
def server_text(request: pytest.FixtureRequest) -> Iterator[Callable[[list[str]], list[str]]]:
    """Texts sent as rows into a server and read again."""
    with new_database(request.getfixturevalue(request.param)) as database:
        bench = ServerBench(database)
        store = bench.open()
        store.prepare()
        numbers = iter(range(1, 10**6))

        def through(texts: list[str]) -> list[str]:
            bench.query("DELETE FROM records")
            store.store([batch(next(numbers), *[1] * len(texts), texts=texts)])
            return [text for _, text in bench.rows()]

        yield through
        bench.close()


def test_a_dead_letter_keeps_its_bytes_up_to_the_limit(bench: Bench) -> None:
    every_byte = bytes(range(256))
    letters = [
        DeadLetter(0, every_byte, "json", "it's \\ \x00 „bad“"),
        DeadLetter(1, b"", "cut", ""),
    ]
    bench.open().store([batch(1, dead=letters)])
    assert [letter for _, letter in bench.dead()] == letters


def test_a_long_dead_letter_is_kept_whole(sql_bench: SQLBench) -> None:
    """It was refused, not cut: it can be retried one day."""
    raw = bytes(range(256)) * 800
    sql_bench.open().store([batch(1, dead=[DeadLetter(0, raw, "c" * 40, "r" * 5000)])])
    [(_, letter)] = sql_bench.dead()
    assert letter == DeadLetter(0, raw, "c" * 32, "r" * 1000)


# ── gaps ────────────────────────────────────────────────────────────────────────────────


def test_gaps_are_written_and_counted(bench: Bench) -> None:
    gaps = (Gap("connection", 3, 900), Gap("unknown"))
    assert bench.open().store([batch(1, 1, gaps=gaps)]) == Stored(frames=1, stored=1, lost=3)
    assert bench.gaps() == [("connection", 3, 900), ("unknown", None, None)]
    bench.open().fold()
    assert bench.open().store([batch(1, 1, gaps=gaps)]) == Stored()
    assert len(bench.gaps()) == 2


# ── the ledger's sums ───────────────────────────────────────────────────────────────────


def test_the_run_adds_up(sql_bench: SQLBench) -> None:
    store = sql_bench.open()
    letter = DeadLetter(3, b"{", "json", "")
    store.store([batch(1, 1, BAD, 2, dead=[letter], blank=1, filtered=4, gaps=(Gap("cut", 5, 6),))])
    store.fold()
    store.store([batch(2, 3)])
    store.fold()
    names = "source, up_to, records, `stored`, filtered, dead, blank, lost, bytes"
    [row] = sql_bench.query(f"SELECT {names}, first_received, last_received FROM nfl_runs")
    assert row[:9] == ("tweets", 2, 10, 3, 4, 2, 1, 5, 18)
    assert [str(moment)[:22] for moment in row[9:]] == [
        "2023-11-14 22:13:20.25",
        "2023-11-14 22:13:23.50",
    ]


def test_a_store_has_an_id_of_its_own_that_stays(bench: Bench) -> None:
    identity = bench.open().identity()
    assert bench.open().identity() == identity
    bench.open().prepare()
    assert bench.open().identity() == identity
    assert re.fullmatch("[0-9a-f]{32}", identity)


def test_a_store_that_is_away_has_no_id(bench: Bench) -> None:
    store = bench.open()
    identity = store.identity()
    bench.outage()
    try:
        with pytest.raises(Unavailable):
            store.identity()
    finally:
        bench.end_outage()
    assert insist(store.identity) == identity


def test_two_stores_have_two_ids(sql_bench: SQLBench) -> None:
    first = sql_bench.open().identity()
    sql_bench.query("DROP TABLE nfl_meta")
    sql_bench.open().prepare()
    assert sql_bench.open().identity() != first


def test_the_stores_identity_stays(sql_bench: SQLBench) -> None:
    [before] = sql_bench.query("SELECT value FROM nfl_meta WHERE name = 'store'")
    sql_bench.open().prepare()
    assert sql_bench.query("SELECT value FROM nfl_meta WHERE name = 'store'") == [before]
    assert len(before[0]) == 32


def test_tables_of_another_version_are_refused(sql_bench: SQLBench) -> None:
    sql_bench.query("UPDATE nfl_meta SET value = X'39' WHERE name = 'schema'")
    with pytest.raises(Unavailable, match="version 9") as caught:
        sql_bench.open().prepare()
    assert caught.value.loud


def test_a_missing_column_is_named_with_the_alter_that_adds_it(sql_bench: SQLBench) -> None:
    sql_bench.query("DROP TABLE records")
    sql_bench.query("CREATE TABLE records (seq INTEGER PRIMARY KEY, N BIGINT, other INTEGER)")
    store = sql_bench.open()
    with pytest.raises(Unavailable, match="no column raw") as caught:
        store.prepare()
    assert caught.value.loud
    sql_bench.query(caught.value.hint.removeprefix("run: ").removesuffix(";"))
    store.prepare()


def test_a_table_that_vanished_is_said_loudly_and_costs_nothing(sql_bench: SQLBench) -> None:
    store = sql_bench.open()
    sql_bench.query("ALTER TABLE records RENAME TO elsewhere")
    with pytest.raises(Unavailable) as caught:
        store.store([batch(1, 1, 2)])
    assert caught.value.loud
    sql_bench.query("ALTER TABLE elsewhere RENAME TO records")
    assert store.store([batch(1, 1, 2)]) == Stored(frames=1, stored=2)
    assert sql_bench.dead() == []


# ── outages and crashes ─────────────────────────────────────────────────────────────────


def test_an_outage_is_waited_out_with_the_same_object(bench: Bench) -> None:
    store = bench.open()
    store.store([batch(1, 1)])
    bench.outage()
    for verb in (lambda: store.store([batch(2, 2)]), store.fold, store.prepare):
        with pytest.raises(Unavailable):
            verb()
    bench.end_outage()
    assert store.store([batch(1, 1), batch(2, 2)]) == Stored(frames=1, stored=1)
    store.fold()
    assert bench.rows() == [(1, "1:1"), (2, "2:2")]
    assert bench.up_to() == 2


@pytest.mark.parametrize("bad", [(BAD,), ()], ids=["with a bad row", "all at once"])
def test_a_crash_at_any_call_stores_all_or_nothing(bench: Bench, bad: tuple[int, ...]) -> None:
    expected: list[tuple[Any, ...]] = []
    for call in range(1, CALLS_MAX):
        lease = [batch(call * 2, call, *bad, call), batch(call * 2 + 1, call)]
        beat = At(call, crash)
        try:
            bench.open(beat).store(lease)
        except Crash:
            pass
        assert len(bench.rows()) - len(expected) in (0, 3), f"half of it at call {call}"
        bench.open().store(lease)
        expected += [(call, f"{call * 2}:{call}")] * 2 + [(call, f"{call * 2 + 1}:{call}")]
        assert bench.rows() == expected, f"at call {call}"
        assert len(bench.dead()) == call * len(bad)
        if beat.calls_left > 0:
            return
    pytest.fail("a store makes more calls than expected")


def test_a_crash_while_folding_keeps_the_ledger_true(bench: Bench) -> None:
    store = bench.open()
    for call in range(1, CALLS_MAX):
        store.store([batch(call, call)])
        beat = At(call, crash)
        try:
            bench.open(beat).fold()
        except Crash:
            pass
        assert store.store([batch(n, n) for n in range(1, call + 1)]) == Stored()
        if beat.calls_left > 0:
            break
    store.fold()
    assert bench.up_to() == call
    if isinstance(bench, SQLBench):
        assert bench.query("SELECT records, `stored` FROM nfl_runs") == [(call, call)]


def test_a_connection_cut_at_any_call(server_database: Database) -> None:
    """The server ends our session; what we send next, or read, fails."""
    bench = ServerBench(server_database)
    bench.open().prepare()
    expected: list[tuple[Any, ...]] = []
    for call in range(1, CALLS_MAX):
        beat = At(call, lambda: cut_sessions(server_database))
        store = bench.open(beat)
        lease = [batch(call, call, BAD)]
        try:
            store.store(lease)
        except Unavailable as error:
            if error.loud:
                raise
        insist(store.store, lease)
        expected.append((call, f"{call}:{call}"))
        assert bench.rows() == expected, f"at call {call}"
        store.close()
        if beat.calls_left > 0:
            return
    pytest.fail("a store makes more calls than expected")


def cut_sessions(database: Database) -> None:
    """End every session in this database but our own."""
    for (session,) in database.run(
        "SELECT ID FROM information_schema.PROCESSLIST"
        f" WHERE DB = '{database.name}' AND ID <> CONNECTION_ID()"
    ):
        try:
            database.run(f"KILL CONNECTION {session}")
        except pymysql.Error as error:  # it may have ended by itself
            print(error)


def test_the_server_killed_under_load(server_database: Database) -> None:
    """What was committed is there after the server's crash, and what wasn't comes once."""
    bench, server = ServerBench(server_database), server_database.server
    store = bench.open()
    store.prepare()
    expected: list[Batch] = []
    for number in range(1, 31):
        lease = [batch(number, number, number)]
        expected += lease
        store.store(lease)
        if number % 10 == 5:
            server.kill()
            with pytest.raises(Unavailable):
                store.store(lease)
            server.start()
            assert store.store(lease) == Stored()
    assert sorted(bench.rows()) == rows_of(*expected)
    bench.close()
