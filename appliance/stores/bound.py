"""Rows as bound values: an INSERT that the server has parsed once, and is given rows for again.

A text in a statement costs the server a third of storing it: to find its end, to undo the
escapes, to count its characters, to name a column after it. A bound value comes as its length
and its bytes; it costs nothing of that, and nobody escapes it. It means the same: the server
takes both for texts in the session's character set, and judges both alike. Where it doesn't, for
columns of a few other types, nothing is bound (ALIKE).

This is for rows that are texts alone, and many: the server parses one INSERT for each number of
rows, so there are few such numbers (COUNTS), and what is left over goes as a statement's text.

PyMySQL doesn't offer this part of the protocol (COM_STMT_PREPARE, COM_STMT_EXECUTE), but what it
sends and reads packets with. The tests tell when another version of it has changed that.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from operator import add
from typing import Any

import pymysql
from pymysql.constants import FIELD_TYPE
from pymysql.protocol import FieldDescriptorPacket

from appliance.batch import Block, Same, Texts, Values
from appliance.stores.tables import Rows, Span

COUNTS = (1024, 512, 256, 128, 64, 32, 16)  # rows of one INSERT
ROWS_MIN = COUNTS[-1]  # fewer are never bound
PARAMETERS_MAX = 65_535  # of one statement: the protocol has two bytes for their number

COM_STMT_PREPARE, COM_STMT_EXECUTE = 0x16, 0x17
PREPARED = struct.Struct("<xIHHxH")  # number, columns, parameters, warnings
EXECUTE = struct.Struct("<IBI")  # number, no cursor, once
NEW_TYPES = b"\x01"
TEXT = b"\xfd\x00"  # MYSQL_TYPE_VAR_STRING
LENGTH = struct.Struct("<BQ")  # a length of eight bytes, behind the sign that it has so many
EIGHT_BYTES = 0xFE
BESIDE = LENGTH.size + len(TEXT) + 1  # bytes that a value costs beside its own, at the most
ALIKE = {  # what the server takes a ? for, where a bound text is stored as one in a statement is
    FIELD_TYPE.NULL,  # MariaDB: it takes it for what comes
    # MySQL: for what the column is. A BIT or YEAR gets another value behind a refused statement,
    # a VECTOR takes texts of four bytes, a DECIMAL takes what is too small for it.
    FIELD_TYPE.VAR_STRING,
    FIELD_TYPE.STRING,
    FIELD_TYPE.VARCHAR,
    FIELD_TYPE.TINY_BLOB,
    FIELD_TYPE.BLOB,
    FIELD_TYPE.MEDIUM_BLOB,
    FIELD_TYPE.LONG_BLOB,
    FIELD_TYPE.JSON,
    FIELD_TYPE.DATE,
    FIELD_TYPE.TIME,
    FIELD_TYPE.DATETIME,
    FIELD_TYPE.TIMESTAMP,
}
CANT_PREPARE = {  # the server works, but prepares nothing, or nothing more
    1295,  # ER_UNSUPPORTED_PS
    1461,  # ER_MAX_PREPARED_STMT_COUNT_REACHED: of all sessions together
}


# ── rows ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class BoundRows:
    """Rows as they are sent, one behind the other: of each value its length, and itself.

    sizes: bytes of each row in a packet, with what says of its values how long and what they are.
    """

    columns: int
    pieces: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def sent(self, lo: int, hi: int) -> bytes:
        """The values of rows lo to hi - 1."""
        return b"".join(self.pieces[2 * self.columns * lo : 2 * self.columns * hi])

    def add(self, block: Block) -> None:
        """Rows behind those that are here; all their values are texts."""
        sizes = [self.columns * BESIDE] * len(block)
        pieces = [b""] * (2 * self.columns * len(block))
        for place, column in enumerate(block.columns):
            texts = _texts(column, len(block))
            lengths = list(map(len, texts))
            pieces[2 * place :: 2 * self.columns] = map(LENGTH.pack, repeat(EIGHT_BYTES), lengths)
            pieces[2 * place + 1 :: 2 * self.columns] = texts
            sizes = list(map(add, sizes, lengths))
        self.pieces.extend(pieces)
        self.sizes.extend(sizes)


def bound_rows(blocks: Iterable[Rows], columns: int) -> BoundRows | None:
    """The values of all rows; None where one may not be a text."""
    rows = BoundRows(columns)
    for block in blocks:
        if not isinstance(block, Block) or not all(map(_is_text, block.columns)):
            return None
        rows.add(block)
    return rows


def _is_text(column: Values) -> bool:
    same = isinstance(column, Same) and isinstance(column.value, str)
    return same or isinstance(column, Texts)


def _texts(column: Values, rows: int) -> Sequence[bytes]:
    if isinstance(column, Texts):
        return column.utf8
    assert isinstance(column, Same)
    return [str(column.value).encode()] * rows


def cut(sizes: Sequence[int], columns: int, size_max: int) -> list[tuple[Span, bool]]:
    """Neighbours put together, as many as COUNTS and the limits allow; whether they are bound.

    What isn't is too long, or too few.
    """
    ends = [0, *accumulate(sizes)]
    counts = [count for count in COUNTS if count * columns <= PARAMETERS_MAX]
    parts: list[tuple[Span, bool]] = []
    lo = 0
    while lo < len(sizes):
        fitting = (n for n in counts if lo + n < len(ends) and ends[lo + n] - ends[lo] <= size_max)
        count = next(fitting, 0)
        some = bisect_right(ends, ends[lo] + size_max) - 1  # as many as are no too long statement
        hi = lo + (count or max(1, min(some - lo, ROWS_MIN)))
        parts.append(((lo, hi), count > 0))
        lo = hi
    return parts


# ── the protocol ────────────────────────────────────────────────────────────────────────


class Prepared:
    """The INSERTs that one connection's server has parsed; gone with the connection.

    can_prepare: False once it was seen that rows can't go this way.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._numbers: dict[bytes, int] = {}
        self.can_prepare = True

    def insert(self, statement: bytes, parameters: int, values: bytes) -> bool:
        """Run an INSERT with so many ? for these values.

        False: the server can't prepare it, or takes its values for no texts; nothing has happened.
        """
        number = self._number(statement)
        if number is None:
            return False
        no_nulls = bytes((parameters + 7) // 8)
        head = EXECUTE.pack(number, 0, 1) + no_nulls + NEW_TYPES + TEXT * parameters
        self._connection._execute_command(COM_STMT_EXECUTE, head + values)
        self._connection._read_query_result()
        return True

    def _number(self, statement: bytes) -> int | None:
        if statement not in self._numbers and self.can_prepare:
            try:
                number, types = self._prepare(statement)
                if types <= ALIKE:
                    self._numbers[statement] = number
                else:
                    self.can_prepare = False
            except pymysql.err.Error as error:
                if error.args[:1] == () or error.args[0] not in CANT_PREPARE:
                    raise
                self.can_prepare = False
        return self._numbers.get(statement)

    def _prepare(self, statement: bytes) -> tuple[int, set[int]]:
        """Have it parsed: the number that it has from then on, and what each ? is taken for."""
        self._connection._execute_command(COM_STMT_PREPARE, statement)
        answer = self._connection._read_packet().get_all_data()
        number, _columns, parameters, _warnings = PREPARED.unpack_from(answer)
        fields = [self._connection._read_packet(FieldDescriptorPacket) for _ in range(parameters)]
        self._connection._read_packet()  # that this was all
        return int(number), {field.type_code for field in fields}
