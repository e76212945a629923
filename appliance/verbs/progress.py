"""How a verb that takes a while tells how it goes: a line of figures, and what happens.

A terminal gets a line that changes in place, with a bar where the time is known (rich); a pipe
gets plain lines, figures once a second. All of it goes to stderr, so that stdout holds the
result alone.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

LINE_EVERY_S = 1.0

Clock = Callable[[], float]
Tell = Callable[[int, int], None]
"""Told how many of how many are done."""


class Progress(Protocol):
    """Tells on stderr how it goes."""

    def show(self, figures: str, elapsed_s: float = 0.0) -> None:
        """The figures of this moment, and how much of the time is over."""

    def say(self, line: str) -> None:
        """Something has happened."""


class PlainProgress:
    """Lines, at most one of figures a second. `who` begins each of them."""

    def __init__(self, stream: TextIO, who: str, clock: Clock = time.monotonic) -> None:
        self._stream = stream
        self._who = who
        self._clock = clock
        self._shown = -math.inf

    def show(self, figures: str, elapsed_s: float = 0.0) -> None:
        if self._clock() - self._shown >= LINE_EVERY_S:
            self._shown = self._clock()
            self.say(figures)

    def say(self, line: str) -> None:
        print(f"{self._who}: {line}", file=self._stream, flush=True)


class LiveProgress:
    """One line that changes in place, events above it."""

    def __init__(self, bar: "Bar", task: "TaskID", who: str) -> None:
        self._bar = bar
        self._task = task
        self._who = who

    def show(self, figures: str, elapsed_s: float = 0.0) -> None:
        self._bar.update(self._task, description=figures, completed=elapsed_s)

    def say(self, line: str) -> None:
        console = self._bar.console
        console.print(f"{self._who}: {line}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def progress_on(stream: TextIO, who: str, total_s: float | None = None) -> Iterator[Progress]:
    """Progress in the form that suits the stream; total_s: how long it will take, if known."""
    if not stream.isatty():
        yield PlainProgress(stream, who)
        return
    from rich.console import Console  # here: only a terminal needs it
    from rich.progress import BarColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), *([BarColumn()] if total_s else []), text)
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        yield LiveProgress(bar, bar.add_task("starting", total=total_s), who)


@contextmanager
def counted(who: str, what: str, *more: "RenderableType") -> Iterator[Tell]:
    """A bar over so many of `what` on a terminal, with `more` behind it; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console  # here: only a terminal needs it
    from rich.progress import BarColumn, MofNCompleteColumn, RenderableColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn(who), BarColumn(), MofNCompleteColumn(), TextColumn(what))
    with Bar(
        *columns, *map(RenderableColumn, more), console=Console(file=sys.stderr), transient=True
    ) as bar:
        task = bar.add_task(who, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
