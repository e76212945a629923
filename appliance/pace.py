"""Pace: how many bytes the next transaction may have.

Some of a transaction costs the same whatever its size: round trips, ledger rows, the commit. So a
large one costs less a record. But it holds locks, redo log and memory for long, its rows are seen
late, and they have left the processor's cache when it is their turn. So it gets as large as makes
what is the same for all a small share of it, and no larger:

    bytes = (seconds - fixed) / seconds of a byte       between LEASE_BYTES_MIN and bytes_max
    seconds = fixed / FIXED_SHARE, or LEASE_S_MIN where that is longer

On a fast database that is a MiB or two. On one that is far away, where round trips alone take half
a second, it is more, up to `store.lease_bytes_max`; on a slow one it is less.

Both costs come from what the last transactions took, averaged with fading memory, and only from
those that were about as large as allowed: in a lone record's transaction its bytes cost nothing
that could be told from the rest, and what is stored at once (ledger.AT_ONCE_BYTES_MAX) tells only
the sum; so no lease is limited to as little as that. Nothing is tried suddenly: the first
transactions are small (LEASE_BYTES_START), and each step doubles or halves at most, so a single
slow one spoils little. Pure: the subscriber has the clock.
"""

from appliance.contracts import LEASE_RECORDS_MAX

KIB = 1024
LEASE_BYTES_MIN = 160 * KIB
LEASE_BYTES_START = 256 * KIB
LEASE_S_MIN = 0.02  # a transaction need not be shorter, however little of it is fixed
FIXED_SHARE = 0.2  # of a transaction's time, what doesn't depend on its size
STEP = 2  # how much larger or smaller the next one may be
MEMORY = 8  # transactions, about, that an average is made of
# Of what was allowed, bytes or records: from here on it tells what bytes cost. A lease that ends
# for want of room has more than half of it, with the frames' headers, which aren't counted here.
FULL = 0.45


class Pace:
    """What transactions cost so far, and so how large the next one may be.

    bytes: what the next lease may have; a single frame may have more.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes_min = min(LEASE_BYTES_MIN, bytes_max)
        self.bytes = min(LEASE_BYTES_START, bytes_max)
        self._fixed_s: float | None = None
        self._byte_s: float | None = None

    def learn(self, size: int, records: int, seconds: float, rows_s: float) -> None:
        """A transaction of so many bytes took so long, `rows_s` of it to write their rows."""
        if not rows_s:  # not known
            return
        if size < FULL * self.bytes and records < FULL * LEASE_RECORDS_MAX:
            return
        self._fixed_s = _averaged(self._fixed_s, seconds - rows_s)
        self._byte_s = _averaged(self._byte_s, rows_s / max(size, 1))
        step = min(max(self._good(), self.bytes // STEP), self.bytes * STEP)
        self.bytes = min(max(step, self._bytes_min), self._bytes_max)

    def _good(self) -> int:
        """The size at which a transaction takes as long as it should."""
        assert self._fixed_s is not None, "learned before"
        assert self._byte_s, "learned before"
        seconds = max(LEASE_S_MIN, self._fixed_s / FIXED_SHARE)
        return int(min((seconds - self._fixed_s) / self._byte_s, self._bytes_max))


def _averaged(average: float | None, value: float) -> float:
    """The average so far with one more value, in which older ones fade."""
    return value if average is None else average + (value - average) / MEMORY
