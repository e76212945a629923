"""A proxy before a server that does to a conversation what networks and dying peers do.

It carries pieces, what one read gives, and asks its `Judge` about each: pass it on, late, a
part of it or nothing, and then end the connection or not. An empty piece is a side's own end.
`CutOnce` is a judge that ends one connection at a chosen moment; judges of weather are in
tests/torture/weather.py.

A connection that is ended breaks off for both sides: over TCP by a reset. For the server that
is what it is when another client kills it.
"""

import select
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Literal, Protocol

BYTES_MAX = 2**20
ENDS_S = 10.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time at all: close by a reset

Address = str | tuple[str, int]  # a Unix socket's path, or host and port
Verdict = tuple[bytes, bool]  # what is passed on of a piece; whether the connection lives on


class Judge(Protocol):
    """Decides about each piece; may take its time. Called from several threads."""

    def question(self, piece: bytes) -> Verdict:
        """A piece on its way to the server."""

    def answer(self, piece: bytes) -> Verdict:
        """A piece on its way to the client."""


class Proxy:
    """Listens before `target`, in the same family of addresses, at `address`."""

    def __init__(self, target: Address, judge: Judge) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="proxy-", dir="/tmp"))
        self._target, self._judge = target, judge
        self._family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
        self._listener = socket.socket(self._family)
        self._listener.bind(str(self._directory / "s") if isinstance(target, str) else ("", 0))
        self._listener.listen()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def path(self) -> str:
        """Where it listens, if the target is a Unix socket."""
        return str(self._listener.getsockname())

    @property
    def port(self) -> int:
        """Where it listens, if the target is a port: on 127.0.0.1 too."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(ENDS_S)
        self.cut()
        for thread in self._threads:
            thread.join(ENDS_S)
            assert not thread.is_alive()
        self._listener.close()
        rmtree(self._directory)

    def cut(self) -> None:
        """End every connection that is open now."""
        with self._lock:
            for end in self._open:
                _break_off(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._serve, args=[client]))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(self._family) as server:
            with self._lock:
                self._open |= {client, server}
            try:
                server.connect(self._target)
                while self._pass_on(client, server):
                    pass
            except OSError:  # one of them has gone
                pass
            finally:
                with self._lock:
                    self._open -= {client, server}
                    _break_off(client)
                    _break_off(server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Carry what is there; whether the connection lives on."""
        readable, _, _ = select.select([client, server], [], [])
        if server in readable:
            return _carry(server.recv(BYTES_MAX), client, self._judge.answer)
        return _carry(client.recv(BYTES_MAX), server, self._judge.question)


def _carry(piece: bytes, to: socket.socket, judge: Callable[[bytes], Verdict]) -> bool:
    passed, lives = judge(piece)
    to.sendall(passed)
    return lives and bool(piece)


def _break_off(end: socket.socket) -> None:
    """Wake whoever waits for this socket, and let its closing be a reset."""
    try:
        if end.family == socket.AF_INET:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        end.shutdown(socket.SHUT_RDWR)
    except OSError:  # not connected yet, or no more
        pass


When = Literal["before", "in it", "unanswered", "in answer"]
WHENS: tuple[When, ...] = ("before", "in it", "unanswered", "in answer")


class CutOnce:
    """Ends one connection, at message number `at` to the server (from 1, over all connections).

    before        nothing of it has reached the server
    in it         half of it has
    unanswered    the server has done it, and its answer is lost
    in answer     half of the answer has arrived
    """

    def __init__(self, at: int, when: When) -> None:
        self._at, self._when = at, when
        self.messages = 0
        self.has_cut = False

    def question(self, piece: bytes) -> Verdict:
        """Count it; cut at it."""
        self.messages += 1
        if self.messages != self._at or self._when not in ("before", "in it"):
            return piece, True
        self.has_cut = True
        return piece[: len(piece) // 2] if self._when == "in it" else b"", False

    def answer(self, piece: bytes) -> Verdict:
        """Cut at the answer to it."""
        if self.messages < self._at or self.has_cut:  # the others have cut by now
            return piece, True
        self.has_cut = True
        return piece[: len(piece) // 2] if self._when == "in answer" else b"", False
