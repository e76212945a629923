"""TCP: how the kernel says what of a connection was discarded; how listening and dialling begin.

`tcpi_bytes_received` (TCP_INFO) minus FIONREAD is the position: bytes that were read for
good. Facts behind the code, each tried on Linux:

- The two are read by separate calls; under a flood they disagree, in the losing direction.
  So TCP_INFO is read before and after until both agree.
- A FIN counts as one received byte from CLOSE_WAIT, LAST_ACK and CLOSING on, not in
  ESTABLISHED or FIN_WAIT; in CLOSE nobody knows. So where a stretch begins without `ending`,
  a FIN that comes later may move the position by one, and it is never a single byte then.
- SO_OOBINLINE from the start, or an urgent byte stops FIONREAD. A peek ends before it all the
  same (tcp(7)), and goes on with it when the rest was read.
- SO_RCVLOWAT set once to 3 MiB grows the receive buffer for good. Without that a byte of an
  unfinished record pins a coalesced buffer of its whole size, the window stays shut and the
  stream stalls.
- A receive with MSG_TRUNC discards without copying (tcp(7)).
- SO_PEEK_OFF lets a peek start behind bytes that were shown (Linux 6.9, IPv6 later). It is the
  socket's, which outlives us, and is set for one peek only: who takes a connection over resets it.
"""

import select
import socket
import struct
from functools import cached_property
from typing import NamedTuple

from appliance.errors import AddressError, Unavailable
from appliance.sources.dialled import Target
from appliance.sources.kernel import (
    ARRIVAL_S,
    AT_REST,
    BACKLOG,
    POLLED,
    SO_PEEK_OFF,
    Seen,
    Stretch,
    readable,
    rest,
)

RECEIVE_BUFFER_BYTES = 3 * 1024**2


FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Keepalive(NamedTuple):
    """When the kernel asks a silent other side whether it is there, and gives it up (tcp(7))."""

    idle_s: int
    interval_s: int
    probes: int

    @property
    def gone_s(self) -> int:
        """So long it was silent when it is given up."""
        return self.idle_s + self.interval_s * self.probes


# A sender whose machine is gone holds its place no longer than this. Later than a sender's own
# TCP gives up what it could not send (about 15 minutes, tcp_retries2): none is cut that would
# have come back.
SENDER = Keepalive(idle_s=600, interval_s=60, probes=10)
SERVER = Keepalive(idle_s=30, interval_s=10, probes=6)  # one that we dial is dialled again soon

_TCP_INFO_BYTES = 136
_BYTES_RECEIVED = struct.Struct("=Q")
_BYTES_RECEIVED_AT = 128  # offsetof(struct tcp_info, tcpi_bytes_received)

# Numbers of include/net/tcp_states.h.
_TIME_WAIT, _CLOSE, _CLOSE_WAIT, _LAST_ACK, _CLOSING = 6, 7, 8, 9, 11
_ENDING = frozenset({_TIME_WAIT, _CLOSE, _CLOSE_WAIT, _LAST_ACK, _CLOSING})


class TcpKernel:
    """A TCP connection as `held.HeldSource` needs it (contract: `kernel.Kernel`)."""

    part_bytes_min = 2
    wakes_when_full = True

    @cached_property
    def peeks_behind(self) -> bool:
        """Tried once in each process that asks, and not before."""
        try:
            ours, theirs = connected()
        except OSError:
            return False
        with ours, theirs:
            return _peeks_behind(self, ours, theirs)

    def adopt(self, connection: socket.socket) -> None:
        """A predecessor may have died amid `peek_behind`."""
        rest(connection)

    def observe(self, connection: socket.socket) -> Seen:
        """The connection's state, read until the kernel agrees with itself."""
        state, received = _info(connection)
        while True:
            available = readable(connection)
            again = _info(connection)
            if again == (state, received):
                break
            state, received = again
        ending = state in _ENDING
        failed = ending and _has_error(connection)
        return Seen(available, ending, failed, received - available)

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        """Show what is available."""
        return connection.recv_into(view, len(view), socket.MSG_PEEK)

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        """Show what is available behind the first `length` bytes; 0 where that can't be done."""
        try:
            connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, length)
        except OSError:
            return 0
        try:
            shown = self.peek(connection, view)
        except OSError:
            shown = 0
        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, AT_REST)
        return shown

    def mark(self, connection: socket.socket, length: int) -> None:
        """The position tells without."""

    def left_of(self, connection: socket.socket, stretch: Stretch) -> int:
        """All or nothing, because one call discards it."""
        moved = self.observe(connection).position - stretch.start
        return 0 if moved >= (1 if stretch.ending else 2) else stretch.length

    def discard(self, connection: socket.socket, length: int, scratch: memoryview) -> None:
        """Forget `length` available bytes without copying them, all in one call (`left_of`)."""
        if length > len(scratch):  # a frame of a predecessor, whose limit was larger
            scratch = memoryview(bytearray(length))
        left = length
        while left:
            left -= connection.recv_into(scratch, left, socket.MSG_TRUNC)

    def wake_at(self, connection: socket.socket, available: int) -> int:
        """Low-water mark of poll (SO_RCVLOWAT); the kernel caps it at half its buffer."""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, available)
        return POLLED


