"""MySQL and MariaDB, through PyMySQL.

One connection, made by the first call and again after every error. Its session is strict
(STRICT_ALL_TABLES: a value that doesn't fit is refused, never bent), in UTC, in READ COMMITTED,
and gives up early: a half-dead session must not hold the ledger's rows for the server's
usual eight hours. A session that was idle long is asked for a sign of life before the
transaction, since the server may have cut it by then, which is no outage.

Rows become text here, many rows in one INSERT. A block of rows is written column by column:
what came as UTF-8 is never decoded, and a whole column of it is escaped at once. A statement is
cut at STATEMENT_BYTES_MAX, and always below the server's max_allowed_packet: a longer one isn't
refused, it ends the connection. Escaping relies on the session's sql_mode: without
NO_BACKSLASH_ESCAPES and ANSI_QUOTES only the backslash and the single quote mean anything
inside of '…', and in utf8mb4 no byte of another character looks like them.

ERRORS is the one table that says what a number of the server's means for us:

    Wait()        the server doesn't do its work now: Unavailable, quietly
    Mend(hint)    an operator has to do something first: Unavailable, loudly
    Refuse(code)  the row is to blame: Rejected, dead letter with this code

A number that isn't in it is Unrecognised: about the row if other rows pass, else about the server.
"""

import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pymysql

from appliance.addresses import check_store_url
from appliance.batch import Block, Same, Texts, Value
from appliance.config import Column
from appliance.contracts import Remark
from appliance.errors import ConfigError, Rejected, StreamDaemonError, Unavailable
from appliance.stores.ledger import (
    DUPLICATE,
    TABLES,
    LedgerStore,
    Row,
    Rows,
    Span,
    Table,
    Unrecognised,
    Writer,
    quoted_names,
)

PORT = 3306
CONNECT_S = 10
IO_S = 60  # one read from or write to the server; well above its own lock wait
LOCK_WAIT_S = 20
SERVER_IDLE_S = 120  # the server drops the session then, and what it had locked
PING_AFTER_S = 60  # idle longer than this: ask before the transaction
STATEMENT_BYTES_MAX = 2 * 1024 * 1024  # a full frame usually fits, escaped, and stays whole
SEPARATOR = b"\xff"  # in no UTF-8
PACKET_SPARE_BYTES = 1024
ROW_SPARE_BYTES = 64 * 1024  # room beside a record, escaped, for the row's other values

SESSION = (
    "SET SESSION time_zone = '+00:00',"
    f" wait_timeout = {SERVER_IDLE_S}, innodb_lock_wait_timeout = {LOCK_WAIT_S}"
)
ISOLATION = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
OPTIONS = " ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"


# ── what the server's errors mean ───────────────────────────────────────────────────────


@dataclass(frozen=True)
class Wait:
    """The server doesn't do its work now."""


@dataclass(frozen=True)
class Mend:
    """An operator has to do something first."""

    hint: str


@dataclass(frozen=True)
class Refuse:
    """The row is to blame; `code` is the dead letter's."""

    code: str


Reaction = Wait | Mend | Refuse

LOGIN = Mend("check user and password under [store], and the account on the server")
GRANT = Mend("grant this user SELECT, INSERT, UPDATE, DELETE and CREATE on the database")
SCHEMA = Mend("was a table changed? Restore it, or restart to have missing tables made anew")

