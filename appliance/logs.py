"""What the program says while it runs: one line an event, with its reason and the next step.

Nothing is logged per record or per frame. Where it goes is settled once, by the parent, before
the first fork; a child then only says who it is:

    log.to = "stderr"    the journal, if that is what stderr is (journal.py); else stderr
    log.to = "/path"     that file

How a line looks is in loglines.py, what becomes of one that can't be written in destinations.py.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping

from appliance import journal
from appliance.contracts import Gauge
from appliance.destinations import STDERR, Destination, File, Stderr, ToJournal, check_file
from appliance.errors import ConfigError, Unavailable
from appliance.loglines import FORMS, WHOLE, Speaker, prefixed
from appliance.settings import LOG_TO_STDERR, LogConfig

__all__ = ["WHOLE", "Outage", "check", "reopen", "set_up", "set_up_stderr", "speaks_as"]

SAY_AFTER_S = 1.0


def check(log: LogConfig) -> None:
    """See that the log can go where it is to go; changes nothing.

    Raises:
        ConfigError: it can't.
    """
    if log.to != LOG_TO_STDERR:
        check_file(log.to)


def set_up(log: LogConfig, instance: str, process: str = "parent") -> None:
    """Log as configured from here on, in this process and its children.

    Raises:
        ConfigError: the file can't be written.
    """
    speaker = Speaker(instance, process)
    if log.to == LOG_TO_STDERR:
        _use(_stderr(log.format, speaker, os.environ), log.level)
        return
    check(log)
    file = File(log.to, FORMS[log.format], speaker)
    try:
        file.open()
    except OSError as error:
        raise ConfigError(
            f"log.to: {log.to}: {error.strerror}", "name a file that this user can write"
        ) from error
    _use(file, log.level)


def set_up_stderr(log: LogConfig, instance: str, process: str = "parent", level: str = "") -> None:
    """The same to stderr, whatever `log.to` is: for a verb that somebody waits for."""
    _use(_stderr(log.format, Speaker(instance, process), os.environ), level or log.level)


def speaks_as(process: str, name: str, gauge: Gauge) -> None:
    """Say whose lines follow in this process, and where it is counted if some are lost."""
    for destination in _destinations():
        destination.speaker = Speaker(destination.speaker.instance, process, name)
        destination.gauge = gauge
    gauge.log_error("")  # a predecessor may have lost some


def reopen() -> str:
    """Begin the log's file anew, if it is one that somebody has renamed; where the log goes."""
    for destination in _destinations():
        destination.reopen()
    return ", ".join(destination.where for destination in _destinations())


def _stderr(format: str, speaker: Speaker, environ: Mapping[str, str]) -> Destination:
    """The journal if stderr is that, and takes our fields; else stderr."""
    if not journal.is_behind(STDERR, environ):
        return Stderr(FORMS[format], speaker)
    try:
        return ToJournal(journal.Journal(), speaker)
    except OSError:  # not reachable from here (a chroot): it reads lines, too
        return Stderr(prefixed, speaker)


def _use(destination: Destination, level: str) -> None:
    for before in _destinations():  # a reload: lost lines are counted where they were
        destination.gauge = before.gauge
    root = logging.getLogger()
    root.handlers[:] = [destination]
    root.setLevel(level.upper())


def _destinations() -> list[Destination]:
    return [one for one in logging.getLogger().handlers if isinstance(one, Destination)]


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
