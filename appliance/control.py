"""The control socket: how `stop`, `status` and `running` speak to a living instance.

A Unix stream socket in the state directory, mode 0600; one JSON line each way. The answer
to `stop` comes when the instance ends: the connection stays open until then.
"""

import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.addresses import SOCKET_PATH_BYTES_MAX
from appliance.errors import ConfigError, StreamDaemonError

REQUEST_BYTES_MAX = 64 * 1024
CLIENTS_MAX = 32
ANSWER_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 1.0  # a client that doesn't read may not hold the parent up

_UCRED = struct.Struct("3i")
_TIMEVAL = struct.Struct("@ll")

Handler = Callable[["Client", dict[str, Any]], None]


class NotRunning(StreamDaemonError):
    """Nobody answers on the control socket."""


def check_path(path: Path) -> None:
    """Refuse a path that is too long for a Unix socket.

    Raises:
        ConfigError: longer than 107 bytes.
    """
    length = len(os.fsencode(path))
    if length > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"{path}: {length} bytes are too many for a Unix socket ({SOCKET_PATH_BYTES_MAX})",
            "choose a shorter state_dir or name",
        )


class Client:
    """One connection to the parent: a request line in, an answer line out."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._received = b""
        self.closed = False

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._connection.fileno()

    def request(self) -> dict[str, Any] | None:
        """The request, once its line is complete; sets `closed` when none will come."""
        try:
            received = self._connection.recv(REQUEST_BYTES_MAX)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            received = b""
        self._received += received
        line, newline, _rest = self._received.partition(b"\n")
        if not newline:
            self.closed = not received or len(self._received) > REQUEST_BYTES_MAX
            return None
        self._received = b""
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        return request if isinstance(request, dict) else {}

    def answer(self, answer: dict[str, Any]) -> None:
        """Send the answer and close."""
        try:
            self._connection.settimeout(SEND_TIMEOUT_S)
            self._connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:  # it left, or doesn't read: its own loss
            pass
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.closed = True
        self._connection.close()


class ControlServer:
    """The parent's side: accepts clients; the parent's loop polls them."""

    def __init__(self, path: Path) -> None:
        check_path(path)
        self._path = path
        path.unlink(missing_ok=True)  # ours: the instance lock is held
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        old = os.umask(0o177)
        try:
            self._socket.bind(str(path))
        finally:
            os.umask(old)
        self._socket.listen(CLIENTS_MAX)

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._socket.fileno()

    def accept(self) -> Client | None:
        """A new client, if there is one and room for it."""
        try:
            connection, _address = self._socket.accept()
        except OSError:  # it has left, or the kernel has no room for it: nothing that ends us
            return None
        connection.setblocking(False)
        return Client(connection)

    def close(self, unlink: bool = True) -> None:
        """Close the socket; the path goes with it unless a child closes its copy."""
        self._socket.close()
        if unlink:
            self._path.unlink(missing_ok=True)


def connect(path: Path, timeout_s: float | None = ANSWER_TIMEOUT_S) -> socket.socket:
    """A connection to the instance.

    Raises:
        NotRunning: nobody listens there.
        TimeoutError: it has not taken those who came before in.
        PermissionError: it belongs to another user.
    """
    check_path(path)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Blocking, with the kernel's own timeout: with Python's a full backlog fails at once.
    seconds = 0.0 if timeout_s is None else timeout_s
    timeout = _TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
    try:
        connection.connect(str(path))
        connection.settimeout(timeout_s)
    except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:
        connection.close()
        raise NotRunning(f"nothing answers at {path}: {error.strerror}") from error
    except BlockingIOError as error:  # its backlog is full: is it stopped?
        connection.close()
        raise TimeoutError(f"nobody is let in at {path}") from error
    except OSError:
        connection.close()
        raise
    return connection


def peer_pid(connection: socket.socket) -> int:
    """The pid of the process that listens at the other end (unix(7), SO_PEERCRED)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid: int = _UCRED.unpack(credentials)[0]
    return pid


def converse(connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request, wait for the answer.

    Raises:
        NotRunning: the instance ended without an answer.
        TimeoutError: it doesn't answer in the connection's time.
    """
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            line = lines.readline()
    except ConnectionError as error:
        raise NotRunning(f"the instance doesn't answer: {error}") from error
    if not line.endswith(b"\n"):
        raise NotRunning("the instance ended without an answer")
    answer: dict[str, Any] = json.loads(line)
    return answer


def ask(path: Path, request: dict[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """One request, one answer.

    Raises:
        NotRunning: nobody is there.
        TimeoutError: it doesn't answer in time.
        PermissionError: it belongs to another user.
    """
    with connect(path, timeout_s) as connection:
        return converse(connection, request)
