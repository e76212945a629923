"""Sources whose bytes the kernel holds until hand-over: what TCP and Unix sockets share.

The collector peeks (MSG_PEEK), hands over, and only then discards; a connection belongs to
the parent too, so the kernel keeps the bytes whatever becomes of the collector. A successor
finds the frame in hand by its claim: for each connection its cookie and the stretch of
bytes. Whether the stretch was discarded already is asked of the kernel (kernel.py).

One turn: `peek` shows and marks stretches of many connections as one chunk, `discard` forgets
each, `settle` lets go of connections that ended. A connection is reported finished only
between turns, when no note can speak of it.

An unfinished record waits in the kernel for its end. When the kernel will hold no more of it,
its beginning moves into a file (beginnings.py), and joins the chunk from there.

Invariants: bytes that the kernel doesn't hold any more were handed over, are kept in the
connection's beginning, or were empty lines. When a note becomes valid, each stretch in it is
marked and untouched. A connection with a beginning has no stretch in any note in doubt.

Where the running kernel can't tell what was discarded, the source is `fleeting`: it discards
at once, and what it shows is at risk.
"""

import math
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

from appliance.contracts import NOTHING_AT_RISK, AtRisk, Checkpoint, Chunk, no_checkpoint
from appliance.errors import Unavailable
from appliance.frame import Gap
from appliance.framing import NEWLINE, Cut, Ending, cut
from appliance.sources.ahead import AHEAD_BYTES_MAX, Ahead, ahead
from appliance.sources.beginnings import Beginning, Beginnings
from appliance.sources.kernel import Kernel, Seen, Stretch
from appliance.sources.parts import PARTS_MAX, ChunkMaker, Part, from_files, gaps_in, lost

EVENTS_MAX = PARTS_MAX  # connections that are looked at together
SKIPPING_MAX = 4096  # connections inside an over-long record: each note names all of them
UNFINISHED_S = 0.01  # a record waits so long for a byte before its beginning moves
STUCK_LOOK_S = 1.0  # when its beginning can't move: how often it is tried
STUCK = select.EPOLLRDHUP | select.EPOLLET
# To look at a connection costs much the same whatever it has. So in all they are looked at no more
# often than each VISIT_REST_S, which takes some hundredths of a core: where many are ready all the
# time, each is looked at more rarely, and has more then. A few never wait for it, and nobody waits
# longer than REST_S_MAX, in which a socket's buffer doesn't run full.
VISIT_REST_S = 0.0002
REST_S_MAX = 0.25


class Link(Protocol):
    """The wire to the parent (see link.py)."""

    def fileno(self) -> int:
        """The descriptor to poll."""

    def arrivals(self) -> Iterable[tuple[int, socket.socket]]:
        """New connections with their cookies."""

    def report_finished(self, cookie: int) -> None:
        """Tell the parent that a connection is finished."""


class Wake(Protocol):
    """What becomes readable when a signal came."""

    def fileno(self) -> int:
        """The descriptor to poll."""

    def clear(self) -> None:
        """Make it quiet again."""


