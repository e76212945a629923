"""A private database server for tests: its own data, its own socket and port, gone afterwards.

What MariaDB and MySQL have in common as servers under test; mariadb_server.py and mysql_server.py
say how each is made and started. Both speak TLS with a certificate of their own (`certificates`),
unless other options say something else.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql

from tests.certificates import make_certificates
from tests.ports import free_port

USER, PASSWORD = "stream", "tests only"
READY_S = 60.0
STOP_S = 60.0


class DatabaseServer(ABC):
    """One server under test: start, stop, kill and restart it, on the same data and port.

    Users: root without a password through the Unix socket; USER with PASSWORD everywhere.
    `options` are the server's own, and win over those that tests get otherwise.
    """

    flavour: str  # "mariadb" or "mysql"
    host = "127.0.0.1"
    user, password = USER, PASSWORD
    NO_TLS: str  # the option that makes it a server without TLS

    def __init__(self, folder: Path, options: Sequence[str] = ()) -> None:
        self._folder = folder
        self._options = options
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.unix_socket = str(folder / "s")
        self.port = free_port()
        self.log = folder / "log"
        self.certificates = make_certificates(folder, self.host)

    @abstractmethod
    def install(self) -> None:
        """Make the data directory; once."""

    @abstractmethod
    def _program(self) -> list[str]:
        """The server's program, with what it needs to find its own files."""

    def _own_options(self) -> list[str]:
        """Options of this kind of server only."""
        return []

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
                raise AssertionError(
                    f"{self.flavour} isn't ready: {self.log.read_text()}"
                ) from None
            finally:
                notices.unlink()

    @property
    def pid(self) -> int:
        """Of the running server."""
        assert self._process is not None
        return self._process.pid

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

    def ensure_running(self) -> None:
        """Start it again if it has died, as whoever keeps a server does."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

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

    def run(self, sql: str, database: str | None = None) -> list[tuple[Any, ...]]:
        """Run one statement as root; its rows."""
        connection = self.connect(database)
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

    def _own_tmpdir(self) -> str:
        """A server that starts deletes what it takes for its own temporary tables in there."""
        return f"--tmpdir={self._folder}"

    def _command(self) -> list[str]:
        return [
            *self._program(),
            *self._as_me(),
            f"--datadir={self._data}",
            self._own_tmpdir(),
            f"--socket={self.unix_socket}",
            f"--pid-file={self._folder / 'pid'}",
            f"--bind-address={self.host}",
            f"--port={self.port}",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=64M",
            "--innodb-file-per-table=OFF",  # tables of a test are made and dropped in half the time
            "--innodb-flush-log-at-trx-commit=1",
            "--character-set-server=utf8mb4",
            f"--ssl-ca={self.certificates.ca}",
            f"--ssl-cert={self.certificates.certificate}",
            f"--ssl-key={self.certificates.key}",
            *self._own_options(),
            *self._options,
        ]


@dataclass(frozen=True)
class Database:
    """An empty database of a test's own."""

    server: DatabaseServer
    name: str

    def url(self) -> str:
        """As a configuration has it; the password is PASSWORD."""
        return f"mysql://{USER}@{self.server.host}:{self.server.port}/{self.name}"

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement in this database as root; its rows."""
        return self.server.run(sql, self.name)


@contextmanager
def private_server(
    kind: type[DatabaseServer], options: Sequence[str] = ()
) -> Iterator[DatabaseServer]:
    """A running server of this kind, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.flavour}-"))
    server = kind(folder, options)
    try:
        server.install()
        server.start()
        server.run(f"CREATE USER {USER}@'%' IDENTIFIED BY '{PASSWORD}'")
        server.run(f"GRANT ALL ON *.* TO {USER}@'%'")
        yield server
    finally:
        server.kill()  # its data goes too
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_database(server: DatabaseServer) -> Iterator[Database]:
    """An empty database, dropped at the end."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    server.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield Database(server, name)
    server.run(f"DROP DATABASE {name}")
