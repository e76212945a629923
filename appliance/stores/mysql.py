"""MySQL and MariaDB, through PyMySQL.

One connection, made by the first call and again after every error. Its session is strict
(STRICT_ALL_TABLES: a value that doesn't fit is refused, never bent), in UTC, in READ COMMITTED,
and gives up early: a half-dead session must not hold the ledger's rows for the server's
usual eight hours. A session that was idle long is asked for a sign of life before the
transaction, since the server may have cut it by then, which is no outage.

Rows go in bulk where the server can take them so (bulk.py), else as text, many in one INSERT
(row_text.py). Either is cut at STATEMENT_BYTES_MAX, and always below the server's
max_allowed_packet: what is longer isn't refused, it ends the connection.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import pymysql
from pymysql.constants import CLIENT

from appliance.batch import Block
from appliance.config import Column, OnDuplicate
from appliance.contracts import Remark
from appliance.errors import ConfigError, Rejected, StreamDaemonError, Unavailable
from appliance.stores import bulk
from appliance.stores.address import MySQLAddress
from appliance.stores.books import Books
from appliance.stores.disposable import Disposable
from appliance.stores.gaps import GapList
from appliance.stores.letters import Letters
from appliance.stores.mysql_errors import LOGIN, PLUGIN, Mend, Refuse, Wait, reaction_to
from appliance.stores.row_text import cut, pieces, row_texts
from appliance.stores.tables import (
    TABLES,
    Row,
    Rows,
    Span,
    Statement,
    Table,
    Unrecognised,
    Writer,
    quoted_names,
)
from appliance.stores.turns import turn

CONNECT_S = 10
IO_S = 60  # one read from or write to the server; well above its own lock wait
LOCK_WAIT_S = 20
GIVING_WAY_S = 5  # the same, where everybody who stores waits meanwhile
SERVER_IDLE_S = 120  # the server drops the session then, and what it had locked
PING_AFTER_S = 60  # idle longer than this: ask before the transaction
STATEMENT_BYTES_MAX = 2 * 1024 * 1024  # a full frame usually fits, escaped, and stays whole
JOINED_BYTES_MAX = 32 * 1024  # of small statements that are sent together
PACKET_SPARE_BYTES = 1024
TOO_LONG = "packet"  # why a row is refused that is over max_allowed_packet
ROW_SPARE_BYTES = 64 * 1024  # room beside a record, escaped, for the row's other values

SESSION = (
    "SET SESSION time_zone = '+00:00',"
    f" wait_timeout = {SERVER_IDLE_S}, innodb_lock_wait_timeout = {LOCK_WAIT_S},"
    f" lock_wait_timeout = {LOCK_WAIT_S},"  # LOCK TABLES and ALTER TABLE of others, usually a day
    f" sql_select_limit = {2**64 - 1}"  # a smaller one would hide rows of the ledger
)
LOCK_WAIT = "SET SESSION innodb_lock_wait_timeout = {}"
ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
OPTIONS = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"


# ── the store ───────────────────────────────────────────────────────────────────────────


class MySQLStore(Books, Letters, GapList, Disposable):
    """Stores batches in MySQL or MariaDB."""

    BEGIN = "START TRANSACTION"
    SNAPSHOT = (
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",  # of the next one alone
        "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
    )
    SHARED = " LOCK IN SHARE MODE"
    EXCLUSIVE = " FOR UPDATE"
    INSERT_NEW = "INSERT IGNORE INTO"
    SERIAL = "BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY"
    KINDS = {
        "run": "BINARY(16) NOT NULL",
        "number": "BIGINT UNSIGNED NOT NULL",
        "number or null": "BIGINT UNSIGNED",
        "count": "BIGINT UNSIGNED NOT NULL DEFAULT 0",
        "position": "INT UNSIGNED NOT NULL",
        "word": "VARCHAR(32) NOT NULL",
        "word or null": "VARCHAR(32)",
        "text": "TEXT NOT NULL",
        "raw": "LONGBLOB NOT NULL",
        "time": "DATETIME(6)",
        "value": "VARBINARY(255) NOT NULL",
    }

    def __init__(
        self,
        dsn: MySQLAddress,
        password: str | None,
        prefix: str,
        table: str,
        columns: Mapping[str, Column],
        record_bytes_max: int,
        beat: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        on_duplicate: OnDuplicate = "dead",
        io_s: float = IO_S,
    ) -> None:
        super().__init__(prefix, table, columns, beat, on_duplicate=on_duplicate, clock=clock)
        self._io_s = io_s
        self._address = dsn
        self._password = password
        self._record_bytes_max = record_bytes_max
        self._connection: Any = None
        self._prepared: bulk.Prepared | None = None  # of this connection
        self._held_back: list[bytes] | None = None  # statements, where they may be
        self._used_at = 0.0
        self._packet_bytes_max = 0

    def close(self) -> None:
        """Drop the connection. Safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            connection.close()

    # ── sessions ────────────────────────────────────────────────────────────────────────

    def _open(self) -> None:
        if self._connection is not None and self._clock() - self._used_at > PING_AFTER_S:
            try:
                self._query("DO 0")
            except Unavailable:  # cut while it was idle; a new one tells whether it's an outage
                self.close()
        if self._connection is None:
            self._connect()

    def _connect(self) -> None:
        address = self._address
        self._beat()
        try:
            self._connection = bulk.Connection(
                host=address.host,
                port=address.port,
                user=address.user,
                password=(self._password or "").encode(),
                database=address.database,
                unix_socket=address.unix_socket,
                charset="utf8mb4",
                sql_mode="STRICT_ALL_TABLES",
                init_command=SESSION,
                autocommit=True,
                connect_timeout=CONNECT_S,
                read_timeout=self._io_s,
                write_timeout=self._io_s,
                program_name="stream-daemon",
                client_flag=CLIENT.MULTI_STATEMENTS,
                **address.tls_options(),
            )
        except pymysql.Error as error:
            raise self._no_session(error) from error
        except (RuntimeError, ValueError) as error:  # PyMySQL doesn't know how
            said = f"database {address}: can't log in as the server wants it: {error}"
            raise Unavailable(said, PLUGIN.hint, loud=True) from error
        finally:
            self._beat()
        self._prepared = bulk.Prepared(self._connection, self._prepared)
        self._query(ISOLATION)
        [(packet_bytes_max,)] = self._query("SELECT @@max_allowed_packet")
        self._packet_bytes_max = int(packet_bytes_max)
        self._check_packet()
        self._turn = self._found_turn()

    def _found_turn(self) -> tuple[Statement, Statement] | None:
        """How to take turns with others who store into this table; None where that is no use."""
        if not (self._address.is_here and self._prepared and self._prepared.can_prepare):
            return None
        found = turn(self._address.database, self._table)
        try:
            self._query_all(*found)
        except Unavailable:  # some clusters have no such locks
            return None
        return found

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        with super()._giving_way():
            self._query(LOCK_WAIT.format(GIVING_WAY_S))
            yield
            self._query(LOCK_WAIT.format(LOCK_WAIT_S))

    def run(self, statement: str | bytes) -> list[Row]:
        """Run one statement as it stands; its rows."""
        text = statement if isinstance(statement, bytes) else statement.encode()
        if self._held_back is not None:
            self._held_back.append(text)
            return []
        [rows] = self._run_all([text])
        return rows

    def _run_all(self, statements: Sequence[bytes]) -> list[list[Row]]:
        """Run statements, none behind one that fails, with few questions; the rows of each."""
        parts = cut([len(statement) + 1 for statement in statements], JOINED_BYTES_MAX)
        return [rows for lo, hi in parts for rows in self._answers(b";".join(statements[lo:hi]))]

    def _answers(self, joined: bytes) -> list[list[Row]]:
        """What the server answers to each statement of a text."""
        with self._talking(), self._connection.cursor() as cursor:
            cursor.execute(joined)
            answers = [list(cursor.fetchall())]
            while cursor.nextset():
                answers.append(list(cursor.fetchall()))
            return answers

    def run_bulk(self, statement: bytes, rows: bulk.BulkRows, lo: int, hi: int) -> int | None:
        """Run an INSERT of one row for some (see bulk.py); how many the server has changed.

        None: it can't do that; nothing has happened.
        """
        with self._talking():
            assert self._prepared is not None
            return self._prepared.insert(statement, rows.kinds, rows.packed(lo, hi))

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        self._held_back = []
        try:
            yield
        finally:
            held_back, self._held_back = self._held_back, None
        self._run_all(held_back)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """What is said to the server, and its errors as ours."""
        assert self._connection is not None, "outside of a session"
        self._beat()
        try:
            yield
        except pymysql.Error as error:
            raise self._translated(error) from error
        finally:
            self._used_at = self._clock()
            self._beat()

    def _as_it_stands(self, sql: str) -> list[Row]:
        return self.run(sql)

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        return self.run(self._text(sql, parameters))

    def _query_all(self, *statements: Statement) -> list[list[Row]]:
        try:
            return self._run_all([self._text(sql, values) for sql, *values in statements])
        except Rejected as error:
            raise self._refused_ledger(error) from error

    def _text(self, sql: str, parameters: Sequence[Any]) -> bytes:
        """A statement of the ledger as this server reads it, with its values in it."""
        marked = sql.replace('"', "`").replace("?", "%s")
        if parameters:
            marked %= tuple(map(self._connection.escape, parameters))
        return marked.encode()

    def _translated(self, error: pymysql.Error) -> StreamDaemonError:
        number, text = error.args if len(error.args) == 2 else (0, str(error))
        number &= 0xFFFF  # PyMySQL reads it with a sign
        name, reaction = reaction_to(number, getattr(error, "sqlstate", None) or "")
        said = f"{text or 'no connection'} ({f'{number} {name}'.strip()})"
        match reaction:
            case Refuse(code):
                return Rejected(said, code)
            case Mend(hint):
                return Unavailable(f"database {self._address}: {said}", hint, loud=True)
            case Wait():
                return Unavailable(f"database {self._address}: {said}")
        if number == 0:  # PyMySQL's own: a closed socket, packets out of order
            return Unavailable(f"database {self._address}: {said}")
        return Unrecognised(said, f"error {number}")

    def _no_session(self, error: pymysql.Error) -> StreamDaemonError:
        """Why there is no connection; while connecting there is no row to blame."""
        if failure := self._address.tls_failure(getattr(error, "original_exception", None)):
            return failure
        refusal = self._translated(error)
        if isinstance(refusal, Rejected):
            said = f"database {self._address}: {refusal.message}"
            return Unavailable(said, LOGIN.hint, loud=True)
        if refusal.hint == LOGIN.hint and self._address.tls != "require":
            refusal.hint += "; one with REQUIRE SSL needs ?tls=require in store.url"
        return refusal

    # ── rows ────────────────────────────────────────────────────────────────────────────

    def _writer(
        self, table: str, columns: Sequence[str], blocks: Sequence[Rows], *, update: bool = False
    ) -> Writer:
        names = [self._quoted(column) for column in columns]
        head = f"INSERT INTO {self._quoted(table)} ({','.join(names)}) VALUES "
        changes = ",".join(f"{name}=VALUES({name})" for name in names)
        tail = f" ON DUPLICATE KEY UPDATE {changes}" if update else ""
        limit = self._packet_bytes_max - PACKET_SPARE_BYTES
        insert = _Insert(self, head.encode(), tail.encode(), len(columns), limit)
        rows = bulk.bulk_rows(blocks) if self._can_bulk() else None
        parts = bulk.parts_of(rows, insert.size_max, self._address.is_here) if rows else []
        if rows and any(in_bulk for _, in_bulk in parts):
            return _Bulks(insert, blocks, rows, parts)
        return _Statements(insert, blocks)

    def _can_bulk(self) -> bool:
        """Whether to try: what is held back to be sent at once is text."""
        return self._held_back is None and bool(self._prepared and self._prepared.can_prepare)

    def _letter_bytes_max(self) -> int:
        return (self._packet_bytes_max - ROW_SPARE_BYTES) // 2  # its bytes go as hex digits

    # ── tables ──────────────────────────────────────────────────────────────────────────

    def _columns_of(self, table: str) -> set[str]:
        rows = self._query(  # it compares with or without case, as the server's names have it
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
            table,
        )
        return {str(name).lower() for (name,) in rows}

    def _has_index(self, table: str) -> bool:
        rows = self._query(
            "SELECT 1 FROM information_schema.STATISTICS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND INDEX_NAME = ?",
            table,
            f"{table}_index",
        )
        return bool(rows)

    def _make_ledger_table(self, name: str, table: Table) -> None:
        index = f', KEY "{name}_index" ({quoted_names(table.index)})' if table.index else ""
        self._query(
            f'CREATE TABLE IF NOT EXISTS "{name}" ({self._definition(table)}{index}){OPTIONS}'
        )

    def _make_data_table(self) -> None:
        self._create("TABLE IF NOT EXISTS", self._table)

    def _is_there(self) -> bool:
        return True  # the server knows, and says so

    def _try_data_table(self) -> Remark:
        """See by a temporary table, which only this session has, that ours can be made."""
        trial = f"{self._prefix}_check"
        try:
            self._create("TEMPORARY TABLE", trial)
        except Unavailable as error:
            return Remark(f"table {self._table} will be made; its types weren't tried: {error}")
        self._query(f'DROP TEMPORARY TABLE "{trial}"')
        return Remark(f"table {self._table} will be made")

    def _create(self, what: str, name: str) -> None:
        definition = f"{self._quoted(name)} ({self._data_definition()}){OPTIONS}"
        try:
            self.run(f"CREATE {what} {definition}")
        except Rejected as error:
            raise ConfigError(
                f"the database can't make table {self._table}: {error.message}",
                "mend the types in [store.columns]",
            ) from error

    def _check_tables(self) -> None:
        self._check_view()
        self._check_engines()

    def _check_packet(self) -> None:
        """Refuse a session in which a record and its dead letter might not fit."""
        needed = 2 * self._record_bytes_max + ROW_SPARE_BYTES
        if self._packet_bytes_max < needed:
            raise Unavailable(
                f"the server takes packets of {self._packet_bytes_max} bytes; a record of"
                f" record_bytes_max may need {needed}",
                f"run: SET GLOBAL max_allowed_packet = {-(-needed // 1024) * 1024}; and write it"
                " in the server's configuration too",
                loud=True,
            )

    def _check_view(self) -> None:
        """Refuse a view: what is behind it may keep no transactions, which can't be seen."""
        views = self._query(
            "SELECT 1 FROM information_schema.VIEWS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?",
            self._table,
        )
        if views:
            raise Unavailable(
                f"{self._table} is a view, and what is behind it may keep no transactions",
                "name a table in store.table",
                loud=True,
            )

    def _check_engines(self) -> None:
        """Refuse a table whose engine would keep half of a transaction."""
        names = [self._table, *map(self._name, TABLES)]
        rows = self._query(
            "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES"
            " LEFT JOIN information_schema.ENGINES USING (ENGINE)"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_TYPE = 'BASE TABLE'"
            " AND NOT COALESCE(TRANSACTIONS = 'YES' AND SAVEPOINTS = 'YES', 0)"
            f" AND TABLE_NAME IN ({', '.join('?' * len(names))})",
            *names,
        )
        for name, engine in rows:
            raise Unavailable(
                f"table {name} has engine {engine}, which keeps no transactions",
                f"run: ALTER TABLE {self._quoted(name)} ENGINE=InnoDB;",
                loud=True,
            )

    @staticmethod
    def _quoted(identifier: str) -> str:
        return "`" + identifier.replace("`", "``") + "`"


