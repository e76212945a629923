"""Dead letters tried again, over every SQL store: each becomes one row, and the ledger stays true.

Records are refused because a path of the mapping leads nowhere, and stored when it is mended. What
is compared is the content of the table; the ledger's own sums are checked at every step.
"""

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.batch import Stored
from appliance.config import Column, OnDuplicate
from appliance.errors import Unavailable
from appliance.frame import Frame, Header
from appliance.rows import RowMaker, utc_text
from appliance.stores import letters as letters_module
from appliance.stores.letters import Letter, Letters, Name, Retried, Wanted
from appliance.stores.sqlite import SQLiteStore
from appliance.verbs.dead.retry import remake
from tests.contract.test_store import At, Crash, crash, insist, no_beat, stand_still, together
from tests.sql_server import SERVERS, SQLDatabase, SQLServer, empty_database

RUN, LATER_RUN = bytes(range(16)), bytes(range(1, 17))
RECEIVED_AT = 1_700_000_000.25
CALLS_MAX = 100  # no retry of one page makes more calls
BLOCKED_S = 0.05  # who isn't done by then waits for the other one
SEVERAL = 3

Beat = Callable[[], None]
Row = tuple[Any, ...]


def columns(team: str) -> dict[str, Column]:
    """The mapping, with this path to the column that must have a value."""
    return {
        "id": Column(type="BIGINT", path="id"),  # not unique: a record stored twice shows
        "only": Column(type="BIGINT UNIQUE", path="only"),
        "team": Column(type="VARCHAR(20) NOT NULL", path=team),
        "run": Column(type="BINARY(16)", meta="run"),
        "frame": Column(type="BIGINT", meta="frame"),
        "position": Column(type="INTEGER", meta="position"),
        "seen": Column(type="DATETIME(6)", meta="received_at"),
        "source": Column(type="VARCHAR(32)", meta="source"),
        "raw": Column(type="LONGTEXT", path=""),
    }


BAD, GOOD = columns("taem"), columns("team")
PLAIN = GOOD | {"team": Column(type="VARCHAR(20) NOT NULL", meta="source")}  # for any record


class World:
    """One database, its table and stores that write into it."""

    def store(self, beat: Beat, mode: OnDuplicate) -> Letters: ...
    def run(self, sql: str) -> list[Row]: ...

    def __init__(self) -> None:
        self.stores: list[Letters] = []

    def open(self, beat: Beat = no_beat, mode: OnDuplicate = "dead") -> Letters:
        self.stores.append(self.store(beat, mode))
        return self.stores[-1]

    def of_a_thread(self, beat: Beat = no_beat) -> closing[Letters]:
        """A store for a thread of its own."""
        return closing(self.store(beat, "dead"))

    def close(self) -> None:
        for store in self.stores:
            store.close()
        self.stores.clear()

    def empty(self) -> None:
        self.close()
        for table in ("records", "nfl_runs", "nfl_frames", "nfl_dead"):
            self.run(f"DELETE FROM {table}")

    def rows(self) -> list[Row]:
        """Frame, position and id of each row."""
        return self.run("SELECT frame, position, id FROM records ORDER BY run, frame, position")

    def dead(self) -> list[Row]:
        """Frame, position and code of each open letter."""
        return self.run(
            "SELECT frame, position, code FROM nfl_dead WHERE retried_at IS NULL"
            " ORDER BY run, frame, position"
        )

    def sums(self) -> dict[str, int]:
        """What the ledger has counted, once it was seen that each of its rows adds up."""
        names = ("records", "stored", "filtered", "dead", "blank")
        listed = ", ".join(f"`{name}`" for name in names)
        rows = self.run(f"SELECT {listed} FROM nfl_runs UNION ALL SELECT {listed} FROM nfl_frames")
        for records, *parts in rows:
            assert records == sum(parts)
        totals = [sum(map(int, column)) for column in zip(*rows, strict=True)] or [0] * 5
        return dict(zip(names, totals, strict=True))

    def check(self) -> dict[str, int]:
        """The ledger agrees with the tables; its sums."""
        sums = self.sums()
        assert sums["stored"] == len(self.rows())
        assert sums["dead"] == len(self.dead())
        return sums


