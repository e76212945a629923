"""What is known of a server's absence, whenever its collector is killed: over histories of events.

A `World` plays server, collector and queue: it knows when there truly was a connection, kills at
will, and compares what was told with the truth.
"""

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.frame import Gap
from appliance.note import replace_file
from appliance.sources.absence import ABSENT_S_MIN, SERVER_AWAY, STAMP_S, STOPPED, Absence
from tests.fake_role import FakeClock

TICK_S = 10.0


class World:
    """A server, a collector that may die, and a queue that keeps the gaps that it is told."""

    def __init__(self, folder: Path, write: Callable[[Path, bytes], None] = replace_file) -> None:
        self.path = folder / "s.absence"
        self.write = write
        self.clock = FakeClock()
        self.connected = False
        self.away_since: float | None = None  # None: there was no connection yet
        self.truth: list[tuple[float, float]] = []  # stretches without one
        self.told: list[Gap] = []
        self.absence = self.made()

    def made(self) -> Absence:
        return Absence(self.path, self.write, clock=self.clock, monotonic=self.clock)

    # what happens

    def come(self) -> None:
        if self.away_since is not None:
            self.truth.append((self.away_since, self.clock.now))
        self.connected = True
        self.absence.found()

    def go(self, cause: str = SERVER_AWAY, clean: bool = False) -> None:
        self.absence.lost(cause, clean)
        self.connected, self.away_since = False, self.clock.now

    def hand_over(self, killed: bool = False) -> None:
        """A frame, with the gap if there is one; or killed before that is noted in the file."""
        gap = self.absence.gap
        if gap:
            self.told.append(gap)
        if killed:
            self.kill(told=[gap] if gap else [])
        elif gap:
            self.absence.told()
        self.absence.still_there()

    def kill(self, *, parent: bool = False, told: list[Gap] | None = None) -> None:
        """The collector dies; with the parent, the connection dies too."""
        if parent and self.connected:
            self.connected, self.away_since = False, self.clock.now
        self.absence = self.made()
        if self.connected:
            self.absence.found()  # it is inherited
        self.absence.born(self.connected, self.told[-1:] if told is None else told)

    def anything(self, rng: random.Random, event: str = "") -> None:
        """Something that can happen now."""
        event = event or rng.choice(["come", "go", "go", "told", "told and dead", "dead", "parent"])
        if event == "come" and not self.connected:
            self.come()
        elif event == "go" and self.connected:
            self.go()
        elif event.startswith("told") and self.connected:
            self.hand_over(killed=event != "told")
        elif event in ("dead", "parent"):
            if self.connected:
                self.absence.still_there()
            self.kill(parent=event == "parent")

    def later(self, delay_s: float = TICK_S) -> float:
        self.clock.now += delay_s
        return self.clock.now


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_before_the_first_connection_nothing_is_missing(world: World) -> None:
    world.kill()
    world.later()
    world.come()
    world.hand_over()
    assert world.told == []
    assert world.absence.gap is None


def test_from_the_end_of_one_connection_to_the_next(world: World) -> None:
    world.come()
    began = world.later()
    world.go()
    world.later()
    assert world.absence.gap is None, "nobody knows how long it takes"
    ended = world.later()
    world.come()
    world.later()
    assert world.absence.gap == Gap(SERVER_AWAY, began=began, ended=ended)
    world.hand_over()
    assert world.absence.gap is None
    world.hand_over()
    assert world.told == [Gap(SERVER_AWAY, began=began, ended=ended)]


@pytest.mark.parametrize("step", ["go", "away", "come", "hand over", "told"])
@pytest.mark.parametrize("parent", [False, True])
def test_a_kill_at_any_step_changes_nothing_of_it(world: World, step: str, parent: bool) -> None:
    """But with the parent the connection is gone, and the stretch is longer."""
    world.come()
    began = world.later()
    world.go()
    if step == "go":
        world.kill(parent=parent)
    world.later()
    if step == "away":
        world.kill(parent=parent)
    ended = world.later()
    world.come()
    if step == "come":
        world.kill(parent=parent)
        if parent:
            ended = world.later()
            world.come()
    world.hand_over(killed=step == "hand over")
    if step == "told":
        world.kill()
    world.hand_over()
    assert world.told == [Gap(SERVER_AWAY, began=began, ended=ended)]


