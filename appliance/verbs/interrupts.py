"""How a verb that starts things is interrupted: at once, but never between making and noting."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """The user wants it to end now."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.exit_code = 128 + number  # as a shell shows it


class Overdue(Interrupted):
    """It has taken longer than it may."""


class Interrupts:
    """INT, TERM, HUP and a limit of time as exceptions, one of them, once.

    They are no `Exception`s, so that nobody on the way takes them for an error to wait out.
    While they are `held` nothing is raised, so that starting and cleaning up are whole.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._holds = 0
        self._pending: signal.Signals | None = None
        self._raised = False

    def __enter__(self) -> "Interrupts":
        self._before = {number: signal.signal(number, self._come) for number in self.SIGNALS}
        signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Put interruptions off until the end of the block."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
        self._raise_pending()

    def _come(self, number: int, _frame: FrameType | None) -> None:
        self._pending = self._pending or signal.Signals(number)
        self._raise_pending()

    def _raise_pending(self) -> None:
        if self._pending is None or self._holds or self._raised:
            return
        self._raised = True
        raise (Overdue if self._pending == signal.SIGALRM else Interrupted)(self._pending)
