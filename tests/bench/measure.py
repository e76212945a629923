"""What a figure is made of: samples of two ways, taken in turns, their spread and their ratio."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import Protocol

from tests.bench.lines import Content, Lines
from tests.bench.ways import Way

Say = Callable[[str], None]

RECORDS_PER_S = "records/s"


@dataclass(frozen=True, slots=True)
class Samples:
    """What was measured of one way, one figure a round, all in one unit."""

    way: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.rounds)


def limit(figure: float, unit: str, rounds: int) -> Samples:
    """What stands in for another way where the aim is a figure of its own."""
    return Samples("the limit", unit, (figure,) * rounds)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row: us, the other way, and the ratio that the design aims at.

    `at_most`: a lower ratio is the better one.
    """

    name: str
    what: str
    ours: Samples
    theirs: Samples
    aim: float
    at_most: bool = False

    @property
    def ratios(self) -> list[float]:
        """One a round: the two of a round have met the same load of the machine."""
        return [
            ours / theirs if theirs else inf  # too little of it to be told
            for ours, theirs in zip(self.ours.rounds, self.theirs.rounds, strict=True)
        ]

    @property
    def ratio(self) -> float:
        """The middle one of the rounds."""
        return median(self.ratios)

    @property
    def is_reached(self) -> bool:
        """Whether the middle ratio is what the design aims at."""
        return self.ratio <= self.aim if self.at_most else self.ratio >= self.aim


@dataclass(frozen=True, slots=True)
class Listing:
    """A table of its own beside the rows: what a figure has to show that is no ratio."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Findings:
    """All that a figure has found: rows, tables, and pictures ({file name: SVG})."""

    comparisons: Sequence[Comparison]
    listings: Sequence[Listing] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


# ── in turns ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparison: a name, and what measures it once and returns the figure."""

    way: str
    once: Callable[[], float]


def in_turns(ours: Side, theirs: Side, unit: str, rounds: int, say: Say) -> tuple[Samples, Samples]:
    """Measure both, `rounds` times each, by turns; who goes first changes with each round."""
    sides = (ours, theirs)
    figures: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for index in (0, 1) if number % 2 else (1, 0):
            figure = sides[index].once()
            figures[index].append(figure)
            say(f"round {number + 1}: {sides[index].way} {shown(figure)} {unit}")
    mine, others = figures
    return Samples(ours.way, unit, tuple(mine)), Samples(theirs.way, unit, tuple(others))


def shown(figure: float) -> str:
    """A figure for people: three digits, or all before the point."""
    return f"{figure:,.0f}" if abs(figure) >= 100 else f"{figure:.3g}"


def spread(figures: Sequence[float]) -> str:
    """Several figures for people: the middle one, in brackets the lowest and the highest."""
    if min(figures) == max(figures):
        return shown(figures[0])
    return f"{shown(median(figures))} ({shown(min(figures))} … {shown(max(figures))})"


# ── from lines into a table ─────────────────────────────────────────────────────────────


class WrongContentError(Exception):
    """A way has stored something else than what it got: its figure would mean nothing."""


class Tables(Protocol):
    """Where the tables of ways are."""

    def empty(self, table: str) -> None:
        """Leave the table as if it had just been made."""

    def content(self, table: str) -> Content:
        """What is in it."""


def storing(tables: Tables, way: Way, lines: Lines, warm_up: Lines) -> Side:
    """A way as one side, in records per second, warmed up once with the beginning of its lines."""
    rate(tables, way, warm_up)
    return Side(way.name, lambda: rate(tables, way, lines))


def rate(tables: Tables, way: Way, lines: Lines) -> float:
    """Records per second of one measure from an empty table to a table that was checked.

    Raises:
        WrongContentError: the table doesn't hold exactly the lines.
    """
    tables.empty(way.table)
    seconds = way.store(lines)
    check(way.name, tables.content(way.table), lines.content)
    return lines.content.count / seconds


def check(name: str, found: Content, wanted: Content) -> None:
    """See that a table holds what was sent.

    Raises:
        WrongContentError: it holds something else.
    """
    if found != wanted:
        raise WrongContentError(f"{name} has stored {found}, should be {wanted}")