ERRORS: Mapping[int, tuple[str, Reaction]] = {
    # the connection, the server's life and its limits
    2002: ("CR_CONNECTION_ERROR", Wait()),
    2003: ("CR_CONN_HOST_ERROR", Wait()),
    2006: ("CR_SERVER_GONE_ERROR", Wait()),
    2013: ("CR_SERVER_LOST", Wait()),
    1040: ("ER_CON_COUNT_ERROR", Wait()),
    1053: ("ER_SERVER_SHUTDOWN", Wait()),
    1077: ("ER_NORMAL_SHUTDOWN", Wait()),
    1079: ("ER_SHUTDOWN_COMPLETE", Wait()),
    1152: ("ER_ABORTING_CONNECTION", Wait()),
    1153: ("ER_NET_PACKET_TOO_LARGE", Wait()),  # a new session asks for the limit again
    1158: ("ER_NET_READ_ERROR", Wait()),
    1159: ("ER_NET_READ_INTERRUPTED", Wait()),
    1160: ("ER_NET_ERROR_ON_WRITE", Wait()),
    1161: ("ER_NET_WRITE_INTERRUPTED", Wait()),
    1184: ("ER_NEW_ABORTING_CONNECTION", Wait()),
    1203: ("ER_TOO_MANY_USER_CONNECTIONS", Wait()),
    1226: ("ER_USER_LIMIT_REACHED", Wait()),
    1317: ("ER_QUERY_INTERRUPTED", Wait()),
    1927: ("ER_CONNECTION_KILLED", Wait()),
    1969: ("ER_STATEMENT_TIMEOUT", Wait()),
    3024: ("ER_QUERY_TIMEOUT", Wait()),
    4031: ("ER_CLIENT_INTERACTION_TIMEOUT", Wait()),
    # other sessions
    1020: ("ER_CHECKREAD", Wait()),
    1205: ("ER_LOCK_WAIT_TIMEOUT", Wait()),
    1206: ("ER_LOCK_TABLE_FULL", Wait()),
    1213: ("ER_LOCK_DEADLOCK", Wait()),
    1047: ("ER_UNKNOWN_COM_ERROR", Wait()),  # a Galera node that isn't ready
    # memory, disk, read-only
    1021: ("ER_DISK_FULL", Wait()),
    1026: ("ER_ERROR_ON_WRITE", Wait()),
    1030: ("ER_GET_ERRNO", Wait()),
    1037: ("ER_OUTOFMEMORY", Wait()),
    1038: ("ER_OUT_OF_SORTMEMORY", Wait()),
    1041: ("ER_OUT_OF_RESOURCES", Wait()),
    1114: ("ER_RECORD_FILE_FULL", Wait()),
    1135: ("ER_CANT_CREATE_THREAD", Wait()),
    1180: ("ER_ERROR_DURING_COMMIT", Wait()),
    1290: ("ER_OPTION_PREVENTS_STATEMENT", Wait()),
    1792: ("ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION", Wait()),
    1836: ("ER_READ_ONLY_MODE", Wait()),
    # access
    1044: ("ER_DBACCESS_DENIED_ERROR", GRANT),
    1045: ("ER_ACCESS_DENIED_ERROR", LOGIN),
    1049: ("ER_BAD_DB_ERROR", Mend("create it (CREATE DATABASE), or name another in store.url")),
    1129: ("ER_HOST_IS_BLOCKED", Mend("run FLUSH HOSTS on the server")),
    1130: ("ER_HOST_NOT_PRIVILEGED", LOGIN),
    1142: ("ER_TABLEACCESS_DENIED_ERROR", GRANT),
    1143: ("ER_COLUMNACCESS_DENIED_ERROR", GRANT),
    1227: ("ER_SPECIFIC_ACCESS_DENIED_ERROR", GRANT),
    1251: ("ER_NOT_SUPPORTED_AUTH_MODE", LOGIN),
    1370: ("ER_PROCACCESS_DENIED_ERROR", GRANT),
    1698: ("ER_ACCESS_DENIED_NO_PASSWORD_ERROR", LOGIN),
    1820: ("ER_MUST_CHANGE_PASSWORD", LOGIN),
    1862: ("ER_MUST_CHANGE_PASSWORD_LOGIN", LOGIN),
    3118: ("ER_ACCOUNT_HAS_BEEN_LOCKED", LOGIN),
    3159: ("ER_SECURE_TRANSPORT_REQUIRED", Mend("enable TLS on the server, or allow this user")),
    4151: ("ER_ACCOUNT_HAS_BEEN_LOCKED", LOGIN),
    # tables
    1036: ("ER_OPEN_AS_READONLY", SCHEMA),
    1054: ("ER_BAD_FIELD_ERROR", SCHEMA),
    1146: ("ER_NO_SUCH_TABLE", SCHEMA),
    1471: ("ER_NON_INSERTABLE_TABLE", SCHEMA),
    1665: ("ER_BINLOG_STMT_MODE_AND_ROW_ENGINE", Mend("set binlog_format to ROW or MIXED")),
    1932: ("ER_NO_SUCH_TABLE_IN_ENGINE", SCHEMA),
    # data
    1048: ("ER_BAD_NULL_ERROR", Refuse("null")),
    1062: ("ER_DUP_ENTRY", Refuse(DUPLICATE)),
    1169: ("ER_DUP_UNIQUE", Refuse(DUPLICATE)),
    1216: ("ER_NO_REFERENCED_ROW", Refuse("foreign key")),
    1264: ("ER_WARN_DATA_OUT_OF_RANGE", Refuse("range")),
    1265: ("WARN_DATA_TRUNCATED", Refuse("truncated")),
    1292: ("ER_TRUNCATED_WRONG_VALUE", Refuse("value")),
    1364: ("ER_NO_DEFAULT_FOR_FIELD", Refuse("no default")),
    1366: ("ER_TRUNCATED_WRONG_VALUE_FOR_FIELD", Refuse("value")),
    1367: ("ER_ILLEGAL_VALUE_FOR_TYPE", Refuse("range")),
    1406: ("ER_DATA_TOO_LONG", Refuse("too long")),
    1411: ("ER_WRONG_VALUE_FOR_TYPE", Refuse("value")),
    1416: ("ER_CANT_CREATE_GEOMETRY_OBJECT", Refuse("value")),
    1441: ("ER_DATETIME_FUNCTION_OVERFLOW", Refuse("range")),
    1452: ("ER_NO_REFERENCED_ROW_2", Refuse("foreign key")),
    1586: ("ER_DUP_ENTRY_WITH_KEY_NAME", Refuse(DUPLICATE)),
    1644: ("ER_SIGNAL_EXCEPTION", Refuse("signal")),
    1690: ("ER_DATA_OUT_OF_RANGE", Refuse("range")),
    3140: ("ER_INVALID_JSON_TEXT", Refuse("value")),
    3819: ("ER_CHECK_CONSTRAINT_VIOLATED", Refuse("check")),
    4025: ("ER_CONSTRAINT_FAILED", Refuse("check")),
}
SIGNAL_STATE = "45000"  # what a trigger's SIGNAL has, whatever number it chooses


