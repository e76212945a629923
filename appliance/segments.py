"""Segments: the files in which a spool keeps frames, entry behind entry.

An entry is a head of 24 bytes and an item, which is a frame as the queue has it (frame.py).
Numbers are little-endian:

    0    4   "SDs1"
    4    4   length of the item
    8    4   CRC-32 of the item
    12   8   BLAKE2b of the item, of 8 bytes
    20   4   CRC-32 of the 20 bytes before
    24       the item

The CRC says of a single wrong bit *where* it is, BLAKE2b whether the item is right again once
that bit was turned (a CRC alone would believe one wrong guess in 500 in a large item with two
wrong bits). The head has a CRC of its own, so that a wrong length is never taken for an entry
that was being written when the machine died:

    unfinished   fewer than 24 bytes, zeros only, or a good head and too few bytes behind it
    damaged      everything else that isn't a whole entry

Names are a number, and what is known of the file:

    00000000000000000017.seg            frames that wait; the highest number is the newest
    00000000000000000017.bad            was damaged, and set aside as it was
    00000000000000000017.repaired.seg   what `spool repair` brought back of the .bad
    00000000000000000017.lost           a .bad of which not all could be brought back
    00000000000000000017.new            being written by a repair

A released format stays readable for ever: whoever changes it gives it another magic.
"""

import errno
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import Corrupt
from appliance.files import Files, sync_directory, write_all
from appliance.frame import Buffer

MAGIC = b"SDs1"
DIGEST_BYTES = 8
ITEM_BYTES_MAX = 512 * 1024**2  # what a queue takes as one item
ZEROS_STEP = 1024**2

BROKEN = {errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO}  # the data, not the access

_FIELDS = struct.Struct(f"<4sII{DIGEST_BYTES}s")
_CRC = struct.Struct("<I")
HEAD_BYTES = _FIELDS.size + _CRC.size
_NAME = re.compile(r"(\d{20}(?:\.repaired)*)\.(seg|bad|lost|new)")


class Unfinished(Corrupt):
    """The segment ends within an entry, as if that had been written when the machine died."""


# ── names ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A segment's file name, in two parts; they sort as the segments do."""

    stem: str
    kind: str = "seg"

    @property
    def number(self) -> int:
        """Higher is newer."""
        return int(self.stem.partition(".")[0])

    @property
    def is_repaired(self) -> bool:
        """Whether a repair wrote it."""
        return ".repaired" in self.stem

    def __str__(self) -> str:
        return f"{self.stem}.{self.kind}"


def name_at(number: int) -> Name:
    """The name of a new segment."""
    return Name(f"{number:020d}")


def parse_name(text: str) -> Name | None:
    """A file's name, None if it is none of ours."""
    found = _NAME.fullmatch(text)
    return Name(found[1], found[2]) if found else None


# ── entries ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Head:
    """What stands before an item."""

    length: int
    crc: int
    digest: bytes

    def fits(self, item: Buffer) -> bool:
        """Whether these are the bytes that were written."""
        return (
            len(item) == self.length
            and zlib.crc32(item) == self.crc
            and _digest(item) == self.digest
        )

    @property
    def entry_bytes(self) -> int:
        """Of head and item."""
        return HEAD_BYTES + self.length


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole entry of a segment, checked: where it begins, and its item in two parts."""

    at: int
    line: bytes
    body: Buffer

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + HEAD_BYTES + len(self.line) + len(self.body)

    @property
    def parts(self) -> list[Buffer]:
        """All that is written of it."""
        return [head_of(self.line, self.body), self.line, self.body]


def head_of(*item: Buffer) -> bytes:
    """The head for an item that is given in parts."""
    crc = 0
    for part in item:
        crc = zlib.crc32(part, crc)
    fields = _FIELDS.pack(MAGIC, sum(map(len, item)), crc, _digest(*item))
    return fields + _CRC.pack(zlib.crc32(fields))


def parse_head(raw: Buffer) -> Head | None:
    """A head, None if these bytes aren't a good one."""
    if len(raw) < HEAD_BYTES:
        return None
    magic, length, crc, digest = _FIELDS.unpack_from(raw)
    whole = _CRC.unpack_from(raw, _FIELDS.size)[0] == zlib.crc32(raw[: _FIELDS.size])
    if magic != MAGIC or not whole or length > ITEM_BYTES_MAX:
        return None
    return Head(length, crc, digest)


def _digest(*item: Buffer) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in item:
        digest.update(part)
    return digest.digest()


def split(item: bytes) -> tuple[bytes, memoryview]:
    """An item's header line, newline included, and its body."""
    at = item.find(b"\n") + 1
    return item[:at], memoryview(item)[at:]


