"""A private MariaDB for tests: its own data, its own socket and port, gone afterwards.

The fixture `mariadb` starts one server per session; `mariadb_database` gives each test an empty
database on it. Tests of outages make a `MariaDBServer` of their own, or restart this one:
it keeps its port.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from tests.conftest import find_service
from tests.ports import free_port

USER, PASSWORD = "stream", "tests only"
READY_S = 60.0
STOP_S = 60.0


class MariaDBServer:
    """One server under test: start, stop, kill and restart it, on the same data and port.

    Users: root without a password through the Unix socket; USER with PASSWORD everywhere.
    `options` are the server's own, and win over those that tests get otherwise.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder = folder
        self._options = options
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.unix_socket = str(folder / "s")
        self.port = free_port()
        self.log = folder / "log"

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
                *self._as_me(),
            ],
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        """Start the server and wait until it says that it is ready."""
        notices = self._folder / "n"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, self.log.open("ab") as log:
            told.bind(str(notices))
            told.settimeout(READY_S)
            self._process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(notices)},
            )
            try:
                while b"READY=1" not in told.recv(4096):
                    pass
            except TimeoutError:
                self.kill()
                raise AssertionError(f"mariadbd isn't ready: {self.log.read_text()}") from None
            finally:
                notices.unlink()

    def stop(self) -> None:
        """Shut the server down in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Let it hang (SIGSTOP): the kernel still accepts connections, nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Shut down and start again."""
        self.stop()
        self.start()

    def connect(self, database: str | None = None, user: str = "root") -> Any:
        """A plain connection, for what a test has to do or see itself."""
        return pymysql.connect(
            unix_socket=self.unix_socket,
            user=user,
            password="" if user == "root" else PASSWORD,
            database=database,
            ssl_disabled=True,
            charset="utf8mb4",
            autocommit=True,
        )

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement as root; its rows."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(STOP_S)

    def _as_me(self) -> list[str]:
        return ["--user=root"] if os.geteuid() == 0 else []

    def _command(self) -> list[str]:
        return [
            find_service("mariadbd", "mysqld"),
            "--no-defaults",
            *self._as_me(),
            f"--datadir={self._data}",
            f"--socket={self.unix_socket}",
            f"--pid-file={self._folder / 'pid'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            "--skip-networking=0",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-log-file-size=32M",
            "--innodb-flush-log-at-trx-commit=1",
            "--character-set-server=utf8mb4",
            *self._options,
        ]


@dataclass(frozen=True)
class MariaDBDatabase:
    """An empty database of a test's own."""

    server: MariaDBServer
    name: str

    def url(self) -> str:
        """As a configuration has it; the password is PASSWORD."""
        return f"mysql://{USER}@{self.server.host}:{self.server.port}/{self.name}"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement in this database as root; its rows."""
        connection = self.server.connect(self.name)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return list(cursor.fetchall())
        finally:
            connection.close()


@contextmanager
def private_mariadb(options: Sequence[str] = ()) -> Iterator[MariaDBServer]:
    """A running server, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
    server = MariaDBServer(folder, options)
    try:
        server.install()
        server.start()
        server.run(f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'")
        server.run(f"GRANT ALL ON *.* TO {USER}@'%'")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """A running server, for the whole session."""
    with private_mariadb() as server:
        yield server


@pytest.fixture
def mariadb_database(mariadb: MariaDBServer) -> Iterator[MariaDBDatabase]:
    """An empty database, dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    mariadb.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield MariaDBDatabase(mariadb, name)
    mariadb.run(f"DROP DATABASE {name}")
