"""What all figures of one run share: the database, the stream, how often, and who is told."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.measure import Findings, Say, Side, storing
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

    def side(self, way: Way, share: int = 1) -> Side:
        """A way, and its part of the stream: the first of `share` equal ones."""
        count = self.lines.content.count // share
        return storing(
            self.database, way, self.lines.first(count), self.lines.first(count // WARM_UP_SHARE)
        )


Figure = Callable[[Run], Findings]
