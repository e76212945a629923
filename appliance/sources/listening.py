"""Listening for a source: at a new socket, or at one that a predecessor or systemd has left.

An address of ours that is held already is taken over with all who wait there; what was left of
others stays with the caller.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from appliance.settings import SocketSource, UnixSource
from appliance.sources import tcp, unix


class Listening(NamedTuple):
    """Sockets to accept from, what to do with each connection, what to do before they close."""

    sockets: list[socket.socket]
    prepare: Callable[[socket.socket], None]
    forget: Callable[[], None]


def listen(source: SocketSource, left: list[socket.socket]) -> Listening:
    """Listen where the source says, if it does; takes what it can use out of `left`.

    Raises:
        ConfigError: no such user or group.
        AddressError: the address can't be listened on.
    """
    if isinstance(source, UnixSource):
        sockets = _unix(source, left) if source.listen is not None else []
        return Listening(sockets, unix.prepare, unix.remover(sockets))
    sockets = tcp.listen(source.listen, left) if source.listen is not None else []
    return Listening(sockets, tcp.prepare, lambda: None)


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


def close_unused(left: list[socket.socket]) -> None:
    """Close what nobody listens to any more; a Unix socket's file goes with it."""
    for one in left:
        if one.family == socket.AF_UNIX:
            with suppress(OSError):
                os.unlink(one.getsockname())
        one.close()