# ── where the server is ─────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class MySQLAddress:
    """Where a server is and what to open there; the password is never part of it."""

    host: str
    port: int
    user: str
    database: str
    unix_socket: str | None = None

    def __str__(self) -> str:
        place = self.unix_socket or f"{self.host}:{self.port}"
        return f"{self.user}@{place}/{self.database}"


def parse_url(url: str) -> MySQLAddress:
    """Read mysql://user@host:3306/database, ?unix_socket=/path; names may be %-encoded.

    Raises:
        ConfigError: not such a URL, or a password stands in it.
    """
    check_store_url(url)
    parts = urlsplit(url)
    unix_socket = dict(parse_qsl(parts.query)).get("unix_socket")
    return MySQLAddress(
        host=unquote(parts.hostname or "localhost"),
        port=parts.port or PORT,
        user=unquote(parts.username or ""),
        database=unquote(parts.path.removeprefix("/")),
        unix_socket=unix_socket,
    )


# ── the store ───────────────────────────────────────────────────────────────────────────


class MySQLStore(LedgerStore):
    """Stores batches in MySQL or MariaDB."""

    BEGIN = "START TRANSACTION"
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
    ) -> None:
        super().__init__(prefix, table, columns, beat)
        self._address = dsn
        self._password = password
        self._record_bytes_max = record_bytes_max
        self._clock = clock
        self._connection: Any = None
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
                self.run("DO 0")
            except Unavailable:  # cut while it was idle; a new one tells whether it's an outage
                self.close()
        if self._connection is None:
            self._connect()

    def _connect(self) -> None:
        address = self._address
        self._beat()
        try:
            self._connection = pymysql.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=(self._password or "").encode(),
                database=address.database,
                unix_socket=address.unix_socket,
                ssl_disabled=address.unix_socket is not None,
                charset="utf8mb4",
                sql_mode="STRICT_ALL_TABLES",
                init_command=SESSION,
                autocommit=True,
                connect_timeout=CONNECT_S,
                read_timeout=IO_S,
                write_timeout=IO_S,
                program_name="stream-daemon",
            )
        except pymysql.Error as error:
            raise self._unavailable(self._translated(error)) from error
        finally:
            self._beat()
        self.run(ISOLATION)
        [(packet_bytes_max,)] = self.run("SELECT @@max_allowed_packet")
        self._packet_bytes_max = int(packet_bytes_max)

    def run(self, statement: str | bytes) -> list[Row]:
        """Run one statement as it stands; its rows."""
        assert self._connection is not None, "outside of a session"
        self._beat()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except pymysql.Error as error:
            raise self._translated(error) from error
        finally:
            self._used_at = self._clock()
            self._beat()

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        marked = sql.replace('"', "`").replace("?", "%s")
        with self._connection.cursor() as cursor:
            return self.run(cursor.mogrify(marked, parameters) if parameters else marked)

    def _translated(self, error: pymysql.Error) -> StreamDaemonError:
        number, text = error.args if len(error.args) == 2 else (0, str(error))
        name, reaction = ERRORS.get(number, ("", None))
        if reaction is None and getattr(error, "sqlstate", None) == SIGNAL_STATE:
            reaction = Refuse("signal")
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

    def _unavailable(self, error: StreamDaemonError) -> StreamDaemonError:
        """While connecting there is no row to blame."""
        if isinstance(error, Rejected):
            return Unavailable(f"database {self._address}: {error.message}", LOGIN.hint, loud=True)
        return error

    # ── rows ────────────────────────────────────────────────────────────────────────────

    def _writer(self, table: str, columns: Sequence[str], blocks: Sequence[Rows]) -> Writer:
        names = ",".join(map(self._quoted, columns))
        head = f"INSERT INTO {self._quoted(table)} ({names}) VALUES ".encode()
        return _Statements(self, head, blocks, self._packet_bytes_max - PACKET_SPARE_BYTES)

    # ── tables ──────────────────────────────────────────────────────────────────────────

    def _columns_of(self, table: str) -> set[str]:
        rows = self._query(
            "SELECT COLUMN_NAME FROM information_schema.COLUMNS"
            " WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME IN (?, LOWER(?))",
            table,
            table,
        )
        return {str(name).lower() for (name,) in rows}

    def _make_ledger_table(self, name: str, table: Table) -> None:
        index = f", KEY ({quoted_names(table.index)})" if table.index else ""
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
        self._check_engines()
        needed = 2 * self._record_bytes_max + ROW_SPARE_BYTES
        if self._packet_bytes_max < needed:
            raise Unavailable(
                f"the server takes packets of {self._packet_bytes_max} bytes; a record of"
                f" record_bytes_max may need {needed}",
                f"run: SET GLOBAL max_allowed_packet = {-(-needed // 1024) * 1024}; and write it"
                " in the server's configuration too",
                loud=True,
            )

    def _check_engines(self) -> None:
        """Refuse a table whose engine would keep half of a transaction."""
        names = [self._table, self._table.lower(), *map(self._name, TABLES)]
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


