"""What the program says while it runs: one line an event, with its reason and the next step.

To stderr, readable. Times are UTC (RFC 3339). Nothing is logged per record or per frame. What
others wrote (a database's error may show a record) is escaped and cut: nobody writes lines, or to
a terminal, in our name.
"""

import logging
import sys
import time
from collections.abc import Callable

from appliance.contracts import Gauge
from appliance.errors import Unavailable
from appliance.texts import printable

SAY_AFTER_S = 1.0
FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"


LINE_CHARS_MAX = 8192  # of a message; an ALTER TABLE to paste may be long
WHOLE = {"whole": True}  # `extra` of a record that is our own and is never cut


class _OneLine(logging.Formatter):
    """One line an event, whatever its message holds."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = printable(record.message)
        if len(text) > LINE_CHARS_MAX and not hasattr(record, "whole"):
            text = f"{text[:LINE_CHARS_MAX]}… ({len(text)} characters)"
        record.message = text
        return super().formatMessage(record)


def set_up(level: str) -> None:
    """Log to stderr from here on, in this process and its children."""
    formatter = _OneLine(FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Outage:
    """Something that is away: said once when it lasts, once when it is over.

    One that ends within SAY_AFTER_S (a server that is just starting) is not worth a line. An
    error that an operator has to mend (`Unavailable.loud`) is said at once, and again when
    its text changes. `status` shows what is awaited all the time.
    """

    def __init__(
        self,
        log: logging.Logger,
        gauge: Gauge,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._gauge = gauge
        self._monotonic = monotonic
        self._began: float | None = None
        self._said = ""

    def goes_on(self, what: str, error: Unavailable) -> None:
        """`what` is away, for the first time or still."""
        self.awaits(f"{what}: {error.message}", error.hint, error.loud)

    def awaits(self, text: str, hint: str = "", loud: bool = False) -> None:
        """The same in words of one's own."""
        hint = f" → {hint}" if hint else ""
        now = self._monotonic()
        self._began = now if self._began is None else self._began
        self._gauge.waiting_for(text + hint)
        lasts = now - self._began >= SAY_AFTER_S and not self._said
        if lasts or (loud and text != self._said):
            level = logging.ERROR if loud else logging.WARNING
            self._log.log(level, "waiting for %s%s", text, hint)
            self._gauge.error(text)
            self._said = text

    def is_over(self) -> None:
        """It answered; nothing is awaited any more."""
        if self._began is not None:
            self._gauge.waiting_for("")
            self._began = None
        if self._said:
            self._log.info("no longer waiting for %s", self._said)
            self._said = ""
