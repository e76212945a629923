"""Turns: whoever inserts many rows does it alone, and nobody waits long for that."""

import time
from collections.abc import Iterator

import pytest

from appliance.batch import Batch, Block, Stored, Texts
from appliance.config import Column
from appliance.stores.address import parse_url
from appliance.stores.ledger import AT_ONCE_BYTES_MAX
from appliance.stores.mysql import MySQLStore
from appliance.stores.turns import TURN_S_MAX, turn
from tests.database_server import PASSWORD, Database

RUN = bytes(range(16))
ROWS = 100
IS_FREE = "SELECT IS_FREE_LOCK('{}')"


def batch(number: int, *, text: bytes = b"x") -> Batch:
    raws = [text] * ROWS
    size = AT_ONCE_BYTES_MAX + 1
    rows = Block(ROWS, (Texts(raws),))
    return Batch(RUN, number, "tweets", ROWS, size, 1.0, 2.0, rows, list(range(ROWS)), raws)


def opened(url: str) -> MySQLStore:
    columns = {"x": Column(type="TEXT", path="")}
    store = MySQLStore(parse_url(url), PASSWORD, "nfl", "records", columns, 1000)
    store.prepare()
    return store


def lock_of(database: Database) -> str:
    (_, name, _), _ = turn(database.name, "records")
    return str(name)


@pytest.fixture
def other(mariadb_database: Database) -> Iterator[MySQLStore]:
    """A session of somebody else's who stores into the same table."""
    store = opened(mariadb_database.url())
    yield store
    store.close()


def test_a_turn_is_taken_for_rows_and_ends_with_them(
    mariadb_database: Database, monkeypatch: pytest.MonkeyPatch, other: MySQLStore
) -> None:
    store = opened(mariadb_database.url())
    is_free = IS_FREE.format(lock_of(mariadb_database))
    seen = []
    run_bulk = store.run_bulk

    def watched(*arguments: object) -> bool:
        seen.extend(other.run(is_free))
        return run_bulk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "run_bulk", watched)
    assert store.store([batch(1)]) == Stored(1, ROWS)
    assert set(seen) == {(0,)}
    assert other.run(is_free) == [(1,)]
    store.close()


def test_who_has_the_turn_too_long_holds_nobody_up(
    mariadb_database: Database, other: MySQLStore
) -> None:
    store = opened(mariadb_database.url())
    other.run(f"DO GET_LOCK('{lock_of(mariadb_database)}', 0)")
    began = time.monotonic()
    assert store.store([batch(1)]) == Stored(1, ROWS)
    assert time.monotonic() - began >= TURN_S_MAX
    store.close()


def test_a_turn_ends_when_rows_are_refused(mariadb_database: Database, other: MySQLStore) -> None:
    store = opened(mariadb_database.url())
    mariadb_database.run("ALTER TABLE records MODIFY x VARCHAR(3)")
    assert store.store([batch(1, text=b"long")]) == Stored(1, 0, dead=ROWS)
    assert other.run(IS_FREE.format(lock_of(mariadb_database))) == [(1,)]
    assert store.store([batch(2)]) == Stored(1, ROWS)
    store.close()


def test_a_server_elsewhere_is_asked_for_no_turn() -> None:
    here = ["mysql://u@127.0.0.1/d", "mysql://u@localhost/d", "mysql://u@/d?unix_socket=/s"]
    assert all(parse_url(url).is_here for url in here)
    assert not parse_url("mysql://u@10.0.0.7/d").is_here


def test_each_table_has_turns_of_its_own() -> None:
    names = {turn(database, table)[0][1] for database in ("a", "b" * 64) for table in ("t", "u")}
    assert len(names) == 4
    assert all(len(name) <= 64 for name in names)
