"""The ledger's rules: what is accounted for, what is missing, what is left of a gap."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import Batch, Stored
from appliance.contracts import Hole, Store
from appliance.frame import RunEnd
from appliance.settings import Column
from appliance.stores import folding, ledger
from appliance.stores.folding import GapRow, pieces, reach, uncovered
from appliance.stores.ledger import grouped
from appliance.stores.sqlite import SQLiteStore
from appliance.stores.tables import Rows, Span, Writer
from tests.fake_store import MemoryDatabase, MemoryStore, Run

T = TypeVar("T")

NUMBERS = range(1, 31)


def covered(holes: list[Span], number: int) -> bool:
    return any(first <= number <= last for first, last in holes)


@st.composite
def ledgers(draw: st.DrawFn) -> tuple[int, list[int], list[Span]]:
    """up_to, frames rows and gap rows as storing, declaring and folding may leave them."""
    up_to = draw(st.integers(0, 15))
    edges = sorted(draw(st.sets(st.sampled_from(NUMBERS), max_size=6)))
    holes = list(zip(edges[::2], edges[1::2], strict=False))
    numbers = draw(st.sets(st.sampled_from(NUMBERS)))
    frames = sorted(n for n in numbers if n > up_to or covered(holes, n))
    return up_to, frames, holes


@given(ledgers())
def test_a_fold_changes_nothing_about_which_frames_are_stored(
    ledger: tuple[int, list[int], list[Span]],
) -> None:
    up_to, frames, holes = ledger

    def stored(up_to: int, frames: list[int], holes: list[Span]) -> set[int]:
        return {n for n in NUMBERS if n in frames or (n <= up_to and not covered(holes, n))}

    reached, folded = reach(up_to, frames, holes)
    rest = frames[len(folded) :]
    left = [
        piece
        for first, last in holes
        for piece in pieces(first, last, [n for n in folded if first <= n <= last])
    ]
    assert folded == frames[: len(folded)]
    assert stored(reached, rest, left) == stored(up_to, frames, holes)
    assert reached >= up_to
    assert not folded or folded[-1] <= reached


@given(ledgers())
def test_a_fold_goes_as_far_as_it_can(ledger: tuple[int, list[int], list[Span]]) -> None:
    up_to, frames, holes = ledger
    reached, folded = reach(up_to, frames, holes)
    assert reached + 1 not in frames
    assert not covered(holes, reached + 1)
    assert all(number > reached for number in frames[len(folded) :])


@given(st.integers(1, 20), st.integers(0, 10), st.data())
def test_pieces_are_what_is_left(first: int, more: int, data: st.DataObject) -> None:
    last = first + more
    filled = sorted(data.draw(st.sets(st.integers(first, last))))
    left = list(pieces(first, last, filled))
    assert {n for lo, hi in left for n in range(lo, hi + 1)} == {*range(first, last + 1)} - {
        *filled
    }
    assert all(lo <= hi for lo, hi in left)


# ── holes and gaps ──────────────────────────────────────────────────────────────────────

RUN, LATER = bytes(16), bytes(15) + b"\1"
COLUMNS = {"raw": Column(type="TEXT", path="")}
SQLITE = SQLiteStore(":memory:", "nfl", "records", COLUMNS)


def frames_of(counts: list[int]) -> list[Batch]:
    """A run's frames with so many records each, as its collector numbers and sums them."""
    found, records, size = [], 0, 0
    for number, count in enumerate(counts, start=1):
        rows = [(f"{number}:{n}",) for n in range(count)]
        frame = Batch(RUN, number, "s", count, 7 * count, 1.0, 2.0, rows, [*range(count)], [])
        found.append(replace(frame, records_before=records, bytes_before=size))
        records, size = records + count, size + 7 * count
    return found


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 100))
def test_frames_are_written_in_groups_of_so_many_bytes(counts: list[int], bytes_max: int) -> None:
    frames = frames_of(counts)
    groups = [*grouped(frames, bytes_max)]
    assert [frame for group in groups for frame in group] == frames
    sizes = [sum(frame.bytes for frame in group) for group in groups]
    assert all(
        size <= bytes_max or len(group) == 1 for size, group in zip(sizes, groups, strict=True)
    )
    assert all(
        size + after[0].bytes > bytes_max for size, after in zip(sizes, groups[1:], strict=False)
    )


