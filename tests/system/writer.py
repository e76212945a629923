"""A file that grows while a test breaks something."""

import random
import threading
from pathlib import Path

from tests.system.records import Records

PIECE_BYTES_MAX = 5000
PIECE_INTERVAL_S = 0.002
END_S = 10.0


class Writer:
    """Appends records to a file until it shall finish, in pieces that end anywhere.

    `rotate_pieces`: behind so many the file is renamed and a new one begun, as logrotate
    does with its option dateext; all of them stay.
    """

    def __init__(
        self, path: Path, records: Records, dice: random.Random, rotate_pieces: int = 0
    ) -> None:
        self._path, self._records, self._dice = path, records, dice
        self._rotate_pieces = rotate_pieces
        self.rotations = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Write no more; the last line is whole. Safe to call twice."""
        self._enough.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        rest, written = b"", 0
        file = self._path.open("ab", buffering=0)
        while not self._enough.wait(PIECE_INTERVAL_S):
            if len(rest) < PIECE_BYTES_MAX:
                rest += self._records.block()
            size = self._dice.randint(1, PIECE_BYTES_MAX)
            file.write(rest[:size])
            rest, written = rest[size:], written + 1
            if self._rotate_pieces and written % self._rotate_pieces == 0:
                file.write(rest)
                rest = b""
                file.close()
                self._rotate()
                file = self._path.open("ab", buffering=0)
        file.write(rest)
        file.close()

    def _rotate(self) -> None:
        self.rotations += 1
        self._path.rename(self._path.with_name(f"{self._path.name}-{self.rotations:08}"))
