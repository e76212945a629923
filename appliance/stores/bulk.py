"""Rows in bulk: one INSERT that MariaDB has parsed once, and many rows of values for it.

A text in a statement costs the server half of storing it: to find its end, to undo the escapes,
to count its characters, to make an item of each value. A bulk has neither text nor items: the one
row that was parsed is filled again and again. It means the same, since the server judges and
converts a value by what it is: a text, an integer, a double, bytes. So a column has to be of one
of these through all rows of a bulk; rows of others go as a statement's text. So do those of a bulk
that was refused: a type that takes no integers refuses a NULL, too, that comes among some.

MariaDB alone has this (COM_STMT_BULK_EXECUTE, from 10.2 on), for a client that said at the start
that it would use it. PyMySQL does not, and offers no prepared statements at all, but what it
greets, sends and reads packets with. The tests tell when another version of it has changed that.

How many automatic keys a bulk will take, the server doesn't know: it reserves one, then two, four
and so on, and those left over are never used. Nobody shall wonder whether rows are missing, so a
bulk has as many rows as some of these steps have together (COUNTS).

Older servers give values of a bulk to the statements of a trigger, too, and leave out rows without
a word (MDEV-24411, and MDEV-34718 for UPDATE and DELETE): these get text (TRIGGERS_WORK).

Source: https://mariadb.com/kb/en/com_stmt_bulk_execute/, and sql/handler.cc of the server
(update_auto_increment) for the keys.
"""

import re
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, repeat
from types import NoneType
from typing import Any

import pymysql
from pymysql.charset import charset_by_name
from pymysql.constants import FIELD_TYPE
from pymysql.protocol import FieldDescriptorPacket

from appliance.batch import Block, Same, Texts, Values, values_of
from appliance.stores.tables import Rows, Span

COUNTS = tuple(2**step - 1 for step in range(12, 0, -1))  # rows of a bulk: 4095, 2047 … 3, 1
ROWS_MIN = 16  # fewer go as text, in one statement, whatever their number,
LARGE_BYTES = 4 * 1024  # unless a row has so many: to escape them costs more than to ask once more

COM_STMT_PREPARE, COM_STMT_BULK_EXECUTE = 0x16, 0xFA
PREPARED = struct.Struct("<xIHHxH")  # number, columns, parameters, warnings
EXECUTE = struct.Struct("<IH")  # number, flags
SENDS_TYPES = 128
CANT_PREPARE = {  # the server works, but prepares nothing, or nothing more
    1295,  # ER_UNSUPPORTED_PS
    1461,  # ER_MAX_PREPARED_STMT_COUNT_REACHED: of all sessions together
}
UNKNOWN_COMMAND = 1047  # of a proxy that passes on the server's greeting, but not all commands

Kind = int  # what the server shall take a column's values for
TEXT, BYTES = FIELD_TYPE.VAR_STRING, FIELD_TYPE.BLOB
INTEGER, DOUBLE = FIELD_TYPE.LONGLONG, FIELD_TYPE.DOUBLE
KINDS = {str: TEXT, bytes: BYTES, int: INTEGER, float: DOUBLE}

# Before each value stands whether it is one; before a text or bytes, too, how many bytes it has.
NULL = b"\x01"
EMPTY: dict[Kind, Any] = {TEXT: "", BYTES: b""}  # what stands behind a NULL
NUMBERS = {INTEGER: struct.Struct("<xq"), DOUBLE: struct.Struct("<xd")}
LENGTHS = [
    *(bytes([0, size]) for size in range(251)),
    *(struct.pack("<xBH", 0xFC, size) for size in range(251, 2048)),
]
LONG = struct.Struct("<xBQ")
EIGHT_BYTES = 0xFE  # says that the length has so many
LENGTH_BYTES_MAX = LONG.size


