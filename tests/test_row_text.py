"""Rows as text: the server reads from it exactly what is in them."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from appliance.batch import Block, Same, Texts, Values
from appliance.stores.row_text import cut, row_text, row_texts, text_of


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_cut_keeps_all_and_puts_neighbours_together(sizes: list[int], size_max: int) -> None:
    parts = cut(sizes, size_max)
    assert [at for lo, hi in parts for at in range(lo, hi)] == list(range(len(sizes)))
    assert all(sum(sizes[lo:hi]) <= size_max or hi - lo == 1 for lo, hi in parts)
    for (lo, hi), (_, after) in itertools.pairwise(parts):
        assert sum(sizes[lo : hi + 1]) > size_max
        assert hi < after


def test_literals() -> None:
    assert row_text((None, 1, -2.5, 1e300, "a'b\\", b"\x00'", 2**64)) == (
        rb"(NULL,1,-2.5e0,1e+300,'a\'b\\',X'0027',18446744073709551616)"
    )


FLOATS = st.floats(allow_nan=False, allow_infinity=False)  # JSON has neither
VALUES = st.none() | st.integers(-(2**64), 2**64) | FLOATS | st.text() | st.binary()
MEANT = st.text(alphabet="%_bfnuZ0\\'\",()[]\n\0\f\x1b\x7féÿ\u2028🏈", max_size=6)
"""What the text of a row is made of, and what means something to JSON or SQL."""


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any rows, as columns of any kinds in any order."""
    count = draw(st.integers(0, 4))
    rows = {"min_size": count, "max_size": count}
    column: st.SearchStrategy[Values] = st.one_of(
        st.builds(Same, VALUES | MEANT),
        st.builds(Texts, st.lists((MEANT | st.text()).map(str.encode), **rows)),
        st.lists(VALUES | MEANT, **rows),
    )
    return Block(count, tuple(draw(st.lists(column, min_size=1, max_size=4))))


LITERAL = re.compile(
    rb"""(?:NULL|null|X'[0-9a-f]*'|[-+.0-9e]+|'((?:\\.|[^'\\])*)'|"((?:\\.|[^"\\])*)")""", re.S
)
ESCAPES = {b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a"}


def read(text: bytes) -> list[list[bytes]]:
    """The rows of a statement, with each text as the server understands it, a quote before it."""
    rows, at = [], 0
    while text:
        row: list[bytes] = []
        while text[at : at + 1] in (b"(", b","):
            found = LITERAL.match(text, at + 1)
            assert found, text[at:]
            quoted = found[1] if found[1] is not None else found[2]
            row.append(found[0].upper() if quoted is None else b"'" + unescaped(quoted))
            at = found.end()
        assert text[at : at + 1] == b")", text[at:]
        rows.append(row)
        if at + 1 == len(text):
            break
        assert text[at + 1 : at + 2] == b",", text[at:]
        at += 2
    return rows


def unescaped(quoted: bytes) -> bytes:
    """As MySQL's manual has it, String Literals: \\% and \\_ stay as they are."""

    def meant(found: "re.Match[bytes]") -> bytes:
        return found[0] if found[1] in b"%_" else ESCAPES.get(found[1], found[1])

    return re.sub(rb"\\(.)", meant, quoted, flags=re.DOTALL)


@given(blocks())
def test_a_block_is_written_as_its_rows_are(block: Block) -> None:
    one_by_one = [row_text(row) for row in block]
    assert row_texts(list(block)) == one_by_one
    assert text_of(list(block)) == b",".join(one_by_one)
    assert text_of(block) == b",".join(row_texts(block))
    assert read(text_of(block)) == read(b",".join(one_by_one))
