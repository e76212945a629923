"""Tables of an older version become ours, with all that is in them: killed in it, and by several.

The old tables are written down here as that version has made them.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.batch import DeadLetter, Stored
from appliance.errors import Unavailable
from appliance.stores.ledger import LedgerStore
from appliance.stores.mysql import MySQLStore
from appliance.stores.tables import SCHEMA, TABLES, Table
from tests.contract.test_gaps import CAUSE, end_of, gaps, sent, size_of, some
from tests.contract.test_store import (
    CALLS_MAX,
    LATER_RUN,
    RUN,
    At,
    Crash,
    ServerBench,
    SQLBench,
    SQLiteBench,
    crash,
    insist,
    made,
    no_beat,
    together,
)

COUNTS = ("records", "stored", "filtered", "dead", "blank", "lost", "bytes")
COUNTED = dict.fromkeys(COUNTS, "count") | {"first_received": "time", "last_received": "time"}
VERSION_1 = {
    "runs": Table({"run": "run", "source": "word", "up_to": "count"} | COUNTED, ("run",)),
    "frames": Table({"run": "run", "frame": "number"} | COUNTED, ("run", "frame")),
    "dead": Table(
        {"run": "run", "frame": "number", "position": "position", "source": "word", "raw": "raw"}
        | {"code": "word", "reason": "text", "dead_at": "time", "retried_at": "time"},
        ("run", "frame", "position"),
    ),
    "gaps": Table(
        {"gap": "serial", "run": "run", "first": "number or null", "last": "number or null"}
        | {"source": "word", "began_at": "time", "ended_at": "time", "cause": "word"}
        | {"records": "number or null", "bytes": "number or null", "recovered": "count"},
        index=("run", "first"),
    ),
    "meta": Table({"name": "word", "value": "value"}, ("name",)),
}
AT = "'2023-11-14 22:13:20.250000'"
FRAMES = sent(1, 2, 3, 4, 5, 6)  # of these the old version has stored 1, 2, 4 and 6


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def bench(request: pytest.FixtureRequest) -> Iterator[SQLBench]:
    for bench in made(request.param, request):
        assert isinstance(bench, SQLBench)
        yield bench


def make_old(bench: SQLBench) -> None:
    """Tables of version 1, with what it has stored."""
    store = bench.open()
    assert isinstance(store, LedgerStore)
    with store._session():
        for name, table in VERSION_1.items():
            store._query(f'DROP TABLE IF EXISTS "nfl_{name}"')
            store._make_ledger_table(f"nfl_{name}", table)
    bench.query("DELETE FROM records")
    run = f"X'{RUN.hex()}'"
    names = ", ".join(f"`{name}`" for name in COUNTED)

    def counted(*numbers: int) -> str:
        records, size = size_of(some(FRAMES, *numbers))
        return f"{records}, {records}, 0, 0, 0, 0, {size}, {AT}, {AT}"

    bench.query(
        f"INSERT INTO nfl_runs (run, source, up_to, {names})"
        f" VALUES ({run}, 'tweets', 2, {counted(1, 2)})"
    )
    for number in (4, 6):
        bench.query(
            f"INSERT INTO nfl_frames (run, frame, {names})"
            f" VALUES ({run}, {number}, {counted(number)})"
        )
    bench.query(
        "INSERT INTO nfl_dead (run, frame, position, source, raw, code, reason, dead_at)"
        f" VALUES ({run}, 2, 0, 'tweets', X'726177', 'json', 'why', {AT})"
    )
    bench.query(
        f"INSERT INTO nfl_gaps (run, source, cause, records) VALUES ({run}, 'tweets', 'cut', 7)"
    )
    bench.query("INSERT INTO nfl_meta VALUES ('store', X'616263'), ('schema', X'31')")


def version(bench: SQLBench) -> str:
    [(value,)] = bench.query("SELECT value FROM nfl_meta WHERE name = 'schema'")
    return bytes(value).decode()


def check_upgraded(bench: SQLBench) -> None:
    """All that was there is there, and the ledger works on it."""
    assert version(bench) == str(SCHEMA)
    store = bench.open()
    assert isinstance(store, LedgerStore)
    with store._session():
        for name, table in TABLES.items():
            assert store._columns_of(f"nfl_{name}") == {*table.columns}
        assert store._has_index("nfl_dead")
    assert store.identity() == "abc"
    assert bench.dead() == [(2, DeadLetter(0, b"raw", "json", "why"))]
    assert bench.gaps() == [("cut", 7, None)]
    assert store.store(some(FRAMES, 1, 2, 4, 6)) == Stored()
    later = replace(sent(1, run=LATER_RUN)[0], previous=end_of(FRAMES), hole="why")
    assert store.store([later]) == Stored(frames=1, stored=1)
    holes = store.fold()
    assert [(hole.first, hole.records, hole.records_before) for hole in holes] == [
        (3, None, 3),  # the size of what is before an old row nobody knows
        (5, None, None),
    ]
    assert store.give_up(holes) == holes
    assert store.store(some(FRAMES, 3)) == Stored(frames=1, stored=3)
    assert store.fold() == []
    assert gaps(bench)[0][:2] == (5, 5)
    assert gaps(bench)[1][:4] == (None, None, CAUSE, 3)
    assert store.store(FRAMES) == Stored(frames=1, stored=5)
    store.fold()
    assert (bench.up_to(), bench.folded()) == (6, 21)
    store.close()


def test_old_tables_are_brought_to_this_version(bench: SQLBench) -> None:
    make_old(bench)
    bench.open().prepare()
    check_upgraded(bench)
    bench.open().prepare()
    assert version(bench) == str(SCHEMA)


def test_check_says_so_and_changes_nothing(bench: SQLBench) -> None:
    make_old(bench)
    store = bench.open()
    assert isinstance(store, LedgerStore)
    said = [remark.text for remark in store.look()]
    assert said == [
        f"the ledger's tables nfl_… will be brought from version 1 to version {SCHEMA}",
        "its tables are there",
        "1 dead letters",
        "1 gaps: records that are missing",
    ]
    assert version(bench) == "1"
    with store._session():
        for name, table in VERSION_1.items():
            assert store._columns_of(f"nfl_{name}") == {*table.columns}
    store.prepare()
    assert not any("version" in remark.text for remark in store.look())


def die_at(bench: SQLBench, call: int) -> bool:
    """Whether `prepare` has so many calls, at which it dies here."""
    beat = At(call, crash)
    store = bench.open(beat)
    try:
        store.prepare()
    except Crash:
        pass
    store.close()
    assert version(bench) in ("1", str(SCHEMA))
    return beat.calls_left <= 0


def test_killed_again_and_again(bench: SQLBench) -> None:
    """Each one takes up where the one before was killed, and comes one call further."""
    make_old(bench)
    for call in range(1, CALLS_MAX):
        if not die_at(bench, call):
            check_upgraded(bench)
            return
    pytest.fail("it makes more calls than expected")


def test_killed_once_at_any_call(tmp_path: Path) -> None:
    bench = SQLiteBench(tmp_path)
    bench.open().prepare()
    for call in range(1, CALLS_MAX, 4):
        make_old(bench)
        died = die_at(bench, call)
        bench.open().prepare()
        check_upgraded(bench)
        if not died:
            return
    pytest.fail("it makes more calls than expected")


def test_several_at_once(bench: SQLBench) -> None:
    make_old(bench)

    def prepare() -> None:
        store = bench.open()
        insist(store.prepare)
        store.close()

    together(*[prepare] * 4)
    check_upgraded(bench)


def test_one_does_it_between_two_calls_of_another(bench: SQLBench) -> None:
    for call in range(1, CALLS_MAX, 20 if isinstance(bench, ServerBench) else 5):
        make_old(bench)
        beat = At(call, bench.open().prepare)
        bench.open(beat).prepare()
        if beat.calls_left > 0:
            check_upgraded(bench)
            return
        assert version(bench) == str(SCHEMA)
    pytest.fail("it makes more calls than expected")


def test_a_newer_version_is_left_alone(bench: SQLBench) -> None:
    make_old(bench)
    bench.query("UPDATE nfl_meta SET value = X'33' WHERE name = 'schema'")
    store = bench.open()
    assert isinstance(store, LedgerStore)
    for act in (store.prepare, store.look):
        with pytest.raises(Unavailable, match="have version 3") as caught:
            act()
        assert caught.value.loud
    with store._session():
        for name, table in VERSION_1.items():
            assert store._columns_of(f"nfl_{name}") == {*table.columns}


def test_tables_that_their_maker_left_unfinished(bench: SQLBench) -> None:
    """An old version died before it had said which version it makes."""
    make_old(bench)
    bench.query("DELETE FROM nfl_meta WHERE name = 'schema'")
    bench.query("DROP TABLE nfl_gaps")
    bench.open().prepare()
    assert version(bench) == str(SCHEMA)


def test_a_user_who_may_not_alter_is_told_what_to_run(
    bench: SQLBench, request: pytest.FixtureRequest
) -> None:
    if not isinstance(bench, ServerBench):
        pytest.skip("SQLite knows no rights")
    make_old(bench)
    user = f"'u{bench.database.name[-12:]}'@'%'"
    bench.query(f"CREATE USER {user} IDENTIFIED BY 'p'")
    request.addfinalizer(partial(bench.query, f"DROP USER {user}"))
    bench.query(
        f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {bench.database.name}.* TO {user}"
    )
    store = bench.make(no_beat)
    assert isinstance(store, MySQLStore)
    address: Any = replace(store._address, user=user.split("'")[1])
    store._address, store._password = address, "p"
    with pytest.raises(Unavailable, match="ALTER command denied") as caught:
        store.prepare()
    assert caught.value.loud
    for statement in caught.value.hint.rpartition("as another user: ")[2].split(";")[:-1]:
        bench.query(statement)
    store.prepare()
    store.close()
    check_upgraded(bench)
