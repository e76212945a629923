"""MySQL: what only MariaDB's own server or no server is needed for.

Sizes, sessions, full disks, addresses. What each error does is in
tests/contract/ (test_answers.py, test_outages.py, test_tables.py), over every kind of server.
"""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from appliance.batch import Batch, Block, DeadLetter, Same, Stored, Texts
from appliance.config import Column
from appliance.errors import ConfigError, Unavailable
from appliance.rows import PART_KEPT
from appliance.stores.address import MySQLAddress, parse_url
from appliance.stores.mysql import MySQLStore
from appliance.stores.row_text import row_text, text_of
from appliance.stores.tables import TABLES
from tests.database_server import PASSWORD, Database, DatabaseServer
from tests.mariadb_server import private_mariadb
from tests.test_row_text import MEANT

RUN = bytes(range(16))
ISOLATION = {"mariadb": "tx_isolation", "mysql": "transaction_isolation"}


def store_of(
    database: Database, columns: Mapping[str, str], password: str = PASSWORD, **more: Any
) -> MySQLStore:
    typed = {name: Column(type=type_name, path=name) for name, type_name in columns.items()}
    more = {"record_bytes_max": 1024, "table": "records", **more}
    return MySQLStore(parse_url(database.url()), password, "nfl", columns=typed, **more)


def batch(number: int, rows: list[tuple[Any, ...]]) -> Batch:
    raws = [repr(row).encode() for row in rows]
    positions = list(range(len(rows)))
    return Batch(RUN, number, "tweets", len(rows), 0, 1.0, 2.0, rows, positions, raws)


def dead(database: Database) -> list[tuple[Any, ...]]:
    return database.run("SELECT position, code FROM nfl_dead ORDER BY frame, position")


# ── size ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_packets(server_database: Database) -> Any:
    """A server that takes little at once."""
    [(before,)] = server_database.run("SELECT @@GLOBAL.max_allowed_packet")
    server_database.run(f"SET GLOBAL max_allowed_packet = {256 * 1024}")
    yield server_database
    server_database.run(f"SET GLOBAL max_allowed_packet = {before}")


def test_statements_stay_below_the_servers_packet(small_packets: Database) -> None:
    store = store_of(small_packets, {"x": "LONGTEXT"})
    store.prepare()
    texts = ["a" * 100_000, "'" * 120_000, "b" * 250_000, "c" * 300_000, "\\" * 130_000, "d"]
    texts += ["é" * 60_000] * 5
    assert store.store([batch(1, [(text,) for text in texts])]) == Stored(1, len(texts) - 1, 0, 1)
    stored = [text for (text,) in small_packets.run("SELECT x FROM records ORDER BY seq")]
    assert stored == [text for text in texts if text[0] != "c"]
    assert dead(small_packets) == [(3, "packet")]
    store.close()


def test_many_dead_letters_and_frames_go_in_several_statements(
    small_packets: Database,
) -> None:
    store = store_of(small_packets, {"x": "INT"})
    store.prepare()
    letters = [DeadLetter(at, b"\xff" * 70_000, "utf8", "r" * 2000) for at in range(9)]
    frames = [Batch(RUN, n, "tweets", 0, 0, 1.0, 2.0, [], [], []) for n in range(2, 3000)]
    first = Batch(RUN, 1, "tweets", 9, 0, 1.0, 2.0, [], [], [], letters)
    assert store.store([*frames, first]) == Stored(frames=2999, dead=9)
    assert store.store([*frames, first]) == Stored()
    sizes = small_packets.run("SELECT LENGTH(raw), COUNT(*) FROM nfl_dead GROUP BY LENGTH(raw)")
    assert sizes == [(70_000, 9)]
    store.close()


