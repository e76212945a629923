"""Rows: what the records of a frame become in the database.

A `RowMaker` is built once per source and turns each frame into a `Batch`:

    line ─┬─ empty ───────────────────────────────→ blank, counted
          ├─ refused by the collector ────────────→ dead letter, its code
          ├─ condemned (see poison.py) ───────────→ dead letter "poison"
          ├─ not UTF-8 ───────────────────────────→ dead letter "utf8"
          ├─ not JSON (format "json") ────────────→ dead letter "json"
          ├─ not what every `include` asks for,
          │  or what an `exclude` asks for ───────→ filtered, counted
          └─ a row: one value per column

Each line goes exactly one way, so records = rows + dead + filtered + blank. Most frames hold
nothing but records that the collector took, and nothing is done here with each of them.

Reading JSON is the matter of reading.py, which finds one list of values for each path; the
batch keeps it that way, as one Block. Pure: the database decides later which rows it refuses.

Values by path: a missing one or null is NULL, true and false are 1 and 0, an object or a list
is its JSON text. An ISO 8601 text for a DATETIME or TIMESTAMP column is rewritten to UTC
without its zone, which strict databases refuse. JSON integers of more than 64 bit are floats
here (orjson's reading); the column with path "" is the record exactly as it came.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec
import orjson

from appliance import filters, poison
from appliance.batch import Batch, Block, DeadLetter, Same, Texts, Value, Values
from appliance.config import Column, Filter
from appliance.contracts import NO_RECORD, Hold
from appliance.frame import Buffer, Frame, Header
from appliance.reading import Found, Reader

REASONS = {  # by the collector's codes: of such a record only a part reached us, or was kept
    "too long": "longer than record_bytes_max: only its first bytes were kept",
    "cut": "the connection broke in the middle of this record",
}
PIECE_BYTES = 128 * 1024  # of a body that are split at once
PART_KEPT = "only its first bytes were kept: "  # before the reason, where even that was too much
NUMBERS: dict[bool | None, Value] = {True: 1, False: 0, None: None}
NO_FRACTION = b".000000"
PLAIN = {str, int, float, NoneType}  # what a database takes as it is (bool is none of them)


@dataclass(slots=True)
class _Sorted:
    """The lines of one frame, sorted; positions, raws and all of `found` run in step."""

    positions: Sequence[int] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    found: Found = field(default_factory=dict)
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: int = 0
    blank: int = 0

    def keep(self, indexes: Sequence[int]) -> None:
        """Forget all rows but these."""
        self.positions = [self.positions[index] for index in indexes]
        self.raws = [self.raws[index] for index in indexes]
        self.found = {
            path: [values[index] for index in indexes] for path, values in self.found.items()
        }

    def bury(self, position: int, raw: bytes, code: str, reason: str) -> None:
        """Make a dead letter of a record."""
        self.dead.append(DeadLetter(position, raw, code, reason))


MakeColumn = Callable[[_Sorted, Header], Values]


class RowMaker:
    """Turns the frames of one source into batches for the store."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        format: str,
        include: Sequence[Filter],
        source: str,
        exclude: Sequence[Filter] = (),
    ) -> None:
        self._columns = [_column_maker(column) for column in columns.values()]
        # What each filter has to say about a record that is kept.
        self._filters = [(filter.path, filters.test(filter), True) for filter in include]
        self._filters += [(filter.path, filters.test(filter), False) for filter in exclude]
        paths = [column.path for column in columns.values()]
        paths += [filter.path for filter in (*include, *exclude)]
        self._reader = Reader([path for path in paths if path], format == "json")
        self._source = source

    def batch(self, frame: Frame) -> Batch:
        """Everything that the store has to write for a frame."""
        header = frame.header
        lines = split(frame.body)
        if header.rejected or b"" in lines:
            records = self._sort(enumerate(lines), header.rejected)
        else:
            records = _Sorted(range(len(lines)), lines)
        return self._batch(header, records, len(lines), len(frame.body))

    def batch_again(self, header: Header, lines: Mapping[int, bytes]) -> Batch:
        """Some records of a frame, by their positions in it, that were dead letters so far."""
        size = sum(len(line) + 1 for line in lines.values())
        return self._batch(header, self._sort(lines.items(), {}), len(lines), size)

    def _batch(self, header: Header, records: _Sorted, count: int, size: int) -> Batch:
        self._read(records)
        if self._filters:
            self._filter(records)
        return Batch(
            run=bytes.fromhex(header.run),
            number=header.number,
            source=self._source,
            records=count,
            bytes=size,
            first_received=header.first_received,
            last_received=header.last_received,
            rows=self._rows(records, header),
            positions=records.positions,
            raws=records.raws,
            dead=sorted(records.dead, key=lambda letter: letter.position),
            filtered=records.filtered,
            blank=records.blank,
            gaps=header.gaps,
            records_before=header.records_before,
            bytes_before=header.bytes_before,
            hole=header.hole,
            previous=header.previous,
        )

    def batch_one_by_one(self, frame: Frame, hold: Hold, condemned: Mapping[int, str]) -> Batch:
        """The same, behind a rehearsal with each record alone, which `hold` names before.

        `condemned` ({position: reason}) are dead letters; neither they nor what the collector
        has refused is ever touched.
        """
        alone = replace(frame.header, rejected={}, gaps=())
        untouched = dict.fromkeys(condemned, poison.CODE) | frame.header.rejected
        for position, line in enumerate(split(frame.body)):
            if position not in untouched:
                hold(position)
                self.batch(Frame(alone, line + b"\n"))
        hold(NO_RECORD)
        batch = self.batch(Frame(replace(frame.header, rejected=untouched), frame.body))
        dead = [
            replace(letter, reason=condemned[letter.position])
            if letter.code == poison.CODE
            else letter
            for letter in batch.dead
        ]
        return replace(batch, dead=dead)

    def _sort(self, lines: Iterable[tuple[int, bytes]], rejected: Mapping[int, str]) -> _Sorted:
        """Dead letters of what the collector has refused, and a count of empty lines."""
        positions: list[int] = []
        records = _Sorted(positions)
        for position, line in lines:
            if position in rejected:
                code = rejected[position]
                records.bury(position, line, code, REASONS.get(code, "refused by the collector"))
            elif not line:
                records.blank += 1
            else:
                positions.append(position)
                records.raws.append(line)
        return records

    def _read(self, records: _Sorted) -> None:
        """Find what the paths ask for; dead letters of what is not UTF-8 or not JSON."""
        reading = self._reader.read(records.raws)
        records.found = reading.found
        if not reading.refused:
            return
        for index, error in reading.refused.items():
            is_text = not isinstance(error, UnicodeDecodeError)
            code, reason = ("json", str(error)) if is_text else ("utf8", f"not UTF-8: {error}")
            records.bury(records.positions[index], records.raws[index], code, reason)
        records.keep([index for index in range(len(records.raws)) if index not in reading.refused])

    def _filter(self, records: _Sorted) -> None:
        """Count what isn't wanted, and forget it."""
        kept: Sequence[int] = range(len(records.raws))
        for path, passes, wanted in self._filters:
            if path:
                values = records.found[path]
                kept = [index for index in kept if passes(values[index]) is wanted]
            else:  # the record's text
                raws = records.raws
                kept = [index for index in kept if passes(raws[index].decode()) is wanted]
        records.filtered = len(records.raws) - len(kept)
        records.keep(kept)

    def _rows(self, records: _Sorted, header: Header) -> Block:
        try:
            columns = tuple(make(records, header) for make in self._columns)
        except _TooDeepError:
            self._bury_deep(records, header)
            columns = tuple(make(records, header) for make in self._columns)
        return Block(len(records.raws), columns)

    def _bury_deep(self, records: _Sorted, header: Header) -> None:
        """Make dead letters of the records whose values are nested too deeply."""
        kept = []
        for index, (position, raw) in enumerate(zip(records.positions, records.raws, strict=True)):
            found = {path: values[index : index + 1] for path, values in records.found.items()}
            try:
                for make in self._columns:
                    make(_Sorted([position], [raw], found), header)
                kept.append(index)
            except _TooDeepError as error:
                records.bury(position, raw, "json", str(error))
        records.keep(kept)


