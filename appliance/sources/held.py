"""Sources whose bytes the kernel holds until hand-over: what TCP and Unix sockets share.

The collector peeks (MSG_PEEK), hands over, and only then discards; a connection belongs to
the parent too, so the kernel keeps the bytes whatever becomes of the collector. A successor
finds the frame in hand by its claim: for each connection its cookie and the stretch of
bytes. Whether the stretch was discarded already is read from the kernel (`Kernel.observe`).

One turn: `peek` shows stretches of many connections as one chunk, `discard` forgets each by
one call, `settle` lets go of connections that ended. A connection is reported finished only
between turns, when no note can speak of it.

Invariant: bytes before a connection's position were handed over, or were empty lines. The
position is the kernel's own (`Seen.position`), never a count of ours.
"""

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from appliance.contracts import Chunk
from appliance.frame import Buffer, Gap
from appliance.framing import Cut, Ending, cut

EVENTS_MAX = 256  # connections that share one frame
WAIT = select.EPOLLIN | select.EPOLLRDHUP
STALL_S = 5.0  # so long the kernel may hold no more of an unfinished record
STALL_LOOK_S = 1.0


class Seen(NamedTuple):
    """What the kernel says of a connection at one moment.

    position: bytes discarded so far; where `ending`, one more may be counted for the FIN.
    available: bytes that can be peeked now.
    ending: no byte will come behind the available ones.
    failed: it ended by a reset or an error, so an unfinished record is cut.
    """

    position: int
    available: int
    ending: bool
    failed: bool


class Kernel(Protocol):
    """How one kind of socket is observed and emptied."""

    def observe(self, connection: socket.socket) -> Seen:
        """The connection's state, consistent in itself."""

    def discard(self, connection: socket.socket, length: int, scratch: memoryview) -> None:
        """Forget `length` available bytes by one call."""

    def wake_at(self, connection: socket.socket, available: int) -> None:
        """Make poll silent until so many bytes are there (an end still wakes)."""


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


class Part(NamedTuple):
    """One connection's stretch in a chunk; this is what the note keeps.

    Where a stretch begins without `ending`, a FIN that comes later may move the position by
    one, so it is never a single byte then.
    """

    cookie: int
    start: int
    length: int
    ending: bool
    skipping: bool  # the stretch begins inside an over-long record
    behind: str  # what follows the stretch: a framing.Ending
    records: int

    def was_discarded(self, seen: Seen) -> bool:
        """Whether any byte of the stretch has been discarded since it was noted."""
        return seen.position - self.start >= (1 if self.ending else 2)

    def cut(self, buffer: bytearray, start: int, record_bytes_max: int) -> Cut:
        """The records in the stretch, which lies in `buffer` from `start` on."""
        return cut(
            buffer,
            start,
            start + self.length,
            record_bytes_max=record_bytes_max,
            skipping=self.skipping,
            ending=Ending(self.behind),
        )


