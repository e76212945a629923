"""A disk in memory for the spool: counts calls, fails or kills at the N-th, and crashes.

Names and contents exist twice: as processes see them, and as they were last synced. `crash`
leaves what was synced, and of the rest what its argument says; a killed process loses nothing
of what it wrote.
"""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.files import Files
from appliance.frame import Buffer

PLACE = Path("/state/nfl")


class Killed(BaseException):
    """The process is gone: nothing of it runs any more."""


@dataclass(eq=False)
class File:
    """What is written, and what of it is on the disk for good.

    `dirty` are stretches that still have to go there. A sync that fails forgets them, as
    systems do: the next one succeeds, and they are not on the disk.
    """

    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    dirty: list[slice] = field(default_factory=list)

    def sync(self) -> None:
        disk = bytearray(self.synced[: len(self.data)].ljust(len(self.data), b"\0"))
        for stretch in self.dirty:
            disk[stretch] = self.data[stretch]
        self.synced, self.dirty = bytes(disk[: len(self.data)]), []


@dataclass(eq=False)
class Directory:
    """The same for names; `unlinked` since the last sync."""

    names: dict[str, "File | Directory"] = field(default_factory=dict)
    synced: dict[str, "File | Directory"] = field(default_factory=dict)
    unlinked: set[str] = field(default_factory=set)


Unsynced = Callable[[bytes, bytes], bytes]
"""What a crash leaves of a file, by what was synced and what was written."""


def all_lost(synced: bytes, _written: bytes) -> bytes:
    return synced


def all_kept(_synced: bytes, written: bytes) -> bytes:
    return written


def torn(length: int) -> Unsynced:
    """Of what is new only so many bytes arrive."""
    return lambda synced, written: written[: len(synced) + length] if synced != written else synced


def zeros(synced: bytes, written: bytes) -> bytes:
    """The length arrives, what is new doesn't."""
    return synced + bytes(len(written) - len(synced))


class Disk:
    """What outlives processes."""

    def __init__(self) -> None:
        self.root = Directory()
        here = self.root
        for part in PLACE.parts[1:]:  # as after Instance.make, long ago
            here.names[part] = here.synced[part] = below = Directory()
            here = below

    def crash(self, unsynced: Unsynced, names_too: bool, unlinks_first: bool = False) -> None:
        """The machine dies. names_too: of the names only what was synced is there again.

        unlinks_first: of what was not synced, removals reached the disk before all else.
        """
        _crash(self.root, unsynced, names_too, unlinks_first)


def _crash(directory: Directory, unsynced: Unsynced, names_too: bool, unlinks_first: bool) -> None:
    if names_too:
        gone = directory.unlinked if unlinks_first else set()
        directory.names = {key: one for key, one in directory.synced.items() if key not in gone}
    directory.synced, directory.unlinked = dict(directory.names), set()
    for one in directory.names.values():
        if isinstance(one, Directory):
            _crash(one, unsynced, names_too, unlinks_first)
        else:
            one.data = bytearray(unsynced(one.synced, bytes(one.data)))
            one.synced, one.dirty = bytes(one.data), []


Fault = Callable[["FakeFiles", str], None]
"""Told the name of the call that it happens in; raises, or changes what the call does."""


