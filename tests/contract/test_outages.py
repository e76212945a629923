"""What keeps a database server from storing, produced for real, over every kind of server.

While it lasts nothing is written and nothing becomes a dead letter; the store says whether an
operator has to do something (loudly, with what to do) or it only has to be waited out; and when
it is over, the same object stores the same frames, each once.
"""

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pymysql
import pytest

from appliance.batch import Batch, Stored
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.frame import RunEnd
from appliance.stores import ledger, mysql
from appliance.stores.letters import Name
from appliance.stores.mysql import MySQLStore
from tests.error_cases import batch_of
from tests.sql_server import SQLDatabase

COLUMNS = {
    "n": Column(type="INT", path="n"),
    "raw": Column(type="LONGTEXT", path=""),
}
STATEMENTS_MAX = 60


def records(frame: int) -> list[bytes]:
    return [b'{"n": %d, "frame": %d}' % (n, frame) for n in range(3)]


def lease(*frames: int) -> list[Batch]:
    return [batch_of(frame, records(frame), COLUMNS) for frame in frames]


def all_of(*frames: int) -> list[bytes]:
    return [record for frame in frames for record in records(frame)]


def trigger(body: str) -> str:
    return f"CREATE TRIGGER judge BEFORE INSERT ON records FOR EACH ROW {body}"


# ── one statement breaks it, another one mends it ───────────────────────────────────────


@dataclass(frozen=True)
class Outage:
    """What an operator does ({user} and {db} are filled in), and what comes of it.

    `loud` errors have a hint. `anew`: it is met by a new session only. `only`: the one kind of
    server that has it.
    """

    name: str
    breaks: Sequence[str]
    mends: Sequence[str]
    number: int | str  # or a regular expression of several
    loud: bool = True
    anew: bool = False
    only: str = ""


MAKE = "CREATE TABLE records (seq BIGINT AUTO_INCREMENT PRIMARY KEY, n INT, raw LONGTEXT)"

