"""What the two servers alone take for a stream: the same frames, rows and transactions, from
clients that only send what was made beforehand.

Whatever brings frames through these servers into these tables can't take less of a core.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager

import msgspec

from appliance.frame import Frame, Header
from appliance.redis_server import SETTINGS
from appliance.rows import RowMaker
from appliance.settings import Column
from appliance.stores import bulk
from appliance.stores.mysql import STATEMENT_BYTES_MAX
from appliance.stores.row_text import text_of
from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.processes import Usage, usage
from tests.bench.ways import LEASE_BYTES
from tests.redis_servers import PrivateRedis, find_valkey

FRAME_BYTES = 1024**2
TABLE = "bare"


def database_alone(database: Database, lines: Lines, columns: str, model: str) -> Usage:
    """What the database takes for the rows of these lines, in transactions as long as a lease.

    `columns`: lines of [store.columns]. `model`: the table that the rows belong into.
    """
    database.run(f"DROP TABLE IF EXISTS `{TABLE}`")
    database.make_like(TABLE, model)
    names = {name: msgspec.convert(one, Column) for name, one in tomllib.loads(columns).items()}
    leases = [_inserts(names, lease) for lease in lines.blocks(LEASE_BYTES)]
    with _used_by(database.server.pid) as used:
        _insert(database, leases)
    [(count,)] = database.run(f"SELECT COUNT(*) FROM `{TABLE}`")
    assert count == lines.content.count
    return used()


Insert = tuple[bytes, Sequence[bulk.Kind], bytes]
"""A statement, and what kinds of values it gets in bulk, in which rows, packed."""


def _inserts(columns: Mapping[str, Column], lease: bytes) -> list[Insert]:
    """The rows of a lease as stream-daemon writes them: in bulk where it does so, else as text."""
    header = Header("0" * 32, 1, "lines", 0, 0, 0, len(lease), 0, 0.0, 0.0)
    block = RowMaker(columns, "json", (), "lines").batch(Frame(header, lease)).rows
    head = f"INSERT INTO `{TABLE}` ({','.join(f'`{name}`' for name in columns)}) VALUES ".encode()
    rows = bulk.bulk_rows([block])
    if rows is None:
        return [(head + text_of(block), (), b"")]
    one = head + b"(" + b",".join([b"?"] * len(columns)) + b")"
    return [
        (one, rows.kinds, rows.packed(lo, hi))
        for (lo, hi), _ in bulk.parts_of(rows, STATEMENT_BYTES_MAX, True)
    ]


def _insert(database: Database, leases: Sequence[Sequence[Insert]]) -> None:
    connection = bulk.Connection(
        unix_socket=database.server.unix_socket,
        user=database.user,
        password=database.password,
        database=database.database.name,
        charset="utf8mb4",
        sql_mode="STRICT_ALL_TABLES",
        init_command="SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    )
    prepared = bulk.Prepared(connection)
    with closing(connection), connection.cursor() as cursor:
        for lease in leases:
            for statement, kinds, rows in lease:
                if kinds:
                    prepared.insert(statement, kinds, rows)
                else:
                    cursor.execute(statement)
            connection.commit()


def queue_alone(lines: Lines, *, waits: bool) -> Usage:
    """What the queue's server takes to keep these lines as frames, hand them out, forget them.

    `waits`: all of them wait there beforehand, and only what comes behind is counted.
    """
    frames = lines.blocks(FRAME_BYTES)
    with PrivateRedis(find_valkey(), options=SETTINGS) as server:
        client = server.client()
        if waits:
            for frame in frames:
                client.rpush("working", frame)
        with _used_by(server.pid) as used:
            for frame in frames:
                if not waits:
                    client.rpush("working", frame)
                client.lmove("working", "busy", "LEFT", "RIGHT")
                client.delete("busy")
        return used()


@contextmanager
def _used_by(pid: int) -> Iterator[Callable[[], Usage]]:
    """What a process has used in this block, to be asked for behind it."""
    before = usage(pid)
    spent: list[Usage] = []
    yield lambda: spent[0]
    spent.append(usage(pid) - before)
