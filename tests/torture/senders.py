"""Senders under load that know what they have sent: it is counted here, before it is sent.

What a sender sends over one connection is a `Stretch` of its numbered records, and how the
connection ended says what must become of it:

    whole     it was closed, and the daemon closed too: each record is stored
    half      closed in the middle of a record: that half is a record too
    broken    reset by us in the middle of a record: the others are stored, the half is a dead
              letter ("cut"). We reset only when the daemon's kernel has it all, since a reset
              forgets what is still on its way
    refused   reset by the daemon, which only a parent killed with its keeper may cause: the
              first of them, up to somewhere, are stored, and nothing behind

An end that overlaps with a parent's death says less than it seems: a dying collector closes its
side before it has read everything, and who has reset sees no reset (`doubt`).

After a refusal nothing is sent again: the next connection goes on with the next number. What a
file's writer writes is one stretch, whole at its end.
"""

import errno
import fcntl
import random
import socket
import struct
import termios
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.proxy import RESET
from tests.torture.lines import Lines

BLOCK_RECORDS_MAX = 60
STRETCH_RECORDS_MAX = 60_000  # of one connection
RETRY_S = 0.1  # until somebody listens again
SLOW_PIECE_BYTES_MAX = 40
SLOW_INTERVAL_S = 0.02
END_S = 600.0  # a daemon that doesn't read for so long never will
TAIL_BYTES_MIN = 40  # so much of a half record is sent at least: it says whose it is
RESETS = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)  # what a reset is called
TAKEN_S = 60.0  # what was in the kernel is handed over by then, whatever else goes wrong
NORMAL = "normal"
Where = int | str


@dataclass
class Stretch:
    """Records `first` to `end` - 1, sent over one connection. tail: what was sent of the next.

    opened_at, ended_at: when, by the monotonic clock.
    """

    first: int
    end: int
    fate: str = "open"
    tail: bytes = b""
    opened_at: float = 0.0
    ended_at: float = 0.0


def doubt(stretch: Stretch, deaths: Iterable[tuple[float, float]]) -> None:
    """Think of it as refused if a parent has died meanwhile: [(killed, dead)], monotonic."""
    if stretch.fate == "open" or not stretch.ended_at:
        return
    taken_at = stretch.ended_at + (TAKEN_S if stretch.fate == "broken" else 0.0)
    if any(killed <= taken_at and stretch.opened_at <= dead for killed, dead in deaths):
        stretch.fate = "refused"


class Sender(ABC):
    """One thread that sends, about so many records a second, until told to finish.

    Attributes:
        longest_pause: how long the daemon has not taken anything, at most, and when that ended,
            by the monotonic clock.
        problem: what must not happen, if it did.
    """

    def __init__(self, name: str, lines: Lines, dice: random.Random, rate: float) -> None:
        self.name = name
        self.lines = lines
        self.stretches: list[Stretch] = []
        self.longest_pause = (0.0, 0.0)
        self.problem = ""
        self._dice = dice
        self._rate = rate
        self._mood = NORMAL
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def finish(self, timeout_s: float = END_S) -> bool:
        """Send no more, end in good order; whether it could within this time."""
        self._enough.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def sent(self) -> int:
        """Records that were sent whole, or tried to be."""
        return self.stretches[-1].end if self.stretches else 0

    def mood(self, mood: str) -> None:
        """Send so from the next block on: normal, slow, freeze, break, end."""
        self._mood = mood

    def _run(self) -> None:
        try:
            self._send_all()
        except OSError as error:
            self.problem = f"{self.name} could not send: {error}"

    @abstractmethod
    def _send_all(self) -> None:
        """Send until it is enough."""

    @abstractmethod
    def _send(self, piece: bytes) -> None:
        """Send a piece, which may end anywhere."""

    # ── blocks ──────────────────────────────────────────────────────────────────────────

    def _send_block(self, stretch: Stretch) -> None:
        """Send the next few records in the mood of the moment."""
        records = self._dice.randint(1, BLOCK_RECORDS_MAX)
        block = self.lines.block(stretch.end, stretch.end + records)
        stretch.end += records
        for piece in self._pieces(block):
            self._send_measured(piece)
        self._enough.wait(records / self._rate)

    def _send_measured(self, piece: bytes) -> None:
        before = time.monotonic()
        try:
            self._send(piece)
        finally:
            now = time.monotonic()
            self.longest_pause = max(self.longest_pause, (now - before, now))

    def _pieces(self, block: bytes) -> Iterator[bytes]:
        if self._mood == "freeze":
            middle = self._dice.randrange(len(block))
            yield block[:middle]
            self._wait_for_another_mood("freeze")
            block = block[middle:]
        while self._mood == "slow" and block and not self._enough.is_set():
            size = self._dice.randint(1, SLOW_PIECE_BYTES_MAX)
            yield block[:size]
            block = block[size:]
            self._enough.wait(SLOW_INTERVAL_S)
        yield block

    def _wait_for_another_mood(self, mood: str) -> None:
        while self._mood == mood and not self._enough.wait(SLOW_INTERVAL_S):
            pass

    def _half(self, number: int) -> bytes:
        """A beginning of this record; empty if it is too short to be cut."""
        line = self.lines.line(number)
        if len(line) <= TAIL_BYTES_MIN:
            return b""
        half = line[: self._dice.randrange(TAIL_BYTES_MIN, len(line))]
        return half.decode(errors="ignore").encode()  # a sign stays whole, or it were no text


