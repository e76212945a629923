"""The acceptor: takes connections in the parent, so that no collector's death loses one.

A collector that accepts and is killed before it hands a duplicate up loses what the kernel
had acknowledged. So the parent accepts, keeps the connection, and only then hands it down;
a new collector inherits all of them at fork. The parent never reads from one. A collector that
dials hands up each socket before it connects it, and the same holds for those.

`Acceptor` is the part of one source. It decides nothing about processes; the watchdog polls
its descriptors and tells it of births.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Mapping

from appliance.contracts import Holder, NoHolder
from appliance.fdnames import connection_name, listener_name
from appliance.link import ChildEnd, ParentEnd, cookie_of, pair

PAUSE_S = 1.0  # when the kernel has no descriptors or memory for another connection
QUIET_SHARE = 0.9  # being full is said again only when it was less full than this
SAY_AGAIN_S = 60.0  # and the same trouble not more often than this, whatever senders do
ACCEPTS_MAX = 64  # connections taken at one go, so that one source can't hold the loop up

Prepare = Callable[[socket.socket], None]
Listen = Callable[[], list[socket.socket]]
Forget = Callable[[], None]


def nothing_to_forget() -> None:
    """An address of the network ends with its listening socket."""


class Acceptor:
    """Listening sockets and living connections of one source.

    Whoever `holder` is keeps a duplicate of each of them, until it is finished or closed here.
    `inherited` are connections that a predecessor has left, by their cookies.
    """

    def __init__(
        self,
        name: str,
        listen: Listen,
        prepare: Prepare,
        connections_max: int,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        forget: Forget = nothing_to_forget,
        holder: Holder | None = None,
        inherited: Mapping[int, socket.socket] | None = None,
    ) -> None:
        self._name = name
        self._holder = holder or NoHolder()
        self._log = logging.getLogger(f"source {name}")
        self._prepare = prepare
        self._connections_max = connections_max
        self._forget = forget
        self._monotonic = monotonic
        self._paused_until = 0.0
        self._said_full = False
        self._quiet_until: dict[str, float] = {}  # by what was said
        self._connections: dict[int, socket.socket] = {}
        self._wire: ParentEnd | None = None
        self.listeners = listen()
        self._keep_listeners()
        for cookie, connection in (inherited or {}).items():
            self._keep(cookie, connection)

    @property
    def has_room(self) -> bool:
        """Whether another connection may be accepted; over the limit the backlog waits."""
        if self._monotonic() < self._paused_until:
            return False
        return len(self._connections) < self._connections_max

    @property
    def wire(self) -> ParentEnd | None:
        """The wire to the living collector, to poll."""
        return self._wire

    @property
    def connections(self) -> list[tuple[int, socket.socket]]:
        """All connections that are not finished, with their cookies."""
        return list(self._connections.items())

    def birth(self) -> ChildEnd:
        """A fresh wire for a collector about to be forked; it inherits all connections."""
        self.bury()
        self._wire, theirs = pair()
        return theirs

    def bury(self) -> None:
        """The collector is dead: what it still said is heard, its wire closed."""
        if self._wire:
            self.hear()
            self._wire.close()
            self._wire = None

    def accept(self, listener: socket.socket, at_most: int = ACCEPTS_MAX) -> None:
        """Take waiting connections: keep first, then hand down."""
        if listener not in self.listeners:  # a stop that came in the same look closed it
            return
        for _ in range(at_most):
            if not self.has_room:
                self._say_full()
                return
            connection = self._try_accept(listener)
            if connection is None:
                return
            self._keep(cookie_of(connection), connection)
            if self._wire:
                self._wire.send(connection)

    def take_over(self, connection: socket.socket) -> None:
        """A connection that has waited for a predecessor, and is prepared."""
        self._keep(cookie_of(connection), connection)

    def _keep(self, cookie: int, connection: socket.socket) -> None:
        self._connections[cookie] = connection
        self._holder.keep(connection_name(self._name, cookie), connection)

    def _say_full(self) -> None:
        if not self._said_full:
            self._say(f"{len(self._connections)} connections: the next ones wait")
            self._said_full = True

    def _say(self, text: str) -> None:
        now = self._monotonic()
        if now >= self._quiet_until.get(text, now):
            self._quiet_until[text] = now + SAY_AGAIN_S
            self._log.warning("%s", text)

    def hear(self) -> None:
        """Keep the connections that the collector makes; close those that it has finished."""
        for news in self._wire.news() if self._wire else ():
            if news.finished:
                self._release(news.cookie)
            elif news.connection:
                self._keep(news.cookie, news.connection)
            else:
                self._say("can't keep a connection: no descriptor is left for it")
        if len(self._connections) < QUIET_SHARE * self._connections_max:
            self._said_full = False

    def _release(self, cookie: int) -> None:
        connection = self._connections.pop(cookie, None)
        if connection:
            self._holder.release(connection_name(self._name, cookie))
            connection.close()

    def stop_listening(self, take: bool = True, moved: bool = False) -> None:
        """Close the listening sockets, once those who wait there were taken, as far as they fit.

        A short sender may have sent all and left by now: the kernel has acknowledged it. Where
        nobody is going to read (not `take`), those who wait are refused, and see it.
        `forget` goes first, so that nobody new finds a socket's file; unless it is another's by now
        (`moved`).
        """
        if not moved:
            self._forget()
        self._forget = nothing_to_forget
        for listener in self.listeners:
            if take:
                self.accept(listener, self._connections_max)
            self._holder.release(listener_name(self._name, cookie_of(listener)))
            listener.close()
        self.listeners = []

    def listen_at(
        self, listeners: list[socket.socket], forget: Forget, connections_max: int
    ) -> None:
        """Listen here from now on, having stopped; all connections stay, whatever their number."""
        assert not self.listeners
        self.listeners, self._forget = listeners, forget
        self._connections_max = connections_max
        self._keep_listeners()

    def _keep_listeners(self) -> None:
        for listener in self.listeners:
            self._holder.keep(listener_name(self._name, cookie_of(listener)), listener)

    def close(self) -> None:
        """Nobody is left who reads: refuse who waits, let go of all connections."""
        self.stop_listening(take=False)
        for cookie in list(self._connections):
            self._release(cookie)

    def close_in_child(self) -> None:
        """In a child that isn't this source's collector: drop the inherited descriptors."""
        for inherited in self._all():
            inherited.close()

    def close_in_keeper(self) -> None:
        """In the keeper, which holds all sockets: drop the wire."""
        if self._wire:
            self._wire.close()

    def close_for_collector(self) -> None:
        """In this source's own collector: drop all but the connections."""
        for listener in self.listeners:
            listener.close()
        if self._wire:
            self._wire.close()

    def _all(self) -> Iterator[socket.socket | ParentEnd]:
        yield from self.listeners
        yield from self._connections.values()
        if self._wire:
            yield self._wire

    def _try_accept(self, listener: socket.socket) -> socket.socket | None:
        try:
            connection, _address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return None
        except OSError as error:
            # No room in the kernel, or an error of the one connection (accept(2)): never ours.
            self._say(f"can't accept: {error.strerror}; the next ones wait")
            self._paused_until = self._monotonic() + PAUSE_S
            return None
        self._prepare(connection)
        return connection
