"""What the program says while it runs: one line an event, with its reason and the next step.

To stderr, readable. Times are UTC (RFC 3339). Nothing is logged per record or per frame.
"""

import logging
import sys
import time

from appliance.contracts import Gauge
from appliance.errors import Unavailable

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s"


def set_up(level: str) -> None:
    """Log to stderr from here on, in this process and its children."""
    formatter = logging.Formatter(FORMAT, "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class Outage:
    """Something that is away: said once when it begins, once when it is over.

    An error that an operator has to mend (`Unavailable.loud`) is said again when its text
    changes. `status` shows what is awaited all the time.
    """

    def __init__(self, log: logging.Logger, gauge: Gauge) -> None:
        self._log = log
        self._gauge = gauge
        self._said = ""

    def goes_on(self, what: str, error: Unavailable) -> None:
        """`what` is away, for the first time or still."""
        text = f"{what}: {error.message}"
        hint = f" → {error.hint}" if error.hint else ""
        self._gauge.error(text)
        self._gauge.waiting_for(text + hint)
        if not self._said or (error.loud and text != self._said):
            self._log.log(
                logging.ERROR if error.loud else logging.WARNING, "waiting for %s%s", text, hint
            )
            self._said = text

    def is_over(self) -> None:
        """It answered; nothing is awaited any more."""
        if self._said:
            self._log.info("no longer waiting for %s", self._said)
            self._gauge.waiting_for("")
            self._said = ""
