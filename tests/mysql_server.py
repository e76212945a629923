"""A private server of MySQL's own for tests, out of the tree that `build/machine.sh mysql` makes.

It is started by the tree's own loader and libraries, so nothing of it needs to be installed and
nobody has to be root. Its users log in with caching_sha2_password, MySQL's default, and it
refuses tables without a primary key (sql_require_primary_key), as managed servers do: root,
who makes the tables of the tests, is let off.

The fixture `mysql` starts one server per session; `mysql_database` gives each test an empty
database on it, `server_database` one on each kind of server.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing_service
from tests.database_server import Database, DatabaseServer, new_database, private_server

TREE = Path(__file__).parents[1] / ".build" / "mysql"


class MySQLServer(DatabaseServer):
    """MySQL's own server."""

    flavour = "mysql"
    NO_TLS = "--tls-version="

    def install(self) -> None:
        """Make the data directory; once."""
        subprocess.run(
            [
                *self._program(),
                *self._as_me(),
                "--initialize-insecure",
                f"--datadir={self._data}",
                self._own_tmpdir(),
                "--innodb-redo-log-capacity=32M",
            ],
            check=True,
            capture_output=True,
        )

    def connect(self, database: str | None = None, user: str = "root") -> Any:
        """A plain connection; root's may make tables without a key."""
        connection = super().connect(database, user)
        if user == "root":
            with connection.cursor() as cursor:
                cursor.execute("SET SESSION sql_require_primary_key = OFF")
        return connection

    def _program(self) -> list[str]:
        usr = tree() / "usr"
        [loader] = usr.glob("lib*/ld-linux*.so.?")
        libraries = [*usr.glob("lib/*-linux-gnu"), usr / "lib/mysql/private"]
        return [
            str(loader),
            "--library-path",
            ":".join(map(str, libraries)),
            str(usr / "sbin/mysqld"),
            "--no-defaults",
            f"--basedir={usr}",
            f"--lc-messages-dir={usr / 'share/mysql'}",
            f"--character-sets-dir={usr / 'share/mysql/charsets'}",
            f"--plugin-dir={usr / 'lib/mysql/plugin'}",
            "--secure-file-priv=",
        ]

    def _own_options(self) -> list[str]:
        return [
            "--mysqlx=OFF",
            "--sql-require-primary-key=ON",
            "--innodb-redo-log-capacity=32M",
            "--skip-log-bin",
        ]


def tree() -> Path:
    """Where MySQL's server is unpacked."""
    if not os.access(TREE / "usr/sbin/mysqld", os.X_OK):
        missing_service(f"needs MySQL's own server (build/machine.sh mysql {TREE})")
    return TREE


@pytest.fixture(scope="session")
def mysql() -> Iterator[DatabaseServer]:
    """A running MySQL, for the whole session."""
    tree()
    with private_server(MySQLServer) as server:
        yield server


@pytest.fixture
def mysql_database(mysql: DatabaseServer) -> Iterator[Database]:
    """An empty database, dropped after the test."""
    with new_database(mysql) as database:
        yield database


@pytest.fixture(params=["mariadb", "mysql"])
def server_database(request: pytest.FixtureRequest) -> Database:
    """An empty database on each kind of server."""
    database: Database = request.getfixturevalue(f"{request.param}_database")
    return database