class FakeFiles(Files):
    """One process's view of a disk. `calls` lists what was called so far.

    faults: {number of the call, from 0: what happens there}.
    """

    def __init__(self, disk: Disk, faults: dict[int, Fault] | None = None) -> None:
        self._disk = disk
        self.faults = faults or {}
        self._open: dict[int, File | Directory] = {}
        self.calls: list[str] = []
        self.write_bytes_max: int | None = None
        self.is_dead = False

    def open(self, path: Path, flags: int) -> int:
        self._call("open")
        directory, found = self._find(path)
        if found is None:
            if not flags & os.O_CREAT:
                raise _error(errno.ENOENT)
            found = directory.names[path.name] = File()
        elif flags & os.O_EXCL:
            raise _error(errno.EEXIST)
        fd = 100 + len(self.calls)
        self._open[fd] = found
        return fd

    def close(self, fd: int) -> None:
        if self.is_dead:
            raise Killed
        del self._open[fd]  # KeyError: closed twice

    @property
    def descriptors(self) -> int:
        return len(self._open)

    def pread(self, fd: int, length: int, at: int) -> bytes:
        self._call("pread")
        return bytes(self._file(fd).data[at : at + length])

    def pwritev(self, fd: int, parts: Sequence[Buffer], at: int) -> int:
        self._call("pwritev")
        new = b"".join(parts)[: self.write_bytes_max]
        file = self._file(fd)
        file.data.extend(bytes(max(0, at - len(file.data))))
        file.data[at : at + len(new)] = new
        file.dirty.append(slice(at, at + len(new)))
        return len(new)

    def ftruncate(self, fd: int, length: int) -> None:
        self._call("ftruncate")
        del self._file(fd).data[length:]

    def fsync(self, fd: int) -> None:
        one = self._open[fd]
        if isinstance(one, Directory):
            self._call("fsync directory")
            one.synced, one.unlinked = dict(one.names), set()
            return
        try:
            self._call("fsync")
        except OSError:
            one.dirty = []
            raise
        one.sync()

    def size(self, fd: int) -> int:
        self._call("size")
        return len(self._file(fd).data)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename")
        directory, found = self._find(old)
        if found is None:
            raise _error(errno.ENOENT)
        directory.names[new.name] = directory.names.pop(old.name)

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        directory, found = self._find(path)
        if found is None:
            raise _error(errno.ENOENT)
        del directory.names[path.name]
        directory.unlinked.add(path.name)

    def make(self, directory: Path) -> None:
        self._call("make")
        here = self._disk.root
        for part in directory.parts[1:]:
            below = here.names.setdefault(part, Directory())
            assert isinstance(below, Directory)
            here = below

    def sizes(self, directory: Path) -> dict[str, int]:
        self._call("sizes")
        _parent, found = self._find(directory)
        if not isinstance(found, Directory):
            raise _error(errno.ENOENT)
        return {
            name: -1 if isinstance(one, Directory) else len(one.data)
            for name, one in found.names.items()
        }

    # what tests do behind its back

    def content(self, path: Path) -> bytearray:
        """A file's bytes, to look at and to change."""
        found = self._find(path)[1]
        assert isinstance(found, File), path
        return found.data

    def put(self, path: Path, content: bytes) -> None:
        """A file that somebody else has written."""
        self._find(path)[0].names[path.name] = File(bytearray(content), bytes(content))

    def names(self, directory: Path) -> list[str]:
        """What is in a directory; nothing if it isn't there."""
        try:
            found = self._find(directory)[1]
        except FileNotFoundError:
            return []
        return sorted(found.names) if isinstance(found, Directory) else []

    def _file(self, fd: int) -> File:
        found = self._open[fd]
        assert isinstance(found, File)
        return found

    def _find(self, path: Path) -> tuple[Directory, File | Directory | None]:
        here = self._disk.root
        for part in path.parts[1:-1]:
            below = here.names.get(part)
            if not isinstance(below, Directory):
                raise _error(errno.ENOENT)
            here = below
        return here, here.names.get(path.name)

    def _call(self, name: str) -> None:
        if self.is_dead:
            raise Killed
        self.write_bytes_max = None
        number = len(self.calls)
        self.calls.append(name)
        if number in self.faults:
            self.faults[number](self, name)


# ── what can happen at a call ───────────────────────────────────────────────────────────


def kill(files: FakeFiles, _call: str) -> None:
    """The process dies just before it."""
    files.is_dead = True
    raise Killed


def fail(number: int) -> Fault:
    """The call fails with this errno."""

    def fault(_files: FakeFiles, _call: str) -> None:
        raise _error(number)

    return fault


def short(length: int) -> Fault:
    """A write takes only so many bytes; other calls just work."""

    def fault(files: FakeFiles, _call: str) -> None:
        files.write_bytes_max = length

    return fault


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
