"""What the database refuses, in a whole instance: said when it is everything, and duplicates."""

import pytest

from appliance.refusals import REFUSALS_MAX
from tests.database_server import Database
from tests.ports import free_port
from tests.system.daemon import Daemon, connect, send_and_close, until
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest

SAID_S = 30.0
COLUMNS = """
[store.columns]
id = { path = "id", type = "INTEGER UNIQUE" }
word = { path = "word", type = "VARCHAR(5) NOT NULL" }
raw = { path = "", type = "LONGTEXT" }
"""


def config(port: int, store: StoreUnderTest, more: str = "") -> str:
    source = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "json"\n'
    return f"subscribers = 1\n{source}{store.section()}{more}{COLUMNS}"


def record(n: int, word: str) -> bytes:
    return b'{"id": %d, "word": %s}\n' % (n, word.encode())


@pytest.fixture(params=["sqlite", "mariadb"])
def store(request: pytest.FixtureRequest) -> StoreUnderTest:
    if request.param == "sqlite":
        return Sqlite()
    database: Database = request.getfixturevalue("mariadb_database")
    return MariaDB(database)


def test_nothing_but_refused_records_is_said_and_nothing_stops(store: StoreUnderTest) -> None:
    port = free_port()
    with Daemon(config(port, store)) as daemon, connect(port) as connection:
        connection.sendall(b"".join(record(n, "null") for n in range(REFUSALS_MAX + 200)))
        daemon.until_stored(REFUSALS_MAX + 200)
        status = daemon.status()
        assert status["state"] == "degraded"
        assert "word" in status["store"]["refusing"]
        assert "allow NULL in that column" in status["store"]["refusing"]
        assert status["store"]["dead"] == REFUSALS_MAX + 200
        screen = daemon.run("status")
        assert screen.returncode == 2
        assert "all that comes becomes dead letters" in screen.stdout.splitlines()[0]
        assert status["store"]["refusing"] in screen.stdout

        connection.sendall(record(1, '"good"'))
        until(lambda: daemon.status()["state"] == "healthy", SAID_S, "it to be over")
        assert list(store.raws(daemon)) == [record(1, '"good"').strip()]
        [(dead,)] = store.rows(daemon, "SELECT COUNT(*) FROM stream_dead")
        assert dead == REFUSALS_MAX + 200
        assert daemon.said().count("records in a row became dead letters") == 1
        assert daemon.said().count("rows are stored again") == 1


@pytest.mark.parametrize(
    ("mode", "words", "counts"),
    [
        ("dead", ["one", "two"], (5, 2, 0, 3)),
        ("ignore", ["one", "two"], (5, 2, 2, 1)),
        ("update", ["three", "two"], (5, 4, 0, 1)),
    ],
)
def test_duplicates(
    store: StoreUnderTest, mode: str, words: list[str], counts: tuple[int, ...]
) -> None:
    port = free_port()
    records = [(1, '"one"'), (2, '"two"'), (1, '"three"'), (3, "null"), (2, '"two"')]
    with Daemon(config(port, store, f'on_duplicate = "{mode}"\n')) as daemon:
        send_and_close(port, [record(*one) for one in records])
        daemon.until_stored(len(records))
        found = daemon.status()["store"]
        assert (found["stored"], found["filtered"], found["dead"]) == counts[1:]
        assert store.rows(daemon, "SELECT word FROM records ORDER BY id") == [(w,) for w in words]
        assert daemon.stop() == 0
        names = ("records", "stored", "filtered", "dead")
        [sums] = store.rows(
            daemon,
            f"SELECT {', '.join(f'SUM({name})' for name in names)} FROM"
            f" (SELECT {', '.join(names)} FROM stream_runs"
            f" UNION ALL SELECT {', '.join(names)} FROM stream_frames) AS counted",
        )
        assert tuple(map(int, sums)) == counts
