"""Every step, and every pair of steps, is a place to be killed: nothing lost, nothing doubled.

A life of three bursts, an over-long record, an unfinished last line and its end is played
once for each choice of one or two kills, and of a broken connection with a kill behind it.
"""

from itertools import combinations, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.crash.world import CALLS, DialledWorld, FileWorld, HurriedWorld, UnixWorld, World

LAST_STEPS = 15  # those of the turn that the reset ends
STEPS_BEHIND = 8  # how long behind a failure kills are tried: about a turn
PUSHES = ("before push", "push done, answer lost")
DIALLING = ("shared", "connecting", "connected")
COLLECTING = ("peeked", "noted", *PUSHES, "pushed", "discarded", "done")
MOVING = ("marked", "written", "emptied", "kept")
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


class Play(NamedTuple):
    """How a life is played: over what, how it ends, who dies or fails at which steps."""

    kind: type[World] = World
    end: str = "end"
    kill_at: tuple[int, ...] = ()
    fail_at: tuple[int, ...] = ()


def play(directory: Path, how: Play) -> World:
    world = how.kind(directory, how.kill_at, how.fail_at)
    try:
        for burst in BURSTS:
            world.send(burst)
            world.collect()
            world.store()
        getattr(world, how.end)()
        world.collect()
        world.store()
    finally:
        world.close()
    return world


def check(directory: Path, how: Play) -> list[str]:
    """Play it, and compare what is stored; the names of its steps."""
    for leftover in directory.rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    world = play(directory, how)
    steps = world.steps.names
    hit = [(at, steps[at]) for at in sorted((*how.kill_at, *how.fail_at)) if at < len(steps)]
    unfinished = b"the unfinished last line"
    records, letters = sorted(world.stored()), sorted(world.dead)
    if how.end == "reset":
        assert records == sorted([*SENT, *world.behind]), hit
        assert letters == [("cut", unfinished), ("too long", LONG[:999])], hit
    else:
        assert records == sorted([*SENT, unfinished, *world.behind]), hit
        assert letters == [("too long", LONG[:999])], hit
    # The server was away once: told once, and so is the rest of a record that was cut.
    gaps = [*world.absences, *(["cut"] if how.end == "reset" else [])]
    assert sorted(cause for _run, cause, *_ in world.gaps) == sorted(gaps), hit
    assert not [*directory.glob("beginnings/*")], hit
    numbers = sorted(world.frames())
    assert numbers == list(range(1, len(numbers) + 1)), hit
    return steps


def test_killed_at_every_pair_of_steps(tmp_path: Path) -> None:
    steps = check(tmp_path, Play())
    assert {"peeked", "noted", "pushed", "discarded", "done", "stored", "confirmed"} < set(steps)
    for at in range(len(steps)):
        check(tmp_path, Play(kill_at=(at,)))
    for pair in combinations(range(len(steps)), 2):
        check(tmp_path, Play(kill_at=pair))


def test_killed_at_every_pair_of_steps_around_a_reset(tmp_path: Path) -> None:
    steps = check(tmp_path, Play(end="reset"))
    for at in range(len(steps)):
        check(tmp_path, Play(end="reset", kill_at=(at,)))
    for pair in combinations(range(len(steps) - LAST_STEPS, len(steps)), 2):
        check(tmp_path, Play(end="reset", kill_at=pair))


@pytest.mark.parametrize(("kind", "near"), [(UnixWorld, 2 * STEPS_BEHIND), (HurriedWorld, 4)])
def test_beginnings_move_and_nothing_is_lost_whoever_is_killed(
    tmp_path: Path, kind: type[World], near: int
) -> None:
    """Marks, and moves of a beginning into its file, are steps too."""
    steps = check(tmp_path, Play(kind))
    assert {"marked", "written", "emptied", "kept"} < set(steps)
    for at in range(len(steps)):
        check(tmp_path, Play(kind, kill_at=(at,)))
    collecting = [at for at, name in enumerate(steps) if name in (*COLLECTING, *MOVING)]
    for pair in combinations(collecting, 2):
        if pair[1] - pair[0] <= near:
            check(tmp_path, Play(kind, kill_at=pair))


def test_a_file_is_read_once_whoever_is_killed(tmp_path: Path) -> None:
    steps = check(tmp_path, Play(FileWorld))
    for at in range(len(steps)):
        check(tmp_path, Play(FileWorld, kill_at=(at,)))
    collecting = [at for at, name in enumerate(steps) if name in COLLECTING]
    assert len(collecting) > 30
    for first, second in combinations(collecting, 2):
        if second - first <= STEPS_BEHIND:
            check(tmp_path, Play(FileWorld, kill_at=(first, second)))


@pytest.mark.parametrize("end", ["end", "reset"])
def test_a_server_is_dialled_once_and_heard_to_the_end_whoever_is_killed(
    tmp_path: Path, end: str
) -> None:
    """At every step, and at every pair of steps of which the first is one of dialling."""
    steps = check(tmp_path, Play(DialledWorld, end))
    for at in range(len(steps)):
        check(tmp_path, Play(DialledWorld, end, kill_at=(at,)))
    dialling = [at for at, name in enumerate(steps) if name in DIALLING]
    assert [steps[at] for at in dialling] == [*DIALLING, *DIALLING]
    for at in dialling:
        for behind in range(at + 1, at + 1 + STEPS_BEHIND):
            check(tmp_path, Play(DialledWorld, end, kill_at=(at, behind)))
    for pair in combinations(dialling, 2):
        check(tmp_path, Play(DialledWorld, end, kill_at=pair))


@pytest.mark.parametrize(("kind", "names"), [(World, CALLS), (FileWorld, PUSHES)])
def test_killed_behind_a_broken_connection(
    tmp_path: Path, kind: type[World], names: tuple[str, ...]
) -> None:
    """Each call to Redis and the database fails once, before or after it was done."""
    steps = check(tmp_path, Play(kind))
    calls = [at for at, name in enumerate(steps) if name in names]
    assert {steps[at] for at in calls} == set(names)
    for at in calls:
        check(tmp_path, Play(kind, fail_at=(at,)))
        for behind in range(at + 1, at + 1 + STEPS_BEHIND):
            check(tmp_path, Play(kind, kill_at=(behind,), fail_at=(at,)))
    for pair in pairwise(calls):
        check(tmp_path, Play(kind, fail_at=pair))
