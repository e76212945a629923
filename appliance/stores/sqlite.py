"""SQLite: the store that needs no server.

One file, in WAL mode with synchronous=FULL: what is committed survives a power cut, and readers
don't wait for the writer. There is one writer at a time. Transactions begin IMMEDIATE, since
one that reads first and writes later fails at once when another has written between; who
finds the file locked waits BUSY_MS.

SQLite enforces no column types and no lengths: what a strict MySQL would refuse is stored as
it comes. NOT NULL, UNIQUE, CHECK and triggers do refuse. Column types of the configuration
are passed through; what SQLite can't read (ENUM, COLLATE utf8mb4_…) is a ConfigError. A
store on ":memory:" whose `prepare` passes proves that a configuration's columns are fine.

Rows go through executemany, many at a time: there is no server to be saved a round trip, but
what SQLite does at the beginning and the end of each statement, such as looking up the last key
and writing down the new one, costs more than a row. A few dozen of them share it.
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import chain
from typing import Any, TypeVar
from urllib.parse import unquote

from appliance.batch import Value
from appliance.config import Column, OnDuplicate
from appliance.contracts import Remark
from appliance.errors import ConfigError, Rejected, StreamDaemonError, Unavailable
from appliance.stores.books import Books
from appliance.stores.disposable import Disposable
from appliance.stores.gaps import GapList
from appliance.stores.letters import Letters
from appliance.stores.tables import (
    DUPLICATE,
    Row,
    Rows,
    Span,
    Table,
    Unrecognised,
    Writer,
    quoted_names,
)

BUSY_MS = 20_000
VALUE_BYTES_MAX = 999_999_000  # SQLite's own default limit for a row is 1,000,000,000
PART_ROWS_MAX = 10_000  # rows between two signs of life
STATEMENT_ROWS = 50  # more of them gain nothing
STATEMENT_VALUES_MAX = 999  # the most that any SQLite takes

CODES = {  # by extended, then by primary result code: the record is to blame
    sqlite3.SQLITE_CONSTRAINT: "constraint",
    sqlite3.SQLITE_CONSTRAINT_CHECK: "check",
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: "foreign key",
    sqlite3.SQLITE_CONSTRAINT_NOTNULL: "null",
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: DUPLICATE,
    sqlite3.SQLITE_CONSTRAINT_ROWID: DUPLICATE,
    sqlite3.SQLITE_CONSTRAINT_TRIGGER: "signal",
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: DUPLICATE,
    sqlite3.SQLITE_MISMATCH: "value",
    sqlite3.SQLITE_TOOBIG: "too long",
}
HINTS = {  # as above: nothing is wrong with the data; "" is waited for quietly
    sqlite3.SQLITE_BUSY: "",
    sqlite3.SQLITE_LOCKED: "",
    sqlite3.SQLITE_NOMEM: "",
    sqlite3.SQLITE_INTERRUPT: "",
    sqlite3.SQLITE_PROTOCOL: "",
    sqlite3.SQLITE_SCHEMA: "",
    sqlite3.SQLITE_FULL: "make room on the disk",
    sqlite3.SQLITE_IOERR_SHMSIZE: "make room on the disk",  # a full one, met while opening
    sqlite3.SQLITE_IOERR: "see the kernel's log for errors of the disk",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable for this user",
    sqlite3.SQLITE_PERM: "make the file and its folder writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make the file and its folder accessible for this user",
    sqlite3.SQLITE_CORRUPT: "restore the file, or rescue it with: sqlite3 FILE .recover",
    sqlite3.SQLITE_NOTADB: "this file is no SQLite database: move it away, or use another path",
}

T = TypeVar("T")


def parse_url(url: str) -> str:
    """The absolute path in sqlite:///path; a %-encoded one is decoded.

    The path begins at the root with three slashes as with four: a database whose place
    depends on where a daemon was started helps nobody.
    """
    return "/" + unquote(url.removeprefix("sqlite:///")).lstrip("/")


class SQLiteStore(Books, Letters, GapList, Disposable):
    """Stores batches in an SQLite file."""

    BEGIN = "BEGIN IMMEDIATE"
    SNAPSHOT = ("BEGIN",)  # what the first SELECT sees stays
    SHARED = EXCLUSIVE = ""  # BEGIN IMMEDIATE has locked everything
    INSERT_NEW = "INSERT OR IGNORE INTO"
    SERIAL = "INTEGER PRIMARY KEY AUTOINCREMENT"
    KINDS = {
        "run": "BLOB NOT NULL",
        "number": "INTEGER NOT NULL",
        "number or null": "INTEGER",
        "count": "INTEGER NOT NULL DEFAULT 0",
        "position": "INTEGER NOT NULL",
        "word": "TEXT NOT NULL",
        "word or null": "TEXT",
        "text": "TEXT NOT NULL",
        "raw": "BLOB NOT NULL",
        "time": "TEXT",
        "value": "BLOB NOT NULL",
    }

    def __init__(
        self,
        path: str,
        prefix: str,
        table: str,
        columns: Mapping[str, Column],
        beat: Callable[[], None] = lambda: None,
        on_duplicate: OnDuplicate = "dead",
    ) -> None:
        super().__init__(prefix, table, columns, beat, on_duplicate=on_duplicate)
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def prepare(self) -> None:
        """Make the tables that are missing, in WAL mode, which the file keeps; check the others."""
        with self._session():
            self._query("PRAGMA journal_mode = WAL")
            super().prepare()

    def close(self) -> None:
        """Drop the connection. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> None:
        if self._connection is not None:
            return
        try:
            self._connection = sqlite3.connect(
                self._path, timeout=BUSY_MS / 1000, isolation_level=None
            )
        except sqlite3.Error as error:
            raise self._translated(error) from error
        self._query("PRAGMA synchronous = FULL")

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        return self._foreign(lambda connection: connection.execute(sql, parameters).fetchall())

    def _as_it_stands(self, sql: str) -> list[Row]:
        return self._execute(sql, ())

    def _writer(
        self, table: str, columns: Sequence[str], blocks: Sequence[Rows], *, update: bool = False
    ) -> Writer:
        names = [self._quoted(column) for column in columns]
        # ABORT is SQLite's default, but said it wins over ON CONFLICT clauses of the user's table.
        head = "INSERT INTO" if update else "INSERT OR ABORT INTO"
        head += f" {self._quoted(table)} ({', '.join(names)}) VALUES"
        row = f"({', '.join('?' * len(columns))})"
        tail = ""
        if update:  # without a target it means every unique key
            changes = ", ".join(f"{name} = excluded.{name}" for name in names)
            tail = f" ON CONFLICT DO UPDATE SET {changes}"
        return _PreparedRows(
            self,
            lambda rows: f"{head} {', '.join([row] * rows)}{tail}",
            [row for rows in blocks for row in rows],
            max(1, min(STATEMENT_ROWS, STATEMENT_VALUES_MAX // len(columns))),
        )

    def _letter_bytes_max(self) -> int:
        return VALUE_BYTES_MAX

    def insert_many(self, sql: str, values: Sequence[Sequence[Value]]) -> None:
        """Run a statement once for each list of values (for the writer below)."""
        self._foreign(lambda connection: connection.executemany(sql, values))

    def _foreign(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """A call into SQLite: signs of life around it, its errors translated."""
        assert self._connection is not None, "outside of a session"
        self._beat()
        try:
            return call(self._connection)
        except (sqlite3.Error, OverflowError) as error:
            raise self._translated(error) from error
        finally:
            self._beat()

    def _translated(self, error: sqlite3.Error | OverflowError) -> StreamDaemonError:
        if isinstance(error, OverflowError):
            return Rejected(f"SQLite integers have 64 bit with a sign: {error}", "range")
        code = getattr(error, "sqlite_errorcode", 0)
        primary = code & 0xFF
        if refused := CODES.get(code, CODES.get(primary)):
            return Rejected(str(error), refused)
        hint = HINTS.get(code, HINTS.get(primary))
        if hint is not None:
            return Unavailable(f"SQLite {self._path}: {error}", hint, loud=bool(hint))
        return Unrecognised(f"SQLite {self._path}: {error}", f"error {code}")

    # ── tables ──────────────────────────────────────────────────────────────────────────

    def _columns_of(self, table: str) -> set[str]:
        rows = self._query(f"PRAGMA table_info({self._quoted(table)})")
        return {str(row[1]).lower() for row in rows}

    def _has_index(self, table: str) -> bool:
        rows = self._query(f"PRAGMA index_list({self._quoted(table)})")
        return any(row[1] == f"{table}_index" for row in rows)

    def _make_ledger_table(self, name: str, table: Table) -> None:
        self._query(f'CREATE TABLE IF NOT EXISTS "{name}" ({self._definition(table)})')
        if table.index:
            columns = quoted_names(table.index)
            self._query(f'CREATE INDEX IF NOT EXISTS "{name}_index" ON "{name}" ({columns})')

    def _make_data_table(self) -> None:
        try:
            self._execute(self._data_table(), ())
        except Rejected as error:
            raise self._no_such_type(error) from error

    def _data_table(self) -> str:
        return f"CREATE TABLE IF NOT EXISTS {self._quoted(self._table)} ({self._data_definition()})"

    def _no_such_type(self, error: Rejected) -> ConfigError:
        return ConfigError(
            f"SQLite can't make table {self._table}: {error.message}",
            "in [store.columns] use types that SQLite knows (MySQL's ENUM, CHARACTER SET and"
            " COLLATE utf8mb4_… it doesn't)",
        )

    # ── looking ─────────────────────────────────────────────────────────────────────────

    def _is_there(self) -> bool:
        return os.path.exists(self._path)

    def _try_data_table(self) -> Remark:
        """See in a database in memory that the table can be made."""
        with closing(sqlite3.connect(":memory:")) as memory:
            try:
                memory.execute(self._data_table())
            except sqlite3.Error as error:
                raise self._no_such_type(Rejected(str(error), "")) from error
        return Remark(f"table {self._table} will be made in {self._path}")

    def _check_tables(self) -> None:
        """All of SQLite is transactional."""

    @staticmethod
    def _quoted(identifier: str) -> str:
        return '"' + identifier.replace('"', '""') + '"'


class _PreparedRows(Writer):
    """Rows for two statements: one that takes so many `at_once`, and one for each that is left."""

    def __init__(
        self,
        store: SQLiteStore,
        statement: Callable[[int], str],
        rows: Sequence[Row],
        at_once: int,
    ) -> None:
        self._store = store
        self._statement = statement
        self._rows = rows
        self._at_once = at_once
        cuts = range(0, len(rows), PART_ROWS_MAX)
        self.parts: Sequence[Span] = [(cut, min(cut + PART_ROWS_MAX, len(rows))) for cut in cuts]

    def insert(self, lo: int, hi: int) -> None:
        left = hi - (hi - lo) % self._at_once
        self._insert(lo, left, self._at_once)
        self._insert(left, hi, 1)

    def _insert(self, lo: int, hi: int, at_once: int) -> None:
        values = [
            [*chain.from_iterable(self._rows[at : at + at_once])] for at in range(lo, hi, at_once)
        ]
        if values:
            self._store.insert_many(self._statement(at_once), values)
