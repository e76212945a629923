"""What the service manager is told of us, and when: pure, the parent calls it at each turn.

    at each turn               that the loop turns (the manager says how often it passes that on)
    once it is true            that we are ready: the queue answers, the store is prepared, each
                               source was taken up
    until then, and in a stop  that we need more time, so that no deadline of the manager's ends
                               an instance that waits for a database
    every STATUS_EVERY_S       how it goes, in one line, if that reads otherwise than the last

A loop that hangs says nothing of all this, and the manager may end us.
"""

from collections.abc import Callable
from typing import Any

from appliance import status
from appliance.contracts import ServiceManager

STATUS_EVERY_S = 5.0
TIME_EVERY_S = 5.0  # how often more time is asked for
TIME_S = 30.0  # and how much

Report = dict[str, Any]


class Herald:
    """Tells the service manager what it should know of an instance."""

    def __init__(self, manager: ServiceManager) -> None:
        self._manager = manager
        self._ready = False
        self._said = ""
        self._status_at = 0.0  # monotonic seconds
        self._time_at = 0.0

    def turned(self, now: float, stopping: bool, report: Callable[[], Report]) -> None:
        """The loop has turned, at `now` (monotonic seconds); `report` is what status.py makes."""
        self._manager.alive()
        if not stopping and not self._ready:
            self._look_whether_ready(now, report())
        if now >= self._time_at and (stopping or not self._ready):
            self._time_at = now + TIME_EVERY_S
            (self._manager.stopping if stopping else self._manager.starting)(TIME_S)
        if now >= self._status_at:
            self._status_at = now + STATUS_EVERY_S
            self._tell(status.line(report(), starting=not self._ready))

    def _look_whether_ready(self, now: float, report: Report) -> None:
        if report["ready"]:
            self._ready = True
            self._said = status.line(report, starting=False)
            self._manager.ready(self._said)
            self._status_at = now + STATUS_EVERY_S

    def stops(self) -> None:
        """A stop begins: it is said at the next turn, whenever the last thing was said."""
        self._time_at = self._status_at = 0.0

    def _tell(self, text: str) -> None:
        if text != self._said:
            self._manager.status(text)
        self._said = text

    def reloading(self) -> None:
        """A new configuration is being put in place."""
        self._manager.reloading()

    def ready(self, text: str) -> None:
        """It is, or it was refused (`text` says which); who wasn't ready before isn't now."""
        if self._ready:
            self._manager.ready(text)
        else:
            self._manager.status(text)
        self._said = text
