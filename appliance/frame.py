"""A frame: what travels from the collector through Redis to a subscriber.

One frame is one Redis list item, opaque to queue and spool:

    one line of JSON (the header) + "\n" + the body

The body is the records as they came, each ended by one newline, so that any Redis client
shows what is inside. Frames of a source are numbered 1, 2, 3 … within a run; the number is
what makes every hand-over repeatable: Redis and the ledger recognise a frame they have.

A released format stays readable for ever. Whoever changes `Header` adds a field with a
default, or raises FORMAT and keeps reading the old one (docs/formats.md lists them). `run` and
`number` stay the first fields: a frame's name is read without parsing the line, here and by a
script in Redis.
"""

import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from appliance.errors import Corrupt

FORMAT = 1
RUN_BYTES = 16
SOURCE_CHARS_MAX = 32  # of its name in the configuration
COUNT_MAX = 2**53  # far below what a database counts to: sums of these have to fit, too
TIME_S_MAX = 253_402_300_800  # the year 10000, which no database knows
LINES = "lines"  # layout: every record ends with one newline and holds none

Buffer = bytes | bytearray | memoryview

_RUN = re.compile(rb'"run":"([0-9a-f]+)"')
_NUMBER = re.compile(rb'"number":([0-9]+)')
_NEWLINE = re.compile(rb"\n")


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The run before: its id, its last number and what it had handed over by then."""

    run: str
    number: int
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What never reached us, or is held by nobody any more, around this frame.

    `cause` is one word or two; `records` and `bytes` are None where nobody knows how many. Where
    they are known they had been counted for this frame, so they are in the run's sums behind it.
    `began` and `ended` are seconds since the epoch, None: while this frame was received.
    """

    cause: str
    records: int | None = None
    bytes: int | None = None
    began: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """Everything about a frame but its records.

    Attributes:
        run: UUIDv7 as 32 hex digits; later runs of a source compare greater.
        number: 1, 2, 3 … within the run.
        source: the source's name in the configuration.
        records: lines in the body, blank ones included.
        records_before, bytes_before: sums of the run's frames before this one (lines, body bytes).
        body_bytes, crc: length and CRC-32 (zlib) of the body.
        first_received, last_received: seconds since the epoch, wall clock.
        cursor_before, cursor_after: position in the source, for sources that have one.
        rejected: {index of the record in the body: code} for what the collector itself refuses.
        gaps: what could not be kept.
        skipped_bytes: bytes of over-long records that were dropped.
        previous: the run before this one, None if there was none.
        hole: why the frames directly before this one may never arrive, if something is known.
        lacks, lacks_bytes: what the sums count for this frame and nobody holds any more: its
            number was noted with them.
    """

    run: str
    number: int
    source: str
    records: int
    records_before: int
    bytes_before: int
    body_bytes: int
    crc: int
    first_received: float
    last_received: float
    cursor_before: str | None = None
    cursor_after: str | None = None
    rejected: dict[int, str] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    skipped_bytes: int = 0
    previous: RunEnd | None = None
    hole: str | None = None
    lacks: int | None = None
    lacks_bytes: int | None = None
    layout: str = LINES
    codec: str = "none"
    format: int = FORMAT

    @property
    def name(self) -> str:
        """RUN:NUMBER, the frame's name for ever."""
        return f"{self.run}:{self.number}"


_FIELDS = tuple(field.name for field in fields(Header))
_JSON = json.JSONEncoder(separators=(",", ":"), default=asdict)


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame taken apart: its header and its body, checked against each other."""

    header: Header
    body: Buffer

    def kept(self) -> "Frame":
        """The same with a body of its own, where it was a view."""
        return replace(self, body=bytes(self.body))


def checksum(body: Buffer) -> int:
    """CRC-32 of a body (zlib; RFC 1952, section 8)."""
    return zlib.crc32(body)


def encode_header(header: Header) -> bytes:
    """The header's line, newline included: what goes before the body in a Redis item."""
    # Not asdict(header), which takes longer than all the rest of a small frame's way.
    values = ((name, getattr(header, name)) for name in _FIELDS)
    kept = {name: value for name, value in values if value not in (None, {}, ())}
    return _JSON.encode(kept).encode() + b"\n"


