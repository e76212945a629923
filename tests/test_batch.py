"""A block: rows that are kept as columns are the same rows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.batch import Block, Same, Texts

BLOCK = Block(3, (Same("x"), [1, None, 2.5], Texts([b"a", "é".encode(), b""])))
ROWS: list[tuple[Any, ...]] = [("x", 1, "a"), ("x", None, "é"), ("x", 2.5, "")]


def test_a_block_is_a_sequence_of_rows() -> None:
    assert list(BLOCK) == ROWS
    assert (len(BLOCK), len(Block(0, (Same(1), [])))) == (3, 0)
    assert [BLOCK[at] for at in (0, 2, -1, -3)] == [ROWS[at] for at in (0, 2, -1, -3)]
    assert ROWS == BLOCK
    assert ROWS[:2] != BLOCK
    assert BLOCK != "x"
    assert list(Block(2, (Same(1),))) == [(1,), (1,)]


@pytest.mark.parametrize("at", [3, -4])
def test_a_row_that_is_none(at: int) -> None:
    with pytest.raises(IndexError):
        BLOCK[at]


@given(st.slices(3))
def test_a_part_of_a_block(part: slice) -> None:
    assert BLOCK[part] == ROWS[part]
