"""The spool: frames of one source wait on this machine's disk while the queue takes none.

    append   the entry is written behind the last one and synced (on a new segment its name
             too) before it returns: it outlives a crash of the machine
    oldest   reads and checks one entry; what isn't as it was written is never handed over
    forget   goes on in memory; a segment is removed when all of its frames were handed over

Nothing says beside the data how far it was replayed. After a crash a segment is replayed from
its start, and the queue and the ledger know its first frames by their numbers.

Rules that keep a promise each:

- A segment that a write or a sync failed on is never appended to again, nor is one of a
  predecessor: the system may have forgotten which of its pages still had to be written.
- The newest entry of a predecessor may not have been synced when it died. So `open` writes the
  same bytes again and syncs them before anybody may rely on them.
- An unfinished entry at the end of the newest segment was never reported as kept: `open` cuts
  it off. Anything else that is wrong is damage: the segment is renamed to .bad as it is.
- The removal of the last segment is synced: what is pushed after it is newer than all of it,
  so it must not come back as the newest.

`open` reads the heads of the newest segment's entries and the last of them: at most
SEGMENT_BYTES_MAX or one frame, and more only if that is damaged.
"""

import errno
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import segments
from appliance.contracts import Spooled
from appliance.errors import Corrupt, Unavailable
from appliance.files import Files, sync_directory
from appliance.frame import Buffer, Header, decode_header, name_of
from appliance.segments import HEAD_BYTES, Name, Reader, Tail, Unfinished

SEGMENT_BYTES_MAX = 16 * 1024**2  # a frame that is larger has a segment of its own
LOOK_S = 1.0  # a look at the directories is true for so long
RETRY_S = 60.0  # a segment that can't be read now is tried again after so long
NOTICES_MAX = 100  # kept until somebody asks; more of them say nothing new

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REPAIR = "bring its frames back: stream-daemon spool repair"
LOOK_AT_DISK = "look at the disk (dmesg, journalctl -k), and at whose files these are"