OUTAGES = [
    Outage("read only", ["SET GLOBAL read_only = 1"], ["SET GLOBAL read_only = 0"], 1290, False),
    Outage(
        "read-only transactions",
        ["SET GLOBAL TRANSACTION READ ONLY"],
        ["SET GLOBAL TRANSACTION READ WRITE"],
        1792,
        loud=False,
        anew=True,
    ),
    Outage(
        "too many statements of this user",
        ["ALTER USER {user} WITH MAX_UPDATES_PER_HOUR 1"],
        ["ALTER USER {user} WITH MAX_UPDATES_PER_HOUR 0"],
        1226,
        loud=False,
        anew=True,
    ),
    Outage(
        "statements take too long",
        [
            "CREATE TRIGGER {db}.slow BEFORE INSERT ON {db}.records FOR EACH ROW DO SLEEP(1)",
            "SET GLOBAL max_statement_time = 0.1",
        ],
        ["SET GLOBAL max_statement_time = 0", "DROP TRIGGER {db}.slow"],
        1969,
        loud=False,
        anew=True,
        only="mariadb",
    ),
    Outage(
        "password changed",
        ["ALTER USER {user} IDENTIFIED BY 'another'"],
        ["ALTER USER {user} IDENTIFIED BY 'p'"],
        1045,
        anew=True,
    ),
    Outage(
        "user dropped",
        ["DROP USER {user}"],
        ["CREATE USER {user} IDENTIFIED BY 'p'", "GRANT ALL ON {db}.* TO {user}"],
        1045,
        anew=True,
    ),
    Outage(
        "account locked",
        ["ALTER USER {user} ACCOUNT LOCK"],
        ["ALTER USER {user} ACCOUNT UNLOCK"],
        4151,
        anew=True,
        only="mariadb",
    ),
    Outage(
        "account locked",
        ["ALTER USER {user} ACCOUNT LOCK"],
        ["ALTER USER {user} ACCOUNT UNLOCK"],
        3118,
        anew=True,
        only="mysql",
    ),
    Outage(
        "database revoked",
        ["REVOKE ALL ON {db}.* FROM {user}"],
        ["GRANT ALL ON {db}.* TO {user}"],
        1044,
        anew=True,
    ),
    Outage(
        "INSERT revoked",
        ["REVOKE INSERT ON {db}.* FROM {user}"],
        ["GRANT INSERT ON {db}.* TO {user}"],
        1142,
        anew=True,
    ),
    Outage(
        "a column is not granted",
        [
            "REVOKE ALL ON {db}.* FROM {user}",
            *[
                f"GRANT ALL ON {{db}}.nfl_{table} TO {{user}}"
                for table in ("runs", "frames", "dead", "gaps", "meta")
            ],
            "GRANT INSERT (n) ON {db}.records TO {user}",
        ],
        ["GRANT ALL ON {db}.* TO {user}"],
        1143,
        anew=True,
    ),
    Outage("table dropped", ["DROP TABLE records"], [MAKE], 1146),
    Outage(
        "table renamed",
        ["RENAME TABLE records TO elsewhere"],
        ["RENAME TABLE elsewhere TO records"],
        1146,
    ),
    Outage(
        "table of the ledger renamed",
        ["RENAME TABLE nfl_frames TO elsewhere"],
        ["RENAME TABLE elsewhere TO nfl_frames"],
        1146,
    ),
    Outage(
        "column dropped",
        ["ALTER TABLE records DROP COLUMN n"],
        ["ALTER TABLE records ADD COLUMN n INT"],
        1054,
    ),
    Outage(
        "column made a generated one",
        ["ALTER TABLE records DROP COLUMN n", "ALTER TABLE records ADD COLUMN n INT AS (1) STORED"],
        ["ALTER TABLE records DROP COLUMN n", "ALTER TABLE records ADD COLUMN n INT"],
        1906,
        only="mariadb",
    ),
    Outage(
        "column made a generated one",
        ["ALTER TABLE records DROP COLUMN n", "ALTER TABLE records ADD COLUMN n INT AS (1) STORED"],
        ["ALTER TABLE records DROP COLUMN n", "ALTER TABLE records ADD COLUMN n INT"],
        3105,
        only="mysql",
    ),
    Outage(
        "a trigger without its table",
        [trigger("INSERT INTO nowhere VALUES (1)")],
        ["DROP TRIGGER judge"],
        1146,
    ),
    Outage(
        "a trigger without its function",
        [trigger("SET NEW.n = nothing(1)")],
        ["DROP TRIGGER judge"],
        1305,
    ),
    Outage(
        "a trigger without its definer",
        ["SET @x = 1", trigger("SET NEW.n = 1").replace("TRIGGER", "DEFINER=gone@gone TRIGGER")],
        ["DROP TRIGGER judge"],
        1449,
        only="mariadb",
    ),
    Outage(
        "a trigger that writes its own table",
        [trigger("UPDATE records SET n = 1")],
        ["DROP TRIGGER judge"],
        1442,
    ),
    Outage(
        "an unknown error of every row",
        [trigger("SIGNAL SQLSTATE 'HY001' SET MYSQL_ERRNO = 5999")],
        ["DROP TRIGGER judge"],
        5999,
    ),
    Outage(
        "automatic key used up",
        [
            "ALTER TABLE records MODIFY seq TINYINT AUTO_INCREMENT",
            "ALTER TABLE records AUTO_INCREMENT = 127",
        ],
        ["ALTER TABLE records MODIFY seq BIGINT AUTO_INCREMENT"],
        "167|1467",  # the engine's own in MariaDB
    ),
    Outage(
        "automatic key of the largest type used up",
        [
            "ALTER TABLE records MODIFY seq BIGINT UNSIGNED AUTO_INCREMENT",
            f"ALTER TABLE records AUTO_INCREMENT = {2**64 - 1}",
        ],
        [
            "ALTER TABLE records MODIFY seq INT AUTO_INCREMENT",
            "ALTER TABLE records AUTO_INCREMENT = 4",
        ],
        1467,
    ),
    Outage(
        "sequence used up",
        [
            "CREATE SEQUENCE steps MAXVALUE 4",
            "ALTER TABLE records ADD COLUMN step INT DEFAULT NEXT VALUE FOR steps",
        ],
        ["ALTER TABLE records ALTER COLUMN step SET DEFAULT 0", "DROP SEQUENCE steps"],
        4084,
        only="mariadb",
    ),
]


