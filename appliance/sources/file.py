"""A growing file as a source: read on from a position, through rotation and truncation.

The file keeps its bytes, so nothing is destroyed by reading: `discard` only moves the position.
A position outlives us as a cursor, a line of JSON: device (compared within one boot), inode,
CRC of the file's first min(256, offset) bytes, offset, and whether the offset lies within an
over-long line. Each chunk says the cursor before and after it, and its claim says from where to
where it was cut and how: a successor cuts the same stretch again and has the same chunk.

How the file of a cursor is found again: at the configured path, else under any other name in
the same directory, by its inode; size and CRC must fit, since inodes are used again.

    what is found                                    what is done
    ──────────────────────────────────────────────   ─────────────────────────────────────────────
    no cursor, start = "beginning"                   from 0
    no cursor, start = "end"                         behind the last whole line (an unfinished one
                                                     is read when it is complete)
    no cursor, start = "end", and no file            wait; all that appears later is new: from 0
    the cursor's file                                on from the offset
    its inode at the path, with other first bytes,   from 0, with a gap `truncated`
    or shorter than the offset
    no such file in the directory any more           the file at the path from 0, with a gap `gone`
    renamed or deleted while we read it, and a new   the old one to its end (until the new one has
    file at the path                                 bytes and the old one was quiet for QUIET_S),
                                                     then its successor from 0: the oldest of those
                                                     rotated since (PATH.1, PATH-20260102), or the
                                                     file at the path
    none at the path; a directory, a fifo; no right  `waiting_for` says it; looked at again
    to read it

Each of these that moves the position other than by reading is shown as a chunk of its own, with an
empty body: so the place where a file was begun is safe before its first record comes, and
a gap is written once. While following, an unfinished last line waits; at the end of a file that
is not followed, or was rotated, it is a record.

Known limit: of files that were rotated since we last read, those that were compressed or renamed
otherwise are not read.
"""

import errno
import json
import os
import re
import select
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance import framing
from appliance.contracts import NOTHING_AT_RISK, Chunk, Remark
from appliance.errors import Unavailable
from appliance.frame import Buffer, Gap
from appliance.framing import Ending
from appliance.sources import inotify

HEAD_BYTES_MAX = 256  # of a file's first bytes, to know it again by
LOOK_AGAIN_S = 1.0  # file systems without inotify, and errors that no event ends
QUIET_S = 1.0  # a renamed file that nobody writes to for so long has been left by its writer
ROTATED = r"[.-][0-9][0-9-]*"  # behind the file's name, as logrotate writes it: .1, -20260102

TRUNCATED = "truncated"
GONE = "gone"


def look(path: str) -> Remark:
    """Whether this file can be read, for `check`.

    Raises:
        Unavailable: it is there, but can't be.
    """
    try:
        file = OpenFile(path)
    except FileNotFoundError:
        return Remark(f"{path} is not there yet: it is waited for")
    except OSError as error:
        raise Unavailable(_explain(path, error), "mend it, or name another file") from error
    size = file.size()
    file.close()
    return Remark(f"{path} can be read ({size} bytes)")