def split(body: Buffer) -> list[bytes]:
    """The records of a body, without their line ends (a CR before the LF belongs to it)."""
    lines: list[bytes] = []
    for piece in _pieces(body):
        found = piece.split(b"\n")
        if not found[-1]:
            found.pop()
        if b"\r" in piece:
            found = [line.removesuffix(b"\r") for line in found]
        lines += found
    return lines


def _pieces(body: Buffer) -> Iterator[bytes]:
    """A body as bytes, some whole lines at a time: all of it once more would be as much memory."""
    at = 0
    while at < len(body):
        piece = bytes(body[at : at + PIECE_BYTES])
        end = len(piece) if at + len(piece) == len(body) else piece.rfind(b"\n") + 1
        if not end:  # one line is longer
            piece = bytes(body[at:])
            end = len(piece)
        yield piece[:end]
        at += end


def is_incomplete(code: str, reason: str) -> bool:
    """Whether a dead letter with this code and reason has only a part of its record.

    A database says "too long", too, of a record that is whole.
    """
    return REASONS.get(code) == reason or reason.startswith(PART_KEPT)


def utc_text(epoch_s: float) -> str:
    """Seconds since the epoch as databases read them: YYYY-MM-DD HH:MM:SS.ffffff, UTC."""
    return _written(datetime.fromtimestamp(epoch_s, UTC))


