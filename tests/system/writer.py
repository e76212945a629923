"""A file that grows while a test breaks something."""

import random
import threading
from pathlib import Path

from tests.system.records import Records

PIECE_BYTES_MAX = 5000
PIECE_INTERVAL_S = 0.002
END_S = 10.0


class Writer:
    """Appends records to a file until the end of `with`, in pieces that end anywhere."""

    def __init__(self, path: Path, records: Records, dice: random.Random) -> None:
        self._path, self._records, self._dice = path, records, dice
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join(END_S)

    def _run(self) -> None:
        rest = b""
        with self._path.open("ab", buffering=0) as file:
            while not self._enough.wait(PIECE_INTERVAL_S):
                if len(rest) < PIECE_BYTES_MAX:
                    rest += self._records.block()
                size = self._dice.randint(1, PIECE_BYTES_MAX)
                file.write(rest[:size])
                rest = rest[size:]
            file.write(rest)
