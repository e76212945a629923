"""MySQL: what its errors mean for us, tried on a real server, and addresses."""

import itertools
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.batch import Batch, Block, DeadLetter, Same, Stored, Texts, Values
from appliance.config import Column
from appliance.errors import ConfigError, Unavailable
from appliance.stores.mysql import (
    ERRORS,
    MySQLAddress,
    MySQLStore,
    Refuse,
    cut,
    parse_url,
    row_text,
    row_texts,
    text_of,
)
from tests.mariadb_server import PASSWORD, MariaDBDatabase

RUN = bytes(range(16))


def store_of(
    database: MariaDBDatabase, columns: Mapping[str, str], password: str = PASSWORD, **more: Any
) -> MySQLStore:
    typed = {name: Column(type=type_name, path=name) for name, type_name in columns.items()}
    more = {"record_bytes_max": 1024, **more}
    return MySQLStore(parse_url(database.url()), password, "nfl", "records", typed, **more)


def batch(number: int, rows: list[tuple[Any, ...]]) -> Batch:
    raws = [repr(row).encode() for row in rows]
    positions = list(range(len(rows)))
    return Batch(RUN, number, "tweets", len(rows), 0, 1.0, 2.0, rows, positions, raws)


def dead(database: MariaDBDatabase) -> list[tuple[Any, ...]]:
    return database.run("SELECT position, code FROM nfl_dead ORDER BY frame, position")


# ── refused rows ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("type_name", "good", "bad", "code"),
    [
        ("VARCHAR(3)", "abc", "abcd", "too long"),
        ("VARCHAR(9) CHARACTER SET latin1", "é", "🏈", "value"),
        ("TINYINT", 127, 128, "range"),
        ("BIGINT", -(2**63), 2**63, "range"),
        ("INT", 1, "one", "value"),
        ("INT", "12", "12 and more", "truncated"),
        ("DATETIME(6)", "2024-02-29 12:00:00.5", "2024-02-30 12:00:00", "value"),
        ("DATE", "2024-02-29", "Wed Oct 10", "value"),
        ("ENUM('a', 'b')", "a", "c", "truncated"),
        ("INT NOT NULL", 0, None, "null"),
        ("INT UNIQUE", 5, 4, "duplicate"),
        ("INT CHECK (`x` > 3)", 5, 3, "check"),
        ("JSON", '{"a": 1}', "{", "check"),
        ("INT REFERENCES parents (id)", 1, 2, "foreign key"),
        ("DECIMAL(4,2)", 1.5, 1e300, "range"),
    ],
)
def test_a_row_that_does_not_fit_is_a_dead_letter(
    mariadb_database: MariaDBDatabase, type_name: str, good: Any, bad: Any, code: str
) -> None:
    mariadb_database.run("CREATE TABLE parents (id INT PRIMARY KEY) ENGINE=InnoDB")
    mariadb_database.run("INSERT INTO parents VALUES (1)")
    store = store_of(mariadb_database, {"x": type_name, "n": "INT"})
    store.prepare()
    if code == "duplicate":
        store.store([batch(9, [(bad, 0)])])
    rows = [(good, 1), (bad, 2), (None if "U" in type_name else good, 3)]
    if "NOT NULL" in type_name:
        rows[2] = (good, 3)
    assert store.store([batch(1, rows)]) == Stored(frames=1, stored=2, dead=1)
    assert dead(mariadb_database) == [(1, code)]
    assert mariadb_database.run("SELECT n FROM records WHERE n > 0 ORDER BY seq") == [(1,), (3,)]
    store.close()


def test_a_column_of_the_users_without_default(mariadb_database: MariaDBDatabase) -> None:
    mariadb_database.run("CREATE TABLE records (x INT, other INT NOT NULL) ENGINE=InnoDB")
    store = store_of(mariadb_database, {"x": "INT"})
    store.prepare()
    assert store.store([batch(1, [(1,), (2,)])]) == Stored(frames=1, dead=2)
    assert dead(mariadb_database) == [(0, "no default"), (1, "no default")]
    store.close()


def trigger(database: MariaDBDatabase, signal: str) -> None:
    database.run(
        "CREATE TRIGGER judge BEFORE INSERT ON records FOR EACH ROW"
        f" IF NEW.x < 0 THEN SIGNAL SQLSTATE {signal}; END IF"
    )