@dataclass(slots=True)
class Connection:
    """A connection of ours. `wake_at` is the kernel's low-water mark as last set."""

    socket: socket.socket
    cookie: int
    skipping: bool = False
    wake_at: int = 1
    ending: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one source, in bytes and seconds."""

    record_bytes_max: int
    frame_bytes_max: int
    close_wait_s: float


class HeldSource:
    """Records of any number of connections that the parent accepted (contract: Source)."""

    fleeting = False

    def __init__(
        self,
        kernel: Kernel,
        link: Link,
        wake: Wake,
        limits: Limits,
        inherited: Iterable[tuple[int, socket.socket]],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kernel = kernel
        self._link = link
        self._wake = wake
        self._limits = limits
        self._clock = clock
        self._monotonic = monotonic
        # One byte more than a record may have: a buffer without a newline is then too long.
        size = max(limits.frame_bytes_max, limits.record_bytes_max + 1)
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._connections: dict[int, Connection] = {}  # by cookie
        self._by_fd: dict[int, Connection] = {}
        self._passed_over: list[Connection] = []
        self._shown: Chunk | None = None
        self._stalls = Stalls(monotonic)
        self._stop_by: float | None = None
        self._stop_at: dict[int, int] | None = None  # cookie → position to read up to
        self._epoll = select.epoll()
        self._epoll.register(link.fileno(), select.EPOLLIN)
        self._epoll.register(wake.fileno(), select.EPOLLIN)
        for cookie, connection in inherited:
            self._adopt(cookie, connection)

    # ── the contract ────────────────────────────────────────────────────────────────────

    @property
    def ended(self) -> bool:
        """Whether we were told to stop and every connection is done."""
        return self._stop_by is not None and not self._connections

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    @property
    def waiting_for(self) -> str:
        """Nothing: senders come or don't."""
        return ""

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Go on behind the last note: which connections are inside an over-long record."""
        for cookie in claim["skipping"] if claim else ():
            if cookie in self._connections:
                self._connections[cookie].skipping = True

    def again(self, claim: Any) -> Chunk | None:
        """The noted chunk, or None if some of it was discarded (then all of it is)."""
        parts = [Part(*part) for part in claim["parts"]]
        held = [part for part in parts if part.cookie in self._connections]
        gone = [part for part in held if self._was_discarded(part)]
        if gone:
            self._discard(part for part in held if part not in gone)
            return None
        maker = ChunkMaker(claim["first"], claim["record_bytes_max"])
        for part in held:
            self._remake(part, maker)
        gaps = [lost(part) for part in parts if part not in held and part.records]
        return maker.chunk(claim["last"], claim["skipping"], gaps)

    def _remake(self, part: Part, maker: "ChunkMaker") -> None:
        buffer = bytearray(part.length)
        got = self._peek_into(self._connections[part.cookie], memoryview(buffer))
        assert got == part.length, (got, part)
        cut = part.cut(buffer, 0, maker.record_bytes_max)
        assert cut.taken == part.length, (cut, part)
        maker.add(part, cut, cut.body(buffer))

    def peek(self) -> Chunk | None:
        """Whole records of the connections that have some; the same chunk until `discard`."""
        if self._shown is None:
            self._shown = self._look()
        return self._shown

    def _look(self) -> Chunk | None:
        if self._stop_by is not None and self._monotonic() >= self._stop_by:
            self._stop_here()  # also while a sender never lets us come to wait
        maker = ChunkMaker(self._clock(), self._limits.record_bytes_max)
        ready = self._in_order(self._poll(0))
        if self._stop_at is not None:
            ready = list(self._connections.values())  # also those that nothing wakes
        else:
            stalled = self._stalls.to_look_at()  # first: one that is given up needs a chunk alone
            ready = stalled + [one for one in ready if one not in stalled]
        self._passed_over = []
        used = 0
        for connection in ready:
            if maker.full:  # the rest is looked at next time: at a stop these are all
                break
            used += self._peek_one(connection, used, maker)
        if maker.empty:
            return None
        return maker.chunk(self._clock(), self._skipping_cookies(), [])

    def discard(self, chunk: Chunk) -> None:
        """Forget the chunk: one call a connection."""
        self._shown = None
        parts = (Part(*part) for part in chunk.claim["parts"])
        self._discard(part for part in parts if part.cookie in self._connections)

    def settle(self) -> None:
        """Let go of connections that have ended and are empty."""
        for connection in list(self._connections.values()):
            if connection.ending:
                self._finish_if_empty(connection)

    def wait(self, timeout_s: float) -> None:
        """Block until a connection, the parent or a signal has something."""
        if self.ended:  # a look that found the last connection at its end has shown no chunk
            return
        if self._stop_by is not None:
            timeout_s = min(timeout_s, max(0.0, self._stop_by - self._monotonic()))
        if self._stalls.any:
            timeout_s = min(timeout_s, STALL_LOOK_S)
        self._epoll.poll(timeout_s, 1)

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

    def close(self) -> None:
        """Release the descriptors; the parent's duplicates keep the connections open."""
        self._epoll.close()
        for connection in self._connections.values():
            connection.socket.close()
        self._connections.clear()
        self._by_fd.clear()

    # ── polling ─────────────────────────────────────────────────────────────────────────

    def _poll(self, timeout_s: float) -> Iterator[Connection]:
        for fd, events in self._epoll.poll(timeout_s, EVENTS_MAX):
            if fd in self._by_fd:
                connection = self._by_fd[fd]
                connection.ending |= bool(events & ~select.EPOLLIN)
                yield connection
            elif fd == self._link.fileno():
                self._receive(events)
            else:
                self._wake.clear()

    def _in_order(self, ready: Iterator[Connection]) -> list[Connection]:
        """Those that found no room last time go first, so that a flood starves nobody."""
        current = {connection.cookie: connection for connection in ready}
        first = {c.cookie: c for c in self._passed_over if c.cookie in current}
        return list((first | current).values())

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
        new = Connection(connection, cookie)
        self._connections[cookie] = self._by_fd[connection.fileno()] = new
        self._kernel.wake_at(connection, 1)
        self._epoll.register(connection.fileno(), WAIT)
        if self._stop_at is not None:
            self._stop_at[cookie] = self._end_of(new)
        elif self._stop_by is not None:
            _shutdown(connection, socket.SHUT_WR)

    # ── one connection ──────────────────────────────────────────────────────────────────

    def _peek_one(self, connection: Connection, used: int, maker: "ChunkMaker") -> int:
        """Add what this connection has to the chunk; how much of the buffer that took."""
        seen = self._kernel.observe(connection.socket)
        available = self._available(connection, seen)
        length = min(available, len(self._buffer) - used)
        if not length:
            self._nothing(connection, seen, available)
            return 0
        got = self._peek_into(connection, self._view[used : used + length])
        behind = self._behind(seen) if length == available else Ending.OPEN
        if got < length:
            # An urgent byte (tcp(7)) that no peek sees past: the record ends before it.
            length, behind = got, Ending.BROKEN
        part = Part(
            connection.cookie,
            seen.position,
            length,
            seen.ending,
            connection.skipping,
            behind.value,
            records=0,
        )
        return self._take(connection, part, used, maker, available)

    def _available(self, connection: Connection, seen: Seen) -> int:
        """Bytes that are ours to take: when stopping, no more than were there at the stop."""
        if self._stop_at is None or seen.ending:
            return seen.available
        return min(seen.available, max(0, self._stop_at[connection.cookie] - seen.position))

    def _behind(self, seen: Seen) -> Ending:
        """What follows the last available byte."""
        if seen.failed or (self._stop_at is not None and not seen.ending):
            return Ending.BROKEN
        return Ending.CLEAN if seen.ending else Ending.OPEN

    def _take(
        self, connection: Connection, part: Part, at: int, maker: "ChunkMaker", available: int
    ) -> int:
        cut = part.cut(self._buffer, at, maker.record_bytes_max)
        if cut.taken == 1 and not part.ending:
            self._take_single(connection, cut, available)
            return 0
        if not cut.taken and self._is_given_up(connection, part, available, maker):
            # Alone in its chunk, because the chunk's limit is what the kernel holds of it.
            maker.close(record_bytes_max=available)
            cut = part.cut(self._buffer, at, available)
        if not cut.taken:
            return 0
        self._wake_at(connection, 1)
        connection.skipping = cut.skipping
        part = part._replace(length=cut.taken, records=cut.records)
        maker.add(part, cut, cut.body(self._buffer))
        return cut.taken

    def _take_single(self, connection: Connection, cut: Cut, available: int) -> None:
        """A single byte can't be told from a FIN by a successor, so it gets no frame.

        A lone newline is an empty line, which is no record. The newline that ends an
        over-long record waits for the byte behind it. The single first byte of a record that
        is cut there (at a stop, before an urgent byte) is given up.
        """
        if self._stop_at is not None:
            self._finish(connection)
        elif cut.records == 0:
            self._wake_at(connection, available + 1)
        else:
            self._kernel.discard(connection.socket, 1, self._view)

    def _nothing(self, connection: Connection, seen: Seen, available: int) -> None:
        """No byte to take: because of the buffer, because it ended, or woken for nothing."""
        if available:
            self._passed_over.append(connection)
        elif seen.ending or self._stop_at is not None:
            self._finish(connection)
        else:
            self._wake_at(connection, 1)

    def _is_given_up(
        self, connection: Connection, part: Part, available: int, maker: "ChunkMaker"
    ) -> bool:
        """An unfinished record: wait for its rest, or see that it will never come."""
        if part.length < available:  # the buffer was too small behind other connections
            self._passed_over.append(connection)
        elif connection.wake_at <= available:
            self._wake_at(connection, available + 1)
        else:  # woken for nothing: the kernel will hold no more
            if self._stalls.began(connection, available):
                self._epoll.modify(connection.socket.fileno(), select.EPOLLRDHUP)
            return maker.empty and self._stalls.lasts(connection)
        return False

    def _finish_if_empty(self, connection: Connection) -> None:
        seen = self._kernel.observe(connection.socket)
        if seen.ending and not seen.available:
            self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        """Ended and empty, and no note speaks of it: the parent may let go of it too."""
        self._epoll.unregister(connection.socket.fileno())
        self._stalls.over(connection)
        del self._connections[connection.cookie]
        del self._by_fd[connection.socket.fileno()]
        # A close alone sends no FIN while the parent holds its duplicate.
        _shutdown(connection.socket, socket.SHUT_RDWR)
        self._link.report_finished(connection.cookie)
        connection.socket.close()

    def _wake_at(self, connection: Connection, available: int) -> None:
        if self._stalls.over(connection):
            self._epoll.modify(connection.socket.fileno(), WAIT)
        if connection.wake_at != available:
            self._kernel.wake_at(connection.socket, available)
            connection.wake_at = available

    def _peek_into(self, connection: Connection, view: memoryview) -> int:
        return connection.socket.recv_into(view, len(view), socket.MSG_PEEK)

    # ── hand-over ───────────────────────────────────────────────────────────────────────

    def _was_discarded(self, part: Part) -> bool:
        return part.was_discarded(self._kernel.observe(self._connections[part.cookie].socket))

    def _discard(self, parts: Iterable[Part]) -> None:
        for part in parts:
            connection = self._connections[part.cookie].socket
            self._kernel.discard(connection, part.length, self._view)

    def _skipping_cookies(self) -> list[int]:
        return [c.cookie for c in self._connections.values() if c.skipping]

    # ── stopping ────────────────────────────────────────────────────────────────────────

    def _stop_here(self) -> None:
        """What the kernel holds at this moment is the last that we take."""
        if self._stop_at is None:
            self._stop_at = {c.cookie: self._end_of(c) for c in self._connections.values()}

    def _end_of(self, connection: Connection) -> int:
        seen = self._kernel.observe(connection.socket)
        return seen.position + seen.available


