"""The figures of the table: which ways each of them compares, on what.

Whoever adds one names it in FIGURES and says in docs/benchmarks.md what it means.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.measure import Comparison, Entrant, Say, in_turns
from tests.bench.ways import LoadData, Way, stream_daemon, textbook

TEXTBOOK_SHARE = 60  # the textbook way gets the first of so many equal parts of the stream
WARM_UP_SHARE = 4


@dataclass(frozen=True, slots=True)
class Run:
    """What all figures of one run share."""

    database: Database
    lines: Lines
    rounds: int
    say: Say

    def entrant(self, way: Way, share: int = 1) -> Entrant:
        """A way and its part of the stream: the first of `share` equal ones."""
        count = self.lines.content.count // share
        return Entrant(way, self.lines.first(count), self.lines.first(count // WARM_UP_SHARE))


Figure = Callable[[Run], Comparison]


def b5(run: Run) -> Comparison:
    """TCP to committed rows, everything running, against the stock client's LOAD DATA."""
    with stream_daemon(run.database) as way:
        other = LoadData(run.database)
        run.database.make_like(other.table, way.table)
        rates = in_turns(run.database, run.entrant(way), run.entrant(other), run.rounds, run.say)
    return Comparison("B5", "TCP → MariaDB committed, everything running", *rates, aim=0.9)


def b7(run: Run) -> Comparison:
    """The same, against the textbook way: RPUSH, RPOPLPUSH, INSERT, LREM."""
    with stream_daemon(run.database) as way, textbook(run.database) as other:
        slow = run.entrant(other, share=TEXTBOOK_SHARE)
        rates = in_turns(run.database, run.entrant(way), slow, run.rounds, run.say)
    return Comparison("B7", "TCP → MariaDB committed, everything running", *rates, aim=20)


FIGURES: Mapping[str, Figure] = {"B5": b5, "B7": b7}
