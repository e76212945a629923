"""B10: what a record costs while a million frames wait, against a thousand.

Two instances on the same server, each with a database of its own. Through TCP a million small
frames would take an hour and a half (one each `frame_interval_ms`), so they are appended to the
queue here, numbered and summed as a collector does it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from appliance.frame import Header, checksum, encode_header
from appliance.queues.address import RedisAddress
from appliance.queues.redis import RedisQueue
from tests.bench.cost import CPU_S_PER_MILLION, Cost, cost_of
from tests.bench.database import Database, another
from tests.bench.lines import Lines
from tests.bench.measure import Comparison, Findings, Listing, Side, check, in_turns, shown, spread
from tests.bench.pausing import NAME, Pausing
from tests.bench.run import Run
from tests.bench.ways import StreamDaemon, stream_daemon

MANY_FRAMES, FEW_FRAMES = 1_000_000, 1_000
RECORDS_OF_MANY = 300_000  # with a shorter stream than this fewer frames wait
STORED_FRAMES = 30_000  # in each round
QUEUE = '[queue]\nbytes_max = "3GiB"\n'
REPLY_S = 20.0


def b10(run: Run) -> Findings:
    """The same frames are stored by two instances, one with a million in front of them."""
    share = min(1.0, run.lines.content.count / RECORDS_OF_MANY)
    with ExitStack() as stack:
        many, few = (
            stack.enter_context(_waiting(run.database, name, int(share * frames)))
            for name, frames in (("many", MANY_FRAMES), ("few", FEW_FRAMES))
        )
        for one in (many, few):
            run.say(f"{one.depth:,} frames wait")
        frames = int(share * STORED_FRAMES)
        sides = [Side(one.title, one.stores(frames)) for one in (many, few)]
        samples = in_turns(*sides, CPU_S_PER_MILLION, run.rounds, run.say)
        rows = [one.row() for one in (many, few)]
    what = f"a record's cost, {many.title}"
    return Findings(
        [Comparison("B10", what, *samples, aim=1.1, at_most=True)],
        [
            Listing(
                "B10: storing, and looking at the queue (as status and recovery do)", HEADS, rows
            )
        ],
    )


# ── an instance with frames that wait ───────────────────────────────────────────────────

HEADS = ("", "stored, records/s", "depth, ms", "sweep, ms", "the oldest 256 headers, ms")
HEADERS = 256


class Waiting:
    """An instance in front of which so many frames wait whenever something is measured."""

    def __init__(self, way: StreamDaemon, depth: int) -> None:
        self.depth = depth
        self.title = f"{depth:,} frames waiting"
        self._way = way
        self._pausing = Pausing(way)
        self._frames = Frames("lines")
        self._stored = 0  # the number of the last frame that is
        self._costs: list[Cost] = []
        with self._pausing.no_rewrites():
            self._add(depth)

    def stores(self, frames: int) -> Callable[[], float]:
        """What measures once what a record costs, when so many more frames are stored."""

        def once() -> float:
            self._add(frames)
            self._way.database.empty(self._way.table)
            cost = cost_of(self._way, lambda: self._pausing.store(frames))
            self._check(cost.records)
            self._costs.append(cost)
            return cost.per_million

        return once

    def row(self) -> tuple[str, ...]:
        """For people: how fast it was, and what it takes to look at the queue."""
        address = RedisAddress(path=self._pausing.socket)
        queue = RedisQueue(address, None, NAME, "look", 1, REPLY_S)
        looks = (queue.depth, queue.sweep, lambda: queue.headers(HEADERS))
        rates = [cost.records_per_s for cost in self._costs]
        try:
            queue.attach()
            return (self.title, spread(rates), *(shown(_ms(look)) for look in looks))
        finally:
            queue.close()

    def _add(self, frames: int) -> None:
        for items in self._frames.more(frames):
            self._pausing.push(items)

    def _check(self, records: int) -> None:
        """Frames are taken in their order, so it is known which were stored."""
        first, self._stored = self._stored, self._stored + records // FRAME_RECORDS
        wanted = Lines.of(self._frames.records(first + 1, self._stored))
        check(self.title, self._way.database.content(self._way.table), wanted.content)


@contextmanager
def _waiting(database: Database, name: str, depth: int) -> Iterator[Waiting]:
    with another(database, name) as own, stream_daemon(own, more=QUEUE) as way:
        yield Waiting(way, depth)


def _ms(look: Callable[[], object]) -> float:
    began = time.perf_counter()
    look()
    return (time.perf_counter() - began) * 1e3


# ── frames ──────────────────────────────────────────────────────────────────────────────

RUN = "0192f0c1d2e37abc8def0123456789ab"
FRAME_RECORDS, RECORD_BYTES = 5, 100
FRAME_BYTES = FRAME_RECORDS * RECORD_BYTES
AT_ONCE = 2_000  # frames that one command brings: the server syncs once for all of them


class Frames:
    """Small frames of one source, numbered and summed in a run of their own.

    Each header is what `encode_header` makes, with other numbers in it: a million calls of that
    would take longer than the measure.
    """

    def __init__(self, source: str) -> None:
        self._made = 0
        self._model = header = Header(
            run=RUN,
            number=1_000_000_007,
            source=source,
            records=FRAME_RECORDS,
            records_before=2_000_000_003,
            bytes_before=3_000_000_019,
            body_bytes=FRAME_BYTES,
            crc=4_000_000_007,
            first_received=1_600_000_000.0,
            last_received=1_600_000_000.0,
        )
        line = encode_header(header)
        for number in (header.number, header.records_before, header.bytes_before, header.crc):
            line = line.replace(b":%d," % number, b":%d,")
        self._line = line

    def more(self, count: int) -> Iterator[list[bytes]]:
        """The next so many frames as items of the queue, some at a time."""
        end = self._made + count
        while self._made < end:
            first, self._made = self._made + 1, min(end, self._made + AT_ONCE)
            yield [self.item(number) for number in range(first, self._made + 1)]

    def item(self, number: int) -> bytes:
        """One frame: its header and its body."""
        body = b"".join(line + b"\n" for line in self._lines(number))
        before = (number - 1) * FRAME_RECORDS
        return self._line % (number, before, before * RECORD_BYTES, checksum(body)) + body

    def records(self, first: int, last: int) -> Iterator[bytes]:
        """The records of these frames."""
        for number in range(first, last + 1):
            yield from self._lines(number)

    def _lines(self, number: int) -> list[bytes]:
        return [b'{"id":%13d,"at":%d,%b}' % (number, at, FILLING) for at in range(FRAME_RECORDS)]


FILLING = b'"text":"' + b"x" * (RECORD_BYTES - 38) + b'"'
