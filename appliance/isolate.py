"""Isolation: find the rows that a database refuses, and insert all the others.

A statement of many rows is refused as a whole. It is cut in half again and again until the first
row that is to blame stands alone; all before it are inserted on the way. Behind it the search
goes on with one row, then two, four and so on, as long as none is refused: bad rows often come
in masses, and a mass of them costs one statement each. k bad rows among n cost at most about
2 · k · log2(n) statements.

Rows arrive in their own order. Nothing here touches a database: the caller's `insert` does, and
must leave nothing behind when it raises Rejected.
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
    size = hi - lo
    bad_before = lo  # beyond lo: one of the rows up to here is to blame
    while lo < hi:
        end = min(lo + size, hi)
        try:
            insert(lo, end)
        except Rejected as reason:
            if end - lo == 1:
                refused[lo] = reason
                lo, size, bad_before = end, 1, end
            else:
                size, bad_before = (end - lo) // 2, end
        else:
            lo = end
            size = max(1, (bad_before - lo) // 2) if bad_before > lo else 2 * size
    return refused
