"""The ledger's books, over every SQL store: the truth of one moment, and nothing is changed."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import balance
from appliance.accounts import COUNTS, UNKNOWN, Accounts, Book, Handed, Recount, Waiting
from appliance.batch import Batch, DeadLetter
from appliance.errors import Unavailable
from appliance.frame import Gap, Header, RunEnd
from appliance.stores import books
from appliance.stores.mysql import MySQLStore
from appliance.stores.sqlite import SQLiteStore
from tests.contract.test_store import BAD, COLUMNS, RUN, At, Beat, SQLBench, batch, made, no_beat

LETTER = DeadLetter(0, b"x", "json", "no")
CALLS_MAX = 60  # no store makes more calls to read what is stored here


@pytest.fixture(params=["sqlite", "mariadb", "mysql"])
def bench(request: pytest.FixtureRequest) -> Iterator[SQLBench]:
    for one in made(request.param, request):
        assert isinstance(one, SQLBench)
        yield one


def store_of(bench: SQLBench, beat: Beat = no_beat) -> SQLiteStore | MySQLStore:
    store = bench.open(beat)
    assert isinstance(store, SQLiteStore | MySQLStore)
    return store


def content(found: dict[str, Book]) -> dict[str, object]:
    """Books that can be compared."""
    return {
        run: (
            [getattr(book, name) for name in ("source", "up_to", *COUNTS, "reached", "end")],
            [*book.frames],
            book.holes,
            [*book.gaps],
            (book.refilled, book.lacked, book.stretches),
        )
        for run, book in found.items()
    }


def everything(bench: SQLBench) -> object:
    tables = ("records", *(f"nfl_{name}" for name in ("runs", "frames", "dead", "gaps", "meta")))
    return {name: bench.query(f"SELECT * FROM {name}") for name in tables}


def test_what_the_ledger_says(bench: SQLBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "PAGE_ROWS", 2)
    store = store_of(bench)
    lacking = replace(batch(2, 4, BAD, 5, filtered=2), gaps=(Gap("cut", 3), Gap("gone")))
    store.store([batch(1, 1, 2, 3, blank=1, dead=[LETTER]), lacking])
    store.fold()
    late = [replace(batch(n, n), records_before=n * 10) for n in (4, 5, 6)]
    store.store([*late, replace(batch(9, 9), records_before=90, hole="killed")])
    run = f"X'{RUN.hex()}'"
    for first, last, records, recovered in (
        (7, 8, 20, 0),
        (3, 3, "NULL", 0),
        ("NULL", "NULL", 6, 6),
    ):
        bench.query(
            "INSERT INTO nfl_gaps (run, first, last, source, cause, records, recovered)"
            f" VALUES ({run}, {first}, {last}, 'tweets', 'gone', {records}, {recovered})"
        )
    bench.query(
        "UPDATE nfl_runs SET up_to_records = 33, last = 9, last_records = 95, last_bytes = 7"
        f" WHERE run = {run}"
    )
    before = everything(bench)
    assert content(store.books()) == {
        RUN.hex(): (
            ["tweets", 2, 10, 5, 2, 2, 1, 33, RunEnd(RUN.hex(), 9, 95, 7)],
            [(n, n * 10, 0, 1, 1, 0, 0, 0) for n in (4, 5, 6, 9)],
            {9: "killed"},
            [(3, 3, UNKNOWN, 0), (7, 8, 20, 0)],
            (0, 3, 1),
        )
    }
    assert everything(bench) == before


def test_where_no_ledger_is_yet(bench: SQLBench) -> None:
    for name in ("records", "nfl_runs", "nfl_frames", "nfl_dead", "nfl_gaps", "nfl_meta"):
        bench.query(f"DROP TABLE {name}")
    for recount in (False, True):
        found, counted = store_of(bench).books_and_recount(recount=recount)
        assert found == {}
        assert counted == (Recount("records", 0, {}) if recount else None)
    bench.query("CREATE TABLE records (n BIGINT)")
    bench.query("INSERT INTO records VALUES (1)")
    assert store_of(bench).books_and_recount(recount=True) == ({}, Recount("records", 1, {}))


def test_tables_of_another_version(bench: SQLBench) -> None:
    for version, hint in (("1", "run drain"), ("99", "a newer one")):
        bench.query(
            f"UPDATE nfl_meta SET value = X'{version.encode().hex()}' WHERE name = 'schema'"
        )
        with pytest.raises(Unavailable, match=f"version {version}") as caught:
            store_of(bench).books()
        assert hint in caught.value.hint


def test_no_file_is_made(tmp_path: Path) -> None:
    store = SQLiteStore(str(tmp_path / "none.db"), "nfl", "records", {})
    assert store.books_and_recount(recount=True) == ({}, Recount("records", 0, {}))
    assert not [*tmp_path.iterdir()]


def test_all_of_it_is_of_one_moment(bench: SQLBench) -> None:
    """Somebody stores and folds between any two of its statements."""
    writer = bench.open()
    number = 0

    def more() -> None:
        nonlocal number
        writer.store([batch(number + 1, 1, 2), batch(number + 3, 3)])
        writer.fold()
        writer.store([batch(number + 2, 4)])
        number += 3

    more()
    for call in range(1, CALLS_MAX):
        beat, moments = At(call, more), [4 * frames // 3 for frames in (number, number + 3)]
        found, recount = store_of(bench, beat=beat).books_and_recount(recount=True)
        assert recount
        book = found[RUN.hex()]
        assert recount.rows == book.stored + sum(row[4] for row in book.frames)
        assert recount.rows in moments
        if beat.calls_left > 0:
            return
    raise AssertionError("it never ended without an interruption")


def test_the_tables_are_counted(bench: SQLBench) -> None:
    store = store_of(bench)
    store.store([batch(1, 1, 2, BAD, 3, dead=[LETTER])])
    other = replace(batch(1, BAD, run=bytes(16)), source="log")
    store.store([other])
    dead = {"tweets": 2, "log": 1}
    assert store.books_and_recount(recount=True)[1] == Recount("records", 3, dead)
    bench.query("DELETE FROM records WHERE n = 2")
    bench.query("UPDATE nfl_dead SET retried_at = '2026-01-01' WHERE source = 'log'")
    assert store.books_and_recount(recount=True)[1] == Recount("records", 2, {"tweets": 2})


@pytest.mark.parametrize("name", ['why"not', "what?", "100%s"])
def test_a_table_of_any_name_is_counted(bench: SQLBench, name: str) -> None:
    store = store_of(bench)
    store._table = name
    store.prepare()
    store.store([batch(1, 1, 2)])
    assert store.books_and_recount(recount=True)[1] == Recount(name, 2, {})


# ── the real ledger, whatever happens to it ─────────────────────────────────────────────

STEPS = st.lists(
    st.tuples(st.sampled_from(["store", "lose", "fold", "give up"]), st.integers(0, 7))
)
SIZES = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 0, 5])), max_size=8)


@settings(max_examples=25, deadline=None)
@given(SIZES, STEPS)
def test_the_balance_knows_what_the_ledger_does(
    sizes: list[tuple[int, int]], steps: list[tuple[str, int]]
) -> None:
    """Frames are stored in any order, some never; holes are given up too early, and fill again."""
    sums = [0]
    for records, lacks in sizes:
        sums.append(sums[-1] + records + lacks)
    frames = [
        replace(
            batch(number, *range(1, records + 1)),
            records_before=sums[number - 1],
            gaps=(Gap("connection lost", lacks),) if lacks else (),
        )
        for number, (records, lacks) in enumerate(sizes, 1)
    ]
    waiting, gone = dict(enumerate(frames)), set[int]()
    with TemporaryDirectory() as folder:
        store = SQLiteStore(f"{folder}/nfl.db", "nfl", "records", COLUMNS)
        store.prepare()
        for step, at in steps:
            match step:
                case "store" if at in waiting:
                    store.store([waiting.pop(at)])
                case "lose" if at in waiting:
                    del waiting[at]
                    gone.add(at + 1)
                case "fold":
                    store.fold()
                case "give up":
                    store.give_up(store.fold())
            found = balance_of(store, waiting.values(), len(sizes), sums[-1])
            [book] = store.books().values() or [Book("tweets")]
            given_up = {n for first, last, *_ in book.gaps for n in range(first, last + 1)}
            missing = sum(sum(sizes[number - 1]) for number in gone - given_up)
            assert found.total.difference == missing
            assert {one.kind for one in found.differences} == ({"adrift"} if missing else set())
        store.close()


def balance_of(
    store: SQLiteStore, waiting: Iterable[Batch], number: int, records: int
) -> balance.Balance:
    """What an audit would say of it."""
    queued = Waiting()
    queued.add(
        Header(
            RUN.hex(), one.number, "tweets", one.records, one.records_before, 0, 0, 0, 1.0, 2.0,
            gaps=one.gaps,
        )
        for one in waiting
    )  # fmt: skip
    handed = [Handed("tweets", RUN.hex(), number, records)]
    return balance.compare(Accounts(handed, Waiting(), {}, queued, store.books()))