@dataclass(slots=True)
class Connection:
    """A connection of ours.

    events: what poll looks for.
    wake_at: poll is silent until so many bytes are there; 0 while it was told something else.
    position: bytes that we have read for good (`Seen.position`), while it goes on as usual: then
        the kernel needn't be asked how it stands. None: it has to be.
    left: once we stop, how many bytes may still be taken.
    """

    socket: socket.socket
    cookie: int
    events: int
    skipping: bool = False
    wake_at: int = 1
    position: int | None = None
    left: int | None = None
    beginning: Beginning | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one source, in bytes and seconds."""

    record_bytes_max: int
    frame_bytes_max: int
    close_wait_s: float


class HeldSource:
    """Records of any number of connections that the parent accepted (contract: Source)."""

    patient = True

    def __init__(
        self,
        kernel: Kernel,
        link: Link,
        wake: Wake,
        limits: Limits,
        beginnings: Beginnings,
        inherited: Iterable[tuple[int, socket.socket]],
        *,
        fleeting: bool = False,
        checkpoint: Checkpoint = no_checkpoint,
        worked: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fleeting = fleeting
        self._kernel = kernel
        self._link = link
        self._wake = wake
        self._limits = limits
        self._beginnings = beginnings
        self._checkpoint = checkpoint
        self._worked = worked
        self._clock = clock
        self._monotonic = monotonic
        # One byte more than a record may have: a buffer without a newline is then too long.
        size = max(limits.frame_bytes_max, limits.record_bytes_max + 1)
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._spare = bytearray()  # as large, from the first flood on
        self._ahead: Ahead | None = None  # in the spare buffer
        self._flooding: Connection | None = None  # the chunk that is shown is its alone, and full
        self._connections: dict[int, Connection] = {}  # by cookie
        self._by_fd: dict[int, Connection] = {}
        self._passed_over: list[Connection] = []
        self._skipping: set[int] = set()  # cookies of those inside an over-long record
        self._skip_later: deque[Connection] = deque()  # there are too many of those
        self._ending: dict[int, Connection] = {}
        self._leaving: list[Connection] = []  # those of which something was just discarded
        self._looks = Looks(monotonic)
        self._rest_until = 0.0
        self._awaited = ""
        self._shown: Chunk | None = None
        self._handed_over: list[Part] = []  # whose beginnings nobody needs any more
        self._stop_by: float | None = None
        self._stopped = False
        self._left = False
        self._epoll = select.epoll()
        self._epoll.register(link.fileno(), select.EPOLLIN)
        self._epoll.register(wake.fileno(), select.EPOLLIN)
        for cookie, connection in inherited:
            self._adopt(cookie, connection)

    # ── the contract ────────────────────────────────────────────────────────────────────

    @property
    def ended(self) -> bool:
        """Whether we were told to stop and every connection is done."""
        return self._left or (self._stop_by is not None and not self._connections)

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def at_risk(self) -> AtRisk:
        """Of a fleeting source what is shown, and beginnings, which no successor goes on with."""
        if not self.fleeting:
            return NOTHING_AT_RISK
        shown = self._shown
        joined = [*self._handed_over, *from_files(shown.claim if shown else None)]
        done = {part.beginning for part in joined}
        kept = [c.beginning for c in self._connections.values() if c.beginning]
        sizes = [beginning.size for beginning in kept if beginning.number not in done]
        records, size = (shown.records, len(shown.body)) if shown else (0, 0)
        return AtRisk(records + len(sizes), size + sum(sizes))

    @property
    def waiting_for(self) -> str:
        """Room on the disk for the beginning of a record; else empty."""
        return self._awaited if self._looks.any else ""

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Go on behind the last note: which connections are inside a record, and how far."""
        for cookie in claim["skipping"] if claim else ():
            if cookie in self._connections:
                self._skip(self._connections[cookie], True)
        self._handed_over = from_files(claim)  # `again` knows better, where it is asked
        for beginning in self._beginnings.sweep():
            self._resume_beginning(beginning)

    def _resume_beginning(self, beginning: Beginning) -> None:
        connection = self._connections.get(beginning.cookie)
        noted = any(part.beginning == beginning.number for part in self._handed_over)
        if noted and not self.fleeting:
            return
        if connection is None or self.fleeting or not (beginning.length or beginning.pending):
            beginning.remove()
            if connection and self.fleeting:  # nobody can tell where its rest begins
                self._skip(connection, True)
        else:
            connection.beginning = beginning

    def again(self, claim: Any) -> Chunk | None:
        """The noted chunk, or None if some of it was discarded (then all of it is)."""
        if self.fleeting:
            return None
        parts = [Part(*part) for part in claim["parts"]]
        held = [p for p in parts if not p.beginning and p.cookie in self._connections]
        left = {part.cookie: self._left_of(part) for part in held}
        if any(left[part.cookie] < part.length for part in held):
            for part in held:
                self._discard_one(self._connections[part.cookie], left[part.cookie], self._view)
            return None
        buffer = bytearray(sum(part.length for part in parts))
        maker = ChunkMaker(buffer, claim["first"], claim["record_bytes_max"])
        starts = accumulate((part.length for part in parts), initial=0)
        gone = [
            part
            for part, start in zip(parts, starts, strict=False)
            if not self._remake(part, start, buffer, maker)
        ]
        self._handed_over = []
        return maker.chunk(claim["last"], claim["skipping"], gaps_in(claim), lost(gone))

    def _remake(self, part: Part, start: int, buffer: bytearray, maker: ChunkMaker) -> bool:
        """Add the part to the chunk again; False if nobody holds its bytes any more."""
        view = memoryview(buffer)[start : start + part.length]
        if part.beginning:
            beginning = self._beginnings.find(part.cookie, part.beginning)
            if beginning is None:
                return False
            beginning.read_into(view)
        elif part.cookie in self._connections:
            connection = self._connections[part.cookie].socket
            got = self._kernel.peek(connection, view)
            assert got == part.length, (got, part)
            self._mark(connection, part.length)
        else:
            return False
        cut = part.cut(buffer, start, maker.record_bytes_max)
        assert cut.taken == part.length, (cut, part)
        maker.add(part, cut)
        return True

    def peek(self) -> Chunk | None:
        """Whole records of the connections that have some; the same chunk until `discard`."""
        if self._shown is None:
            self._shown = self._look()
            if self._shown and self.fleeting:
                self._shown = replace(self._shown, body=bytes(self._shown.body))
                self._discard(self._shown)
        return self._shown

    def _look(self) -> Chunk | None:
        if self._stop_by is not None and self._monotonic() >= self._stop_by:
            self._stop_here()  # also while a sender never lets us come to wait
        self._forget_beginnings()
        ready = self._ready()
        maker = self._from_ahead(ready) or self._gathered(ready)
        gaps = self._gaps(maker.empty)
        if maker.empty and not gaps:
            return None
        chunk = maker.chunk(self._clock(), sorted(self._skipping)[:SKIPPING_MAX], gaps)
        chunk.rest_s = self._rest_s
        is_full = len(chunk.body) > len(self._buffer) // 2
        self._flooding = ready[0] if is_full and len(ready) == 1 else None
        return chunk

    def _gathered(self, ready: list[Connection]) -> ChunkMaker:
        maker = self._maker()
        self._visit(ready, maker)
        return maker

    def _maker(self) -> ChunkMaker:
        return ChunkMaker(self._buffer, self._clock(), self._limits.record_bytes_max)

    def _visit(self, ready: list[Connection], maker: ChunkMaker) -> None:
        """Look at each of them, as long as there is room in the chunk."""
        self._passed_over = []
        used = visits = 0
        for connection in ready:
            if maker.full or self._passed_over:
                self._passed_over += ready[visits:]
                break
            visits += 1
            used += self._peek_one(connection, used, maker)
        now = self._monotonic()
        rest_until = max(self._rest_until, now) + visits * VISIT_REST_S
        self._rest_until = min(rest_until, now + REST_S_MAX)

    @property
    def _rest_s(self) -> float:
        """How long to leave the connections alone; a full frame shows that there is more, and
        puts it off.
        """
        return 0.0 if self._passed_over else max(0.0, self._rest_until - self._monotonic())

    def _gaps(self, alone: bool) -> list[Gap]:
        """What the next chunk has to tell of; `alone`: it would have nothing else."""
        return []

    def discard(self, chunk: Chunk) -> None:
        """Forget the chunk."""
        self._shown = None
        if not self.fleeting:
            self._discard(chunk)
        self._handed_over = from_files(chunk.claim)
        if self._ending:
            cookies = [cookie for cookie, *_ in chunk.claim["parts"]]
            self._leaving = [self._ending[cookie] for cookie in cookies if cookie in self._ending]

    def settle(self) -> None:
        """Let go of beginnings that were handed over, of connections that ended and are empty."""
        self._forget_beginnings()
        for connection in self._leaving:
            if not connection.beginning:
                self._finish_if_empty(connection)
        self._leaving = []

    def wait(self, timeout_s: float) -> None:
        """Block until a connection, the parent or a signal has something."""
        if self._shown or self.ended:  # the kernel has nothing to wake us for
            return
        if self._stop_by is not None and not self._stopped:
            timeout_s = min(timeout_s, max(0.0, self._stop_by - self._monotonic()))
        self._epoll.poll(min(timeout_s, self._looks.next_s()), 1)

    def stop(self, quick: bool) -> None:
        """End every connection: at once, or half-closed, so that the sender can finish."""
        self._take_arrivals()  # what the parent had handed down before it said stop is ours too
        if quick:
            self._stop_by = self._monotonic()
            self._stop_here()
        elif self._stop_by is None:
            self._stop_by = self._monotonic() + self._limits.close_wait_s
            for connection in self._connections.values():
                _shutdown(connection.socket, socket.SHUT_WR)

    def leave(self) -> None:
        """Touch no connection: the kernel keeps what they hold and what they send."""
        if self.fleeting:
            self.stop(quick=True)
        self._left = not self.fleeting

    def close(self) -> None:
        """Release the descriptors; the parent's duplicates keep the connections open."""
        self._epoll.close()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._by_fd.clear()

    # ── a look ahead ────────────────────────────────────────────────────────────────────

    def look_ahead(self) -> None:
        """Get the next chunk ready while the one that is shown is handed over (see ahead.py).

        Only where a whole frame waits behind it: what waits there less is more by its turn.
        """
        connection, chunk, self._flooding = self._flooding, self._shown, None
        if connection is None or chunk is None or not self._may_look_ahead(connection):
            return
        size, shown = len(self._buffer), Part(*chunk.claim["parts"][0])
        if self._kernel.observe(connection.socket).available < shown.length + size:
            return
        self._spare = self._spare or bytearray(size)
        view = memoryview(self._spare)
        if self._kernel.peek_behind(connection.socket, shown.length, view) == size:
            at = shown.start + shown.length
            self._ahead = ahead(shown.cookie, at, self._spare, self._limits.record_bytes_max)
        self._checkpoint("ahead")

    def _may_look_ahead(self, connection: Connection) -> bool:
        """Whether it goes on as usual, and nothing of the chunk was read for good."""
        as_usual = connection.position is not None and not connection.beginning
        held = not self.fleeting and len(self._buffer) <= AHEAD_BYTES_MAX
        return as_usual and held and self._kernel.peeks_behind

    def _from_ahead(self, ready: list[Connection]) -> ChunkMaker | None:
        """The chunk that was got ready, if it is what a look at these would show."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or len(ready) != 1 or not _shows(ready[0], ahead):
            return None
        self._passed_over = []
        self._buffer, self._spare = self._spare, self._buffer
        self._view = memoryview(self._buffer)
        maker = self._maker()
        self._add_usual(ready[0], ahead.position, ahead.cut, maker)
        maker.crc = ahead.crc
        return maker

    # ── polling ─────────────────────────────────────────────────────────────────────────

    def _ready(self) -> list[Connection]:
        """Those to look at. Who found no room last time goes first, so a flood starves nobody."""
        polled = list(self._poll(0))
        if self._stopped:  # also those that nothing wakes
            return [c for c in self._connections.values() if c.wake_at or self._looks.is_due(c)]
        if not self._passed_over and not self._looks.any:
            return polled
        wanted = {c.cookie: c for c in (*self._passed_over, *self._looks.due(), *polled)}
        return [connection for cookie, connection in wanted.items() if cookie in self._connections]

    def _poll(self, timeout_s: float) -> Iterator[Connection]:
        for fd, events in self._epoll.poll(timeout_s, EVENTS_MAX):
            if fd in self._by_fd:
                connection = self._by_fd[fd]
                if events & ~select.EPOLLIN:
                    self._ending[connection.cookie] = connection
                    connection.position = None
                yield connection
            elif fd == self._link.fileno():
                self._receive(events)
            else:
                self._wake.clear()

    def _take_arrivals(self) -> None:
        for cookie, connection in self._link.arrivals():
            self._adopt(cookie, connection)

    def _receive(self, events: int) -> None:
        self._take_arrivals()
        if events & select.EPOLLHUP:  # the parent is gone; we were told by a signal, too
            self._epoll.unregister(self._link.fileno())

    def _adopt(self, cookie: int, connection: socket.socket) -> None:
        """Take a connection in; one that came twice (fork and wire) is dropped."""
        if cookie in self._connections:
            connection.close()
            return
        self._kernel.adopt(connection)
        new = Connection(connection, cookie, self._kernel.wake_at(connection, 1))
        self._connections[cookie] = self._by_fd[connection.fileno()] = new
        self._epoll.register(connection.fileno(), new.events)
        if self._stopped:
            self._limit(new)
        elif self._stop_by is not None:
            _shutdown(connection, socket.SHUT_WR)

    def _wake_at(self, connection: Connection, available: int) -> None:
        """Have poll wake when so many bytes are there; 1: when there are any."""
        self._looks.over(connection)
        if connection.wake_at != available:
            self._poll_for(connection, self._kernel.wake_at(connection.socket, available))
            connection.wake_at = available

    def _poll_for(self, connection: Connection, events: int) -> None:
        if connection.events != events:
            self._epoll.modify(connection.socket.fileno(), events)
            connection.events = events

    def _stick(self, connection: Connection, why: str = "") -> None:
        """Its record can't go on now, and poll would wake us all the time: look now and then."""
        self._awaited = why
        self._poll_for(connection, STUCK)
        connection.wake_at = 0
        self._looks.at(connection, STUCK_LOOK_S)

    # ── one connection ──────────────────────────────────────────────────────────────────

    def _peek_one(self, connection: Connection, used: int, maker: ChunkMaker) -> int:
        """Add what this connection has to the chunk; how much of the buffer that took."""
        if connection.beginning:
            return self._peek_rest(connection, connection.beginning, used, maker)
        taken = 0
        if connection.position is not None and connection.wake_at == 1:
            taken = self._peek_quickly(connection, connection.position, used, maker)
        return taken or self._peek_closely(connection, used, maker)

    def _peek_quickly(
        self, connection: Connection, position: int, used: int, maker: ChunkMaker
    ) -> int:
        """Whole records of a connection that goes on as usual: one call shows them.

        0: there are none, or more has to be known. An end that the kernel has seen by now is
        behind these records, and the next poll tells of it.
        """
        try:
            got = self._kernel.peek(connection.socket, self._view[used:])
        except OSError:
            return 0
        found = cut(self._buffer, used, used + got, record_bytes_max=self._limits.record_bytes_max)
        if found.taken < self._kernel.part_bytes_min or found.skipping:
            return 0
        self._add_usual(connection, position, found, maker)
        return found.taken

    def _add_usual(
        self, connection: Connection, position: int, found: Cut, maker: ChunkMaker
    ) -> None:
        self._mark(connection.socket, found.taken)
        part = Part(connection.cookie, position, found.taken, False, records=found.records)
        maker.add(part, found)

    def _peek_closely(self, connection: Connection, used: int, maker: ChunkMaker) -> int:
        """Whatever a connection may have, and what is to be done about it."""
        seen = self._kernel.observe(connection.socket)
        as_usual = not (seen.ending or connection.skipping or connection.left is not None)
        connection.position = seen.position if as_usual else None
        available = self._available(connection, seen)
        length = min(available, len(self._buffer) - used)
        if not length:
            self._nothing(connection, seen, available)
            return 0
        got = self._kernel.peek(connection.socket, self._view[used : used + length])
        behind = self._behind(seen) if length == available else Ending.OPEN
        if got < length:
            length, behind = got, self._behind_piece(got)
        part = Part(
            connection.cookie,
            seen.position,
            length,
            seen.ending,
            connection.skipping,
            behind.value,
        )
        return self._take(connection, part, used, maker, available)

    def _available(self, connection: Connection, seen: Seen) -> int:
        """Bytes that are ours to take: when stopping, no more than were there at the stop."""
        if connection.left is None or seen.ending:
            return seen.available
        return min(seen.available, connection.left)

    def _behind(self, seen: Seen) -> Ending:
        """What follows the last available byte."""
        if seen.failed or (self._stopped and not seen.ending):
            return Ending.BROKEN
        return Ending.CLEAN if seen.ending else Ending.OPEN

    def _behind_piece(self, length: int) -> Ending:
        """What follows a piece that a peek shows alone: more, once this one is out of the way.

        One that is too short to be moved there ends its record.
        """
        return Ending.OPEN if length >= self._kernel.part_bytes_min else Ending.BROKEN

    def _take(
        self, connection: Connection, part: Part, at: int, maker: ChunkMaker, available: int
    ) -> int:
        cut = part.cut(self._buffer, at, maker.record_bytes_max)
        if not cut.taken:
            return self._unfinished(connection, part, at, maker, available)
        if self._skips_later(connection, cut):
            return 0
        if cut.taken < self._kernel.part_bytes_min and not part.ending:
            self._take_single(connection, cut, available)
            return 0
        self._mark(connection.socket, cut.taken)
        return self._add(connection, part, cut, maker)

    def _add(self, connection: Connection, part: Part, cut: Cut, maker: ChunkMaker) -> int:
        self._wake_at(connection, 1)
        self._skip(connection, cut.skipping)
        part = part._replace(length=cut.taken, records=cut.records)
        maker.add(part, cut)
        return cut.taken

    def _take_single(self, connection: Connection, cut: Cut, available: int) -> None:
        """A stretch of which a successor couldn't tell whether it was discarded gets no frame.

        A lone newline is an empty line, which is no record. The newline that ends an
        over-long record waits for the byte behind it. The single first byte of a record that
        is cut there (at a stop, before an urgent byte) is given up.
        """
        if self._stopped:
            self._finish(connection)
        elif cut.records == 0:
            self._wake_at(connection, available + 1)
        else:
            self._discard_one(connection, cut.taken, self._view)

    def _nothing(self, connection: Connection, seen: Seen, available: int) -> None:
        """No byte to take: because of the buffer, because it ended, or woken for nothing."""
        if available:
            self._passed_over.append(connection)
        elif seen.ending or self._stopped:
            self._finish(connection)
        else:
            self._wake_at(connection, 1)

    def _finish_if_empty(self, connection: Connection) -> None:
        seen = self._kernel.observe(connection.socket)
        if seen.ending and not seen.available:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        """Ended and empty, and no note speaks of it: the parent may let go of it too."""
        self._epoll.unregister(connection.socket.fileno())
        self._looks.over(connection)
        self._skip(connection, False)
        self._ending.pop(connection.cookie, None)
        del self._connections[connection.cookie]
        del self._by_fd[connection.socket.fileno()]
        # A close alone sends no FIN while the parent holds its duplicate.
        _shutdown(connection.socket, socket.SHUT_RDWR)
        self._link.report_finished(connection.cookie)
        connection.socket.close()

    # ── an over-long record ─────────────────────────────────────────────────────────────

    def _skip(self, connection: Connection, skipping: bool) -> None:
        """Whether the connection's next bytes belong to an over-long record."""
        connection.skipping = skipping
        if skipping:
            connection.position = None
            self._skipping.add(connection.cookie)
        else:
            self._skipping.discard(connection.cookie)
            self._let_one_skip()

    def _skips_later(self, connection: Connection, cut: Cut) -> bool:
        """Whether a note holds no more of those: its sender waits until another's record ends."""
        if not cut.skipping or connection.skipping or len(self._skipping) < SKIPPING_MAX:
            return False
        self._poll_for(connection, STUCK)
        connection.wake_at = 0
        self._skip_later.append(connection)
        return True

    def _let_one_skip(self) -> None:
        while self._skip_later and len(self._skipping) < SKIPPING_MAX:
            connection = self._skip_later.popleft()
            if connection.cookie in self._connections:
                self._wake_at(connection, 1)
                return

    # ── an unfinished record ────────────────────────────────────────────────────────────

    def _unfinished(
        self, connection: Connection, part: Part, at: int, maker: ChunkMaker, available: int
    ) -> int:
        """Wait for the record's rest; its beginning moves when the kernel will hold no more."""
        if at + part.length == len(self._buffer):  # too little room behind other connections
            self._passed_over.append(connection)
        elif part.length < available:  # its next piece shows when this one has moved
            return self._begin(connection, at, maker)
        elif connection.wake_at <= available:
            self._wake_at(connection, available + 1)
            if not self._kernel.wakes_when_full:
                self._looks.at(connection, UNFINISHED_S)
        elif self._kernel.wakes_when_full or self._looks.is_due(connection):
            return self._begin(connection, at, maker)
        return 0

    def _begin(self, connection: Connection, at: int, maker: ChunkMaker) -> int:
        connection.beginning = beginning = self._beginnings.begin(connection.cookie)
        taken = self._peek_rest(connection, beginning, at, maker)
        if not beginning.length and not beginning.pending:
            beginning.remove()
            connection.beginning = None
        return taken

    def _peek_rest(
        self, connection: Connection, beginning: Beginning, used: int, maker: ChunkMaker
    ) -> int:
        """Move what has come behind the record's beginning; if it is whole, add it to the chunk."""
        view = self._view[used:]
        if beginning.pending and beginning.pending.length > len(view):
            self._passed_over.append(connection)  # what was interrupted needs room to end, first
            return 0
        try:
            behind = self._extend(connection, beginning, view)
            if behind is Ending.OPEN and not beginning.is_whole(maker.record_bytes_max):
                return 0
            if beginning.length > len(view):
                self._passed_over.append(connection)
                return 0
            beginning.read_into(view)
        except Unavailable as error:
            self._stick(connection, str(error))
            return 0
        part = Part(
            connection.cookie,
            start=0,
            length=beginning.length,
            ending=False,
            behind=behind.value,
            beginning=beginning.number,
        )
        cut = part.cut(self._buffer, used, maker.record_bytes_max)
        if self._skips_later(connection, cut):
            return 0
        return self._add(connection, part, cut, maker)

    def _extend(self, connection: Connection, beginning: Beginning, view: memoryview) -> Ending:
        """Move the bytes of the record that are there; what follows those that are kept then.

        What no successor could judge (`part_bytes_min`) stays in the kernel: a lone byte waits
        for the next one; a lone newline ends the record, and is an empty line afterwards.
        """
        if beginning.pending:
            self._finish_move(connection, beginning, beginning.pending, view)
        record_bytes_max, shortest = self._limits.record_bytes_max, self._kernel.part_bytes_min
        if beginning.is_whole(record_bytes_max):
            return Ending.OPEN
        seen = self._kernel.observe(connection.socket)
        available = self._available(connection, seen)
        wanted = min(available, max(record_bytes_max - beginning.length, shortest))
        if wanted > len(view):
            self._passed_over.append(connection)
            return Ending.OPEN
        got = self._kernel.peek(connection.socket, view[:wanted]) if wanted else 0
        length = bytes(view[:got]).find(NEWLINE) + 1 or got
        behind = self._behind(seen) if length == available else Ending.OPEN
        if got < wanted and length == got:
            behind = self._behind_piece(got)
        moved = length if length >= shortest or seen.ending else 0
        if moved:
            self._move(connection, beginning, view[:length], seen)
        elif length and view[:1] == NEWLINE:
            return Ending.CLEAN
        if behind is Ending.OPEN and not beginning.is_whole(record_bytes_max):
            self._await_rest(connection, 0 if got < wanted else available - moved)
        return behind

    def _await_rest(self, connection: Connection, left: int) -> None:
        """Wake at the next byte; where that was asked for already, the kernel holds no more."""
        if left and connection.wake_at > left:
            self._stick(connection)
        else:
            self._wake_at(connection, left + 1)

    def _move(
        self, connection: Connection, beginning: Beginning, view: memoryview, seen: Seen
    ) -> None:
        """Move what was just shown from the kernel behind the record's beginning."""
        beginning.write(view, Stretch(seen.position, len(view), seen.ending))
        self._checkpoint("written")
        self._mark(connection.socket, len(view))
        self._discard_pending(connection, beginning, len(view), view)

    def _finish_move(
        self, connection: Connection, beginning: Beginning, pending: Stretch, scratch: memoryview
    ) -> None:
        """End a move that was interrupted: by a kill, or by an error of the disk."""
        left = 0 if self.fleeting else self._kernel.left_of(connection.socket, pending)
        if left == pending.length:
            self._mark(connection.socket, left)
        self._discard_pending(connection, beginning, left, scratch)

    def _discard_pending(
        self, connection: Connection, beginning: Beginning, left: int, scratch: memoryview
    ) -> None:
        self._discard_one(connection, left, scratch)
        beginning.keep()
        self._worked()
        self._checkpoint("kept")

    # ── hand-over ───────────────────────────────────────────────────────────────────────

    def _mark(self, connection: socket.socket, length: int) -> None:
        self._kernel.mark(connection, length)
        self._checkpoint("marked")

    def _left_of(self, part: Part) -> int:
        return self._kernel.left_of(self._connections[part.cookie].socket, part.stretch)

    def _discard(self, chunk: Chunk) -> None:
        for cookie, _start, length, *_, beginning in chunk.claim["parts"]:
            if cookie in self._connections and not beginning:
                self._discard_one(self._connections[cookie], length, self._view)

    def _discard_one(self, connection: Connection, length: int, scratch: memoryview) -> None:
        self._kernel.discard(connection.socket, length, scratch)
        if connection.position is not None:
            connection.position += length
        if connection.left is not None:
            connection.left -= length
        self._checkpoint("emptied")

    def _forget_beginnings(self) -> None:
        """Remove the beginnings whose records were handed over."""
        for part in self._handed_over:
            connection = self._connections.get(part.cookie)
            kept = connection.beginning if connection else None
            if connection and kept and kept.number == part.beginning:
                connection.beginning = None
            self._beginnings.remove(part.cookie, part.beginning)
        self._handed_over = []

    # ── stopping ────────────────────────────────────────────────────────────────────────

    def _stop_here(self) -> None:
        """What the kernel holds at this moment is the last that we take."""
        if not self._stopped:
            self._stopped = True
            for connection in self._connections.values():
                self._limit(connection)

    def _limit(self, connection: Connection) -> None:
        connection.position = None
        connection.left = self._kernel.observe(connection.socket).available


