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
- A segment that can't be read now, and isn't damaged, keeps all others waiting: who hands over
  relies on the order.
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
from appliance.segments import HEAD_BYTES, Reader, Tail, Unfinished
from appliance.shelf import LOOK_AT_DISK, LOOK_S, Segment, Shelf

SEGMENT_BYTES_MAX = 16 * 1024**2  # a frame that is larger has a segment of its own
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        self._begin()

    def _begin(self) -> None:
        self._shelf = Shelf(self._directory, self._files, self._monotonic)
        self._at = 0  # in the first segment, while it is open
        self._shown: Spooled | None = None
        self._shown_end = 0
        self._tail_segment: Segment | None = None
        self._newest: Newest | None = None
        self._newest_is_known = True
        self._is_placed = False  # our directory's own name is synced
        self._usage_at = -math.inf
        self._others_bytes = 0

    def open(self) -> None:
        """Before anything else: see what a predecessor left; an unfinished tail is cut off."""
        self.close()
        self._begin()
        self._look()

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""
        self._close_reader()
        self._close_tail()

    # ── what others see ─────────────────────────────────────────────────────────────────

    @property
    def size(self) -> int:
        """What waits, in bytes on the disk; 0 only if nothing does."""
        self._look()
        return self._shelf.size

    @property
    def newest(self) -> Header | None:
        """The header of the newest frame that waits and can be read; not of a repaired one."""
        newest = self._find_newest()
        return decode_header(newest.line) if newest else None

    @property
    def set_aside(self) -> int:
        """Damaged segments that were set aside since `open` began: frames in them are missing."""
        return self._shelf.parted

    def notices(self) -> list[str]:
        """What was found since the last call and people should know, as sentences."""
        return self._shelf.notices()

    def _look(self) -> None:
        if self._shelf.look(pinned=1 if self._reader else 0) and self._shelf.segments:
            self._try(self._make_place)
            self._newest_is_known = False
            self._find_newest(at_open=True)

    # ── appending ───────────────────────────────────────────────────────────────────────

    def append(self, line: bytes, body: Buffer) -> None:
        """Keep a frame for good. Appending the newest one again changes nothing.

        Raises:
            Unavailable: no room, or the disk fails; nothing was appended.
        """
        self._look()
        self._shelf.refuse_unlisted()
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
        self._tail = Tail(self._files, self._directory, self._shelf.new_name())

    def _write(self, entry: list[Buffer]) -> Segment:
        """Returns when the entry is on the disk: then, and not before, its segment waits."""
        tail, segment = self._tail, self._tail_segment
        assert tail
        tail.append(entry)
        if segment is None:
            segment = self._tail_segment = Segment(tail.name, 0, late=False)
            self._shelf.segments.append(segment)
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
            self._shelf.unlink(tail.name)

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
        now, own = self._monotonic(), self._shelf.size
        if now >= self._usage_at:
            self._usage_at = now + LOOK_S
            self._others_bytes = usage(self._directory.parent, self._files) - own
        return self._others_bytes + own

    def _make_place(self) -> None:
        """The directory is there, and its name outlives a crash."""
        self._files.make(self._directory)
        for directory in (self._directory, *self._directory.parents[:2]):
            sync_directory(self._files, directory)
        self._is_placed = True

    # ── replay ──────────────────────────────────────────────────────────────────────────

    def oldest(self) -> Spooled | None:
        """The frame to hand over next; None: nothing waits. Damaged segments are set aside.

        Raises:
            Unavailable: it can't be read now, though nothing says that it is damaged.
        """
        self._look()
        self._shelf.refuse_unlisted()
        while self._shown is None and self._shelf.segments:
            self._shown = self._try_next(self._shelf.segments[0])
        return self._shown

    def _try_next(self, segment: Segment) -> Spooled | None:
        """The next frame of the first segment; None: it was set aside, look at the next one."""
        try:
            if self._reader is None:
                self._reader, self._at = Reader(self._files, self._shelf.path(segment.name)), 0
            entry = self._reader.entry(self._at, segment.end)
            header = decode_header(entry.line)
        except (Corrupt, OSError) as error:
            self._set_aside(segment, error)
            return None
        self._shown_end = entry.end
        return Spooled(header, entry.line, entry.body, repaired=segment.late)

    def forget(self, frame: Spooled) -> None:
        """The oldest frame was handed over."""
        assert frame is self._shown, "only what `oldest` has just shown"
        self._shown, self._at = None, self._shown_end
        segment = self._shelf.segments[0]
        if self._at >= segment.end:
            self._remove(segment)

    def drop(self) -> None:
        """Forget everything that waits, the newest first: the source will show it again."""
        self._look()
        for segment in sorted(self._shelf.segments, key=lambda one: one.name, reverse=True):
            self._beat()
            self._remove(segment)

    def _remove(self, segment: Segment) -> None:
        self._let_go(segment)
        self._shelf.remove(segment)

    def _set_aside(self, segment: Segment, error: Corrupt | OSError) -> None:
        """A segment that can't be read. Raises Unavailable where it has to be waited for."""
        self._shelf.set_aside(segment, error)
        self._let_go(segment)

    def _let_go(self, segment: Segment) -> None:
        """Nothing here is about this segment any more."""
        if self._reader and self._reader.path == self._shelf.path(segment.name):
            self._close_reader()
        if segment is self._tail_segment:
            self._close_tail()
        if self._newest and segment is self._newest.segment:
            self._newest, self._newest_is_known = None, False

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
            in_time = [segment for segment in self._shelf.segments if not segment.late]
            self._newest_is_known = True
            if not in_time:
                break
            self._beat()
            try:
                self._newest = self._last_of(in_time[-1], at_open, may_be_unfinished)
                self._newest_is_known = self._newest is not None
            except Unavailable as error:  # nobody knows it, until another one is appended
                self._shelf.say(f"{error.message} → {error.hint}")
            may_be_unfinished = False
        return self._newest

    def _last_of(self, segment: Segment, at_open: bool, may_be_unfinished: bool) -> Newest | None:
        """The last frame of a segment; None: the segment is gone. Raises Unavailable."""
        try:
            with closing(Reader(self._files, self._shelf.path(segment.name))) as reader:
                last, end = reader.last(segment.end)
                if end < segment.end:
                    self._cut(segment, end, may_be_unfinished)
                if last is None:
                    self._remove(segment)
                    return None
                entry = reader.entry(last, end)
                decode_header(entry.line)
        except (Corrupt, OSError) as error:
            self._set_aside(segment, error)
            return None
        path = self._shelf.path(segment.name)
        synced = not at_open or self._try(segments.write_again, self._files, path, entry)
        return Newest(segment, entry.line, synced)

    def _cut(self, segment: Segment, end: int, may_be_unfinished: bool) -> None:
        """Nobody was told that what is behind `end` is kept. Raises Corrupt where they may be."""
        if not may_be_unfinished:
            raise Unfinished(f"it ends within the frame at byte {end}")
        path, length = self._shelf.path(segment.name), segment.end - end
        self._shelf.say(
            f"{path}: {length} bytes of a frame that was being written when the process or the"
            " machine died are cut off"
        )
        segment.end = end
        self._try(segments.cut, self._files, path, end)

    def _try(self, change: Callable[..., None], *how: Any) -> bool:
        """Whether the disk takes a change that may also wait."""
        try:
            change(*how)
        except OSError as error:
            self._shelf.say(f"{self._directory}: {error.strerror} → {LOOK_AT_DISK}")
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
