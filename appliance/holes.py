"""Holes in a run's numbers: which of them nobody will fill, and how that is said.

Pure: the store reports holes at each fold (see contracts.Hole), the queue shows what waits.
A hole is given up when it was there at the fold before, too, and no frame of it is queued.
That may still be too early: then its frames are stored when they come, and are no gap any more.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from appliance.contracts import Hole
from appliance.frame import name_of

SAID_MAX = 5  # holes that are said one by one, where many are found at once


def still_open(holes: Sequence[Hole], before: Sequence[Hole]) -> list[Hole]:
    """Those of which each number was missing before already."""
    known = {
        run: list(of_run)
        for run, of_run in groupby(sorted(before, key=_place), key=lambda hole: hole.run)
    }
    found = []
    for hole in holes:
        of_run = known.get(hole.run, [])
        at = bisect_right(of_run, hole.first, key=lambda one: one.first)
        if at and hole.last <= of_run[at - 1].last:
            found.append(hole)
    return found


def not_queued(holes: Iterable[Hole], lines: Iterable[bytes]) -> list[Hole]:
    """Those of which no frame is among these header lines."""
    queued = _numbers(lines)
    return [hole for hole in holes if not _is_any_of(queued.get(hole.run.hex(), ()), hole)]


def sentences(holes: Sequence[Hole]) -> Iterator[str]:
    """What to say of frames that are missing from now on."""
    for hole in holes[:SAID_MAX]:
        yield (
            f"{_size(hole)} of source {hole.source} never came to the store, and wait nowhere:"
            f" {_frames(hole)} of run {hole.run.hex()} ({hole.cause})"
        )
    if rest := holes[SAID_MAX:]:
        yield f"the same of {len(rest)} more stretches: {sum(h.records or 0 for h in rest)} records"


def _numbers(lines: Iterable[bytes]) -> Mapping[str, Sequence[int]]:
    """The numbers of frames by their run, sorted."""
    numbers: dict[str, list[int]] = {}
    for name in filter(None, (name_of(line + b"\n") for line in lines)):
        run, _, number = name.partition(":")
        numbers.setdefault(run, []).append(int(number))
    return {run: sorted(found) for run, found in numbers.items()}


def _is_any_of(numbers: Sequence[int], hole: Hole) -> bool:
    at = bisect_left(numbers, hole.first)
    return at < len(numbers) and numbers[at] <= hole.last


def _place(hole: Hole) -> tuple[bytes, int]:
    return hole.run, hole.first


def _frames(hole: Hole) -> str:
    if hole.first == hole.last:
        return f"frame {hole.first}"
    return f"frames {hole.first} to {hole.last}"


def _size(hole: Hole) -> str:
    if hole.records is None:
        return "an unknown number of records"
    return f"{hole.records} records ({hole.bytes} bytes)"