def test_a_dead_letter_that_the_server_can_not_take_keeps_its_beginning(
    small_packets: Database,
) -> None:
    """It was queued when record_bytes_max was larger; the stream must go on behind it."""
    store = store_of(small_packets, {"x": "INT"})
    store.prepare()
    fits, too_large = (262_144 - 65_536) // 2, 262_144 // 2
    letters = [
        DeadLetter(at, b"\xff" * size, "utf8", "r" * 2000)
        for at, size in [(0, fits), (1, too_large)]
    ]
    assert store.store([Batch(RUN, 1, "tweets", 2, 0, 1.0, 2.0, [], [], [], letters)]).dead == 2
    found = small_packets.run("SELECT LENGTH(raw), code, reason FROM nfl_dead ORDER BY position")
    assert found == [(fits, "utf8", "r" * 1000), (65_536, "utf8", (PART_KEPT + "r" * 1000)[:1000])]
    store.close()


def test_a_packet_smaller_than_a_record_is_said(small_packets: Database) -> None:
    store = store_of(small_packets, {"x": "INT"}, record_bytes_max=1024 * 1024)
    with pytest.raises(Unavailable, match="takes packets of 262144 bytes") as caught:
        store.prepare()
    assert caught.value.loud
    statement = caught.value.hint.removeprefix("run: ").partition(";")[0]
    small_packets.run(statement)
    store.prepare()
    store.close()


def test_packets_made_smaller_while_it_runs(small_packets: Database) -> None:
    """The next session splits; a row that is too large is dead; too small for any is said."""
    store = store_of(small_packets, {"x": "LONGTEXT"})
    store.prepare()
    small_packets.run(f"SET GLOBAL max_allowed_packet = {192 * 1024}")
    assert store.store([batch(1, [("a" * 200_000,)])]) == Stored(1, 1)
    store.close()
    middle, large = ("b" * 100_000,), ("c" * 200_000,)
    assert store.store([batch(2, [middle, middle, large, middle])]) == Stored(1, 3, dead=1)
    assert dead(small_packets) == [(2, "packet")]
    store.close()
    small_packets.run(f"SET GLOBAL max_allowed_packet = {32 * 1024}")
    with pytest.raises(Unavailable, match="takes packets of 32768 bytes") as caught:
        store.store([batch(3, [("d",)])])
    assert caught.value.loud
    small_packets.run(caught.value.hint.removeprefix("run: ").partition(";")[0])
    assert store.store([batch(3, [("d",)])]) == Stored(1, 1)
    sizes = small_packets.run("SELECT LENGTH(x) FROM records ORDER BY seq")
    assert sizes == [(200_000,), (100_000,), (100_000,), (100_000,), (1,)]
    store.close()


@pytest.mark.parametrize("name", ["mariadb_database", "mysql_database"])
def test_every_character_arrives(name: str, request: pytest.FixtureRequest) -> None:
    """Whatever the way in which a text is written, the server reads what was meant."""
    database: Database = request.getfixturevalue(name)
    store = store_of(database, {"x": "LONGTEXT", "y": "LONGTEXT", "z": "LONGTEXT"})
    store.prepare()

    @settings(max_examples=40, deadline=None)
    @example([chr(code) for code in (*range(0x300), 0x2028, 0xFFFD, 0x1F3C8, 0x10FFFF)])
    @example(["\\" + chr(code) for code in range(0x100)])
    @example(["\\\\u0041 \\f", 'it\'s "5\'11""', "],[", ',"\xff","'])
    @given(st.lists(MEANT | st.text(), min_size=1))
    def check(texts: list[str]) -> None:
        block = Block(len(texts), (texts, Texts([text.encode() for text in texts]), texts[::-1]))
        store.run("START TRANSACTION")
        for statement in (text_of(block), b",".join(map(row_text, block))):
            store.run(b"INSERT INTO records (x, y, z) VALUES " + statement)
        stored = store.run("SELECT x, y, z FROM records ORDER BY seq")
        store.run("ROLLBACK")
        assert stored == [*block, *block]

    check()
    store.close()


