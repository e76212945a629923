"""B8: from TCP into SQLite, nothing else installed, against sqlite3's own .import.

Ours is the default configuration: no [store] url, so the database is a file in the instance's
own folder, and no queue of somebody else's. The import gets a file of its own, with the table
that we have made there and the pragmas that our store sets; it is one transaction, as sqlite3
makes it by itself. Its lines are numbered beforehand, in the column that both tables have as
their key, since it takes as many fields as a table has columns.
"""

import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.lines import Content, Lines
from tests.bench.measure import RECORDS_PER_S, Comparison, Findings, in_turns
from tests.bench.run import Run
from tests.bench.ways import MEASURE_S_MAX, RAW, StreamDaemon, wait_until
from tests.conftest import find_service
from tests.ports import free_port
from tests.system.daemon import Daemon, connect

WHAT = "TCP → SQLite committed, embedded server"
PRAGMAS = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"  # as stores/sqlite.py has them
BUSY_S = 20.0
SEPARATOR = 1  # a byte that JSON doesn't hold, so that a line is one field
CLOCK = "SELECT (julianday('now') - 2440587.5) * 86400;"  # the shell's own, to the millisecond


def b8(run: Run) -> Findings:
    """Against the import of the same lines from one file."""
    with stream_daemon() as (way, file), sqlite_import(file) as other:
        ours, theirs = run.side(way, tables=file), run.side(other, tables=other.file)
        samples = in_turns(ours, theirs, RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison("B8", WHAT, *samples, aim=0.4)])


@dataclass(frozen=True)
class SQLiteFile:
    """A database of one file, and the connection of who looks on."""

    path: Path
    connection: sqlite3.Connection

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        return self.connection.execute(sql).fetchall()

    def empty(self, table: str) -> None:
        """Leave the table, and the file, as if it had just been made."""
        self.run(f"DELETE FROM {table}")
        self.run("VACUUM")
        self.run("PRAGMA wal_checkpoint(TRUNCATE)")

    def content(self, table: str) -> Content:
        """What is in it."""
        return Content.of(raw for (raw,) in self.connection.execute(f"SELECT raw FROM {table}"))


@contextmanager
def opened(path: Path) -> Iterator[SQLiteFile]:
    """A file to look into, made if it isn't there."""
    with closing(sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)) as connection:
        connection.text_factory = bytes
        yield SQLiteFile(path, connection)


# ── ours ────────────────────────────────────────────────────────────────────────────────


@contextmanager
def stream_daemon() -> Iterator[tuple[StreamDaemon, SQLiteFile]]:
    """A whole instance with nothing but a source and its column, and its file; ended at the end."""
    port = free_port()
    config = (
        'name = "bench"\n'
        f'[source.lines]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "json"\n'
        f"[store.columns]\n{RAW}"
    )
    with Daemon(config) as daemon:
        connect(port).close()
        path = daemon.directory / "state" / "bench" / "bench.db"
        wait_until(path.exists)
        with opened(path) as file:
            wait_until(lambda: bool(file.run("SELECT 1 FROM sqlite_schema WHERE name = 'records'")))
            yield StreamDaemon(file, port, daemon), file


# ── sqlite3 ─────────────────────────────────────────────────────────────────────────────


class SQLiteImport:
    """The command line shell's .import of a file."""

    name = ".import"
    table = "imported"

    def __init__(self, file: SQLiteFile) -> None:
        self.file = file

    def store(self, lines: Lines) -> float:
        """The time is the shell's, around the import: not its start, nor its checkpoint at exit."""
        with tempfile.TemporaryDirectory(prefix="import-") as folder:
            numbered = Path(folder, "lines")
            numbered.write_bytes(
                b"".join(
                    b"%d%c%b\n" % (number, SEPARATOR, line)
                    for number, line in enumerate(lines.records, 1)
                )
            )
            script = (
                f'{PRAGMAS}\n.mode ascii\n.separator "\\{SEPARATOR:03o}" "\\n"\n'
                f"{CLOCK}\n.import {numbered} {self.table}\n{CLOCK}\n"
            )
            began, ended = map(float, self._run(script).split()[-2:])
        return ended - began

    def _run(self, script: str) -> str:
        done = subprocess.run(
            [find_service("sqlite3"), "-batch", "-bail", self.file.path],
            input=script,
            capture_output=True,
            text=True,
            timeout=MEASURE_S_MAX,
            check=True,
        )
        return done.stdout


@contextmanager
def sqlite_import(model: SQLiteFile) -> Iterator[SQLiteImport]:
    """A file beside that of the model, with the same table under another name."""
    [(made,)] = model.run("SELECT sql FROM sqlite_schema WHERE name = 'records'")
    with opened(model.path.with_name("imported.db")) as file:
        file.connection.executescript(PRAGMAS)
        file.run(made.decode().replace("records", SQLiteImport.table, 1))
        yield SQLiteImport(file)
