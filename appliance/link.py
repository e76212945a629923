"""The wire between the parent and a collector: connections go down or up, their ends come up.

A socketpair of packets (SOCK_SEQPACKET), fresh at each birth of the collector, so that what
was on its way to a dead one is never mistaken for news. Down: an 8-byte cookie with the
connection's descriptor. Up: news of a connection, again by its cookie: it is finished, or it is
one that the collector makes itself, with its descriptor. A cookie is the socket's SO_COOKIE:
unique per boot, the same through dup, fork and SCM_RIGHTS.

When one side dies with something unread, the kernel tells the other by one ECONNRESET, even
before what the dead one had sent: that is still there, and is read.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

SO_COOKIE = 57
_COOKIE = struct.Struct("=Q")
_NEWS = struct.Struct("=?Q")  # finished, cookie


class News(NamedTuple):
    """What a collector says of a connection: it is finished, or new and to be kept.

    A new one is None where our kernel had no descriptor left for it.
    """

    cookie: int
    finished: bool
    connection: socket.socket | None


def cookie_of(connection: socket.socket) -> int:
    """The connection's name (socket(7), SO_COOKIE)."""
    value: int = _COOKIE.unpack(connection.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    return value


def pair() -> tuple["ParentEnd", "ChildEnd"]:
    """Both ends of a new wire."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    return ParentEnd(ours), ChildEnd(theirs)


class ParentEnd:
    """The parent's end: never blocks; what can't be sent now is kept in order."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._unsent: deque[socket.socket] = deque()

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._wire.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something to do when the wire is writable."""
        return bool(self._unsent)

    def send(self, connection: socket.socket) -> None:
        """Hand a connection down; the caller keeps its own descriptor open."""
        self._unsent.append(connection)
        self.flush()

    def flush(self) -> None:
        """Send what is waiting, as far as the wire takes it."""
        while self._unsent:
            connection = self._unsent[0]
            message = _COOKIE.pack(cookie_of(connection))
            try:
                socket.send_fds(self._wire, [message], [connection.fileno()])
            except BlockingIOError:
                return
            except ConnectionError:
                self._unsent.clear()  # it is dead: its successor inherits all
                return
            except OSError:  # too many are under way (ETOOMANYREFS), no memory: later
                return
            self._unsent.popleft()

    def news(self) -> Iterator[News]:
        """What the collector has said since the last call."""
        while True:
            try:
                message, fds, _flags, _address = socket.recv_fds(self._wire, _NEWS.size, 1)
            except ConnectionResetError:  # what it had sent comes behind
                continue
            except BlockingIOError:
                return
            if not message:
                return
            finished, cookie = _NEWS.unpack(message)
            yield News(cookie, finished, _own(fds[0]) if fds else None)

    def close(self) -> None:
        """Close this end."""
        self._wire.close()


def _own(fd: int) -> socket.socket:
    """A received connection; it doesn't block, and no program that we start shall have it."""
    os.set_inheritable(fd, False)
    connection = socket.socket(fileno=fd)
    connection.setblocking(False)
    return connection


class ChildEnd:
    """The collector's end (protocols: `sources.held.Link`, `sources.dialled.Wire`)."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._wire.fileno()

    def arrivals(self) -> Iterator[tuple[int, socket.socket]]:
        """Connections that the parent has handed down since the last call, with cookies."""
        while True:
            try:
                message, fds, _flags, _address = socket.recv_fds(self._wire, _COOKIE.size, 1)
            except ConnectionResetError:  # what it had sent comes behind
                continue
            except BlockingIOError:
                return
            if not message:
                return
            yield _COOKIE.unpack(message)[0], socket.socket(fileno=fds[0])

    def hand_up(self, connection: socket.socket) -> int:
        """Give the parent a duplicate of a connection of ours, to keep; its cookie.

        Raises:
            OSError: it can't be given: no parent any more, or too many are under way.
        """
        cookie = cookie_of(connection)
        self._say(_NEWS.pack(False, cookie), [connection.fileno()])
        return cookie

    def report_finished(self, cookie: int) -> None:
        """Tell the parent that it may close its duplicate."""
        try:
            self._say(_NEWS.pack(True, cookie), [])
        except (BrokenPipeError, ConnectionResetError):  # no parent any more
            pass

    def _say(self, message: bytes, fds: list[int]) -> None:
        """Send, and wait until it is on its way: the parent always reads."""
        self._wire.setblocking(True)
        try:
            socket.send_fds(self._wire, [message], fds)
        finally:
            self._wire.setblocking(False)

    def close(self) -> None:
        """Close this end."""
        self._wire.close()
