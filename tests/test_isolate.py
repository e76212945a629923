"""Isolation: every row is inserted once or named, in order, at a bounded cost."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Rejected, Unavailable
from appliance.isolate import isolate


class Table:
    """A table that refuses a statement if it holds a bad row, or a value it has already."""

    def __init__(self, values: list[int], bad: set[int]) -> None:
        self.values, self.bad = values, bad
        self.rows: list[int] = []
        self.statements = 0

    def insert(self, lo: int, hi: int) -> None:
        self.statements += 1
        assert lo < hi
        new = self.values[lo:hi]
        if self.bad & set(range(lo, hi)):
            raise Rejected(f"{lo} to {hi}", "bad")
        if len({*self.rows, *new}) < len(self.rows) + len(new):
            raise Rejected(f"{lo} to {hi}", "duplicate")
        self.rows += new


@given(st.integers(0, 200), st.sets(st.integers(0, 199)), st.integers(0, 50))
def test_exactly_the_bad_rows_are_named(size: int, bad: set[int], first: int) -> None:
    bad = {first + index for index in bad if index < size}
    table = Table(list(range(first + size)), bad)
    refused = isolate(first, first + size, table.insert)
    assert set(refused) == bad
    assert table.rows == [index for index in range(first, first + size) if index not in bad]
    assert all(str(reason) == f"{index} to {index + 1}" for index, reason in refused.items())
    depth = math.ceil(math.log2(size)) if size > 1 else 0
    assert table.statements <= (1 if not bad else 2 + 2 * len(bad) * depth)
    if len(bad) == size:
        assert table.statements <= size + depth


@given(st.lists(st.integers(0, 5), max_size=40))
def test_of_rows_that_exclude_each_other_the_first_stays(values: list[int]) -> None:
    table = Table(values, set())
    refused = isolate(0, len(values), table.insert)
    assert table.rows == list(dict.fromkeys(values))
    assert len(refused) + len(table.rows) == len(values)


def test_an_outage_passes_through() -> None:
    def insert(lo: int, hi: int) -> None:
        raise Unavailable("gone") if hi - lo < 4 else Rejected("bad", "bad")

    with pytest.raises(Unavailable):
        isolate(0, 8, insert)
