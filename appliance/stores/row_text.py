"""Rows as text: what stands behind VALUES in an INSERT of many rows.

A block of rows is never written row by row: what came as UTF-8 isn't even decoded, and a whole
column of it is escaped at once; all other values go through one call that writes them as JSON,
which SQL reads as they are meant, but for a few rare escapes. Escaping relies on the session's
sql_mode: without NO_BACKSLASH_ESCAPES and ANSI_QUOTES "…" is a text as '…' is, only the backslash
and the quote itself mean anything inside, and in utf8mb4 no byte of another character looks like
them.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, groupby, repeat
from typing import Any

import orjson

from appliance.batch import Block, Same, Texts, Value, Values
from appliance.stores.tables import Row, Rows, Span

SEPARATOR = b"\xff"  # in no UTF-8


def pieces(rows: Rows, size_max: int) -> list[tuple[int, bytes]]:
    """Rows as text, and how many there are in it: all at once, or one by one if too long."""
    whole = text_of(rows)
    if len(whole) <= size_max:
        return [(len(rows), whole)] if rows else []
    return [(1, text) for text in row_texts(rows)]


def cut(sizes: Sequence[int], size_max: int) -> list[Span]:
    """Neighbours put together up to size_max; a larger one stays alone."""
    ends = list(accumulate(sizes))
    parts: list[Span] = []
    lo, before = 0, 0
    while lo < len(ends):
        hi = max(lo + 1, bisect_right(ends, before + size_max))
        parts.append((lo, hi))
        lo, before = hi, ends[hi - 1]
    return parts


def text_of(rows: Rows) -> bytes:
    """Rows as they stand behind VALUES: what row_texts gives, joined, in one copy."""
    if not isinstance(rows, Block) or not rows:
        return b",".join(map(row_text, rows))
    (before, *fixed), varying = _layout(rows)
    if not varying:
        return b",".join([before] * len(rows))
    after = fixed[-1]
    fixed[-1] += b"," + before  # where the next row begins
    if len(varying) == 1:
        return b"".join([before, varying[0].replace(SEPARATOR, fixed[0]), after])
    parts = [before, *chain.from_iterable(_by_row(varying, fixed))]
    parts[-1] = after
    return b"".join(parts)


def row_texts(rows: Rows) -> list[bytes]:
    """Each row as it stands behind VALUES."""
    if not isinstance(rows, Block) or not rows:
        return [row_text(row) for row in rows]
    (before, *fixed), varying = _layout(rows)
    if not varying:
        return [before] * len(rows)
    return [before + b"".join(parts) for parts in _by_row(varying, fixed)]


def _by_row(varying: Sequence[bytes], fixed: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The parts of each row that differ from row to row, each with what is fixed behind it."""
    columns: list[Iterable[bytes]] = []
    for part, behind in zip(varying, fixed, strict=True):
        parts = part.split(SEPARATOR)
        columns += [parts, repeat(behind, len(parts))]
    return zip(*columns, strict=True)


def _layout(block: Block) -> tuple[list[bytes], list[bytes]]:
    """What is the same in the text of each row, and what comes between these parts.

    The latter for all rows at once, with SEPARATOR between them.
    """
    parts: list[bytes] = []
    varying: list[bytes] = []
    for is_texts, run in groupby(block.columns, lambda column: isinstance(column, Texts)):
        columns = tuple(run)
        if is_texts:
            parts += [b"'" + SEPARATOR + b"'"] * len(columns)
            varying += [_escaped(column) for column in columns if isinstance(column, Texts)]
        elif all(isinstance(column, Same) for column in columns):
            parts.append(_literals(Block(1, columns)[0]))
        else:
            parts.append(SEPARATOR)
            varying.append(_written_at_once(Block(len(block), columns)))
    return (b"(" + b",".join(parts) + b")").split(SEPARATOR), varying


def _escaped(column: Texts) -> bytes:
    """A column of texts as they stand inside of '…', escaped at once, SEPARATOR between them."""
    joined = SEPARATOR.join(column.utf8)
    return joined.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


# ── literals ────────────────────────────────────────────────────────────────────────────


def _written_at_once(block: Block) -> bytes:
    """The literals of all rows, written as one JSON list, SEPARATOR between the rows.

    JSON is SQL here, but for what _as_sql changes; what isn't JSON goes through unread.
    """
    columns = [_for_json(column, len(block)) for column in block.columns]
    cells = chain.from_iterable(zip(*columns, repeat(ROW_END)))
    try:
        written = orjson.dumps(list(cells))
    except orjson.JSONEncodeError:  # an integer of more than 64 bit
        return SEPARATOR.join(map(_literals, block))
    return _as_sql(written[1 : -len(b",\xff]")]).replace(b",\xff,", SEPARATOR)


def _for_json(column: Values, rows: int) -> Iterable[Any]:
    """A column of which JSON makes what SQL reads: what it can't is a literal already."""
    if isinstance(column, Same):
        [value] = _for_json([column.value], 1)
        return repeat(value, rows)
    assert not isinstance(column, Texts), "these never become JSON"
    if set(map(type, column)) <= JSON_TYPES:
        return column
    return [
        value if type(value) in JSON_TYPES else orjson.Fragment(_literal(value)) for value in column
    ]


def _as_sql(json: bytes) -> bytes:
    """JSON with the escapes replaced that mean something else in SQL: \\f and \\u00…"""
    if OTHER_IN_SQL.search(json):
        return ESCAPE.sub(lambda found: ESCAPED.get(found[0], found[0]), json)
    return json


def row_text(row: Row) -> bytes:
    """A row as it stands behind VALUES."""
    return b"(" + _literals(row) + b")"


def _literals(row: Row) -> bytes:
    return b",".join(map(_literal, row))


def _literal(value: Value) -> bytes:
    return LITERALS[type(value)](value).encode()


def _text_literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


LITERALS: Mapping[type, Callable[[Any], str]] = {
    str: _text_literal,
    int: str,
    float: lambda value: text if "e" in (text := repr(value)) else f"{text}e0",
    bytes: lambda value: f"X'{value.hex()}'",
    type(None): lambda _: "NULL",
}
JSON_TYPES = {str, int, type(None)}  # that JSON writes as SQL reads them: numbers with a point not
ROW_END = orjson.Fragment(SEPARATOR)
OTHER_IN_SQL = re.compile(rb"\\[fu]")
ESCAPE = re.compile(rb"\\(?:u....|.)", re.DOTALL)
ESCAPED = {b"\\f": b"\f"} | {b"\\u%04x" % code: bytes([code]) for code in range(0x20)}