def raw_batch(number: int, records: list[str]) -> Batch:
    """A frame as it comes with one raw column and one that is the same in all rows."""
    raws = [record.encode() for record in records]
    block = Block(len(raws), (Same("it's 100%b"), Texts(raws)))
    positions = list(range(len(raws)))
    return Batch(RUN, number, "tweets", len(raws), 0, 1.0, 2.0, block, positions, raws)


@pytest.mark.parametrize("bad", [[0], [1999], [7, 8, 1000], []])
def test_a_bad_row_at_any_place_of_a_block(mariadb_database: Database, bad: list[int]) -> None:
    store = store_of(mariadb_database, {"k": "VARCHAR(20)", "x": "VARCHAR(9)"})
    store.prepare()
    records = ["too long for it" if at in bad else f"'{at}\\" for at in range(2000)]
    frames = [raw_batch(1, ["'"]), raw_batch(2, records), raw_batch(3, ["\\'"])]
    assert store.store(frames) == Stored(frames=3, stored=2002 - len(bad), dead=len(bad))
    assert dead(mariadb_database) == [(at, "too long") for at in bad]
    stored = mariadb_database.run("SELECT k, x FROM records ORDER BY seq")
    good = [record for at, record in enumerate(records) if at not in bad]
    assert stored == [("it's 100%b", text) for text in ["'", *good, "\\'"]]
    store.close()


