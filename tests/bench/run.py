"""What all figures of one run share: the database, the stream, how often, and who is told."""

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.measure import Findings, Say, Side, Tables, storing
from tests.bench.ways import Way

WARM_UP_SHARE = 4


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmarks.

    `rounds`: how often each side is measured. `lines`: the stream; a figure for which it is too
    long takes its beginning. `say`: one line for whoever watches.
    """

    database: Database
    lines: Lines
    rounds: int
    say: Say

    def side(self, way: Way, share: int = 1, tables: Tables | None = None) -> Side:
        """A way, and its part of the stream: the first of `share` equal ones.

        `tables`: where its table is, unless in the run's database.
        """
        count = self.lines.content.count // share
        lines, warm_up = self.lines.first(count), self.lines.first(count // WARM_UP_SHARE)
        return storing(tables or self.database, way, lines, warm_up)


Figure = Callable[[Run], Findings]


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """For an argument of a command: a name that is known, or an error that says which are."""

    def known(name: str) -> str:
        if name not in names:
            raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(names)}")
        return name

    return known
