"""MySQL and MariaDB, through PyMySQL.

One connection, made by the first call and again after every error. Its session is strict
(STRICT_ALL_TABLES: a value that doesn't fit is refused, never bent), in UTC, in READ COMMITTED,
and gives up early: a half-dead session must not hold the ledger's rows for the server's
usual eight hours. A session that was idle long is asked for a sign of life before the
transaction, since the server may have cut it by then, which is no outage.

Rows become text here, many rows in one INSERT. A block of rows is never written row by row: what
came as UTF-8 isn't even decoded, and a whole column of it is escaped at once; all other values go
through one call that writes them as JSON, which SQL reads as they are meant, but for a few rare
escapes. A statement is cut at STATEMENT_BYTES_MAX, and always below the server's
max_allowed_packet: a longer one isn't refused, it ends the connection. Escaping relies on the
session's sql_mode: without NO_BACKSLASH_ESCAPES and ANSI_QUOTES "…" is a text as '…' is, only the
backslash and the quote itself mean anything inside, and in utf8mb4 no byte of another character
looks like them.

ERRORS is the one table that says what a number of the server's means for us:

    Wait()        the server doesn't do its work now: Unavailable, quietly
    Mend(hint)    an operator has to do something first: Unavailable, loudly
    Refuse(code)  the row is to blame: Rejected, dead letter with this code

What a trigger signals (SQLSTATE 45…) is about the row, whatever its number. A number that isn't
in the table is judged by the class of its SQLSTATE (CLASSES); where that says nothing either it
is Unrecognised: about the row if other rows pass, else about the server.

The numbers come from the error lists of MariaDB 10.11 and MySQL 9: all that an INSERT, the
ledger's own statements, a trigger or a commit can end with, and what has one meaning in both
(MariaDB numbers from 4000 on mean other things in MySQL, but none that we can meet).
"""

import re
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby, repeat
from typing import Any

import orjson
import pymysql
from pymysql.constants import CLIENT

