"""Recovery: when it sweeps, and what its samples answer. Over the fake queue, without time."""

import logging
from collections.abc import Callable, Sequence

import pytest

from appliance import backoff
from appliance.contracts import Death, Depth
from appliance.errors import Unavailable
from appliance.recovery import SAMPLE_INTERVAL_S, SWEEP_INTERVAL_S, Recovery
from appliance.replay import Leftovers
from tests.fake_queue import MemoryQueue, MemoryRedis
from tests.fake_role import FakeClock, FakeGauge, FakeWish
from tests.fake_spool import MemoryDisk, MemorySpool
from tests.test_replay import frame

CHANCE = 0.5


class TimedQueue(MemoryQueue):
    """Remembers when it was swept, and what else was asked of it."""

    def __init__(self, server: MemoryRedis, clock: FakeClock) -> None:
        super().__init__(server, "recovery")
        self.sweeps: list[float] = []
        self.asked: list[str] = []
        self.at_depth: Callable[[], None] = lambda: None
        self._clock = clock
        self._began = clock.now

    def sweep(self, deaths: Sequence[Death] = ()) -> int:
        self.asked.append("sweep")
        given_back = super().sweep(deaths)
        self.sweeps.append(round(self._clock.now - self._began, 6))
        return given_back

    def depth(self) -> Depth:
        self.asked.append("depth")
        depth = super().depth()
        self.at_depth()
        return depth