@dataclass(frozen=True)
class _Insert:
    """An INSERT into one table: what stands before its rows and behind them, and its limit."""

    store: MySQLStore
    head: bytes
    tail: bytes
    columns: int
    packet_bytes_max: int

    @property
    def size_max(self) -> int:
        """Bytes that its rows should have."""
        whole = min(STATEMENT_BYTES_MAX, self.packet_bytes_max)
        return whole - len(self.head) - len(self.tail)

    def text(self, rows: bytes) -> None:
        """Insert rows that are text."""
        statement = self.head + rows + self.tail
        del rows  # as large as the statement; nobody asks for it twice
        if len(statement) > self.packet_bytes_max:
            raise Rejected(
                f"a statement of {len(statement)} bytes is over the server's max_allowed_packet",
                TOO_LONG,
            )
        self.store.run(statement)

    def bulk(self, rows: bulk.BulkRows, lo: int, hi: int) -> bool:
        """Insert some rows in bulk; whether the server can do that."""
        marks = b"(" + b",".join([b"?"] * self.columns) + b")"
        changed = self.store.run_bulk(self.head + marks + self.tail, rows, lo, hi)
        if changed not in (None, hi - lo) and not self.tail:  # an update counts as 0 or 2
            said = f"the server took {changed} of the {hi - lo} rows of a bulk"
            raise Rejected(said, "count")  # so they go as text
        return changed is not None


