"""Every step, and every pair of steps, is a place to be killed: nothing lost, nothing doubled.

A life of three bursts, an over-long record, an unfinished last line and its end is played
once for each choice of one or two kills.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

from tests.crash.world import World

LAST_STEPS = 15  # those of the turn that the reset ends
LONG = b"L" * 2500
BURSTS = [
    b"".join(b"first %d\n" % n for n in range(60)) + b"half of ",
    b"a line\n\n" + b"second\n" + LONG + b"\nbehind the long one\n",
    b"third\n" + b"the unfinished last line",
]
SENT = sorted(
    [b"first %d" % n for n in range(60)]
    + [b"half of a line", b"second", b"behind the long one", b"third"]
)


def play(directory: Path, kill_at: set[int], end: Callable[[World], None]) -> Iterator[World]:
    world = World(directory, kill_at)
    try:
        for burst in BURSTS:
            world.send(burst)
            world.collect()
            world.store()
        end(world)
        world.collect()
        world.store()
        yield world
    finally:
        world.close()


def check(directory: Path, kill_at: set[int], end: Callable[[World], None]) -> list[str]:
    for note in directory.glob("*"):
        note.unlink()
    for world in play(directory, kill_at, end):
        killed = [world.steps.names[at] for at in sorted(kill_at) if at < len(world.steps.names)]
        unfinished = b"the unfinished last line"
        records, letters = sorted(world.stored()), sorted(world.dead)
        if end is World.end:
            assert records == sorted([*SENT, unfinished]), killed
            assert letters == [("too long", LONG[:999])], killed
        else:
            assert records == SENT, killed
            assert letters == [("cut", unfinished), ("too long", LONG[:999])], killed
        assert not world.gaps, killed
        numbers = sorted(world.frames())
        assert numbers == list(range(1, len(numbers) + 1)), killed
        return world.steps.names
    raise AssertionError("not played")


def test_killed_at_every_pair_of_steps(tmp_path: Path) -> None:
    steps = check(tmp_path, set(), World.end)
    assert {"peeked", "noted", "pushed", "discarded", "done", "stored", "confirmed"} < set(steps)
    for at in range(len(steps)):
        check(tmp_path, {at}, World.end)
    for pair in combinations(range(len(steps)), 2):
        check(tmp_path, set(pair), World.end)


def test_killed_at_every_pair_of_steps_around_a_reset(tmp_path: Path) -> None:
    steps = check(tmp_path, set(), World.reset)
    for at in range(len(steps)):
        check(tmp_path, {at}, World.reset)
    for pair in combinations(range(len(steps) - LAST_STEPS, len(steps)), 2):
        check(tmp_path, set(pair), World.reset)