def test_rows_are_made_into_statements_group_by_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once they would be in memory twice; refused rows keep their place all the same."""
    monkeypatch.setattr(ledger, "AT_ONCE_BYTES_MAX", 0)
    monkeypatch.setattr(ledger, "WRITTEN_BYTES_MAX", 2 * 7)  # two of the records below
    columns = {"raw": Column(type="TEXT CHECK (raw <> '3:0')", path="")}
    store = SQLiteStore(":memory:", "nfl", "records", columns)
    store.prepare()
    asked: list[int] = []
    write = store._writer

    def writer(table: str, names: Sequence[str], blocks: Sequence[Rows], **how: bool) -> Writer:
        if table == "records":
            asked.append(sum(map(len, blocks)))
        return write(table, names, blocks, **how)

    store._writer = writer  # type: ignore[method-assign]
    frames = [
        replace(frame, raws=[row[0].encode() for row in frame.rows])
        for frame in frames_of([1, 1, 2, 1])
    ]
    assert store.store(frames) == Stored(frames=4, stored=4, dead=1)
    assert asked == [2, 2, 1]
    assert store._query('SELECT "frame", "position" FROM "nfl_dead"') == [(3, 0)]
    store.close()


@pytest.mark.parametrize("at_once", [False, True])
def test_how_long_the_rows_of_a_transaction_took(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock, the look and the ledger's rows before them, and the commit behind.

    Where rows, ledger's rows and commit go at once, it can't be told.
    """
    if not at_once:
        monkeypatch.setattr(ledger, "AT_ONCE_BYTES_MAX", 0)
    ticks = itertools.count()
    store = SQLiteStore(":memory:", "nfl", "records", COLUMNS)
    store._clock = lambda: float(next(ticks))
    store.prepare()
    query = store._query
    store._query = lambda sql, *values: next(ticks) and query(sql, *values)  # type: ignore[method-assign]
    next(ticks)
    stored = store.store(frames_of([3]))
    assert stored.rows_s == (0 if at_once else 3), "a look at the clock, savepoint and release"
    store.close()


def test_a_fold_goes_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who stores may go on between two of them, and none reads a row where none is missing."""
    monkeypatch.setattr(folding, "STEP_FRAMES_MAX", 2)
    store = SQLiteStore(":memory:", "nfl", "records", COLUMNS)
    store.prepare()
    store.store(frames_of([1] * 5))
    said: list[str] = []
    query = store._query
    store._query = lambda sql, *values: said.append(sql) or query(sql, *values)  # type: ignore[method-assign, func-returns-value]
    assert store.fold() == []
    assert said.count("COMMIT") == 3
    assert [sql for sql in said if "BEGIN" in sql] == ["BEGIN IMMEDIATE"] * 3
    store.close()


def test_a_fold_leaves_what_comes_meanwhile_to_the_next() -> None:
    """Or it would go on, a frame at a time, as long as frames come: nobody stores meanwhile."""
    store = SQLiteStore(":memory:", "nfl", "records", COLUMNS)
    store.prepare()
    frames = iter([[frame] for frame in frames_of([1] * 9)])
    store.store(next(frames))
    fold = store._fold_following

    def fold_while_one_comes(run: bytes, frames_max: int) -> int:
        folded = fold(run, frames_max)
        store.store(next(frames))
        return folded

    store._fold_following = fold_while_one_comes  # type: ignore[method-assign]
    assert store.fold() == []
    assert store._query('SELECT "up_to" FROM nfl_runs') == [(1,)]
    store.close()


class Twins:
    """The ledger in SQL and the one in memory: both are told the same, and must say the same."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.stores = [SQLITE, MemoryStore(self.database)]
        SQLITE.prepare()
        SQLITE._run_ends.clear()
        for table in ("records", "nfl_runs", "nfl_frames", "nfl_gaps"):
            SQLITE._query(f'DELETE FROM "{table}"')

    def do(self, act: Callable[[Store], T]) -> T:
        one, other = map(act, self.stores)
        assert one == other
        return one

    def state(self) -> tuple[int, int, int]:
        """up_to, records that are folded, and those that are lost."""
        names = '"up_to", "records", "lost"'
        rows = SQLITE._query(f'SELECT {names} FROM nfl_runs WHERE "run" = ?', RUN)
        [found] = [*map(tuple, rows)] or [(0, 0, 0)]
        run = self.database.tables.runs.get(RUN, Run("s"))
        assert found == (run.up_to, run.records, run.lost)
        return run.up_to, run.records, run.lost

    def gaps(self) -> list[GapRow]:
        """Rows of holes; in SQL their times and sources aside."""
        rows = SQLITE._query(
            'SELECT "first", "last", "records", "bytes", "recovered", "recovered_bytes",'
            ' "records_before", "bytes_before" FROM nfl_gaps ORDER BY "gap"'
        )
        found = [
            GapRow((row[0], row[1]) if row[0] else None, row[2:4], row[4:6], row[6:8])
            for row in rows
        ]
        assert found == [gap.row for gap in self.database.tables.found]
        return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9), st.data())
