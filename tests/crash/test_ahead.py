"""A flood of one sender, of which the collector gets the next frame ready: killed at every step.

Also amid the look ahead, while the socket's offset isn't at rest, and behind a push that was
refused, wasn't answered, or was taken and not answered.
"""

from itertools import combinations
from pathlib import Path

import pytest

from tests.crash.world import CALLS, AheadWorld, UnansweredWorld, World
from tests.socket_place import PEEKS_BEHIND

FLOOD = [b"%d of a flood" % number for number in range(260)]  # three frames and a half
AHEAD = ("peeked behind", "ahead")
pytestmark = pytest.mark.skipif(not PEEKS_BEHIND, reason="a kernel without SO_PEEK_OFF for TCP")
KINDS = pytest.mark.parametrize("kind", [AheadWorld, UnansweredWorld])
STEPS_BEHIND = 12  # how long behind a kill or a failure kills are tried: about a turn


def check(
    directory: Path,
    kind: type[World],
    kill_at: tuple[int, ...] = (),
    fail_at: tuple[int, ...] = (),
    how: str = "",
) -> list[str]:
    """Play it, and compare what is stored; the names of its steps."""
    for leftover in directory.rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    world = kind(directory, kill_at, fail_at)
    try:
        world.send(b"".join(line + b"\n" for line in FLOOD))
        if how:
            world.break_queue(how)
            world.collect()
            world.mend_queue()
        world.collect()
        world.store()
        world.end()
        world.collect()
        world.store()
    finally:
        world.close()
    steps = world.steps.names
    hit = [(at, steps[at]) for at in (*kill_at, *fail_at) if at < len(steps)]
    assert sorted(world.stored()) == sorted(FLOOD), hit
    assert not world.gaps, hit
    assert not world.dead, hit
    assert sorted(world.frames()) == [*range(1, len(world.frames()) + 1)], hit
    return steps


@KINDS
def test_killed_at_every_step_and_again_soon_behind(tmp_path: Path, kind: type[World]) -> None:
    steps = check(tmp_path, kind)
    assert [steps.count(name) for name in AHEAD] == [2, 2]
    for at in range(len(steps)):
        check(tmp_path, kind, (at,))
    for pair in combinations(range(len(steps)), 2):
        if pair[1] - pair[0] <= STEPS_BEHIND:
            check(tmp_path, kind, pair)


@KINDS
def test_killed_behind_a_broken_connection(tmp_path: Path, kind: type[World]) -> None:
    steps = check(tmp_path, kind)
    calls = [at for at, name in enumerate(steps) if name in CALLS]
    for at in calls:
        check(tmp_path, kind, fail_at=(at,))
        for behind in range(at + 1, at + 1 + STEPS_BEHIND):
            check(tmp_path, kind, (behind,), (at,))


@KINDS
@pytest.mark.parametrize("how", ["away", "full", "hangs"])
def test_killed_at_every_step_while_the_queue_takes_nothing(
    tmp_path: Path, kind: type[World], how: str
) -> None:
    steps = check(tmp_path, kind, how=how)
    for at in range(len(steps)):
        check(tmp_path, kind, (at,), how=how)
