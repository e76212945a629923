"""A private MariaDB for tests.

The fixture `mariadb` starts one server per session; `mariadb_database` gives each test an empty
database on it. Tests of outages make a `MariaDBServer` of their own, or restart this one:
it keeps its port.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager

import pytest

from tests.conftest import find_service
from tests.database_server import (
    Database,
    DatabaseServer,
    new_database,
    private_server,
)


class MariaDBServer(DatabaseServer):
    """MariaDB, as this machine has it installed."""

    flavour = "mariadb"
    NO_TLS = "--skip-ssl"

    def install(self) -> None:
        """Make the data directory; once."""
        program = find_service("mariadb-install-db", "mysql_install_db")
        subprocess.run(
            [
                program,
                "--no-defaults",
                "--skip-test-db",
                "--auth-root-authentication-method=normal",
                f"--datadir={self._data}",
                self._own_tmpdir(),
                *self._as_me(),
            ],
            check=True,
            capture_output=True,
        )

    def _program(self) -> list[str]:
        return [find_service("mariadbd", "mysqld"), "--no-defaults"]

    def _own_options(self) -> list[str]:
        return ["--skip-networking=0", "--innodb-log-file-size=32M"]


def private_mariadb(options: Sequence[str] = ()) -> AbstractContextManager[DatabaseServer]:
    """A running MariaDB, removed at the end."""
    return private_server(MariaDBServer, options)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[DatabaseServer]:
    """A running MariaDB, for the whole session."""
    with private_mariadb() as server:
        yield server


@pytest.fixture
def mariadb_database(mariadb: DatabaseServer) -> Iterator[Database]:
    """An empty database, dropped after the test."""
    with new_database(mariadb) as database:
        yield database
