"""Tables that exist already, over every kind of server: whatever the user's look like.

A table that can be stored into is; one that can't is refused with what to do, and doing just
that helps.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from appliance.batch import Stored
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.stores.mysql import MySQLStore
from appliance.stores.tables import TABLES
from tests.error_cases import batch_of
from tests.sql_server import SQLDatabase

COLUMNS = {
    "n": Column(type="BIGINT", path="n"),
    "word": Column(type="VARCHAR(20)", path="word"),
    "raw": Column(type="LONGTEXT", path=""),
}
RECORDS = [b'{"n": 1, "word": "one"}', b'{"n": 2, "word": "it\'s \\\\ \\"two\\""}']
WORDS = [(1, "one"), (2, 'it\'s \\ "two"')]
KEY = "seq BIGINT AUTO_INCREMENT PRIMARY KEY"
OURS = "n BIGINT, word VARCHAR(20), raw LONGTEXT"


def stored(store: MySQLStore, columns: Mapping[str, Column] = COLUMNS) -> None:
    """The records go in, each once."""
    store.prepare()
    batch = batch_of(1, RECORDS, columns)
    assert store.store([batch]) == Stored(1, len(RECORDS))
    assert store.store([batch]) == Stored()


def refused(store: MySQLStore, text: str) -> str:
    """Preparing fails, loudly; the hint."""
    with pytest.raises(Unavailable, match=text) as caught:
        store.prepare()
    assert caught.value.loud
    return caught.value.hint


@pytest.mark.parametrize(
    "table",
    {
        "another order": f"({KEY}, raw LONGTEXT, word VARCHAR(20), n BIGINT)",
        "no seq": "(raw LONGTEXT, n BIGINT PRIMARY KEY, word VARCHAR(20))",
        "no automatic key": f"(seq INT DEFAULT 0, {OURS})",
        "upper case": f"({KEY}, N BIGINT, WORD VARCHAR(20), RAW LONGTEXT)",
        "defaults": f"({KEY}, {OURS}, a INT NOT NULL DEFAULT 5, at DATETIME DEFAULT NOW(), b TEXT)",
        "generated": f"({KEY}, {OURS}, twice BIGINT AS (n * 2) STORED, half INT AS (n / 2),"
        " KEY (twice))",
        "indexes": f"({KEY}, {OURS}, KEY (n), UNIQUE (word), FULLTEXT (raw))",
        "partitions": "(seq BIGINT AUTO_INCREMENT, n BIGINT, word VARCHAR(20), raw LONGTEXT,"
        " PRIMARY KEY (seq, n)) PARTITION BY RANGE (n) (PARTITION a VALUES LESS THAN (2),"
        " PARTITION b VALUES LESS THAN (10))",
        "latin1": f"({KEY}, {OURS}) CHARACTER SET latin1",
        "redundant": f"({KEY}, {OURS}) ROW_FORMAT=REDUNDANT",
        "other types": f"({KEY}, n DECIMAL(20,3), word CHAR(30), raw LONGBLOB)",
    }.items(),
    ids=lambda pair: pair[0],
)
def test_a_table_of_the_users(sql_database: SQLDatabase, table: tuple[str, str]) -> None:
    sql_database.run(f"CREATE TABLE records {table[1]}")
    stored(sql_database.store(COLUMNS))
    assert sql_database.run("SELECT n, word FROM records ORDER BY n") == WORDS
    raws = [raw for (raw,) in sql_database.run("SELECT CAST(raw AS CHAR) FROM records ORDER BY n")]
    assert raws == [record.decode() for record in RECORDS]


def test_what_the_users_own_columns_become(sql_database: SQLDatabase) -> None:
    sql_database.run(
        f"CREATE TABLE records ({KEY}, {OURS}, twice BIGINT AS (n * 2) STORED,"
        " kind VARCHAR(9) NOT NULL DEFAULT 'tweet', upper_word VARCHAR(20)) ENGINE=InnoDB"
    )
    sql_database.run(
        "CREATE TRIGGER shout BEFORE INSERT ON records FOR EACH ROW"
        " SET NEW.upper_word = UPPER(NEW.word)"
    )
    stored(sql_database.store(COLUMNS))
    found = sql_database.run("SELECT twice, kind, upper_word FROM records ORDER BY n")
    assert found == [(2, "tweet", "ONE"), (4, "tweet", 'IT\'S \\ "TWO"')]


def test_latin1_takes_what_it_has_and_bends_nothing(sql_database: SQLDatabase) -> None:
    """A letter that the column's character set doesn't have is no question mark."""
    sql_database.run(f"CREATE TABLE records ({KEY}, {OURS}) ENGINE=InnoDB CHARACTER SET latin1")
    store = sql_database.store(COLUMNS)
    store.prepare()
    records = ['{"n": 1, "word": "Müller"}', '{"n": 2, "word": "李"}', '{"n": 3, "word": "€"}']
    raws = [record.encode() for record in records]
    assert store.store([batch_of(1, raws, COLUMNS)]) == Stored(1, 2, dead=1)
    assert sql_database.raws() == [raws[0], raws[2]]
    assert [row[1:4] for row in sql_database.dead()] == [(1, raws[1], "value")]


# ── names ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", ["key", "Ta`ble", "50% of 'it", 'say "x"?', "Ünï 李", "a.b", "1"])
def test_names_of_tables(sql_database: SQLDatabase, table: str) -> None:
    names = ["rank", "Or`der", "50%", "what?", 'say "x"', "select", "ключ", "a.b"]
    columns = {name: Column(type="INT", path="n") for name in names}
    store = sql_database.store(columns, table=table)
    stored(store, columns)
    stored_again = sql_database.store(columns, table=table, on_duplicate="update")
    stored_again.prepare()
    assert stored_again.store([batch_of(2, RECORDS, columns)]) == Stored(1, 2)
    quoted = "`" + table.replace("`", "``") + "`"
    assert [row[1:] for row in sql_database.run(f"SELECT * FROM {quoted} ORDER BY seq")] == [
        (n,) * len(names) for n in (1, 2, 1, 2)
    ]


def test_a_table_whose_name_differs_in_case_is_another_one(sql_database: SQLDatabase) -> None:
    [(folded,)] = sql_database.run("SELECT @@lower_case_table_names")
    sql_database.run(f"CREATE TABLE records ({KEY}, other INT) ENGINE=InnoDB")
    store = sql_database.store(COLUMNS, table="Records")
    if folded:
        refused(store, "no column n, word, raw")
        return
    stored(store)
    assert sql_database.run("SELECT n, word FROM `Records` ORDER BY seq") == WORDS


# ── what is refused, and mended ─────────────────────────────────────────────────────────


def test_pasting_the_alter_helps(sql_database: SQLDatabase) -> None:
    columns = COLUMNS | {
        "we`ird key": Column(type="VARCHAR(20) DEFAULT 'it''s; so'", path="word"),
        "at": Column(type="DATETIME(6)", meta="received_at"),
    }
    sql_database.run(f"CREATE TABLE records ({KEY}, word VARCHAR(20)) ENGINE=InnoDB")
    store = sql_database.store(columns)
    hint = refused(store, "no column n, raw, we`ird key, at")
    pasted = hint.removeprefix("run: ")
    for statement in pasted.split("; ALTER"):
        sql_database.run(statement if statement.startswith("ALTER") else f"ALTER{statement}")
    stored(store, columns)


@pytest.mark.parametrize("table", ["records", "nfl_frames", "nfl_dead"])
@pytest.mark.parametrize("engine", ["MyISAM", "MEMORY", "CSV", "Aria", "BLACKHOLE"])
def test_engines_without_transactions(sql_database: SQLDatabase, table: str, engine: str) -> None:
    if not sql_database.run(
        "SELECT 1 FROM information_schema.ENGINES"
        f" WHERE ENGINE = '{engine}' AND SUPPORT IN ('YES', 'DEFAULT')"
    ):
        pytest.skip(f"this server has no {engine}")
    store = sql_database.store(COLUMNS)
    store.prepare()
    sql_database.run(f"DROP TABLE {table}")
    columns = "n INT NOT NULL, word INT NOT NULL, raw INT NOT NULL"
    if table != "records":
        columns = ", ".join(f"`{name}` INT NOT NULL" for name in ledger_columns(table))
    sql_database.run(f"CREATE TABLE {table} ({columns}) ENGINE={engine}")
    hint = refused(store, f"table {table} has engine {engine}")
    sql_database.run(hint.removeprefix("run: "))
    store.prepare()


def ledger_columns(table: str) -> list[str]:
    return list(TABLES[table.removeprefix("nfl_")].columns)


def test_a_view_is_refused(sql_database: SQLDatabase) -> None:
    sql_database.run(f"CREATE TABLE behind ({KEY}, {OURS}) ENGINE=InnoDB")
    sql_database.run("CREATE VIEW records AS SELECT * FROM behind")
    assert "store.table" in refused(sql_database.store(COLUMNS), "records is a view")


def test_somebody_elses_table_with_a_name_of_ours(sql_database: SQLDatabase) -> None:
    sql_database.run("CREATE TABLE nfl_dead (name VARCHAR(20), died DATE) ENGINE=InnoDB")
    hint = refused(
        sql_database.store(COLUMNS), "nfl_dead is no table of ours: it has no column run"
    )
    assert "rename" in hint


def test_a_generated_column_can_not_be_filled(sql_database: SQLDatabase) -> None:
    """No record is to blame: all of them wait until the configuration is mended."""
    sql_database.run(
        f"CREATE TABLE records ({KEY}, n BIGINT, word VARCHAR(20) AS ('x') STORED, raw LONGTEXT)"
        " ENGINE=InnoDB"
    )
    store = sql_database.store(COLUMNS)
    store.prepare()
    with pytest.raises(Unavailable, match=r"1906|3105") as caught:
        store.store([batch_of(1, RECORDS, COLUMNS)])
    assert caught.value.loud
    assert "generated" in caught.value.hint
    assert sql_database.dead() == []


# ── how the server is set ───────────────────────────────────────────────────────────────


@contextmanager
def globally(database: SQLDatabase, name: str, value: str) -> Iterator[None]:
    """A global variable with another value."""
    [(before,)] = database.run(f"SELECT @@GLOBAL.{name}")
    database.run(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        database.run(f"SET GLOBAL {name} = {before!r}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sql_mode", "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,IGNORE_SPACE'"),
        ("sql_mode", "''"),
        ("sql_mode", "'PAD_CHAR_TO_FULL_LENGTH,NO_ZERO_DATE,NO_AUTO_VALUE_ON_ZERO'"),
        ("autocommit", "0"),
        ("sql_safe_updates", "1"),
        ("sql_select_limit", "1"),
        ("completion_type", "'CHAIN'"),
        ("character_set_server", "'latin1'"),
        ("time_zone", "'+05:30'"),
        ("transaction_isolation", "'SERIALIZABLE'"),
        ("auto_increment_increment", "7"),
    ],
)
def test_any_global_setting(sql_database: SQLDatabase, name: str, value: str) -> None:
    if name == "transaction_isolation" and sql_database.server.flavour == "mariadb":
        name = "tx_isolation"
    columns = COLUMNS | {"at": Column(type="TIMESTAMP(6) NULL", meta="received_at")}
    with globally(sql_database, name, value):
        store = sql_database.store(columns)
        stored(store, columns)
        bad = [b'{"n": 3, "word": "much longer than twenty"}', *RECORDS]
        assert store.store([batch_of(2, bad, columns)]) == Stored(1, 2, dead=1)
        assert store.store([batch_of(n, RECORDS, columns) for n in (4, 6)]) == Stored(2, 4)
        store.fold()
        assert store.store([batch_of(n, RECORDS, columns) for n in (1, 2, 4, 6)]) == Stored()
    assert sql_database.run("SELECT n, word FROM records ORDER BY seq") == WORDS * 4
    assert sql_database.raws() == RECORDS * 4
    assert set(sql_database.run("SELECT UNIX_TIMESTAMP(at) FROM records")) == {(1700000000.25,)}
    assert sql_database.run("SELECT up_to FROM nfl_runs") == [(2,)]
