"""The program by itself: what it says, and what goes through the stub unchanged."""

import re
import resource
from collections.abc import Callable

from world import World, expect

TIMES = 5


def says_its_version(world: World) -> str:
    """Once while it unpacks, then warm; the processor's time is printed, not judged."""
    version = world.must("--version").strip()
    expect(re.fullmatch(r"stream-daemon \d+\.\d+\S*", version), f"`--version` says {version!r}")
    before = _spent_s()
    for _ in range(TIMES):
        world.must("--version")
    return f"{version}, warm in {(_spent_s() - before) / TIMES * 1000:.0f} ms of the processor"


def passes_exit_codes(world: World) -> str:
    """They are its own ones, as without the stub."""
    codes = {"frobnicate": 64, "running": 3}
    for word, code in codes.items():
        done = world.run(word)
        expect(done.returncode == code, f"`{word}` ends with {done.returncode}: {done.stderr}")
    return ", ".join(f"`{word}` {code}" for word, code in codes.items())


def stands_closed_descriptors(world: World) -> str:
    """What it opens for itself doesn't take the number of a closed standard descriptor."""
    for closed in ("<&-", "2>&-", "<&- 2>&-"):
        done = world.run(before=["/bin/sh", "-c", f'exec "$0" --version {closed}'])
        expect(done.stdout.startswith("stream-daemon "), f"with {closed}: {done}")
    return "stdin, stderr, both"


def _spent_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


CASES: list[Callable[[World], str]] = [
    says_its_version,
    passes_exit_codes,
    stands_closed_descriptors,
]
