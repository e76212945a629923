"""Standard input as a source: a pipe that somebody fills, read until its end.

Fleeting: a byte that was read exists nowhere else. So the buffer keeps what was shown until it is
discarded, and behind it the unfinished last line; a successor can't have them again and goes on
with what is still in the pipe.

What is read at once is what is there, up to a full buffer: with a fast writer large chunks, with
a slow one each line at once. At the end of input an unfinished last line is a record. After
`stop` what the pipe holds at that moment is still read, since nobody else would; an unfinished
line is a dead letter then, code `cut`. A regular file (`collect < file`) is read to its end too,
but stops at once: its bytes stay where they are.

The descriptor stays blocking: its mode is shared with the user's shell. It is polled first. The
pipe is grown: at most one frame is made every few milliseconds, and what the writer could put
into the pipe meanwhile is what that frame can hold (64 KiB by the kernel's default).
"""

import array
import fcntl
import os
import select
import stat
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance import framing
from appliance.contracts import AtRisk, Chunk
from appliance.frame import Gap
from appliance.framing import Cut, Ending

PIPE_BYTES = 1024 * 1024  # what the kernel allows everybody

UNREADABLE = "unreadable"  # cause of a gap: the input failed before its end


@dataclass(frozen=True, slots=True)
class Shown:
    """A chunk that was shown and not discarded, and how it was cut from the buffer."""

    chunk: Chunk
    cut: Cut


