"""Bisection and the poison rule, killed at every step and at pairs of steps.

One lease of three frames: rows that the database refuses, a record that kills whoever parses or
stores it, healthy neighbours. The subscriber is real; queue, database and parent are fakes, and
a step is each call of them and each change of what is in hand. However it is killed on the way:
each healthy record is a row once, each refused one and each lethal one a dead letter once.
"""

import logging
import random
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import pytest

from appliance.batch import Batch
from appliance.contracts import Death
from appliance.errors import Rejected
from appliance.frame import Frame, Header, checksum, encode_header
from appliance.rows import RowMaker
from appliance.settings import DEFAULT_COLUMNS
from appliance.subscriber import Subscriber
from tests.crash.world import SteppedQueue, Steps, Wish
from tests.fake_queue import Killed, MemoryQueue
from tests.fake_queue import MemoryRedis as Redis
from tests.fake_role import FakeClock, FakeGauge
from tests.fake_store import MemoryDatabase, MemoryStore

RUN = "0" * 31 + "1"
FRAMES = (
    (b"a", b"bad 1", b"b", b"bad 2", b"bad 3"),
    (b"c", b"lethal 1", b"", b"bad 4", b"lethal 2", b"d"),
    (b"e",),
)
HEALTHY = [b"a", b"b", b"c", b"d", b"e"]
LIVES_MAX = 400
STEPS_BEHIND = 6  # how long behind one kill the second is tried
POINTING = 36  # steps with a record in hand that are paired: those of the first two lives
STORM_KILLS = 200


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What is said in so many lives is nothing that anybody wants to read."""
    log = logging.getLogger("subscriber 1")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)


class Crashed(Killed):
    """The record has killed us."""


class Play(NamedTuple):
    """Who kills where: the records at parsing or storing, and we at these steps.

    `parent_too`: at our kills the parent dies, too, so that nobody hears of them.
    """

    lethal_in: str
    kill_at: tuple[int, ...] = ()
    parent_too: bool = False


class Gauge(FakeGauge):
    """Each change of what is in hand is a step."""

    def __init__(self, step: Callable[[str], None]) -> None:
        super().__init__()
        self._step = step

    def in_hand(self, owner: str, frame: str) -> None:
        super().in_hand(owner, frame)
        self._step("in hand")

    def put_down(self) -> None:
        super().put_down()
        self._step("put down")

    def set(self, name: str, value: int) -> None:
        super().set(name, value)
        if name == "position" and self.holding:
            self._step("record in hand")


class Maker(RowMaker):
    """Dies of a record, as a library with a bug does."""

    lethal = False

    def batch(self, frame: Frame) -> Batch:
        for position, line in enumerate(frame.body.split(b"\n")):
            untouched = position in frame.header.rejected
            if self.lethal and line.startswith(b"lethal") and not untouched:
                raise Crashed
        return super().batch(frame)


class World:
    """Redis, the database, a parent and recovery, and one subscriber after the other."""

    def __init__(self, how: Play, steps: Callable[[str], None]) -> None:
        self._how = how
        self._steps = steps
        self.redis = Redis()
        self.database = MemoryDatabase(self._refuse)
        self._deaths: list[Death] = []
        self._wish = Wish()
        self._maker = Maker(DEFAULT_COLUMNS, "text", (), "s")
        self._maker.lethal = how.lethal_in == "parsing"
        for number, records in enumerate(FRAMES, start=1):
            self.redis.working.append(item(number, b"".join(line + b"\n" for line in records)))
        self.redis.bytes = sum(map(len, self.redis.working))

    def run(self) -> int:
        """Until the queue is empty; how many lives it took."""
        try:
            for life in range(1, LIVES_MAX):
                if self._survives():
                    return life
        finally:
            self._wish.close()
        raise AssertionError(f"it dies and dies: {self.redis.attempts}")

    def _survives(self) -> bool:
        gauge = Gauge(self._steps)
        queue = SteppedQueue(self.redis, "sub")
        queue.steps = self._steps  # type: ignore[assignment]
        try:
            self._work(self._born(queue, gauge))
        except Killed as killed:
            self._report(gauge, killed)
            self.redis.cut(queue.owner)
            MemoryQueue(self.redis, "recovery").sweep(self._deaths)
            return False
        return True

    def _work(self, subscriber: Subscriber) -> None:
        while (lease := subscriber._take()) is not None:
            subscriber._work(lease)

    def _report(self, gauge: Gauge, killed: Killed) -> None:
        """What the parent does when it finds a subscriber dead."""
        held = gauge.held()
        by_us = not isinstance(killed, Crashed)
        if held and not (by_us and self._how.parent_too):
            owner, frame, at = held
            cause = "SIGKILL" if by_us else "SIGSEGV"
            self._deaths.append(Death(owner, frame, at if at >= 0 else None, cause))

    def _born(self, queue: SteppedQueue, gauge: Gauge) -> Subscriber:
        return Subscriber(
            "1",
            queue,
            MemoryStore(self.database, lambda: self._steps("database")),
            {"s": self._maker},
            lambda _source: self._maker,
            gauge,
            self._wish,
            lease_bytes_max=10_000,
            checkpoint=self._steps,
            chance=lambda: 0.0,
            monotonic=FakeClock(),
        )

    def _refuse(self, row: tuple[Any, ...]) -> Rejected | None:
        if row[2].startswith("lethal") and self._how.lethal_in == "storing":
            raise Crashed
        return Rejected("refused", "check") if row[2].startswith("bad") else None


def item(number: int, body: bytes) -> bytes:
    header = Header(
        run=RUN,
        number=number,
        source="s",
        records=body.count(b"\n"),
        records_before=0,
        bytes_before=0,
        body_bytes=len(body),
        crc=checksum(body),
        first_received=1.0,
        last_received=2.0,
    )
    return encode_header(header) + body


def check(how: Play) -> tuple[list[str], int]:
    """Play it, and compare what is stored; its steps and lives."""
    steps = Steps(set(how.kill_at), set())
    world = World(how, steps)
    lives = world.run()
    hit = [(at, steps.names[at]) for at in how.kill_at if at < len(steps.names)]
    tables = world.database.tables
    assert sorted(row[2].encode() for row in tables.rows) == HEALTHY, hit
    letters = {letter.raw: letter.code for letter in tables.dead.values()}
    lethal = {b"lethal 1", b"lethal 2"}
    assert letters == {b"bad %d" % n: "check" for n in (1, 2, 3, 4)} | dict.fromkeys(
        lethal, "poison"
    ), hit
    assert len(tables.dead) == 6, hit
    assert sorted(number for _, number in tables.frames) == [1, 2, 3], hit
    assert not world.redis.working, hit
    assert not world.redis.busy, hit
    assert not world.redis.bytes, hit
    assert not world.redis.attempts, hit
    return steps.names, lives


@pytest.mark.parametrize("lethal_in", ["parsing", "storing"])
def test_it_takes_three_deaths_and_two_for_each_lethal_record(lethal_in: str) -> None:
    steps, lives = check(Play(lethal_in))
    assert lives == 3 + 2 + 2 + 1
    wanted = {"in hand", "record in hand", "put down", "database", "taken", "stored", "confirmed"}
    assert wanted < set(steps)


@pytest.mark.parametrize("lethal_in", ["parsing", "storing"])
def test_killed_at_every_step_and_again_soon_behind(lethal_in: str) -> None:
    steps, _lives = check(Play(lethal_in))
    for at in range(len(steps)):
        names, lives = check(Play(lethal_in, (at,)))
        assert lives <= 3 + 4 + 4 + 2
        for behind in range(at + 1, min(at + 1 + STEPS_BEHIND, len(names))):
            check(Play(lethal_in, (at, behind)))


@pytest.mark.parametrize("lethal_in", ["parsing", "storing"])
def test_killed_with_the_parent_at_every_step(lethal_in: str) -> None:
    steps, _lives = check(Play(lethal_in))
    for at in range(len(steps)):
        check(Play(lethal_in, (at,), parent_too=True))


@pytest.mark.parametrize("lethal_in", ["parsing", "storing"])
def test_killed_twice_with_a_record_in_hand(lethal_in: str) -> None:
    """The worst that two kills can do: wherever they point, they condemn nobody."""
    steps, _lives = check(Play(lethal_in))
    pointing = [at for at, name in enumerate(steps) if name == "record in hand"]
    for pair in combinations(pointing[:POINTING], 2):
        check(Play(lethal_in, pair))


def test_three_kills_with_the_same_healthy_record_in_hand_condemn_nobody() -> None:
    """It has lethal neighbours, so all of this happens while its frame goes alone."""
    steps, _lives = check(Play("storing"))
    first_alone = steps.index("record in hand")
    at = [first_alone]
    for _ in range(2):  # a life later it comes to the same record again
        names, _lives = check(Play("storing", tuple(at)))
        at.append(names.index("record in hand", at[-1] + 1))
    check(Play("storing", tuple(at)))


@pytest.mark.parametrize("seed", range(20))
def test_in_a_storm_of_kills_each_record_ends_once(seed: int) -> None:
    """So many that a healthy record may be taken for lethal: even that loses and doubles none."""
    dice, left = random.Random(seed), [STORM_KILLS]

    def step(_name: str) -> None:
        if left[0] and dice.random() < 0.1:
            left[0] -= 1
            raise Killed

    world = World(Play("storing"), step)
    world.run()
    tables = world.database.tables
    rows = [row[2].encode() for row in tables.rows]
    letters = [letter.raw for letter in tables.dead.values()]
    sent = [line for records in FRAMES for line in records if line]
    assert sorted(rows + letters) == sorted(sent), f"seed {seed}"
