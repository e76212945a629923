"""Spools that no collector replays: who hands them over, and when it stops."""

from dataclasses import replace

import pytest

from appliance import replay
from appliance.contracts import SourceState, Spooled
from appliance.errors import Unavailable
from appliance.frame import Header, RunEnd, checksum, decode, encode_header
from appliance.replay import Leftovers, before, end_of, is_behind
from tests.fake_queue import Fault, MemoryQueue, MemoryRedis
from tests.fake_role import FakeClock, FakeGauge, FakeWish
from tests.fake_spool import MemoryDisk, MemorySpool

RUN, EARLIER, LATER = (f"{n:032x}" for n in (5, 4, 6))


def body_of(number: int) -> bytes:
    return b"%04d\n" % number


def header(number: int, **more: object) -> Header:
    body = body_of(number)
    made = Header(
        run=RUN,
        number=number,
        source="old",
        records=1,
        records_before=number - 1,
        bytes_before=5 * number - 5,
        body_bytes=5,
        crc=checksum(body),
        first_received=1.0,
        last_received=1.0,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def frame(number: int, **more: object) -> Spooled:
    made = header(number, **more)
    return Spooled(made, encode_header(made), body_of(number))


def state(run: str, number: int, cursor: str | None = None) -> SourceState:
    return SourceState(run, number, cursor, records=number, bytes=5 * number)


# ── where a source stands ───────────────────────────────────────────────────────────────


def test_where_a_run_stands_around_a_frame() -> None:
    assert end_of(header(3)) == RunEnd(RUN, 3, 3, 15)
    assert end_of(header(3, lacks=10, lacks_bytes=100)) == RunEnd(RUN, 3, 13, 115)
    assert before(header(3)) == RunEnd(RUN, 2, 2, 10)
    assert before(header(1)) is None
    assert before(header(1, previous=RunEnd(EARLIER, 9, 8, 7))) == RunEnd(EARLIER, 9, 8, 7)


@pytest.mark.parametrize(
    ("known", "floor", "behind"),
    [
        (None, None, False),
        (None, RunEnd(RUN, 3, 3, 6), True),
        (state(RUN, 2), RunEnd(RUN, 3, 3, 6), True),
        (state(RUN, 3), RunEnd(RUN, 3, 3, 6), False),
        (state(RUN, 4), RunEnd(RUN, 3, 3, 6), False),
        (state(EARLIER, 9), RunEnd(RUN, 3, 3, 6), True),
        (state(LATER, 1), RunEnd(RUN, 3, 3, 6), False),
        (state(EARLIER, 9), None, False),
    ],
)
def test_a_queue_is_behind_when_it_lacks_something(
    known: SourceState | None, floor: RunEnd | None, behind: bool
) -> None:
    assert is_behind(known, floor) is behind


# ── leftovers ───────────────────────────────────────────────────────────────────────────


class World:
    """A queue, and what lies in spools."""

    def __init__(self, **spooled: list[Spooled]) -> None:
        self.redis = MemoryRedis()
        self.queue = MemoryQueue(self.redis, "recovery")
        self.disks = {name: MemoryDisk([frames]) for name, frames in spooled.items()}
        self.said: list[str] = []

    def leftovers(self) -> Leftovers:
        spools = {name: MemorySpool(disk) for name, disk in self.disks.items()}
        return Leftovers(spools, self.queue, self.said.append)

    def queued(self) -> list[tuple[str, int]]:
        headers = (decode(item).header for item in self.redis.working)
        return [(header.source, header.number) for header in headers]


def test_leftovers_are_handed_over_some_at_a_time() -> None:
    world = World(a=[frame(n, source="a") for n in (1, 2, 3)], b=[frame(1, source="b")])
    leftovers = world.leftovers()
    assert leftovers.size > 0
    assert leftovers.some(2)
    assert world.queued() == [("a", 1), ("a", 2)]
    assert not leftovers.some(2)
    assert world.queued()[2:] == [("a", 3), ("b", 1)]
    assert leftovers.size == 0
    assert not leftovers.some()
    assert replay.LEFTOVER_FRAMES > 1


def test_a_copy_of_another_sources_spool_is_left_alone() -> None:
    world = World(copy=[frame(2)], old=[frame(1)])
    leftovers = world.leftovers()
    leftovers.some()
    leftovers.some()
    assert world.queued() == [("old", 1)]
    assert [text for text in world.said if "frames of source old" in text] == world.said
    assert len(world.said) == 1


def test_leftovers_wait_where_the_queue_has_no_room_or_is_away() -> None:
    world = World(old=[frame(1)])
    leftovers = world.leftovers()
    world.queue.bytes_max = 0
    assert not leftovers.some()
    world.redis.away = True
    with pytest.raises(Unavailable):
        leftovers.some()
    world.redis.away, world.queue.bytes_max = False, 2**31
    leftovers.some()
    assert world.queued() == [("old", 1)]


def test_a_spool_that_cannot_be_read_now_keeps_no_other_one_waiting() -> None:
    world = World(a=[frame(1, source="a")], b=[frame(1, source="b")])
    leftovers = world.leftovers()
    spool = leftovers._spools["a"]
    oldest = spool.oldest

    def refuse() -> None:
        raise Unavailable("a/1.seg: Permission denied", "look at it")

    spool.oldest = refuse  # type: ignore[method-assign]
    assert not leftovers.some()
    assert not leftovers.some()
    assert world.queued() == [("b", 1)]
    assert world.said == ["the spool of source a waits: a/1.seg: Permission denied → look at it"]
    spool.oldest = oldest  # type: ignore[method-assign]
    leftovers.some()
    assert world.queued() == [("b", 1), ("a", 1)]


def test_what_the_queue_has_of_them_is_not_pushed_again() -> None:
    world = World(old=[frame(n) for n in (1, 2, 3)])
    world.redis.sources["old"] = state(RUN, 2)
    world.leftovers().some()
    assert world.queued() == [("old", 3)]


def test_a_spool_behind_which_the_queue_has_gone_on_is_left_and_said_once() -> None:
    """Where to go on only its collector can tell; the others' are handed over."""
    position = {"cursor_before": "4", "cursor_after": "5"}
    world = World(old=[frame(5, **position)], z=[frame(1, source="z")])
    world.redis.sources["old"] = state(LATER, 1, cursor="9")
    leftovers = world.leftovers()
    leftovers.some()
    leftovers.some()
    assert world.queued() == [("z", 1)]
    assert leftovers.size > 0
    assert [text for text in world.said if "stays as it is" in text] == world.said
    assert len(world.said) == 1


def test_a_queue_that_forgot_gets_them_by_force() -> None:
    world = World(old=[frame(5, cursor_before="4", cursor_after="5")])
    world.redis.sources["old"] = state(RUN, 2, cursor="2")
    world.leftovers().some()
    assert world.queued() == [("old", 5)]
    assert decode(world.redis.working[0]).header.hole == "queue forgot"
    assert "frames 3 to 4" in world.said[0]


def test_all_of_them_waits_for_the_queue_and_hears_a_stop() -> None:
    world = World(old=[frame(n) for n in range(1, 100)])
    clock = FakeClock()
    wish, gauge = FakeWish(clock), FakeGauge()
    world.queue.fail(Fault(3))
    world.leftovers().all(gauge, wish, lambda: 0.5)
    assert world.queued() == [("old", n) for n in range(1, 100)]
    assert gauge.waits[0].startswith("the queue: ")
    assert gauge.waits[-1] == ""

    world = World(old=[frame(1)])
    world.redis.away = True
    clock.at(30, wish.ask_to_drain)
    world.leftovers().all(gauge, wish, lambda: 0.5)
    assert world.queued() == []
    assert max(wish.waits) <= 5.05


def test_all_of_them_ends_where_the_queue_is_full() -> None:
    world = World(old=[frame(1), frame(2)])
    world.queue.bytes_max = 1
    wish = FakeWish(FakeClock())
    world.leftovers().all(FakeGauge(), wish, lambda: 0.5)
    assert world.queued() == [("old", 1)]
    assert wish.waits == []
