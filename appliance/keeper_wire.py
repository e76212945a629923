"""How sockets reach a keeper, and how a successor gets them: words and sockets with their names.

Packets (SOCK_SEQPACKET) of one word, a name behind it (fdnames.py), and with some a descriptor:

    KEEP name + socket     parent → keeper: hold a duplicate; keeper → successor: here it is
    RELEASE name           parent → keeper: let go of it
    ALIVE                  parent → keeper, and back: are you there? yes
    GIVE                   successor → keeper: give me all; it is answered by KEEPs and ALL
    MINE                   successor → keeper: somebody else holds them now, you may end
    END                    `stop` → keeper: nobody will come

The two sides may be of different versions: a new word is one that an older keeper may ignore.
Who is connected is waited for, whatever he says.

A socket that is on its way is held by the kernel: what the parent has said reaches the keeper
also when the parent is killed behind it. When one side dies with something unread, the kernel
tells the other by one ECONNRESET, before what the dead one had sent: that is read all the same.
"""

import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from appliance.errors import InstanceError
from appliance.fdnames import Inherited

KEEP, RELEASE, ALIVE, GIVE, ALL, MINE, END = b"krvgame"
MESSAGE_BYTES_MAX = 512  # a word and a name
WAITING_MAX = 4  # who may knock at the same time: one successor, and a `stop`
TAKE_S = 5.0  # so long a keeper may say nothing before it counts as hanging

_UCRED = struct.Struct("3i")  # unix(7), SO_PEERCRED: pid, uid, gid
_TIMEVAL = struct.Struct("@ll")


class Heard(NamedTuple):
    """One message; a KEEP without its socket means that our kernel had no descriptor for it."""

    word: int
    name: str
    thing: socket.socket | None


class Wire:
    """One end: never blocks; what can't be sent now is sent later, in order.

    Attributes:
        ended: the other side is gone, and all that it had said was heard.
        choked: what is unsent waits for something else than room in the wire: try again later.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unsent: deque[tuple[int, str, Any]] = deque()
        self.ended = self.choked = False
        connection.setblocking(False)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._connection.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether `flush` has something to do when the wire is writable."""
        return bool(self._unsent)

    @property
    def unsent(self) -> int:
        """How many messages wait."""
        return len(self._unsent)

    @property
    def events(self) -> int:
        """What to poll for."""
        waits_for_room = self.has_unsent and not self.choked
        return select.POLLIN | (select.POLLOUT if waits_for_room else 0)

    @property
    def peer_pid(self) -> int:
        """Who is at the other end, or was when it began to listen."""
        return self._peer()[0]

    @property
    def peer_uid(self) -> int:
        """Whose process that is."""
        return self._peer()[1]

    def _peer(self) -> tuple[int, int]:
        value = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, _gid = _UCRED.unpack(value)
        return pid, uid

    def say(self, word: int, name: str = "", thing: Any = None) -> None:
        """Send a message; who gives a socket keeps its own descriptor."""
        self._unsent.append((word, name, thing))
        self.flush()

    def flush(self) -> None:
        """Send what is waiting, as far as the wire takes it."""
        self.choked = False
        while self._unsent:
            word, name, thing = self._unsent[0]
            fd = thing.fileno() if thing else -1
            try:
                if not thing or fd >= 0:  # one that was closed meanwhile isn't missed
                    fds = [fd] if thing else []
                    socket.send_fds(self._connection, [bytes([word]) + name.encode()], fds)
            except BlockingIOError:
                return
            except ConnectionError:
                self._unsent.clear()  # it is gone: whoever comes next gets all
                return
            except OSError:  # too many are under way (ETOOMANYREFS), no memory
                self.choked = True
                return
            self._unsent.popleft()

    def hear(self) -> Iterator[Heard]:
        """What was said since the last call."""
        while not self.ended:
            try:
                message, fds, *_ = socket.recv_fds(self._connection, MESSAGE_BYTES_MAX, 1)
            except ConnectionResetError:  # what was sent before comes behind
                continue
            except BlockingIOError:
                return
            if message:
                yield Heard(message[0], message[1:].decode(), _own(fds[0]) if fds else None)
            else:
                self.ended = True

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


