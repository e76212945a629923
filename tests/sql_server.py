"""A database server under test, whichever kind: what tests of its answers need of it.

`MariaDBServer` is one; another kind needs these few things too, and a fixture. SQLDatabase is an
empty database on it, with the way to open a store there and to look into its tables.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.config import Column
from appliance.stores.address import MySQLAddress
from appliance.stores.mysql import MySQLStore

SERVERS = ["mariadb", "mysql"]  # fixtures that are a SQLServer: all that the suites run over
COUNTS = ("records", "stored", "filtered", "dead", "blank")


class SQLServer(Protocol):
    """A running server with a user who may do everything."""

    flavour: str  # "mariadb" or "mysql"
    host: str
    port: int
    unix_socket: str
    user: str
    password: str

    def run(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as the server's owner; its rows."""

    def connect(self, database: str | None = None) -> Any:
        """A plain connection of the owner's, for what takes more than one statement."""


@dataclass
class SQLDatabase:
    """A database of a test's own."""

    server: SQLServer
    name: str
    stores: list[MySQLStore] = field(default_factory=list)

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement in this database; its rows."""
        return self.server.run(sql, self.name)

    def store(self, columns: Mapping[str, Column], **more: Any) -> MySQLStore:
        """A store of an instance called nfl, in the table `records` unless given."""
        given: dict[str, Any] = {
            "dsn": self.address(),
            "password": self.server.password,
            "prefix": "nfl",
            "table": "records",
            "record_bytes_max": 1024,
        }
        self.stores.append(MySQLStore(**(given | more), columns=columns))
        return self.stores[-1]

    def address(self, **more: Any) -> MySQLAddress:
        """Where a store finds this database."""
        server = self.server
        given = {"host": server.host, "port": server.port, "user": server.user, "tls": "off"}
        return MySQLAddress(**(given | {"database": self.name} | more))

    def raws(self) -> list[bytes]:
        """The records in the table, in the order of its key."""
        return [raw.encode() for (raw,) in self.run("SELECT raw FROM records ORDER BY seq")]

    def dead(self) -> list[tuple[Any, ...]]:
        """(frame, position, raw, code, reason) of each dead letter."""
        return self.run(
            "SELECT frame, position, raw, code, reason FROM nfl_dead ORDER BY run, frame, position"
        )

    def sums(self) -> dict[str, int]:
        """What the ledger has counted, folded or not."""
        counted = [
            self.run(f"SELECT {', '.join(f'SUM(`{name}`)' for name in COUNTS)} FROM {table}")[0]
            for table in ("nfl_runs", "nfl_frames")
        ]
        sums = [sum(int(count or 0) for count in pair) for pair in zip(*counted, strict=True)]
        return dict(zip(COUNTS, sums, strict=True))


@contextmanager
def empty_database(server: SQLServer) -> Iterator[SQLDatabase]:
    """An empty database, dropped afterwards."""
    database = SQLDatabase(server, f"test_{uuid.uuid4().hex[:12]}")
    server.run(f"CREATE DATABASE {database.name} CHARACTER SET utf8mb4")
    try:
        yield database
    finally:
        for store in database.stores:
            store.close()
        server.run(f"DROP DATABASE {database.name}")
