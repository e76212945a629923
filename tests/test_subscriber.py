"""A subscriber's piece of work, and what goes wrong in it: over fake queue and fake store.

Rows are made by the real RowMaker; what is compared is what the database has in the end.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from appliance import backoff, signals, subscriber
from appliance.batch import Batch, Stored
from appliance.contracts import NO_RECORD, Hold, Hole, Lease
from appliance.errors import Rejected, Unavailable
from appliance.frame import Buffer, Frame, Gap, Header, RunEnd, checksum, decode, encode_header
from appliance.pace import LEASE_BYTES_MIN, LEASE_BYTES_START, LEASE_S_MIN
from appliance.rows import RowMaker
from appliance.settings import Column, Filter
from appliance.subscriber import (
    FOLD_EARLIER_S_MAX,
    FOLD_INTERVAL_S,
    FOLD_REST_S,
    LOOK_FRAMES_MAX,
    Subscriber,
)
from tests.fake_queue import Fault, Killed, MemoryQueue, MemoryRedis
from tests.fake_role import FakeClock, FakeGauge, FakeWish
from tests.fake_store import MemoryDatabase, MemoryStore, refuse_nothing

CHANCE = 0.5
RUN = "0" * 31 + "1"
COLUMNS = {
    "source": Column(type="VARCHAR(32)", meta="source"),
    "team": Column(type="VARCHAR(64)", path="team"),
    "raw": Column(type="LONGTEXT", path=""),
}
RAW_ONLY = {name: COLUMNS[name] for name in ("source", "raw")}


def item(
    number: int, body: bytes, source: str = "tweets", before: tuple[int, int] = (0, 0), **more: Any
) -> bytes:
    """A frame as it lies in the queue."""
    header = Header(
        run=RUN,
        number=number,
        source=source,
        records=body.count(b"\n"),
        records_before=before[0],
        bytes_before=before[1],
        body_bytes=len(body),
        crc=checksum(body),
        first_received=1.0,
        last_received=2.0,
        **more,
    )
    return encode_header(header) + body


class CountingStore(MemoryStore):
    """Remembers when it was asked to do what."""

    def __init__(self, database: MemoryDatabase, clock: FakeClock) -> None:
        super().__init__(database)
        self.folds: list[float] = []
        self.asked: list[list[int]] = []
        self.prepared = 0
        self.given_up: list[Sequence[Hole]] = []
        self.fold_error: Unavailable | None = None
        self.seconds_a_byte = 0.0
        self._clock = clock

    def prepare(self) -> None:
        self.prepared += 1
        super().prepare()

    def store(self, batches: Sequence[Batch]) -> Stored:
        self.asked.append([batch.number for batch in batches])
        stored = super().store(batches)
        rows_s = self.seconds_a_byte * sum(batch.bytes for batch in batches) * bool(stored.frames)
        self._clock.now += rows_s
        return replace(stored, rows_s=rows_s)

    def fold(self) -> list[Hole]:
        self.folds.append(self._clock.now)
        if self.fold_error:
            raise self.fold_error
        return super().fold()

    def give_up(self, holes: Sequence[Hole]) -> list[Hole]:
        self.given_up.append(holes)
        return super().give_up(holes)


class TimedQueue(MemoryQueue):
    """A take that finds nothing takes its time; `before_confirm` runs at each confirm."""

    def __init__(self, server: MemoryRedis, clock: FakeClock) -> None:
        super().__init__(server, "subscriber")
        self.takes: list[tuple[int, float]] = []
        self.took_at: list[float] = []
        self.looks: list[int] = []
        self.before_confirm: Callable[[], None] = lambda: None
        self.behind_look: Callable[[], Any] = lambda: None
        self._clock = clock

    def take(self, bytes_max: int, wait_s: float) -> Lease | None:
        self.takes.append((bytes_max, wait_s))
        self.took_at.append(self._clock.now)
        lease = super().take(bytes_max, wait_s)
        self._clock.sleep(0.01 if lease else wait_s)
        return lease and replace(lease, items=shown([*lease.items]))

    def confirm(self, lease: Lease) -> None:
        self.before_confirm()
        super().confirm(lease)

    def headers(self, frames_max: int) -> list[bytes]:
        self.looks.append(frames_max)
        lines = super().headers(frames_max)
        self.behind_look()
        return lines


def shown(items: list[Buffer]) -> Iterator[Buffer]:
    """Each of the items until the next one, in the same memory (see contracts.Lease)."""
    room = bytearray(max(map(len, items)))
    for item in items:
        room[: len(item)] = item
        yield memoryview(room)[: len(item)]
        room[:] = bytes(len(room))


class World:
    """A queue, a database and one subscriber after the other."""

    def __init__(self, lease_bytes_max: int = 10_000) -> None:
        self.clock = FakeClock()
        self.redis = MemoryRedis()
        self.database = MemoryDatabase()
        self.lease_bytes_max = lease_bytes_max
        self.gauge = FakeGauge()
        self.others: list[str] = []
        self.born()

    def born(self, checkpoint: Callable[[str], None] = lambda _step: None) -> None:
        """A new subscriber's process."""
        self.wish = FakeWish(self.clock)
        self.queue = TimedQueue(self.redis, self.clock)
        self.store = CountingStore(self.database, self.clock)
        words = Filter(path="team", any=("packers", "bears"))
        self.maker = RowMaker(COLUMNS, "json", (words,), "tweets")
        self.subscriber = Subscriber(
            "1",
            self.queue,
            self.store,
            {"tweets": self.maker},
            self.other,
            self.gauge,
            self.wish,
            lease_bytes_max=self.lease_bytes_max,
            checkpoint=checkpoint,
            chance=lambda: CHANCE,
            monotonic=self.clock,
        )

    def other(self, source: str) -> RowMaker:
        self.others.append(source)
        return RowMaker(RAW_ONLY, "text", (), source)

    def push(self, *items: bytes) -> None:
        self.redis.working += items
        self.redis.bytes += sum(map(len, items))

    def run(self, stop_after_s: float) -> None:
        self.clock.at(stop_after_s, self.wish.ask_to_drain)
        self.subscriber.run()

    def die_and_sweep(self) -> int:
        """The subscriber's connection is gone; recovery gives its frames back."""
        self.queue.close()
        return MemoryQueue(self.redis, "recovery").sweep()

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return self.database.tables.rows

    def raws(self) -> list[str]:
        return [row[-1] for row in self.rows]

    def frames(self) -> list[int]:
        """Numbers of the frames that are accounted for."""
        tables = self.database.tables
        folded = [n for run in tables.runs.values() for n in range(1, run.up_to + 1)]
        return sorted([number for _run, number in tables.frames] + folded)

    def is_empty(self) -> bool:
        return not self.redis.working and not self.redis.busy and not self.redis.bytes


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.DEBUG)
    return World()


