"""A store in memory that keeps the contract: for tests of what uses a store.

`MemoryDatabase` is the server: several `MemoryStore` objects may share one. It refuses rows as
its `refuse` says, and is away while `away` holds an error. A store calls `beat` where a real
one calls a server: raise or kill there to end a process at that step. About holes and gaps it
asks the ledger's own pure functions.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.batch import Batch, DeadLetter, Stored
from appliance.contracts import NO_RECORD, Hold, Hole
from appliance.errors import Rejected, Unavailable
from appliance.frame import RunEnd
from appliance.isolate import Insert, isolate
from appliance.stores.folding import (
    Account,
    FrameRow,
    GapRow,
    Size,
    cut,
    gap_of,
    holes_of,
    is_stored,
    reach,
)

Row = tuple[Any, ...]


@dataclass
class Run:
    """A run's row: up to which number everything is accounted for, and the sums of that."""

    source: str
    up_to: int = 0
    records: int = 0
    lost: int = 0
    sums: Size | None = (0, 0)
    end: RunEnd | None = None


@dataclass
class FoundGap:
    """A gap row of a hole."""

    run: bytes
    source: str
    cause: str
    row: GapRow


@dataclass
class Tables:
    """What is committed."""

    rows: list[Row] = field(default_factory=list)
    runs: dict[bytes, Run] = field(default_factory=dict)
    frames: dict[tuple[bytes, int], Stored] = field(default_factory=dict)
    ledger: dict[tuple[bytes, int], FrameRow] = field(default_factory=dict)
    dead: dict[tuple[bytes, int, int], DeadLetter] = field(default_factory=dict)
    gaps: list[tuple[bytes, str, int | None, int | None]] = field(default_factory=list)
    found: list[FoundGap] = field(default_factory=list)

    def copy(self) -> "Tables":
        """The same tables, to be changed; what is in them is never changed but replaced."""
        copies = {name: copy(getattr(self, name)) for name in Tables.__dataclass_fields__}
        copies["runs"] = {name: replace(run) for name, run in self.runs.items()}
        return Tables(**copies)

    def account(self, run: bytes) -> Account:
        """What is known of a run."""
        row, end = self.runs[run], self.runs[run].end
        return Account(
            run,
            row.source,
            row.up_to,
            row.sums,
            (end.number, (end.records, end.bytes)) if end else None,
            [self.ledger[name] for name in sorted(self.ledger) if name[0] == run],
            {key: gap.row for key, gap in self.gaps_of(run)},
        )

    def gaps_of(self, run: bytes) -> list[tuple[int, FoundGap]]:
        """The run's gaps that have numbers, by their places in `found`, sorted."""
        gaps = [(at, gap) for at, gap in enumerate(self.found) if gap.run == run and gap.row.span]
        return sorted(gaps, key=lambda pair: pair[1].row.span or (0, 0))

    def is_stored(self, run: bytes, number: int) -> bool:
        """The ledger's rule."""
        rows = {number} if (run, number) in self.frames else set()
        spans = [gap.row.span for _, gap in self.gaps_of(run) if gap.row.span]
        return is_stored(number, rows, self.runs[run].up_to, spans)


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
            for (run, number), batch in sorted(by_name.items()):
                _note_run_end(tables, batch)
                tables.runs.setdefault(run, Run(batch.source))
                if not tables.is_stored(run, number):
                    total = add(total, self._write(tables, batch, hold))
            self._commit(tables)
            return total

    def fold(self) -> list[Hole]:
        with self._database.lock:
            self._call()
            tables = self._database.tables.copy()
            for run in tables.runs:
                _fold_run(tables, run)
            self._commit(tables)
            accounts = map(tables.account, sorted(tables.runs))
            return [hole for one in accounts for hole in holes_of(one, one.up_to)]

    def give_up(self, holes: Sequence[Hole]) -> list[Hole]:
        with self._database.lock:
            self._call()
            tables = self._database.tables.copy()
            given_up = []
            for run in sorted({hole.run for hole in holes}):
                spans = {(hole.first, hole.last) for hole in holes if hole.run == run}
                found = holes_of(tables.account(run), tables.runs[run].up_to)
                given_up += [hole for hole in found if (hole.first, hole.last) in spans]
            for hole in given_up:
                gap = FoundGap(hole.run, hole.source, hole.cause, gap_of(hole))
                tables.found.append(gap)
                tables.runs[hole.run].lost += hole.records or 0
            self._commit(tables)
            return given_up

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
        size, before = (batch.records, batch.bytes), (batch.records_before, batch.bytes_before)
        row = FrameRow(batch.number, size, before, batch.hole, stored.lost)
        tables.ledger[batch.run, batch.number] = row
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


def _note_run_end(tables: Tables, batch: Batch) -> None:
    if batch.previous:
        run = tables.runs.setdefault(bytes.fromhex(batch.previous.run), Run(batch.source))
        if not run.end or run.end.number < batch.previous.number:
            run.end = batch.previous


def _fold_run(tables: Tables, name: bytes) -> None:
    run, account = tables.runs[name], tables.account(name)
    numbers = [frame.number for frame in account.frames]
    run.up_to, folded = reach(run.up_to, numbers, account.spans)
    run.sums = account.after().get(run.up_to)
    for frame in account.frames[: len(folded)]:
        run.records += frame.size[0]
        run.lost += tables.frames.pop((name, frame.number)).lost
        del tables.ledger[name, frame.number]
    for at, gap in tables.gaps_of(name):
        filled = [row for row in account.frames[: len(folded)] if gap.row.covers(row.number)]
        if filled:
            own, *others = cut(gap.row, filled)
            run.lost -= gap.row.lost - sum(piece.lost for piece in (own, *others))
            tables.found[at] = replace(gap, row=own)
            tables.found += [replace(gap, row=other) for other in others]


def add(one: Stored, other: Stored) -> Stored:
    """The sum of two counts."""
    names = Stored.__dataclass_fields__.keys() - {"refusal"}
    sums = {name: getattr(one, name) + getattr(other, name) for name in names}
    return Stored(**sums, refusal=other.refusal or one.refusal)