# ── rows ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class BulkRows:
    """Rows as they are sent, by column: a row is the first of all cells, the next the second.

    kinds: what kind of value each column has. cells: one or two lists for each column, all of
    them as long as there are rows. bytes_max: no more than that are all rows together.
    """

    kinds: Sequence[Kind]
    cells: Sequence[Sequence[bytes]]
    bytes_max: int

    def __len__(self) -> int:
        return len(self.cells[0])

    def sizes(self) -> list[int]:
        """How many bytes each row has."""
        return list(map(sum, zip(*(map(len, cell) for cell in self.cells), strict=True)))

    def packed(self, lo: int, hi: int) -> bytes:
        """Some of the rows, one behind the other."""
        rows = zip(*[cell[lo:hi] for cell in self.cells], strict=True)
        return b"".join(chain.from_iterable(rows))


def bulk_rows(blocks: Iterable[Rows]) -> BulkRows | None:
    """All rows as they are sent; None where they have to go as text."""
    parts = [_as_block(rows) for rows in blocks if rows]
    count = sum(map(len, parts))
    columns = [_joined(parts, column) for column in _columns(parts)]
    cells = [_cells(column, count) for column in columns]
    known = [one for one in cells if one]
    if not known or len(known) < len(cells):
        return None
    return BulkRows(
        [one.kind for one in known],
        [cell for one in known for cell in one.cells],
        sum(one.bytes_max for one in known),
    )


def _as_block(rows: Rows) -> Block:
    if isinstance(rows, Block):
        return rows
    return Block(len(rows), tuple(map(list, zip(*rows, strict=True))))


def _columns(blocks: Sequence[Block]) -> Iterable[Sequence[Values]]:
    return zip(*(block.columns for block in blocks), strict=True)


def _joined(blocks: Sequence[Block], columns: Sequence[Values]) -> Values:
    """What is one column in several blocks."""
    if len(blocks) == 1:
        return columns[0]
    texts = [column for column in columns if isinstance(column, Texts)]
    if len(texts) == len(columns):
        return Texts([text for column in texts for text in column.utf8])
    pairs = zip(blocks, columns, strict=True)
    return [value for block, column in pairs for value in values_of(column, len(block))]


@dataclass(frozen=True, slots=True)
class _Cells:
    """What a column puts into each row, in one part or in two; fields as in BulkRows."""

    kind: Kind
    cells: Sequence[Sequence[bytes]]
    bytes_max: int


def _cells(column: Values, rows: int) -> _Cells | None:
    """None: its values are of several kinds, or an integer has more than 64 bit."""
    if isinstance(column, Texts):
        return _with_lengths(TEXT, column.utf8)
    if isinstance(column, Same):
        one = _cells([column.value], 1)
        return one and _repeated(one, rows)
    return _of_one_type(column) or _of_one_kind(column)


def _repeated(one: _Cells, rows: int) -> _Cells:
    cell = b"".join(chain.from_iterable(one.cells))
    return _Cells(one.kind, [[cell] * rows], len(cell) * rows)


def _of_one_type(column: Sequence[Any]) -> _Cells | None:
    """The rule: all are texts, or all are integers. Who makes cells of them sees if one isn't."""
    try:
        if type(column[0]) is str:
            return _with_lengths(TEXT, list(map(str.encode, column)))
        if type(column[0]) is int:
            return _numbers(INTEGER, list(map(NUMBERS[INTEGER].pack, column)))
    except (TypeError, struct.error):
        pass
    return None


def _of_one_kind(column: Sequence[Any]) -> _Cells | None:
    """Any values, and NULL among them, as long as they are of one kind."""
    kinds = {KINDS[found] for found in set(map(type, column)) - {NoneType}} or {TEXT}
    kind = kinds.pop()
    if kinds:
        return None
    return _some_numbers(kind, column) if kind in NUMBERS else _some_texts(kind, column)


def _some_numbers(kind: Kind, column: Sequence[Any]) -> _Cells | None:
    pack = NUMBERS[kind].pack
    try:
        return _numbers(kind, [NULL if value is None else pack(value) for value in column])
    except struct.error:  # an integer of more than 64 bit
        return None


def _numbers(kind: Kind, cells: Sequence[bytes]) -> _Cells:
    return _Cells(kind, [cells], NUMBERS[kind].size * len(cells))


