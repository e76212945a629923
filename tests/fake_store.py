"""A store in memory that keeps the contract: for tests of what uses a store.

`MemoryDatabase` is the server: several `MemoryStore` objects may share one. It refuses rows as
its `refuse` says, and is away while `away` holds an error. A store calls `beat` where a real
one calls a server: raise or kill there to end a process at that step.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.batch import Batch, DeadLetter, Stored
from appliance.contracts import NO_RECORD, Hold
from appliance.errors import Rejected, Unavailable
from appliance.isolate import Insert, isolate

Row = tuple[Any, ...]


@dataclass
class Run:
    """A run's row: up to which number everything is accounted for, and the sums of that."""

    source: str
    up_to: int = 0
    records: int = 0


@dataclass
class Tables:
    """What is committed."""

    rows: list[Row] = field(default_factory=list)
    runs: dict[bytes, Run] = field(default_factory=dict)
    frames: dict[tuple[bytes, int], Stored] = field(default_factory=dict)
    records: dict[tuple[bytes, int], int] = field(default_factory=dict)
    dead: dict[tuple[bytes, int, int], DeadLetter] = field(default_factory=dict)
    gaps: list[tuple[bytes, str, int | None, int | None]] = field(default_factory=list)

    def copy(self) -> "Tables":
        """The same for a transaction to change: all but a run's row is never changed in place."""
        runs = {name: replace(run) for name, run in self.runs.items()}
        return Tables(
            [*self.rows], runs, {**self.frames}, {**self.records}, {**self.dead}, [*self.gaps]
        )


def refuse_nothing(_row: Row) -> Rejected | None:
    """The rule of a table without constraints."""


class MemoryDatabase:
    """Tables, a lock for one transaction at a time, and what goes wrong."""

    def __init__(self, refuse: Callable[[Row], Rejected | None] = refuse_nothing) -> None:
        self.tables = Tables()
        self.refuse = refuse
        self.away: Unavailable | None = None
        self.lock = threading.Lock()
        self.identity = uuid.uuid4().hex


class MemoryStore:
    """The Store contract over a MemoryDatabase."""

    def __init__(self, database: MemoryDatabase, beat: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._beat = beat

    def prepare(self) -> None:
        self._call()

    def identity(self) -> str:
        self._call()
        return self._database.identity

    def store(self, batches: Sequence[Batch]) -> Stored:
        return self._store(batches, None)

    def store_one_by_one(self, batch: Batch, hold: Hold) -> Stored:
        return self._store([batch], hold)

    def _store(self, batches: Sequence[Batch], hold: Hold | None) -> Stored:
        with self._database.lock:
            self._call()
            tables = self._database.tables.copy()
            total = Stored()
            by_name = {(batch.run, batch.number): batch for batch in batches}
            for name, batch in sorted(by_name.items()):
                run = tables.runs.setdefault(batch.run, Run(batch.source))
                if batch.number > run.up_to and name not in tables.frames:
                    total = add(total, self._write(tables, batch, hold))
            self._commit(tables)
            return total

    def fold(self) -> None:
        with self._database.lock:
            self._call()
            tables = self._database.tables.copy()
            for name, run in tables.runs.items():
                while (name, run.up_to + 1) in tables.frames:
                    run.up_to += 1
                    del tables.frames[name, run.up_to]
                    run.records += tables.records.pop((name, run.up_to))
            self._commit(tables)

    def close(self) -> None:
        """Nothing is held open."""

    def _call(self) -> None:
        self._beat()
        if self._database.away is not None:
            raise self._database.away

    def _commit(self, tables: Tables) -> None:
        self._call()
        self._database.tables = tables
        self._beat()

    def _write(self, tables: Tables, batch: Batch, hold: Hold | None) -> Stored:
        self._call()

        def insert(lo: int, hi: int) -> None:
            for row in batch.rows[lo:hi]:
                if reason := self._database.refuse(row):
                    raise reason
            tables.rows += batch.rows[lo:hi]

        refused = self._isolate(batch, insert, hold)
        letters = batch.dead + [
            DeadLetter(batch.positions[at], batch.raws[at], reason.code, reason.message)
            for at, reason in refused.items()
        ]
        for letter in letters:
            tables.dead[batch.run, batch.number, letter.position] = letter
        tables.gaps += [(batch.run, gap.cause, gap.records, gap.bytes) for gap in batch.gaps]
        stored = Stored(
            frames=1,
            stored=len(batch.rows) - len(refused),
            filtered=batch.filtered,
            dead=len(letters),
            blank=batch.blank,
            lost=sum(gap.records or 0 for gap in batch.gaps),
            refusal=letters[-1] if letters else None,
        )
        tables.frames[batch.run, batch.number] = stored
        tables.records[batch.run, batch.number] = batch.records
        return stored

    def _isolate(self, batch: Batch, insert: Insert, hold: Hold | None) -> dict[int, Rejected]:
        if hold is None:
            return isolate(0, len(batch.rows), insert)
        refused: dict[int, Rejected] = {}
        for at, position in enumerate(batch.positions):
            hold(position)
            self._beat()
            refused |= isolate(at, at + 1, insert)
        hold(NO_RECORD)
        return refused


def add(one: Stored, other: Stored) -> Stored:
    """The sum of two counts."""
    names = Stored.__dataclass_fields__.keys() - {"refusal"}
    sums = {name: getattr(one, name) + getattr(other, name) for name in names}
    return Stored(**sums, refusal=other.refusal or one.refusal)