# ── where in which file ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position that outlives us. Inode 0: before the first byte of any file."""

    boot: str | None = None
    device: int = 0
    inode: int = 0
    crc: int = 0
    offset: int = 0
    skipping: bool = False

    def text(self) -> str:
        """As it stands in frames and in the queue."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def parse(cls, text: str | None) -> "Cursor | None":
        """The cursor in a text; None for none, or for one that is no position in a file."""
        try:
            return None if text is None else cls(**json.loads(text))
        except (ValueError, TypeError):
            return None


class OpenFile:
    """A regular file, open for reading at any offset. Raises OSError for anything else."""

    def __init__(self, path: str) -> None:
        _refuse_other_kinds(path, os.stat(path))  # before opening: that would wake a fifo's writer
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        status = os.fstat(self.fd)
        self.device, self.inode = status.st_dev, status.st_ino

    def size(self) -> int:
        """Its size now."""
        return os.fstat(self.fd).st_size

    def modified_ns(self) -> int:
        """When it was last written to."""
        return os.fstat(self.fd).st_mtime_ns

    def head(self, length: int) -> bytes:
        """Its first bytes."""
        return os.pread(self.fd, length, 0)

    def close(self) -> None:
        """Close it. The bytes of a file without a name are gone then."""
        os.close(self.fd)


@contextmanager
def _opened(path: str) -> Iterator[OpenFile]:
    """An open file, for whoever keeps it; closed again if an error comes of it."""
    file = OpenFile(path)
    try:
        yield file
    except OSError:
        file.close()
        raise


def _refuse_other_kinds(path: str, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is a fifo, socket or device, not a file", path)


@dataclass(frozen=True, slots=True)
class Place:
    """A position in an open file. `head`: the file's first min(256, offset) bytes, as read."""

    file: OpenFile
    offset: int = 0
    head: bytes = b""
    skipping: bool = False

    def intact(self) -> bool:
        """Whether the file still is what was read up to here."""
        return self.file.size() >= self.offset and self.file.head(len(self.head)) == self.head

    def ahead(self, read: memoryview, skipping: bool) -> "Place":
        """The place behind these bytes, which were read from here."""
        head = self.head + bytes(read[: HEAD_BYTES_MAX - len(self.head)])
        return Place(self.file, self.offset + len(read), head, skipping)

    def cursor(self, boot: str | None) -> Cursor:
        """This place for those who come after us."""
        file, crc = self.file, zlib.crc32(self.head)
        return Cursor(boot, file.device, file.inode, crc, self.offset, self.skipping)

    @classmethod
    def of(cls, cursor: Cursor, file: OpenFile, boot: str | None) -> "Place | None":
        """The cursor's place in this file, if it is the cursor's file and still whole."""
        head = file.head(min(HEAD_BYTES_MAX, cursor.offset))
        fits = (
            file.inode == cursor.inode
            and (file.device == cursor.device or not boot or boot != cursor.boot)
            and file.size() >= cursor.offset
            and zlib.crc32(head) == cursor.crc
        )
        return cls(file, cursor.offset, head, cursor.skipping) if fits else None

    @classmethod
    def at_end(cls, file: OpenFile, record_bytes_max: int) -> "Place":
        """Behind the last whole line; within the last line if that is over-long already."""
        size = file.size()
        before = max(0, size - record_bytes_max)
        tail = os.pread(file.fd, size - before, before)
        newline = tail.rfind(framing.NEWLINE)
        skipping = newline < 0 < before
        offset = before + (len(tail) if skipping else newline + 1)
        return cls(file, offset, file.head(min(HEAD_BYTES_MAX, offset)), skipping)