@dataclass(eq=False, slots=True)
class Segment:
    """A segment that waits: `end` is where its last whole entry ends.

    `late`: its frames are older than others that were handed over already.
    """

    name: Name
    end: int
    late: bool


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest frame that waits; `synced`: it is known to outlive a crash."""

    segment: Segment
    line: bytes
    synced: bool = True

    @property
    def name(self) -> str:
        """Its run and number."""
        return name_of(self.line)


class DiskSpool:
    """One source's frames in its directory; see contracts.Spool.

    bytes_max counts what all sources have under the directory's parent, damaged segments too;
    others' part of it is looked at once in LOOK_S. `files` is asked for every call to the system.
    """

    def __init__(
        self,
        directory: Path,
        bytes_max: int,
        *,
        disk_is_low: Callable[[], bool] = lambda: False,
        beat: Callable[[], None] = lambda: None,
        files: Files | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._disk_is_low = disk_is_low
        self._beat = beat
        self._files = files or Files()
        self._monotonic = monotonic
        self._reader: Reader | None = None
        self._tail: Tail | None = None
        self._begin_empty()

    def _begin_empty(self) -> None:
        self._segments: list[Segment] = []  # in the order of replay; the first may be open
        self._at = 0  # in the first
        self._shown: Spooled | None = None
        self._shown_end = 0
        self._tail_segment: Segment | None = None
        self._newest: Newest | None = None
        self._newest_is_known = True
        self._next = 0  # number of the next segment; 0: the directory could not be listed
        self._is_placed = False  # our directory's own name is synced
        self._left_out: dict[str, float] = {}  # file: when it is tried again
        self._notices: list[str] = []
        self._look_at = self._usage_at = -math.inf
        self._others_bytes = 0

    # ── what others see ─────────────────────────────────────────────────────────────────

    @property
    def size(self) -> int:
        """What waits, in bytes on the disk; 0 only if nothing does."""
        self._look()
        return self._own_bytes

    @property
    def newest(self) -> Header | None:
        """The header of the newest frame that waits and can be read; not of a repaired one."""
        newest = self._find_newest()
        return decode_header(newest.line) if newest else None

    def notices(self) -> list[str]:
        """What was found since the last call and people should know, as sentences."""
        said, self._notices = self._notices, []
        return said

    def open(self) -> None:
        """Before anything else: see what a predecessor left; an unfinished tail is cut off."""
        self.close()
        self._begin_empty()
        for name, size in self._listing().items():
            if size == 0:  # made, and nothing was written yet
                self._unlink(name)
            elif size > 0:
                self._segments.append(Segment(name, size, late=name.is_repaired))
            else:
                self._leave_out(name, math.inf, "it is no file")
        self._newest_is_known = False
        if self._segments:
            self._place()
            self._find_newest(at_open=True)

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""
        self._close_reader()
        self._close_tail()

    # ── appending ───────────────────────────────────────────────────────────────────────

    def append(self, line: bytes, body: Buffer) -> None:
        """Keep a frame for good. Appending the newest one again changes nothing.

        Raises:
            Unavailable: no room, or the disk fails; nothing was appended.
        """
        newest = self._find_newest()
        if newest and newest.synced and newest.name and newest.name == name_of(line):
            return
        length = HEAD_BYTES + len(line) + len(body)
        self._refuse_if_full(length)
        self._beat()
        try:
            if self._tail is None or self._tail.end + length > SEGMENT_BYTES_MAX:
                self._start_tail()
            segment = self._write([segments.head_of(line, body), line, body])
        except OSError as error:
            self._give_up_tail()
            raise _refusal(self._directory, error) from error
        finally:
            self._beat()
        self._newest = Newest(segment, line)

    def _start_tail(self) -> None:
        self._close_tail()
        if not self._is_placed:
            self._make_place()
        if not self._next:
            self._see(self._files.sizes(self._directory))
        name = segments.name_at(self._next)
        self._next += 1
        self._tail = Tail(self._files, self._directory, name)

    def _write(self, entry: list[Buffer]) -> Segment:
        """Returns when the entry is on the disk: then, and not before, its segment waits."""
        tail, segment = self._tail, self._tail_segment
        assert tail
        tail.append(entry)
        if segment is None:
            segment = self._tail_segment = Segment(tail.name, 0, late=False)
            self._segments.append(segment)
        segment.end = tail.end
        return segment

    def _give_up_tail(self) -> None:
        """Take back what was written of an entry. Nothing is ever appended there again."""
        tail = self._tail
        if tail is None:
            return
        try:
            tail.take_back()
        except OSError:
            pass  # replay ends at what was reported as kept; a later `open` may find it damaged
        self._close_tail()
        if tail.end == 0:
            self._unlink(tail.name)

    def _refuse_if_full(self, length: int) -> None:
        if self._disk_is_low():
            raise Unavailable(
                f"less than disk_free_min is free where {self._directory} lies",
                "make room on the disk of state_dir, or lower disk_free_min",
                loud=True,
            )
        if self._used() + length > self._bytes_max:
            raise Unavailable(
                f"the spool is full: it has {self._used()} of {self._bytes_max} bytes",
                "let the queue take frames again, or raise spool.bytes_max",
                loud=True,
            )

    def _used(self) -> int:
        """What all sources have on the disk."""
        now = self._monotonic()
        if now >= self._usage_at:
            self._usage_at = now + LOOK_S
            self._others_bytes = usage(self._directory.parent, self._files) - self._own_bytes
        return self._others_bytes + self._own_bytes

    def _make_place(self) -> None:
        """The directory is there, and its name outlives a crash."""
        self._files.make(self._directory)
        for directory in (self._directory, *self._directory.parents[:2]):
            sync_directory(self._files, directory)
        self._is_placed = True

    def _place(self) -> None:
        try:
            self._make_place()
        except OSError as error:  # tried again before the next append
            self._say(f"{self._directory} can't be synced: {error.strerror} → {LOOK_AT_DISK}")

    # ── replay ──────────────────────────────────────────────────────────────────────────

    def oldest(self) -> Spooled | None:
        """The frame to hand over next; None: nothing waits. Damaged segments are set aside."""
        self._look()
        while self._shown is None and self._segments:
            self._shown = self._try_next(self._segments[0])
        return self._shown

    def _try_next(self, segment: Segment) -> Spooled | None:
        """The next frame of the first segment; None: it had to go, look at the next one."""
        try:
            if self._reader is None:
                self._reader, self._at = Reader(self._files, self._path(segment.name)), 0
            entry = self._reader.entry(self._at, segment.end)
            header = decode_header(entry.line)
        except (Corrupt, OSError) as error:
            self._part_with(segment, error)
            return None
        self._shown_end = entry.end
        return Spooled(header, entry.line, entry.body, repaired=segment.late)

    def forget(self, frame: Spooled) -> None:
        """The oldest frame was handed over."""
        assert frame is self._shown, "only what `oldest` has just shown"
        self._shown, self._at = None, self._shown_end
        if self._at >= self._segments[0].end:
            self._remove(self._segments[0])

    def drop(self) -> None:
        """Forget everything that waits, the newest first: the source will show it again."""
        self._look()
        for segment in sorted(self._segments, key=lambda one: one.name, reverse=True):
            self._beat()
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        """All of it was handed over, or shall be forgotten."""
        self._let_go(segment)
        self._unlink(segment.name)
        if not self._segments:
            try:
                sync_directory(self._files, self._directory)
            except OSError as error:
                self._say(f"{self._directory} can't be synced: {error.strerror} → {LOOK_AT_DISK}")

    def _let_go(self, segment: Segment) -> None:
        """No part of us knows of it any more."""
        if segment is self._segments[0]:
            self._close_reader()
        if segment is self._tail_segment:
            self._close_tail()
        if self._newest and segment is self._newest.segment:
            self._newest, self._newest_is_known = None, False
        self._segments.remove(segment)

    # ── what is wrong ───────────────────────────────────────────────────────────────────

    def _part_with(self, segment: Segment, error: Corrupt | OSError) -> None:
        """A segment that can't be read: the others are replayed without it."""
        self._let_go(segment)
        if isinstance(error, Corrupt):
            self._set_aside(segment, error.message)
        elif error.errno in segments.BROKEN:
            self._set_aside(segment, str(error.strerror))
        elif not isinstance(error, FileNotFoundError):
            self._leave_out(segment.name, RETRY_S, str(error.strerror))
        else:
            self._say(f"{self._path(segment.name)} is gone, and with it what was in it")

    def _set_aside(self, segment: Segment, why: str) -> None:
        try:
            bad = segments.set_aside(self._files, self._directory, segment.name)
        except OSError as error:
            self._leave_out(segment.name, RETRY_S, f"{why}; no .bad either: {error.strerror}")
            return
        path = self._path(segment.name)
        self._say(f"{path} is damaged ({why}): {segment.end} bytes are now {bad} → {REPAIR}")

    def _leave_out(self, name: Name, for_s: float, why: str) -> None:
        if str(name) not in self._left_out:
            self._say(f"{self._path(name)} is left out for now: {why} → {LOOK_AT_DISK}")
        self._left_out[str(name)] = self._monotonic() + for_s

    def _unlink(self, name: Name) -> None:
        try:
            self._files.unlink(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:  # replayed once more after the next start: harmless
            self._leave_out(name, math.inf, f"it can't be removed: {error.strerror}")

    def _say(self, text: str) -> None:
        if len(self._notices) < NOTICES_MAX:
            self._notices.append(text)

    # ── the directory ───────────────────────────────────────────────────────────────────

    def _look(self) -> None:
        """Take in what others have put there: a repaired segment, one out of a backup."""
        now = self._monotonic()
        if now < self._look_at:
            return
        known = {str(segment.name) for segment in self._segments}
        known |= {name for name, until in self._left_out.items() if until > now}
        for name, size in self._listing().items():
            if size > 0 and str(name) not in known:
                self._adopt(Segment(name, size, late=True))

    def _adopt(self, segment: Segment) -> None:
        """It goes in where its number says, but not before one that is being replayed."""
        first = 1 if self._reader else 0
        rest = sorted([*self._segments[first:], segment], key=lambda one: one.name)
        self._segments[first:] = rest

    def _listing(self) -> dict[Name, int]:
        """Segments that are there now, by their numbers; none if the directory isn't."""
        self._look_at = self._monotonic() + LOOK_S
        try:
            return self._see(self._files.sizes(self._directory))
        except FileNotFoundError:
            return self._see({})
        except OSError as error:
            self._say(f"{self._directory} can't be read: {error.strerror} → {LOOK_AT_DISK}")
            return {}

    def _see(self, sizes: dict[str, int]) -> dict[Name, int]:
        """Our names among these; no number of them is used again."""
        names = {name: size for text, size in sizes.items() if (name := segments.parse_name(text))}
        self._next = max([self._next, 1, *(name.number + 1 for name in names)])
        return {name: names[name] for name in sorted(names) if name.kind == "seg"}

    @property
    def _own_bytes(self) -> int:
        return sum(segment.end for segment in self._segments)

    def _path(self, name: Name) -> Path:
        return self._directory / str(name)

    def _close_reader(self) -> None:
        self._shown = None
        if self._reader:
            self._reader.close()
            self._reader = None

    def _close_tail(self) -> None:
        self._tail_segment = None
        if self._tail:
            self._tail.close()
            self._tail = None

    # ── the newest ──────────────────────────────────────────────────────────────────────

    def _find_newest(self, at_open: bool = False) -> Newest | None:
        """The newest frame; it is looked for where a predecessor left it, or after damage."""
        may_be_unfinished = at_open
        while not self._newest_is_known:
            segment = next((one for one in reversed(self._segments) if not one.late), None)
            self._newest_is_known = True
            if segment is None:
                return None
            self._beat()
            self._newest = self._try_last(segment, at_open, may_be_unfinished)
            self._newest_is_known = self._newest is not None
            may_be_unfinished = False
        return self._newest

    def _try_last(self, segment: Segment, at_open: bool, may_be_unfinished: bool) -> Newest | None:
        """The last frame of a segment; None: the segment is gone."""
        path = self._path(segment.name)
        try:
            with closing(Reader(self._files, path)) as reader:
                last, end = reader.last(segment.end)
                if end < segment.end:
                    self._cut(segment, end, may_be_unfinished)
                if last is None:
                    self._let_go(segment)
                    self._unlink(segment.name)
                    return None
                entry = reader.entry(last, end)
                decode_header(entry.line)
        except (Corrupt, OSError) as error:
            self._part_with(segment, error)
            return None
        synced = not at_open or self._try(segments.write_again, segment, entry)
        return Newest(segment, entry.line, synced)

    def _cut(self, segment: Segment, end: int, may_be_unfinished: bool) -> None:
        """Nobody was told that what is behind `end` is kept. Raises Corrupt where they may be."""
        if not may_be_unfinished:
            raise Unfinished(f"it ends within the frame at byte {end}")
        length, segment.end = segment.end - end, end
        self._say(
            f"{self._path(segment.name)}: {length} bytes of a frame that was being written when the"
            " process or the machine died are cut off"
        )
        self._try(segments.cut, segment, end)

    def _try(self, change: Callable[[Files, Path, Any], None], segment: Segment, how: Any) -> bool:
        path = self._path(segment.name)
        try:
            change(self._files, path, how)
        except OSError as error:
            self._say(f"{path} can't be written: {error.strerror} → {LOOK_AT_DISK}")
            return False
        return True


def usage(directory: Path, files: Files | None = None) -> int:
    """Bytes that all sources have in their spools under this directory."""
    files = files or Files()
    try:
        names = files.sizes(directory)
    except OSError:
        return 0
    return sum(_usage_of(files, directory / name) for name, size in names.items() if size < 0)


def _usage_of(files: Files, directory: Path) -> int:
    try:
        return sum(size for size in files.sizes(directory).values() if size > 0)
    except OSError:  # gone meanwhile, or no directory
        return 0


def _refusal(directory: Path, error: OSError) -> Unavailable:
    """Why a frame could not be kept, and what to do."""
    text = f"{directory}: {error.strerror}"
    if error.errno in NO_SPACE:
        hint = "make room on the disk of state_dir (or raise its owner's quota)"
    elif error.errno in segments.BROKEN:
        hint = "the disk fails: look at dmesg or journalctl -k, and move state_dir to a good one"
    else:
        hint = "the user who runs this must be able to write there"
    return Unavailable(text, hint, loud=True)