class SocketSender(Sender):
    """Sends over one connection after the other: TCP to a port, Unix to a path."""

    def __init__(
        self, name: str, lines: Lines, dice: random.Random, rate: float, where: Where
    ) -> None:
        super().__init__(name, lines, dice, rate)
        self._where = where
        self._connection = socket.socket()
        self._opened_at = 0.0

    def _send_all(self) -> None:
        while not self._enough.is_set():
            if self._connect():
                self._send_stretch()

    def _connect(self) -> bool:
        family = socket.AF_INET if isinstance(self._where, int) else socket.AF_UNIX
        self._connection = socket.socket(family)
        self._connection.settimeout(END_S)
        self._opened_at = time.monotonic()
        try:
            where = ("127.0.0.1", self._where) if isinstance(self._where, int) else self._where
            self._connection.connect(where)
        except (ConnectionError, FileNotFoundError):
            self._connection.close()
            self._enough.wait(RETRY_S)
            return False
        return True

    def _send_stretch(self) -> None:
        stretch = Stretch(self._next, self._next, opened_at=self._opened_at)
        self.stretches.append(stretch)
        with self._connection:
            try:
                self._send_until_its_end(stretch)
            except OSError as error:
                if error.errno not in RESETS:
                    raise
                stretch.fate = "refused"
        stretch.ended_at = time.monotonic()

    @property
    def _next(self) -> int:
        """The next number: that of a half record isn't used again."""
        last = self.stretches[-1] if self.stretches else Stretch(0, 0)
        return last.end + (last.fate != "whole")

    def _send_until_its_end(self, stretch: Stretch) -> None:
        records = self._dice.randint(1, STRETCH_RECORDS_MAX)
        while stretch.end - stretch.first < records and not self._enough.is_set():
            if self._mood in ("break", "end"):
                break
            self._send_block(stretch)
        mood, self._mood = self._mood, NORMAL
        if mood == "break" and not self._enough.is_set():
            self._break_off(stretch)
        else:
            self._close(stretch)

    def _break_off(self, stretch: Stretch) -> None:
        """End in the middle of a record: by a reset where there is one."""
        stretch.tail = self._half(stretch.end)
        self._connection.sendall(stretch.tail)
        if self._connection.family == socket.AF_UNIX or not self._is_all_there():
            self._close(stretch)
        else:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            stretch.fate = "broken"

    def _close(self, stretch: Stretch) -> None:
        """Close our side, and see that the daemon closes too."""
        self._connection.shutdown(socket.SHUT_WR)
        if self._connection.recv(1):
            self.problem = f"{self.name} was sent something"
        stretch.fate = "half" if stretch.tail else "whole"

    def _is_all_there(self) -> bool:
        """Wait until the daemon's kernel has what we sent; False if we shall finish first."""
        while struct.unpack("i", fcntl.ioctl(self._connection, termios.TIOCOUTQ, bytes(4)))[0]:
            if self._enough.wait(SLOW_INTERVAL_S):
                return False
        return True

    def _send(self, piece: bytes) -> None:
        self._connection.sendall(piece)


class FileWriter(Sender):
    """Appends to a file. Where a connection would end it is rotated: renamed, and begun anew."""

    def __init__(
        self, name: str, lines: Lines, dice: random.Random, rate: float, path: Path
    ) -> None:
        super().__init__(name, lines, dice, rate)
        self._path = path
        self._rotations = 0
        self._file = path.open("ab", buffering=0)

    def _send_all(self) -> None:
        stretch = Stretch(0, 0)
        self.stretches.append(stretch)
        while not self._enough.is_set():
            if self._mood in ("break", "end"):
                self._rotate()
            self._send_block(stretch)
        self._file.close()
        stretch.fate = "whole"

    def _rotate(self) -> None:
        self._mood = NORMAL
        self._file.close()
        self._rotations += 1
        self._path.rename(self._path.with_name(f"{self._path.name}-{self._rotations:08}"))
        self._file = self._path.open("ab", buffering=0)

    def _send(self, piece: bytes) -> None:
        self._file.write(piece)
