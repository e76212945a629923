"""The senders of a rehearsal: numbered records into each source, and they count.

A record's bytes follow from its source, its number and the seed, so that what was sent is never
kept: it is made again to be compared. A feed counts a record as sent once its last byte was
taken by the kernel. It behaves as a good sender does: where the instance half-closes the
connection, since it stops, it ends its record, closes, and connects again later.
"""

import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from appliance.addresses import host_and_port
from appliance.settings import AnySource, FileSource, TcpSource, UnixSource

PENDING_BYTES_MAX = 256 * 1024  # made and not taken: beyond that no new ones are made
FINISH_S_MAX = 5.0  # for the rest of one record
PAD_BYTES_MAX = 600
PAD_BYTES_LONG = 20_000  # of one record in LONG_EVERY
LONG_EVERY = 200


class Numbers:
    """The records of one source, by their numbers from 0."""

    def __init__(self, source: str, seed: int, bytes_max: int) -> None:
        self._source = source
        self._seed = seed
        self._bytes_max = bytes_max - 1  # its newline

    def line(self, number: int) -> bytes:
        """Record `number`, without its newline: a line of JSON."""
        name = f"{self._seed} {self._source} {number}".encode()
        digest = blake2b(name, digest_size=32).hexdigest()
        head = f'{{"source": "{self._source}", "n": {number}, "pad": "'
        wanted = int(digest[:4], 16) % PAD_BYTES_MAX
        if number % LONG_EVERY == LONG_EVERY - 1:
            wanted = PAD_BYTES_LONG
        room = min(wanted, self._bytes_max - len(head) - 2)
        pad = (digest * (room // len(digest) + 1))[:room]
        return f'{head}{pad}"}}'.encode()


class Feed(ABC):
    """Sends the records of one source, as many as it is given and the kernel takes."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.broken = 0  # connections that ended otherwise than in order
        self._made = 0
        self._pending = b""
        self._at = 0  # how much of it is handed over

    @property
    def sent(self) -> int:
        """Records that were handed over whole."""
        return self._made - self._pending.count(b"\n", self._at)

    def send(self, count: int) -> None:
        """Make so many records more, unless too much waits already; hand over what is taken."""
        if len(self._pending) - self._at < PENDING_BYTES_MAX:
            lines = [self.numbers.line(self._made + index) + b"\n" for index in range(count)]
            begun = self._begun()  # kept from its beginning: it may have to be sent again
            self._pending = self._pending[begun:] + b"".join(lines)
            self._at -= begun
            self._made += count
        self._push()

    def _begun(self) -> int:
        """Where the record begins of which a part is handed over; else where the next does."""
        return self._pending.rfind(b"\n", 0, self._at) + 1

    @property
    def is_done(self) -> bool:
        """Whether all that was made is handed over."""
        return self._at == len(self._pending)

    @abstractmethod
    def _push(self) -> None:
        """Hand over what is taken now."""

    @abstractmethod
    def close(self) -> None:
        """End in order. Safe to call twice."""


class FileFeed(Feed):
    """Appends to a file."""

    def __init__(self, path: Path, numbers: Numbers) -> None:
        super().__init__(numbers)
        self._file = path.open("ab", buffering=0)

    def _push(self) -> None:
        self._at += self._file.write(self._pending[self._at :]) or 0

    def close(self) -> None:
        self._file.close()


class SocketFeed(Feed):
    """Sends over a connection, and over the next one when that has ended."""

    def __init__(self, connect: Callable[[], socket.socket], numbers: Numbers) -> None:
        super().__init__(numbers)
        self._connect = connect
        self._socket: socket.socket | None = None

    def _push(self) -> None:
        try:
            if self._socket is None:
                self._socket = self._connect()
                self._socket.setblocking(False)
            elif self._is_told_to_end():
                self.close()
                return
            while not self.is_done:
                self._at += self._socket.send(memoryview(self._pending)[self._at :])
        except BlockingIOError:
            return
        except (ConnectionRefusedError, FileNotFoundError):  # it is starting, or away
            return
        except OSError:
            self._break()

    def close(self) -> None:
        """End the record that is begun, and the connection."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        try:
            connection.settimeout(FINISH_S_MAX)
            if self._at > self._begun():
                end = self._pending.index(b"\n", self._at) + 1
                connection.sendall(self._pending[self._at : end])
                self._at = end
            connection.shutdown(socket.SHUT_WR)
            connection.close()
        except OSError:
            connection.close()
            self._rewind()

    def _is_told_to_end(self) -> bool:
        assert self._socket is not None
        try:
            return self._socket.recv(1) == b""
        except BlockingIOError:
            return False

    def _break(self) -> None:
        """The connection is gone; a record that is half sent is sent again, whole."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rewind()

    def _rewind(self) -> None:
        self.broken += 1
        self._at = self._begun()


def feed_for(name: str, source: AnySource, seed: int) -> Feed:
    """The feed of a source that `plan.derive` has made."""
    numbers = Numbers(name, seed, source.record_bytes_max)
    if isinstance(source, FileSource):
        return FileFeed(Path(source.path), numbers)
    assert isinstance(source, TcpSource | UnixSource)
    assert source.listen is not None, "a rehearsal's sources listen"
    where = source.listen
    if isinstance(source, UnixSource):
        return SocketFeed(lambda: _unix(where), numbers)
    return SocketFeed(lambda: socket.create_connection(host_and_port(where)), numbers)


def _unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
