"""The databases a system test can store into, and how their rows are read back."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pymysql.cursors

from tests.database_server import Database
from tests.system.daemon import PASSWORD_VARIABLE, Daemon, until

ROWS_S = 60.0


class StoreUnderTest(Protocol):
    writers: int  # subscribers that may store at the same time

    def section(self) -> str:
        """The [store] section of the configuration."""

    def raws(self, daemon: Daemon, source: str = "") -> Iterator[bytes]:
        """The raw column, in the order of the table's key; of one source, if one is named."""

    def rows(self, daemon: Daemon, sql: str) -> list[tuple[Any, ...]]:
        """What a query gives."""


def until_rows(store: StoreUnderTest, daemon: Daemon, rows: int) -> None:
    """Wait until the table has so many rows: kills may make `status` forget to count some."""

    def all_there() -> bool:
        try:
            [(found,)] = store.rows(daemon, "SELECT COUNT(*) FROM records")
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False  # a subscriber is making it
            raise
        return bool(found >= rows)

    until(all_there, ROWS_S, f"{rows} rows")


def only(source: str) -> str:
    """A WHERE for one source's rows; for all of them if none is named."""
    return f"WHERE source = '{source}'" if source else ""


class Sqlite:
    """The embedded store."""

    writers = 1

    def section(self) -> str:
        return "[store]\n"

    def raws(self, daemon: Daemon, source: str = "") -> Iterator[bytes]:
        sql = f"SELECT raw FROM records {only(source)} ORDER BY seq"
        for (raw,) in self.rows(daemon, sql):
            assert isinstance(raw, str)
            yield raw.encode()

    def rows(self, daemon: Daemon, sql: str) -> list[tuple[Any, ...]]:
        file = next((daemon.directory / "state").glob("*/*.db"))
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()


class Server:
    """A database of the test's own on a private server; `options` go behind its URL."""

    writers = 2

    def __init__(self, database: Database, options: str = "") -> None:
        self._database = database
        self._options = options

    def section(self) -> str:
        return (
            f'[store]\nurl = "{self._database.url()}{self._options}"\n'
            f'password = {{ env = "{PASSWORD_VARIABLE}" }}\n'
        )

    def raws(self, daemon: Daemon, source: str = "") -> Iterator[bytes]:
        connection = self._database.server.connect(self._database.name)
        try:
            with connection.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute(f"SELECT raw FROM records {only(source)} ORDER BY seq")
                for (raw,) in cursor:
                    yield raw.encode()
        finally:
            connection.close()

    def rows(self, daemon: Daemon, sql: str) -> list[tuple[Any, ...]]:
        return self._database.run(sql)

    @contextmanager
    def away(self, *, killed: bool = False) -> Iterator[None]:
        """The server is shut down (or killed with -9), and started again at the end."""
        server = self._database.server
        server.kill() if killed else server.stop()
        try:
            yield
        finally:
            server.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The server hangs: it takes connections and says nothing."""
        server = self._database.server
        server.pause()
        try:
            yield
        finally:
            server.resume()


class MariaDB(Server):
    """A database on MariaDB."""


class MySQL(Server):
    """A database on MySQL's own server."""
