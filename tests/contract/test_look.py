"""What `check` sees of a queue and a store: the truth, and without changing anything."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from appliance.config import Column
from appliance.contracts import Push
from appliance.errors import ConfigError, Unavailable
from appliance.queues.hints import RIGHTS, durability
from appliance.queues.redis import RedisQueue
from appliance.stores.address import parse_url
from appliance.stores.ledger import LedgerStore
from appliance.stores.mysql import MySQLStore
from appliance.stores.sqlite import SQLiteStore
from tests.database_server import PASSWORD, Database
from tests.redis_servers import PrivateRedis

COLUMNS = {
    "n": Column(type="BIGINT NOT NULL", path="n"),
    "raw": Column(type="LONGTEXT", path=""),
}
RECORD_BYTES_MAX = 1024


class SqliteWorld:
    """A file, and plain SQL on it."""

    wrong_type = "ENUM('a')"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "x.db"

    def store(self, **more: Any) -> SQLiteStore:
        return SQLiteStore(str(self.path), "nfl", "records", COLUMNS | more)

    def run(self, sql: str) -> None:

        with sqlite3.connect(self.path) as connection:
            connection.execute(sql)
        connection.close()

    def everything(self) -> object:
        return self.path.read_bytes() if self.path.exists() else None


class ServerWorld:
    """A database on a server, and plain SQL on it."""

    wrong_type = "NOSUCHTYPE"

    def __init__(self, database: Database) -> None:
        self.database = database
        self.run = database.run

    def store(self, **more: Any) -> MySQLStore:
        address = parse_url(self.database.url())
        columns = COLUMNS | more
        return MySQLStore(address, PASSWORD, "nfl", "records", columns, RECORD_BYTES_MAX)

    def everything(self) -> object:
        tables = [name for (name,) in self.run("SHOW TABLES")]
        return {name: self.run(f"SELECT * FROM {name}") for name in tables}


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SqliteWorld | ServerWorld:
    if request.param == "sqlite":
        return SqliteWorld(tmp_path)
    return ServerWorld(request.getfixturevalue(f"{request.param}_database"))


def look(world: SqliteWorld | ServerWorld, **more: Any) -> list[str]:
    """The remarks' texts, having seen that nothing was changed."""
    store, before = world.store(**more), world.everything()
    try:
        return [remark.text for remark in store.look()]
    finally:
        store.close()
        assert world.everything() == before


def prepared(world: SqliteWorld | ServerWorld) -> LedgerStore:
    store = world.store()
    store.prepare()
    return store


def test_a_store_where_nothing_is_yet(world: SqliteWorld | ServerWorld) -> None:
    first, *others = look(world)
    assert first.startswith("table records will be made")
    assert len(others) == 1
    prepared(world).close()
    assert look(world) == ["its tables are there"]


def test_a_column_type_that_the_database_does_not_know(world: SqliteWorld | ServerWorld) -> None:
    with pytest.raises(ConfigError, match="can't make table records"):
        look(world, odd=Column(type=world.wrong_type, path="odd"))


def test_a_table_without_a_column(world: SqliteWorld | ServerWorld) -> None:
    world.run("CREATE TABLE records (n BIGINT)")
    with pytest.raises(Unavailable, match="no column raw") as caught:
        look(world)
    assert "ALTER TABLE" in caught.value.hint


def test_tables_of_another_version(world: SqliteWorld | ServerWorld) -> None:
    prepared(world).close()
    world.run("UPDATE nfl_meta SET value = X'3939' WHERE name = 'schema'")
    with pytest.raises(Unavailable, match="version 99"):
        look(world)


def test_dead_letters_and_gaps_are_counted(world: SqliteWorld | ServerWorld) -> None:
    store = prepared(world)
    run = "X'00000000000000000000000000000001'"
    for position in (1, 2):
        world.run(
            "INSERT INTO nfl_dead (run, frame, position, source, raw, code, reason)"
            f" VALUES ({run}, 1, {position}, 's', 'x', 'json', 'no')"
        )
    gap = (
        f"INSERT INTO nfl_gaps (run, source, cause, records, recovered) VALUES ({run}, 's', 'c', 5"
    )
    world.run(f"{gap}, 5)")
    assert look(world) == ["its tables are there", "2 dead letters"]
    world.run(f"{gap}, 4)")
    assert look(world)[2:] == ["1 gaps: records that are missing"]
    store.close()


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> PrivateRedis:
    server: PrivateRedis = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def queue(server: PrivateRedis, request: pytest.FixtureRequest) -> Iterator[RedisQueue]:
    queue = RedisQueue(server.address, None, "looked", "check", 10**9, 10.0)
    yield queue
    queue.close()
    with server.client() as client:
        client.delete(*client.keys("{looked}:*"), "x")


def push(queue: RedisQueue, source: str, number: int) -> None:
    queue.push(Push(source, "0" * 31 + "1", number, b"header\n", b"body\n", number, 5 * number))


def everything(client: "redis.Redis") -> dict[bytes, bytes | None]:
    return {key: client.dump(key) for key in client.keys("*")}


def test_a_queue(server: PrivateRedis, queue: RedisQueue) -> None:
    push(queue, "tweets", 1)
    push(queue, "old", 1)
    with server.client() as client:
        before = everything(client)
        first, *others = queue.look(["tweets"])
        assert everything(client) == before
    name = "Valkey" if "valkey" in server.binary else "Redis"
    assert first.text.startswith(f"{name} ")
    assert first.text.endswith(", 2 frames wait, 0 in hand (24 bytes)")
    assert [remark.text for remark in others] == [
        "it knows a source old that isn't configured; its frames are stored as text"
    ]


def test_a_server_that_does_not_tell_its_settings(server: PrivateRedis) -> None:
    with server.client() as client:
        client.execute_command(*f"ACL SETUSER looker on >pw ~* {RIGHTS}".split())
        address = type(server.address)(path=server.address.path, user="looker")
        queue = RedisQueue(address, "pw", "looked", "check", 10**9, 10.0)
        assert len(queue.look([])) == 1
        queue.close()
        client.execute_command("ACL", "DELUSER", "looker")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, []),
        ({"appendonly": "yes", "appendfsync": "always", "maxmemory": "0"}, []),
        ({"appendonly": "no", "appendfsync": "everysec"}, ["keeps nothing on disk"]),
        ({"appendonly": "yes", "appendfsync": "everysec"}, ["appendfsync is everysec"]),
        ({"maxmemory": "1", "maxmemory-policy": "noeviction"}, []),
        ({"maxmemory": "1", "maxmemory-policy": "allkeys-lru"}, ["is allkeys-lru"]),
        ({"maxmemory": "0", "maxmemory-policy": "allkeys-lru"}, []),
    ],
)
def test_what_a_server_may_forget(settings: dict[str, str], words: list[str]) -> None:
    remarks = durability(settings)
    assert len(remarks) == len(words)
    for remark, word in zip(remarks, words, strict=True):
        assert word in remark.text
        assert remark.hint


def test_tables_whose_maker_died_in_it_will_be_finished(world: SqliteWorld | ServerWorld) -> None:
    prepared(world).close()
    world.run("DELETE FROM nfl_meta")
    assert look(world) == ["the ledger's tables nfl_… will be made"]
