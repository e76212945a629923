"""A sender that keeps on sending: load for tests that break something meanwhile.

It is the one who counts: what it has handed to its kernel is `records.sent` at most, and what
the daemon took of it is always a beginning, since it is one connection.
"""

import fcntl
import socket
import struct
import termios
import threading
from types import TracebackType

from tests.system.daemon import STOP_S, Where, connect, until
from tests.system.records import Records

ACKNOWLEDGED_S = 30.0


class Sender:
    """One connection, one thread, about so many bytes a second, until told to finish.

    refused: the daemon cut the connection (by a reset) before we had finished.
    """

    def __init__(self, where: Where, records: Records, *, bytes_per_s: float = 2e6) -> None:
        self._where = where
        self.records = records
        self._bytes_per_s = bytes_per_s
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._connection: socket.socket | None = None
        self._closes = True
        self.refused = False

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join(STOP_S)
        if self._connection:
            self._connection.close()

    def finish(self, *, close: bool = True) -> None:
        """Stop sending, half-close, and wait until the daemon's kernel has all of it."""
        self._closes = close
        self._enough.set()
        self._thread.join(STOP_S)
        assert not self._thread.is_alive(), "the daemon doesn't read"
        if not self.refused:
            until(self._is_acknowledged, ACKNOWLEDGED_S, "the daemon's kernel to have it all")

    def wait_for_refusal(self) -> None:
        """Go on sending until the daemon cuts the connection."""
        self._thread.join(STOP_S)
        assert self.refused, "the connection was not cut"

    def _run(self) -> None:
        self._connection = connect(self._where)
        self._connection.settimeout(STOP_S)
        try:
            while not self._enough.is_set():
                block = self.records.block()
                self._connection.sendall(block)
                self._enough.wait(len(block) / self._bytes_per_s)
            if self._closes:
                self._connection.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            self.refused = True

    def _is_acknowledged(self) -> bool:
        assert self._connection
        waiting = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return struct.unpack("i", waiting) == (0,)