class Looks:
    """Connections that nothing may wake, each with the moment at which to look at it."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._at: dict[int, tuple[Connection, float]] = {}

    @property
    def any(self) -> bool:
        """Whether there are such connections."""
        return bool(self._at)

    def at(self, connection: Connection, delay_s: float) -> None:
        """Look at it in so many seconds."""
        self._at[connection.cookie] = (connection, self._monotonic() + delay_s)

    def over(self, connection: Connection) -> None:
        """It goes on, or is gone."""
        self._at.pop(connection.cookie, None)

    def is_due(self, connection: Connection) -> bool:
        """Whether the moment has come."""
        _, at = self._at.get(connection.cookie, (connection, math.inf))
        return at <= self._monotonic()

    def due(self) -> list[Connection]:
        """All whose moment has come."""
        return [connection for connection, _ in self._at.values() if self.is_due(connection)]

    def next_s(self) -> float:
        """Seconds to the next moment; infinite if there is none."""
        soonest = min((at for _, at in self._at.values()), default=math.inf)
        return max(0.0, soonest - self._monotonic())


def _shows(connection: Connection, ahead: Ahead) -> bool:
    """Whether a look at the connection would show these bytes: it goes on as usual behind them.

    Its position is None as soon as it doesn't.
    """
    at = (connection.cookie, connection.position)
    return at == (ahead.cookie, ahead.position) and connection.wake_at == 1


def _shutdown(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:  # the other side was faster
        pass