@pytest.fixture
def application(sql_database: SQLDatabase) -> Iterator[MySQLStore]:
    """A store whose user may do everything in its own database, and nothing else."""
    user, server = sql_database.name, sql_database.server
    server.run(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'p'")
    server.run(f"GRANT ALL ON {sql_database.name}.* TO '{user}'@'%'")
    store = sql_database.store(COLUMNS, dsn=sql_database.address(user=user), password="p")
    store.prepare()
    yield store
    server.run(f"DROP USER '{user}'@'%'")


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_it_is_waited_out(
    sql_database: SQLDatabase, application: MySQLStore, outage: Outage
) -> None:
    if outage.only not in ("", sql_database.server.flavour):
        pytest.skip(f"only {outage.only} has this")

    def do(statements: Sequence[str]) -> None:
        for statement in statements:
            filled = statement.replace("{db}", sql_database.name)
            sql_database.run(filled.replace("{user}", f"'{sql_database.name}'@'%'"))

    assert application.store(lease(1)) == Stored(1, 3)
    do(outage.breaks)
    if outage.anew:
        application.close()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable, match=f"{outage.number}") as caught:
                application.store(lease(2, 3))
            assert caught.value.loud is outage.loud, caught.value
            assert bool(caught.value.hint) is outage.loud
            assert "'p'" not in str(caught.value)
    finally:
        do(outage.mends)
    assert application.store(lease(1, 2, 3)) == Stored(2, 6)
    kept = () if outage.name == "table dropped" else (1,)
    assert sql_database.raws() == all_of(*kept, 2, 3)
    assert sql_database.dead() == []
    application.fold()
    assert sql_database.sums()["stored"] == 9


# ── other sessions in the way ───────────────────────────────────────────────────────────


@contextmanager
def holding(database: SQLDatabase, *statements: str) -> Iterator[None]:
    """Somebody else's session, which has done this and stays."""
    with closing(database.server.connect(database.name)) as connection:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield


@pytest.fixture
def store(sql_database: SQLDatabase) -> MySQLStore:
    """A store with its tables; whoever locks it out is given up on after a second."""
    store = sql_database.store(COLUMNS)
    store.prepare()
    return store


@pytest.mark.parametrize(
    "statements",
    [
        ["LOCK TABLES records WRITE"],
        ["LOCK TABLES nfl_frames READ"],
        ["FLUSH TABLES WITH READ LOCK"],
        ["START TRANSACTION", "SELECT * FROM nfl_runs FOR UPDATE"],
        [
            "START TRANSACTION",
            "INSERT INTO nfl_frames (run, frame, hole) SELECT run, 2, '' FROM nfl_runs",
        ],
    ],
    ids=lambda statements: statements[-1],
)
def test_somebody_holds_a_lock(
    sql_database: SQLDatabase, store: MySQLStore, statements: list[str]
) -> None:
    store.store(lease(1))
    with holding(sql_database, *statements):
        store.run("SET SESSION lock_wait_timeout = 1, innodb_lock_wait_timeout = 1")
        with pytest.raises(Unavailable, match="1205") as caught:
            store.store(lease(2))
        assert not caught.value.loud
    assert store.store(lease(1, 2)) == Stored(1, 3)
    assert sql_database.raws() == all_of(1, 2)