class SqliteWorld(World):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def store(self, beat: Beat, mode: OnDuplicate) -> Letters:
        return SQLiteStore(str(self._path), "nfl", "records", GOOD, beat, on_duplicate=mode)

    def run(self, sql: str) -> list[Row]:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()


class ServerWorld(World):
    def __init__(self, database: SQLDatabase) -> None:
        super().__init__()
        self._database = database

    def store(self, beat: Beat, mode: OnDuplicate) -> Letters:
        return self._database.store(
            GOOD, beat=beat, on_duplicate=mode, record_bytes_max=1024 * 1024
        )

    def run(self, sql: str) -> list[Row]:
        return self._database.run(sql)


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def tables(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """A database with its tables, for the whole module."""
    if request.param == "sqlite":
        yield prepared(SqliteWorld(tmp_path_factory.mktemp("letters") / "nfl.db"))
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with empty_database(server) as database:
        yield prepared(ServerWorld(database))


def prepared(world: World) -> World:
    world.open().prepare()
    world.close()
    return world


@pytest.fixture
def world(tables: World) -> Iterator[World]:
    """The same, empty."""
    tables.empty()
    yield tables
    tables.close()


# ── frames, and what mends them ─────────────────────────────────────────────────────────


def frame(number: int, *lines: bytes, run: bytes = RUN, **more: Any) -> Frame:
    body = b"".join(line + b"\n" for line in lines)
    given: dict[str, Any] = {"source": "tweets", "first_received": RECEIVED_AT} | more
    return Frame(
        Header(
            run=run.hex(),
            number=number,
            records=len(lines),
            records_before=0,
            bytes_before=0,
            body_bytes=len(body),
            crc=0,
            last_received=RECEIVED_AT + 1,
            **given,
        ),
        body,
    )


def record(id: int) -> bytes:
    """Refused under the bad mapping, a row under the good one."""
    return b'{"id": %d, "team": "Jets"}' % id


def only(key: int) -> bytes:
    """The same, one of a key."""
    return b'{"id": %d, "only": %d, "team": "Jets"}' % (key, key)


def both(id: int) -> bytes:
    """A row under both mappings."""
    return b'{"id": %d, "team": "Jets", "taem": "Jets"}' % id


def maker(mapping: Mapping[str, Column] = GOOD, **more: Any) -> RowMaker:
    given: dict[str, Any] = {"format": "json", "include": (), "source": "tweets"} | more
    return RowMaker(mapping, **given)


def bury(world: World, *frames: Frame, mapping: Mapping[str, Column] = BAD) -> Stored:
    """Store frames while the mapping is bad."""
    return world.open().store([maker(mapping).batch(one) for one in frames])


def mended(**more: Any) -> Callable[[Sequence[Letter]], Any]:
    return lambda letters: remake(letters, lambda source: maker(source=source, **more))


def retry(
    store: Letters,
    wanted: Wanted = Wanted(),  # noqa: B008
    keep: bool = True,
    **more: Any,
) -> Retried:
    """All pages, as the verb does it."""
    done = Retried()
    for page in store.letter_pages(wanted):
        done += insist(partial(store.retry_letters, page, mended(**more), keep=keep))
    return done


# ── what becomes of a letter ────────────────────────────────────────────────────────────


def test_a_letter_becomes_the_row_that_it_would_have_been(world: World) -> None:
    long = b'{"id": 3, "team": "Jets", "x": "' + b"x" * 200_000 + b'"}'
    lines = [both(1), b"", record(2), long]
    assert bury(world, frame(7, *lines)) == Stored(frames=1, stored=1, dead=2, blank=1)
    store = world.open()
    assert retry(store) == Retried(stored=2)
    when = "2023-11-14 22:13:20.250000"
    found = world.run(
        "SELECT run, frame, position, seen, source, team, raw FROM records ORDER BY position"
    )
    assert [
        (bytes(run), number, position, utc(seen), *rest)
        for run, number, position, seen, *rest in found
    ] == [
        (RUN, 7, 0, when, "tweets", "Jets", lines[0].decode()),
        (RUN, 7, 2, when, "tweets", "Jets", lines[2].decode()),
        (RUN, 7, 3, when, "tweets", "Jets", long.decode()),
    ]
    assert world.check() == {"records": 4, "stored": 3, "filtered": 0, "dead": 0, "blank": 1}
    assert retry(store) == Retried(), "there is none any more"
    [letter, _] = store.read_letters([Name(RUN, 7, 2), Name(RUN, 7, 3)])
    assert letter.retried_at is not None
    assert letter.raw == record(2)


def utc(value: Any) -> str:
    return value if isinstance(value, str) else value.isoformat(" ", "microseconds")


@pytest.mark.parametrize("folded", [False, True])
def test_counts_move_where_the_frame_is_counted(world: World, folded: bool) -> None:
    bury(world, *[frame(n, both(n * 10), record(n * 10 + 1)) for n in (1, 2, 5)])
    if folded:
        world.open().fold()  # 1 and 2; 5 waits behind a hole
    assert retry(world.open()) == Retried(stored=3)
    assert world.check()["stored"] == 6
    unfolded = world.run("SELECT frame, `stored`, dead FROM nfl_frames ORDER BY frame")
    assert unfolded == [(n, 2, 0) for n in ((5,) if folded else (1, 2, 5))]
    world.open().fold()
    assert world.check()["stored"] == 6


def test_what_is_still_refused_stays_with_its_new_reason(world: World) -> None:
    lines = [record(1), b'{"id": 2}', b"{", record(3)]
    bury(world, frame(1, *lines))
    assert world.dead() == [(1, 0, "null"), (1, 1, "null"), (1, 2, "json"), (1, 3, "null")]
    store = world.open()
    assert retry(store, keep=False) == Retried(stored=2, dead=2)
    assert world.check()["dead"] == 4, "a dry run changes nothing"
    assert retry(store) == Retried(stored=2, dead=2)
    assert world.dead() == [(1, 1, "null"), (1, 2, "json")]
    world.run("UPDATE nfl_dead SET code = 'old', reason = 'old'")
    assert retry(store) == Retried(dead=2)
    assert world.dead() == [(1, 1, "null"), (1, 2, "json")]
    [(reason,)] = world.run("SELECT reason FROM nfl_dead WHERE position = 1 AND retried_at IS NULL")
    assert "null" in reason.lower()
    assert retry(store, format="text", mapping=PLAIN) == Retried(stored=2)
    assert world.check()["dead"] == 0


def test_filters_are_those_of_today(world: World) -> None:
    from appliance.settings import Filter

    bury(world, frame(1, record(1), record(2), record(3)))
    only = (Filter(path="id", equals=(2,)),)
    assert retry(world.open(), include=only) == Retried(stored=1, filtered=2)
    assert world.rows() == [(1, 1, 2)]
    assert world.check() == {"records": 3, "stored": 1, "filtered": 2, "dead": 0, "blank": 0}


@pytest.mark.parametrize(
    ("mode", "expected", "team"),
    [
        ("dead", Retried(stored=1, dead=1), "first"),
        ("ignore", Retried(stored=1, filtered=1), "first"),
        ("update", Retried(stored=2), "Jets"),
    ],
)
def test_duplicates_are_treated_as_in_storing(
    world: World, mode: OnDuplicate, expected: Retried, team: str
) -> None:
    bury(world, frame(1, only(1), only(2)))
    world.run("INSERT INTO records (only, team) VALUES (1, 'first')")
    assert retry(world.open(mode=mode)) == expected
    assert world.run("SELECT only, team FROM records ORDER BY only") == [(1, team), (2, "Jets")]
    assert world.sums()["stored"] == expected.stored
    assert world.sums()["filtered"] == expected.filtered
    assert world.dead() == ([(1, 0, "duplicate")] if expected.dead else [])


def test_letters_of_one_key_the_oldest_wins(world: World) -> None:
    bury(world, frame(2, only(1), only(1)), frame(1, b"", only(1)))
    assert retry(world.open()) == Retried(stored=1, dead=2)
    assert world.rows() == [(1, 1, 1)]


def test_a_frame_that_comes_again_after_a_retry_is_known(world: World) -> None:
    lease = [frame(1, both(1), record(2)), frame(2, record(3)), frame(4, record(4))]
    bury(world, *lease)
    for again in (lease, lease[::-1]):
        assert retry(world.open()).dead == 0
        assert bury(world, *again) == Stored()
        assert bury(world, *again, mapping=GOOD) == Stored()
        world.open().fold()
    assert world.rows() == [(1, 0, 1), (1, 1, 2), (2, 0, 3), (4, 0, 4)]
    assert world.check()["records"] == 4


def test_incomplete_ones_are_told_apart_from_columns_that_are_too_short(world: World) -> None:
    rejected = {0: "too long", 1: "cut"}
    whole = (record(3), record(4), b'{"id": 5}')
    bury(world, frame(1, b'{"id": 1, "te', b'{"id', *whole, rejected=rejected))
    world.run("UPDATE nfl_dead SET code = 'too long' WHERE position IN (2, 4)")  # by the database
    world.run("UPDATE nfl_dead SET reason = 'only its first bytes were kept: x' WHERE position = 3")
    store = world.open()
    only_whole = Wanted(incomplete=False)
    assert store.count_letters(Wanted()) == {"too long": 3, "cut": 1, "null": 1}
    assert store.count_letters(only_whole) == {"too long": 2}
    assert retry(store, only_whole) == Retried(stored=1, dead=1)
    assert world.dead()[-1] == (1, 4, "null")
    assert retry(store) == Retried(stored=1, dead=3)
    assert world.dead()[:2] == [(1, 0, "too long"), (1, 1, "cut")], "known as incomplete still"
    assert store.count_letters(only_whole) == {"null": 1}
    assert retry(store, format="text", mapping=PLAIN) == Retried(stored=3)
    assert world.check()["stored"] == 5


def test_an_empty_one_is_counted_as_blank(world: World) -> None:
    bury(world, frame(1, b"", rejected={0: "cut"}))
    assert retry(world.open()) == Retried(blank=1)
    assert world.check() == {"records": 1, "stored": 0, "filtered": 0, "dead": 0, "blank": 1}


def test_a_table_that_vanished_costs_no_letter(world: World) -> None:
    bury(world, frame(1, record(1)))
    store = world.open()
    world.run("ALTER TABLE records RENAME TO elsewhere")
    try:
        if isinstance(world, ServerWorld):
            with pytest.raises(Unavailable) as caught:
                retry(store)
            assert caught.value.loud
        else:
            assert retry(store).dead == 1
    finally:
        world.run("ALTER TABLE elsewhere RENAME TO records")
    assert retry(store) == Retried(stored=1)


# ── which letters ───────────────────────────────────────────────────────────────────────


def test_filters(world: World) -> None:
    bury(world, frame(1, record(1), b"{", b"\xff"), frame(2, record(2), source="other"))
    bury(world, frame(1, b"{", run=LATER_RUN))
    world.run("UPDATE nfl_dead SET source = 'other' WHERE frame = 2")
    early, late = utc_text(1000.0), utc_text(2000.5)
    world.run(f"UPDATE nfl_dead SET dead_at = '{early}' WHERE frame = 1")
    world.run(f"UPDATE nfl_dead SET dead_at = '{late}' WHERE frame = 2")
    store = world.open()
    assert list(store.count_letters(Wanted()).items()) == [("json", 2), ("null", 2), ("utf8", 1)]
    assert store.count_letters(Wanted(code="json")) == {"json": 2}
    assert store.count_letters(Wanted(source="other")) == {"null": 1}
    assert store.count_letters(Wanted(since=1000.1)) == {"null": 1}
    assert store.count_letters(Wanted(since=2000.6)) == {}
    assert store.count_letters(Wanted(without=("json", "null"))) == {"utf8": 1}
    assert store.count_letters(Wanted(names=(Name(RUN, 1, 0), Name(RUN, 9, 0)))) == {"null": 1}
    assert store.count_letters(Wanted(source="none", code="json")) == {}
    assert [*store.letter_pages(Wanted(code="json"))] == [
        [Name(RUN, 1, 1)],
        [Name(LATER_RUN, 1, 0)],
    ]
    assert [letter.name.frame for letter in store.newest_letters(Wanted())] == [2, 1, 1, 1, 1]
    assert [letter.name for letter in store.newest_letters(Wanted(code="null"))] == [
        Name(RUN, 2, 0),
        Name(RUN, 1, 0),
    ]
    assert store.runs_of_letters("0001") == [RUN]
    assert store.runs_of_letters("0") == [RUN, LATER_RUN]
    assert store.runs_of_letters(LATER_RUN.hex()) == [LATER_RUN]
    assert store.runs_of_letters("f") == []


def test_pages_are_limited_and_hold_each_letter_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters_module, "PAGE_LETTERS_MAX", 4)
    monkeypatch.setattr(letters_module, "PAGE_BYTES_MAX", 60)
    long = b"{" + b"x" * 100
    frames = [
        *(frame(n, *[b"{", b'{"a'] * 3, run=run) for run in (RUN, LATER_RUN) for n in (1, 2)),
        frame(3, long, b"{", long, b"{" * 30, b"{" * 30),
    ]
    bury(world, *frames)
    world.run("UPDATE nfl_dead SET dead_at = '2026-01-01 00:00:00'")  # all at the same moment
    store = world.open()
    pages = [*store.letter_pages(Wanted())]
    everyone = [
        Name(run, n, at)
        for run, n, count in [
            (RUN, 1, 6),
            (RUN, 2, 6),
            (RUN, 3, 5),
            (LATER_RUN, 1, 6),
            (LATER_RUN, 2, 6),
        ]
        for at in range(count)
    ]
    assert [name for page in pages for name in page] == everyone
    assert all(len({name.run for name in page}) == 1 for page in pages)
    assert all(len(page) <= 4 for page in pages)
    for page in pages:
        assert len(page) == 1 or sum(letter.bytes for letter in store.read_letters(page)) <= 60
    assert [letter.name for letter in store.newest_letters(Wanted())] == everyone[::-1]
    some = everyone[::-3]
    pages = [*store.letter_pages(Wanted(names=tuple(some)))]
    assert [name for page in pages for name in page] == sorted(some)
    assert sum(store.count_letters(Wanted(names=tuple(some))).values()) == len(some)
    assert retry(store, format="text", mapping=PLAIN).settled == len(everyone)
    assert world.check()["dead"] == 0


