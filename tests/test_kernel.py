"""The start-up test: does the running kernel let a kind of socket be held?"""

import socket

import pytest

from appliance.sources import tcp, unix
from appliance.sources.kernel import Kernel, PlainKernel, Seen, Stretch, holds
from tests.socket_place import TCP, UNIX, Kind


@pytest.mark.parametrize("kind", [TCP, UNIX], ids=["tcp", "unix"])
def test_this_kernel_holds(kind: Kind) -> None:
    assert holds(kind.kernel, kind.connected)


class NoMark(unix.UnixKernel):
    """The option is taken, and does nothing."""

    def mark(self, connection: socket.socket, length: int) -> None:
        """Nothing."""


class NoOption(unix.UnixKernel):
    """The option is unknown."""

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        raise OSError(92, "Protocol not available")


class NoCounter(tcp.TcpKernel):
    """tcp_info is there, its counter always 0."""

    def observe(self, connection: socket.socket) -> Seen:
        return super().observe(connection)._replace(position=0)


class ShortInfo(tcp.TcpKernel):
    """tcp_info is older than the counter."""

    def observe(self, connection: socket.socket) -> Seen:
        tcp._BYTES_RECEIVED.unpack_from(b"\0" * 104, tcp._BYTES_RECEIVED_AT)
        raise AssertionError


class NoPeek(tcp.TcpKernel):
    """A peek takes the bytes."""

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        return connection.recv_into(view, len(view))


class NoCount(tcp.TcpKernel):
    """FIONREAD doesn't count."""

    def observe(self, connection: socket.socket) -> Seen:
        return super().observe(connection)._replace(available=0)


class AlwaysRead(unix.UnixKernel):
    """A mark is 0 from the start."""

    def left_of(self, connection: socket.socket, stretch: Stretch) -> int:
        return 0


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        (PlainKernel(), UNIX),
        (NoMark(), UNIX),
        (NoOption(), UNIX),
        (AlwaysRead(), UNIX),
        (PlainKernel(), TCP),
        (NoCounter(), TCP),
        (ShortInfo(), TCP),
        (NoPeek(), TCP),
        (NoCount(), TCP),
    ],
    ids=lambda one: type(one).__name__ if not isinstance(one, Kind) else "",
)
def test_one_that_lacks_something_does_not(kernel: Kernel, kind: Kind) -> None:
    assert not holds(kernel, kind.connected)


def test_what_cannot_be_tried_is_not_relied_on() -> None:
    def connected() -> tuple[socket.socket, socket.socket]:
        raise OSError(99, "Cannot assign requested address")

    assert not holds(tcp.TcpKernel(), connected)
