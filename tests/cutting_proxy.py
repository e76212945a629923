"""A proxy before a Unix socket that cuts a connection at a chosen moment of a conversation.

Messages to the server are counted over all connections. At the chosen one both sides are closed:

    before        nothing of it has reached the server
    in it         half of it has
    unanswered    the server has done it, and its answer is lost
    in answer     half of the answer has arrived

A connection that ends so is for the server what it is when another client kills it.
"""

import select
import socket
import tempfile
import threading
from pathlib import Path
from shutil import rmtree
from typing import Literal

When = Literal["before", "in it", "unanswered", "in answer"]
WHENS: tuple[When, ...] = ("before", "in it", "unanswered", "in answer")
BYTES_MAX = 2**20
ENDS_S = 10.0


class CuttingProxy:
    """Listens at `path`; cuts once, at message number `at` (from 1)."""

    def __init__(self, target: str, at: int, when: When) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="cut-", dir="/tmp"))
        self.path = str(self._directory / "s")
        self.messages = 0
        self.has_cut = False
        self._target, self._at, self._when = target, at, when
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> "CuttingProxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(ENDS_S)
            assert not thread.is_alive()
        self._listener.close()
        rmtree(self._directory)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[client])
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._target)
            while self._pass_on(client, server):
                pass

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """Carry what is there; whether the connection lives on."""
        readable, _, _ = select.select([client, server], [], [])
        try:
            if server in readable:
                return self._answer(client, server.recv(BYTES_MAX))
            return self._ask(server, client.recv(BYTES_MAX))
        except OSError:  # one of them has gone
            return False

    def _ask(self, server: socket.socket, message: bytes) -> bool:
        self.messages += 1
        if self.messages == self._at and self._when in ("before", "in it"):
            self.has_cut = True
            server.sendall(message[: len(message) // 2] if self._when == "in it" else b"")
            return False
        server.sendall(message)
        return bool(message)

    def _answer(self, client: socket.socket, answer: bytes) -> bool:
        if self.messages >= self._at and not self.has_cut:  # the others have cut by now
            self.has_cut = True
            client.sendall(answer[: len(answer) // 2] if self._when == "in answer" else b"")
            return False
        client.sendall(answer)
        return bool(answer)
