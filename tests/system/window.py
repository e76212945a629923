"""What one test has stored, on an instance that several tests share.

An instance takes seconds to start and stop, a test on it takes less. So the tests of a module
share one, and each looks only at what is new since it began.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.database_server import Database
from tests.system.daemon import Daemon
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest

DeadRow = tuple[int, bytes, str, str]  # position, raw, code, reason


class Window:
    """The rows and dead letters since it was opened. `name` is the instance's."""

    def __init__(self, daemon: Daemon, store: StoreUnderTest, name: str = "stream") -> None:
        self.daemon, self.store, self._name = daemon, store, name
        self._settled = self._count("stored + filtered + dead")
        self._blank = self._count("blank")
        self._seq = self._seq_max()
        self._dead = set(self._all_dead())

    def until_settled(self, records: int) -> None:
        """Wait until so many new records are rows, filtered or dead letters."""
        self.daemon.until_stored(self._settled + records)

    def raws(self) -> list[bytes]:
        """The new rows' records, in their order."""
        return [as_bytes(raw) for (raw,) in self.rows("raw")]

    def rows(self, columns: str) -> list[tuple[object, ...]]:
        """These columns of the new rows, in their order."""
        sql = f"SELECT {columns} FROM records WHERE seq > {self._seq} ORDER BY seq"
        return list(self.store.rows(self.daemon, sql))

    def dead(self) -> list[DeadRow]:
        """The new dead letters, in their order."""
        return [row[2:] for row in self._all_dead() if row not in self._dead]

    def blank(self) -> int:
        """New empty lines, as the ledger counts them."""
        return self._count("blank") - self._blank

    def _all_dead(self) -> list[tuple[bytes, int, int, bytes, str, str]]:
        found = self.store.rows(
            self.daemon,
            f"SELECT run, frame, position, raw, code, reason FROM {self._name}_dead"
            " ORDER BY run, frame, position",
        )
        return [tuple(row) for row in found]

    def _count(self, what: str) -> int:
        """A sum over the whole ledger."""
        parts = [
            f"SELECT COALESCE(SUM({what}), 0) AS n FROM {self._name}_{table}"
            for table in ("runs", "frames")
        ]
        sql = f"SELECT SUM(n) FROM ({' UNION ALL '.join(parts)}) AS both_tables"
        return int(str(self.store.rows(self.daemon, sql)[0][0]))

    def _seq_max(self) -> int:
        [(seq,)] = self.store.rows(self.daemon, "SELECT COALESCE(MAX(seq), 0) FROM records")
        return int(str(seq))


def as_bytes(raw: object) -> bytes:
    assert isinstance(raw, str)
    return raw.encode()


@contextmanager
def shared_store(kind: str, request: pytest.FixtureRequest) -> Iterator[StoreUnderTest]:
    """A database for all tests of a module: "sqlite" or "mariadb"."""
    if kind == "sqlite":
        yield Sqlite()
        return
    server = request.getfixturevalue("mariadb")
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield MariaDB(Database(server, name))
    server.run(f"DROP DATABASE {name}")
