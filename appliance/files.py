"""Files: every call to the system that a spool makes, in one place.

Tests pass in others that fail, or end the process, at the call of their choice, or that forget
what was never synced. Nothing here catches an error.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance.frame import Buffer


class Files:
    """All that a spool asks of the system. Every method raises OSError, as the system does."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor; a new file is its owner's alone."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        """Release a descriptor."""
        os.close(fd)

    def pread(self, fd: int, length: int, at: int) -> bytes:
        """Up to so many bytes."""
        return os.pread(fd, length, at)

    def pwritev(self, fd: int, parts: Sequence[Buffer], at: int) -> int:
        """Write as much as goes in one call; how many bytes that was."""
        return os.pwritev(fd, parts, at)

    def ftruncate(self, fd: int, length: int) -> None:
        """Cut a file."""
        os.ftruncate(fd, length)

    def fsync(self, fd: int) -> None:
        """Return when it outlives a crash of the machine."""
        os.fsync(fd)

    @contextmanager
    def changing(self, path: Path) -> Iterator[int]:
        """A descriptor to change a file with; at the end what was changed is synced."""
        fd = self.open(path, os.O_RDWR)
        try:
            yield fd
            self.fsync(fd)
        finally:
            self.close(fd)

    def size(self, fd: int) -> int:
        """A file's length."""
        return os.fstat(fd).st_size

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name."""
        os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def make(self, directory: Path) -> None:
        """Make a directory, for its owner alone, unless it is there."""
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def sizes(self, directory: Path) -> dict[str, int]:
        """What is in a directory: each name with the file's length, -1 if it is no file."""
        with os.scandir(directory) as entries:
            return {entry.name: _size(entry) for entry in entries}


def _size(entry: "os.DirEntry[str]") -> int:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def write_all(files: Files, fd: int, parts: Sequence[Buffer], at: int) -> None:
    """Write all of it, in one call unless the system takes less."""
    views = [memoryview(part) for part in parts]
    while views:
        written = files.pwritev(fd, views, at)
        at += written
        while views and written >= len(views[0]):
            written -= len(views.pop(0))
        if views:
            views[0] = views[0][written:]


def sync_directory(files: Files, directory: Path) -> None:
    """Return when the names in it outlive a crash of the machine."""
    fd = files.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.fsync(fd)
    finally:
        files.close(fd)
