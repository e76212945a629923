"""A sender that never closes: it writes on and on over one connection, and notices any cut.

It is the one who counts. What it writes ends anywhere, also in the middle of a record, and
comes in bursts with short breaths between them, so that whatever is struck meanwhile is struck
with unfinished records in every place where one can be.
"""

import random
import select
import socket
import threading
import time
from types import TracebackType

from tests.system.records import Records

PIECE_BYTES_MAX = 128 * 1024
STALL_S = 120.0
END_S = 180.0


class Stream:
    """One connection and one thread, about so many bytes a second, until told to finish.

    cut: how the connection ended before we had finished; empty if it didn't.
    longest_pause_s: how long a single write had to wait at most.
    """

    def __init__(
        self, name: str, connection: socket.socket, records: Records, *, bytes_per_s: float = 1e6
    ) -> None:
        self.name, self.records, self.cut = name, records, ""
        self.longest_pause_s = 0.0
        self.bytes_sent = 0
        self._connection = connection
        self._connection.settimeout(STALL_S)
        self._bytes_per_s = bytes_per_s
        self._dice = random.Random(name)
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._hang_up()  # wakes a write that waits
        self._thread.join(END_S)
        self._connection.close()

    def finish(self) -> None:
        """Write the last record to its end, half-close, and see that the daemon closes, too."""
        self._enough.set()
        self._thread.join(END_S)
        assert not self._thread.is_alive(), f"{self.name}: the daemon doesn't read"
        self.check()
        self._connection.shutdown(socket.SHUT_WR)
        self._connection.settimeout(END_S)
        assert self._connection.recv(1) == b"", "the daemon sends nothing"

    def check(self) -> None:
        """Fails if the connection was cut."""
        assert not self.cut, f"{self.name}, after {self.records.sent} records: {self.cut}"

    def until_cut(self) -> None:
        """Wait until the sender has noticed that its connection is no more."""
        self._thread.join(END_S)
        assert self.cut, f"{self.name} has noticed nothing"

    def _hang_up(self) -> None:
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # cut already

    def _run(self) -> None:
        rest = b""
        try:
            while not self._enough.is_set():
                while len(rest) < PIECE_BYTES_MAX:
                    rest += self.records.block()
                size = int(PIECE_BYTES_MAX ** self._dice.random())
                self._write(rest[:size])
                rest = rest[size:]
                self._enough.wait(size / self._bytes_per_s)
                self._look()
            self._write(rest)
        except OSError as error:  # a write that waited too long is one as well
            self.cut = self.cut or f"{type(error).__name__}: {error}"

    def _write(self, piece: bytes) -> None:
        begun = time.monotonic()
        self._connection.sendall(piece)
        self.longest_pause_s = max(self.longest_pause_s, time.monotonic() - begun)
        self.bytes_sent += len(piece)

    def _look(self) -> None:
        """A daemon has nothing to say to a sender: readable means that it has hung up."""
        if select.select([self._connection], [], [], 0)[0] and not self._connection.recv(1):
            raise ConnectionAbortedError("the daemon has closed it")
