"""Errors named for the reaction they ask for.

    Unavailable   wait and try the same again: nothing is wrong with the data
    Rejected      isolate: the database refuses this data, whoever asks
    Corrupt       set aside: these bytes are not what we once wrote
    Occupied      don't start: another instance does this work already
    ConfigError   stop: the user must change something first

Foreign exceptions (of redis, pymysql, sqlite3, the kernel) become one of these at the
border, once, with the cause kept; the text says what is wrong, `hint` what to do next.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the program (sysexits.h where it has one that fits)."""

    OK = 0
    WRONG = 1  # who looks for what is wrong has found something
    DEGRADED = 2  # status only
    NOT_RUNNING = 3  # running, status
    UNKNOWN = 4  # status only
    USAGE = 64
    UNREACHABLE = 69
    INTERNAL = 70
    TAKEN = 73
    MAY_BE_LOST = 74
    TIMED_OUT = 75
    CONFIG = 78


class StreamDaemonError(Exception):
    """Base of all errors that the program explains to its user."""

    exit_code = Exit.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.hint}" if self.hint else self.message

    @property
    def line(self) -> str:
        """The same in one line, for the log and for `status`."""
        return f"{self.message} → {self.hint}" if self.hint else self.message


class ConfigError(StreamDaemonError):
    """The configuration can't be used as it is; the message names file, key and line."""

    exit_code = Exit.CONFIG


class InstanceError(StreamDaemonError):
    """The state directory is not usable, or another instance holds it."""

    exit_code = Exit.TAKEN


class AddressError(StreamDaemonError):
    """A listening address can't be bound."""

    exit_code = Exit.UNREACHABLE


class Unavailable(StreamDaemonError):
    """Redis or the database doesn't do its work now: wait, then try the same again.

    `loud` marks what an operator has to mend (a wrong password, a missing database): it is
    said with its hint, and still waited for.
    """

    exit_code = Exit.UNREACHABLE

    def __init__(self, message: str, hint: str = "", loud: bool = False) -> None:
        super().__init__(message, hint)
        self.loud = loud


class Occupied(Unavailable):
    """Another instance collects the same source through the same Redis.

    Who meets it at its start refuses to; who had been the only one so far waits.
    """

    exit_code = Exit.TAKEN

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, loud=True)


class Rejected(StreamDaemonError):
    """The database refuses this data: find the row, make it a dead letter, go on.

    `code` is a short word for tables and counters (at most 32 characters).
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Corrupt(StreamDaemonError):
    """Bytes that are not a frame of ours: set them aside, never guess."""