def statements_of(store: MySQLStore, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the store runs from now on; still run."""
    seen: list[bytes] = []
    run = store.run

    def noted(sql: str | bytes) -> list[tuple[Any, ...]]:
        seen.append(sql.encode() if isinstance(sql, str) else sql)
        return run(sql)

    monkeypatch.setattr(store, "run", noted)
    return seen


def test_a_block_larger_than_a_packet_is_cut_and_costs_only_its_long_row(
    small_packets: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(small_packets, {"k": "VARCHAR(20)", "x": "LONGTEXT"})
    store.prepare()
    statements = statements_of(store, monkeypatch)
    texts = ["a" * 100_000, "'" * 120_000, "b" * 250_000, "c" * 300_000, "\\" * 120_000, "d"]
    assert store.store([raw_batch(1, ["x"]), raw_batch(2, texts)]) == Stored(2, 6, 0, 1)
    stored = [text for (text,) in small_packets.run("SELECT x FROM records ORDER BY seq")]
    assert stored == ["x", *(text for text in texts if text[0] != "c")]
    assert dead(small_packets) == [(3, "packet")]
    assert len([sql for sql in statements if sql.startswith(b"ROLLBACK TO")]) == 1
    store.close()


def test_small_frames_share_a_statement_and_a_full_one_stays_whole(
    mariadb_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_of(mariadb_database, {"k": "VARCHAR(20)", "x": "LONGTEXT"})
    store.prepare()
    store.store([raw_batch(1, ["x"])])
    statements = statements_of(store, monkeypatch)
    full = ["x" * 400] * 2600
    store.store([*(raw_batch(n, ["x", "y"]) for n in range(2, 50)), raw_batch(50, full)])
    inserts = [sql for sql in statements if sql.startswith(b"INSERT INTO `records`")]
    assert len(inserts) == 1
    store.close()


# ── what an operator has to mend ────────────────────────────────────────────────────────


def test_a_wrong_password_is_said_and_waited_for(server_database: Database) -> None:
    store = store_of(server_database, {"x": "INT"}, password="wrong ✗")
    with pytest.raises(Unavailable, match="1045") as caught:
        store.prepare()
    assert caught.value.loud
    assert "password" in caught.value.hint
    assert "wrong ✗" not in str(caught.value)


def test_a_missing_database_is_said_and_waited_for(server_database: Database) -> None:
    name = server_database.name
    server_database.run(f"DROP DATABASE {name}")
    store = store_of(server_database, {"x": "INT"})
    with pytest.raises(Unavailable, match="1049") as caught:
        store.prepare()
    assert caught.value.loud
    server_database.server.run(f"CREATE DATABASE {name}")
    store.prepare()
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    store.close()


def test_a_user_without_rights_on_tables_that_exist(server_database: Database) -> None:
    """CREATE isn't needed where nothing is missing; a missing INSERT is named."""
    name = server_database.name
    store_of(server_database, {"x": "INT"}).prepare()
    server_database.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'p'")
    server_database.run(f"GRANT SELECT, UPDATE, DELETE ON {name}.* TO {name}@'%'")
    for table in ("runs", "frames", "dead", "gaps", "meta"):
        server_database.run(f"GRANT INSERT ON {name}.nfl_{table} TO {name}@'%'")
    server = server_database.server
    address = MySQLAddress(server.host, server.port, name, name)
    columns = {"x": Column(type="INT", path="x")}
    store = MySQLStore(address, "p", "nfl", "records", columns, 1024)
    store.prepare()
    with pytest.raises(Unavailable, match="1142") as caught:
        store.store([batch(1, [(1,)])])
    assert caught.value.loud
    assert "INSERT" in caught.value.hint
    server_database.run(f"GRANT INSERT ON {name}.records TO {name}@'%'")
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    server_database.run(f"DROP USER {name}@'%'")
    store.close()


def test_a_type_that_is_none(server_database: Database) -> None:
    with pytest.raises(ConfigError, match="table records"):
        store_of(server_database, {"x": "TEXTUAL"}).prepare()


def test_a_server_that_folds_names() -> None:
    """As on Windows and macOS: `Records` and `records` are one table."""
    with private_mariadb(["--lower-case-table-names=1"]) as server:
        server.run("CREATE DATABASE d CHARACTER SET utf8mb4")
        database = Database(server, "d")
        for table in ("Records", "RECORDS", "records"):
            store = store_of(database, {"X": "INT"}, table=table)
            store.prepare()
            assert store.store([batch(len(database.run("SELECT * FROM records")) + 1, [(1,)])])
            store.close()
        assert database.run("SELECT COUNT(*) FROM Records") == [(3,)]
        names = {name for (name,) in database.run("SHOW TABLES")}
        assert names == {"records"} | {f"nfl_{name}" for name in TABLES}


# ── a full disk ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 2 MiB; `mount -o remount` gives it more."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    for part in [tmp_path, *tmp_path.parents][:3]:
        part.chmod(0o755)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount anything")
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def fill_up(store: MySQLStore, frames: Iterator[Batch]) -> tuple[list[Batch], Unavailable]:
    """Store frames until there is no room; all that were tried, and what came."""
    tried: list[Batch] = []
    for frame in frames:
        tried.append(frame)
        try:
            store.store([frame])
        except Unavailable as error:
            return tried, error
    pytest.fail("there is always room")


def some_frames(server: DatabaseServer) -> tuple[MySQLStore, Database, Iterator[Batch]]:
    """A store on this server, and frames of 100 KB without end."""
    server.run("CREATE DATABASE d CHARACTER SET utf8mb4")
    database = Database(server, "d")
    texts = ["x" * 20_000 + str(n) for n in range(5)]
    frames = (batch(number, [(f"{number} {text}",) for text in texts]) for number in range(1, 400))
    return store_of(database, {"x": "LONGTEXT"}), database, frames


def all_stored(database: Database, frames: Sequence[Batch]) -> bool:
    """Whether the table has the rows of these frames, each once, and nothing is dead."""
    stored = database.run("SELECT x FROM records ORDER BY seq")
    return stored == [row for frame in frames for row in frame.rows] and not dead(database)


def test_a_full_disk_is_an_outage(small_disk: Path) -> None:
    """MariaDB 10.11 can't even roll back there and aborts: so it is killed in a transaction."""
    with private_mariadb(["--innodb-file-per-table=ON"]) as server:
        store, database, frames = some_frames(server)
        database.run(
            "CREATE TABLE records (seq INT AUTO_INCREMENT PRIMARY KEY, x LONGTEXT)"
            f" ENGINE=InnoDB DATA DIRECTORY='{small_disk}'"
        )
        store.prepare()
        tried, error = fill_up(store, frames)
        assert not error.loud, error
        with pytest.raises(Unavailable) as caught:
            store.store([tried[-1]])
        assert not caught.value.loud, caught.value
        subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
        server.ensure_running()
        assert store.store(tried) == Stored(1, 5)
        assert all_stored(database, tried)
        store.close()


def test_a_full_tablespace_is_an_outage() -> None:
    size = "--innodb-data-file-path=ibdata1:12M:autoextend"
    with private_mariadb([f"{size}:max:20M", "--innodb-file-per-table=0"]) as server:
        store, database, frames = some_frames(server)
        store.prepare()
        tried, error = fill_up(store, frames)
        for found in (error, fill_up(store, iter(tried[-1:]))[1]):
            assert "1114" in found.message
            assert not found.loud
        server.options = (size,)
        server.restart()
        assert store.store(tried) == Stored(1, 5)
        assert all_stored(database, tried)
        store.close()


# ── sessions ────────────────────────────────────────────────────────────────────────────


def test_the_session_is_strict_in_utc_and_gives_up_early(server_database: Database) -> None:
    store = store_of(server_database, {"x": "INT"})
    store.prepare()
    isolation = ISOLATION[server_database.server.flavour]
    [row] = store.run(
        f"SELECT @@sql_mode, @@time_zone, @@{isolation}, @@wait_timeout,"
        " @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@autocommit, @@character_set_client"
    )
    assert row == ("STRICT_ALL_TABLES", "+00:00", "READ-COMMITTED", 120, 20, 20, 1, "utf8mb4")
    store.close()


def test_a_session_cut_while_idle_is_no_outage(server_database: Database) -> None:
    now = [0.0]
    store = store_of(server_database, {"x": "INT"}, clock=lambda: now[0])
    store.prepare()
    [(session,)] = store.run("SELECT CONNECTION_ID()")
    server_database.run(f"KILL {session}")
    now[0] += 61
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    store.close()


def test_a_row_locked_too_long_is_an_outage(server_database: Database) -> None:
    store = store_of(server_database, {"x": "INT"})
    store.prepare()
    store.store([batch(1, [(1,)])])
    store.run("SET innodb_lock_wait_timeout = 1")
    locker = server_database.server.connect(server_database.name)
    with locker.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT * FROM nfl_runs FOR UPDATE")
    try:
        with pytest.raises(Unavailable, match="1205") as caught:
            store.store([batch(2, [(2,)])])
    finally:
        locker.close()
    assert not caught.value.loud
    assert store.store([batch(2, [(2,)])]) == Stored(frames=1, stored=1)
    store.close()


def test_a_deadlock_is_an_outage_not_a_dead_letter(server_database: Database) -> None:
    store = store_of(server_database, {"x": "INT UNIQUE"})
    store.prepare()
    other = server_database.server.connect(server_database.name)
    outages: list[Unavailable] = []

    def store_two_rows() -> None:
        try:
            store.store([batch(1, [(1,), (2,)])])
        except Unavailable as error:
            outages.append(error)

    victim = threading.Thread(target=store_two_rows)
    waits = "SELECT 1 FROM information_schema.INNODB_TRX WHERE trx_state = 'LOCK WAIT'"
    try:
        with other.cursor() as cursor:
            cursor.execute("START TRANSACTION")  # the larger transaction isn't the victim
            numbers = ", ".join(f"({number})" for number in range(100, 5000))
            cursor.execute(f"INSERT INTO records (x) VALUES {numbers}")
            cursor.execute("INSERT INTO records (x) VALUES (2)")
            victim.start()
            while not server_database.run(waits) and victim.is_alive():
                victim.join(0.1)  # the server keeps this view for 0.1 s
            cursor.execute("INSERT INTO records (x) VALUES (1)")
    finally:
        other.close()
        victim.join()
    [error] = outages
    assert "1213" in error.message
    assert not error.loud
    assert store.store([batch(1, [(1,), (2,)])]) == Stored(frames=1, stored=2)
    assert dead(server_database) == []
    store.close()
