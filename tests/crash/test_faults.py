"""An error at the N-th call, for every N, and one more in what comes of it: the promises hold.

Each call of a life is struck alone: before it had an effect, and after it, if it has any. Then
pairs are tried, not the whole square: the second strike comes at each of the WINDOW calls behind
the first, where the recovery from that is; of calls that come again and again behind the same other
one, the first is taken; the ways take turns.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.batch import Batch
from appliance.config import Column
from appliance.errors import Unavailable
from appliance.frame import Frame, Header, RunEnd, checksum
from appliance.rows import RowMaker
from appliance.stores.tables import TABLES
from tests.crash.faults import (
    AFTER,
    ASKING,
    BEFORE,
    Strikes,
    Struck,
    StruckDialled,
    StruckFileWorld,
    StruckSQLite,
    StruckTcp,
    StruckUnix,
    System,
)

WINDOW = 8  # calls behind a strike at which the second one comes
Plan = Mapping[int, str]

KINDS = [StruckTcp, StruckUnix, StruckFileWorld]
BURSTS = [
    b"".join(b"first %d\n" % n for n in range(10)) + b"half of ",
    b"a record\n" + b"".join(b"second %d\n" % n for n in range(10)),
    b"".join(b"third %d\n" % n for n in range(10)),
    b"fourth\nthe unfinished last line",
]
SENT = sorted(b"".join(BURSTS).split(b"\n"))


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """Calls to the system are counted."""
    logging.disable()  # thousands of lives say the same
    yield System(tmp_path, monkeypatch)
    logging.disable(logging.NOTSET)


def single_plans(names: Sequence[str]) -> Iterator[Plan]:
    for at, name in enumerate(names):
        yield {at: BEFORE}
        if name not in ASKING:
            yield {at: AFTER}


def double_plans(names: Sequence[str], company_max: int = 2) -> Iterator[Plan]:
    company: set[tuple[str, ...]] = set()
    for at in range(len(names)):
        here = tuple(names[max(0, at + 1 - company_max) : at + 1])
        if here in company:
            continue
        company.add(here)
        for behind in range(1, WINDOW + 1):
            how = (BEFORE, AFTER) if (len(company) + behind) % 2 else (AFTER, BEFORE)
            yield {at: how[0], at + behind: how[behind // 2 % 2]}


# ── the whole pipe ──────────────────────────────────────────────────────────────────────


def play(kind: type[Struck], directory: Path, system: System, plan: Plan) -> list[str]:
    """A calm life, an outage of Redis, a replay, an end; what was called in it."""
    for leftover in directory.rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    world = kind(directory, system, plan)
    try:
        world.send(BURSTS[0])
        world.collect()
        world.store()
        world.break_queue("away")
        for burst in BURSTS[1:3]:
            world.send(burst)
            world.collect()
        world.mend_queue()
        world.collect()
        world.store()
        world.send(BURSTS[3])
        world.end()
        world.collect()
        world.store()
        world.kill_collector()  # the next one replays what could not be removed
        world.collect()
        world.store()
    finally:
        world.close()
    check(world, directory, plan)
    return world.strikes.names


def check(world: Struck, directory: Path, plan: Plan) -> None:
    names = world.strikes.names
    hit = [(at, how, names[at]) for at, how in sorted(plan.items()) if at < len(names)]
    assert sorted(world.stored()) == sorted([*SENT, *world.behind]), hit
    assert {cause for _run, cause, *_size in world.gaps} <= {*world.absences}, hit
    assert (world.missing, world.dead) == ([], []), hit
    assert (world.spooled, [*world.redis.working], world.redis.busy) == ([], [], {}), hit
    assert not [*directory.glob("beginnings/*")], hit


@pytest.mark.parametrize("kind", [*KINDS, StruckDialled])
def test_an_error_at_every_call(kind: type[Struck], tmp_path: Path, system: System) -> None:
    names = play(kind, tmp_path, system, {})
    assert {"queue, col", "queue, sub", "store store", "mmap", "spool pwritev"} < {*names}
    for plan in single_plans(names):
        play(kind, tmp_path, system, plan)


@pytest.mark.parametrize("kind", KINDS)
def test_another_error_in_what_comes_of_it(
    kind: type[Struck], tmp_path: Path, system: System
) -> None:
    for plan in double_plans(play(kind, tmp_path, system, {})):
        play(kind, tmp_path, system, plan)


def crash(directory: Path, system: System, plan: Plan) -> list[str]:
    """A file, frames in queue and spool, and then the machine is another boot's."""
    for leftover in directory.rglob("*"):
        if leftover.is_file():
            leftover.unlink()
    world = StruckFileWorld(directory, system, plan)
    try:
        world.send(BURSTS[0])
        world.collect()
        world.break_queue("away")
        world.send(BURSTS[1])
        world.collect()
        world.mend_queue()
        world.crash()
        world.send(BURSTS[2])
        world.collect()
        world.store()
        world.send(BURSTS[3])
        world.end()
        world.collect()
        world.store()
    finally:
        world.close()
    check(world, directory, plan)
    return world.strikes.names


