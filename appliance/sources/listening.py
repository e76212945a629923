"""Listening for a source: at a new socket, or at one that a predecessor or systemd has left.

An address of ours that is held already is taken over with all who wait there; what was left of
others stays with the caller. A socket that a .socket unit has made is used as it is: by its name
(FileDescriptorName=) where that is the source's, whatever address it has, else by its address. The
unit goes on holding it, so mode, owner and end of a socket's file are the unit's business.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import NamedTuple

from appliance.errors import ConfigError
from appliance.settings import SocketSource, UnixSource
from appliance.sources import tcp, unix
from appliance.sources.kernel import BACKLOG


class Listening(NamedTuple):
    """Sockets to accept from, what to do with each connection, what to do before they close."""

    sockets: list[socket.socket]
    prepare: Callable[[socket.socket], None]
    forget: Callable[[], None]


Given = list[tuple[str, socket.socket]]
"""Sockets of .socket units, by their names."""


def listen(
    source: SocketSource, left: list[socket.socket], name: str = "", given: Given | None = None
) -> Listening:
    """Listen where the source says, if it does; takes what it can use out of `left` and `given`.

    `name` is the source's.

    Raises:
        ConfigError: no such user or group; or a socket of its name is of another kind.
        AddressError: the address can't be listened on.
    """
    given = [] if given is None else given
    prepare = unix.prepare if isinstance(source, UnixSource) else tcp.prepare
    if source.listen is None:
        return Listening([], prepare, _nothing)
    named = [one for called, one in given if called == name]
    own = _taken(named or _at_its_path(source, given), source, name, given)
    if own:
        return Listening(own, prepare, _nothing)
    if isinstance(source, UnixSource):
        sockets = _unix(source, left)
        return Listening(sockets, prepare, unix.remover(sockets))
    offered = [*left, *(one for _, one in given)]
    sockets = tcp.listen(source.listen, offered)
    left[:] = [one for one in left if one in offered]
    given[:] = [(called, one) for called, one in given if one in offered]
    return Listening(sockets, prepare, _nothing)


def _nothing() -> None:
    """What ends with its socket, or isn't ours to end."""


def _at_its_path(source: SocketSource, given: Given) -> list[socket.socket]:
    """Those that listen at the path of a Unix source."""
    return [
        one
        for _, one in given
        if isinstance(source, UnixSource)
        and one.family == socket.AF_UNIX
        and one.getsockname() == source.listen
    ]


def _taken(
    own: list[socket.socket], source: SocketSource, name: str, given: Given
) -> list[socket.socket]:
    """Those sockets, taken out of `given`, as something to accept from."""
    for one in own:
        if not fits(source, one) or not listens(one):
            kind = "a path" if isinstance(source, UnixSource) else "host and port"
            raise ConfigError(
                f"source {name} was given a socket by systemd that it can't accept from: "
                f"{words(one)}",
                f"in its .socket unit write ListenStream= with {kind}, and Accept=no",
            )
        one.setblocking(False)
    given[:] = [(called, one) for called, one in given if one not in own]
    return own


def fits(source: SocketSource, one: socket.socket) -> bool:
    """Whether this socket is of the source's kind."""
    families = (socket.AF_UNIX,) if isinstance(source, UnixSource) else tcp.FAMILIES
    return one.family in families and one.type == socket.SOCK_STREAM


def listens(one: socket.socket) -> bool:
    """Whether it is a listening socket, and no connection."""
    return one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) > 0


def words(one: socket.socket) -> str:
    """A socket as users know it."""
    at = one.getsockname()
    kind = "" if one.type == socket.SOCK_STREAM else "datagrams at "
    return kind + (tcp.words(at) if one.family in tcp.FAMILIES else str(at) or "no path")


def _unix(source: UnixSource, left: list[socket.socket]) -> list[socket.socket]:
    assert source.listen is not None
    for one in left:
        if _listens_at(one, source.listen):
            left.remove(one)
            if os.path.exists(source.listen):
                one.setblocking(False)
                unix.admit(source.listen, source.mode, source.owner)
                return [one]
            one.close()  # nobody finds it any more
            break
    return unix.listen(source.listen, source.mode, source.owner)


def wants(source: SocketSource, one: socket.socket, is_its_own: bool) -> bool:
    """Whether a source of this configuration goes on with what was left: it is of its kind, and
    a connection of its own, or it listens where the source says.
    """
    if not fits(source, one):
        return False
    if not listens(one):
        return is_its_own
    if isinstance(source, UnixSource):
        # Without its file nobody would find it.
        return one.getsockname() == source.listen and os.path.exists(one.getsockname())
    return source.listen is not None and tcp.listens_at(one, source.listen)


def is_left(source: SocketSource, left: list[socket.socket]) -> bool:
    """Whether `listen` needs nothing but what is left; a host with several addresses may."""
    if isinstance(source, UnixSource):
        return any(_listens_at(one, source.listen) for one in left)
    assert source.listen is not None
    return tcp.is_left(source.listen, left)


def belongs_to(source: SocketSource, connection: socket.socket) -> bool:
    """Whether a connection is of the kind that this source has now."""
    return (connection.family == socket.AF_UNIX) == isinstance(source, UnixSource)


def _listens_at(one: socket.socket, path: str | None) -> bool:
    return one.family == socket.AF_UNIX and one.getsockname() == path


def waiting_at(source: SocketSource, listener: socket.socket) -> Iterator[socket.socket]:
    """Connections that wait at a listening socket of the source's kind; they are let in."""
    if not fits(source, listener) or not listens(listener):
        return
    listener.setblocking(False)
    for _ in range(BACKLOG + 1):  # as many as may wait
        try:
            connection, _address = listener.accept()
        except OSError:  # nobody is left, or there is no room: those are refused, and see it
            return
        (unix.prepare if isinstance(source, UnixSource) else tcp.prepare)(connection)
        yield connection


def close_unused(left: list[socket.socket]) -> None:
    """Close what nobody listens to any more; a Unix socket's file goes with it."""
    for one in left:
        if one.family == socket.AF_UNIX and listens(one):  # a connection has the same name
            with suppress(OSError):
                os.unlink(one.getsockname())
        one.close()