def _own(fd: int) -> socket.socket:
    """A received socket; it doesn't block, and no program that we start shall have it."""
    os.set_inheritable(fd, False)
    thing = socket.socket(fileno=fd)
    thing.setblocking(False)
    return thing


def pair() -> tuple[Wire, Wire]:
    """Both ends of a new wire."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Wire(ours), Wire(theirs)


class Door:
    """Where a successor and `stop` find a keeper: a socket that replaces the one before it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)  # of one that was killed at this very place
        umask = os.umask(0o177)
        try:
            self._socket.bind(str(new))
        finally:
            os.umask(umask)
        self._socket.listen(WAITING_MAX)
        self._inode = new.stat().st_ino
        new.replace(path)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def let_in(self) -> Wire | None:
        """Who knocks, if that is the same user, or root."""
        try:
            connection, _address = self._socket.accept()
        except OSError:  # it has left, or the kernel has no room for it
            return None
        wire = Wire(connection)
        if wire.peer_uid in (os.geteuid(), 0):
            return wire
        wire.close()
        return None

    def remove(self) -> None:
        """Remove the path, if it is still ours."""
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


class Legacy:
    """What an old keeper has given us. It goes on holding its own until it hears `taken`.

    When we end before, it hears that, too, and waits for the next one.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self._wire = wire

    def taken(self) -> None:
        """Somebody else holds all of it now: the old keeper may end. Safe to call twice."""
        if self._wire:
            self._wire.say(MINE)
        self.close()

    def close(self) -> None:
        """Close our end, as a child that has nothing to do with it does."""
        if self._wire:
            self._wire.close()
            self._wire = None


Kill = Callable[[int], object]
"""Ends a process by kill -9, and waits for that."""


def take_over(path: Path, inherited: Inherited, kill: Kill, timeout_s: float = TAKE_S) -> Legacy:
    """Sort all sockets that a keeper holds into `inherited`; nothing if there is no keeper.

    One that hangs is ended: it would keep our addresses, and nobody could have what it holds.

    Raises:
        InstanceError: it isn't ours, or so many wait for one that hangs that it can't be asked.
    """
    wire = _connect(path)
    if wire is None:
        return Legacy()
    wire.say(GIVE)
    deadline = time.monotonic() + timeout_s
    while not wire.ended:
        if not _readable(wire, deadline):
            kill(wire.peer_pid)
            break
        for heard in wire.hear():
            if heard.word == ALL:
                return Legacy(wire)
            if heard.thing:
                inherited.add(heard.name, heard.thing)
        deadline = time.monotonic() + timeout_s
    wire.close()
    return Legacy()


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Let a keeper, if there is one, hold on until we have what it takes to go on.

    Raises:
        InstanceError: as `take_over`.
    """
    wire = _connect(path)
    try:
        yield
    finally:
        if wire:
            wire.close()


def end(path: Path, kill: Kill, timeout_s: float = TAKE_S) -> bool:
    """Tell a keeper that nobody will come, and wait for its end; whether there was one.

    Raises:
        InstanceError: as `take_over`.
    """
    wire = _connect(path)
    if wire is None:
        return False
    wire.say(END)
    deadline = time.monotonic() + timeout_s
    while not wire.ended:
        if not _readable(wire, deadline):
            kill(wire.peer_pid)
            break
        for _heard in wire.hear():
            pass
    wire.close()
    return True


def _connect(path: Path) -> Wire | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(TAKE_S), 0))
    try:
        connection.connect(str(path))
    except (FileNotFoundError, NotADirectoryError, ConnectionError):
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise InstanceError(
            f"{path}: {error.strerror}", "run it as the owner; or kill the keeper, if it hangs"
        ) from error
    return Wire(connection)


def _readable(wire: Wire, deadline: float) -> bool:
    poller = select.poll()
    poller.register(wire, select.POLLIN)
    return bool(poller.poll(max(0.0, deadline - time.monotonic()) * 1000))