class StdinSource:
    """Records of standard input, until its end.

    Memory: one buffer of `frame_bytes_max` (or `record_bytes_max`, if that is more).
    """

    connections = 0
    fleeting = True
    patient = True
    waiting_for = ""

    def __init__(
        self,
        record_bytes_max: int,
        frame_bytes_max: int,
        *,
        fd: int = 0,
        clock: Callable[[], float] = time.time,
        wake: int | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """A source that reads `fd`, which stays the caller's to close.

        Args:
            clock: wall time for records.
            wake: a descriptor that is readable when a signal came.
            beat: called before and after what may block.
        """
        self._fd, self._clock, self._wake, self._beat = fd, clock, wake, beat
        self._record_bytes_max = record_bytes_max
        self._buffer = bytearray(max(frame_bytes_max, record_bytes_max))
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._searched = 0  # so many bytes of it hold no newline
        self._first = self._last = 0.0  # when the oldest and the newest byte in it was read
        self._skipping = False
        self._skipped = 0  # bytes of an over-long line dropped since the last chunk
        self._gaps: tuple[Gap, ...] = ()
        self._shown: Shown | None = None
        self._ending = Ending.OPEN
        self._allowed: int | None = None  # bytes that may still be read; None: all that come
        _grow_pipe(fd)

    # ── the contract (see contracts.Source) ─────────────────────────────────────────────

    @property
    def ended(self) -> bool:
        """Whether the input is at its end and everything of it was discarded.

        Behind a chunk that met the end only what was too much for it is left.
        """
        return self._shown is None and self._ending is not Ending.OPEN and not self._filled

    @property
    def at_risk(self) -> AtRisk:
        """All that is in the buffer: what is shown, and the unfinished line behind it."""
        records, taken = (
            (self._shown.chunk.records, self._shown.cut.taken) if self._shown else (0, 0)
        )
        return AtRisk(records + (self._filled > taken), self._filled)

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Nothing: a pipe has no position."""

    def again(self, claim: Any) -> None:
        """Nothing: what a predecessor had read is gone with it; its frame's number tells."""

    def peek(self) -> Chunk | None:
        """The whole lines that are here now."""
        if self._shown is None and not self.ended:
            self._fill()
            self._shown = self._cut()
        return self._shown.chunk if self._shown else None

    def discard(self, chunk: Chunk) -> None:
        """Forget the chunk; the unfinished line behind it moves to the buffer's start."""
        assert self._shown is not None
        assert chunk is self._shown.chunk
        shown, self._shown = self._shown, None
        self._skipped, self._gaps = 0, ()
        self._drop(shown.cut)

    def settle(self) -> None:
        """Nothing to let go of."""

    def wait(self, timeout_s: float) -> None:
        """Until there is something to read, or the end of it."""
        if self._shown or self.ended:
            return
        poll = self._poll()
        if self._wake is not None:
            poll.register(self._wake, select.POLLIN)
        self._beat()
        poll.poll(timeout_s * 1000)
        self._beat()

    def stop(self, quick: bool) -> None:
        """Read what the pipe holds now and nothing later."""
        if self._allowed is None:
            self._allowed = _held_by_kernel(self._fd)

    def leave(self) -> None:
        """What was read is nobody's but ours: hand it over."""
        self.stop(quick=True)

    def close(self) -> None:
        """Nothing: the descriptor isn't ours."""

    # ── reading ─────────────────────────────────────────────────────────────────────────

    def _fill(self) -> None:
        """Read until the buffer is full, or nothing is there now, or nothing will be."""
        poll = self._poll()
        while self._ending is Ending.OPEN and self._filled < len(self._buffer):
            events = dict(poll.poll(0)).get(self._fd, 0)
            if self._allowed == 0:
                at_end = events == select.POLLHUP  # its writers are gone, and it is empty
                self._ending = Ending.CLEAN if at_end else Ending.BROKEN
            elif events:
                self._read()
            else:
                return

    def _read(self) -> None:
        end = len(self._buffer)
        if self._allowed is not None:
            end = min(end, self._filled + self._allowed)
        try:
            count = os.readv(self._fd, [self._view[self._filled : end]])
        except BlockingIOError:
            return  # non-blocking by somebody's wish, and another reader was faster
        except OSError:
            self._ending = Ending.BROKEN
            self._gaps = (Gap(UNREADABLE),)
            return
        if count == 0:
            self._ending = Ending.CLEAN
        self._arrived(count)

    def _arrived(self, count: int) -> None:
        self._last = self._clock()
        if not self._filled:
            self._first = self._last
        self._filled += count
        if self._allowed is not None:
            self._allowed -= count

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return poll

    # ── showing ─────────────────────────────────────────────────────────────────────────

    def _cut(self) -> Shown | None:
        """Show what of the buffer is whole; skip what belongs to an over-long line."""
        cut = framing.cut(
            self._buffer,
            0,
            self._filled,
            record_bytes_max=self._record_bytes_max,
            skipping=self._skipping,
            ending=self._ending,
            searched=self._searched,
        )
        self._skipped += cut.skipped_bytes
        last_words = self._ending is not Ending.OPEN and (self._skipped or self._gaps)
        if not cut.records and not last_words:
            self._drop(cut)
            return None
        body = cut.body(self._buffer)
        chunk = Chunk(
            body=body,
            records=cut.records,
            claim={"records": cut.records, "bytes": len(body)},
            first_received=self._first,
            last_received=self._last,
            rejected=cut.rejected,
            gaps=self._gaps or framing.gaps_of(cut.rejected),
            skipped_bytes=self._skipped,
        )
        return Shown(chunk, cut)

    def _drop(self, cut: Cut) -> None:
        rest = self._filled - cut.taken
        self._view[:rest] = self._view[cut.taken : self._filled]
        self._filled = rest
        self._searched = 0 if cut.limited else rest
        self._skipping = cut.skipping
        if cut.taken:
            self._first = self._last  # the rest came with the last read, or nothing is left


def _grow_pipe(fd: int) -> None:
    try:
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # not a pipe, or the user's pipes have their share of memory already


def _held_by_kernel(fd: int) -> int:
    """Bytes that can be read from a pipe now; 0 for a regular file, which keeps its bytes."""
    count = array.array("i", [0])
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            fcntl.ioctl(fd, termios.FIONREAD, count)
    except OSError:
        return 0  # closed, or of a kind that doesn't tell
    return count[0]
