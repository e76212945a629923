"""Sources that dial: a held connection that we make ourselves, and make again for ever.

The parent holds a duplicate of it as of those that it accepts: each socket is handed up *before*
it connects. So there is no moment at which a server has reached us and only the collector has
the connection: one that is killed anywhere cuts no server, and its successor inherits the
connection, or one that is being made.

`Dialler` is the link to the parent that a HeldSource knows (`held.Link`): where a listening
source is handed connections down, here they arrive when they have come about. It never blocks
but where a name is resolved, and does one thing at a time, the next one when it is due:

    what there is                     when it is due           what is done then
    ───────────────────────────────   ──────────────────────   ──────────────────────────────
    nothing                           at once; later after a   resolve the name (anew each time)
                                      random, growing pause
    addresses that are left to try    at once                  hand a socket up, let it connect
    a socket that is connecting       after CONNECT_S          give it up; the next address
    a connection, or we were stopped  never                    nothing

The pause starts anew with the first frame over a connection. A connection that ends, in whatever
way, is dialled again; so such a source never ends by itself.
"""

import errno
import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from appliance import backoff
from appliance.contracts import Checkpoint, Chunk, Remark, no_checkpoint
from appliance.errors import Unavailable
from appliance.frame import Gap
from appliance.sources.absence import SERVER_AWAY, STOPPED, Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.held import Connection, HeldSource, Limits, Wake
from appliance.sources.kernel import Kernel, readable
from appliance.sources.parts import gaps_in

CONNECT_S = 10.0  # for one address; well below the kernel's own two minutes
ENDED = "the server ended it"
NO_ANSWER = f"no answer within {CONNECT_S:g} s"


class Target(NamedTuple):
    """One address to connect to, as socket(2) and connect(2) take it, and in words."""

    family: int
    address: Any
    name: str


Find = Callable[[], Iterable[Target]]
"""Where the server is now, the best address first, never none. May block. Raises Unavailable."""


def look(server: str, find: Find) -> Remark:
    """Whether the server takes a connection, for `check`.

    Raises:
        Unavailable: no address of it does.
    """
    said = ""
    for target in find():
        with socket.socket(target.family, socket.SOCK_STREAM) as connection:
            connection.settimeout(CONNECT_S)
            try:
                connection.connect(target.address)
            except OSError as error:
                said = f"{target.name}: {error.strerror or NO_ANSWER}"
            else:
                return Remark(f"{server} takes connections")
    raise Unavailable(said, "collect connects as soon as it answers")


class Wire(Protocol):
    """The wire up to the parent (see link.py)."""

    def hand_up(self, connection: socket.socket) -> int:
        """Give the parent a duplicate; the connection's cookie."""

    def report_finished(self, cookie: int) -> None:
        """Tell the parent that it may close its duplicate."""


class Attempt(NamedTuple):
    """A socket that is connecting; the parent has it too."""

    cookie: int
    socket: socket.socket
    name: str