class World:
    """Redis, and a recovery that is given a time to live."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.redis = MemoryRedis()
        self.wish = FakeWish(self.clock)
        self.gauge = FakeGauge()
        self.queue = TimedQueue(self.redis, self.clock)
        self.deaths: list[Death] = []
        self.disk = MemoryDisk()
        self.said: list[str] = []
        self.leftovers = Leftovers({"old": MemorySpool(self.disk)}, self.queue, self.said.append)
        self.recovery = Recovery(
            self.queue,
            self.gauge,
            self.wish,
            deaths=lambda: self.deaths,
            leftovers=self.leftovers,
            chance=lambda: CHANCE,
            monotonic=self.clock,
        )

    def run(self, for_s: float, *deaths: float) -> list[float]:
        """Told of a death at these seconds; when it swept."""
        for at in deaths:
            self.clock.at(at, lambda: self.gauge.add("died", 1))
        self.clock.at(for_s, self.wish.ask_to_drain)
        self.recovery.run()
        return self.queue.sweeps

    def orphan(self, *items: bytes) -> None:
        """A subscriber that died with these frames in hand."""
        self.redis.busy["subscriber-gone"] = list(items)
        self.redis.bytes += sum(map(len, items))

    def away(self, since: float, until: float) -> None:
        self.clock.at(since, lambda: setattr(self.redis, "away", True))
        self.clock.at(until, lambda: setattr(self.redis, "away", False))


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> World:
    caplog.set_level(logging.DEBUG)
    return World()


def test_the_first_thing_it_does_is_a_sweep(world: World) -> None:
    world.orphan(b"one", b"two")
    assert world.run(0.5) == [0]
    assert world.queue.asked[:2] == ["sweep", "depth"]
    assert list(world.redis.working) == [b"one", b"two"]
    assert world.gauge.numbers["swept"] == 1
    assert world.gauge.numbers["works"] == 1


HISTORIES = {  # name: seconds of life, deaths, sweeps
    "every minute": (200, (), [0, 60, 120, 180]),
    "a death": (50, (10,), [0, 10, 10.1, 11]),
    "a minute counts from the last sweep": (80, (10,), [0, 10, 10.1, 11, 71]),
    "deaths far apart": (30, (10, 20), [0, 10, 10.1, 11, 20, 20.1, 21]),
    "a death between its repeats": (20, (10, 10.5), [0, 10, 10.1, 10.5, 10.6, 11.5]),
    "many at once": (20, (10, 10.01, 10.02, 10.03), [0, 10, 10.01, 10.02, 10.03, 10.13, 11.03]),
    "at its birth": (5, (0,), [0, 0, 0.1, 1]),
    "just before the minute": (70, (59.95,), [0, 59.95, 60.05, 60.95]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_it_sweeps_now_soon_and_every_minute(world: World, name: str) -> None:
    """Each death is swept at once, and again 0.1 and 1 s later, whatever dies meanwhile."""
    for_s, deaths, sweeps = HISTORIES[name]
    assert world.run(for_s, *deaths) == pytest.approx(sweeps)


def test_frames_of_a_client_that_redis_still_lists_come_back_a_second_later(world: World) -> None:
    world.orphan(b"frame")
    world.redis.clients.add("subscriber-gone")
    world.clock.at(10.9, lambda: world.redis.cut("subscriber-gone"))
    world.run(12, 10)
    assert list(world.redis.working) == [b"frame"]


def test_it_says_what_it_gave_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.orphan(b"one", b"two")
    world.run(2, 1)
    said = [record.getMessage() for record in caplog.records if "gave" in record.getMessage()]
    assert said == ["gave 2 frames of dead subscribers back"]


def test_a_death_is_told_until_its_frames_come_back_and_counts_once(world: World) -> None:
    """Redis lists the dead client for a second more; the sweeps behind it tell nothing twice."""
    frame = b'{"run":"0a","number":7}\nrecord\n'
    world.orphan(frame)
    world.redis.clients.add("subscriber-gone")
    world.clock.at(10, lambda: world.deaths.append(Death("subscriber-gone", "0a:7", 4, "SIGSEGV")))
    world.clock.at(10.9, lambda: world.redis.cut("subscriber-gone"))
    world.run(200, 10, 20)
    assert list(world.redis.working) == [frame]
    assert world.redis.attempts == {"0a:7": "SIGSEGV@4"}


# ── samples ─────────────────────────────────────────────────────────────────────────────


def test_samples_show_the_depth(world: World) -> None:
    world.redis.working += [b"12345", b"678"]
    world.redis.busy["subscriber-1"] = [b"90"]
    world.redis.clients.add("subscriber-1")
    world.redis.bytes = 10
    world.run(3.5 * SAMPLE_INTERVAL_S)
    names = ("queue_frames", "queue_busy", "queue_bytes")
    assert [world.gauge.numbers[name] for name in names] == [2, 1, 10]
    assert world.queue.asked.count("depth") == 4
    assert max(world.wish.waits) == SAMPLE_INTERVAL_S


def test_a_nudge_is_answered_by_a_sample_at_once(world: World) -> None:
    """The parent sends one when others have worked, so that `status` is no older than its turn."""
    world.clock.at(2, lambda: world.gauge.set("look", 1))
    seen: list[tuple[float, int]] = []
    world.queue.at_depth = lambda: seen.append((world.clock.now - 1000, world.gauge.get("look")))
    assert world.run(3) == [0], "and by no sweep"
    assert seen == [(0, 0), (2, 1)]
    assert world.gauge.get("looked") == 1


def test_a_sample_answers_only_the_look_that_came_before_it(world: World) -> None:
    """The parent asks while the depth is being read: that answer is too old for it."""
    world.gauge.set("look", 7)
    during: list[tuple[int, int]] = []

    def at_depth() -> None:
        during.append((world.gauge.get("looked"), world.gauge.get("look")))
        world.gauge.set("look", 8)

    world.queue.at_depth = at_depth
    world.run(0.5)
    assert during == [(0, 7)]
    assert world.gauge.get("looked") == 7


def test_a_look_is_answered_after_the_numbers_it_speaks_of(world: World) -> None:
    world.gauge.set("look", 1)
    order: list[str] = []
    plain = world.gauge.set
    world.gauge.set = lambda name, value: (order.append(name), plain(name, value))  # type: ignore[method-assign,assignment,func-returns-value]
    world.run(0.5)
    sample = ["queue_frames", "queue_busy", "queue_bytes", "looked"]
    assert [name for name in order if name in sample] == sample


def test_no_look_is_answered_while_the_queue_is_away(world: World) -> None:
    world.redis.away = True
    world.gauge.set("look", 3)
    world.run(20)
    assert world.gauge.numbers["looked"] == 0
    assert world.gauge.numbers["swept"] == 0


# ── outages ─────────────────────────────────────────────────────────────────────────────


def test_an_outage_is_waited_out_and_swept_behind(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.away(since=5.5, until=45.5)
    world.clock.at(20, lambda: world.orphan(b"frame"))
    sweeps = world.run(50)
    back = sweeps[1]
    assert sweeps == pytest.approx([0, back, back + 0.1, back + 1])
    assert 45.5 <= back <= 45.5 + backoff.RETRY_S_MAX
    assert list(world.redis.working) == [b"frame"]
    lines = [r.getMessage() for r in caplog.records if "waiting for" in r.getMessage()]
    assert lines == [
        "waiting for the queue: the queue is away",
        "no longer waiting for the queue: the queue is away",
    ]
    assert world.gauge.waits[-1] == ""
    longest = max(world.wish.waits)
    assert backoff.RETRY_S_MAX * CHANCE <= longest <= backoff.RETRY_S_MAX


def test_the_first_sweep_is_waited_for(world: World) -> None:
    world.redis.away = True
    world.away(since=0, until=30)
    world.orphan(b"frame")
    sweeps = world.run(40)
    assert sweeps[0] >= 30
    assert list(world.redis.working) == [b"frame"]


def test_a_death_during_an_outage_is_not_forgotten(world: World) -> None:
    world.away(since=5.5, until=20)
    sweeps = world.run(40, 10)
    assert len([at for at in sweeps if at >= 20]) >= 3


def test_a_stop_ends_an_outage(world: World) -> None:
    world.redis.away = True
    world.run(33)
    assert world.clock.now == pytest.approx(1033)


def test_it_beats_at_least_as_often_as_it_samples(world: World) -> None:
    world.run(SWEEP_INTERVAL_S)
    assert world.gauge.beats >= SWEEP_INTERVAL_S / SAMPLE_INTERVAL_S


def test_the_last_sweep_gives_back_what_the_subscribers_left(world: World) -> None:
    world.run(5)
    world.orphan(b"frame")
    world.recovery.last_sweep()
    assert list(world.redis.working) == [b"frame"]
    world.redis.away = True
    with pytest.raises(Unavailable):
        world.recovery.last_sweep()


# ── spools of sources that are gone ─────────────────────────────────────────────────────


def test_leftovers_are_handed_over_at_the_start_and_then_as_often_as_is_swept(world: World) -> None:
    world.disk.segments = [[frame(n) for n in range(1, 200)]]
    sizes: list[int] = []
    world.clock.at(30, lambda: sizes.append(len(world.redis.working)))
    world.clock.at(40, lambda: world.disk.segments.append([frame(200)]))
    world.clock.at(50, lambda: sizes.append(len(world.redis.working)))
    world.clock.at(70, lambda: sizes.append(len(world.redis.working)))
    world.run(80)
    assert sizes == [199, 199, 200]
    assert world.gauge.numbers["spool_bytes"] == 0


def test_leftovers_wait_for_room_and_are_shown(world: World) -> None:
    world.disk.segments = [[frame(1), frame(2)]]
    world.queue.bytes_max = 0
    world.clock.at(50, lambda: setattr(world.queue, "bytes_max", 2**31))
    seen: list[int] = []
    world.clock.at(49, lambda: seen.append(world.gauge.numbers["spool_bytes"]))
    assert world.run(100) == [0.0, SWEEP_INTERVAL_S]
    assert seen[0] > 0
    assert len(world.redis.working) == 2
    assert world.gauge.numbers["spool_bytes"] == 0


def test_leftovers_of_a_queue_that_is_away_keep_nobody_from_sweeping(world: World) -> None:
    world.disk.segments = [[frame(1)]]
    world.orphan(b"item")
    world.away(0.5, 20)
    world.run(30)
    assert len(world.redis.working) == 2
