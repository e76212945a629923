"""Holes in a run's numbers, over every store: what is missing is known, with its exact size.

Each test knows what a sender has sent. What the ledger says is missing must be just what the
table lacks, and a frame that comes after all is stored once and taken off again.
"""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

import pytest

from appliance.batch import Batch, Stored
from appliance.contracts import Hole, Store
from appliance.frame import Gap, RunEnd
from appliance.stores.folding import CAUSE
from appliance.stores.gaps import GapList, GapSums, GapsWanted
from appliance.stores.ledger import LedgerStore
from tests.contract import test_store
from tests.contract.test_store import (
    CALLS_MAX,
    LATER_RUN,
    RECEIVED_AT,
    RUN,
    UNTIL,
    At,
    Bench,
    Crash,
    MemoryBench,
    SQLBench,
    crash,
    insist,
    made,
    no_beat,
    stand_still,
    together,
)

BLOCKED_S = 0.05  # who isn't done by then waits for the other one

GapRow = tuple[Any, ...]  # first, last, cause, records, bytes, recovered


@pytest.fixture(params=["memory", "sqlite", "mariadb", "mysql"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from made(request.param, request)


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def sql_bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    yield from made(request.param, request)


def sent(*counts: int, run: bytes = RUN) -> list[Batch]:
    """Frames 1, 2, 3 … with so many records each, as their collector numbers and sums them."""
    frames = [
        test_store.batch(number, *(number * 100 + n for n in range(count)), run=run)
        for number, count in enumerate(counts, start=1)
    ]
    before = [0, *accumulate(counts)], [0, *accumulate(frame.bytes for frame in frames)]
    return [
        replace(frame, records_before=records, bytes_before=size, first_received=RECEIVED_AT)
        for frame, records, size in zip(frames, *before, strict=False)
    ]


def end_of(frames: Sequence[Batch]) -> RunEnd:
    """How a later run says that this one ended."""
    last = frames[-1]
    records, size = last.records_before + last.records, last.bytes_before + last.bytes
    return RunEnd(last.run.hex(), last.number, records, size)


def some(frames: Sequence[Batch], *numbers: int) -> list[Batch]:
    return [frame for frame in frames if frame.number in numbers]


def size_of(frames: Sequence[Batch]) -> tuple[int, int]:
    return sum(frame.records for frame in frames), sum(frame.bytes for frame in frames)


def gaps(bench: Bench) -> list[GapRow]:
    """The gaps of holes, by their numbers."""
    if isinstance(bench, MemoryBench):
        rows = [
            (*(gap.row.span or (None, None)), gap.cause, *gap.row.size, gap.row.recovered[0])
            if gap.row.size
            else (*(gap.row.span or (None, None)), gap.cause, None, None, gap.row.recovered[0])
            for gap in bench.database.tables.found
        ]
    else:
        assert isinstance(bench, SQLBench)
        rows = bench.query(
            "SELECT first, last, cause, records, bytes, recovered FROM nfl_gaps"
            " WHERE first IS NOT NULL OR recovered > 0"
        )
    return sorted(rows, key=lambda row: (row[0] is None, row[0] or 0))


def lost(bench: Bench, run: bytes = RUN) -> int:
    """What the run's row counts as lost."""
    if isinstance(bench, MemoryBench):
        return bench.database.tables.runs[run].lost
    assert isinstance(bench, SQLBench)
    return int(bench.query(f"SELECT lost FROM nfl_runs WHERE run = X'{run.hex()}'")[0][0])


def hole(frames: Sequence[Batch], first: int, last: int, cause: str = CAUSE) -> Hole:
    """The hole that these numbers of a run leave."""
    records, size = size_of(some(frames, *range(first, last + 1)))
    at = frames[first - 1]
    before = at.records_before, at.bytes_before
    return Hole(at.run, "tweets", first, last, cause, records, size, *before)


def gap(frames: Sequence[Batch], first: int, last: int, recovered: int = 0) -> GapRow:
    """The row of a gap of these numbers, all of them missing."""
    records, size = size_of(some(frames, *range(first, last + 1)))
    return first, last, CAUSE, records, size, recovered


def give_up(store: Store) -> list[Hole]:
    """Fold, give all holes up, and go over them."""
    given_up = store.give_up(store.fold())
    store.fold()
    return given_up


# ── where a hole is ─────────────────────────────────────────────────────────────────────


def test_what_never_came_is_a_gap_of_its_exact_size(bench: Bench) -> None:
    """At the start, in the middle, and two at once."""
    frames = sent(3, 1, 0, 4, 1, 5, 9, 2, 6)
    store = bench.open()
    store.store(some(frames, 3, 4, 7, 9))
    holes = [hole(frames, 1, 2), hole(frames, 5, 6), hole(frames, 8, 8)]
    assert store.fold() == holes
    assert store.fold() == holes, "nobody has given them up"
    assert (bench.up_to(), gaps(bench)) == (0, [])
    assert store.give_up(holes) == holes
    assert store.give_up(holes) == [], "they are gaps already"
    assert store.fold() == []
    assert (bench.up_to(), bench.waiting(), bench.folded()) == (9, [], 19)
    assert gaps(bench) == [gap(frames, 1, 2), gap(frames, 5, 6), gap(frames, 8, 8)]
    assert lost(bench) == 4 + 6 + 2
    assert store.store(some(frames, 3, 4, 7, 9)) == Stored()


def test_what_comes_after_all_fills_its_gap(bench: Bench) -> None:
    """In the middle first, so that two pieces are left, each with its own size."""
    frames = sent(1, 2, 3, 4, 5, 6, 7, 8)
    store = bench.open()
    store.store(some(frames, 1, 8))
    assert give_up(store) == [hole(frames, 2, 7)]
    assert lost(bench) == 27
    assert store.store(some(frames, 1, 4, 8)) == Stored(frames=1, stored=4)
    assert store.store(some(frames, 4)) == Stored(), "it has a row, inside of the gap"
    store.fold()
    assert store.store(some(frames, 4)) == Stored(), "and was cut out of it"
    first, last, cause, records, size, recovered = gap(frames, 2, 3, recovered=4)
    own = (first, last, cause, records + 4, size + frames[3].bytes, recovered)
    assert gaps(bench) == [own, gap(frames, 5, 7)]
    assert (lost(bench), bench.folded()) == (5 + 18, 1 + 4 + 8)
    assert store.store(some(frames, 2, 3, 5, 7)) == Stored(frames=4, stored=17)
    store.fold()
    assert store.store(some(frames, 6)) == Stored(frames=1, stored=6)
    store.fold()
    assert [row[:2] for row in gaps(bench)] == [(None, None)] * 2
    assert sum(row[3] for row in gaps(bench)) == sum(row[5] for row in gaps(bench)) == 27
    assert sum(row[4] for row in gaps(bench)) == sum(frame.bytes for frame in frames[1:7])
    assert (lost(bench), bench.folded(), bench.up_to()) == (0, 36, 8)
    assert store.store(frames) == Stored()


def test_what_is_missing_at_a_runs_end_the_next_run_tells(bench: Bench) -> None:
    frames, later = sent(2, 3, 4, 5), sent(1, 1, run=LATER_RUN)
    store = bench.open()
    store.store(some(frames, 1, 2))
    assert store.fold() == [], "more may come"
    store.store([replace(frame, previous=end_of(frames)) for frame in later])
    assert store.fold() == [hole(frames, 3, 4)]
    assert store.give_up([hole(frames, 3, 4)]) == [hole(frames, 3, 4)]
    assert store.fold() == []
    assert (bench.up_to(), gaps(bench), lost(bench)) == (4, [gap(frames, 3, 4)], 9)
    assert store.store([*frames, *later]) == Stored(frames=2, stored=9)
    assert store.fold() == []
    assert (lost(bench), bench.folded(), bench.up_to(LATER_RUN)) == (0, 14, 2)


def test_a_run_of_which_nothing_came(bench: Bench) -> None:
    frames, later = sent(2, 3), sent(1, run=LATER_RUN)
    store = bench.open()
    store.store([replace(later[0], previous=end_of(frames))])
    assert give_up(store) == [hole(frames, 1, 2)]
    assert (bench.up_to(), gaps(bench), lost(bench)) == (2, [gap(frames, 1, 2)], 5)


def test_a_note_that_was_stale_hides_no_frame(bench: Bench) -> None:
    """It says less than was handed over; another one, met later, says still less."""
    frames, later = sent(1, 2, 3, 4, 5, 6), sent(1, 1, run=LATER_RUN)
    store = bench.open()
    store.store(some(frames, 1))
    store.store([replace(later[0], previous=end_of(frames[:3]))])
    bench.open().store([replace(later[1], previous=end_of(frames[:2]))])
    assert store.fold() == [hole(frames, 2, 3)]
    assert store.store(some(frames, 6)) == Stored(frames=1, stored=6)
    assert give_up(store) == [hole(frames, 2, 5)]
    assert store.store(frames) == Stored(frames=4, stored=14)
    store.fold()
    assert (bench.up_to(), bench.folded(), lost(bench)) == (6, 21, 0)


def test_the_collector_knows_why(bench: Bench) -> None:
    frames = sent(1, 2, 3)
    store = bench.open()
    store.store([frames[0], replace(frames[2], hole="spool damaged")])
    assert give_up(store) == [hole(frames, 2, 2, "spool damaged")]
    assert gaps(bench) == [(2, 2, "spool damaged", 2, size_of(frames[1:2])[1], 0)]


def test_a_hole_without_records_takes_a_late_frame_all_the_same(bench: Bench) -> None:
    """Such a frame is there for what its header says: here, that something was lost."""
    frames = sent(1, 0, 1)
    store = bench.open()
    store.store(some(frames, 1, 3))
    assert give_up(store) == [hole(frames, 2, 2)]
    assert (gaps(bench), lost(bench), bench.up_to()) == ([(2, 2, CAUSE, 0, 0, 0)], 0, 3)
    late = replace(frames[1], gaps=(Gap("connection lost", 7, 70),))
    assert store.store([late]) == Stored(frames=1, lost=7)
    store.fold()
    assert store.store([late]) == Stored()
    assert lost(bench) == 7


@pytest.mark.parametrize("folded_between", [True, False])
@pytest.mark.parametrize("missing", [3, 4])
def test_what_was_lost_in_hand_is_not_missing_twice(
    bench: Bench, missing: int, folded_between: bool
) -> None:
    """Frame 2 was made again without what a dead connection held: its own gap has said it."""
    frames = sent(1, 5, 1, 1, 1)
    again = replace(test_store.batch(2, 200, 201), gaps=(Gap("connection lost", 3, 15),))
    again = replace(again, records_before=1, bytes_before=frames[1].bytes_before)
    store = bench.open()
    store.store([frames[0], again])
    if folded_between:
        store.fold()
    store.store([frame for frame in frames[2:] if frame.number != missing])
    [found] = give_up(store)
    assert (found.first, found.last, found.records) == (missing, missing, 1)
    assert lost(bench) == 3 + 1


# ── what is not given up ────────────────────────────────────────────────────────────────


def test_what_came_meanwhile_is_no_gap(bench: Bench) -> None:
    frames = sent(1, 2, 3, 4, 5, 6, 7, 8)
    store = bench.open()
    store.store(some(frames, 1, 3, 8))
    holes = store.fold()
    assert holes == [hole(frames, 2, 2), hole(frames, 4, 7)]
    store.store(some(frames, 2, 6))
    assert store.give_up(holes) == [], "one is filled; of the other the rest may come, too"
    assert store.fold() == [hole(frames, 4, 5), hole(frames, 7, 7)]
    assert store.give_up([hole(frames, 7, 7)]) == [hole(frames, 7, 7)]
    assert store.fold() == [hole(frames, 4, 5)]
    assert (bench.up_to(), gaps(bench), lost(bench)) == (3, [gap(frames, 7, 7)], 7)
    assert store.store(frames) == Stored(frames=3, stored=16)
    assert store.fold() == []
    assert (bench.up_to(), bench.folded(), lost(bench)) == (8, 36, 0)
    assert gaps(bench) == [(None, None, CAUSE, 7, frames[6].bytes, 7)]


@pytest.mark.parametrize("limit", ["FOLD_FRAMES_MAX", "STEP_FRAMES_MAX"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_few_rows_are_read_at_once(
    bench: Bench, size: int, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not read is not missing."""
    monkeypatch.setattr(f"appliance.stores.folding.{limit}", size)
    frames, later = sent(*range(1, 13)), sent(1, run=LATER_RUN)
    came = some(frames, 1, 2, 3, 5, 6, 8, 9, 10)
    store = bench.open()
    store.store([*came, replace(later[0], previous=end_of(frames))])
    for _ in range(40):
        store.give_up([one for one in store.fold() if one.first >= 7])
    for _ in range(40):
        give_up(store)
    expected = [gap(frames, 4, 4), gap(frames, 7, 7), gap(frames, 11, 12)]
    assert (gaps(bench), bench.up_to()) == (expected, 12)
    assert bench.folded() == size_of(came)[0]


@pytest.mark.parametrize(("came", "left", "known"), [(2, 3, None), (3, 2, 2)])
def test_sums_that_nobody_knows(
    sql_bench: SQLBench, came: int, left: int, known: int | None
) -> None:
    """Rows that an older version has stored: the size of the hole before one is unknown, not 0.

    What came of it may tell the size of the rest.
    """
    frames = sent(1, 2, 3, 4, 5, 6)
    store = sql_bench.open()
    store.store(some(frames, 1, 4))
    sql_bench.query("UPDATE nfl_frames SET records_before = NULL, bytes_before = NULL")
    unknown = replace(hole(frames, 2, 3), records=None, bytes=None)
    assert store.fold() == [unknown]
    assert give_up(store) == [unknown]
    assert gaps(sql_bench) == [(2, 3, CAUSE, None, None, 0)]
    assert lost(sql_bench) == 0
    store.store(some(frames, came, 6))
    store.fold()
    first, *_ = gaps(sql_bench)
    assert (first[:2], first[3], first[5]) == ((left, left), known and known + came, came)
    assert lost(sql_bench) == (known or 0)
    store.store(some(frames, left, 5))
    store.fold()
    assert [(*row[:4], row[5]) for row in gaps(sql_bench)] == [(None, None, CAUSE, 5, 5)]
    assert (sql_bench.up_to(), sql_bench.folded(), lost(sql_bench)) == (6, 21, 0)


def test_when_a_gap_was(sql_bench: SQLBench) -> None:
    """From the last time before it to the first behind it."""
    frames = [
        replace(frame, first_received=RECEIVED_AT + n, last_received=UNTIL + n)
        for n, frame in enumerate(sent(1, 1, 1, 1, 1))
    ]
    store = sql_bench.open()
    store.store(some(frames, 1, 3, 5))
    store.fold()
    give_up(store)
    rows = sql_bench.query("SELECT began_at, ended_at FROM nfl_gaps ORDER BY first")
    assert [tuple(str(at)[11:22] for at in row) for row in rows] == [
        ("22:13:23.50", "22:13:22.25"),  # they overlap: a frame lasts longer than a second here
        ("22:13:25.50", "22:13:24.25"),
    ]


def test_gaps_are_listed_over_any_database(sql_bench: SQLBench) -> None:
    frames = sent(1, 2, 3, 4)
    store = sql_bench.open()
    assert isinstance(store, LedgerStore)
    assert isinstance(store, GapList)
    never = (Gap("c" * 40, 5, 50, RECEIVED_AT - 10, RECEIVED_AT - 5), Gap("cut"))
    store.store([frames[0], replace(frames[3], gaps=never, hole="h" * 40)])
    give_up(store)
    store.store(some(frames, 2))
    store.fold()
    found = list(store.newest_gaps(GapsWanted()))
    assert [(gap.cause, gap.records, gap.recovered) for gap in found] == [
        ("h" * 32, 5, 2),
        ("cut", None, 0),
        ("c" * 32, 5, 0),
    ]
    assert found[0].run == RUN.hex()
    assert (found[0].first, found[0].last, found[0].bytes) == (3, 3, size_of(frames[1:3])[1])
    assert (found[2].began, found[2].ended) == (
        "2023-11-14 22:13:10.250000",
        "2023-11-14 22:13:15.250000",
    )
    assert store.sum_gaps(GapsWanted()) == GapSums(3, 3 + 5, 1)
    assert store.sum_gaps(GapsWanted(since=RECEIVED_AT - 5)) == GapSums(3, 8, 1)
    assert store.sum_gaps(GapsWanted(since=RECEIVED_AT - 4)) == GapSums(2, 3, 1)
    store.store(frames)
    store.fold()
    assert store.sum_gaps(GapsWanted()) == GapSums(2, 5, 1)
    assert store.sum_gaps(GapsWanted(all=True)) == GapSums(3, 5, 1)
    sql_bench.query("UPDATE nfl_gaps SET began_at = NULL, ended_at = NULL")
    assert len(list(store.newest_gaps(GapsWanted(since=UNTIL + 1)))) == 2, "it may have been then"
    store.close()


# ── crashes, and others at the same time ────────────────────────────────────────────────


@pytest.mark.parametrize("verb", ["give_up", "fold"])
def test_a_crash_at_any_call(bench: Bench, verb: str) -> None:
    """Giving up, and folding what fills a gap: done or not, and repeated it is done once."""
    total = 0
    for call in range(1, CALLS_MAX):
        run = call.to_bytes(16, "big")
        frames = sent(1, 2, 3, 4, 5, 6, run=run)
        store, beat = bench.open(), At(call, crash)
        store.store(some(frames, 1, 6))
        holes = store.fold()
        if verb == "fold":
            store.give_up(holes)
            store.store(some(frames, 3))
        dying = bench.open(beat)
        try:
            dying.give_up(holes) if verb == "give_up" else dying.fold()
        except Crash:
            pass
        dying.close()
        store.give_up(holes)
        store.fold()
        missing = 14 if verb == "give_up" else 11
        assert (bench.up_to(run), lost(bench, run)) == (6, missing), f"at call {call}"
        total += missing
        rows = gaps(bench)
        assert sum(row[3] - row[5] for row in rows) == total, f"at call {call}"
        assert store.store(frames).frames == (4 if verb == "give_up" else 3)
        store.fold()
        assert (bench.folded(run), lost(bench, run)) == (21, 0), f"at call {call}"
        total -= missing
        if beat.calls_left > 0:
            return
    pytest.fail("it makes more calls than expected")


def meet(
    bench: Bench, beat: At, act: Callable[[Store], Any], other: Callable[[Store], Any]
) -> None:
    """One stands still where its beat says, while the other does its part."""
    reached, go_on = threading.Event(), threading.Event()
    beat.action = partial(stand_still, reached, go_on)

    def stand() -> None:
        store = bench.open(beat)
        insist(act, store)
        store.close()
        reached.set()

    def follow() -> None:
        reached.wait()
        timer = threading.Timer(BLOCKED_S, go_on.set)  # it may have to wait for the first one
        timer.start()
        store = bench.open(no_beat)
        insist(other, store)
        store.close()
        go_on.set()
        timer.cancel()

    together(stand, follow)


@pytest.mark.parametrize("first", ["give_up", "store", "give_up, then store and fold"])
def test_giving_up_and_storing_meet_at_every_point(bench: Bench, first: str) -> None:
    """One stands still at its n-th call while the other goes on: nothing lost, nothing twice."""
    for call in range(1, CALLS_MAX):
        run, where = call.to_bytes(16, "big"), f"at call {call}"
        frames = sent(1, 2, 3, 4, run=run)
        store, beat = bench.open(), At(call, crash)
        store.store(some(frames, 1, 4))
        holes, late = store.fold(), some(frames, 2)

        def give_up(store: Store, holes: Sequence[Hole] = holes) -> None:
            store.give_up(holes)

        def fill(store: Store, late: Sequence[Batch] = late) -> None:
            store.store(late)

        def fill_and_fold(store: Store, frames: Sequence[Batch] = frames) -> None:
            store.store(frames)
            store.fold()

        acts = {"give_up": (give_up, fill), "store": (fill, give_up)}
        meet(bench, beat, *acts.get(first, (give_up, fill_and_fold)))
        store.fold()
        left = 0 if first not in acts else 1
        assert lost(bench, run) in (0, 3 * left), where  # not given up, or frame 3 is missing
        assert store.store(frames).frames == left, where
        assert store.fold() == [], where
        assert (bench.up_to(run), bench.folded(run), lost(bench, run)) == (4, 10, 0), where
        if beat.calls_left > 0:
            return
    pytest.fail("it makes more calls than expected")


@pytest.mark.parametrize("other", ["store", "fold", "store and fold"])
def test_folding_meets_others_at_every_point(bench: Bench, other: str) -> None:
    """What follows up_to is seen before the lock; meanwhile a gap below fills, or another folds."""
    for call in range(1, CALLS_MAX):
        run, where = call.to_bytes(16, "big"), f"at call {call}"
        frames = sent(1, 2, 3, 4, 5, run=run)
        store, beat = bench.open(), At(call, crash)
        store.store(some(frames, 1, 3))
        give_up(store)
        assert (bench.up_to(run), lost(bench, run)) == (3, 2), where
        store.store(some(frames, 4, 5))

        def act(store: Store, frames: Sequence[Batch] = frames) -> None:
            if "store" in other:
                assert store.store(some(frames, 2)).frames == 1
            if "fold" in other:
                store.fold()

        meet(bench, beat, lambda store: store.fold(), act)
        assert store.store(frames).frames == (0 if "store" in other else 1), where
        store.fold()
        assert (bench.up_to(run), bench.folded(run), lost(bench, run)) == (5, 15, 0), where
        assert bench.waiting() == [], where
        if beat.calls_left > 0:
            return
    pytest.fail("it makes more calls than expected")


def test_all_at_once_from_several_hosts(bench: Bench) -> None:
    """Storing, folding and giving up at random: in the end all is there, and nothing is missing."""
    seed = random.randrange(2**32)
    print("seed", seed)
    frames = sent(*[n % 4 for n in range(1, 25)])

    def host(dice: random.Random) -> int:
        store = bench.open()
        stored = 0
        for _ in range(8):
            stored += insist(store.store, dice.sample(frames, 4)).frames
            insist(store.give_up, insist(store.fold))
        store.close()
        return stored

    stored = sum(together(*[partial(host, random.Random(seed + n)) for n in range(3)]))
    store = bench.open()
    give_up(store)
    rows = gaps(bench)
    missing = sum(row[3] - row[5] for row in rows)
    assert bench.folded() + missing == size_of(frames[: bench.up_to()])[0]
    assert lost(bench) == missing
    stored += store.store(frames).frames
    store.fold()
    assert stored == len(frames)
    assert (bench.up_to(), bench.folded(), lost(bench)) == (24, size_of(frames)[0], 0)
    assert sorted(row[0] for row in bench.rows()) == sorted(
        row[0] for frame in frames for row in frame.rows
    )
