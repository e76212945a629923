"""Where lines of the log go: to a descriptor, into a file, to the journal.

No line ever stops, or holds up for long, who says it. One that can't be written is counted, said
in `status`, and said in the log itself as soon as that takes lines again.

A file is opened for each line, by its name: lines are few. So whoever renames it (logrotate) need
not tell us: the next line of each process begins the new one, and nobody keeps the old one open.
Each line is one write(2) with O_APPEND, so those of several processes never mix, and a file
that is cut (copytruncate) goes on at its beginning.
"""

import logging
import os
import stat
from abc import abstractmethod
from pathlib import Path
from pwd import getpwuid

from appliance.contracts import Gauge
from appliance.errors import ConfigError
from appliance.journal import Journal
from appliance.loglines import Form, Speaker, journal_fields

FILE_MODE = 0o640  # less what the umask takes
STDERR = 2
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Destination(logging.Handler):
    """One place for all that is said.

    Attributes:
        where: its name, in words.
        speaker: who says it.
        gauge: where it is said and counted that lines are lost; None: nowhere.
    """

    def __init__(self, where: str, speaker: Speaker) -> None:
        super().__init__()
        self.where = where
        self.speaker = speaker
        self.gauge: Gauge | None = None
        self._lost = 0
        self._why = ""

    @abstractmethod
    def put(self, record: logging.LogRecord) -> None:
        """Write it. Raises OSError if that can't be done."""

    def reopen(self) -> None:
        """Begin the file anew that somebody has renamed, if it is one (USR1)."""

    @property
    def is_losing(self) -> bool:
        """Whether the newest line was lost."""
        return self._lost > 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, and before it how many were lost; or lose it."""
        try:
            if self._lost:
                self._say_lost()
            self.put(record)
        except OSError as error:
            self._lose(error)
        except Exception:  # noqa: BLE001 - a mistake in a log line is no reason to end
            self.handleError(record)

    def _say_lost(self) -> None:
        about = {"msg": "%d lines are missing here: %s", "args": (self._lost, self._why)}
        named = {"name": "log", "levelno": logging.WARNING, "levelname": "WARNING"}
        self.put(logging.makeLogRecord({**named, **about}))
        self._lost = 0
        if self.gauge:
            self.gauge.log_error("")

    def _lose(self, error: OSError) -> None:
        is_news, self._why = not self._lost, f"{self.where}: {error.strerror or error}"
        self._lost += 1
        if self.gauge:
            self.gauge.add("log_lost", 1)
            self.gauge.log_error(self._why)
            if is_news:
                self.gauge.error(f"lines of the log are lost: {self._why}")


class Stderr(Destination):
    """What whoever started us reads."""

    def __init__(self, form: Form, speaker: Speaker, fd: int = STDERR) -> None:
        super().__init__("stderr", speaker)
        self._form = form
        self._fd = fd

    def put(self, record: logging.LogRecord) -> None:
        """Write a line."""
        _write_whole(self._fd, _encoded(self._form(record, self.speaker)))


class File(Destination):
    """A file, by its name. Made if it isn't there; its directory has to be."""

    def __init__(self, path: str, form: Form, speaker: Speaker) -> None:
        super().__init__(path, speaker)
        self._form = form
        self._is_cut = False

    def put(self, record: logging.LogRecord) -> None:
        """Append a line to what has this name now."""
        line = _encoded(self._form(record, self.speaker))
        fd = os.open(self.where, _FLAGS, FILE_MODE)
        try:
            self._append(fd, b"\n" + line if self._is_cut else line)
        finally:
            os.close(fd)

    def _append(self, fd: int, line: bytes) -> None:
        """A full disk may take a part; what comes next shall not stand in the same line."""
        written = 0
        try:
            while written < len(line):
                written += os.write(fd, line[written:])
            self._is_cut = False
        except OSError:
            self._is_cut = self._is_cut or written > 0
            raise

    def reopen(self) -> None:
        """Make the file now, not with the next line."""
        try:
            self.open()
        except OSError as error:
            self._lose(error)

    def open(self) -> None:
        """See that it can be written. Raises OSError."""
        os.close(os.open(self.where, _FLAGS, FILE_MODE))


class ToJournal(Destination):
    """The journal, with fields of our own."""

    def __init__(self, journal: Journal, speaker: Speaker) -> None:
        super().__init__("the journal", speaker)
        self._journal = journal

    def put(self, record: logging.LogRecord) -> None:
        """Send it; after one that found no room nothing is waited for."""
        self._journal.send(journal_fields(record, self.speaker), wait=not self.is_losing)


def _encoded(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def _write_whole(fd: int, line: bytes) -> None:
    while line:
        line = line[os.write(fd, line) :]


# ── whether a file will do ──────────────────────────────────────────────────────────────


def check_file(path: str) -> None:
    """See that this user can log there, and that nobody else can put another file in its place.

    Changes nothing.

    Raises:
        ConfigError: it won't do, and what to do about it.
    """
    directory = Path(path).parent
    try:
        _check_directory(directory, directory.stat())
        _check_log(path)
    except OSError as error:
        raise ConfigError(
            f"log.to: {error.filename}: {error.strerror}",
            f"make a directory for the log that the user who runs this can write: {directory}",
        ) from error


def _check_directory(directory: Path, found: os.stat_result) -> None:
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"log.to: {directory} belongs to user {_name_of(found.st_uid)},"
            " who could put any file in the log's place",
            "log into a directory that belongs to the user who runs this, or to root",
        )
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise ConfigError(
            f"log.to: everybody may write in {directory}",
            "log into a directory of your own, or take that right away: chmod o-w",
        )


def _check_log(path: str) -> None:
    """What has that name already is a plain file that we may write; or we may make it."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        _check_access(str(Path(path).parent), os.W_OK | os.X_OK)
        return
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(
            f"log.to: {path} is no plain file (nor may it be a link to one)",
            "name a file, which is made if it isn't there",
        )
    _check_access(path, os.W_OK)


def _check_access(path: str, wanted: int) -> None:
    if not os.access(path, wanted, effective_ids=True):
        raise PermissionError(13, "Permission denied", path)


def _name_of(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"