def _peeks_behind(kernel: TcpKernel, ours: socket.socket, theirs: socket.socket) -> bool:
    """Whether what is shown behind two bytes are the two behind them, and a peek all four again."""
    view = memoryview(bytearray(8))
    theirs.sendall(b"abcd")
    poller = select.poll()
    poller.register(ours, select.POLLIN)
    poller.poll(ARRIVAL_S * 1000)
    behind = bytes(view[: kernel.peek_behind(ours, 2, view)])
    try:
        all_of_it = bytes(view[: kernel.peek(ours, view)])
    except OSError:
        return False
    return (behind, all_of_it) == (b"cd", b"abcd")


def prepare(connection: socket.socket) -> None:
    """What the parent does to each connection before anybody reads it."""
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    _keep_alive(connection, SENDER)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, RECEIVE_BUFFER_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def prepare_dialled(connection: socket.socket) -> None:
    """What is done to each connection of ours before it is made: nothing is sent over it, so only
    probes tell that its server is gone.
    """
    prepare(connection)
    _keep_alive(connection, SERVER)


def _keep_alive(connection: socket.socket, when: Keepalive) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, when.idle_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, when.interval_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, when.probes)


def find(address: str) -> list[Target]:
    """Where "host:port" is now: all addresses of the host, in the order of getaddrinfo(3).

    Raises:
        Unavailable: the name can't be resolved.
    """
    host, _, port = address.rpartition(":")
    try:
        infos = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(error.strerror or str(error)) from error
    return [Target(family, name, words(name)) for family, *_, name in dict.fromkeys(infos)]


def words(name: tuple[object, ...]) -> str:
    """A socket's name as users write it."""
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def connected() -> tuple[socket.socket, socket.socket]:
    """A connection to try things on: our end, prepared, and the sender's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.socket()
        theirs.connect(listener.getsockname())  # create_connection would ask the resolver
        ours, _address = listener.accept()
    prepare(ours)
    return ours, theirs


def listen(address: str, left: list[socket.socket] | None = None) -> list[socket.socket]:
    """Listening sockets for "host:port": all addresses of the host.

    One that listens there already is taken out of `left`, with all who wait at it.

    Raises:
        AddressError: the host is unknown, or the address can't be bound.
    """
    opened: list[socket.socket] = []
    try:
        for family, name in _addresses(address):
            if not any(_serves(one, family, name) for one in opened):
                opened.append(_taken_over(family, name, left or []) or _bound(family, name))
    except OSError as error:
        for one in opened:
            one.close()
        raise _refused(address, error) from error
    return opened


def _addresses(address: str) -> list[tuple[int, tuple[object, ...]]]:
    """Family and name of each address of "host:port" (getaddrinfo(3))."""
    host, _, port = address.rpartition(":")
    infos = socket.getaddrinfo(
        host.strip("[]") or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return [(family, name) for family, *_, name in dict.fromkeys(infos)]


def _refused(address: str, error: OSError) -> AddressError:
    return AddressError(
        f"can't listen on {address}: {error.strerror or error}",
        "another program may hold the port (ss -ltnp), or the host is not this machine's",
    )


def is_left(address: str, left: list[socket.socket]) -> bool:
    """Whether sockets listen at all addresses that `listen` would listen at.

    Raises:
        AddressError: the host is unknown.
    """
    names = {one.getsockname() for one in left if one.family != socket.AF_UNIX}
    try:
        return all(name in names for _family, name in _addresses(address))
    except OSError as error:
        raise _refused(address, error) from error


def listens_at(one: socket.socket, address: str) -> bool:
    """Whether this socket listens at one of the addresses of "host:port"."""
    try:
        return any(_serves(one, *named) for named in _addresses(address))
    except OSError:  # the host is unknown now: `listen` says so
        return False


def _taken_over(
    family: int, name: tuple[object, ...], left: list[socket.socket]
) -> socket.socket | None:
    for one in left:
        if _serves(one, family, name):
            left.remove(one)
            one.setblocking(False)
            return one
    return None


def _serves(one: socket.socket, family: int, name: tuple[object, ...]) -> bool:
    """Whether it listens at this address, or at all of IPv6 and IPv4 (as systemd.socket has it)."""
    if one.type != socket.SOCK_STREAM or one.family not in FAMILIES:
        return False
    at = one.getsockname()
    if one.family == family and at == name:
        return True
    is_for_both = one.family == socket.AF_INET6 and not one.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )
    return is_for_both and at[:2] == ("::", name[1]) and name[0] == "0.0.0.0"


def _bound(family: int, name: object) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(name)  # type: ignore[arg-type]
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _info(connection: socket.socket) -> tuple[int, int]:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    return info[0], _BYTES_RECEIVED.unpack_from(info, _BYTES_RECEIVED_AT)[0]


def _has_error(connection: socket.socket) -> bool:
    """Whether an error is pending; SO_ERROR would clear it, and a successor not see it."""
    poller = select.poll()
    poller.register(connection, 0)
    return any(events & select.POLLERR for _fd, events in poller.poll(0))