class _Statements(Writer):
    """Rows as text, to be joined into INSERT statements; cut inside a block only if need be."""

    def __init__(
        self, store: MySQLStore, head: bytes, blocks: Sequence[Rows], packet_bytes_max: int
    ) -> None:
        self._store = store
        self._head = head
        self._blocks = blocks
        self._packet_bytes_max = packet_bytes_max
        size_max = min(STATEMENT_BYTES_MAX, packet_bytes_max) - len(head)
        pieces = [piece for rows in blocks for piece in _pieces(rows, size_max)]
        ends = list(accumulate(count for count, _ in pieces))
        self._texts: dict[Span, bytes] = {}
        for lo, hi in cut([len(text) + 1 for _, text in pieces], size_max):
            span = ends[lo] - pieces[lo][0], ends[hi - 1]
            self._texts[span] = b",".join([text for _, text in pieces[lo:hi]])
        self.parts = list(self._texts)

    def insert(self, lo: int, hi: int) -> None:
        text = self._texts.get((lo, hi)) or b",".join(self._row_texts[lo:hi])
        statement = self._head + text
        if len(statement) > self._packet_bytes_max:
            raise Rejected(
                f"a statement of {len(statement)} bytes is over the server's max_allowed_packet",
                "packet",
            )
        self._store.run(statement)

    @cached_property
    def _row_texts(self) -> list[bytes]:
        """Row by row: what isolation needs, once the database has refused a statement."""
        return [text for rows in self._blocks for text in row_texts(rows)]