# ── reading ─────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads one segment, an entry at a time; the system reads ahead by itself."""

    def __init__(self, files: Files, path: Path) -> None:
        self.path = path
        self._files = files
        self._fd = files.open(path, os.O_RDONLY)

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1

    @property
    def size(self) -> int:
        """How long the file is now."""
        return self._files.size(self._fd)

    def entry(self, at: int, end: int) -> Entry:
        """The whole entry at this place of a segment that ends at `end`.

        Raises:
            Unfinished: there is the beginning of one.
            Corrupt: anything else is there.
        """
        head = self.head(at, end)
        item = self.read(head.length, at + HEAD_BYTES)
        if not head.fits(item):
            raise Corrupt(f"the frame at byte {at} isn't what was written")
        line, body = split(item)
        return Entry(at, line, body)

    def head(self, at: int, end: int) -> Head:
        """The head at this place. Raises like `entry`, but doesn't look at the item."""
        raw = self.read(min(HEAD_BYTES, end - at), at)
        head = parse_head(raw)
        if head is not None and at + head.entry_bytes <= end:
            return head
        if head is not None or end - at < HEAD_BYTES or self._is_zero(at, end):
            raise Unfinished(f"it ends within the frame at byte {at}")
        raise Corrupt(f"what is at byte {at} isn't the beginning of a frame")

    def heads(self, end: int) -> Iterator[tuple[int, Head]]:
        """Every entry's place and head. Raises like `head`."""
        at = 0
        while at < end:
            head = self.head(at, end)
            yield at, head
            at += head.entry_bytes

    def line(self, at: int, head: Head) -> bytes:
        """The header line of the entry at this place, newline included; not checked."""
        length = 4096
        while True:
            raw = self.read(min(length, head.length), at + HEAD_BYTES)
            newline = raw.find(b"\n") + 1
            if newline or length >= head.length:
                return raw[:newline]
            length *= 16

    def read(self, length: int, at: int) -> bytes:
        """So many bytes, or as many as there are."""
        data = self._files.pread(self._fd, length, at)
        while 0 < len(data) < length:
            more = self._files.pread(self._fd, length - len(data), at + len(data))
            if not more:
                break
            data += more
        return data

    def _is_zero(self, at: int, end: int) -> bool:
        steps = range(at, end, ZEROS_STEP)
        return not any(any(self.read(min(ZEROS_STEP, end - step), step)) for step in steps)

    def last(self, end: int) -> tuple[int | None, int]:
        """Where the last whole entry begins and ends; (None, 0): there is none.

        Only heads are looked at; what is unfinished behind it is left out. Raises Corrupt.
        """
        last, whole = None, 0
        try:
            for at, head in self.heads(end):
                last, whole = at, at + head.entry_bytes
        except Unfinished:
            pass
        return last, whole


# ── writing ─────────────────────────────────────────────────────────────────────────────


class Tail:
    """The segment that is appended to: `end` is where its last entry ends that is on the disk."""

    def __init__(self, files: Files, directory: Path, name: Name) -> None:
        self._files = files
        self._directory = directory
        self.name = name
        self.end = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self._fd = files.open(directory / str(name), flags)

    def append(self, entry: list[Buffer]) -> None:
        """Returns when the entry is on the disk, and the segment's name too.

        After an OSError nothing may be appended any more: `take_back`, and begin another one.
        """
        write_all(self._files, self._fd, entry, self.end)
        self._files.fsync(self._fd)
        if self.end == 0:
            sync_directory(self._files, self._directory)
        self.end += sum(map(len, entry))

    def take_back(self) -> None:
        """Cut off what was written of an entry that could not be kept. Raises OSError."""
        self._files.ftruncate(self._fd, self.end)

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1


# ── changing ────────────────────────────────────────────────────────────────────────────


def set_aside(files: Files, directory: Path, name: Name, kind: str = "bad") -> Name:
    """Rename a segment to .bad (or another kind), for good; never over another one."""
    aside, taken = Name(name.stem, kind), files.sizes(directory)
    while str(aside) in taken:
        aside = Name(f"{aside.stem}.repaired", kind)
    files.rename(directory / str(name), directory / str(aside))
    sync_directory(files, directory)
    return aside


def cut(files: Files, path: Path, end: int) -> None:
    """Cut a segment at `end`, for good."""
    with files.changing(path) as fd:
        files.ftruncate(fd, end)


def write_again(files: Files, path: Path, entry: Entry) -> None:
    """Write an entry once more over itself: then syncing it means something."""
    with files.changing(path) as fd:
        write_all(files, fd, entry.parts, entry.at)
