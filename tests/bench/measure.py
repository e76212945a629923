"""Measuring two ways in turns, and what comes out of it: rates, their spread, their ratio."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.ways import Way

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Entrant:
    """One way, the lines it gets, and the beginning of them that warms it up."""

    way: Way
    lines: Lines
    warm_up: Lines


@dataclass(frozen=True, slots=True)
class Rates:
    """Records per second of one way, one figure a round."""

    way: str
    records: int
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.rounds)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure: us, the other way, and the ratio that the design aims at."""

    name: str
    what: str
    ours: Rates
    theirs: Rates
    aim: float

    @property
    def ratios(self) -> list[float]:
        """One a round: the two of a round have met the same load of the machine."""
        return [
            ours / theirs for ours, theirs in zip(self.ours.rounds, self.theirs.rounds, strict=True)
        ]

    @property
    def ratio(self) -> float:
        """The middle one of the rounds."""
        return median(self.ratios)


class WrongContentError(Exception):
    """A way has stored something else than what it got: its figure would mean nothing."""


def in_turns(
    database: Database, ours: Entrant, theirs: Entrant, rounds: int, say: Say
) -> tuple[Rates, Rates]:
    """Measure both, `rounds` times each, by turns; who goes first changes with each round."""
    entrants = (ours, theirs)
    for entrant in entrants:
        rate(database, entrant.way, entrant.warm_up)
    figures: list[list[float]] = [[], []]
    for number in range(rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            entrant = entrants[index]
            figure = rate(database, entrant.way, entrant.lines)
            figures[index].append(figure)
            say(f"round {number + 1}: {entrant.way.name} {figure:,.0f} records/s")
    measured = [
        Rates(entrant.way.name, entrant.lines.content.count, tuple(rounds))
        for entrant, rounds in zip(entrants, figures, strict=True)
    ]
    return measured[0], measured[1]


def rate(database: Database, way: Way, lines: Lines) -> float:
    """Records per second of one measure from an empty table to a table that was checked.

    Raises:
        WrongContentError: the table doesn't hold exactly the lines.
    """
    database.empty(way.table)
    seconds = way.store(lines)
    found = database.content(way.table)
    if found != lines.content:
        raise WrongContentError(f"{way.name} has stored {found}, should be {lines.content}")
    return lines.content.count / seconds
