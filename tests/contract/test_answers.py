"""What a database refuses: every answer about a record, produced for real.

The cases are a table (tests/error_cases.py); here they run over every kind of server, then refused
records stand at every position of a frame, in masses, and among others. MariaDB answers once
more as everything goes in bulk (stores/bulk.py), which else takes more rows than these cases have.
"""

from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.batch import Stored
from appliance.config import Column
from appliance.stores import bulk
from tests import error_cases
from tests.database_server import DatabaseServer
from tests.error_cases import CASES, Case, batch_of
from tests.sql_server import SQLDatabase, SQLServer, empty_database

COLUMNS = {
    "n": Column(type="BIGINT", path="n"),
    "x": Column(type="VARCHAR(3) NOT NULL", path="x"),
    "small": Column(type="TINYINT CHECK (small <> 13)", path="small"),
    "raw": Column(type="LONGTEXT", path=""),
}
KINDS = {  # what is refused, with which codes it may be
    "good": (b'{"n": %d, "x": "abc"}', ()),
    "null": (b'{"n": %d}', ("null",)),
    "long": (b'{"n": %d, "x": "abcd"}', ("too long",)),
    "range": (b'{"n": %d, "x": "", "small": 128}', ("range",)),
    "check": (b'{"n": %d, "x": "", "small": 13}', ("check",)),
    "json": (b'{"n": %d, ', ("json",)),
    "utf8": (b'{"n": %d, "x": "\xff"}', ("utf8",)),
}
MIXTURES = st.lists(st.sampled_from(list(KINDS)), max_size=60)
MASS = 10_000
LENGTH = 9  # records of a frame in which each position is tried


class Stream:
    """Frames of records of these kinds, one after the other, into one table."""

    def __init__(self, database: SQLDatabase) -> None:
        self._database = database
        self._store = database.store(COLUMNS)
        self._store.prepare()
        self._frames, self._numbers = count(1), count(1)

    def send(self, kinds: Sequence[str]) -> None:
        """Store a frame; each refused record must be a dead letter, all others rows."""
        frame = next(self._frames)
        records = [KINDS[kind][0] % next(self._numbers) for kind in kinds]
        batch = batch_of(frame, records, COLUMNS)
        stored, dead = kinds.count("good"), len(kinds) - kinds.count("good")
        assert self._store.store([batch]) == Stored(1, stored, dead=dead)
        rows = self._database.run("SELECT raw FROM records ORDER BY seq")
        letters = self._database.dead()
        for table in ("records", "nfl_dead"):
            self._database.run(f"TRUNCATE {table}")
        assert [raw.encode() for (raw,) in rows] == [
            raw for raw, kind in zip(records, kinds, strict=True) if kind == "good"
        ]
        assert [letter[:4] for letter in letters] == [
            (frame, position, raw, code)
            for position, (raw, kind) in enumerate(zip(records, kinds, strict=True))
            for code in KINDS[kind][1]
        ]
        assert all(reason for *_, reason in letters)
        assert self._store.store([batch]) == Stored()


@pytest.fixture(scope="module")
def stream(sql_server: SQLServer) -> Iterator[Stream]:
    """One table for many frames."""
    with empty_database(sql_server) as database:
        yield Stream(database)


@pytest.fixture
def all_in_bulk(monkeypatch: pytest.MonkeyPatch) -> None:
    """As few rows as there may be go in bulk, too."""
    monkeypatch.setattr(bulk, "ROWS_MIN", 1)


# ── one record ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_record_is_refused(sql_database: SQLDatabase, case: Case) -> None:
    if case.answer_of(sql_database.server.flavour) is None:
        pytest.skip(f"{sql_database.server.flavour} has no such thing")
    error_cases.check(sql_database, case)


@pytest.mark.usefixtures("all_in_bulk")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_record_is_refused_among_some_in_bulk(mariadb: DatabaseServer, case: Case) -> None:
    if case.answer_of(mariadb.flavour) is None:
        pytest.skip(f"{mariadb.flavour} has no such thing")
    with empty_database(mariadb) as database:
        error_cases.check(database, case)


# ── many ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "good"])
def test_at_every_position_of_a_frame(stream: Stream, kind: str) -> None:
    for at in range(LENGTH):
        stream.send(["good"] * at + [kind] + ["good"] * (LENGTH - at - 1))
        stream.send([kind] * at + ["good"] + [kind] * (LENGTH - at - 1))
    stream.send([kind] * LENGTH)
    stream.send([kind])
    stream.send([kind, "good"] * LENGTH)


@given(MIXTURES)
@settings(max_examples=60, deadline=None)
def test_any_mixture(stream: Stream, kinds: list[str]) -> None:
    stream.send(kinds)


@pytest.mark.usefixtures("all_in_bulk")
def test_any_mixture_in_bulk(mariadb: DatabaseServer) -> None:
    with empty_database(mariadb) as database:
        stream = Stream(database)

        @given(MIXTURES)
        @settings(max_examples=60, deadline=None)
        def check(kinds: list[str]) -> None:
            stream.send(kinds)

        check()


def test_ten_thousand_in_a_row(stream: Stream) -> None:
    stream.send(["good", *["long"] * MASS, "good"])
    stream.send(["good"] * 3)
