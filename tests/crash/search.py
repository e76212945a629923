"""A breadth-first search through all states of a model: what can go wrong, in the fewest steps.

    python -m tests.crash.search --kills 2 --outages 1       a larger world, by hand

A state in which nothing comes next, unless something goes wrong, is an end: there everything has to
be done. That nobody runs in circles for ever isn't looked at.
"""

import argparse
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tests.crash.model import Limits, Model, Rules, State, Step

STUCK = "stuck"
STATES_MAX = 10_000_000  # a broken rule may let numbers grow for ever


class Outcome(NamedTuple):
    """What a search has found. broken: the promise, empty if none is; trace: how it comes to it."""

    states: int
    ends: int
    broken: str
    trace: list[str]

    def __str__(self) -> str:
        size = f"{self.states} states, {self.ends} ends"
        if not self.broken:
            return f"{size}: every promise holds"
        return "\n".join([f"{size}: {self.broken}", *(f"  {line}" for line in self.trace)])


Came = dict[State, tuple[State, Step] | None]


def search(model: Model, wanted: str = "") -> Outcome:
    """Go through all states, up to the first broken promise (or the first that is `wanted`)."""
    with _no_collection():
        first = model.first()
        came: Came = {first: None}
        ends = 0
        layer = [first]
        while layer:
            following: list[State] = []
            for state in layer:
                good, bad = model.steps(state)
                if not good:
                    ends += 1
                    if not model.is_done(state) and wanted in ("", STUCK):
                        return Outcome(len(came), ends, STUCK, trace(came, state))
                for step in (*good, *bad):
                    after = step.after
                    if after in came:
                        continue
                    came[after] = (state, step)
                    broken = model.broken(after)
                    if broken and wanted in ("", broken):
                        return Outcome(len(came), ends, broken, trace(came, after))
                    following.append(after)
            assert len(came) <= STATES_MAX, "no end of states"
            layer = following
        return Outcome(len(came), ends, "", [])


def trace(came: Came, state: State) -> list[str]:
    """The steps that lead to a state."""
    lines: list[str] = []
    while (origin := came[state]) is not None:
        state, step = origin
        lines.append(str(step))
    return lines[::-1]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing here is ever garbage, and to look for some would take half of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def main() -> None:
    """Search a world of the size that the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in vars(Limits()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    began = time.monotonic()
    outcome = search(Model(Rules(), Limits(**vars(parser.parse_args()))))
    print(outcome, f"({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    main()