# ── what is shown ───────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Claim:
    """All that a successor needs to make a chunk again. Add fields only with a default."""

    path: str
    before: str | None
    after: str
    start: int
    end: int
    skipping: bool
    ending: str
    record_bytes_max: int
    records: int
    bytes: int
    skipped_bytes: int
    at: float
    gaps: list[dict[str, Any]] = field(default_factory=list)

    def chunk(self, body: Buffer, rejected: dict[int, str]) -> Chunk:
        """The chunk of this claim, its bytes being there."""
        gaps = tuple(Gap(**gap) for gap in self.gaps)
        return self._chunk(body, self.records, rejected, gaps, self.skipped_bytes)

    def lost(self, cause: str) -> Chunk:
        """The chunk of this claim, its bytes being nowhere any more."""
        gaps = (*(Gap(**gap) for gap in self.gaps), Gap(cause, self.records, self.bytes))
        return self._chunk(b"", 0, {}, gaps, 0)

    def _chunk(
        self, body: Buffer, records: int, rejected: dict[int, str], gaps: tuple[Gap, ...], skip: int
    ) -> Chunk:
        return Chunk(
            body=body,
            records=records,
            claim=asdict(self),
            first_received=self.at,
            last_received=self.at,
            cursor_before=self.before,
            cursor_after=self.after,
            rejected=rejected,
            gaps=gaps,
            skipped_bytes=skip,
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """A chunk that was shown and not discarded; where it goes on (None: find it by cursor)."""

    chunk: Chunk
    after: Place | None


class FileSource:
    """Records of a file, each handed over once, also while it grows and is rotated.

    Memory: one buffer of `frame_bytes_max` (or `record_bytes_max`, if that is more). Each look
    reads anew from the place: an unfinished line that its writer took back is never seen.
    """

    connections = 0
    fleeting = False
    patient = True
    at_risk = NOTHING_AT_RISK

    def __init__(
        self,
        path: str,
        start: str,
        follow: bool,
        record_bytes_max: int,
        frame_bytes_max: int,
        *,
        boot: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        wake: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """A source that has opened nothing yet.

        Args:
            path: the file; a name relative to the working directory is made absolute.
            start: "beginning" or "end", where to begin without a cursor.
            follow: wait for more at the end; else the end of the file is the source's end.
            boot: id of this boot, None if it can't be had.
            clock, monotonic: wall time for records, monotonic time for waiting.
            wake: a descriptor that is readable when a signal came.
            beat: called before and after what may block.
        """
        self.waiting_for = ""
        self._path = os.path.abspath(path)
        self._start, self._follow = start, follow
        self._record_bytes_max = record_bytes_max
        self._boot, self._clock, self._monotonic = boot, clock, monotonic
        self._wake, self._beat = wake, beat
        self._buffer = bytearray(max(frame_bytes_max, record_bytes_max))
        self._view = memoryview(self._buffer)
        self._watcher = inotify.Watcher()
        self._watched = -1
        self._cursor: str | None = None  # where the last chunk that was handed over ended
        self._place: Place | None = None  # where the next one begins; None: not looked yet
        self._filled = 0  # bytes in the buffer, read from there by the last look
        self._skipped = 0  # bytes of an over-long line dropped since the last chunk
        self._shown: Shown | None = None
        self._quiet = (-1, 0.0)  # of a file that was replaced: its size, and since when
        self._moved = False  # peek found nothing to show but more to read
        self._finished = self._stopped = False

    # ── the contract (see contracts.Source) ─────────────────────────────────────────────

    @property
    def ended(self) -> bool:
        """Whether the file was read to its end, or a stop was asked for, and nothing is shown."""
        return self._shown is None and (self._finished or self._stopped)

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Go on behind `cursor`; a text that is no cursor of a file counts as none."""
        self._forget_shown()
        self._cursor = cursor
        self._skipped = 0
        self._enter(None)

    def again(self, claim: Any) -> Chunk:
        """The chunk of a predecessor, cut again from the same bytes; a gap if they are gone.

        Raises:
            Unavailable: the file is there but can't be read now; ask again later.
        """
        noted = Claim(**claim)
        self._forget_shown()
        self._cursor = noted.before
        try:
            self._shown = self._remake(noted)
        except OSError as error:
            raise Unavailable(_explain(self._path, error), "mend it, or wait") from error
        return self._shown.chunk

    def peek(self) -> Chunk | None:
        """The next whole lines. What hinders it from looking is said in `waiting_for`."""
        self._moved = False
        if self._shown is None and not self.ended:
            try:
                self._shown = self._look()
                self.waiting_for = ""
            except OSError as error:
                self.waiting_for = _explain(self._path, error)
                if error.errno == errno.ESTALE:  # a network file system: this fd won't come back
                    self._enter(None)
        return self._shown.chunk if self._shown else None

    def discard(self, chunk: Chunk) -> None:
        """Move on behind the chunk; the file keeps its bytes."""
        assert self._shown is not None
        assert chunk is self._shown.chunk
        shown, self._shown = self._shown, None
        self._cursor = chunk.cursor_after
        self._skipped = 0
        self._enter(shown.after)

    def settle(self) -> None:
        """Nothing to let go of: `discard` has closed a file that was left."""

    def wait(self, timeout_s: float) -> None:
        """Until something changed in the file or its directory, at most LOOK_AGAIN_S."""
        if self._moved or self._shown or self.ended:
            return
        self._watch_names()
        poll = select.poll()
        for fd in (self._wake, self._watcher.fd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        self._beat()
        ready = poll.poll(min(timeout_s, LOOK_AGAIN_S) * 1000)
        self._beat()
        if any(fd == self._watcher.fd for fd, _ in ready):
            self._watcher.drain()

    def stop(self, quick: bool) -> None:
        """End after the chunk that is shown: the file keeps the rest for the next start."""
        self._stopped = True

    def leave(self) -> None:
        """As any stop: nobody notices."""
        self.stop(quick=True)

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""
        self._forget_shown()
        self._enter(None)
        self._watcher.close()

    # ── finding the file ────────────────────────────────────────────────────────────────

    def _look(self) -> Shown | None:
        place = self._place
        if place is None:
            self._watch_names()
            cursor = Cursor.parse(self._cursor)
            begun = self._begin() if cursor is None else self._find_again(cursor)
            if isinstance(begun, Shown):
                return begun
            self._enter(begun)
            place = begun
        return self._read(place)

    def _begin(self) -> Place | Shown:
        """Where to read without a cursor; where not at 0, the place itself is shown first."""
        if self._start == "beginning":
            return Place(OpenFile(self._path))
        try:
            with _opened(self._path) as file:
                return self._jump(Place.at_end(file, self._record_bytes_max))
        except FileNotFoundError:
            return self._jump(None)

    def _find_again(self, cursor: Cursor) -> Place | Shown:
        """The cursor's place; or the start of the file at the path, shown with what is missing."""
        found = self._search(self._path, cursor) if cursor.inode else None
        if found is not None:
            return found
        start = Place(OpenFile(self._path))
        if cursor.inode == 0:
            return self._jump(start)
        return self._jump(start, Gap(_cause(cursor, start.file.inode)))

    def _search(self, path: str, cursor: Cursor) -> Place | None:
        """The cursor's place, under whatever name in the path's directory its file is now."""
        for name in _names_of(cursor.inode, path):
            with _opened(name) as file:
                place = Place.of(cursor, file, self._boot)
            if place is not None:
                return place
            file.close()
        return None

    def _remake(self, noted: Claim) -> Shown:
        """Cut the noted stretch again, after looking that the file is still the one noted."""
        cursor = Cursor.parse(noted.after)
        assert cursor is not None
        if noted.start == noted.end:  # it showed a place, not bytes
            return Shown(noted.chunk(b"", {}), None)
        place = self._search(noted.path, cursor)
        if place is None:
            return Shown(noted.lost(_cause(cursor, _inode_at(noted.path))), None)
        buffer = bytearray(noted.end - noted.start)
        try:
            os.preadv(place.file.fd, [buffer], noted.start)
        except OSError:
            place.file.close()
            raise
        cut = framing.cut(
            buffer,
            0,
            len(buffer),
            record_bytes_max=noted.record_bytes_max,
            skipping=noted.skipping,
            ending=Ending(noted.ending),
        )
        return Shown(noted.chunk(cut.body(buffer), cut.rejected), place)

    # ── reading it ──────────────────────────────────────────────────────────────────────

    def _read(self, place: Place) -> Shown | None:
        self._fill(place)
        # Looked at after reading: what was read before the file changed is as it was.
        if not place.ahead(self._view[: self._filled], False).intact():
            if not place.intact():
                return self._jump(Place(place.file), Gap(TRUNCATED))
            return None  # changed behind the place while we read: that wakes us to look again
        shown = self._cut(place, Ending.OPEN)
        if shown is not None or self._moved:
            return shown
        return self._at_end(place)

    def _fill(self, place: Place) -> None:
        """Fill the buffer from the place on, or up to the end of the file."""
        self._filled = 0
        self._beat()
        while self._filled < len(self._buffer):
            room = self._view[self._filled :]
            count = os.preadv(place.file.fd, [room], place.offset + self._filled)
            if count == 0:
                break
            self._filled += count
        self._beat()

    def _cut(self, place: Place, ending: Ending) -> Shown | None:
        """Show what of the buffer is whole; skip what belongs to an over-long line."""
        cut = framing.cut(
            self._buffer,
            0,
            self._filled,
            record_bytes_max=self._record_bytes_max,
            skipping=place.skipping,
            ending=ending,
        )
        if not cut.taken:
            return None
        after = place.ahead(self._view[: cut.taken], cut.skipping)
        self._skipped += cut.skipped_bytes
        if not cut.records:
            self._enter(after)
            self._moved = True
            return None
        body = cut.body(self._buffer)
        claim = self._claim(place, after.cursor(self._boot), ending, cut.records, len(body))
        return Shown(claim.chunk(body, cut.rejected), after)

    def _at_end(self, place: Place) -> Shown | None:
        """At the end of the file for now: wait, go over to its successor, or finish."""
        replaced = self._replaced(place.file)
        if self._follow and not (
            replaced and self._is_quiet(place.file, place.offset + self._filled)
        ):
            return None
        if self._filled:
            return self._cut(place, Ending.CLEAN)
        if replaced:
            return self._jump(Place(OpenFile(self._successor(place.file))))
        self._finished = True
        return self._jump(place) if self._skipped else None

    def _replaced(self, file: OpenFile) -> bool:
        """Whether the path leads to another file; while following, one that is written to."""
        try:
            new = os.stat(self._path)
        except FileNotFoundError:
            return False
        other = (new.st_dev, new.st_ino) != (file.device, file.inode)
        return other and stat.S_ISREG(new.st_mode) and (new.st_size > 0 or not self._follow)

    def _successor(self, file: OpenFile) -> str:
        """The file that was begun behind this one: rotated by now too, or the one at the path."""
        later = [
            (status.st_mtime_ns, name)
            for name, status in _rotated(self._path)
            if status.st_ino != file.inode and status.st_mtime_ns > file.modified_ns()
        ]
        return min(later)[1] if later else self._path

    def _is_quiet(self, file: OpenFile, size: int) -> bool:
        """Whether a replaced file hasn't grown for QUIET_S: its writer may be late to leave it.

        Seen by us, or by its successor, which was written to so much later.
        """
        if _modified_ns(self._successor(file)) - file.modified_ns() >= QUIET_S * 1e9:
            return True
        now = self._monotonic()
        if size != self._quiet[0]:
            self._quiet = (size, now)
        return now - self._quiet[1] >= QUIET_S

    # ── moving on ───────────────────────────────────────────────────────────────────────

    def _jump(self, to: Place | None, *gaps: Gap) -> Shown:
        """Show a place that wasn't reached by reading: an empty chunk, so that it is kept."""
        cursor = to.cursor(self._boot) if to else Cursor()
        claim = self._claim(to, cursor, Ending.OPEN, 0, 0, gaps)
        return Shown(claim.chunk(b"", {}), to)

    def _claim(
        self,
        place: Place | None,
        after: Cursor,
        ending: Ending,
        records: int,
        body_bytes: int,
        gaps: tuple[Gap, ...] = (),
    ) -> Claim:
        return Claim(
            path=self._path,
            before=self._cursor,
            after=after.text(),
            start=place.offset if place else 0,
            end=after.offset,
            skipping=place.skipping if place else False,
            ending=ending.value,
            record_bytes_max=self._record_bytes_max,
            records=records,
            bytes=body_bytes,
            skipped_bytes=self._skipped,
            at=self._clock(),
            gaps=[asdict(gap) for gap in gaps],
        )

    def _enter(self, place: Place | None) -> None:
        """Go to a place; a file that is left is closed, one that is new is watched."""
        left, self._place = self._place, place
        self._filled = 0
        if place is not None and left is not None and place.file is left.file:
            return
        self._quiet = (-1, 0.0)
        if left is not None:
            self._watcher.forget(self._watched)
            left.file.close()
        if place is not None:
            # By descriptor: the path may lead to another file by now.
            self._watched = self._watcher.watch(f"/proc/self/fd/{place.file.fd}", inotify.GROWTH)

    def _forget_shown(self) -> None:
        """Show it no longer, without having handed it over."""
        after = self._shown.after if self._shown else None
        if after is not None and (self._place is None or after.file is not self._place.file):
            after.file.close()
        self._shown = None

    def _watch_names(self) -> None:
        """Be woken when a file is made or renamed; again and again, the directory may be new."""
        self._watcher.watch(os.path.dirname(self._path), inotify.NAMES)


def _cause(cursor: Cursor, inode_at_path: int) -> str:
    """Why the cursor's bytes are nowhere: written over, or the file itself is away."""
    return TRUNCATED if inode_at_path == cursor.inode else GONE


def _inode_at(path: str) -> int:
    """The inode of what is at this path; 0 for nothing."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _modified_ns(path: str) -> int:
    """When what is at this path was last written to."""
    return os.stat(path).st_mtime_ns


def _names_of(inode: int, path: str) -> Iterator[str]:
    """Where a file with this inode is: at the path, or under another name beside it."""
    if _inode_at(path) == inode:
        yield path
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            beside = [e.path for e in entries if e.inode() == inode and e.path != path]
    except (FileNotFoundError, PermissionError):
        return  # nothing to be found, or a directory that doesn't show its names
    yield from beside


def _rotated(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files beside this one that are called as logrotate calls those that it has renamed."""
    name = re.compile(re.escape(os.path.basename(path)) + ROTATED)
    try:
        with os.scandir(os.path.dirname(path)) as entries:
            for entry in entries:
                if name.fullmatch(entry.name) and entry.is_file():
                    yield entry.path, entry.stat()
    except (FileNotFoundError, PermissionError):
        return


def _explain(path: str, error: OSError) -> str:
    """What hinders reading, for `status` and the log."""
    path = error.filename or path
    if isinstance(error, FileNotFoundError):
        return f"{path}: the file is not there yet"
    if isinstance(error, PermissionError):
        return f"{path}: user {os.geteuid()} may not read it; give this user the right to"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a directory; name a file in it"
    return f"{path} can't be read: {error.strerror}"