def test_a_connection_that_died_with_the_parent_was_there_until_it_was_last_seen(
    world: World,
) -> None:
    world.come()
    for _ in range(20):
        world.later(1.0)
        world.absence.still_there()
    seen = world.later(2 * STAMP_S)
    world.absence.still_there()
    world.later(STAMP_S / 2)
    world.kill(parent=True)
    ended = world.later()
    world.come()
    world.hand_over()
    assert world.told == [Gap(STOPPED, began=seen, ended=ended)]


def test_a_stop_is_told_as_such_by_the_next_start(world: World) -> None:
    world.come()
    began = world.later()
    world.go(STOPPED)
    world.later()
    world.kill(parent=True)
    ended = world.later()
    world.come()
    assert world.absence.gap == Gap(STOPPED, began=began, ended=ended)


@pytest.mark.parametrize(
    ("clean", "away_s", "gaps"),
    [
        (True, ABSENT_S_MIN * 0.9, 0),
        (True, ABSENT_S_MIN, 1),
        (False, 0.0, 1),
    ],
)
def test_a_feed_of_short_connections_is_no_row_each(
    world: World, clean: bool, away_s: float, gaps: int
) -> None:
    world.come()
    world.later()
    world.go(clean=clean)
    world.later(away_s)
    world.come()
    world.hand_over()
    assert len(world.told) == gaps


def test_what_was_not_told_yet_grows(world: World) -> None:
    """A server that takes connections and ends them, for an hour, is one absence."""
    world.come()
    began = world.later()
    for _ in range(50):
        world.go(clean=True)
        ended = world.later()
        world.come()
    world.hand_over()
    assert world.told == [Gap(SERVER_AWAY, began=began, ended=ended)]


def test_it_is_over_when_the_connection_has_lasted(world: World) -> None:
    world.come()
    world.go()
    world.later()
    world.come()
    assert not world.absence.is_over
    world.later(ABSENT_S_MIN)
    assert world.absence.is_over


def test_a_clock_that_goes_backwards_makes_no_stretch_of_less_than_nothing(world: World) -> None:
    world.come()
    began = world.clock.now
    world.go()
    world.clock.now -= 3600
    world.come()
    assert world.absence.gap == Gap(SERVER_AWAY, began=began, ended=began)


def test_a_disk_without_room_stops_nothing(tmp_path: Path) -> None:
    def no_room(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    world = World(tmp_path, no_room)
    world.come()
    began = world.later()
    world.go()
    ended = world.later()
    world.come()
    world.hand_over()
    assert world.told == [Gap(SERVER_AWAY, began=began, ended=ended)]
    world.go()
    world.kill()
    world.come()
    assert world.absence.gap is None, "forgotten, and nothing else"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"strange": 1}', b"null", b"7", b"\xff"])
def test_a_file_that_cannot_be_read_counts_as_none(world: World, content: bytes) -> None:
    world.path.write_bytes(content)
    world.kill()
    world.come()
    assert world.absence.gap is None


@pytest.mark.parametrize("seed", range(20))
def test_every_absence_is_told_once_whatever_happens(tmp_path: Path, seed: int) -> None:
    print("seed", seed)
    rng, world = random.Random(seed), World(tmp_path)
    for _ in range(60):
        world.later(rng.choice([0.1, 3.0, 100.0]))
        world.anything(rng)
    world.anything(rng, "come")
    world.hand_over()
    told = [(gap.began or 0.0, gap.ended or 0.0) for gap in world.told]
    assert all(ended <= began for (_, ended), (began, _) in itertools.pairwise(told))
    for began, ended in world.truth:
        covering = [one for one in told if one[0] <= began and ended <= one[1]]
        assert len(covering) == 1, (began, ended, told)
    for began, ended in told:
        assert any(began <= start and end <= ended for start, end in world.truth)
        first = min(start for start, _ in world.truth if start >= began)
        assert first - began <= STAMP_S, "it doesn't begin long before"
    assert os.listdir(tmp_path) in ([], ["s.absence"])
