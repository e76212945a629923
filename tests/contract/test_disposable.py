"""Tables that are made to be dropped again, over every SQL store."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance.batch import Batch
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.stores import disposable
from appliance.stores.mysql import MySQLStore
from appliance.stores.sqlite import SQLiteStore
from tests.sql_server import SQLDatabase

COLUMNS = {"raw": Column(type="LONGTEXT", path="")}
ALL = ["records", "nfl_runs", "nfl_frames", "nfl_dead", "nfl_gaps", "nfl_meta"]

Store = SQLiteStore | MySQLStore


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store whose tables aren't made."""
    if request.param == "sqlite":
        store: Store = SQLiteStore(str(tmp_path / "nfl.db"), "nfl", "records", COLUMNS)
    else:
        server = request.getfixturevalue(request.param)
        store = request.getfixturevalue("new_store")(server)
    with closing(store):
        yield store


@pytest.fixture
def new_store() -> Iterator[object]:
    from contextlib import ExitStack

    from tests.sql_server import empty_database

    with ExitStack() as stack:
        yield lambda server: stack.enter_context(empty_database(server)).store(COLUMNS)


def frame(number: int, *raws: bytes) -> Batch:
    rows = [(raw.decode(),) for raw in raws]
    positions = list(range(len(raws)))
    return Batch(
        b"r" * 16, number, "s", len(raws) + 1, 9, 1.0, 2.0, rows, positions, [*raws], blank=1
    )


def test_they_are_there_are_read_and_go(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disposable, "ROWS_AT_ONCE", 2)
    store.drop()
    assert store.tables() == []
    store.prepare()
    assert store.tables() == ALL
    assert (store.accounted(), [*store.raws()]) == (0, [])
    raws = [f"é {number}".encode() for number in range(5)]
    store.store([frame(1, *raws[:2]), frame(3, *raws[2:])])
    assert (store.accounted(), [*store.raws()]) == (5, raws)
    store.fold()
    assert (store.accounted(), [*store.raws()]) == (5, raws)
    store.drop()
    assert store.tables() == []
    store.drop()


def test_looking_makes_no_file(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "nfl.db"), "nfl", "records", COLUMNS)
    assert store.tables() == []
    store.drop()
    assert not (tmp_path / "nfl.db").exists()


def test_without_the_right_to_drop_it_is_said_before_there_is_a_table(
    sql_database: SQLDatabase,
) -> None:
    server = sql_database.server
    user = f"u{sql_database.name[5:15]}"
    sql_database.run(f"CREATE USER {user}@'%' IDENTIFIED BY '{server.password}'")
    rights = "SELECT, INSERT, UPDATE, DELETE, CREATE"
    sql_database.run(f"GRANT {rights} ON {sql_database.name}.* TO {user}@'%'")
    store = sql_database.store(COLUMNS, dsn=sql_database.address(user=user))
    with pytest.raises(Unavailable, match=r"(?i)drop command denied"):
        store.drop()
    store.close()
    sql_database.run(f"DROP USER {user}@'%'")