from appliance.batch import Block, Same, Texts, Value, Values
from appliance.config import Column, OnDuplicate
from appliance.contracts import Remark
from appliance.errors import ConfigError, Rejected, StreamDaemonError, Unavailable
from appliance.stores import bound
from appliance.stores.address import MySQLAddress
from appliance.stores.books import Books
from appliance.stores.disposable import Disposable
from appliance.stores.gaps import GapList
from appliance.stores.letters import Letters
from appliance.stores.tables import (
    DUPLICATE,
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

CONNECT_S = 10
IO_S = 60  # one read from or write to the server; well above its own lock wait
LOCK_WAIT_S = 20
GIVING_WAY_S = 5  # the same, where everybody who stores waits meanwhile
SERVER_IDLE_S = 120  # the server drops the session then, and what it had locked
PING_AFTER_S = 60  # idle longer than this: ask before the transaction
STATEMENT_BYTES_MAX = 2 * 1024 * 1024  # a full frame usually fits, escaped, and stays whole
JOINED_BYTES_MAX = 32 * 1024  # of small statements that are sent together
SEPARATOR = b"\xff"  # in no UTF-8
PACKET_SPARE_BYTES = 1024
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
PLUGIN = Mend(
    "let the account log in with caching_sha2_password or mysql_native_password; a long password"
    " needs ?tls=require in store.url"
)
GRANT = Mend("grant this user SELECT, INSERT, UPDATE, DELETE and CREATE on the database")
SCHEMA = Mend("was a table changed? Restore it, or restart to have missing tables made anew")
REPAIR = Mend("run CHECK TABLE, see the server's log, and repair or restore the table")
BINLOG = Mend("set binlog_format to ROW or MIXED")
SMALLER = Mend("raise that limit on the server, or lower store.lease_bytes_max")
LARGER = Mend("the automatic key is used up: give the AUTO_INCREMENT column a larger type")
KEYS = Mend("give the table a primary key, or set sql_require_primary_key = OFF")
TRIGGER = Mend("mend the trigger (SHOW TRIGGERS), or what it calls")
GENERATED = Mend("leave generated columns out of [store.columns]: the database fills them")

ERRORS: Mapping[int, tuple[str, Reaction]] = {
    # The connection, the server's life and its limits.
    2002: ("CR_CONNECTION_ERROR", Wait()),
    2003: ("CR_CONN_HOST_ERROR", Wait()),
    2006: ("CR_SERVER_GONE_ERROR", Wait()),
    2013: ("CR_SERVER_LOST", Wait()),
    2059: ("CR_AUTH_PLUGIN_CANNOT_LOAD", PLUGIN),
    2014: ("CR_COMMANDS_OUT_OF_SYNC", Wait()),
    2026: ("CR_SSL_CONNECTION_ERROR", Mend("enable TLS on the server, or write ?tls=prefer")),
    1040: ("ER_CON_COUNT_ERROR", Wait()),
    1042: ("ER_BAD_HOST_ERROR", Wait()),
    1043: ("ER_HANDSHAKE_ERROR", Wait()),
    1053: ("ER_SERVER_SHUTDOWN", Wait()),
    1077: ("ER_NORMAL_SHUTDOWN", Wait()),
    1079: ("ER_SHUTDOWN_COMPLETE", Wait()),
    1080: ("ER_FORCING_CLOSE", Wait()),
    1152: ("ER_ABORTING_CONNECTION", Wait()),
    1153: ("ER_NET_PACKET_TOO_LARGE", Wait()),  # a new session asks for the limit again
    1154: ("ER_NET_READ_ERROR_FROM_PIPE", Wait()),
    1155: ("ER_NET_FCNTL_ERROR", Wait()),
    1156: ("ER_NET_PACKETS_OUT_OF_ORDER", Wait()),
    1157: ("ER_NET_UNCOMPRESS_ERROR", Wait()),
    1158: ("ER_NET_READ_ERROR", Wait()),
    1159: ("ER_NET_READ_INTERRUPTED", Wait()),
    1160: ("ER_NET_ERROR_ON_WRITE", Wait()),
    1161: ("ER_NET_WRITE_INTERRUPTED", Wait()),
    1184: ("ER_NEW_ABORTING_CONNECTION", Wait()),
    1203: ("ER_TOO_MANY_USER_CONNECTIONS", Wait()),
    1226: ("ER_USER_LIMIT_REACHED", Wait()),
    1317: ("ER_QUERY_INTERRUPTED", Wait()),
    1835: ("ER_MALFORMED_PACKET", Wait()),
    1927: ("ER_CONNECTION_KILLED", Wait()),
    1969: ("ER_STATEMENT_TIMEOUT", Wait()),
    3024: ("ER_QUERY_TIMEOUT", Wait()),
    3032: ("ER_SERVER_OFFLINE_MODE", Wait()),
    3168: ("ER_SERVER_ISNT_AVAILABLE", Wait()),
    3169: ("ER_SESSION_WAS_KILLED", Wait()),
    4031: ("ER_CLIENT_INTERACTION_TIMEOUT", Wait()),
    # Other sessions, and other nodes of a cluster (Galera, group replication).
    1020: ("ER_CHECKREAD", Wait()),
    1047: ("ER_UNKNOWN_COM_ERROR", Wait()),  # a Galera node that isn't ready
    1205: ("ER_LOCK_WAIT_TIMEOUT", Wait()),
    1206: ("ER_LOCK_TABLE_FULL", Wait()),
    1213: ("ER_LOCK_DEADLOCK", Wait()),
    1412: ("ER_TABLE_DEF_CHANGED", Wait()),
    1615: ("ER_NEED_REPREPARE", Wait()),
    1637: ("ER_TOO_MANY_CONCURRENT_TRXS", Wait()),
    1689: ("ER_LOCK_ABORTED", Wait()),
    3100: ("ER_RUN_HOOK_ERROR", Wait()),
    3101: ("ER_TRANSACTION_ROLLBACK_DURING_COMMIT", Wait()),
    3177: ("ER_LOCK_REFUSED_BY_ENGINE", Wait()),
    3572: ("ER_LOCK_NOWAIT", Wait()),
    3796: ("ER_GRP_TRX_CONSISTENCY_NOT_ALLOWED", Wait()),
    3797: ("ER_GRP_TRX_CONSISTENCY_BEFORE", Wait()),
    3798: ("ER_GRP_TRX_CONSISTENCY_AFTER_ON_TRX_BEGIN", Wait()),
    3799: ("ER_GRP_TRX_CONSISTENCY_BEGIN_NOT_ALLOWED", Wait()),
    4145: ("ER_BACKUP_LOCK_IS_ACTIVE", Wait()),
    # Memory, disk, read-only.
    1004: ("ER_CANT_CREATE_FILE", Wait()),
    1015: ("ER_CANT_LOCK", Wait()),
    1016: ("ER_CANT_OPEN_FILE", Wait()),
    1021: ("ER_DISK_FULL", Wait()),
    1023: ("ER_ERROR_ON_CLOSE", Wait()),
    1024: ("ER_ERROR_ON_READ", Wait()),
    1026: ("ER_ERROR_ON_WRITE", Wait()),
    1030: ("ER_GET_ERRNO", Wait()),
    1037: ("ER_OUTOFMEMORY", Wait()),
    1038: ("ER_OUT_OF_SORTMEMORY", Wait()),
    1041: ("ER_OUT_OF_RESOURCES", Wait()),
    1114: ("ER_RECORD_FILE_FULL", Wait()),
    1135: ("ER_CANT_CREATE_THREAD", Wait()),
    1180: ("ER_ERROR_DURING_COMMIT", Wait()),
    1181: ("ER_ERROR_DURING_ROLLBACK", Wait()),
    1207: ("ER_READ_ONLY_TRANSACTION", Wait()),
    1290: ("ER_OPTION_PREVENTS_STATEMENT", Wait()),
    1534: ("ER_BINLOG_ROW_LOGGING_FAILED", Wait()),
    1792: ("ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION", Wait()),
    1810: ("ER_IO_READ_ERROR", Wait()),
    1811: ("ER_IO_WRITE_ERROR", Wait()),
    1836: ("ER_READ_ONLY_MODE", Wait()),
    1874: ("ER_INNODB_READ_ONLY", Wait()),
    1878: ("ER_TEMP_FILE_WRITE_FAILURE", Wait()),
    1881: ("ER_INNODB_FORCED_RECOVERY", Wait()),
    3015: ("ER_ENGINE_OUT_OF_MEMORY", Wait()),
    3019: ("ER_INNODB_UNDO_LOG_FULL", Wait()),
    3675: ("ER_DISK_FULL_NOWAIT", Wait()),
    3950: ("ER_DA_OOM", Wait()),
    3985: ("ER_MDL_OUT_OF_RESOURCES", Wait()),
    3989: ("ER_SCHEMA_READ_ONLY", Wait()),
    # Limits that only an operator raises.
    1197: ("ER_TRANS_CACHE_FULL", SMALLER),
    1705: ("ER_STMT_CACHE_FULL", SMALLER),
    3230: ("ER_WRITE_SET_EXCEEDS_LIMIT", SMALLER),
    167: ("HA_ERR_AUTOINC_ERANGE", LARGER),  # an SQLSTATE of data, but no column of the row's
    1467: ("ER_AUTOINC_READ_FAILED", LARGER),
    4084: ("ER_SEQUENCE_RUN_OUT", Mend("run ALTER SEQUENCE … RESTART, or let it CYCLE")),
    1598: ("ER_BINLOG_LOGGING_IMPOSSIBLE", BINLOG),
    1665: ("ER_BINLOG_STMT_MODE_AND_ROW_ENGINE", BINLOG),
    3098: ("ER_BEFORE_DML_VALIDATION_ERROR", KEYS),
    3750: ("ER_TABLE_WITHOUT_PK", KEYS),
    # Access.
    2054: ("CR_SERVER_HANDSHAKE_ERR", LOGIN),
    2061: ("CR_AUTH_PLUGIN_ERR", LOGIN),
    1044: ("ER_DBACCESS_DENIED_ERROR", GRANT),
    1045: ("ER_ACCESS_DENIED_ERROR", LOGIN),
    1046: ("ER_NO_DB_ERROR", Mend("name a database in store.url")),
    1049: ("ER_BAD_DB_ERROR", Mend("create it (CREATE DATABASE), or name another in store.url")),
    1129: ("ER_HOST_IS_BLOCKED", Mend("run FLUSH HOSTS on the server")),
    1130: ("ER_HOST_NOT_PRIVILEGED", LOGIN),
    1142: ("ER_TABLEACCESS_DENIED_ERROR", GRANT),
    1143: ("ER_COLUMNACCESS_DENIED_ERROR", GRANT),
    1227: ("ER_SPECIFIC_ACCESS_DENIED_ERROR", GRANT),
    1251: ("ER_NOT_SUPPORTED_AUTH_MODE", LOGIN),
    1275: ("ER_SERVER_IS_IN_SECURE_AUTH_MODE", LOGIN),
    1370: ("ER_PROCACCESS_DENIED_ERROR", GRANT),
    1698: ("ER_ACCESS_DENIED_NO_PASSWORD_ERROR", LOGIN),
    1820: ("ER_MUST_CHANGE_PASSWORD", LOGIN),
    1862: ("ER_MUST_CHANGE_PASSWORD_LOGIN", LOGIN),
    1873: ("ER_ACCESS_DENIED_CHANGE_USER_ERROR", LOGIN),
    3118: ("ER_ACCOUNT_HAS_BEEN_LOCKED", LOGIN),
    3159: ("ER_SECURE_TRANSPORT_REQUIRED", Mend("write ?tls=require in store.url")),
    3879: ("ER_DB_ACCESS_DENIED", GRANT),
    3955: ("ER_USER_ACCESS_DENIED_FOR_USER_ACCOUNT_BLOCKED_BY_PASSWORD_LOCK", LOGIN),
    4150: ("ER_USER_IS_BLOCKED", LOGIN),
    4151: ("ER_ACCOUNT_HAS_BEEN_LOCKED", LOGIN),
    # Tables, and what hangs on them: whoever changed them can mend them.
    1017: ("ER_FILE_NOT_FOUND", SCHEMA),
    1034: ("ER_NOT_KEYFILE", REPAIR),
    1035: ("ER_OLD_KEYFILE", REPAIR),
    1036: ("ER_OPEN_AS_READONLY", SCHEMA),
    1052: ("ER_NON_UNIQ_ERROR", TRIGGER),  # an SQLSTATE of data, but about a trigger's SQL
    1054: ("ER_BAD_FIELD_ERROR", SCHEMA),
    1109: ("ER_UNKNOWN_TABLE", SCHEMA),
    1146: ("ER_NO_SUCH_TABLE", SCHEMA),
    1194: ("ER_CRASHED_ON_USAGE", REPAIR),
    1195: ("ER_CRASHED_ON_REPAIR", REPAIR),
    1288: ("ER_NON_UPDATABLE_TABLE", SCHEMA),
    1305: ("ER_SP_DOES_NOT_EXIST", TRIGGER),
    1348: ("ER_NONUPDATEABLE_COLUMN", SCHEMA),
    1356: ("ER_VIEW_INVALID", SCHEMA),
    1442: ("ER_CANT_UPDATE_USED_TABLE_IN_SF_OR_TRG", TRIGGER),
    1449: ("ER_NO_SUCH_USER", TRIGGER),  # its definer
    1459: ("ER_TABLE_NEEDS_UPGRADE", REPAIR),
    1471: ("ER_NON_INSERTABLE_TABLE", SCHEMA),
    1602: ("ER_TRG_CORRUPTED_FILE", TRIGGER),
    1707: ("ER_TABLE_NEEDS_REBUILD", REPAIR),
    1710: ("ER_ERROR_IN_TRIGGER_BODY", TRIGGER),
    1711: ("ER_ERROR_IN_UNKNOWN_TRIGGER_BODY", TRIGGER),
    1712: ("ER_INDEX_CORRUPT", REPAIR),
    1808: ("ER_TABLE_SCHEMA_MISMATCH", REPAIR),
    1812: ("ER_TABLESPACE_MISSING", REPAIR),
    1814: ("ER_TABLESPACE_DISCARDED", REPAIR),
    1817: ("ER_INNODB_INDEX_CORRUPT", REPAIR),
    1877: ("ER_TABLE_CORRUPT", REPAIR),
    1906: ("ER_WARNING_NON_DEFAULT_VALUE_FOR_GENERATED_COLUMN", GENERATED),
    1932: ("ER_NO_SUCH_TABLE_IN_ENGINE", SCHEMA),
    3003: ("ER_STORAGE_ENGINE_NOT_LOADED", SCHEMA),
    3105: ("ER_NON_DEFAULT_VALUE_FOR_GENERATED_COLUMN", GENERATED),
    # Data: empty, too long, out of range, of another type.
    1048: ("ER_BAD_NULL_ERROR", Refuse("null")),
    1118: ("ER_TOO_BIG_ROWSIZE", Refuse("too long")),
    1138: ("ER_INVALID_USE_OF_NULL", Refuse("null")),
    1162: ("ER_TOO_LONG_STRING", Refuse("packet")),
    1263: ("ER_WARN_NULL_TO_NOTNULL", Refuse("null")),
    1264: ("ER_WARN_DATA_OUT_OF_RANGE", Refuse("range")),
    1265: ("WARN_DATA_TRUNCATED", Refuse("truncated")),
    1292: ("ER_TRUNCATED_WRONG_VALUE", Refuse("value")),
    1299: ("ER_WARN_INVALID_TIMESTAMP", Refuse("value")),
    1300: ("ER_INVALID_CHARACTER_STRING", Refuse("value")),
    1301: ("ER_WARN_ALLOWED_PACKET_OVERFLOWED", Refuse("packet")),
    1364: ("ER_NO_DEFAULT_FOR_FIELD", Refuse("no default")),
    1365: ("ER_DIVISION_BY_ZERO", Refuse("value")),
    1366: ("ER_TRUNCATED_WRONG_VALUE_FOR_FIELD", Refuse("value")),
    1367: ("ER_ILLEGAL_VALUE_FOR_TYPE", Refuse("range")),
    1406: ("ER_DATA_TOO_LONG", Refuse("too long")),
    1411: ("ER_WRONG_VALUE_FOR_TYPE", Refuse("value")),
    1416: ("ER_CANT_CREATE_GEOMETRY_OBJECT", Refuse("value")),
    1423: ("ER_NO_DEFAULT_FOR_VIEW_FIELD", Refuse("no default")),
    1441: ("ER_DATETIME_FUNCTION_OVERFLOW", Refuse("range")),
    1525: ("ER_WRONG_VALUE", Refuse("value")),
    1690: ("ER_DATA_OUT_OF_RANGE", Refuse("range")),
    1713: ("ER_UNDO_RECORD_TOO_BIG", Refuse("too long")),
    1742: ("ER_VALUE_TOO_LONG", Refuse("too long")),
    1916: ("ER_DATA_OVERFLOW", Refuse("range")),
    1917: ("ER_DATA_TRUNCATED", Refuse("truncated")),
    1918: ("ER_BAD_DATA", Refuse("value")),
    1977: ("ER_CANNOT_CONVERT_CHARACTER", Refuse("value")),
    3033: ("ER_GIS_DIFFERENT_SRIDS", Refuse("value")),
    3034: ("ER_GIS_UNSUPPORTED_ARGUMENT", Refuse("value")),
    3037: ("ER_GIS_INVALID_DATA", Refuse("value")),
    3140: ("ER_INVALID_JSON_TEXT", Refuse("value")),
    3141: ("ER_INVALID_JSON_TEXT_IN_PARAM", Refuse("value")),
    3144: ("ER_INVALID_JSON_CHARSET", Refuse("value")),
    3150: ("ER_JSON_VALUE_TOO_BIG", Refuse("too long")),
    3151: ("ER_JSON_KEY_TOO_BIG", Refuse("too long")),
    3155: ("ER_NUMERIC_JSON_VALUE_OUT_OF_RANGE", Refuse("range")),
    3156: ("ER_INVALID_JSON_VALUE_FOR_CAST", Refuse("value")),
    3157: ("ER_JSON_DOCUMENT_TOO_DEEP", Refuse("value")),
    3516: ("ER_UNEXPECTED_GEOMETRY_TYPE", Refuse("value")),
    3616: ("ER_LONGITUDE_OUT_OF_RANGE", Refuse("range")),
    3617: ("ER_LATITUDE_OUT_OF_RANGE", Refuse("range")),
    3643: ("ER_WRONG_SRID_FOR_COLUMN", Refuse("value")),
    3673: ("ER_BAD_NULL_ERROR_NOT_IGNORED", Refuse("null")),
    3751: ("ER_WARN_DATA_TRUNCATED_FUNCTIONAL_INDEX", Refuse("truncated")),
    3752: ("ER_WARN_DATA_OUT_OF_RANGE_FUNCTIONAL_INDEX", Refuse("range")),
    3854: ("ER_CANNOT_CONVERT_STRING", Refuse("value")),
    3903: ("ER_INVALID_JSON_VALUE_FOR_FUNC_INDEX", Refuse("value")),
    3904: ("ER_JSON_VALUE_OUT_OF_RANGE_FOR_FUNC_INDEX", Refuse("range")),
    3905: ("ER_EXCEEDED_MV_KEYS_NUM", Refuse("too long")),
    3906: ("ER_EXCEEDED_MV_KEYS_SPACE", Refuse("too long")),
    3907: ("ER_FUNCTIONAL_INDEX_DATA_IS_TOO_LONG", Refuse("too long")),
    3908: ("ER_WRONG_MVI_VALUE", Refuse("value")),
    3988: ("ER_IMPOSSIBLE_STRING_CONVERSION", Refuse("value")),
    # Data against the table's own rules: keys, checks, partitions, triggers.
    1022: ("ER_DUP_KEY", Refuse(DUPLICATE)),
    1062: ("ER_DUP_ENTRY", Refuse(DUPLICATE)),
    1169: ("ER_DUP_UNIQUE", Refuse(DUPLICATE)),
    1586: ("ER_DUP_ENTRY_WITH_KEY_NAME", Refuse(DUPLICATE)),
    1859: ("ER_DUP_UNKNOWN_IN_INDEX", Refuse(DUPLICATE)),
    1216: ("ER_NO_REFERENCED_ROW", Refuse("foreign key")),
    1217: ("ER_ROW_IS_REFERENCED", Refuse("foreign key")),
    1451: ("ER_ROW_IS_REFERENCED_2", Refuse("foreign key")),
    1452: ("ER_NO_REFERENCED_ROW_2", Refuse("foreign key")),
    1761: ("ER_FOREIGN_DUPLICATE_KEY_WITH_CHILD_INFO", Refuse("foreign key")),
    1762: ("ER_FOREIGN_DUPLICATE_KEY_WITHOUT_CHILD_INFO", Refuse("foreign key")),
    3008: ("ER_FK_DEPTH_EXCEEDED", Refuse("foreign key")),
    1369: ("ER_VIEW_CHECK_FAILED", Refuse("check")),
    3819: ("ER_CHECK_CONSTRAINT_VIOLATED", Refuse("check")),
    4025: ("ER_CONSTRAINT_FAILED", Refuse("check")),
    1526: ("ER_NO_PARTITION_FOR_GIVEN_VALUE", Refuse("partition")),
    1591: ("ER_NO_PARTITION_FOR_GIVEN_VALUE_SILENT", Refuse("partition")),
    1748: ("ER_ROW_DOES_NOT_MATCH_GIVEN_PARTITION_SET", Refuse("partition")),
    1172: ("ER_TOO_MANY_ROWS", Refuse("signal")),  # these four: what a trigger found
    1242: ("ER_SUBQUERY_NO_1_ROW", Refuse("signal")),
    1329: ("ER_SP_FETCH_NO_DATA", Refuse("signal")),
    1339: ("ER_SP_CASE_NOT_FOUND", Refuse("signal")),
    1643: ("ER_SIGNAL_NOT_FOUND", Refuse("signal")),
    1644: ("ER_SIGNAL_EXCEPTION", Refuse("signal")),
}

SIGNAL_CLASS = "45"  # of the SQLSTATE that a trigger signals, whatever number it chooses
CLASSES: Mapping[str, Reaction] = {  # by SQLSTATE class, for numbers that ERRORS doesn't have
    "08": Wait(),  # connection
    "40": Wait(),  # the transaction was rolled back
    "22": Refuse("value"),  # data exception
    "23": Refuse("constraint"),  # integrity constraint violation
    "44": Refuse("check"),  # a view's WITH CHECK OPTION
}


def reaction_to(number: int, sqlstate: str) -> tuple[str, Reaction | None]:
    """An error's name and what it means for us; None where nobody can tell."""
    name, reaction = ERRORS.get(number, ("", None))
    if sqlstate.startswith(SIGNAL_CLASS):
        return name, Refuse("signal")
    return name, reaction or CLASSES.get(sqlstate[:2])


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
        self._prepared: bound.Prepared | None = None  # of this connection
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
            self._connection = pymysql.connect(
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
        self._prepared = bound.Prepared(self._connection)
        self._query(ISOLATION)
        [(packet_bytes_max,)] = self._query("SELECT @@max_allowed_packet")
        self._packet_bytes_max = int(packet_bytes_max)
        self._check_packet()

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

    def run_bound(self, statement: bytes, parameters: int, values: bytes) -> bool:
        """Run an INSERT of bound values (see bound.py); whether the server can do that."""
        self._let_go()
        with self._talking():
            assert self._prepared is not None
            return self._prepared.insert(statement, parameters, values)

    def _let_go(self) -> None:
        """Have run now what is held back."""
        if self._held_back:
            statements, self._held_back = self._held_back, []
            self._run_all(statements)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        self._held_back = []
        try:
            yield
            self._let_go()
        finally:
            self._held_back = None

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
        can_be = self._prepared is not None and self._prepared.can_prepare
        is_worth_it = can_be and sum(map(len, blocks)) >= bound.ROWS_MIN
        values = bound.bound_rows(blocks, len(columns)) if is_worth_it else None
        return _BoundRows(insert, blocks, values) if values else _Statements(insert, blocks)

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
                "packet",
            )
        self.store.run(statement)

    def bound(self, rows: int, values: bytes) -> bool:
        """Insert so many rows of these bound values; whether the server can do that."""
        marks = b"(" + b",".join([b"?"] * self.columns) + b")"
        statement = self.head + b",".join([marks] * rows) + self.tail
        return self.store.run_bound(statement, self.columns * rows, values)


class _Statements(Writer):
    """Rows as text, to be joined into INSERT statements; cut inside a block only if need be."""

    def __init__(self, insert: _Insert, blocks: Sequence[Rows]) -> None:
        self._insert = insert
        self._blocks = blocks
        size_max = insert.size_max
        pieces = [piece for rows in blocks for piece in _pieces(rows, size_max)]
        ends = list(accumulate(count for count, _ in pieces))
        self._texts: dict[Span, bytes] = {}
        for lo, hi in cut([len(text) + 1 for _, text in pieces], size_max):
            span = ends[lo] - pieces[lo][0], ends[hi - 1]
            self._texts[span] = b",".join([text for _, text in pieces[lo:hi]])
        self.parts = list(self._texts)

    def insert(self, lo: int, hi: int) -> None:
        self._insert.text(self._texts.pop((lo, hi), b"") or b",".join(self._row_texts[lo:hi]))

    @cached_property
    def _row_texts(self) -> list[bytes]:
        """Row by row: what isolation needs, once the database has refused a statement."""
        return [text for rows in self._blocks for text in row_texts(rows)]


class _BoundRows(Writer):
    """Rows as bound values (see bound.py); what is left over, or has been refused, as text."""

    def __init__(self, insert: _Insert, blocks: Sequence[Rows], values: bound.BoundRows) -> None:
        self._insert = insert
        self._blocks = blocks
        self._values = values
        parts = bound.cut(values.sizes, insert.columns, insert.size_max)
        self.parts = [span for span, _ in parts]
        self._bound = {span for span, is_bound in parts if is_bound}

    def insert(self, lo: int, hi: int) -> None:
        is_bound = (lo, hi) in self._bound
        if not is_bound or not self._insert.bound(hi - lo, self._values.sent(lo, hi)):
            self._insert.text(b",".join(map(row_text, self._rows(lo, hi))))

    def _rows(self, lo: int, hi: int) -> Iterator[Row]:
        first = 0
        for rows in self._blocks:
            yield from rows[max(0, lo - first) : max(0, hi - first)]
            first += len(rows)


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
    """Rows as they stand behind VALUES: what row_texts gives, joined, in one copy."""
    if not isinstance(rows, Block) or not rows:
        return b",".join(map(row_text, rows))
    (before, *fixed), varying = _layout(rows)
    if not varying:
        return b",".join([before] * len(rows))
    after = fixed[-1]
    fixed[-1] += b"," + before  # where the next row begins
    if len(varying) == 1:
        return b"".join([before, varying[0].replace(SEPARATOR, fixed[0]), after])
    parts = [before, *chain.from_iterable(_by_row(varying, fixed))]
    parts[-1] = after
    return b"".join(parts)


def row_texts(rows: Rows) -> list[bytes]:
    """Each row as it stands behind VALUES."""
    if not isinstance(rows, Block) or not rows:
        return [row_text(row) for row in rows]
    (before, *fixed), varying = _layout(rows)
    if not varying:
        return [before] * len(rows)
    return [before + b"".join(parts) for parts in _by_row(varying, fixed)]


def _by_row(varying: Sequence[bytes], fixed: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """The parts of each row that differ from row to row, each with what is fixed behind it."""
    columns: list[Iterable[bytes]] = []
    for part, behind in zip(varying, fixed, strict=True):
        parts = part.split(SEPARATOR)
        columns += [parts, repeat(behind, len(parts))]
    return zip(*columns, strict=True)


def _layout(block: Block) -> tuple[list[bytes], list[bytes]]:
    """What is the same in the text of each row, and what comes between these parts.

    The latter for all rows at once, with SEPARATOR between them.
    """
    parts: list[bytes] = []
    varying: list[bytes] = []
    for is_texts, run in groupby(block.columns, lambda column: isinstance(column, Texts)):
        columns = tuple(run)
        if is_texts:
            parts += [b"'" + SEPARATOR + b"'"] * len(columns)
            varying += [_escaped(column) for column in columns if isinstance(column, Texts)]
        elif all(isinstance(column, Same) for column in columns):
            parts.append(_literals(Block(1, columns)[0]))
        else:
            parts.append(SEPARATOR)
            varying.append(_written_at_once(Block(len(block), columns)))
    return (b"(" + b",".join(parts) + b")").split(SEPARATOR), varying


def _escaped(column: Texts) -> bytes:
    """A column of texts as they stand inside of '…', escaped at once, SEPARATOR between them."""
    joined = SEPARATOR.join(column.utf8)
    return joined.replace(b"\\", b"\\\\").replace(b"'", b"\\'")


# ── literals ────────────────────────────────────────────────────────────────────────────


def _written_at_once(block: Block) -> bytes:
    """The literals of all rows, written as one JSON list, SEPARATOR between the rows.

    JSON is SQL here, but for what _as_sql changes; what isn't JSON goes through unread.
    """
    columns = [_for_json(column, len(block)) for column in block.columns]
    cells = chain.from_iterable(zip(*columns, repeat(ROW_END)))
    try:
        written = orjson.dumps(list(cells))
    except orjson.JSONEncodeError:  # an integer of more than 64 bit
        return SEPARATOR.join(map(_literals, block))
    return _as_sql(written[1 : -len(b",\xff]")]).replace(b",\xff,", SEPARATOR)


def _for_json(column: Values, rows: int) -> Iterable[Any]:
    """A column of which JSON makes what SQL reads: what it can't is a literal already."""
    if isinstance(column, Same):
        [value] = _for_json([column.value], 1)
        return repeat(value, rows)
    assert not isinstance(column, Texts), "these never become JSON"
    if set(map(type, column)) <= JSON_TYPES:
        return column
    return [
        value if type(value) in JSON_TYPES else orjson.Fragment(_literal(value)) for value in column
    ]


def _as_sql(json: bytes) -> bytes:
    """JSON with the escapes replaced that mean something else in SQL: \\f and \\u00…"""
    if OTHER_IN_SQL.search(json):
        return ESCAPE.sub(lambda found: ESCAPED.get(found[0], found[0]), json)
    return json


def row_text(row: Row) -> bytes:
    """A row as it stands behind VALUES."""
    return b"(" + _literals(row) + b")"


def _literals(row: Row) -> bytes:
    return b",".join(map(_literal, row))


def _literal(value: Value) -> bytes:
    return LITERALS[type(value)](value).encode()


def _text_literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


LITERALS: Mapping[type, Callable[[Any], str]] = {
    str: _text_literal,
    int: str,
    float: lambda value: text if "e" in (text := repr(value)) else f"{text}e0",
    bytes: lambda value: f"X'{value.hex()}'",
    type(None): lambda _: "NULL",
}
JSON_TYPES = {str, int, type(None)}  # that JSON writes as SQL reads them: numbers with a point not
ROW_END = orjson.Fragment(SEPARATOR)
OTHER_IN_SQL = re.compile(rb"\\[fu]")
ESCAPE = re.compile(rb"\\(?:u....|.)", re.DOTALL)
ESCAPED = {b"\\f": b"\f"} | {b"\\u%04x" % code: bytes([code]) for code in range(0x20)}
