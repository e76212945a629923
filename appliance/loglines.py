"""A record of the log as text, as JSON, and as what the journal is told.

What others wrote (a database's error may show a record) is escaped and cut in each of them:
nobody writes lines, or to a terminal, in our name. Times are UTC (RFC 3339).
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from appliance.texts import printable

LINE_CHARS_MAX = 8192  # of a message; an ALTER TABLE to paste may be long
WHOLE = {"whole": True}  # `extra` of a record that is our own and is never cut

PROGRAM = "stream-daemon"
DAEMON_FACILITY = 3  # syslog(3): LOG_DAEMON
PRIORITIES = (  # from this level on: syslog(3)'s number, for the journal
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
DEBUG_PRIORITY = 7
NAMED = {"collector": "source", "subscriber": "subscriber"}  # what a process's name is the name of

Form = Callable[[logging.LogRecord, "Speaker"], str]


@dataclass(frozen=True, slots=True)
class Speaker:
    """Who says it: the instance, which of its processes, and of which source or number that is."""

    instance: str
    process: str = "parent"
    name: str = ""

    @property
    def fields(self) -> dict[str, str]:
        """The same for a machine; a collector has a `source`, a subscriber its number."""
        named = {NAMED[self.process]: self.name} if self.process in NAMED else {}
        return {"instance": self.instance, "process": self.process, **named}


def text(record: logging.LogRecord, _speaker: Speaker) -> str:
    """For people: time, level, who, what."""
    return f"{_time(record)} {record.levelname:<7} {_said(record)}{_traceback(record)}"


def as_json(record: logging.LogRecord, speaker: Speaker) -> str:
    """One JSON object in one line."""
    fields = {
        "time": _time(record),
        "level": record.levelname.lower(),
        **speaker.fields,
        "pid": record.process,
        "logger": record.name,
        "message": _message(record),
    }
    if traceback := _traceback(record):
        fields["traceback"] = traceback[1:]
    return json.dumps(fields, ensure_ascii=False)


def prefixed(record: logging.LogRecord, _speaker: Speaker) -> str:
    """For a journal that reads our stderr: it knows the time, and takes <N> for the priority."""
    lines = f"{_said(record)}{_traceback(record)}".split("\n")
    return "\n".join(f"<{priority(record)}>{line}" for line in lines)


def journal_fields(record: logging.LogRecord, speaker: Speaker) -> dict[str, str]:
    """For the journal itself (systemd.journal-fields(7)), with fields of our own."""
    own = {f"STREAM_DAEMON_{key.upper()}": value for key, value in speaker.fields.items()}
    return {
        "MESSAGE": f"{_said(record)}{_traceback(record)}",
        "PRIORITY": f"{priority(record)}",
        "SYSLOG_IDENTIFIER": PROGRAM,
        "SYSLOG_FACILITY": f"{DAEMON_FACILITY}",
        **own,
    }


def priority(record: logging.LogRecord) -> int:
    """Its level as syslog counts: 3 error, 4 warning, 6 info, 7 debug."""
    found = (number for level, number in PRIORITIES if record.levelno >= level)
    return next(found, DEBUG_PRIORITY)


FORMS: dict[str, Form] = {"text": text, "json": as_json}
"""`log.format` → how it is written."""


def _time(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _said(record: logging.LogRecord) -> str:
    return f"{record.name}: {_message(record)}"


def _message(record: logging.LogRecord) -> str:
    """One line, whatever it holds."""
    message = printable(record.getMessage())
    if len(message) > LINE_CHARS_MAX and not hasattr(record, "whole"):
        return f"{message[:LINE_CHARS_MAX]}… ({len(message)} characters)"
    return message


def _traceback(record: logging.LogRecord) -> str:
    """A mistake of ours keeps its lines; empty if there is none."""
    if not record.exc_info:
        return ""
    return "\n" + logging.Formatter().formatException(record.exc_info)