def epoch_s(utc: str) -> float:
    """The other way: what `utc_text` has written, as seconds since the epoch."""
    return datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()


def utc_from_iso(text: str) -> str:
    """An ISO 8601 text (without zone: UTC) as databases read it; any other text as it is."""
    try:
        moment = datetime.fromisoformat(text)
        return _written(moment.astimezone(UTC) if moment.tzinfo else moment)
    except (ValueError, OverflowError):
        return text


def utc_column(texts: list[str]) -> Values:
    """The same for each text of a list.

    Where all are times in UTC, which is the rule, msgspec writes them in a tenth of the time.
    """
    try:
        moments = list(map(datetime.fromisoformat, texts))
    except ValueError:
        moments = []
    zones = set(map(attrgetter("tzinfo"), moments))
    if None in zones:
        moments = [moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in moments]
    if not zones or not zones <= {UTC, None}:
        return list(map(utc_from_iso, texts))
    written = msgspec.json.encode(moments)[len(b'["') : -len(b'"]')].replace(b"T", b" ")
    fractions = written.count(b".")  # it writes none where it is zero
    times = written.replace(b"Z", b"" if fractions else NO_FRACTION).split(b'","')
    if 0 < fractions < len(times):
        times = [time if b"." in time else time + NO_FRACTION for time in times]
    return Texts(times)


def _written(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")


# ── columns ─────────────────────────────────────────────────────────────────────────────


def _column_maker(column: Column) -> MakeColumn:
    """How to make all values of a column for one frame."""
    if column.meta is not None:
        return _meta_maker(column.meta, column.type.upper())
    path, is_time = column.path, column.type.upper().startswith(("DATETIME", "TIMESTAMP"))
    if not path:
        return lambda records, _: Texts(records.raws)
    return lambda records, _: _values(records.found[path], is_time)


def _meta_maker(meta: str, type_name: str) -> MakeColumn:
    """Values that the frame's header gives; all but `position` are the same in every row."""
    if meta == "position":
        return lambda records, _: records.positions
    as_bytes = type_name.startswith("BINARY")
    values: dict[str, Callable[[Header], Value]] = {
        "source": lambda header: header.source,
        "received_at": lambda header: utc_text(header.first_received),
        "run": lambda header: bytes.fromhex(header.run) if as_bytes else header.run,
        "frame": lambda header: header.number,
    }
    value = values[meta]
    return lambda _, header: Same(value(header))


def _values(found: list[Any], is_time: bool) -> Values:
    """What was found at a path, as values of its column."""
    types = set(map(type, found))
    if is_time and types == {str}:
        return utc_column(found)
    if is_time and str in types:
        found = [utc_from_iso(one) if type(one) is str else one for one in found]
    if types <= {bool, NoneType}:
        return list(map(NUMBERS.__getitem__, found))
    if bool in types:
        found = [int(one) if type(one) is bool else one for one in found]
    if types <= PLAIN | {bool}:
        return found
    return [one if type(one) in PLAIN else _json_text(one) for one in found]


class _TooDeepError(Exception):
    """A value can be read but not be written again: its lists or objects nest too deeply."""


def _json_text(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError as error:
        raise _TooDeepError(f"a column's value can't be written as JSON text: {error}") from error