class _Statements(Writer):
    """Rows as text, to be joined into INSERT statements; cut inside a block only if need be."""

    def __init__(self, insert: _Insert, blocks: Sequence[Rows]) -> None:
        self._insert = insert
        self._blocks = blocks
        size_max = insert.size_max
        parts = [piece for rows in blocks for piece in pieces(rows, size_max)]
        ends = list(accumulate(count for count, _ in parts))
        self._texts: dict[Span, bytes] = {}
        for lo, hi in cut([len(text) + 1 for _, text in parts], size_max):
            span = ends[lo] - parts[lo][0], ends[hi - 1]
            self._texts[span] = b",".join([text for _, text in parts[lo:hi]])
        self.parts = list(self._texts)

    def insert(self, lo: int, hi: int) -> None:
        self._insert.text(self._texts.pop((lo, hi), b"") or b",".join(self._row_texts[lo:hi]))

    @cached_property
    def _row_texts(self) -> list[bytes]:
        """Row by row: what isolation needs, once the database has refused a statement."""
        return [text for rows in self._blocks for text in row_texts(rows)]


class _Bulks(Writer):
    """Rows in bulk (see bulk.py); what is left over, or has been refused, as text."""

    def __init__(
        self,
        insert: _Insert,
        blocks: Sequence[Rows],
        rows: bulk.BulkRows,
        parts: Sequence[tuple[Span, bool]],
    ) -> None:
        self._insert = insert
        self._blocks = blocks
        self._rows = rows
        self.parts = [span for span, _ in parts]
        self._in_bulk = {span for span, in_bulk in parts if in_bulk}

    def insert_all(self) -> None:
        for span in self.parts:
            self._insert_part(*span, in_bulk=span in self._in_bulk)

    def insert(self, lo: int, hi: int) -> None:
        """Why a single row is refused is said by its text: there a NULL is one for each type."""
        if hi - lo > 1:
            self._insert_part(lo, hi, in_bulk=(lo, hi) in self._in_bulk)
        else:
            self._insert_one(lo)

    def _insert_one(self, at: int) -> None:
        try:
            self._insert_part(at, at + 1, in_bulk=False)
        except Rejected as error:  # the text may be twice as long
            if error.code != TOO_LONG or self._rows.sizes()[at] > self._insert.size_max:
                raise
            self._insert_part(at, at + 1, in_bulk=True)

    def _insert_part(self, lo: int, hi: int, in_bulk: bool) -> None:
        if not in_bulk or not self._insert.bulk(self._rows, lo, hi):
            # As text they may be twice as long: in as many statements as it takes.
            _Statements(self._insert, [*self._blocks_from(lo, hi)]).insert_all()

    def _blocks_from(self, lo: int, hi: int) -> Iterator[Rows]:
        """Some of the rows; texts stay bytes, of which a large one is text in a fifth of memory."""
        first = 0
        for rows in self._blocks:
            begin, end = max(0, lo - first), min(len(rows), hi - first)
            if begin < end:
                yield rows.part(begin, end) if isinstance(rows, Block) else rows[begin:end]
            first += len(rows)