def _some_texts(kind: Kind, column: Sequence[Any]) -> _Cells:
    """Texts, or bytes."""
    there = [value or EMPTY[kind] for value in column]
    encoded = list(map(str.encode, there)) if kind == TEXT else there
    found = _with_lengths(kind, encoded)
    pairs = zip(column, found.cells[0], strict=True)
    lengths = [NULL if value is None else length for value, length in pairs]
    return replace(found, cells=[lengths, encoded])


def _with_lengths(kind: Kind, values: Sequence[bytes]) -> _Cells:
    sizes = list(map(len, values))
    if max(sizes) < len(LENGTHS):
        lengths = list(map(LENGTHS.__getitem__, sizes))
    else:
        lengths = list(map(LONG.pack, repeat(EIGHT_BYTES), sizes))
    return _Cells(kind, [lengths, values], sum(sizes) + LENGTH_BYTES_MAX * len(sizes))


def parts_of(rows: BulkRows, size_max: int, is_near: bool) -> list[tuple[Span, bool]]:
    """The bulks that rows are sent in, and what is left over (see cut).

    is_near: the server is on this machine, so that a question costs little.
    """
    is_large = rows.bytes_max >= LARGE_BYTES * len(rows)
    fits = rows.bytes_max <= size_max
    sizes = [0] * len(rows) if fits else rows.sizes()
    return cut(sizes, size_max, 1 if is_near and is_large else ROWS_MIN)


def cut(sizes: Sequence[int], size_max: int, rows_min: int) -> list[tuple[Span, bool]]:
    """Neighbours put together, as many as COUNTS and the limit allow; whether they go in bulk.

    What doesn't are fewer than rows_min at the end, or a single one that is too long.
    """
    ends = [0, *accumulate(sizes)]
    parts: list[tuple[Span, bool]] = []
    lo = 0
    while lo < len(sizes):
        fitting = bisect_right(ends, ends[lo] + size_max) - 1 - lo
        is_rest = fitting == len(sizes) - lo < rows_min
        count = 0 if is_rest else next((count for count in COUNTS if count <= fitting), 0)
        hi = lo + (count or fitting or 1)
        parts.append(((lo, hi), count > 0))
        lo = hi
    return parts


# ── the protocol ────────────────────────────────────────────────────────────────────────

CLIENT_MYSQL = 1  # a server that doesn't set it has capabilities of MariaDB's, too
CAN_BULK = 1 << 2  # one of those
MORE = struct.Struct("<I")  # where they are: the last four of what else is zero
GREETING = struct.Struct("<xHBHHx6xI")  # behind the first part of the salt: low … high … more
ANSWER = struct.Struct("<I28s")  # our capabilities, and what follows
VERSION = re.compile(rb"(?:5\.5\.5-)?(\d+)\.(\d+)\.(\d+)")  # 5.5.5 is for old replicas
# The first release of a series whose bulks leave a trigger's statements alone; all later series.
TRIGGERS_WORK = {(10, 5): 27, (10, 6): 20, (10, 11): 10, (11, 2): 6, (11, 4): 4, (11, 6): 2}
PACKET_BYTES_MAX = 2**24 - 1
COMMAND = struct.Struct("<IB")  # a packet's length (three bytes), its number 0, and the command


class Connection(pymysql.connections.Connection):  # type: ignore[misc]
    """A connection that tells MariaDB that it may send rows in bulk.

    can_bulk: whether the server takes them.
    """

    can_bulk = False
    _is_greeted = False

    def _read_packet(self, *arguments: Any) -> Any:
        packet = super()._read_packet(*arguments)
        if not self._is_greeted:
            self._is_greeted = True
            self.can_bulk = can_bulk(packet.get_all_data())
        return packet

    def write_packet(self, payload: bytes) -> None:
        super().write_packet(self._with_bulk(payload) if self.can_bulk else payload)

    def _with_bulk(self, payload: bytes) -> bytes:
        """The answer to the greeting, or its beginning that asks for TLS, with MariaDB's part."""
        charset = charset_by_name(self.charset).id
        same = struct.pack("<IB23s", PACKET_BYTES_MAX, charset, b"")
        if payload[4 : ANSWER.size] != same:
            return payload
        flags, rest = ANSWER.unpack_from(payload)
        begin = ANSWER.pack(flags & ~CLIENT_MYSQL, rest[: -MORE.size] + MORE.pack(CAN_BULK))
        return begin + payload[ANSWER.size :]


