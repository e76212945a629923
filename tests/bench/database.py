"""The database that every benchmark stores into: a private MariaDB, durable, with its defaults."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from tests import database_server
from tests.bench.lines import DIGEST_HEX, Content
from tests.database_server import PASSWORD, USER, DatabaseServer
from tests.mariadb_server import private_mariadb

NAME = "bench"
OPTIONS = (  # the server's own defaults, where the tests' server is smaller; flush is 1 in both
    "--innodb-buffer-pool-size=128M",
    "--innodb-log-file-size=96M",
    "--innodb-file-per-table=ON",
    "--innodb-flush-log-at-trx-commit=1",
    "--skip-log-bin",
)
CONTENT = (
    "SELECT COUNT(*),"
    f" COALESCE(SUM(CAST(CONV(LEFT(MD5(raw), {DIGEST_HEX}), 16, 10) AS UNSIGNED)), 0) FROM `{{}}`"
)


@dataclass(frozen=True)
class Database:
    """The database, and the account that everybody uses, through the Unix socket."""

    database: database_server.Database
    connection: Any  # of who looks on: kept, since a new one for each look costs the server time
    user: str = USER
    password: str = PASSWORD

    @property
    def server(self) -> DatabaseServer:
        """The server it is on."""
        return self.database.server

    @property
    def url(self) -> str:
        """As a configuration has it."""
        return f"{self.database.url()}?unix_socket={self.server.unix_socket}"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def make_like(self, table: str, model: str) -> None:
        """Make a table with the definition of one that is there; nothing if it exists."""
        self.run(f"CREATE TABLE IF NOT EXISTS `{table}` LIKE `{model}`")

    def empty(self, table: str) -> None:
        """Leave the table as if it had just been made."""
        self.run(f"TRUNCATE TABLE `{table}`")

    def content(self, table: str) -> Content:
        """What is in it, added up by the server."""
        [(count, digest)] = self.run(CONTENT.format(table))
        return Content(int(count), int(digest))


@contextmanager
def another(database: Database, name: str) -> Iterator[Database]:
    """One more database on the same server, for an instance beside others; gone at the end."""
    server = database.server
    server.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        with closing(server.connect(name)) as connection:
            yield Database(database_server.Database(server, name), connection)
    finally:
        server.run(f"DROP DATABASE {name}")


@contextmanager
def private_database() -> Iterator[Database]:
    """An empty database on a server of its own, gone at the end."""
    with private_mariadb(OPTIONS) as server:
        server.run(f"CREATE DATABASE {NAME} CHARACTER SET utf8mb4")
        with closing(server.connect(NAME)) as connection:
            yield Database(database_server.Database(server, NAME), connection)