def test_a_lock_that_goes_in_time_is_not_even_said(
    sql_database: SQLDatabase, store: MySQLStore
) -> None:
    waits = "SELECT 1 FROM information_schema.PROCESSLIST WHERE STATE LIKE '%lock%'"
    stored: list[Stored] = []
    with holding(sql_database, "LOCK TABLES records WRITE"):
        worker = threading.Thread(target=lambda: stored.append(store.store(lease(1))))
        worker.start()
        while not sql_database.run(waits) and worker.is_alive():
            worker.join(0.02)
    worker.join()
    assert stored == [Stored(1, 3)]


def test_too_many_connections(sql_database: SQLDatabase, store: MySQLStore) -> None:
    store.close()
    server = sql_database.server
    [(before,)] = server.run("SELECT @@GLOBAL.max_connections")
    server.run("SET GLOBAL max_connections = 10")
    user = f"'{sql_database.name}'@'%'"
    server.run(f"CREATE USER {user} IDENTIFIED BY 'p'")
    server.run(f"GRANT ALL ON {sql_database.name}.* TO {user}")
    address = sql_database.address(user=sql_database.name)
    application = sql_database.store(COLUMNS, dsn=address, password="p")
    taken: list[Any] = []
    try:
        fill(server.connect, taken)
        with pytest.raises(Unavailable, match="1040") as caught:
            application.store(lease(1))
        assert not caught.value.loud
    finally:
        for connection in taken:
            connection.close()
        until_free(server.connect, f"SET GLOBAL max_connections = {before}")
    assert application.store(lease(1)) == Stored(1, 3)
    server.run(f"DROP USER {user}")
    assert sql_database.raws() == all_of(1)


def fill(connect: Callable[[], Any], taken: list[Any]) -> None:
    """Take sessions until the server has no room for another one."""
    try:
        while len(taken) < 50:
            taken.append(connect())
    except pymysql.err.OperationalError as error:
        if error.args[0] == 1040:
            return
        raise
    pytest.fail("the server takes any number of sessions")


def until_free(connect: Callable[[], Any], statement: str) -> None:
    """Run a statement as soon as the server has room again for another session."""
    for _ in range(1000):
        try:
            with closing(connect()) as connection, connection.cursor() as cursor:
                cursor.execute(statement)
                return
        except pymysql.err.OperationalError as error:
            if error.args[0] != 1040:
                raise


# ── the connection breaks in the middle ─────────────────────────────────────────────────


class Proxy:
    """Stands between a store and its server; cuts the connection at the n-th statement.

    `before`: the statement never arrives. Else it is carried out and its answer never arrives,
    which of a COMMIT is the unclear one.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.statements_left = 0
        self.before = False
        self.cut: bytes | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            with client, socket.create_connection(self._target) as server:
                try:
                    self._carry(client, server)
                except ConnectionError as error:  # one side has gone in the middle
                    print(error)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        """A message of the client's at a time; an answer may come in several parts."""
        while True:
            for side in select.select([client, server], [], [])[0]:
                data = side.recv(1 << 20)
                if not data:
                    return
                if side is server:
                    client.sendall(data)
                    continue
                self.statements_left -= 1
                if self.statements_left == 0:
                    self._cut(data, server)
                    return
                server.sendall(data)

    def _cut(self, message: bytes, server: socket.socket) -> None:
        self.cut = message[5:]
        if self.before:
            return
        server.sendall(message)
        server.shutdown(socket.SHUT_WR)
        while server.recv(1 << 20):  # until it has done all of it
            pass


def outage_of(store: MySQLStore, batches: Sequence[Batch]) -> Unavailable | None:
    """Store; what came in between."""
    try:
        store.store(batches)
    except Unavailable as error:
        return error
    return None


