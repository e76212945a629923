"""What the demo shows: a line of figures, events, and the table per team.

A terminal gets a line that changes in place and a drawn table (rich); a pipe gets plain
lines, figures once a second. Progress goes to stderr, so that stdout holds the result alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

from appliance.tweets import NFL_TEAMS
from appliance.verbs.demo.instance import Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status as Spinner

LINE_EVERY_S = 1.0

Clock = Callable[[], float]


class Progress(Protocol):
    """Tells on stderr how it goes."""

    def show(self, sent: int, status: Status | None) -> None:
        """The figures of this moment."""

    def say(self, line: str) -> None:
        """Something has happened."""


def figures(sent: int, status: Status | None) -> str:
    """The progress line."""
    if status is None:
        return f"sent {sent:>6}  (the instance doesn't answer just now)"
    return (
        f"sent {sent:>6}  stored {status.stored:>6}  filtered {status.filtered:>6}"
        f"  queue {status.queued:>3} frames"
    )


class PlainProgress:
    """Lines, at most one of figures a second."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._shown = -math.inf

    def show(self, sent: int, status: Status | None) -> None:
        if self._clock() - self._shown >= LINE_EVERY_S:
            self._shown = self._clock()
            self.say(figures(sent, status))

    def say(self, line: str) -> None:
        print(f"demo: {line}", file=self._stream, flush=True)


class LiveProgress:
    """One line that changes in place, events above it."""

    def __init__(self, console: "Console", spinner: "Spinner") -> None:
        self._console = console
        self._spinner = spinner

    def show(self, sent: int, status: Status | None) -> None:
        self._spinner.update(figures(sent, status))

    def say(self, line: str) -> None:
        self._console.print(f"demo: {line}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_on(stream: TextIO) -> Iterator[Progress]:
    """Progress in the form that suits the stream."""
    if not stream.isatty():
        yield PlainProgress(stream)
        return
    from rich.console import Console  # here: nobody but a demo on a terminal needs it

    console = Console(file=stream)
    with console.status("starting") as spinner:
        yield LiveProgress(console, spinner)


def print_teams(counts: Mapping[str, int], out: TextIO) -> None:
    """The table per team: how many stored tweets name it."""
    if out.isatty():
        _draw_teams(counts, out)
        return
    print(f"{'team':<12} {'tweets':>6}", file=out)
    for team in NFL_TEAMS:
        print(f"{team:<12} {counts[team]:>6}", file=out)


def _draw_teams(counts: Mapping[str, int], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="stored tweets by team")
    for _ in ("left half", "right half"):
        table.add_column("team")
        table.add_column("tweets", justify="right")
    half = len(NFL_TEAMS) // 2
    for left, right in zip(NFL_TEAMS[:half], NFL_TEAMS[half:], strict=True):
        table.add_row(left, str(counts[left]), right, str(counts[right]))
    Console(file=out).print(table)
