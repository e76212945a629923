"""What the errors of MySQL and MariaDB mean for us.

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

from collections.abc import Mapping
from dataclasses import dataclass

from appliance.stores.tables import DUPLICATE


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