class Dialler:
    """One connection to a server, as often as it takes (protocol: `held.Link`).

    Attributes:
        waiting_for: what is awaited, in words; empty while there is a connection.
        inherited: connections of a dead predecessor; while one of them lives, nobody is dialled.
    """

    def __init__(
        self,
        name: str,
        find: Find,
        prepare: Callable[[socket.socket], None],
        wire: Wire,
        inherited: Iterable[tuple[int, socket.socket]],
        *,
        chance: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> None:
        self._name = name
        self._find = find
        self._prepare = prepare
        self._wire = wire
        self._chance = chance
        self._monotonic = monotonic
        self._checkpoint = checkpoint
        self._targets: deque[Target] = deque()
        self._attempt: Attempt | None = None
        self._arrived: list[tuple[int, socket.socket]] = []
        self._failures = 0
        self._due = monotonic()
        self._stopped = False
        self._epoll = select.epoll()
        self.inherited: list[tuple[int, socket.socket]] = []
        self.waiting_for = ""
        self._say("no answer yet")
        for cookie, connection in inherited:
            self._inherit(cookie, connection)

    # ── what a held source asks of its link ─────────────────────────────────────────────

    def fileno(self) -> int:
        """Readable when an attempt to connect has come to its end."""
        return self._epoll.fileno()

    def arrivals(self) -> list[tuple[int, socket.socket]]:
        """The connection that has come about since the last call, with its cookie."""
        if self._attempt and self._epoll.poll(0):
            self._judge(self._attempt)
        arrived, self._arrived = self._arrived, []
        return arrived

    def report_finished(self, cookie: int) -> None:
        """The connection is over: the parent lets go of it, and the server is dialled again."""
        self._wire.report_finished(cookie)
        self._fail(ENDED)

    # ── what a dialled source asks ──────────────────────────────────────────────────────

    @property
    def due_in_s(self) -> float:
        """Seconds until `turn` has something to do."""
        return max(0.0, self._due - self._monotonic())

    def turn(self) -> None:
        """Do the next thing, if it is due; only resolving a name may block."""
        if self._monotonic() < self._due:
            return
        if self._attempt:
            self._give_up(self._attempt)
        elif self._targets:
            self._connect(self._targets.popleft())
        else:
            self._resolve()

    def data_came(self) -> None:
        """The server is well: the pauses between attempts start anew."""
        self._failures = 0

    def stop(self) -> None:
        """Dial no more. A socket that is connecting arrives as it is, to be ended in good order."""
        self._stopped = True
        self._targets.clear()
        if self._attempt:
            self._arrive(self._attempt)
        self._rest()

    def close(self) -> None:
        """Release the descriptors; the parent's duplicates keep what is connecting."""
        self._epoll.close()
        for _cookie, connection in self._arrived:
            connection.close()
        if self._attempt:
            self._attempt.socket.close()

    # ── one attempt ─────────────────────────────────────────────────────────────────────

    def _resolve(self) -> None:
        try:
            self._targets.extend(self._find())
        except Unavailable as error:
            self._fail(error.message)

    def _connect(self, target: Target) -> None:
        """Hand a new socket up, and only then let it connect."""
        try:
            attempt = self._hand_up(target)
        except OSError as error:
            self._fail(error.strerror or str(error), target.name)
            return
        answer = attempt.socket.connect_ex(target.address)
        if answer in (0, errno.EINPROGRESS):
            self._await(attempt)
        else:
            self._let_go(attempt)
            self._fail(os.strerror(answer), target.name)

    def _hand_up(self, target: Target) -> Attempt:
        connection = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            self._prepare(connection)
            cookie = self._wire.hand_up(connection)
        except OSError:
            connection.close()
            raise
        self._checkpoint("shared")
        return Attempt(cookie, connection, target.name)

    def _await(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._epoll.register(attempt.socket.fileno(), select.EPOLLOUT)
        self._due = self._monotonic() + CONNECT_S
        self._checkpoint("connecting")

    def _judge(self, attempt: Attempt) -> None:
        """It has come to its end: a connection, or not."""
        problem = _problem(attempt.socket)
        if problem:
            self._abandon(attempt, problem)
        else:
            self._checkpoint("connected")
            self._arrive(attempt)
            self._rest()

    def _give_up(self, attempt: Attempt) -> None:
        """It takes too long. Should it have come about in this moment, it arrives all the same.

        Shut down while it connects, a socket is unconnected for good; later that only says that
        we send nothing.
        """
        _shut_down(attempt.socket, socket.SHUT_WR)
        if _problem(attempt.socket):
            self._abandon(attempt, NO_ANSWER)
        else:
            self._due = math.inf

    def _abandon(self, attempt: Attempt, problem: str) -> None:
        self._epoll.unregister(attempt.socket.fileno())
        self._attempt = None
        self._let_go(attempt)
        self._fail(problem, attempt.name)

    def _let_go(self, attempt: Attempt) -> None:
        _shut_down(attempt.socket, socket.SHUT_RDWR)
        self._wire.report_finished(attempt.cookie)
        attempt.socket.close()

    def _arrive(self, attempt: Attempt) -> None:
        self._epoll.unregister(attempt.socket.fileno())
        self._attempt = None
        self._arrived.append((attempt.cookie, attempt.socket))

    def _inherit(self, cookie: int, connection: socket.socket) -> None:
        """One of a dead predecessor: it is connecting still, or the source's own business."""
        if _is_connecting(connection):
            self._await(Attempt(cookie, connection, self._name))
        else:
            self.inherited.append((cookie, connection))
            self._rest()

    # ── what comes next ─────────────────────────────────────────────────────────────────

    def _rest(self) -> None:
        """There is nothing to do until the connection ends."""
        self._targets.clear()
        self._due = math.inf
        self.waiting_for = ""

    def _fail(self, problem: str, where: str = "") -> None:
        """That came to nothing: try the next address, or all of them anew after a pause."""
        if self._stopped:
            return
        self._say(f"{problem} ({where})" if where not in ("", self._name) else problem)
        self._due = self._monotonic()
        if not self._targets:
            self._due += backoff.full_jitter(self._failures, self._chance())
            self._failures += 1

    def _say(self, problem: str) -> None:
        self.waiting_for = f"a connection to {self._name}: {problem}"


class DialledSource(HeldSource):
    """Records that a server sends over the connection that we make to it (contract: Source)."""

    def __init__(
        self,
        kernel: Kernel,
        dialler: Dialler,
        wake: Wake,
        limits: Limits,
        beginnings: Beginnings,
        _inherited: object = (),
        *,
        absence: Absence,
        **how: Any,
    ) -> None:
        self._dialler = dialler
        self._absence = absence
        super().__init__(kernel, dialler, wake, limits, beginnings, dialler.inherited, **how)

    @property
    def waiting_for(self) -> str:
        """The server, while there is no connection to it."""
        return self._dialler.waiting_for or super().waiting_for

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Go on behind the last note, and with what is known of the server's absence."""
        super().resume(cursor, claim)
        # A fleeting source may have lost the frame that it noted: it rather tells twice.
        told = [] if self.fleeting else gaps_in(claim)
        self._absence.born(self.connections > 0, told)

    def discard(self, chunk: Chunk) -> None:
        """Forget the chunk; its server is one that sends."""
        super().discard(chunk)
        if chunk.records:
            self._dialler.data_came()
        if gaps_in(chunk.claim):
            self._absence.told()
        self._absence.still_there()

    def wait(self, timeout_s: float) -> None:
        """Dial if it is time to; block until the server, the parent or a signal has something."""
        self._dialler.turn()
        if self.connections:
            self._absence.still_there()
        super().wait(min(timeout_s, self._dialler.due_in_s))

    def stop(self, quick: bool) -> None:
        """Dial nobody any more, and end the connection as any other."""
        self._dialler.stop()
        super().stop(quick)

    def leave(self) -> None:
        """The connection is the successor's."""
        self._dialler.stop()
        super().leave()

    def close(self) -> None:
        """Release the descriptors."""
        super().close()
        self._dialler.close()

    # ── the server's absence ────────────────────────────────────────────────────────────

    def _gaps(self, alone: bool) -> list[Gap]:
        gap = self._absence.gap
        return [gap] if gap and (self._absence.is_over or not alone) else []

    def _adopt(self, cookie: int, connection: socket.socket) -> None:
        super()._adopt(cookie, connection)
        if _is_there(connection):
            self._absence.found()

    def _finish(self, connection: Connection) -> None:
        """First say since when the server is away; a kill behind it leaves the connection ours."""
        if self._stop_by is not None:
            self._absence.lost(STOPPED, clean=False)
        else:
            failed = self._kernel.observe(connection.socket).failed
            self._absence.lost(SERVER_AWAY, clean=not failed)
        super()._finish(connection)


def _is_connecting(connection: socket.socket) -> bool:
    """Whether connect(2) is under way: only then can neither be said nor heard anything."""
    poller = select.poll()
    poller.register(connection, select.POLLOUT)
    return not poller.poll(0)


def _is_there(connection: socket.socket) -> bool:
    """Whether this is a connection, and not what is left of an attempt that a dead one made."""
    try:
        connection.getpeername()
    except OSError:
        return readable(connection) > 0
    return True


def _shut_down(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # there is nothing any more that could be
        connection.shutdown(how)


def _problem(connection: socket.socket) -> str:
    """Why connecting came to nothing; empty if there is a connection, whatever became of it.

    Looking for data asks for both: a server that has sent something and reset is heard to the
    end, its error stays for the one who reads; without data the error is said (and gone).
    """
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        pass
    except OSError as error:
        return error.strerror or str(error)
    return os.strerror(errno.ECONNREFUSED) if _is_with_itself(connection) else ""


def _is_with_itself(connection: socket.socket) -> bool:
    """Whether TCP has met itself, which it does where nobody listens on a port of the range that
    the kernel takes our own port from (tcp(7), "simultaneous open").
    """
    try:
        return bool(connection.getpeername() == connection.getsockname())
    except OSError:  # it was reset
        return False
