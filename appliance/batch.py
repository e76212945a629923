"""A batch: one frame on its way into the database, as rows.

The subscriber turns a frame into a batch (rows.py decides how); a store writes batches and
knows nothing of frames, headers or positions in a source. All of a batch is stored in one
transaction with its ledger row, or none of it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import overload

from appliance.frame import Gap, RunEnd

Value = str | int | float | bytes | None
Row = tuple[Value, ...]
Raw = bytes  # the record as it came; Batch has a field that is called bytes


@dataclass(frozen=True, slots=True)
class Same:
    """A column that has one value in all rows."""

    value: Value


@dataclass(frozen=True, slots=True)
class Texts:
    """A column of texts that are UTF-8 still, none of them invalid."""

    utf8: Sequence[Raw]


Values = Same | Texts | Sequence[Value]


@dataclass(frozen=True, slots=True, eq=False)
class Block(Sequence[Row]):
    """Rows that are kept as columns: a store may write these at once, without a step a row.

    To everybody else it is a sequence of rows, which are made when somebody looks at them.
    """

    rows: int
    columns: tuple[Values, ...]

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self[:])

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, int):
            at = range(self.rows)[index]
            return self[at : at + 1][0]
        count = len(range(self.rows)[index])
        columns = [values_of(_part(column, index), count) for column in self.columns]
        return list(zip(*columns, strict=True))

    def part(self, lo: int, hi: int) -> "Block":
        """Some of the rows, as columns still."""
        columns = tuple(_part(column, slice(lo, hi)) for column in self.columns)
        return Block(len(range(self.rows)[lo:hi]), columns)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"Block({list(self)})"


def _part(column: Values, part: slice) -> Values:
    """The values of a column in a part of the rows."""
    if isinstance(column, Same):
        return column
    return Texts(column.utf8[part]) if isinstance(column, Texts) else column[part]


def values_of(column: Values, rows: int) -> Iterable[Value]:
    """The values of a column, one for each of so many rows."""
    if isinstance(column, Same):
        return repeat(column.value, rows)
    return map(bytes.decode, column.utf8) if isinstance(column, Texts) else column


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that can't become a row: its bytes and the reason.

    `position` counts records of the frame from 0; `code` is one word, `reason` a sentence.
    """

    position: int
    raw: bytes
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one frame and what to write in the ledger beside them.

    Attributes:
        run: 16 bytes (a UUIDv7); (run, number) names the frame for ever.
        source: the source's name.
        records: all lines of the frame = rows + dead + filtered + blank.
        bytes: body bytes of the frame.
        first_received, last_received: seconds since the epoch.
        rows: one tuple of column values a row, in the order of the store's columns; a list, or
            all of them as one Block.
        positions: the row's record number in the frame, same length as rows.
        raws: the record as it came, same length as rows (for a dead letter).
        dead: records that never became a row.
        gaps: what the collector could not keep.
        records_before, bytes_before, hole, previous: see frame.Header.
    """

    run: bytes
    number: int
    source: str
    records: int
    bytes: int
    first_received: float
    last_received: float
    rows: Sequence[Row]
    positions: Sequence[int]
    raws: list[Raw]
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: int = 0
    blank: int = 0
    gaps: tuple[Gap, ...] = ()
    records_before: int = 0
    bytes_before: int = 0
    hole: str | None = None
    previous: RunEnd | None = None

    @property
    def name(self) -> str:
        """The frame's name (frame.Header.name)."""
        return f"{self.run.hex()}:{self.number}"


@dataclass(frozen=True, slots=True)
class Stored:
    """What one call to a store has newly committed (frames it had already count nothing).

    `refusal` is the last of its dead letters, None where there was none; `rows_s` is how many
    seconds of the call it took to write rows (the rest is what any transaction takes); 0 where
    that can't be told, since a small lease's go at once with its ledger rows and the commit.
    """

    frames: int = 0
    stored: int = 0
    filtered: int = 0
    dead: int = 0
    blank: int = 0
    lost: int = 0
    refusal: DeadLetter | None = field(default=None, compare=False)
    rows_s: float = field(default=0.0, compare=False)
