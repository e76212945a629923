"""A sender with a plan: numbered lines at so many a second, whatever becomes of them.

What can't be sent when it is due is sent later, as fast as the other side takes it: so it is known
how far it was held up. Each line is one of the stream's under a number of its own, and what was
sent is added up as the database adds up what it has (`Sums`).
"""

import threading
import time
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.lines import FIRST_ID, Lines
from tests.system.daemon import connect

TICK_S = 0.002
BLOCK_RECORDS_MAX = 5_000  # built and sent at once, about 2 MB


@dataclass(frozen=True, slots=True)
class Stretch:
    """So many seconds at so many records a second."""

    seconds: float
    per_s: float


@dataclass(frozen=True, slots=True)
class Sums:
    """What a table holds, whatever the order: a count, and a sum cheap enough for millions."""

    count: int
    crc: int


class Sender(threading.Thread):
    """Sends the lines over and over, on one connection, by a plan that ends with `finish`.

    Times are time.perf_counter's. The last stretch of the plan goes on until it is told to end.
    """

    def __init__(self, port: int, lines: Lines, plan: Sequence[Stretch]) -> None:
        super().__init__(name="sender")
        self._port = port
        self._rests = [line.partition(b",")[2] for line in lines.records]
        self._plan = plan
        self._end = threading.Event()
        self._times: list[float] = []  # when each block was begun, in step with the next one
        self._counts: list[int] = []  # how many records had been accepted before it
        self._crc = 0
        self.began = 0.0
        self.sent = 0

    def finish(self) -> Sums:
        """End the stream, as a sender closes its connection; what was sent."""
        self._end.set()
        self.join()
        return Sums(self.sent, self._crc)

    def run(self) -> None:
        with connect(self._port) as connection:
            connection.settimeout(None)
            self.began = time.perf_counter()
            while not self._end.wait(TICK_S):
                while (due := min(self._due() - self.sent, BLOCK_RECORDS_MAX)) > 0:
                    self._times.append(time.perf_counter())
                    self._counts.append(self.sent)
                    connection.sendall(self._block(due))
                    self.sent += due

    def _due(self) -> int:
        """How many should have been sent by now."""
        left_s = time.perf_counter() - self.began
        records = 0.0
        for stretch in self._plan[:-1]:
            records += stretch.per_s * min(left_s, stretch.seconds)
            left_s = max(0.0, left_s - stretch.seconds)
        return int(records + self._plan[-1].per_s * left_s)

    def _block(self, count: int) -> bytes:
        first = self.sent
        lines = [
            b'{"id":%d,%b' % (FIRST_ID + number, self._rests[number % len(self._rests)])
            for number in range(first, first + count)
        ]
        self._crc += sum(map(zlib.crc32, lines))
        lines.append(b"")
        return b"\n".join(lines)

    def time_of(self, number: int) -> float:
        """When the record with this number (from 0) was sent, or was about to be."""
        return self._times[bisect_right(self._counts, number) - 1]
