"""Isolation: find the rows that a database refuses, and insert all the others.

A statement of many rows is refused as a whole. It is cut in half, each half is tried, and so
on down to single rows: k bad rows among n cost about 2 · k · log2(n) statements. The left half
goes first, so that rows arrive in their own order. Nothing here touches a database: the
caller's `insert` does, and must leave nothing behind when it raises Rejected.
"""

from collections.abc import Callable

from appliance.errors import Rejected

Insert = Callable[[int, int], None]
"""Insert rows lo to hi - 1, all of them or (with Rejected) none."""


def isolate(lo: int, hi: int, insert: Insert) -> dict[int, Rejected]:
    """Insert rows lo to hi - 1 but those that are refused; returns these with the reason.

    Every row is either inserted exactly once or named in the result. Errors other than
    Rejected pass through: they are about the database, not about a row.
    """
    refused: dict[int, Rejected] = {}
    parts = [(lo, hi)] if lo < hi else []
    while parts:
        lo, hi = parts.pop()
        try:
            insert(lo, hi)
        except Rejected as reason:
            if hi - lo == 1:
                refused[lo] = reason
            else:
                middle = (lo + hi) // 2
                parts += [(middle, hi), (lo, middle)]
    return refused
