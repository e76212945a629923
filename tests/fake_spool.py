"""A spool in memory: `contracts.Spool` over lists, which outlive whoever appends and replays.

A MemorySpool is one process's; the MemoryDisk under it stays. Frames lie in segments: what was
forgotten is gone for good only when its whole segment is, so a successor may be shown some
again. A Fault makes the N-th call fail, or its process die, before or after it took effect.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from appliance.contracts import Spooled
from appliance.errors import Unavailable
from appliance.frame import Buffer, Header, decode_header
from tests.fake_queue import Fault, Killed

BYTES_MAX = 2**33


@dataclass
class MemoryDisk:
    """What stays of a source's spool when its process dies, oldest first."""

    segments: list[list[Spooled]] = field(default_factory=list)
    segment_frames: int = 3
    bytes_max: int = BYTES_MAX
    fails: bool = False  # every append is refused
    damaged: list[list[Spooled]] = field(default_factory=list)

    @property
    def frames(self) -> list[Spooled]:
        return [frame for segment in self.segments for frame in segment]

    @property
    def numbers(self) -> list[int]:
        return [frame.header.number for frame in self.frames]

    def damage(self, at: int) -> None:
        """A segment can't be read any more: it is set aside by whoever comes to it, or by `open`
        if it is the last.
        """
        self.damaged.append(self.segments[at])

    def repair(self, *frames: Spooled) -> None:
        """Put frames back in front, as a repair does."""
        self.segments.insert(0, [replace(frame, repaired=True) for frame in frames])


class MemorySpool:
    """One process's spool."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.calls = 0
        self.set_aside = 0
        self.is_open = False
        self._forgotten = 0  # frames of the oldest segment
        self._notices: list[str] = []
        self._faults: dict[int, Fault] = {}

    def fail(self, fault: Fault) -> None:
        """Plan a fault; `fault.call` counts from the next call on."""
        self._faults[self.calls + fault.call] = fault

    @property
    def size(self) -> int:
        return sum(len(frame.line) + len(frame.body) for frame in self._waiting())

    @property
    def newest(self) -> Header | None:
        frames = self._waiting()
        return frames[-1].header if frames else None

    def open(self) -> None:
        assert not self.is_open
        self.is_open = True
        while self.disk.segments and self._is_damaged(-1):
            self._set_aside(-1)

    def append(self, line: bytes, body: Buffer) -> None:
        assert self.is_open
        header = decode_header(line)
        with self._calling():
            newest = self.newest
            if newest and newest.name == header.name:
                return
            if self.disk.fails or self.size + len(line) + len(body) > self.disk.bytes_max:
                raise Unavailable("the spool is full", "raise spool.bytes_max", loud=True)
            segments = self.disk.segments
            if not segments or len(segments[-1]) >= self.disk.segment_frames:
                segments.append([])
            segments[-1].append(Spooled(header, line, bytes(body)))

    def oldest(self) -> Spooled | None:
        assert self.is_open
        while self.disk.segments and self._is_damaged(0):
            self._set_aside(0)
        return next(iter(self._waiting()), None)

    def forget(self, frame: Spooled) -> None:
        with self._calling():
            assert frame == self._waiting()[0]
            self._forgotten += 1
            if self._forgotten >= len(self.disk.segments[0]):
                self.disk.segments.pop(0)
                self._forgotten = 0

    def drop(self) -> None:
        while self.disk.segments:
            with self._calling():
                self._drop_newest()
        self._forgotten = 0

    def _drop_newest(self) -> None:
        self.disk.segments.pop()

    def notices(self) -> list[str]:
        notices, self._notices = self._notices, []
        return notices

    def close(self) -> None:
        self.is_open = False

    def _waiting(self) -> list[Spooled]:
        return self.disk.frames[self._forgotten :]

    def _is_damaged(self, at: int) -> bool:
        return any(self.disk.segments[at] is segment for segment in self.disk.damaged)

    def _set_aside(self, at: int) -> None:
        self.disk.segments.pop(at)
        if at == 0 or not self.disk.segments:
            self._forgotten = 0
        self.set_aside += 1
        self._notices.append("a damaged segment was set aside")

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self.calls += 1
        fault = self._faults.pop(self.calls, None)
        _strike(fault, "before")
        yield
        _strike(fault, "after")


def _strike(fault: Fault | None, moment: str) -> None:
    if fault and fault.when == moment:
        raise Killed if fault.how == "die" else Unavailable(f"the spool: a fault {moment} it")