@pytest.mark.parametrize(
    ("signal", "code"),
    [
        ("'45000' SET MESSAGE_TEXT = 'no'", "signal"),
        ("'45000' SET MYSQL_ERRNO = 5998", "signal"),
        ("'HY001' SET MYSQL_ERRNO = 5999", "error 5999"),
    ],
)
def test_a_trigger_refuses(mariadb_database: MariaDBDatabase, signal: str, code: str) -> None:
    store = store_of(mariadb_database, {"x": "INT"})
    store.prepare()
    trigger(mariadb_database, signal)
    assert store.store([batch(1, [(-1,), (1,), (-2,)])]) == Stored(frames=1, stored=1, dead=2)
    assert dead(mariadb_database) == [(0, code), (2, code)]
    store.close()


def test_an_unknown_error_of_all_rows_is_no_rows_fault(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT"})
    store.prepare()
    trigger(mariadb_database, "'HY001' SET MYSQL_ERRNO = 5999, MESSAGE_TEXT = 'odd'")
    with pytest.raises(Unavailable, match="odd") as caught:
        store.store([batch(1, [(-1,), (-2,)])])
    assert caught.value.loud
    mariadb_database.run("DROP TRIGGER judge")
    assert store.store([batch(1, [(-1,), (-2,)])]) == Stored(frames=1, stored=2)
    assert dead(mariadb_database) == []
    store.close()


def test_a_duplicate_inside_one_statement(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT PRIMARY KEY", "seq": "INT"})
    mariadb_database.run("CREATE TABLE records (x INT PRIMARY KEY, seq INT) ENGINE=InnoDB")
    store.prepare()
    rows = [(x, n) for n, x in enumerate([1, 2, 1, 3, 2, 1])]
    assert store.store([batch(1, rows)]) == Stored(frames=1, stored=3, dead=3)
    assert mariadb_database.run("SELECT x, seq FROM records ORDER BY x") == [(1, 0), (2, 1), (3, 3)]
    assert dead(mariadb_database) == [(2, "duplicate"), (4, "duplicate"), (5, "duplicate")]
    store.close()


# ── size ────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small_packets(mariadb_database: MariaDBDatabase) -> Any:
    """A server that takes little at once."""
    [(before,)] = mariadb_database.run("SELECT @@GLOBAL.max_allowed_packet")
    mariadb_database.run(f"SET GLOBAL max_allowed_packet = {256 * 1024}")
    yield mariadb_database
    mariadb_database.run(f"SET GLOBAL max_allowed_packet = {before}")


def test_statements_stay_below_the_servers_packet(small_packets: MariaDBDatabase) -> None:
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
    small_packets: MariaDBDatabase,
) -> None:
    store = store_of(small_packets, {"x": "INT"})
    store.prepare()
    letters = [DeadLetter(at, b"\xff" * 70_000, "utf8", "r" * 2000) for at in range(9)]
    frames = [Batch(RUN, n, "tweets", 0, 0, 1.0, 2.0, [], [], []) for n in range(2, 3000)]
    first = Batch(RUN, 1, "tweets", 9, 0, 1.0, 2.0, [], [], [], letters)
    assert store.store([*frames, first]) == Stored(frames=2999, dead=9)
    assert store.store([*frames, first]) == Stored()
    sizes = small_packets.run("SELECT DISTINCT LENGTH(raw), COUNT(*) FROM nfl_dead")
    assert sizes == [(64 * 1024, 9)]
    store.close()


def test_a_packet_smaller_than_a_record_is_said(small_packets: MariaDBDatabase) -> None:
    store = store_of(small_packets, {"x": "INT"}, record_bytes_max=1024 * 1024)
    with pytest.raises(Unavailable, match="takes packets of 262144 bytes") as caught:
        store.prepare()
    assert caught.value.loud
    statement = caught.value.hint.removeprefix("run: ").partition(";")[0]
    small_packets.run(statement)
    store.prepare()
    store.close()


@given(st.lists(st.integers(1, 50)), st.integers(1, 100))
def test_cut_keeps_all_and_puts_neighbours_together(sizes: list[int], size_max: int) -> None:
    parts = cut(sizes, size_max)
    assert [at for lo, hi in parts for at in range(lo, hi)] == list(range(len(sizes)))
    assert all(sum(sizes[lo:hi]) <= size_max or hi - lo == 1 for lo, hi in parts)
    for (lo, hi), (_, after) in itertools.pairwise(parts):
        assert sum(sizes[lo : hi + 1]) > size_max
        assert hi < after


def test_literals() -> None:
    assert row_text((None, 1, -2.5, 1e300, "a'b\\", b"\x00'", 2**64)) == (
        rb"(NULL,1,-2.5e0,1e+300,'a\'b\\',X'0027',18446744073709551616)"
    )


VALUES = (
    st.none() | st.integers(-(2**64), 2**64) | st.floats(allow_nan=False) | st.text() | st.binary()
)
MEANT = st.text(alphabet="%b\\'\",()\n\0éÿ🏈", max_size=6)  # what the text of a row is made of


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """Any rows, as columns of any kinds in any order."""
    count = draw(st.integers(0, 4))
    rows = {"min_size": count, "max_size": count}
    column: st.SearchStrategy[Values] = st.one_of(
        st.builds(Same, VALUES | MEANT),
        st.builds(Texts, st.lists((MEANT | st.text()).map(str.encode), **rows)),
        st.lists(VALUES | MEANT, **rows),
    )
    return Block(count, tuple(draw(st.lists(column, min_size=1, max_size=4))))


@given(blocks())
def test_a_block_is_written_as_its_rows_are(block: Block) -> None:
    one_by_one = [row_text(row) for row in block]
    assert row_texts(block) == row_texts(list(block)) == one_by_one
    assert text_of(block) == text_of(list(block)) == b",".join(one_by_one)


def raw_batch(number: int, records: list[str]) -> Batch:
    """A frame as it comes with one raw column and one that is the same in all rows."""
    raws = [record.encode() for record in records]
    block = Block(len(raws), (Same("it's 100%b"), Texts(raws)))
    positions = list(range(len(raws)))
    return Batch(RUN, number, "tweets", len(raws), 0, 1.0, 2.0, block, positions, raws)


@pytest.mark.parametrize("bad", [[0], [1999], [7, 8, 1000], []])
def test_a_bad_row_at_any_place_of_a_block(
    mariadb_database: MariaDBDatabase, bad: list[int]
) -> None:
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
    small_packets: MariaDBDatabase, monkeypatch: pytest.MonkeyPatch
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
    mariadb_database: MariaDBDatabase, monkeypatch: pytest.MonkeyPatch
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


def test_a_wrong_password_is_said_and_waited_for(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT"}, password="wrong ✗")
    with pytest.raises(Unavailable, match="1045") as caught:
        store.prepare()
    assert caught.value.loud
    assert "password" in caught.value.hint
    assert "wrong ✗" not in str(caught.value)


def test_a_missing_database_is_said_and_waited_for(mariadb_database: MariaDBDatabase) -> None:
    name = mariadb_database.name
    mariadb_database.run(f"DROP DATABASE {name}")
    store = store_of(mariadb_database, {"x": "INT"})
    with pytest.raises(Unavailable, match="1049") as caught:
        store.prepare()
    assert caught.value.loud
    mariadb_database.server.run(f"CREATE DATABASE {name}")
    store.prepare()
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    store.close()


def test_a_user_without_rights_on_tables_that_exist(mariadb_database: MariaDBDatabase) -> None:
    """CREATE isn't needed where nothing is missing; a missing INSERT is named."""
    name = mariadb_database.name
    store_of(mariadb_database, {"x": "INT"}).prepare()
    mariadb_database.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'p'")
    mariadb_database.run(f"GRANT SELECT, UPDATE, DELETE ON {name}.* TO {name}@'%'")
    for table in ("runs", "frames", "dead", "gaps", "meta"):
        mariadb_database.run(f"GRANT INSERT ON {name}.nfl_{table} TO {name}@'%'")
    server = mariadb_database.server
    address = MySQLAddress(server.host, server.port, name, name)
    columns = {"x": Column(type="INT", path="x")}
    store = MySQLStore(address, "p", "nfl", "records", columns, 1024)
    store.prepare()
    with pytest.raises(Unavailable, match="1142") as caught:
        store.store([batch(1, [(1,)])])
    assert caught.value.loud
    assert "INSERT" in caught.value.hint
    mariadb_database.run(f"GRANT INSERT ON {name}.records TO {name}@'%'")
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    mariadb_database.run(f"DROP USER {name}@'%'")
    store.close()


def test_a_table_without_transactions_is_refused(mariadb_database: MariaDBDatabase) -> None:
    mariadb_database.run("CREATE TABLE records (x INT) ENGINE=MyISAM")
    store = store_of(mariadb_database, {"x": "INT"})
    with pytest.raises(Unavailable, match="MyISAM") as caught:
        store.prepare()
    assert caught.value.loud
    mariadb_database.run(caught.value.hint.removeprefix("run: "))
    store.prepare()
    store.close()


def test_a_type_that_is_none(mariadb_database: MariaDBDatabase) -> None:
    with pytest.raises(ConfigError, match="table records"):
        store_of(mariadb_database, {"x": "TEXTUAL"}).prepare()


def test_names_that_need_quotes(mariadb_database: MariaDBDatabase) -> None:
    columns = dict.fromkeys(("key", "rank", "we`ird", "50%", "what?", 'say "x"'), "INT")
    store = store_of(mariadb_database, columns)
    store.prepare()
    store.prepare()
    assert store.store([batch(1, [(1, 2, 3, 4, 5, 6)])]) == Stored(frames=1, stored=1)
    assert mariadb_database.run("SELECT * FROM records")[0][1:] == (1, 2, 3, 4, 5, 6)
    store.close()


# ── sessions ────────────────────────────────────────────────────────────────────────────


def test_the_session_is_strict_in_utc_and_gives_up_early(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT"})
    store.prepare()
    [row] = store.run(
        "SELECT @@sql_mode, @@time_zone, @@tx_isolation, @@wait_timeout,"
        " @@innodb_lock_wait_timeout, @@autocommit, @@character_set_client"
    )
    assert row == ("STRICT_ALL_TABLES", "+00:00", "READ-COMMITTED", 120, 20, 1, "utf8mb4")
    store.close()


def test_a_session_cut_while_idle_is_no_outage(mariadb_database: MariaDBDatabase) -> None:
    now = [0.0]
    store = store_of(mariadb_database, {"x": "INT"}, clock=lambda: now[0])
    store.prepare()
    [(session,)] = store.run("SELECT CONNECTION_ID()")
    mariadb_database.run(f"KILL {session}")
    now[0] += 61
    assert store.store([batch(1, [(1,)])]) == Stored(frames=1, stored=1)
    store.close()


def test_a_row_locked_too_long_is_an_outage(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT"})
    store.prepare()
    store.store([batch(1, [(1,)])])
    store.run("SET innodb_lock_wait_timeout = 1")
    locker = mariadb_database.server.connect(mariadb_database.name)
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


def test_a_deadlock_is_an_outage_not_a_dead_letter(mariadb_database: MariaDBDatabase) -> None:
    store = store_of(mariadb_database, {"x": "INT UNIQUE"})
    store.prepare()
    other = mariadb_database.server.connect(mariadb_database.name)
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
            cursor.execute("INSERT INTO records (x) SELECT seq FROM seq_100_to_5000")
            cursor.execute("INSERT INTO records (x) VALUES (2)")
            victim.start()
            while not mariadb_database.run(waits) and victim.is_alive():
                victim.join(0.1)  # the server keeps this view for 0.1 s
            cursor.execute("INSERT INTO records (x) VALUES (1)")
    finally:
        other.close()
        victim.join()
    [error] = outages
    assert "1213" in error.message
    assert not error.loud
    assert store.store([batch(1, [(1,), (2,)])]) == Stored(frames=1, stored=2)
    assert dead(mariadb_database) == []
    store.close()


# ── addresses and the table ─────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mysql://u@db.example/d", MySQLAddress("db.example", 3306, "u", "d")),
        ("mysql://u@[::1]:3307/d", MySQLAddress("::1", 3307, "u", "d")),
        ("mysql://a%40b@h/d%2Fe", MySQLAddress("h", 3306, "a@b", "d/e")),
        (
            "mysql://u@/d?unix_socket=/run/my%20sql",
            MySQLAddress("localhost", 3306, "u", "d", "/run/my sql"),
        ),
        ("mysql://u@h:1/d?unix_socket=/s", MySQLAddress("h", 1, "u", "d", "/s")),
    ],
)
def test_addresses(url: str, address: MySQLAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "mysql://h/d",
        "mysql://u@h",
        "mysql://u@/d",
        "mysql://u@/d?unix_socket=",
        "mysql://u@h:port/d",
        "mysql://u@h/d?tls=require",
        "mysql://u@h/d?charset=latin1",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_the_table_of_errors_has_short_codes_and_hints() -> None:
    for name, reaction in ERRORS.values():
        assert name.startswith(("ER_", "CR_", "WARN_"))
        if isinstance(reaction, Refuse):
            assert 0 < len(reaction.code) <= 32