def test_a_list_holds_beginnings_only(world: World) -> None:
    raw = b"\xff" * 100_000
    bury(world, frame(1, raw))
    store = world.open()
    [letter] = store.newest_letters(Wanted())
    assert (letter.bytes, letter.raw) == (len(raw), raw[: letters_module.BEGINNING_BYTES])
    [letter] = store.read_letters([Name(RUN, 1, 0)])
    assert (letter.bytes, letter.raw) == (len(raw), raw)
    assert (letter.source, letter.code, letter.incomplete) == ("tweets", "utf8", False)
    assert letter.received_at == "2023-11-14 22:13:20.250000"
    assert datetime.fromisoformat(letter.dead_at)
    world.run("UPDATE nfl_dead SET received_at = NULL")  # as an older version has left it
    [letter] = store.read_letters([Name(RUN, 1, 0)])
    assert letter.received_at == letter.dead_at


def test_whether_there_are_tables(world: World, tmp_path: Path) -> None:
    assert world.open().is_prepared()
    nowhere = SQLiteStore(str(tmp_path / "no.db"), "nfl", "records", GOOD)
    assert not nowhere.is_prepared()
    assert not (tmp_path / "no.db").exists()
    world.run("ALTER TABLE nfl_meta RENAME TO elsewhere")
    try:
        assert not world.open().is_prepared()
    finally:
        world.run("ALTER TABLE elsewhere RENAME TO nfl_meta")