def decode(item: Buffer) -> Frame:
    """Take a Redis item apart; the body of a view is a part of that view.

    Raises:
        Corrupt: not one of our frames, a format newer than this program, or damaged bytes.
    """
    newline = _NEWLINE.search(item)
    if not newline:
        raise Corrupt("a queue item has no header line")
    header, body = decode_header(bytes(item[: newline.start()])), item[newline.end() :]
    if len(body) != header.body_bytes or checksum(body) != header.crc:
        raise Corrupt(f"frame {header.number} of run {header.run}: body and checksum differ")
    return Frame(header, body)


def name_of(item: Buffer) -> str:
    """A frame's name (see Header.name), whatever else is wrong with it; empty if it has none."""
    newline = _NEWLINE.search(item)
    line = bytes(item[: newline.end()]) if newline else b""
    run, number = _RUN.search(line), _NUMBER.search(line)
    return f"{run[1].decode()}:{number[1].decode()}" if run and number else ""


def decode_header(line: bytes) -> Header:
    """Read a frame's header line.

    Raises:
        Corrupt: not one of our frames, or a format newer than this program.
    """
    try:
        fields = json.loads(line.decode())  # of bytes it would guess the encoding first
        if not isinstance(fields, dict) or "format" not in fields:
            raise Corrupt("a queue item has no frame header")
        if fields["format"] != FORMAT or fields["layout"] != LINES or fields["codec"] != "none":
            raise Corrupt(
                f"a frame of format {fields['format']} can't be read by this version",
                "finish storing with the version that collected it, or upgrade this one",
            )
        header = Header(**_revived(fields))
        _check(header)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Corrupt(f"a queue item's header can't be read: {error}") from error
    return header


def _check(header: Header) -> None:
    """What whoever stores a frame relies on. Raises ValueError or TypeError."""
    counts = (header.records, header.records_before, header.bytes_before, header.skipped_bytes)
    lacks = (header.lacks or 0, header.lacks_bytes or 0)
    _check_counts(header.number - 1, header.number, *counts, *lacks)
    if len(bytes.fromhex(header.run)) != RUN_BYTES or len(header.source) > SOURCE_CHARS_MAX:
        raise ValueError("run or source is none")
    _check_times(header.first_received, header.last_received)
    for gap in header.gaps:
        _check_counts(*(count for count in (gap.records, gap.bytes) if count is not None))
        _check_times(*(time for time in (gap.began, gap.ended) if time is not None))
    if end := header.previous:
        _check_counts(end.number, end.records, end.bytes)
        if len(bytes.fromhex(end.run)) > RUN_BYTES:
            raise ValueError("the run before is none")
    words = (header.source, header.hole or "", *(gap.cause for gap in header.gaps))
    if {*map(type, words)} != {str}:
        raise ValueError("a source or a cause is none")


def _check_counts(*counts: int) -> None:
    for count in counts:
        if type(count) is not int or not 0 <= count < COUNT_MAX:
            raise ValueError("a number or a count is none")


def _check_times(*times: float) -> None:
    for time in times:
        if not 0 <= time < TIME_S_MAX:
            raise ValueError("a time is none")


def _revived(fields: dict[str, Any]) -> dict[str, Any]:
    """JSON's plain lists and dicts turned back into the header's own types."""
    gaps: Sequence[dict[str, Any]] = fields.get("gaps", ())
    previous = fields.get("previous")
    return fields | {
        "rejected": {int(index): code for index, code in fields.get("rejected", {}).items()},
        "gaps": tuple(Gap(**gap) for gap in gaps),
        "previous": RunEnd(**previous) if previous else None,
    }