def can_bulk(greeting: bytes) -> bool:
    """Whether a server that greets like this takes rows in bulk.

    Source: https://mariadb.com/kb/en/connection/#initial-handshake-packet
    """
    end = greeting.find(b"\0", 1)
    at = end + 1 + 4 + 8  # version, session, the first part of the salt
    if len(greeting) < at + GREETING.size:
        return False
    low, _charset, _status, _high, more = GREETING.unpack_from(greeting, at)
    return not low & CLIENT_MYSQL and bool(more & CAN_BULK) and _triggers_work(greeting[1:end])


def _triggers_work(version: bytes) -> bool:
    """Whether a trigger may run statements of its own while rows go in bulk."""
    found = VERSION.match(version)
    if not found:
        return False
    *series, release = map(int, found.groups())
    first = TRIGGERS_WORK.get((series[0], series[1]))
    return release >= first if first is not None else series > [*max(TRIGGERS_WORK)]


class Prepared:
    """The INSERTs that one connection's server has parsed; gone with the connection.

    can_prepare: False once it was seen that rows can't go this way.
    is_unknown: the server, or who stands before it, doesn't know what a bulk is: the session is
        lost by that, and the next one shall do without.
    """

    def __init__(self, connection: Connection, before: "Prepared | None" = None) -> None:
        self._connection = connection
        self._numbers: dict[bytes, int] = {}
        self.is_unknown = False
        self.can_prepare = connection.can_bulk and not (before and before.is_unknown)

    def insert(self, statement: bytes, kinds: Sequence[Kind], rows: bytes) -> int | None:
        """Run an INSERT of one row of ? for rows, packed; how many the server has changed.

        None: the server can't prepare it; nothing has happened.
        """
        try:
            return self._insert(statement, kinds, rows)
        except pymysql.err.Error as error:
            self.is_unknown = error.args[:1] == (UNKNOWN_COMMAND,)
            raise

    def _insert(self, statement: bytes, kinds: Sequence[Kind], rows: bytes) -> int | None:
        number = self._number(statement)
        if number is None:
            return None
        types = b"".join(bytes([kind, 0]) for kind in kinds)
        self._send(COM_STMT_BULK_EXECUTE, EXECUTE.pack(number, SENDS_TYPES) + types, rows)
        return int(self._connection._read_query_result())

    def _send(self, command: int, head: bytes, rest: bytes) -> None:
        """Send a command as one packet, without a copy: PyMySQL would make two of all of it."""
        if not self._connection._sock:
            raise pymysql.err.InterfaceError(0, "not connected")
        size = 1 + len(head) + len(rest)
        assert size <= PACKET_BYTES_MAX, "far more than STATEMENT_BYTES_MAX"
        self._connection._write_bytes(COMMAND.pack(size, command) + head)
        self._connection._write_bytes(rest)
        self._connection._next_seq_id = 1

    def _number(self, statement: bytes) -> int | None:
        if statement not in self._numbers and self.can_prepare:
            try:
                self._numbers[statement] = self._prepare(statement)
            except pymysql.err.Error as error:
                if error.args[:1] == () or error.args[0] not in CANT_PREPARE:
                    raise
                self.can_prepare = False
        return self._numbers.get(statement)

    def _prepare(self, statement: bytes) -> int:
        """Have it parsed: the number that it has from then on."""
        self._connection._execute_command(COM_STMT_PREPARE, statement)
        answer = self._connection._read_packet().get_all_data()
        number, _columns, parameters, _warnings = PREPARED.unpack_from(answer)
        for _ in range(parameters):
            self._connection._read_packet(FieldDescriptorPacket)
        self._connection._read_packet()  # that this was all
        return int(number)