def tweet(team: str, n: int) -> bytes:
    return b'{"team":"%s","n":%d}\n' % (team.encode(), n)


# ── one lease ───────────────────────────────────────────────────────────────────────────


def test_frames_become_rows_and_are_forgotten(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Packers", 2) + tweet("Bears", 3)))
    world.run(5)
    assert world.rows == [
        ("tweets", "Bears", '{"team":"Bears","n":1}'),
        ("tweets", "Packers", '{"team":"Packers","n":2}'),
        ("tweets", "Bears", '{"team":"Bears","n":3}'),
    ]
    assert world.store.asked == [[1, 2]]
    assert world.frames() == [1, 2]
    assert world.is_empty()


def test_leases_are_of_the_size_that_was_asked_for(world: World) -> None:
    items = [item(number, tweet("Bears", number)) for number in range(1, 7)]
    world.lease_bytes_max = 2 * len(items[0])
    world.born()
    world.push(*items)
    world.run(5)
    assert world.store.asked == [[1, 2], [3, 4], [5, 6]]
    assert {bytes_max for bytes_max, _wait_s in world.queue.takes} == {world.lease_bytes_max}


def test_nothing_is_waited_for_longer_than_until_the_next_fold(world: World) -> None:
    world.clock.at(3, lambda: world.push(item(1, tweet("Bears", 1))))
    world.run(11)
    waits = [wait_s for _bytes_max, wait_s in world.queue.takes]
    assert waits[:3] == pytest.approx([0, 4.5, 1.5]), "the first fold is due at once"
    assert max(waits) <= subscriber.WAIT_S_MAX
    assert [at - 1000 for at in world.store.folds] == pytest.approx([0, 4.5, 9], abs=0.1)
    assert world.is_empty()


def test_a_frame_is_not_kept_behind_its_batch(world: World) -> None:
    """Or the lease would be in memory twice while the database works."""
    world.push(*(item(n, tweet("bears", n)) for n in range(1, 4)))
    bodies: list[bytes] = []
    kept: list[tuple[int, int]] = []

    def unpacked(lease: Lease) -> Iterator[bytes]:
        for taken in lease.items:
            fresh = bytes(taken)
            yield fresh
            kept.append((sys.getrefcount(fresh), sys.getrefcount(bodies[-1])))

    def take(bytes_max: int, wait_s: float) -> Lease | None:
        lease = TimedQueue.take(world.queue, bytes_max, wait_s)
        return lease and replace(lease, items=unpacked(lease))

    def batch(frame: Frame) -> Batch:
        bodies.append(frame.body)
        return RowMaker.batch(world.maker, frame)

    world.queue.take = take  # type: ignore[method-assign]
    world.maker.batch = batch  # type: ignore[method-assign]
    world.run(stop_after_s=3)
    assert world.frames() == [1, 2, 3]
    assert kept == [(2, 2)] * 3, "of the item and of its body: ours, and the one of the call"


def test_a_lease_that_breaks_off_while_it_is_read_is_dropped_whole(world: World) -> None:
    """Nothing of it is stored, nothing forgotten: it comes again under another name."""
    world.push(*(item(n, tweet("bears", n)) for n in range(1, 4)))
    broken: list[str] = []

    def breaks_off(lease: Lease) -> Iterator[bytes]:
        yield next(iter(lease.items))
        broken.append(lease.owner)
        world.queue.close()
        raise Unavailable("Redis is gone")

    def take(bytes_max: int, wait_s: float) -> Lease | None:
        lease = TimedQueue.take(world.queue, bytes_max, wait_s)
        return lease if broken or lease is None else replace(lease, items=breaks_off(lease))

    world.queue.take = take  # type: ignore[method-assign]
    world.run(stop_after_s=3)
    assert len(broken) == 1
    assert world.frames() == []
    assert [*world.redis.busy] == broken
    assert world.die_and_sweep() == 3
    world.born()
    world.run(stop_after_s=3)
    assert world.frames() == [1, 2, 3]


def test_a_lease_whose_items_are_gone_is_given_back_whole(world: World) -> None:
    items = [item(n, tweet("bears", n)) for n in range(1, 4)]
    world.push(*items)
    world.database.away = Unavailable("the database is away")
    world.run(stop_after_s=3)
    assert [*world.redis.working] == items


def test_leases_get_smaller_where_storing_takes_long(world: World) -> None:
    world.lease_bytes_max = 8 * LEASE_BYTES_MIN
    world.born()
    row = b'{"team":"bears","text":"%s"}\n' % (b"x" * 1024)
    items = [item(n, row * (LEASE_BYTES_MIN // len(row))) for n in range(1, 41)]
    world.push(*items)
    world.store.seconds_a_byte = 4 * LEASE_S_MIN / world.lease_bytes_max
    world.run(stop_after_s=60)
    allowed = [size for size, _ in world.queue.takes]
    assert allowed[0] == LEASE_BYTES_START  # which takes twice as long as it may
    assert allowed[-1] == pytest.approx(world.lease_bytes_max // 4, rel=0.01)
    assert world.frames() == [*range(1, 41)]


def test_what_was_stored_already_teaches_nothing_about_the_size_of_leases(world: World) -> None:
    world.lease_bytes_max = 8 * LEASE_BYTES_MIN
    world.born()
    row = b'{"team":"bears","text":"%s"}\n' % (b"x" * 1024)
    frame = item(1, row * (LEASE_BYTES_START // len(row) + 1))  # a lease of its own
    world.push(frame, frame)
    world.store.seconds_a_byte = LEASE_S_MIN / LEASE_BYTES_START
    world.run(stop_after_s=3)
    assert {size for size, _ in world.queue.takes} == {LEASE_BYTES_START}
    assert world.frames() == [1]


def test_numbers_for_status(world: World) -> None:
    body = tweet("Bears", 1) + tweet("Jets", 2) + b"\n" + b"no JSON\n" + tweet("Packers", 3)
    lost = (Gap("connection lost", 4, 99),)
    world.push(item(1, body, gaps=lost, rejected={}), item(2, tweet("Bears", 4)))
    world.run(5)
    numbers = world.gauge.numbers
    counts = {name: numbers[name] for name in ("stored", "filtered", "dead", "lost", "records")}
    assert counts == {"stored": 3, "filtered": 1, "dead": 1, "lost": 4, "records": 3}
    assert numbers["works"] == 1
    assert [letter.raw for letter in world.database.tables.dead.values()] == [b"no JSON"]
    assert world.gauge.beats > 3


def test_the_age_of_what_is_in_hand_and_of_what_is_stored(world: World) -> None:
    """Frames came from 1.0 to 2.0 s; 0 means that nothing is in hand."""
    seen: list[tuple[str, int, int]] = []

    def look(step: str) -> None:
        numbers = world.gauge.numbers
        seen.append((step, numbers["in_hand_ms"], numbers["stored_ms"]))

    world.gauge.numbers["in_hand_ms"] = 500  # of a predecessor that was killed
    world.born(look)
    world.push(item(1, tweet("Bears", 1)))
    world.run(2)
    assert seen == [("taken", 0, 0), ("stored", 1000, 0), ("confirmed", 0, 2000)]


def test_frames_that_the_store_had_are_counted_by_nobody(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.run(2)
    world.born()
    world.push(item(1, tweet("Bears", 1)))
    world.run(2)
    assert world.gauge.numbers["stored"] == 1
    assert len(world.rows) == 1


def test_a_row_that_the_database_rejects_costs_one_row(world: World) -> None:
    world.database.refuse = lambda row: Rejected("too long", "data") if '"n":2' in row[2] else None
    world.push(item(1, b"".join(tweet("Bears", n) for n in (1, 2, 3))))
    world.run(2)
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":3}']
    letters = world.database.tables.dead.values()
    assert [(letter.position, letter.code) for letter in letters] == [(1, "data")]
    assert (world.gauge.numbers["stored"], world.gauge.numbers["dead"]) == (2, 1)


def test_a_thousand_rejected_in_a_row_are_said_once_and_nothing_stops(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.database.refuse = lambda row: Rejected("column 'team' is too short", "too long")
    for number in range(1, 6):
        world.push(item(number, b"".join(tweet("Bears", n) for n in range(400))))

    def mend() -> None:
        world.database.refuse = refuse_nothing
        world.push(item(6, tweet("Bears", 1)))

    world.clock.at(1, mend)
    world.run(stop_after_s=2)
    assert world.is_empty()
    assert (world.gauge.numbers["dead"], world.gauge.numbers["stored"]) == (2000, 1)
    said, over = world.gauge.refusals
    assert said.startswith("1200 records in a row became dead letters: column 'team' is too short;")
    assert over == ""
    assert [r.message for r in caplog.records if r.levelno == logging.ERROR] == [said]
    assert "rows are stored again after 2000 dead letters" in caplog.messages


def test_an_item_that_cannot_be_read_is_set_aside_and_its_neighbours_are_stored(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = item(2, tweet("Bears", 2))[:-3] + b"?}\n"
    alien = b"not a frame of ours"
    world.push(item(1, tweet("Bears", 1)), damaged, alien, item(3, tweet("Bears", 3)))
    world.run(2)
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":3}']
    assert world.redis.bad == [damaged, alien]
    assert world.is_empty()
    assert f"frame 2 of run {RUN}" in world.gauge.errors[0]
    assert len([r for r in caplog.records if "set aside" in r.getMessage()]) == 2


def test_a_lease_of_bad_items_only(world: World) -> None:
    world.push(b"bad one", b"bad two")
    world.run(2)
    assert world.redis.bad == [b"bad one", b"bad two"]
    assert world.is_empty()


def test_a_source_that_is_no_longer_configured_is_stored_as_text(world: World) -> None:
    world.push(item(1, b"any text\n", "gone"), item(2, b"more\n", "gone"), item(3, b"x\n", "old"))
    world.run(2)
    assert world.rows == [("gone", "any text"), ("gone", "more"), ("old", "x")]
    assert world.others == ["gone", "old"]  # one row maker each
    assert world.database.tables.runs[bytes.fromhex(RUN)].source == "gone"


# ── the store is away ───────────────────────────────────────────────────────────────────

AWAY = Unavailable("it is down", "start it")


def back_again(world: World) -> None:
    world.database.away = None


def test_the_same_lease_is_tried_until_the_store_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))
    world.born(lambda step: setattr(world.database, "away", AWAY) if step == "taken" else None)
    world.clock.at(60, lambda: back_again(world))
    world.run(70)
    assert len(world.store.asked) > 5
    assert world.store.asked == [[1, 2]] * len(world.store.asked)
    waits = world.wish.waits
    assert waits[:-1] == [backoff.full_jitter(n, CHANCE) for n in range(len(waits) - 1)]
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":2}']
    assert world.is_empty()
    lines = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
    assert lines == [
        "waiting for the store: it is down → start it",
        "no longer waiting for the store: it is down",
    ]
    assert world.gauge.waits == [*["the store: it is down → start it"] * len(waits), ""]


def test_a_stop_while_the_store_is_away_gives_the_lease_back(world: World) -> None:
    items = [item(number, tweet("Bears", number)) for number in (1, 2, 3)]
    world.push(*items)
    world.born(lambda step: setattr(world.database, "away", AWAY) if step == "taken" else None)
    world.run(30)
    assert list(world.redis.working) == items
    assert not world.redis.busy
    assert world.clock.now == pytest.approx(1030)
    back_again(world)
    world.born()
    world.run(2)
    assert world.frames() == [1, 2, 3]
    assert world.is_empty()


def test_a_stop_with_the_queue_away_too_leaves_the_lease_to_recovery(world: World) -> None:
    items = [item(number, tweet("Bears", number)) for number in (1, 2)]
    world.push(*items)
    world.born(lambda step: setattr(world.database, "away", AWAY) if step == "taken" else None)
    world.clock.at(10, lambda: setattr(world.redis, "away", True))
    world.run(30)
    world.redis.away = False
    assert world.die_and_sweep() == 2
    assert list(world.redis.working) == items


def test_a_stop_finishes_the_lease_in_hand(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.born(lambda step: world.wish.ask_to_drain() if step == "taken" else None)
    world.subscriber.run()
    assert world.frames() == [1]
    assert world.is_empty()


def test_nothing_is_taken_before_the_store_is_prepared(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.database.away = Unavailable("access denied", "grant it", loud=True)
    world.clock.at(20, lambda: back_again(world))
    world.run(22)
    assert world.store.prepared > 3
    assert world.queue.took_at[0] >= 1020
    assert world.frames() == [1]
    assert world.gauge.errors == ["the store: access denied"]


def test_a_stop_while_the_store_cannot_be_prepared(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.database.away = AWAY
    world.run(20)
    assert len(world.redis.working) == 1
    assert world.queue.takes == []


# ── the queue is away ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_confirm_that_failed_behind_the_commit_stores_nothing_twice(
    world: World, caplog: pytest.LogCaptureFixture, when: Any
) -> None:
    items = [item(number, tweet("Bears", number)) for number in (1, 2)]
    world.push(*items)
    world.queue.fail(Fault(2, when))  # 1: the take, 2: the confirm
    world.run(2)
    assert world.frames() == [1, 2]
    assert world.gauge.numbers["works"] == 0
    assert "a lease was dropped" in caplog.text
    assert world.die_and_sweep() == (2 if when == "before" else 0)
    assert list(world.redis.working) == (items if when == "before" else [])
    world.born()
    world.run(2)
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":2}']
    assert world.gauge.numbers["stored"] == 2
    assert world.is_empty()


def test_frames_that_somebody_else_has_by_now_are_not_confirmed(world: World) -> None:
    """Its connection was cut while it stored; the sweep gave the lease to another subscriber."""
    world.push(item(1, tweet("Bears", 1)))

    def cut() -> None:
        world.queue.before_confirm = lambda: None
        world.redis.restart()
        MemoryQueue(world.redis, "recovery").sweep()

    world.queue.before_confirm = cut
    world.run(3)
    assert world.raws() == ['{"team":"Bears","n":1}']
    assert world.store.asked == [[1], [1]]
    assert world.is_empty()
    assert world.redis.connections_made == 3  # a new name after the error, and recovery's


def test_a_bad_item_that_there_is_no_room_for_is_lost_loudly_and_blocks_nobody(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.redis.bad_bytes_max = 4
    world.push(b"bad", b"worse", item(1, tweet("Bears", 1)))
    world.run(2)
    assert world.redis.bad == [b"bad"]
    assert world.frames() == [1]
    assert world.is_empty()
    assert caplog.text.count("it is lost, all 5 bytes: the list of bad items is full") == 1


def test_frames_of_another_store_are_not_taken(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.redis.store = "another's"
    world.clock.at(20, lambda: setattr(world.redis, "store", None))
    world.run(60)
    [first, *_] = world.queue.took_at
    assert first > 1015, "the clock began at 1000"
    assert world.frames() == [1]
    assert world.redis.store == world.database.identity
    assert caplog.text.count("belong to another store") == 2  # waiting, no longer waiting
    assert world.queue.owner


def test_an_item_that_cannot_be_set_aside_comes_back(world: World) -> None:
    items = [item(1, tweet("Bears", 1)), b"bad"]
    world.push(*items)
    world.queue.fail(Fault(2))
    world.run(2)
    assert world.rows == []
    assert world.die_and_sweep() == 2
    world.born()
    world.run(2)
    assert world.frames() == [1]
    assert world.redis.bad == [b"bad"]
    assert world.is_empty()


def test_the_queue_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.redis.away = True
    world.clock.at(60, lambda: setattr(world.redis, "away", False))
    world.run(70)
    waits = world.wish.waits
    assert waits[:-1] == [backoff.full_jitter(n, CHANCE) for n in range(len(waits) - 1)]
    assert world.frames() == [1]
    lines = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
    assert lines == [
        "waiting for the queue: the queue is away",
        "no longer waiting for the queue: the queue is away",
    ]


def test_a_stop_while_the_queue_is_away(world: World) -> None:
    world.redis.away = True
    world.run(20)
    assert world.clock.now == pytest.approx(1020)


# ── paused ──────────────────────────────────────────────────────────────────────────────


def pause(world: World, paused: int = 1) -> None:
    world.gauge.set("paused", paused)


def test_the_lease_in_hand_is_finished_and_nothing_is_taken_until_it_is_resumed(
    world: World,
) -> None:
    items = [item(number, tweet("Bears", number)) for number in (1, 2)]
    world.lease_bytes_max = len(items[0])
    world.born()
    world.push(*items)
    world.queue.before_confirm = lambda: pause(world)  # in the middle of the first lease
    found: list[Any] = []

    def resume() -> None:
        found.append((world.frames(), list(world.redis.working), dict(world.redis.busy)))
        found.append((len(world.queue.takes), len(world.store.folds), world.gauge.waits[-1]))
        world.queue.before_confirm = lambda: None
        pause(world, 0)

    world.clock.at(100, resume)
    world.run(103)
    assert found == [([1], items[1:], {}), (1, 1, signals.PAUSED)]
    assert world.frames() == [1, 2]
    assert world.gauge.waits == [signals.PAUSED, ""]
    resumed_after = world.queue.took_at[1] - 1100
    assert resumed_after == 0, "the parent nudges"


def test_it_beats_while_it_is_paused(world: World) -> None:
    pause(world)
    world.run(100)
    assert world.gauge.beats >= 100 / subscriber.WAIT_S_MAX
    assert set(world.wish.waits) == {subscriber.WAIT_S_MAX}


def test_a_stop_ends_it_while_it_is_paused_without_taking_anything(world: World) -> None:
    pause(world)
    world.push(item(1, tweet("Bears", 1)))
    world.run(10)
    assert world.clock.now == 1010
    assert (world.queue.takes, world.store.prepared, world.frames()) == ([], 0, [])
    assert len(world.redis.working) == 1


def test_a_queue_that_returns_while_it_is_paused_is_not_taken_from(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)))
    world.redis.away = True
    world.clock.at(10, lambda: pause(world))
    world.clock.at(20, lambda: setattr(world.redis, "away", False))
    world.clock.at(100, world.wish.ask_to_drain)
    world.subscriber.run()
    assert world.frames() == []
    assert len(world.redis.working) == 1
    assert world.gauge.waits[-1] == signals.PAUSED


# ── kills ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("step", ["taken", "stored", "confirmed"])
def test_killed_at_a_step_nothing_is_lost_or_doubled(world: World, step: str) -> None:
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))

    def checkpoint(done: str) -> None:
        if done == step:
            raise Killed

    world.born(checkpoint)
    with pytest.raises(Killed):
        world.subscriber.run()
    world.die_and_sweep()
    world.born()
    world.run(2)
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":2}']
    assert world.is_empty()


# ── fold ────────────────────────────────────────────────────────────────────────────────


def test_it_folds_now_and_then_idle_or_not(world: World) -> None:
    """By chance a little earlier (FOLD_EARLIER_S_MAX), so not at the moment of all others."""
    for second in range(0, 20, 2):
        world.clock.at(second, partial(world.push, item(second + 1, tweet("Bears", second))))
    world.run(42)
    gaps = [b - a for a, b in zip(world.store.folds, world.store.folds[1:], strict=False)]
    due_s = FOLD_INTERVAL_S - CHANCE * FOLD_EARLIER_S_MAX
    assert all(due_s <= gap <= due_s + 1 for gap in gaps)
    assert len(gaps) >= 42 // (FOLD_INTERVAL_S + 1)


def test_a_fold_accounts_for_what_is_stored(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))
    world.run(2)
    run = world.database.tables.runs[bytes.fromhex(RUN)]
    assert (run.up_to, run.records) == (2, 2)


def test_a_fold_that_the_store_refuses_is_no_problem(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.fold_error = Unavailable("lock wait timeout")
    world.push(item(1, tweet("Bears", 1)))
    world.clock.at(8, lambda: world.push(item(2, tweet("Bears", 2))))
    world.run(FOLD_REST_S + 2)
    [gap] = [b - a for a, b in pairwise(world.store.folds)]
    assert gap >= FOLD_REST_S
    assert world.frames() == [1, 2]
    assert set(world.gauge.errors) == {"lock wait timeout"}
    assert world.wish.waits == []
    assert world.gauge.waits == []


# ── what is missing ─────────────────────────────────────────────────────────────────────


def sent(*numbers: int, **more: Any) -> list[bytes]:
    """Frames of one record each, as a collector numbers and sums them."""
    size = len(tweet("Bears", 1))
    return [
        item(n, tweet("Bears", n), before=(n - 1, (n - 1) * size), **more)
        for n in numbers  # below 10: all of one size
    ]


def lost(world: World) -> list[tuple[Any, ...]]:
    """The gaps, and what is said of them."""
    assert world.gauge.numbers["lost"] == sum(gap.row.lost for gap in world.database.tables.found)
    return [(gap.row.span, gap.row.size) for gap in world.database.tables.found]


def test_what_is_missing_and_not_queued_is_said_and_becomes_a_gap(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """At the second fold, five seconds behind the one that met it; the next goes over it."""
    world.push(*sent(1, 2, 5, 6))
    world.run(FOLD_INTERVAL_S - 1)
    assert (lost(world), world.store.given_up) == ([], [])
    world.born()
    world.run(4 * FOLD_INTERVAL_S)
    size = len(tweet("Bears", 3) + tweet("Bears", 4))
    assert lost(world) == [((3, 4), (2, size))]
    assert len(world.store.given_up) == 1
    assert world.database.tables.runs[bytes.fromhex(RUN)].up_to == 6
    [said] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said.startswith(
        f"2 records ({size} bytes) of source tweets never came to the store, and wait nowhere:"
        f" frames 3 to 4 of run {RUN} (queue lost) → see: stream-daemon gaps"
    )
    assert world.gauge.errors == [said.partition(" →")[0]]


def test_what_waits_or_is_in_somebodys_hands_is_not_missing(world: World) -> None:
    """Also when it was given back by somebody else, in front of all the others."""
    other = MemoryQueue(world.redis, "other")
    world.push(*sent(1, 2))
    lease = other.take(1, 0)
    assert lease
    world.run(3 * FOLD_INTERVAL_S)
    assert world.frames() == [2]
    other.give_back(lease)
    world.born()
    world.store.fold_error = None
    world.run(FOLD_INTERVAL_S + 1)
    assert (world.frames(), lost(world), world.store.given_up) == ([1, 2], [], [])


def test_the_queue_is_looked_at_only_where_there_was_a_hole_before(world: World) -> None:
    world.push(*sent(1, 2))
    world.run(3 * FOLD_INTERVAL_S)
    assert world.queue.looks == []
    world.born()
    world.push(*sent(4))
    world.run(1)
    assert world.queue.looks == []
    world.born()
    world.clock.at(FOLD_INTERVAL_S - 1, partial(world.push, *sent(6, 9)))
    world.run(2 * (FOLD_INTERVAL_S - FOLD_EARLIER_S_MAX))
    assert world.queue.looks == [LOOK_FRAMES_MAX]
    assert lost(world) == [((3, 3), (1, 23))], "the others are met for the first time"


def test_what_comes_between_look_and_giving_up_is_no_gap(world: World) -> None:
    world.push(*sent(1, 3))
    late = RowMaker(COLUMNS, "json", (), "tweets").batch(decode(sent(2)[0]))
    world.queue.behind_look = lambda: MemoryStore(world.database).store([late])
    world.run(3 * FOLD_INTERVAL_S)
    assert len(world.store.given_up) == 1
    assert (world.frames(), lost(world)) == ([1, 2, 3], [])


def test_a_queue_that_does_not_answer_lets_nothing_be_given_up(world: World) -> None:
    world.push(*sent(1, 3))

    def no_answer() -> None:
        raise Unavailable("no answer")

    world.queue.behind_look = no_answer
    world.run(3 * FOLD_INTERVAL_S)
    assert (world.store.given_up, {*world.gauge.errors}) == ([], {"no answer"})
    world.born()
    world.run(3 * FOLD_INTERVAL_S)
    assert lost(world) == [((2, 2), (1, 23))]


def test_a_hole_without_records_is_not_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    size = len(tweet("Bears", 1))
    world.push(*sent(1), item(3, tweet("Bears", 2), before=(1, size)))
    world.run(3 * FOLD_INTERVAL_S)
    assert lost(world) == [((2, 2), (0, 0))]
    assert not [r for r in caplog.records if r.levelno == logging.ERROR]


def test_the_end_of_an_older_run_is_told_by_the_next_one(world: World) -> None:
    older = "0" * 32
    world.push(*sent(1, previous=RunEnd(older, 4, 40, 400)))
    world.run(3 * FOLD_INTERVAL_S)
    assert lost(world) == [((1, 4), (40, 400))]
    assert f"frames 1 to 4 of run {older}" in world.gauge.errors[0]


def test_a_drain_gives_up_at_its_end_what_is_missing(world: World) -> None:
    living = MemoryQueue(world.redis, "living")
    world.push(*sent(2))
    assert living.take(1, 0)
    world.push(*sent(1, 3, 6))
    assert drained(world)[0]
    assert lost(world) == [((4, 5), (2, 46))]
    assert world.database.tables.runs[bytes.fromhex(RUN)].up_to == 1, "2 is in somebody's hands"
    living.close()
    assert drained(world)[0]
    assert world.database.tables.runs[bytes.fromhex(RUN)].up_to == 6


# ── drain: what waits now, and no more ──────────────────────────────────────────────────


def drained(world: World) -> tuple[bool, list[tuple[int, int]]]:
    """Its answer, and the progress it told."""
    told: list[tuple[int, int]] = []
    return world.subscriber.drain(lambda done, frames: told.append((done, frames))), told


def bears(*numbers: int) -> list[bytes]:
    return [item(number, tweet("Bears", number)) for number in numbers]


def test_a_drain_stores_what_waits_and_folds(world: World) -> None:
    world.lease_bytes_max = 2 * len(bears(1)[0])
    world.born()
    world.push(*bears(1, 2, 3, 4))
    assert drained(world) == (True, [(0, 4), (2, 4), (4, 4)])
    assert world.frames() == [1, 2, 3, 4]
    assert world.database.tables.frames == {}, "folded"
    assert world.is_empty()
    assert world.gauge.numbers["prepared"] == 1


def test_a_drain_gives_back_what_the_dead_hold_and_leaves_the_living_theirs(world: World) -> None:
    dead, living = MemoryQueue(world.redis, "dead"), MemoryQueue(world.redis, "living")
    for queue, number in ((dead, 1), (living, 2)):
        world.push(*bears(number))
        assert queue.take(10_000, 0)
    dead.close()
    world.push(*bears(3))
    assert drained(world) == (True, [(0, 2), (2, 2)])
    assert world.frames() == [1, 3]
    assert list(world.redis.busy) == [living.owner]


def test_a_drain_of_nothing_asks_no_store(world: World) -> None:
    world.database.away = Unavailable("down")
    assert drained(world) == (True, [(0, 0)])
    assert world.store.prepared == 0


def test_a_busy_stream_does_not_keep_a_drain(world: World) -> None:
    more = iter(range(4, 1000))

    def push_another(step: str) -> None:
        if step == "taken":
            world.push(*bears(next(more)))

    world.lease_bytes_max = 1
    world.born(push_another)
    world.push(*bears(1, 2, 3))
    assert drained(world)[0]
    assert world.frames() == [1, 2, 3]
    assert len(world.redis.working) == 3


def test_what_others_take_meanwhile_is_theirs(world: World) -> None:
    other = MemoryQueue(world.redis, "other")

    def take_the_rest(step: str) -> None:
        if step == "taken":
            assert other.take(10_000, 0)

    world.lease_bytes_max = 1
    world.born(take_the_rest)
    world.push(*bears(1, 2, 3))
    assert drained(world) == (True, [(0, 3), (1, 3)])
    assert world.wish.waits == []


def test_a_drain_waits_for_the_store_until_its_end_and_gives_the_lease_back(world: World) -> None:
    def goes_away(step: str) -> None:
        if step == "taken":
            world.database.away = Unavailable("down", "start it")

    world.push(*bears(1, 2))
    world.born(goes_away)
    world.clock.at(60, world.wish.ask_to_drain)
    assert drained(world) == (False, [(0, 2)])
    assert world.clock.now >= 1060
    assert world.gauge.waits[-1] == "the store: down → start it"
    assert world.subscriber.awaited == "the store"
    assert len(world.redis.working) == 2
    assert not world.redis.busy


def test_a_drain_waits_for_the_queue_until_its_end(world: World) -> None:
    world.redis.away = True
    world.clock.at(60, world.wish.ask_to_drain)
    assert drained(world) == (False, [])
    assert world.gauge.waits[-1] == "the queue: the queue is away"
    assert world.subscriber.awaited == "the queue"


def test_a_drain_goes_on_when_the_store_comes_back_in_time(world: World) -> None:
    world.push(*bears(1))
    world.database.away = Unavailable("down")
    world.clock.at(30, lambda: setattr(world.database, "away", None))
    assert drained(world)[0]
    assert world.frames() == [1]


def test_a_drain_that_shall_end_finishes_its_lease(world: World) -> None:
    world.lease_bytes_max = 1
    world.born(lambda step: world.wish.ask_to_drain() if step == "taken" else None)
    world.push(*bears(1, 2))
    assert drained(world) == (False, [(0, 2), (1, 2)])
    assert world.frames() == [1]
    assert world.database.tables.frames == {}, "folded all the same"
    assert len(world.redis.working) == 1


@pytest.mark.parametrize("call", range(1, 7))
@pytest.mark.parametrize("when", ["before", "after"])
def test_whatever_fails_once_a_drain_stores_all_once(world: World, call: int, when: Any) -> None:
    """Also where it was the confirm that failed: the lease is dropped, and found again."""
    world.lease_bytes_max = 1
    world.born()
    world.push(*bears(1, 2))
    world.queue.fail(Fault(call, when))
    assert drained(world)[0]
    assert world.frames() == [1, 2]
    assert len(world.rows) == 2
    assert world.is_empty()


def test_a_dropped_lease_that_nobody_gives_back_is_left(world: World) -> None:
    """The queue still lists the connection that failed: nobody knows whose the frames are."""

    def fail() -> None:
        owner = world.queue.owner
        world.queue.close()
        world.redis.clients.add(owner)
        raise Unavailable("cut")

    world.push(*bears(1))
    world.queue.before_confirm = fail
    assert drained(world) == (False, [(0, 1)])
    assert world.wish.waits == [0.0, *subscriber.SWEEP_AGAIN_S]


@pytest.mark.parametrize("step", ["taken", "stored", "confirmed"])
def test_a_drain_that_is_killed_loses_and_doubles_nothing(world: World, step: str) -> None:
    def die(at: str) -> None:
        if at == step:
            raise Killed

    world.born(die)
    world.push(*bears(1, 2))
    with pytest.raises(Killed):
        drained(world)
    world.queue.close()
    world.born()
    assert drained(world)[0]
    assert world.frames() == [1, 2]
    assert len(world.rows) == 2
    assert world.is_empty()


# ── frames that others died with ────────────────────────────────────────────────────────

ALONE = "SIGSEGV SIGSEGV SIGSEGV"
OWNER = "subscriber-1"


def name_of(number: int) -> str:
    return f"{RUN}:{number}"


class WatchedStore(CountingStore):
    """Writes down what is in hand at each call of the database."""

    def __init__(self, world: World) -> None:
        super().__init__(world.database, world.clock)
        self.alone: list[int] = []
        self.seen: list[object] = []
        self._beat = lambda: self.seen.append(world.gauge.held())

    def store_one_by_one(self, batch: Batch, hold: Hold) -> Stored:
        self.alone.append(batch.number)
        return super().store_one_by_one(batch, hold)


def watch(world: World) -> WatchedStore:
    store = WatchedStore(world)
    world.subscriber._store = store
    return store


def test_what_is_in_hand_while_it_parses_and_stores(world: World) -> None:
    parsed: list[object] = []
    maker = world.subscriber._makers["tweets"]
    plain = maker.batch
    maker.batch = lambda frame: (parsed.append(world.gauge.held()), plain(frame))[1]  # type: ignore[method-assign]
    store = watch(world)
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))
    world.clock.at(1, lambda: world.push(item(3, tweet("Bears", 3))))
    world.run(2)
    frames = [(OWNER, name_of(number), NO_RECORD) for number in (1, 2, 3)]
    assert parsed == frames
    seen = [held for held in dict.fromkeys(store.seen) if held]
    assert seen == [(OWNER, "", NO_RECORD), frames[2]]  # all of a lease, or its only frame
    assert world.gauge.held() is None
    assert world.is_empty()


@pytest.mark.parametrize("step", ["taken", "stored", "confirmed"])
def test_nothing_is_in_hand_at_its_steps(world: World, step: str) -> None:
    held: list[object] = []
    world.born(lambda done: held.append(world.gauge.held()) if done == step else None)
    world.push(item(1, tweet("Bears", 1)))
    world.redis.attempts[name_of(2)] = ALONE
    world.push(item(2, tweet("Bears", 2)))
    world.run(2)
    assert held == [None]


def test_nothing_is_in_hand_while_the_store_is_waited_for(world: World) -> None:
    """An administrator who kills it then has killed it over no frame."""
    world.redis.attempts[name_of(2)] = ALONE
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))
    world.born(lambda step: setattr(world.database, "away", AWAY) if step == "taken" else None)
    held: list[object] = []
    for second in range(1, 60):
        world.clock.at(second, lambda: held.append(world.gauge.held()))
    world.clock.at(60, lambda: back_again(world))
    world.run(70)
    assert set(held) == {None}
    assert world.frames() == [1, 2]
    assert world.is_empty()


def test_nothing_is_in_hand_when_a_lease_was_dropped(world: World) -> None:
    world.push(item(1, tweet("Bears", 1)), b"bad")
    world.queue.fail(Fault(2))  # 1: the take, 2: setting it aside
    world.run(2)
    assert world.gauge.held() is None
    assert world.rows == []


def test_after_three_deaths_a_frame_goes_alone_behind_its_neighbours(world: World) -> None:
    store = watch(world)
    world.redis.attempts[name_of(1)] = "SIGKILL SIGKILL"
    world.redis.attempts[name_of(2)] = ALONE
    bodies = [b"".join(tweet("Bears", 10 * n + i) for i in range(3)) for n in range(1, 4)]
    world.push(*(item(number, body) for number, body in enumerate(bodies, start=1)))
    world.run(2)
    assert (store.asked, store.alone) == ([[1, 3]], [2])
    numbers = [10, 11, 12, 30, 31, 32, 20, 21, 22]
    assert world.raws() == [f'{{"team":"Bears","n":{n}}}' for n in numbers]
    alone = [held for held in dict.fromkeys(store.seen) if held and held[1] == name_of(2)]  # type: ignore[index]
    assert {held[2] for held in alone} == {NO_RECORD, 0, 1, 2}  # type: ignore[index]
    assert world.redis.attempts == {}
    assert world.is_empty()


def test_each_suspect_has_a_transaction_of_its_own(world: World) -> None:
    """If the second kills us, the first is stored."""
    world.redis.attempts |= {name_of(1): ALONE, name_of(2): ALONE}
    world.push(item(1, tweet("Bears", 1)), item(2, tweet("Bears", 2)))

    def refuse(row: tuple[Any, ...]) -> None:
        if '"n":2' in row[2]:
            raise Killed

    world.database.refuse = refuse
    with pytest.raises(Killed):
        world.run(2)
    assert world.frames() == [1]
    assert world.gauge.held() == (OWNER, name_of(2), 0)


def test_the_record_that_was_in_hand_is_a_dead_letter(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.redis.attempts[name_of(1)] = f"{ALONE} SIGSEGV@1 SIGSEGV@1"
    world.push(item(1, b"".join(tweet("Bears", n) for n in (1, 2, 3))))
    world.run(2)
    assert world.raws() == ['{"team":"Bears","n":1}', '{"team":"Bears","n":3}']
    [letter] = world.database.tables.dead.values()
    assert (letter.position, letter.raw, letter.code) == (1, tweet("Bears", 2)[:-1], "poison")
    assert letter.reason.startswith("2 times in a row a subscriber died (SIGSEGV)")
    assert (world.gauge.numbers["stored"], world.gauge.numbers["dead"]) == (2, 1)
    said = f"record 1 of frame {name_of(1)} is a dead letter: {letter.reason}"
    assert world.gauge.errors == [said]
    assert said in caplog.text
    assert f"frame {name_of(1)} goes alone: 5 subscribers died with it" in caplog.text


@pytest.mark.parametrize(
    ("deaths", "works"), [("", 1), (" SIGSEGV@0", 0), (" SIGSEGV@0 SIGSEGV@0", 1)]
)
def test_what_came_of_a_death_counts_as_work(world: World, deaths: str, works: int) -> None:
    """The next record in the same frame is not looked for more and more slowly."""
    world.redis.attempts[name_of(1)] = ALONE + deaths
    world.push(item(1, tweet("Bears", 1) + tweet("Bears", 2)))

    def refuse(row: tuple[Any, ...]) -> None:
        raise Killed

    world.database.refuse = refuse
    with pytest.raises(Killed):
        world.run(2)
    assert world.gauge.numbers["works"] == works


def test_news_of_one_frame_does_not_hasten_the_deaths_over_another(world: World) -> None:
    """Nothing ever comes of the deaths over frame 1: it goes before who has news, each time."""
    world.redis.attempts |= {name_of(1): ALONE + " SIGSEGV" * 9, name_of(2): ALONE}
    world.push(item(2, tweet("Bears", 2)), item(1, tweet("Bears", 1)))

    def refuse(row: tuple[Any, ...]) -> None:
        raise Killed

    world.database.refuse = refuse
    with pytest.raises(Killed):
        world.run(2)
    held = world.gauge.held()
    assert held
    assert (held[1], world.gauge.numbers["works"]) == (name_of(1), 0)
