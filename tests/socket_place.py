"""The parent's side of a held source: connections, and one collector's source after the other.

Real sockets; a successor is a new HeldSource over the parent's duplicates.
"""

import itertools
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import link
from appliance.contracts import Chunk
from appliance.sources import held, tcp, unix
from appliance.sources.beginnings import Beginnings
from appliance.sources.kernel import Kernel

BOOT = "b" * 32
# Since Linux 6.9 a peek at a TCP connection can start behind its front (SO_PEEK_OFF).
PEEKS_BEHIND = [int(part) for part in os.uname().release.split(".")[:2]] >= [6, 9]
END_S = 30.0
LIMITS = held.Limits(record_bytes_max=100, frame_bytes_max=300, close_wait_s=0.2)


@dataclass(frozen=True)
class Kind:
    """One kind of socket."""

    kernel: Kernel
    connected: Callable[[], tuple[socket.socket, socket.socket]]


class HurriedTcp(tcp.TcpKernel):
    """TCP that doesn't tell when it will hold no more, so that the source looks at the clock."""

    wakes_when_full = False


TCP = Kind(tcp.TcpKernel(), tcp.connected)
UNIX = Kind(unix.UnixKernel(), unix.connected)


class Signal:
    """What a signal would make readable."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0)

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Nothing comes."""

    def close(self) -> None:
        os.close(self._fd)


class Place:
    """Accepted connections that the parent keeps, and the source of the living collector."""

    def __init__(self, folder: Path, kind: Kind) -> None:
        self.kind = kind
        self.folder = folder / "beginnings"
        self.kept: list[socket.socket] = []
        self.disk_is_low = False
        self.steps: Callable[[str], None] = lambda _step: None
        self._numbers = itertools.count(1)
        self._signal = Signal()
        self._opened: list[Any] = [self._signal]
        self.source = self.born()

    def connect(self) -> socket.socket:
        """A new sender, handed down as the parent does."""
        connection, sender = self.kind.connected()
        self.kept.append(connection)
        self.parent.send(connection)
        self._opened += [sender, connection]
        return sender

    def born(self, limits: held.Limits = LIMITS, **how: Any) -> held.HeldSource:
        """A new collector's source; the one before is dead."""
        if hasattr(self, "source"):
            self.source.close()
        self.parent, child = link.pair()
        self._opened += [self.parent, child]
        inherited = [(link.cookie_of(one), one.dup()) for one in self.kept]
        self.source = held.HeldSource(
            self.kind.kernel,
            child,
            self._signal,
            limits,
            Beginnings(self.folder, BOOT, lambda: next(self._numbers), lambda: self.disk_is_low),
            inherited,
            checkpoint=lambda step: self.steps(step),
            **how,
        )
        return self.source

    def files(self) -> list[str]:
        """The beginnings that are kept."""
        return sorted(path.name for path in self.folder.glob("*"))

    def peek(self) -> Chunk:
        """The next chunk; what was sent is there, one machine needs no waiting."""
        for _ in range(3):  # the first one may only take in a connection
            chunk = self.source.peek()
            if chunk:
                return chunk
        raise AssertionError("nothing to peek")

    def collect(self) -> bytes:
        """Turns until nothing is shown."""
        collected = b""
        for _ in range(50):
            chunk = self.source.peek()
            if chunk:
                collected += bytes(chunk.body)
                self.source.discard(chunk)
                self.source.settle()
        return collected

    def turn(self, wait_s: float = 1.0) -> bytes:
        """One turn; what it handed over. Waits if there is nothing."""
        chunk = self.source.peek()
        if chunk is None:
            self.source.wait(wait_s)
            return b""
        body = bytes(chunk.body)
        self.source.discard(chunk)
        self.source.settle()
        return body

    def collect_slowly(self, end: bytes, collected: bytes = b"") -> bytes:
        """Turns until this has come at the end of everything."""
        deadline = time.monotonic() + END_S
        while not collected.endswith(end):
            assert time.monotonic() < deadline, collected[-200:]
            collected += self.turn()
        return collected

    def close(self) -> None:
        self.source.close()
        for thing in self._opened:
            thing.close()
