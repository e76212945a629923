"""SQLite: what its errors mean for us, and what it can't be asked to do."""

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.batch import Batch, Stored
from appliance.config import Column
from appliance.errors import ConfigError, Unavailable
from appliance.stores import sqlite as module
from appliance.stores.sqlite import SQLiteStore
from tests.system.small_disk import fill_up, small_disk

DISK_BYTES = 2 * 1024**2
RUN = bytes(range(16))


def store_of(path: Path | str, columns: Mapping[str, str]) -> SQLiteStore:
    typed = {name: Column(type=type_name, path=name) for name, type_name in columns.items()}
    return SQLiteStore(str(path), "nfl", "records", typed)


def batch(number: int, *rows: tuple[Any, ...]) -> Batch:
    raws = [repr(row).encode() for row in rows]
    positions = list(range(len(rows)))
    return Batch(RUN, number, "tweets", len(rows), 0, 1.0, 2.0, list(rows), positions, raws)


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "nfl.db"


@pytest.mark.parametrize(
    ("type_name", "good", "bad", "code"),
    [
        ("BIGINT", 2**63 - 1, 2**64 - 1, "range"),
        ("INT NOT NULL", 0, None, "null"),
        ("INT UNIQUE", 5, 4, "duplicate"),
        ("INT CHECK (x > 3)", 5, 3, "check"),
    ],
)
def test_a_row_that_does_not_fit_is_a_dead_letter(
    path: Path, type_name: str, good: Any, bad: Any, code: str
) -> None:
    store = store_of(path, {"x": type_name, "n": "INT"})
    store.prepare()
    if code == "duplicate":
        store.store([batch(9, (bad, 0))])
    stored = store.store([batch(1, (good, 1), (bad, 2), (6, 3))])
    assert stored == Stored(frames=1, stored=2, dead=1)
    assert query(path, "SELECT position, code FROM nfl_dead") == [(1, code)]
    assert query(path, "SELECT n FROM records WHERE n > 0 ORDER BY seq") == [(1,), (3,)]
    store.close()


