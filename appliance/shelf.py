"""The shelf: the directory of one source's segments, as the spool that works on it knows it.

It is listed when the spool opens, and then once in LOOK_S: others may put segments there (a
repair, somebody's backup). Those go in where their number says, but come late: frames behind
them may have been handed over.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from appliance import segments
from appliance.errors import Corrupt, Unavailable
from appliance.files import Files, sync_directory
from appliance.segments import Name

LOOK_S = 1.0  # a look at a directory is true for so long
NOTICES_MAX = 100  # kept until somebody asks; more of them say nothing new
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


class Shelf:
    """The segments of one source that wait.

    Attributes:
        segments: in the order of replay.
        parted: how many were parted with because they are damaged.
    """

    def __init__(
        self,
        directory: Path,
        files: Files,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.segments: list[Segment] = []
        self.parted = 0
        self._directory = directory
        self._files = files
        self._monotonic = monotonic
        self._next = 0  # number of the next segment; 0: the directory was never listed
        self._why_unlisted = ""
        self._look_at = -math.inf
        self._left: set[str] = set()  # files that nothing is done with any more
        self._notices: list[str] = []
        self._said = ""

    @property
    def size(self) -> int:
        """Bytes that wait; some, as long as nobody knows whether any do."""
        return sum(segment.end for segment in self.segments) if self._next else 1

    def path(self, name: Name) -> Path:
        """Where a segment lies."""
        return self._directory / str(name)

    def refuse_unlisted(self) -> None:
        """Raises Unavailable while the directory can't be listed: older frames go first."""
        if not self._next:
            text = f"{self._directory} can't be listed: {self._why_unlisted}"
            raise Unavailable(text, LOOK_AT_DISK, loud=True)

    def look(self, pinned: int) -> bool:
        """See what is there, once in LOOK_S; whether this was the first look that worked.

        `pinned`: so many segments stay in front, whatever comes.
        """
        if self._next and self._monotonic() < self._look_at:
            return False
        self._look_at = self._monotonic() + LOOK_S
        try:
            sizes = self._files.sizes(self._directory)
        except FileNotFoundError:
            sizes = {}
        except OSError as error:
            self._why_unlisted = str(error.strerror)
            self.say(f"{self._directory} can't be listed: {error.strerror} → {LOOK_AT_DISK}")
            return False
        is_first = not self._next
        self._take_in(sizes, is_first, pinned)
        return is_first

    def _take_in(self, sizes: dict[str, int], is_first: bool, pinned: int) -> None:
        names = {name: size for text, size in sizes.items() if (name := segments.parse_name(text))}
        self._next = max([self._next, 1, *(name.number + 1 for name in names)])
        known = self._left | {str(segment.name) for segment in self.segments}
        for name, size in names.items():
            if name.kind != "seg" or str(name) in known:
                continue
            if size > 0:
                late = name.is_repaired or not is_first
                self.segments.append(Segment(name, size, late))
            elif size == 0 and is_first:  # made, and nothing was written yet
                self.unlink(name)
            elif size < 0:
                self._leave(name, "it is no file that can be read")
        self.segments[pinned:] = sorted(self.segments[pinned:], key=lambda one: one.name)

    def new_name(self) -> Name:
        """For the next segment; no number is given twice while anything is there."""
        self._next += 1
        return segments.name_at(self._next - 1)

    # ── parting ─────────────────────────────────────────────────────────────────────────

    def set_aside(self, segment: Segment, error: Corrupt | OSError) -> None:
        """A segment could not be read: the others go on without it.

        Raises:
            Unavailable: not damage, or it can't be set aside: then all wait, to keep the order.
        """
        path = self.path(segment.name)
        if isinstance(error, OSError) and error.errno not in segments.BROKEN:
            if isinstance(error, FileNotFoundError):
                self.say(f"{path} is gone, and with it what was in it")
                self._part_with(segment)
                return
            raise Unavailable(f"{path}: {error.strerror}", LOOK_AT_DISK, loud=True) from error
        why = error.message if isinstance(error, Corrupt) else error.strerror
        try:
            bad = segments.set_aside(self._files, self._directory, segment.name)
        except OSError as second:
            text = f"{path} is damaged ({why}) and can't be set aside: {second.strerror}"
            raise Unavailable(text, LOOK_AT_DISK, loud=True) from error
        self.say(f"{path} is damaged ({why}): {segment.end} bytes are now {bad} → {REPAIR}")
        self._part_with(segment)

    def _part_with(self, segment: Segment) -> None:
        self.parted += 1
        self.segments.remove(segment)

    def remove(self, segment: Segment) -> None:
        """All of it was handed over, or shall be forgotten."""
        self.segments.remove(segment)
        self.unlink(segment.name)
        if not self.segments:
            try:
                sync_directory(self._files, self._directory)
            except OSError as error:
                self.say(f"{self._directory} can't be synced: {error.strerror} → {LOOK_AT_DISK}")

    def unlink(self, name: Name) -> None:
        """Remove a file that holds nothing any more."""
        try:
            self._files.unlink(self.path(name))
        except FileNotFoundError:
            pass
        except OSError as error:  # replayed once more after the next start: harmless
            self._leave(name, f"it can't be removed: {error.strerror}")

    def _leave(self, name: Name, why: str) -> None:
        self.say(f"{self.path(name)} is left where it is: {why} → {LOOK_AT_DISK}")
        self._left.add(str(name))

    # ── what people should know ─────────────────────────────────────────────────────────

    def say(self, text: str) -> None:
        """Keep a sentence until somebody asks; the same is not said twice in a row."""
        if text != self._said and len(self._notices) < NOTICES_MAX:
            self._notices.append(text)
        self._said = text

    def notices(self) -> list[str]:
        """What was said since the last call."""
        said, self._notices = self._notices, []
        return said