# MySQL's login takes more messages than this proxy understands.
@pytest.mark.parametrize("sql_server", ["mariadb"], indirect=True)
@pytest.mark.parametrize("before", [True, False], ids=["never arrives", "never answered"])
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "step by step"])
def test_each_statement_of_the_transaction(
    sql_database: SQLDatabase, before: bool, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not at_once:
        monkeypatch.setattr(ledger, "AT_ONCE_BYTES_MAX", 0)
    server = sql_database.server
    proxy = Proxy(server.host, server.port)
    proxy.before = before
    store = sql_database.store(COLUMNS, dsn=sql_database.address(port=proxy.port))
    store.prepare()
    frames, cut = 0, set()
    for nth in range(1, STATEMENTS_MAX):
        proxy.statements_left, proxy.cut = nth, None
        frames += 2
        outage = outage_of(store, lease(frames - 1, frames))
        if proxy.cut is None:
            break
        assert outage is not None
        assert not outage.loud, outage
        cut.add(proxy.cut.partition(b" ")[0])
        proxy.statements_left = 0
        was_committed = proxy.cut.endswith(b"COMMIT") and not before
        missing = 0 if was_committed else 2
        assert store.store(lease(frames - 1, frames)) == Stored(missing, missing * 3)
        assert sql_database.raws() == all_of(*range(1, frames + 1)), proxy.cut
    # A savepoint is set behind the beginning of a turn: DO GET_LOCK…
    alone: set[bytes] = set() if at_once else {b"DO", b"RELEASE", b"COMMIT"}
    assert cut >= {b"START", b"INSERT", *alone}
    assert sql_database.sums()["stored"] == frames * 3
    proxy.close()


# ── a session that nobody holds any more ────────────────────────────────────────────────


def test_who_folds_gives_way_while_somebody_keeps_a_lock(
    sql_database: SQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a subscriber that died in its transaction, on a machine that was switched off."""
    monkeypatch.setattr(mysql, "GIVING_WAY_S", 1)
    store = sql_database.store(COLUMNS)
    store.prepare()
    store.store(lease(1, 2))
    with closing(sql_database.server.connect(sql_database.name)) as silent:
        silent.begin()
        silent.cursor().execute("SELECT * FROM nfl_runs LOCK IN SHARE MODE")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="Lock wait timeout"):
            store.fold()
        assert time.monotonic() - began < mysql.LOCK_WAIT_S / 2
        assert store.store(lease(3)) == Stored(frames=1, stored=3)
    store.fold()
    assert sql_database.run("SELECT up_to FROM nfl_runs") == [(3,)]
    assert store.run("SELECT @@innodb_lock_wait_timeout") == [(mysql.LOCK_WAIT_S,)]


def test_how_a_run_ended_is_written_down_later_while_somebody_keeps_a_lock(
    sql_database: SQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storing doesn't stand still for it."""
    monkeypatch.setattr(mysql, "GIVING_WAY_S", 1)
    store = sql_database.store(COLUMNS)
    store.prepare()
    [first] = lease(1)
    store.store([first])
    end = RunEnd(first.run.hex(), 7, 99, 999)
    behind = replace(first, run=b"\xff" * 16, previous=end)
    with closing(sql_database.server.connect(sql_database.name)) as silent:
        silent.begin()
        silent.cursor().execute(
            "SELECT * FROM nfl_runs WHERE run = %s LOCK IN SHARE MODE", (first.run,)
        )
        assert store.store([behind]).frames == 1
        assert sql_database.run("SELECT last FROM nfl_runs WHERE last IS NOT NULL") == []
    store.fold()
    assert sql_database.run("SELECT last, last_records FROM nfl_runs WHERE last > 0") == [(7, 99)]


def test_who_retries_letters_gives_way_too(
    sql_database: SQLDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "GIVING_WAY_S", 1)
    store = sql_database.store(COLUMNS)
    store.prepare()
    store.store(lease(1))
    with closing(sql_database.server.connect(sql_database.name)) as silent:
        silent.begin()
        silent.cursor().execute("SELECT * FROM nfl_runs LOCK IN SHARE MODE")
        began = time.monotonic()
        with pytest.raises(Unavailable, match="Lock wait timeout"):
            store.retry_letters([Name(lease(1)[0].run, 1, 0)], lambda _letters: [])
        assert time.monotonic() - began < mysql.LOCK_WAIT_S / 2
