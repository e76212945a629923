"""Repair: bring back what damaged segments still hold, beside a running instance or without one.

    read it           where the disk gives nothing, zeros stand: those frames are lost
    salvage           (salvage.py)
    N.repaired.new    what was found is written and synced
    N.repaired.seg    and gets this name, which is synced too: from here on it is replayed
    N.bad             is removed; if not all of it could be brought back, it is kept as N.lost

Killed anywhere in it, nothing is gone: the next repair does the same again. A frame that is
replayed twice by that is known by its number.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance import segments
from appliance.errors import InstanceError
from appliance.files import Files, sync_directory, write_all
from appliance.salvage import Found, Lost, salvage
from appliance.segments import Name, Reader

BLOCK_BYTES = 4096  # as much is given up where the disk can't read


@dataclass(frozen=True, slots=True)
class Repaired:
    """What became of one damaged segment; `kept` is the name it has now, if it had to stay."""

    name: Name
    frames: int
    bits_turned: int
    lost: tuple[Lost, ...]
    unreadable_bytes: int
    kept: Name | None


def repair(directory: Path, files: Files | None = None) -> Iterator[Repaired]:
    """Repair the damaged segments of one source, the oldest first.

    Raises:
        InstanceError: another repair is at work there.
        OSError: the disk doesn't take it; nothing is gone.
    """
    files = files or Files()
    names = sorted(filter(None, map(segments.parse_name, files.sizes(directory))))
    for name in names:
        if name.kind == "bad":
            yield _repair(files, directory, name)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Hold a source's directory, so that only one repair is at work in it.

    Raises:
        InstanceError: another one is.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InstanceError(
            f"another repair is at work in {directory}", "wait until it is done"
        ) from error
    finally:
        os.close(fd)


def _repair(files: Files, directory: Path, name: Name) -> Repaired:
    data, unreadable_bytes = read_around(files, directory / str(name))
    pieces = [*salvage(data)]
    found = [piece for piece in pieces if isinstance(piece, Found)]
    lost = tuple(piece for piece in pieces if isinstance(piece, Lost))
    if found:
        _write(files, directory, Name(f"{name.stem}.repaired"), found)
    kept = None
    if lost:
        kept = segments.set_aside(files, directory, name, "lost")
    else:
        files.unlink(directory / str(name))
        sync_directory(files, directory)
    bits_turned = sum(piece.bits_turned for piece in found)
    return Repaired(name, len(found), bits_turned, lost, unreadable_bytes, kept)


def _write(files: Files, directory: Path, name: Name, found: list[Found]) -> None:
    """A new segment: whole, or not there."""
    beside = directory / str(Name(name.stem, "new"))
    fd = files.open(beside, os.O_WRONLY | os.O_CREAT)
    try:
        files.ftruncate(fd, 0)  # what a killed repair has left
        at = 0
        for piece in found:
            entry = [segments.head_of(piece.item), piece.item]
            write_all(files, fd, entry, at)
            at += sum(map(len, entry))
        files.fsync(fd)
    finally:
        files.close(fd)
    files.rename(beside, directory / str(name))
    sync_directory(files, directory)


def read_around(files: Files, path: Path) -> tuple[bytes, int]:
    """A whole segment, with zeros where the disk can't read; how many bytes those are."""
    with closing(Reader(files, path)) as reader:
        size, unreadable_bytes = reader.size, 0
        try:
            return reader.read(size, 0), 0
        except OSError as error:
            if error.errno not in segments.BROKEN:
                raise
        data = bytearray(size)
        for at in range(0, size, BLOCK_BYTES):
            length = min(BLOCK_BYTES, size - at)
            try:
                data[at : at + length] = reader.read(length, at).ljust(length, b"\0")
            except OSError:
                unreadable_bytes += length
        return bytes(data), unreadable_bytes
