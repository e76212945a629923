"""Beginnings: what the kernel can't hold of a record until its end has come.

A sender's and our kernel's buffers may be smaller than a record. Then its sender waits for
room and we for a newline, for ever. So its beginning moves into a file, stretch by stretch,
and joins its end in a frame. A file, not memory: what was written to it is there after
`kill -9` (only a crash of the machine takes it, and the connection with it).

A move is a turn of the collector in miniature, with the file in the place of the queue:

    write the stretch behind what is kept, then note it in the head: `pending`
    the kernel discards it
    note that it did: now it is kept

Killed in it, a successor finds the stretch pending and asks the kernel what is left of it to
discard. A beginning is removed when the frame with its record was handed over. Its name says
boot, connection and a number of its own, so that no note can speak of another one.
"""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from appliance.errors import Unavailable
from appliance.frame import Buffer
from appliance.framing import NEWLINE
from appliance.sources.kernel import Stretch

_HEAD = struct.Struct("=QQQQ")  # bytes kept, bytes kept and pending, start, ending


class Beginning:
    """The kept beginning of one record.

    Attributes:
        length: bytes that are kept.
        pending: a stretch that is in the file, and may not be discarded yet.
    """

    def __init__(
        self, path: Path, cookie: int, number: int, disk_is_low: Callable[[], bool]
    ) -> None:
        self._path = path
        self._disk_is_low = disk_is_low
        self.cookie = cookie
        self.number = number
        self.length = 0
        self.pending: Stretch | None = None
        self._last = b""

    @property
    def size(self) -> int:
        """Bytes of the record that are in the file, pending ones too."""
        return self.length + (self.pending.length if self.pending else 0)

    def is_whole(self, record_bytes_max: int) -> bool:
        """Whether nothing more belongs to it: its newline is there, or it is over-long."""
        return self._last == NEWLINE or self.length >= record_bytes_max

    def write(self, data: Buffer, stretch: Stretch) -> None:
        """Put a stretch into the file: from here on it is pending.

        Raises:
            Unavailable: the disk doesn't take it; nothing has changed.
        """
        assert self.pending is None
        assert len(data) == stretch.length
        if self._disk_is_low():
            raise _no_room(self._path, "less than disk_free_min is free")
        with _Opened(self._path, os.O_RDWR | os.O_CREAT) as fd:
            _write_all(fd, data, _HEAD.size + self.length)
            _write_all(fd, self._head(stretch), 0)
        self.pending = stretch
        self._last = bytes(data[-1:])

    def keep(self) -> None:
        """The pending stretch was discarded: it is kept.

        Raises:
            Unavailable: the disk doesn't take it; the stretch is pending still.
        """
        assert self.pending
        length = self.length + self.pending.length
        with _Opened(self._path, os.O_RDWR) as fd:
            _write_all(fd, _HEAD.pack(length, length, 0, 0), 0)
        self.length, self.pending = length, None

    def read_into(self, view: memoryview) -> None:
        """What is kept.

        Raises:
            Unavailable: the disk doesn't give it.
        """
        with _Opened(self._path, os.O_RDONLY) as fd:
            got = os.preadv(fd, [view[: self.length]], _HEAD.size)
        if got != self.length:
            raise Unavailable(f"{self._path}: it is shorter than what was written")

    def remove(self) -> None:
        """Forget it: the frame with its record was handed over, or nobody asks for it."""
        self._path.unlink(missing_ok=True)

    def load(self) -> "Beginning":
        """Read the head as a predecessor left it."""
        with _Opened(self._path, os.O_RDONLY) as fd:
            head = os.pread(fd, _HEAD.size, 0).ljust(_HEAD.size, b"\0")
            self.length, end, start, ending = _HEAD.unpack(head)
            self._last = os.pread(fd, 1, _HEAD.size + end - 1) if end else b""
        if end > self.length:
            self.pending = Stretch(start, end - self.length, bool(ending))
        return self

    def _head(self, stretch: Stretch) -> bytes:
        return _HEAD.pack(self.length, self.length + stretch.length, stretch.start, stretch.ending)


class Beginnings:
    """All beginnings of one source: a directory, made when it is first needed."""

    def __init__(
        self,
        directory: Path,
        boot: str,
        new_number: Callable[[], int],
        disk_is_low: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = directory
        self._disk_is_low = disk_is_low
        self._boot = quote(boot, safe="")
        self._new_number = new_number  # never the same again within a boot

    def begin(self, cookie: int) -> Beginning:
        """A new one, empty, for this connection."""
        with suppress(OSError):  # its first write says so
            self._directory.mkdir(mode=0o700, exist_ok=True)
        return self._at(cookie, self._new_number())

    def find(self, cookie: int, number: int) -> Beginning | None:
        """The one that a note speaks of, if it is there."""
        found = self._at(cookie, number)
        return found.load() if found._path.exists() else None

    def remove(self, cookie: int, number: int) -> None:
        """Forget one that a note speaks of."""
        self._at(cookie, number).remove()

    def sweep(self) -> Iterator[Beginning]:
        """Those of this boot; files of another one are removed."""
        for path in sorted(self._directory.glob("*")):
            boot, _, rest = path.name.rpartition("_")
            cookie, _, number = rest.partition("-")
            if boot == self._boot and cookie.isdecimal() and number.isdecimal():
                yield Beginning(path, int(cookie), int(number), self._disk_is_low).load()
            else:
                path.unlink(missing_ok=True)

    def _at(self, cookie: int, number: int) -> Beginning:
        path = self._directory / f"{self._boot}_{cookie}-{number}"
        return Beginning(path, cookie, number, self._disk_is_low)


class _Opened:
    """A descriptor for the time of a `with`, in which an error of the disk is Unavailable."""

    def __init__(self, path: Path, flags: int) -> None:
        self._path, self._flags = path, flags

    def __enter__(self) -> int:
        try:
            self._fd = os.open(self._path, self._flags | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _no_room(self._path, error.strerror) from error
        return self._fd

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        os.close(self._fd)
        if isinstance(error, OSError):
            raise _no_room(self._path, error.strerror) from error


def _write_all(fd: int, data: Buffer, at: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


def _no_room(path: Path, why: str | None) -> Unavailable:
    return Unavailable(
        f"room for the beginning of a record: {path.parent}: {why}",
        "make room on that disk; its sender waits meanwhile",
    )