def test_errors_around_a_crash_of_the_machine(tmp_path: Path, system: System) -> None:
    names = crash(tmp_path, system, {})
    for plan in (*single_plans(names), *double_plans(names, 1)):
        crash(tmp_path, system, plan)


# ── the real ledger ─────────────────────────────────────────────────────────────────────

OLD, NEW = "01" * 16, "02" * 16  # two runs
MEMORY = "file:ledger?mode=memory&cache=shared"
TRIES_MAX = 10
COLUMNS = {"raw": Column(type="TEXT", path="")}


def batch(run: str, number: int, previous: RunEnd | None = None) -> Batch:
    """Frame `number` of a run: as many records as its number says."""
    body = b"".join(b"%d of %d\n" % (n, number) for n in range(number))
    header = Header(
        run=run,
        number=number,
        source="s",
        records=number,
        records_before=number * (number - 1) // 2,
        bytes_before=7 * number * (number - 1) // 2,
        body_bytes=len(body),
        crc=checksum(body),
        first_received=1.0,
        last_received=2.0,
        previous=previous,
    )
    return RowMaker(COLUMNS, "text", (), "s").batch(Frame(header, body))


END = RunEnd(OLD, 7, 28, 7 * 28)


def keep_accounts(store: StruckSQLite, persist: Callable[[Callable[[], Any]], Any]) -> None:
    """Frames out of order and twice, holes that become gaps, one that is filled again."""
    persist(store.prepare)
    persist(store.identity)
    persist(lambda: store.store([batch(OLD, 1), batch(OLD, 2)]))
    persist(store.fold)
    persist(lambda: store.store([batch(OLD, 2), batch(OLD, 6)]))
    persist(lambda: store.give_up(persist(store.fold)))
    persist(lambda: store.store([batch(NEW, 1, END)]))
    persist(lambda: store.give_up(persist(store.fold)))
    persist(lambda: store.store([batch(OLD, 4), batch(OLD, 6)]))
    persist(store.fold)


def ledger_of(plan: Plan) -> tuple[list[str], dict[str, list[Any]]]:
    """What was called, and what is in the tables in the end."""
    strikes = Strikes(plan)
    anchor = sqlite3.connect(MEMORY, uri=True)  # as long as it is open the database stays
    store = StruckSQLite(MEMORY, "p", "records", COLUMNS)
    store.strikes = strikes

    def persist(act: Callable[[], Any]) -> Any:
        for _ in range(TRIES_MAX):
            try:
                with strikes.armed():
                    return act()
            except Unavailable:
                pass
        raise AssertionError("it is never well again")

    try:
        keep_accounts(store, persist)
        tables = {name: f"p_{name}" for name in TABLES if name != "meta"} | {"rows": "records"}
        return strikes.names, {
            name: sorted(map(str, anchor.execute(f"SELECT * FROM {table}").fetchall()))
            for name, table in tables.items()
        }
    finally:
        store.close()
        anchor.close()


def test_the_ledger_is_the_same_whatever_statement_fails() -> None:
    names, calm = ledger_of({})
    assert len(calm["rows"]) == 1 + 2 + 4 + 6 + 1
    for plan in (*single_plans(names), *double_plans(names, 5)):
        assert ledger_of(plan)[1] == calm, plan