def test_a_trigger_refuses(path: Path) -> None:
    store = store_of(path, {"x": "INT"})
    store.prepare()
    trigger = "CREATE TRIGGER judge BEFORE INSERT ON records WHEN NEW.x < 0"
    query(path, f"{trigger} BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert store.store([batch(1, (1,), (-1,), (2,))]) == Stored(frames=1, stored=2, dead=1)
    assert query(path, "SELECT position, code, reason FROM nfl_dead") == [(1, "signal", "no")]
    store.close()


def test_a_transaction_that_a_trigger_rolls_back_is_noticed(path: Path) -> None:
    """Else the rows after it would be committed without their ledger row."""
    store = store_of(path, {"x": "INT"})
    store.prepare()
    trigger = "CREATE TRIGGER judge BEFORE INSERT ON records WHEN NEW.x < 0"
    query(path, f"{trigger} BEGIN SELECT RAISE(ROLLBACK, 'all of it'); END")
    with pytest.raises(Unavailable) as caught:
        store.store([batch(1, (1,), (-1,), (2,))])
    assert caught.value.loud
    assert query(path, "SELECT COUNT(*) FROM records") == [(0,)]
    query(path, "DROP TRIGGER judge")
    assert store.store([batch(1, (1,), (-1,), (2,))]) == Stored(frames=1, stored=3)
    store.close()


@pytest.mark.parametrize(
    ("at_once", "values_max"), [(3, 999), (50, 2), (50, 0)], ids=["three", "two", "one"]
)
def test_many_rows_in_several_parts_and_statements(
    path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int, values_max: int
) -> None:
    monkeypatch.setattr(module, "PART_ROWS_MAX", 7)
    monkeypatch.setattr(module, "STATEMENT_ROWS", at_once)
    monkeypatch.setattr(module, "STATEMENT_VALUES_MAX", values_max)
    store = store_of(path, {"x": "INT CHECK (x % 10 <> 3)"})
    store.prepare()
    rows = [(n,) for n in range(50)]
    assert store.store([batch(1, *rows)]) == Stored(frames=1, stored=45, dead=5)
    assert query(path, "SELECT x FROM records ORDER BY seq") == [
        (n,) for n in range(50) if n % 10 != 3
    ]
    store.close()


@pytest.mark.parametrize(
    "type_name", ["ENUM('a','b')", "TEXT COLLATE utf8mb4_bin", "TEXT CHARACTER SET", "INT,"]
)
@pytest.mark.parametrize("where", ["nfl.db", ":memory:"])
def test_types_of_mysqls_own_are_a_config_error(tmp_path: Path, type_name: str, where: str) -> None:
    path = where if where == ":memory:" else str(tmp_path / where)
    with pytest.raises(ConfigError, match="table records") as caught:
        store_of(path, {"x": type_name}).prepare()
    assert "[store.columns]" in caught.value.hint


def test_types_of_mysqls_that_are_fine(path: Path) -> None:
    types = ("VARCHAR(64)", "BIGINT UNSIGNED", "DATETIME(6)", "LONGTEXT", "DECIMAL(4,2)", "JSON")
    store = store_of(path, {f"c{n}": type_name for n, type_name in enumerate(types)})
    store.prepare()
    store.close()


def test_names_that_need_quotes(path: Path) -> None:
    store = store_of(path, dict.fromkeys(("key", "select", 'say "x"', "what?", "we`ird"), "INT"))
    store.prepare()
    store.prepare()
    assert store.store([batch(1, (1, 2, 3, 4, 5))]) == Stored(frames=1, stored=1)
    assert query(path, "SELECT * FROM records") == [(1, 1, 2, 3, 4, 5)]
    store.close()


def test_what_is_committed_survives_a_power_cut(path: Path) -> None:
    store = store_of(path, {"x": "INT"})
    store.prepare()
    assert store._query("PRAGMA journal_mode") == [("wal",)]
    assert store._query("PRAGMA synchronous") == [(2,)]
    store.close()


def test_a_locked_file_is_waited_for_quietly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_MS", 50)
    store = store_of(path, {"x": "INT"})
    store.prepare()
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="locked") as caught:
        store.store([batch(1, (1,))])
    assert not caught.value.loud
    locker.close()
    assert store.store([batch(1, (1,))]) == Stored(frames=1, stored=1)
    store.close()


def test_a_writer_waits_for_the_other(path: Path) -> None:
    store = store_of(path, {"x": "INT"})
    store.prepare()
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.2, locker.close)
    timer.start()
    assert store.store([batch(1, (1,))]) == Stored(frames=1, stored=1)
    timer.join()
    store.close()


def test_a_full_disk_is_waited_for(path: Path) -> None:
    store = store_of(path, {"x": "TEXT"})
    store.prepare()
    [(pages,)] = store._query("PRAGMA page_count")
    store._query(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(Unavailable, match="full") as caught:
        store.store([batch(1, *[("x" * 1000,)] * 100)])
    assert caught.value.loud
    assert store.store([batch(1, *[("x" * 1000,)] * 100)]) == Stored(frames=1, stored=100)
    assert query(path, "SELECT COUNT(*) FROM nfl_dead") == [(0,)]
    store.close()


def test_a_disk_that_is_full_at_the_opening_is_said_to_be(path: Path) -> None:
    """SQLite calls it an I/O error there, as if the disk were broken."""
    with small_disk(path.parent / "disk", DISK_BYTES) as disk:
        store = store_of(disk / "nfl.db", {"x": "TEXT"})
        store.prepare()
        store.close()
        fill_up(disk / "ballast")
        with pytest.raises(Unavailable) as caught:
            store.prepare()
        assert (caught.value.hint, caught.value.loud) == ("make room on the disk", True)
        (disk / "ballast").unlink()
        store.prepare()
        store.close()


@pytest.mark.parametrize("kind", ["no folder", "no database"])
def test_a_file_that_can_not_be_used_is_said(path: Path, kind: str) -> None:
    if kind == "no folder":
        path = path.parent / "missing" / "nfl.db"
    else:
        path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(Unavailable, match=r"nfl\.db") as caught:
        store_of(path, {"x": "INT"}).prepare()
    assert caught.value.loud
    assert caught.value.hint