# ── killed, and at once ─────────────────────────────────────────────────────────────────


def test_killed_at_any_call_each_letter_becomes_one_row(world: World) -> None:
    expected: list[Row] = []
    for call in range(1, CALLS_MAX):
        bury(
            world,
            frame(2 * call, record(4 * call), b"{"),
            frame(2 * call + 1, record(4 * call + 1)),
        )
        if call % 2:
            world.open().fold()
        beat = At(call, crash)
        try:
            retry(world.open(beat), Wanted(code="null"))
        except Crash:
            pass
        settled = len(world.rows()) - len(expected)
        assert settled in (0, 2), f"half of a page at call {call}"
        world.check()
        assert retry(world.open(), Wanted(code="null")) == Retried(stored=2 - settled)
        expected += [(2 * call, 0, 4 * call), (2 * call + 1, 0, 4 * call + 1)]
        assert world.rows() == expected, f"at call {call}"
        world.check()
        world.close()
        if beat.calls_left > 0:
            assert settled == 2
            return
    pytest.fail("a retry makes more calls than expected")


def test_two_retries_folds_and_subscribers_at_once(world: World) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    frames = [
        frame(n, record(2 * n + run[0] * 1000), b"{", both(2 * n + 1 + run[0] * 1000), run=run)
        for run in (RUN, LATER_RUN)
        for n in range(1, 25)
    ]

    def subscribe(dice: random.Random) -> None:
        with world.of_a_thread() as store:
            for _ in range(8):
                lease = dice.sample(frames, 8)
                insist(store.store, [maker(BAD).batch(one) for one in lease])
                insist(store.fold)
            insist(store.store, [maker(BAD).batch(one) for one in frames])

    def retrier(dice: random.Random) -> int:
        stored = 0
        with world.of_a_thread() as store:
            for _ in range(12):
                limit = dice.randrange(1, 6)
                for page in [*store.letter_pages(Wanted())]:
                    stored += insist(store.retry_letters, page[:limit], mended()).stored
        return stored

    results = together(
        partial(subscribe, random.Random(seed)),
        partial(subscribe, random.Random(seed + 1)),
        partial(retrier, random.Random(seed + 2)),
        partial(retrier, random.Random(seed + 3)),
    )
    rest = retry(world.open()).stored
    assert results[2] + results[3] + rest == len(frames), "each was stored by one of them"
    world.open().fold()
    assert len(world.rows()) == len(set(world.rows())) == 2 * len(frames)
    assert world.check() == {
        "records": 3 * len(frames),
        "stored": 2 * len(frames),
        "filtered": 0,
        "dead": len(frames),
        "blank": 0,
    }