@settings(max_examples=200, deadline=None)
def test_whatever_comes_in_whatever_order(counts: list[int], data: st.DataObject) -> None:
    """Storing, folding, giving up old and new holes, the run's end told: at random."""
    frames, twins = frames_of(counts), Twins()
    stored: set[int] = set()
    reported: list[Hole] = []
    for _ in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["store", "fold", "give up", "end"])):
            case "store":
                some = data.draw(st.lists(st.sampled_from(frames), max_size=4))
                new = twins.do(lambda store, some=some: store.store(some)).frames  # type: ignore[misc]
                assert new == len({frame.number for frame in some} - stored)
                stored |= {frame.number for frame in some}
            case "fold":
                found = twins.do(lambda store: store.fold())
                reported += [hole for hole in found if hole.run == RUN]
            case "give up":
                given_up = twins.do(lambda store, holes=reported: store.give_up(holes))  # type: ignore[misc]
                missing = {n for hole in given_up for n in range(hole.first, hole.last + 1)}
                assert not missing & stored, "it has a row"
                check_sizes(frames, [(h.first, h.last, h.records, h.bytes) for h in given_up])
            case "end":
                last = data.draw(st.sampled_from(frames))
                end = (last.records_before + last.records, last.bytes_before + last.bytes)
                told = Batch(LATER, last.number, "s", 0, 0, 1.0, 2.0, [], [], [])
                told = replace(told, previous=RunEnd(RUN.hex(), last.number, *end))
                twins.do(lambda store, told=told: store.store([told]))  # type: ignore[misc]
        up_to, _, lost = twins.state()
        gaps = [gap for gap in twins.gaps() if gap.span]
        check_sizes(frames, [(*gap.span, *(gap.missing or ())) for gap in gaps if gap.span])
        assert lost == sum(gap.lost for gap in gaps)
        assert {*range(1, up_to + 1)} <= stored | {n for n in NUMBERS if covered_by(gaps, n)}
    check_that_the_rest_fills_all(twins, frames, len(frames) - len(stored))


def check_that_the_rest_fills_all(twins: Twins, frames: list[Batch], missing: int) -> None:
    assert twins.do(lambda store: store.store(frames)).frames == missing
    assert [hole for hole in twins.do(lambda store: store.fold()) if hole.run == RUN] == []
    total = sum(frame.records for frame in frames)
    assert twins.state() == (len(frames), total, 0)
    for gap in twins.gaps():
        assert (gap.span, gap.size) == (None, gap.recovered)


def check_sizes(frames: list[Batch], spans: Sequence[tuple[int, ...]]) -> None:
    """first, last, records, bytes: what was sent under these numbers."""
    for first, last, *size in spans:
        part = frames[first - 1 : last]
        assert size == [sum(frame.records for frame in part), sum(frame.bytes for frame in part)]


def covered_by(gaps: list[GapRow], number: int) -> bool:
    return any(gap.covers(number) for gap in gaps)


@given(st.integers(0, 9), st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3))), st.data())
def test_numbers_that_nothing_covers(
    up_to: int, pairs: list[tuple[int, int]], data: st.DataObject
) -> None:
    spans = sorted((first, first + more) for first, more in pairs)
    known_to = data.draw(st.integers(up_to, 25))
    found = [n for lo, hi in uncovered(up_to, spans, known_to) for n in range(lo, hi + 1)]
    assert found == [n for n in range(up_to + 1, known_to + 1) if not covered(spans, n)]
