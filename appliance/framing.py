"""Newline framing: which bytes of a buffer are whole records, decided for the whole buffer.

A record ends with one newline; a CR before it belongs to the framing but stays in the body,
the subscriber takes it off. Nothing here looks at each record: the end of the last whole line is
one `rfind`, their number what a `replace` makes shorter, and the body is one slice of the buffer.

A line may have `record_bytes_max` bytes, its newline included. To find one that has more,
`cut` hops from line start to the last newline within reach: one look for each
`record_bytes_max` bytes, none when the whole stretch isn't longer than one line may be. Of an
over-long line the first REJECTED_BYTES_MAX bytes stay in the body at its place (less where a
line may be shorter than that), listed as rejected; the rest is skipped, over as many buffers as
it takes, and reading goes on behind its newline.

No more than RECORDS_MAX records are taken at once: whoever stores a frame needs memory for each of
them, and its header names each that was rejected. The rest is for the next call.

What comes out doesn't depend on where the input was split into buffers, and cutting again
exactly the bytes that were taken gives the same result: a successor may rely on it.

The caller's buffer holds at least `record_bytes_max` bytes: a full buffer always gives
something, if only a part of an over-long line to skip.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from appliance.frame import Buffer, Gap

REJECTED_BYTES_MAX = 64 * 1024
STEP_BYTES = 32 * 1024  # of a buffer that are copied at once
RECORDS_MAX = 65_536  # in one cut; records of more than 16 bytes fill a frame of 1 MiB before

TOO_LONG = "too long"  # code of a record that is longer than record_bytes_max
CUT = "cut"  # code of a record whose end never came: reset, error, stopped in its middle

NEWLINE = b"\n"


class Ending(Enum):
    """What follows behind the last byte of a buffer."""

    OPEN = "open"  # more may come: an unfinished last line waits for its end
    CLEAN = "clean"  # end of file, FIN: an unfinished last line is a record
    BROKEN = "broken"  # reset, error: an unfinished last line is a dead letter


@dataclass(slots=True)
class Cut:
    """What becomes of a stretch of a buffer.

    Attributes:
        taken: bytes from its start that are dealt with; what follows is an unfinished line.
        parts: (start, end) offsets in the buffer that make the body, in order. A part that
            doesn't end with a newline gets one; whole lines that follow each other are one part.
        records: lines in the body.
        rejected: {index of the record in the body: TOO_LONG or CUT}.
        skipping: the next bytes still belong to an over-long line.
        skipped_bytes: bytes of over-long lines that were dropped (their newlines not counted).
        limited: RECORDS_MAX was reached: whole lines may follow.
    """

    taken: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)
    records: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    skipping: bool = False
    skipped_bytes: int = 0
    limited: bool = field(default=False, compare=False)

    def body(self, buffer: bytes | bytearray) -> Buffer:
        """The records, each ended by one newline; a view of the buffer where one slice does."""
        return body(buffer, self.parts)


def body(buffer: bytes | bytearray, parts: Iterable[tuple[int, int]]) -> Buffer:
    """What these stretches of a buffer hold, each ended by a newline; a view if it is but one."""
    view = memoryview(buffer)
    pieces: list[Buffer] = []
    for start, end in parts:
        pieces.append(view[start:end])
        if start == end or buffer[end - 1] != NEWLINE[0]:
            pieces.append(NEWLINE)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def cut(
    buffer: bytes | bytearray,
    start: int,
    end: int,
    *,
    record_bytes_max: int,
    skipping: bool = False,
    ending: Ending = Ending.OPEN,
    searched: int = 0,
) -> Cut:
    """Find the whole records in buffer[start:end].

    Args:
        record_bytes_max: what a line may have, its newline included.
        skipping: the stretch begins within an over-long line (`Cut.skipping` of the one before).
        ending: what follows behind `end`.
        searched: offset up to which an earlier call has looked: no newline lies before it.
    """
    if not skipping and 0 < end - start <= record_bytes_max and buffer[end - 1] == NEWLINE[0]:
        lines = _lines(buffer, start, end)
        if lines <= RECORDS_MAX:  # the usual case: whole lines, and none can be over-long
            return Cut(end - start, [(start, end)], lines)
    found = Cut()
    at = _skip(found, buffer, start, end) if skipping else start
    if found.skipping:
        at = whole = end
    else:
        whole = buffer.rfind(NEWLINE, max(at, searched), end) + 1 or at
        at = _keep_lines(found, buffer, at, whole, record_bytes_max)
        found.limited = at < whole
        if not found.limited:
            at = _keep_unfinished(found, whole, end, ending, record_bytes_max)
    found.skipping = found.skipping and ending is Ending.OPEN
    found.taken = at - start
    return found


def gaps_of(rejected: Mapping[int, str]) -> tuple[Gap, ...]:
    """What never reached us of records that were cut: one gap, nobody knows how large."""
    return (Gap(CUT),) if CUT in rejected.values() else ()


def _skip(found: Cut, buffer: bytes | bytearray, start: int, end: int) -> int:
    """Drop an over-long line up to its newline, or everything; where the next line starts."""
    newline = buffer.find(NEWLINE, start, end)
    found.skipping = newline < 0
    found.skipped_bytes += (end if newline < 0 else newline) - start
    return newline + 1


def _keep_lines(
    found: Cut, buffer: bytes | bytearray, at: int, whole: int, record_bytes_max: int
) -> int:
    """Keep the whole lines in buffer[at:whole], hopping in search of one that is over-long.

    Returns where it stopped: at `whole`, or behind as many lines as may be taken at once.
    """
    whole, lines = _limit(buffer, at, whole)
    start = at
    while whole - at > record_bytes_max:
        newline = buffer.rfind(NEWLINE, at, at + record_bytes_max)
        if newline < 0:
            _keep(found, start, at, _lines(buffer, start, at))
            newline = buffer.find(NEWLINE, at + record_bytes_max, whole)
            _reject_long(found, at, newline, record_bytes_max)
            start = newline + 1
        at = newline + 1
    _keep(found, start, whole, lines - found.records)
    return whole


def _limit(buffer: bytes | bytearray, at: int, whole: int) -> tuple[int, int]:
    """Up to where lines may be taken, and how many that are: the first part of all of them."""
    while (lines := _lines(buffer, at, whole)) > RECORDS_MAX:
        some = at + (whole - at) * RECORDS_MAX // lines
        whole = (buffer.rfind(NEWLINE, at, some) + 1) or (buffer.find(NEWLINE, at) + 1)
    return whole, lines


def _lines(buffer: bytes | bytearray, at: int, whole: int) -> int:
    """How many newlines there are.

    `replace` goes from one to the next (memchr), where `count` looks at each byte: with lines of
    400 bytes a third of the time, copies included. In steps, because the memory for a copy of all
    would come from the kernel each time.
    """
    steps = (
        buffer[start : min(start + STEP_BYTES, whole)] for start in range(at, whole, STEP_BYTES)
    )
    return sum(len(step) - len(step.replace(NEWLINE, b"")) for step in steps)


def _keep_unfinished(
    found: Cut, start: int, end: int, ending: Ending, record_bytes_max: int
) -> int:
    """Decide about a last line without newline; how far the stretch is dealt with then."""
    if end - start >= record_bytes_max:
        _reject_long(found, start, end, record_bytes_max)
        found.skipping = True
        return end
    if start == end or ending is Ending.OPEN:
        return start
    if ending is Ending.BROKEN:
        found.rejected[found.records] = CUT
    found.parts.append((start, end))
    found.records += 1
    return end


def _keep(found: Cut, start: int, end: int, lines: int) -> None:
    if start < end:
        found.parts.append((start, end))
        found.records += lines


def _reject_long(found: Cut, start: int, end: int, record_bytes_max: int) -> None:
    """Keep the first bytes of an over-long line as a rejected record; its newline isn't in it."""
    kept = min(REJECTED_BYTES_MAX, record_bytes_max - 1)
    found.rejected[found.records] = TOO_LONG
    found.parts.append((start, start + kept))
    found.records += 1
    found.skipped_bytes += end - start - kept