class Stalls:
    """Connections with an unfinished record of which the kernel will hold no more.

    Its buffers may be too small for the record (tcp_rmem of tcp(7)), or memory is short. Such
    a connection isn't polled, it would wake us all the time, but looked at now and then. When
    nothing has come for STALL_S the record is given up as one that is too long.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._since: dict[int, tuple[Connection, int, float]] = {}
        self._look_at = 0.0

    @property
    def any(self) -> bool:
        """Whether there are such connections."""
        return bool(self._since)

    def began(self, connection: Connection, available: int) -> bool:
        """Note what is there; whether this connection has just stalled."""
        _, before, _ = self._since.get(connection.cookie, (connection, -1, 0.0))
        if available != before:
            self._since[connection.cookie] = (connection, available, self._monotonic())
        return before < 0

    def lasts(self, connection: Connection) -> bool:
        """Whether nothing has come for so long that nothing will."""
        return self._monotonic() - self._since[connection.cookie][2] >= STALL_S

    def over(self, connection: Connection) -> bool:
        """The connection goes on, or is gone; whether it had stalled."""
        return self._since.pop(connection.cookie, None) is not None

    def to_look_at(self) -> list[Connection]:
        """All of them, once in STALL_LOOK_S."""
        now = self._monotonic()
        if now < self._look_at:
            return []
        self._look_at = now + STALL_LOOK_S
        return [connection for connection, _, _ in self._since.values()]


class ChunkMaker:
    """Collects the parts of many connections into one chunk."""

    def __init__(self, first_received: float, record_bytes_max: int) -> None:
        self.record_bytes_max = record_bytes_max
        self._first_received = first_received
        self._closed = False
        self._parts: list[Part] = []
        self._bodies: list[Buffer] = []
        self._rejected: dict[int, str] = {}
        self._records = 0
        self._skipped_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._parts

    @property
    def full(self) -> bool:
        """Whether no more connections fit: a note has a limited size (note.SLOT_BYTES)."""
        return self._closed or len(self._parts) >= EVENTS_MAX

    def close(self, record_bytes_max: int) -> None:
        """Only one part comes, and with a limit of its own."""
        self._closed = True
        self.record_bytes_max = record_bytes_max

    def add(self, part: Part, cut: Cut, body: Buffer) -> None:
        """Add one connection's stretch; its records go behind those that are here."""
        self._parts.append(part)
        if len(body):
            self._bodies.append(body)
        for index, code in cut.rejected.items():
            self._rejected[self._records + index] = code
        self._records += cut.records
        self._skipped_bytes += cut.skipped_bytes

    def chunk(self, last_received: float, skipping: list[int], gaps: list[Gap]) -> Chunk:
        """The chunk; its claim says which connections are inside an over-long record."""
        claim = {
            "parts": [list(part) for part in self._parts],
            "skipping": skipping,
            "first": self._first_received,
            "last": last_received,
            "record_bytes_max": self.record_bytes_max,
        }
        return Chunk(
            body=self._bodies[0] if len(self._bodies) == 1 else b"".join(self._bodies),
            records=self._records,
            claim=claim,
            first_received=self._first_received,
            last_received=last_received,
            rejected=self._rejected,
            gaps=tuple(gaps),
            skipped_bytes=self._skipped_bytes,
        )


def lost(part: Part) -> Gap:
    """What is missing of a frame whose connection died with the parent."""
    return Gap("connection lost", part.records, part.length)


def _shutdown(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:  # the other side was faster
        pass