def test_a_retry_stands_still_at_any_call_while_others_work(world: World) -> None:
    """Another retry, a fold and the same frame again: they wait, or find it done."""
    expected: list[Row] = []
    for call in range(1, CALLS_MAX):
        one = frame(call, record(call))
        bury(world, one)
        reached, go_on = threading.Event(), threading.Event()
        beat = At(call, partial(stand_still, reached, go_on))

        def first(beat: Beat = beat, reached: threading.Event = reached) -> int:
            try:
                with world.of_a_thread(beat) as store:
                    return retry(store).stored
            finally:
                reached.set()

        def second(
            one: Frame = one, reached: threading.Event = reached, go_on: threading.Event = go_on
        ) -> int:
            reached.wait()
            timer = threading.Timer(BLOCKED_S, go_on.set)  # it may have to wait for the first one
            timer.start()
            with world.of_a_thread() as store:
                insist(store.fold)
                assert insist(store.store, [maker(BAD).batch(one)]) == Stored()
                stored = retry(store).stored
            go_on.set()
            timer.cancel()
            return stored

        assert sum(together(first, second)) == 1, f"at call {call}"
        expected.append((call, 0, call))
        assert world.rows() == expected, f"at call {call}"
        world.check()
        world.close()
        if beat.calls_left > 0:
            return
    pytest.fail("a retry makes more calls than expected")