def _pieces(rows: Rows, size_max: int) -> list[tuple[int, bytes]]:
    """Rows as text, and how many there are in it: all at once, or one by one if too long."""
    whole = text_of(rows)
    if len(whole) <= size_max:
        return [(len(rows), whole)] if rows else []
    return [(1, text) for text in row_texts(rows)]


def cut(sizes: Sequence[int], size_max: int) -> list[Span]:
    """Neighbours put together up to size_max; a larger one stays alone."""
    ends = list(accumulate(sizes))
    parts: list[Span] = []
    lo, before = 0, 0
    while lo < len(ends):
        hi = max(lo + 1, bisect_right(ends, before + size_max))
        parts.append((lo, hi))
        lo, before = hi, ends[hi - 1]
    return parts


def text_of(rows: Rows) -> bytes:
    """Rows as they stand behind VALUES: what row_texts gives, joined."""
    if isinstance(rows, Block) and rows:
        fixed, varying = _layout(rows)
        if len(varying) == 1 and isinstance(varying[0], Texts):
            before, after = fixed
            return before + _escaped(varying[0]).replace(SEPARATOR, after + b"," + before) + after
    return b",".join(row_texts(rows))


def row_texts(rows: Rows) -> list[bytes]:
    """Each row as it stands behind VALUES; a block is written column by column."""
    if not isinstance(rows, Block) or not rows:
        return [row_text(row) for row in rows]
    fixed, varying = _layout(rows)
    template = b"%b".join([part.replace(b"%", b"%%") for part in fixed])
    literals = [
        _escaped(column).split(SEPARATOR)
        if isinstance(column, Texts)
        else [_literal(value) for value in column]
        for column in varying
    ]
    return [template % row for row in zip(*literals, strict=True)] or fixed * len(rows)


def _layout(block: Block) -> tuple[list[bytes], list[Texts | Sequence[Value]]]:
    """What is the same in the text of each row, and the columns that come between its parts."""
    fixed, varying = [b"("], []
    for index, column in enumerate(block.columns):
        fixed[-1] += b"," if index else b""
        if isinstance(column, Same):
            fixed[-1] += _literal(column.value)
            continue
        quote = b"'" if isinstance(column, Texts) else b""
        fixed[-1] += quote
        fixed.append(quote)
        varying.append(column)
    fixed[-1] += b")"
    return fixed, varying


def row_text(row: Row) -> bytes:
    """A row as it stands behind VALUES."""
    return b"(" + b",".join(map(_literal, row)) + b")"


def _literal(value: Value) -> bytes:
    return LITERALS[type(value)](value).encode()


def _text_literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _escaped(column: Texts) -> bytes:
    """A column of texts as they stand inside of '…', escaped at once, SEPARATOR between them."""
    joined = SEPARATOR.join(column.utf8)
    return joined.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


LITERALS: Mapping[type, Callable[[Any], str]] = {
    str: _text_literal,
    int: str,
    float: lambda value: text if "e" in (text := repr(value)) else f"{text}e0",
    bytes: lambda value: f"X'{value.hex()}'",
    type(None): lambda _: "NULL",
}
