"""Unix stream sockets: how the kernel says what of a connection was discarded, and listening.

There is no counter of bytes. But a socket has an offset at which peeks start, SO_PEEK_OFF: -1
at rest, and whatever is read for good lowers it, never below 0. So a stretch is marked by its
length: what is left of the mark is what is left of the stretch, and -1 means that nobody has
begun. Facts behind the code, each tried on Linux:

- A peek starts at the offset and moves it, unless it is -1: so it is -1 at each peek.
- What one call sends lies apart. A peek or read ends behind a piece that carries descriptors
  (SCM_RIGHTS), or before an urgent byte, and goes on behind it when the rest was read.
- The sender's buffer (SO_SNDBUF, about 208 KiB by default, whole pieces counted: 278 single
  bytes fill it) is all that a connection holds. Nothing tells us that it is full.
- SO_RCVLOWAT has no effect on poll; edge-triggered epoll wakes for each new piece only.

A socket file left by a dead process is replaced, one that is listened to never, and what
isn't a socket is nobody's to delete.
"""

import errno
import grp
import os
import pwd
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from appliance.contracts import Remark
from appliance.errors import AddressError, ConfigError
from appliance.sources.dialled import Target
from appliance.sources.kernel import AT_REST, BACKLOG, SO_PEEK_OFF, PlainKernel, Stretch


class UnixKernel(PlainKernel):
    """A Unix stream connection as `held.HeldSource` needs it (contract: `kernel.Kernel`)."""

    def adopt(self, connection: socket.socket) -> None:
        """What a predecessor has left is what `left_of` asks for."""

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        """Show what is available, up to where a sender's piece ends that carries more."""
        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, AT_REST)
        return super().peek(connection, view)

    def mark(self, connection: socket.socket, length: int) -> None:
        """Let the kernel count down from here."""
        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, length)

    def left_of(self, connection: socket.socket, stretch: Stretch) -> int:
        """What the kernel has counted down to."""
        left = connection.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        return left if 0 <= left < stretch.length else stretch.length


def prepare(connection: socket.socket) -> None:
    """What the parent does to each connection before anybody reads it."""
    connection.setblocking(False)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def connected() -> tuple[socket.socket, socket.socket]:
    """A connection to try things on: our end, prepared, and the sender's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    prepare(ours)
    return ours, theirs


# ── listening ───────────────────────────────────────────────────────────────────────────


def listen(path: str, mode: str, owner: str | None) -> list[socket.socket]:
    """A listening socket at `path`, with this mode (octal digits) and owner.

    Nobody can connect before mode and owner are set.

    Raises:
        ConfigError: no such user or group.
        AddressError: another process listens there, or the file can't be made.
    """
    ids = ids_of(owner) if owner else (-1, -1)
    if _is_left(path):
        Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    umask = os.umask(0o177)
    try:
        listener.bind(path)
        _admit(path, mode, ids)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener.getsockname():
            os.unlink(path)
        listener.close()
        raise _refused(path, owner, error) from error
    finally:
        os.umask(umask)
    listener.setblocking(False)
    return [listener]


def admit(path: str, mode: str, owner: str | None) -> None:
    """Say anew who may connect to a socket that is there already.

    Raises:
        ConfigError: no such user or group.
        AddressError: the file isn't ours to change.
    """
    ids = ids_of(owner) if owner else (-1, -1)
    try:
        _admit(path, mode, ids)
    except OSError as error:
        raise _refused(path, owner, error) from error


def _admit(path: str, mode: str, ids: tuple[int, int]) -> None:
    if ids != (-1, -1):  # else it isn't even asked for, which a sandbox may refuse (@privileged)
        os.chown(path, *ids)
    os.chmod(path, int(mode, 8))


def look(path: str, owner: str | None) -> Remark:
    """Whether we could listen at `path`, for `check`; nothing is made or removed.

    Raises:
        ConfigError: no such user or group.
        AddressError: another process listens there, or the file can't be made.
    """
    if owner:
        ids_of(owner)
    is_left = _is_left(path)
    if not os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        raise _refused(path, None, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
    return Remark(f"{path} " + ("was left by a dead process" if is_left else "can be made"))


def find(path: str) -> list[Target]:
    """Where a server's socket is: at its path, whether or not one listens there."""
    return [Target(socket.AF_UNIX, path, path)]


def remover(listeners: list[socket.socket]) -> Callable[[], None]:
    """What removes the files of these listeners, as long as they are theirs."""
    files = [(path, _inode(path)) for path in (one.getsockname() for one in listeners)]

    def remove() -> None:
        for path, inode in files:
            if inode == _inode(path):
                with suppress(OSError):  # the next start replaces it
                    os.unlink(path)

    return remove


def ids_of(owner: str) -> tuple[int, int]:
    """User and group id of "user", "user:group" or ":group"; -1 for the part that isn't there.

    Raises:
        ConfigError: no such user or group.
    """
    user, _, group = owner.partition(":")
    try:
        uid = int(user) if user.isdecimal() else pwd.getpwnam(user).pw_uid if user else -1
        gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid if group else -1
    except KeyError:
        raise ConfigError(
            f'owner = "{owner}": this machine knows no such user or group',
            'write a user, "user:group" or ":group" (getent passwd, getent group), or numbers',
        ) from None
    return uid, gid


def _is_left(path: str) -> bool:
    """Whether the socket file of a dead process is there, which may be taken away.

    Raises:
        AddressError: anything else is there.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(path, None, error) from error
    if not stat.S_ISSOCK(status.st_mode):
        raise AddressError(
            f"can't listen on {path}: a file is there that is no socket",
            "move it away, or listen on another path",
        )
    if _is_alive(path):
        raise AddressError(
            f"can't listen on {path}: another process listens there",
            f"end it (ss -xlp | grep {path}), or listen on another path",
        )
    return True


def _is_alive(path: str) -> bool:
    """Whether somebody listens there, or may: only a refusal is a proof of death."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # a full backlog doesn't hold us up
        try:
            caller.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


def _refused(path: str, owner: str | None, error: OSError) -> AddressError:
    hint = "its directory must exist and be ours to write"
    if isinstance(error, PermissionError) and owner:
        hint += "; only root can give the file to another user, or to a group it is not in"
    return AddressError(f"can't listen on {path}: {error.strerror or error}", hint)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
