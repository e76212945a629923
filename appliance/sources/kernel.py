"""What the kernel can say of a connection, and what `held.HeldSource` needs of each kind.

`Kernel` is the one seam between kinds of sockets. A kind promises that after `kill -9` at
any instant a successor can tell of a stretch of bytes how much of it was read for good
(`left_of`): that is what makes a source held. `holds` tries at the start whether the running
kernel lets it; where not, `PlainKernel` does without, and the source is fleeting.
"""

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

BACKLOG = 1024  # senders that wait to be accepted; the kernel's own limit is net.core.somaxconn
POLLED = select.EPOLLIN | select.EPOLLRDHUP
SO_PEEK_OFF = 42  # of a socket: where peeks start
AT_REST = -1  # at the front, and nothing moves it
ARRIVAL_S = 1.0  # from one end of a connection to the other, on one machine


class Seen(NamedTuple):
    """What the kernel says of a connection at one moment.

    available: bytes that can be read now.
    ending: no byte will come behind the available ones.
    failed: it ended by a reset or an error, so an unfinished record is cut.
    position: bytes read for good so far, where the kernel counts them (TCP); where `ending`,
        one more may be counted for the FIN.
    """

    available: int
    ending: bool
    failed: bool
    position: int = 0


class Stretch(NamedTuple):
    """Bytes at the front of a connection that are about to be read for good."""

    start: int  # Seen.position
    length: int
    ending: bool  # Seen.ending


class Kernel(Protocol):
    """How one kind of socket is observed and emptied."""

    @property
    def part_bytes_min(self) -> int:
        """The shortest stretch that `left_of` can judge, unless it was `ending` then."""

    @property
    def wakes_when_full(self) -> bool:
        """Whether poll wakes for no new byte when the kernel will hold no more of a record."""

    @property
    def peeks_behind(self) -> bool:
        """Whether `peek_behind` works on the running kernel."""

    def adopt(self, connection: socket.socket) -> None:
        """Before anything else: undo what a predecessor may have left that was killed."""

    def observe(self, connection: socket.socket) -> Seen:
        """The connection's state, consistent in itself."""

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        """Show what is available, from its front; no stretch is marked any more.

        Less than that where a piece ends that was sent apart: the rest shows behind it.
        """

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        """Show what is available behind the first `length` bytes. No mark is touched."""

    def mark(self, connection: socket.socket, length: int) -> None:
        """From here on `left_of` can tell: done before the first byte may be read for good."""

    def left_of(self, connection: socket.socket, stretch: Stretch) -> int:
        """How much of a marked stretch hasn't been read for good: its length if nothing was."""

    def discard(self, connection: socket.socket, length: int, scratch: memoryview) -> None:
        """Read so many available bytes for good."""

    def wake_at(self, connection: socket.socket, available: int) -> int:
        """What to poll for, to hear of so many bytes (1: of any; else of new ones) or an end."""


class PlainKernel:
    """Any stream socket, by what every kernel offers: nobody can tell what was read for good."""

    part_bytes_min = 1
    wakes_when_full = False
    peeks_behind = False

    def adopt(self, connection: socket.socket) -> None:
        """A predecessor may have been held: one that could tell, and has left its mark."""
        rest(connection)

    def observe(self, connection: socket.socket) -> Seen:
        """An end is looked for first: nothing comes behind it, so what is there then is all."""
        poller = select.poll()
        poller.register(connection, select.POLLRDHUP)
        events = sum(events for _fd, events in poller.poll(0))
        return Seen(readable(connection), events != 0, bool(events & select.POLLERR))

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        """Show what is available."""
        return connection.recv_into(view, len(view), socket.MSG_PEEK)

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        """Nobody asks for it."""
        raise NotImplementedError

    def mark(self, connection: socket.socket, length: int) -> None:
        """Nothing would tell."""

    def left_of(self, connection: socket.socket, stretch: Stretch) -> int:
        """Nobody knows, and a fleeting source doesn't ask."""
        raise NotImplementedError

    def discard(self, connection: socket.socket, length: int, scratch: memoryview) -> None:
        """Read so many available bytes for good."""
        while length:
            length -= connection.recv_into(scratch, min(length, len(scratch)))

    def wake_at(self, connection: socket.socket, available: int) -> int:
        """A low-water mark needn't work: poll tells of each new byte, and of nothing else."""
        return POLLED if available == 1 else POLLED | select.EPOLLET


def holds(kernel: Kernel, connected: Callable[[], tuple[socket.socket, socket.socket]]) -> bool:
    """Try on a fresh connection whether the running kernel does what the kind relies on.

    `connected` makes our end, prepared as an accepted connection is, and the sender's.
    """
    try:
        ours, theirs = connected()
    except OSError:
        return False
    with ours, theirs:
        return _holds(kernel, ours, theirs)


def _holds(kernel: Kernel, ours: socket.socket, theirs: socket.socket) -> bool:
    view = memoryview(bytearray(8))
    theirs.sendall(b"abcdef")
    poller = select.poll()  # select(2) knows no descriptor above 1023
    poller.register(ours, select.POLLIN)
    poller.poll(ARRIVAL_S * 1000)
    try:
        seen = kernel.observe(ours)
        stretch = Stretch(seen.position, 4, seen.ending)
        shown = bytes(view[: kernel.peek(ours, view)])
        kernel.mark(ours, stretch.length)
        untouched = kernel.left_of(ours, stretch)
        kernel.discard(ours, stretch.length, view)
        touched = kernel.left_of(ours, stretch)
        rest = bytes(view[: kernel.peek(ours, view)])
    except (OSError, LookupError, struct.error, NotImplementedError):
        return False
    return (seen[:3], shown, untouched, touched, rest) == (
        (6, False, False),
        b"abcdef",
        4,
        0,
        b"ef",
    )


def rest(connection: socket.socket) -> None:
    """Let peeks begin at the front."""
    with suppress(OSError):  # where it can't be set, nobody has
        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, AT_REST)


def readable(connection: socket.socket) -> int:
    """Bytes that can be read now (FIONREAD)."""
    answer = fcntl.ioctl(connection.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(answer, "little", signed=True)
