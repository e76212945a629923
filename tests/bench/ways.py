"""The ways from lines into a table that are measured: ours, and those it is compared with.

Each is measured from the first byte that is sent (or read from the file) to the commit of the
last row. Who waits for the last row asks rarely (LOOK_S) and cheaply.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import redis

from appliance.redis_server import SETTINGS
from appliance.settings import StoreConfig
from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.conftest import find_service
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_valkey
from tests.system.daemon import PASSWORD_VARIABLE, Daemon, connect

LOOK_S = 0.02
MEASURE_S_MAX = 120.0
END_S = 20.0
LEASE_BYTES = StoreConfig().lease_bytes_max
LOAD = (
    "LOAD DATA LOCAL INFILE '{file}' INTO TABLE `{table}` CHARACTER SET utf8mb4"
    " FIELDS TERMINATED BY '\\x01' ESCAPED BY '' LINES TERMINATED BY '\\n' (raw);"
)  # JSON holds no raw \x01, so the lines are taken as they are, without a look at a backslash


class Way(Protocol):
    """One way from lines into a table of its own."""

    name: str
    table: str

    def store(self, lines: Lines) -> float:
        """Put the lines into the empty table; how many seconds that took."""


# ── ours ────────────────────────────────────────────────────────────────────────────────

RAW = 'raw = { path = "", type = "LONGTEXT" }\n'


class StreamDaemon:
    """A running instance: TCP, embedded server with fsync for each write, subscribers, ledger."""

    name = "stream-daemon"
    table = "records"

    def __init__(self, database: Database, port: int, daemon: Daemon) -> None:
        self.database = database
        self.port = port
        self.daemon = daemon

    def store(self, lines: Lines) -> float:
        wanted = self.committed() + lines.content.count
        return send_and_wait(self.port, lines, lambda: self.committed() >= wanted)

    def committed(self) -> int:
        """Rows so far, as the ledger counts them in the transactions that store them."""
        [(stored,)] = self.database.run(
            "SELECT (SELECT COALESCE(SUM(stored), 0) FROM bench_runs)"
            " + (SELECT COALESCE(SUM(stored), 0) FROM bench_frames)"
        )
        return int(stored)


@contextmanager
def stream_daemon(
    database: Database, columns: str = RAW, top: str = "", more: str = ""
) -> Iterator[StreamDaemon]:
    """A whole instance as a user starts it, into one raw column; ended at the end.

    `columns`: lines of [store.columns]. `top`, `more`: lines of the configuration, before the
    first table and behind the last one.
    """
    port = free_port()
    config = (
        f'name = "bench"\n{top}'
        f'[source.lines]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "json"\n'
        f'[store]\nurl = "{database.url}"\npassword = {{ env = "{PASSWORD_VARIABLE}" }}\n'
        f"[store.columns]\n{columns}{more}"
    )
    _forget(database)
    with Daemon(config) as daemon:
        connect(port).close()
        wait_until(lambda: bool(database.run("SHOW TABLES LIKE 'bench_frames'")))
        wait_until(lambda: bool(database.run(f"SHOW TABLES LIKE '{StreamDaemon.table}'")))
        yield StreamDaemon(database, port, daemon)


def _forget(database: Database) -> None:
    """Drop what an instance before has made, and LOAD DATA's copy: other columns may come."""
    for (name,) in database.run("SHOW TABLES"):
        if name in (StreamDaemon.table, LoadData.table) or name.startswith("bench_"):
            database.run(f"DROP TABLE `{name}`")


# ── the stock client ────────────────────────────────────────────────────────────────────


class LoadData:
    """The stock client's LOAD DATA LOCAL INFILE, one transaction for each lease of lines."""

    name = "LOAD DATA LOCAL"
    table = "loaded"
    statement = LOAD

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(self, lines: Lines) -> float:
        """The time is the server's, between the first statement and behind the last one."""
        with tempfile.TemporaryDirectory(prefix="load-") as folder:
            script = ["SELECT SYSDATE(6);"]
            for number, block in enumerate(self._files(lines)):
                file = Path(folder, f"{number}.ndjson")
                file.write_bytes(block)
                script.append(self.statement.format(file=file, table=self.table))
            script.append("SELECT SYSDATE(6);")
            began, ended = self._run("\n".join(script)).split()
            return float(ended) - float(began)

    def _files(self, lines: Lines) -> list[bytes]:
        """What is in the files, one for each transaction."""
        return lines.blocks(LEASE_BYTES)

    def _run(self, script: str) -> str:
        client = find_service("mariadb", "mysql")
        where = ["--no-defaults", f"--socket={self._database.server.unix_socket}", "--user=root"]
        done = subprocess.run(
            [
                client,
                *where,
                "--local-infile=1",
                "--skip-column-names",
                self._database.database.name,
            ],
            input=script.replace("SYSDATE(6)", "UNIX_TIMESTAMP(SYSDATE(6))"),
            capture_output=True,
            text=True,
            timeout=MEASURE_S_MAX,
            check=True,
        )
        return done.stdout


# ── the textbook ────────────────────────────────────────────────────────────────────────


class Textbook:
    """The two programs of textbook.py, and the same Redis settings as ours."""

    name = "textbook"
    table = "textbook"

    def __init__(self, database: Database, queue: "redis.Redis", port: int) -> None:
        self._database = database
        self._queue = queue
        self._port = port

    def store(self, lines: Lines) -> float:
        wanted = lines.content.count
        seconds = send_and_wait(self._port, lines, lambda: self._committed() >= wanted)
        wait_until(lambda: not self._queue.exists("queue", "busy"))  # it tidies up behind itself
        return seconds

    def _committed(self) -> int:
        """Its one worker commits in order, so the newest key is the number of rows."""
        [(newest,)] = self._database.run(f"SELECT COALESCE(MAX(seq), 0) FROM {self.table}")
        return int(newest)


@contextmanager
def textbook(database: Database) -> Iterator[Textbook]:
    """Its two programs and its Redis; ended at the end."""
    database.make_like(Textbook.table, StreamDaemon.table)
    port = free_port()
    server, name = database.server.unix_socket, database.database.name
    environment = os.environ | {"TEXTBOOK_PASSWORD": database.password}
    with PrivateRedis(find_valkey(), options=SETTINGS) as queue:
        path = queue.options["unixsocket"]
        programs = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.bench.textbook", *words], env=environment
            )
            for words in (
                ["collect", str(port), path],
                ["work", path, server, name, Textbook.table],
            )
        ]
        try:
            connect(port).close()
            yield Textbook(database, queue.client(), port)
        finally:
            for program in programs:
                program.terminate()
                program.wait(END_S)


def send_and_wait(port: int, lines: Lines, is_done: Callable[[], bool]) -> float:
    """Seconds from the first byte that is sent over one connection to when it is done."""
    body = lines.body
    with connect(port) as connection:
        began = time.perf_counter()
        connection.sendall(body)
        connection.shutdown(socket.SHUT_WR)
        wait_until(is_done)
        return time.perf_counter() - began


def wait_until(is_done: Callable[[], bool]) -> None:
    """Look every LOOK_S: what is awaited happens in other processes, and nothing tells us."""
    deadline = time.monotonic() + MEASURE_S_MAX
    while not is_done():
        assert time.monotonic() < deadline, f"not stored within {MEASURE_S_MAX:g} s"
        time.sleep(LOOK_S)
