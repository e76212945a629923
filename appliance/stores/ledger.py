"""The ledger: how a store writes each frame once, whoever brings it how often.

The order of a storing transaction is the same for every database and lives here, on the tables
of tables.py; folding.py says what becomes of the ledger rows, and of numbers that are missing;
mysql.py and sqlite.py say how their database does the rest.

**A frame is stored iff it has a `frames` row, or its number ≤ `up_to` and no gap row covers it.**

`store` is one transaction: lock the runs' rows shared, then look, insert the ledger rows of the new
frames *first* and in the order (run, number), then the data, the dead letters, the gaps;
commit. Each part is there for a reason:

- The shared lock keeps `fold` away: else a frame that was looked up before a fold and written
  after it would be stored twice.
- The ledger rows go first and sorted: two holders of the same frames wait for each other at the
  first common row instead of deadlocking. The second one meets a duplicate key, rolls back
  and looks again; a duplicate key *there* is never about a record.
- A run's row is made in a transaction of its own, since a row just made can't be locked shared
  by others before it is committed.
- A duplicate of one of the user's own keys is what `on_duplicate` says: a dead letter, ignored
  (counted as filtered: the configuration leaves it out), or written over the row that is there
  (counted as stored). Ignoring is done by isolation too, never by the database: an INSERT IGNORE
  would swallow errors of data, and how many rows it took can't be told for sure.
- A savepoint goes before data: before some statements of it, or, while rows are refused, before
  each. After a refusal the transaction is set back to it, which proves that the transaction still
  exists: a database that had silently rolled back all of it would commit rows without their
  ledger rows.
- Only a small lease goes without: its ledger rows, rows and the commit are one thing for a server,
  which does them in this order and nothing behind a refusal. After one all is rolled back, and
  done again step by step. A server is asked twice then, where it was eight times: each question
  is a moment at which others get the processor. Behind a refusal the next lease goes step by
  step at once, since refusals come in masses.
- A frame that processes died with (see poison.py) is written row by row, each named before.
- Also inside a gap a frame gets its ledger row: the fold, which holds the run's row exclusively,
  cuts it out of the gap. Nobody else changes up_to or a gap's numbers.

How the run before ended, which every header tells, is written down before the transaction, once:
it can only make numbers known that are missing, never let a frame count as stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from appliance.batch import Batch, DeadLetter, Stored
from appliance.contracts import NO_RECORD, Hold, Hole
from appliance.errors import Rejected, Unavailable
from appliance.frame import Gap, RunEnd
from appliance.framing import REJECTED_BYTES_MAX
from appliance.isolate import Insert, isolate
from appliance.rows import PART_KEPT, utc_text
from appliance.stores.folding import FoldingStore, is_stored
from appliance.stores.tables import COUNTS, DUPLICATE, Row, Unrecognised, Writer

LOOKS_MAX = 100  # rounds of one store(); each needs another holder that has just committed
AT_ONCE_BYTES_MAX = 64 * 1024  # of bodies that are written without a savepoint
WRITTEN_BYTES_MAX = 1024 * 1024  # of bodies whose rows are text at the same time
REASON_CHARS_MAX = 1000
WORD_CHARS_MAX = 32


@dataclass(slots=True)
class LeftOut:
    """The rows of one batch that are not in the table: dead letters, and ignored duplicates."""

    dead: list[DeadLetter] = field(default_factory=list)
    ignored: int = 0


class LedgerStore(FoldingStore):
    """A store that keeps the ledger's promises on some SQL database."""

    _is_wary = False  # rows were refused the last time: a savepoint goes before each statement

    @cached_property
    def _run_ends(self) -> set[RunEnd]:
        """How runs ended, as far as this process knows it to be written down: one for each boot."""
        return set()

    @cached_property
    def _untold(self) -> dict[RunEnd, str]:
        """Ends that could not be written down yet, with their sources."""
        return {}

    def store(self, batches: Sequence[Batch]) -> Stored:
        """Commit all batches in one transaction with their ledger rows."""
        return self._store(batches, None)

    def store_one_by_one(self, batch: Batch, hold: Hold) -> Stored:
        """The same for one batch, row by row: `hold` names the record before each row."""
        return self._store([batch], hold)

    def fold(self) -> list[Hole]:
        """Fold ledger rows without a hole before them into their run's row; the holes."""
        self._tell_run_ends()
        return super().fold()

    def _store(self, batches: Sequence[Batch], hold: Hold | None) -> Stored:
        by_name = {(batch.run, batch.number): batch for batch in batches}
        ordered = [by_name[name] for name in sorted(by_name)]
        if not ordered:
            return Stored()
        self._note_run_ends(ordered)
        with self._session():
            for _ in range(LOOKS_MAX):
                stored = self._try_to_store(ordered, hold)
                if stored is not None:
                    return stored
            raise Unavailable(f"others stored the same frames at each of {LOOKS_MAX} looks")

    # ── storing ─────────────────────────────────────────────────────────────────────────

    def _try_to_store(self, batches: Sequence[Batch], hold: Hold | None) -> Stored | None:
        """One round of the transaction; None: nothing is written, look again."""
        up_to, known = self._lock_and_look(batches)
        unknown = {batch.run: batch.source for batch in batches if batch.run not in up_to}
        if unknown:
            self._query("ROLLBACK")
            self._make_runs(unknown)
            return None
        new = self._not_yet_stored(batches, up_to, known)
        is_small = sum(batch.bytes for batch in new) <= AT_ONCE_BYTES_MAX
        if hold is None and is_small and not self._is_wary:
            return self._store_at_once(new)
        if not self._claim(new):
            self._query("ROLLBACK")
            return None
        began = self._clock()
        stored = self._write(new, hold)
        rows_s = self._clock() - began
        self._query("COMMIT")
        return replace(stored, rows_s=rows_s)

    def _lock_and_look(
        self, batches: Sequence[Batch]
    ) -> tuple[dict[bytes, int], dict[bytes, set[int]]]:
        """Begin, lock the runs' rows against fold until the transaction ends, and only then look.

        Returns {run: up_to}, and of each run those of these frames that have a frames row.
        """
        numbers: dict[bytes, list[str]] = {}
        for batch in batches:
            numbers.setdefault(batch.run, []).append(str(batch.number))
        marks = ", ".join("?" * len(numbers))
        looks = [
            (
                f'SELECT "frame" FROM {self._frames} WHERE "run" = ?'
                f' AND "frame" IN ({", ".join(numbers[run])})',
                run,
            )
            for run in numbers
        ]
        _, runs, *rows = self._query_all(
            (self.BEGIN,),
            (
                f'SELECT "run", "up_to" FROM {self._runs} WHERE "run" IN ({marks})'
                f' ORDER BY "run"{self.SHARED}',
                *numbers,
            ),
            *looks,
        )
        known = [{int(number) for (number,) in found} for found in rows]
        return (
            {bytes(run): int(up_to) for run, up_to in runs},
            dict(zip(numbers, known, strict=True)),
        )

    def _make_runs(self, sources: Mapping[bytes, str]) -> None:
        """Make the rows of runs seen for the first time, each in its own transaction."""
        for run, source in sources.items():
            self._query(
                f'{self.INSERT_NEW} {self._runs} ("run", "source") VALUES (?, ?)', run, source
            )

    def _note_run_ends(self, batches: Sequence[Batch]) -> None:
        """Write down how the runs before these ended, unless this process has done so.

        Storing waits once for it, not again and again: somebody who vanished may hold that run's
        row for minutes. What could not be written down is tried again before each fold.
        """
        ends = {batch.previous: batch.source for batch in batches if batch.previous}
        new = ends.keys() - self._run_ends - self._untold.keys()
        self._untold |= {end: ends[end] for end in new}
        if new:
            self._tell_run_ends()

    def _tell_run_ends(self) -> None:
        if not self._untold:
            return
        try:
            with self._giving_way():
                for end, source in [*self._untold.items()]:
                    self._note_run_end(end, source)
                    self._run_ends.add(end)
                    del self._untold[end]
        except Unavailable:
            pass  # where the database is away, storing says so

    def _note_run_end(self, end: RunEnd, source: str) -> None:
        """The greatest number wins: a stale note may say less than what was handed over."""
        run = bytes.fromhex(end.run)
        known = self._query(f'SELECT "last" FROM {self._runs} WHERE "run" = ?', run)
        if not known:
            self._make_runs({run: source})
        if not known or known[0][0] is None or known[0][0] < end.number:
            self._query(
                f'UPDATE {self._runs} SET "last" = ?, "last_records" = ?, "last_bytes" = ?'
                ' WHERE "run" = ? AND ("last" IS NULL OR "last" < ?)',
                *(end.number, end.records, end.bytes, run, end.number),
            )

    def _not_yet_stored(
        self,
        batches: Sequence[Batch],
        up_to: Mapping[bytes, int],
        known: Mapping[bytes, set[int]],
    ) -> list[Batch]:
        """Those that the rule at the top of this file calls not stored."""
        lowest = {batch.run: batch.number for batch in reversed(batches)}  # they are sorted
        spans = {
            run: [gap.span for gap in self._gaps_of(run).values() if gap.span]
            for run, number in lowest.items()
            if number <= up_to[run]
        }
        return [
            one
            for one in batches
            if not is_stored(one.number, known[one.run], up_to[one.run], spans.get(one.run, ()))
        ]

    def _store_at_once(self, new: Sequence[Batch]) -> Stored | None:
        """Claim, write and commit in one go; None: something is refused, and nothing is written.

        There is no savepoint to go back to: all is rolled back. The next round goes step by step,
        and finds out what it was.
        """
        self._is_wary = True  # until nothing is refused
        try:
            with self._at_once():
                self._claim_rows(new)
                for _, writer in self._writers(new, None):
                    writer.insert_all()
                stored = self._write_beside(new, {})
                self._query("COMMIT")
        except Rejected:
            self._query("ROLLBACK")
            return None
        self._is_wary = False
        return stored

    def _claim(self, new: Sequence[Batch]) -> bool:
        """Insert the ledger rows; False if somebody else has one of the frames already."""
        try:
            self._claim_rows(new)
        except Rejected:
            return False
        return True

    def _claim_rows(self, new: Sequence[Batch]) -> None:
        self._insert("frames", [frame_row(batch) for batch in new])

    def _write(self, new: Sequence[Batch], hold: Hold | None) -> Stored:
        """Write what belongs to frames that are claimed; what is refused becomes dead letters."""
        refused = self._insert_data(new, hold)
        self._check_judgement(refused, sum(len(batch.rows) for batch in new))
        self._is_wary = bool(refused)
        return self._write_beside(new, refused)

    def _write_beside(self, new: Sequence[Batch], refused: Mapping[int, Rejected]) -> Stored:
        """Write what goes beside the rows, of which these are refused; what it adds up to."""
        left_out = by_batch(new, refused, self._on_duplicate == "ignore")
        for index, part in left_out.items():
            self._correct(new[index], part)
        letters = [
            (batch, letter)
            for index, batch in enumerate(new)
            for letter in (*batch.dead, *(left_out[index].dead if index in left_out else ()))
        ]
        self._insert("dead", [self._dead_row(*letter) for letter in letters])
        self._insert("gaps", [row for batch in new for row in gap_rows(batch)])
        total, ignored = sum_of(new), sum(part.ignored for part in left_out.values())
        return replace(
            total,
            stored=total.stored - len(refused),
            filtered=total.filtered + ignored,
            dead=len(letters),
            refusal=letters[-1][1] if letters else None,
        )

    def _insert_data(self, new: Sequence[Batch], hold: Hold | None) -> dict[int, Rejected]:
        """Insert into the user's table; returns the rows that are refused, by their index."""
        refused: dict[int, Rejected] = {}
        for first, writer in self._writers(new, hold):
            if not self._is_wary and self._is_taken_whole(writer):
                continue
            insert = self._guarded(writer.insert)
            for part in writer.parts:
                found = isolate(*part, insert)
                refused |= {first + index: reason for index, reason in found.items()}
        return refused

    def _check_judgement(self, refused: Mapping[int, Rejected], rows: int) -> None:
        """Refuse to bury rows where the database may have judged none of them.

        A row that passed, or was refused for a known reason, shows that rows are judged.
        """
        strange = [one for one in refused.values() if isinstance(one, Unrecognised)]
        if strange and len(strange) == rows:
            raise Unavailable(
                f"the database takes no row: {strange[0].message}",
                f"see whether table {self._table} still takes an INSERT",
                loud=True,
            ) from strange[0]

    def _writers(self, new: Sequence[Batch], hold: Hold | None) -> Iterator[tuple[int, Writer]]:
        """Writers of all rows, with the index of the first of each: one for some full statements.

        Each is made when it is its turn: the text of all rows would be as large as the lease.
        With `hold` one for each row, which isn't even made into a statement before it was named.
        """
        write = partial(
            self._writer,
            self._table,
            list(self._columns),
            update=self._on_duplicate == "update",
        )
        first = 0
        if hold is None:
            for group in grouped(new, WRITTEN_BYTES_MAX):
                yield first, write([batch.rows for batch in group])
                first += sum(len(batch.rows) for batch in group)
            return
        for batch in new:
            for index, position in enumerate(batch.positions):
                hold(position)
                yield first + index, write([batch.rows[index : index + 1]])
            first += len(batch.rows)
        hold(NO_RECORD)

    def _is_taken_whole(self, writer: Writer) -> bool:
        """Insert all rows of a writer behind one savepoint; False: one is refused, and none is in.

        From then on each statement gets a savepoint of its own, as long as there are refusals.
        """
        begin, end = ([self._turn[0]], [self._turn[1]]) if self._turn else ([], [])
        self._query_all(*begin, ("SAVEPOINT part",))
        try:
            writer.insert_all()
        except Rejected:
            self._query("ROLLBACK TO SAVEPOINT part")
            self._is_wary = True
        self._query_all(("RELEASE SAVEPOINT part",), *end)
        return not self._is_wary

    def _guarded(self, insert: Insert) -> Insert:
        """The same, with the transaction set back to where it was after a refusal.

        A savepoint that was gone back to still stands: a mass of refusals needs one.
        """
        stands = False

        def guarded(lo: int, hi: int) -> None:
            nonlocal stands
            if not stands:
                self._query("SAVEPOINT part")
            try:
                insert(lo, hi)
            except Rejected:
                self._query("ROLLBACK TO SAVEPOINT part")
                stands = True
                raise
            self._query("RELEASE SAVEPOINT part")
            stands = False

        return guarded

    def _correct(self, batch: Batch, left_out: LeftOut) -> None:
        """Say in the ledger row how many rows the database has refused."""
        self._query(
            f'UPDATE {self._frames} SET "stored" = ?, "filtered" = ?, "dead" = ?'
            ' WHERE "run" = ? AND "frame" = ?',
            len(batch.rows) - left_out.ignored - len(left_out.dead),
            batch.filtered + left_out.ignored,
            len(batch.dead) + len(left_out.dead),
            batch.run,
            batch.number,
        )

    def _dead_row(self, batch: Batch, letter: DeadLetter) -> Row:
        letter = self._fitting(letter)
        return (
            batch.run,
            batch.number,
            letter.position,
            batch.source,
            letter.raw,
            letter.code[:WORD_CHARS_MAX],
            letter.reason[:REASON_CHARS_MAX],
            utc_text(batch.first_received),
            utc_text(self._wall_clock()),
            None,
        )

    def _fitting(self, letter: DeadLetter) -> DeadLetter:
        """The letter, with its record whole: it may be retried one day.

        Unless the database can't take it, which happens to records that were queued under a
        larger record_bytes_max: then its beginning is kept, as of those that are over-long.
        """
        if len(letter.raw) <= self._letter_bytes_max():
            return letter
        raw = letter.raw[:REJECTED_BYTES_MAX]
        return replace(letter, raw=raw, reason=PART_KEPT + letter.reason)


# ── pure parts ──────────────────────────────────────────────────────────────────────────


def counts_of(batch: Batch) -> tuple[int, ...]:
    """A batch's counts in the order of COUNTS, before the database has refused anything."""
    lost = sum(gap.records or 0 for gap in batch.gaps)
    stored, dead = len(batch.rows), len(batch.dead)
    return (batch.records, stored, batch.filtered, dead, batch.blank, lost, batch.bytes)


def frame_row(batch: Batch) -> Row:
    """A batch's own row in the ledger."""
    before = (batch.records_before, batch.bytes_before)
    hole = batch.hole and batch.hole[:WORD_CHARS_MAX]
    return (batch.run, batch.number, *counts_of(batch), *span_of(batch), *before, hole)


def span_of(batch: Batch) -> tuple[str, str]:
    """When a batch's records were received, in the order of SPAN."""
    return utc_text(batch.first_received), utc_text(batch.last_received)


def gap_rows(batch: Batch) -> list[Row]:
    """A batch's gaps as rows. They have no numbers: the frame itself is stored."""
    run, source, span = batch.run, batch.source, span_of(batch)
    rest = (0, 0, None, None)  # nothing is recovered, and it has no place among numbers
    causes = [gap.cause[:WORD_CHARS_MAX] for gap in batch.gaps]
    return [
        (run, None, None, source, *_times(gap, span), cause, gap.records, gap.bytes, *rest)
        for gap, cause in zip(batch.gaps, causes, strict=True)
    ]


def _times(gap: Gap, span: tuple[str, str]) -> tuple[str, str]:
    """When a gap began and ended: while its frame was received, where it doesn't say."""
    began, ended = span
    return (
        began if gap.began is None else utc_text(gap.began),
        ended if gap.ended is None else utc_text(gap.ended),
    )


def grouped(batches: Sequence[Batch], bytes_max: int) -> Iterator[list[Batch]]:
    """Neighbours whose bodies are put together up to so many bytes; a larger one stays alone."""
    group: list[Batch] = []
    size = 0
    for batch in batches:
        if group and size + batch.bytes > bytes_max:
            yield group
            group, size = [], 0
        group.append(batch)
        size += batch.bytes
    if group:
        yield group


def by_batch(
    batches: Sequence[Batch], refused: Mapping[int, Rejected], ignore_duplicates: bool
) -> dict[int, LeftOut]:
    """What becomes of refused rows (counted through all batches), by the batch's index."""
    left_out: dict[int, LeftOut] = {}
    if not refused:
        return left_out
    places = [(at, row) for at, batch in enumerate(batches) for row in range(len(batch.rows))]
    for index, reason in sorted(refused.items()):
        at, row = places[index]
        batch, part = batches[at], left_out.setdefault(at, LeftOut())
        if ignore_duplicates and reason.code == DUPLICATE:
            part.ignored += 1
        else:
            part.dead.append(
                DeadLetter(batch.positions[row], batch.raws[row], reason.code, reason.message)
            )
    return left_out


def sum_of(batches: Sequence[Batch]) -> Stored:
    """What storing these batches adds up to, before the database has refused anything."""
    sums = [sum(column) for column in zip(*map(counts_of, batches), strict=True)]
    counts = dict(zip(COUNTS, sums or [0] * len(COUNTS), strict=True))
    return Stored(
        frames=len(batches),
        **{name: counts[name] for name in ("stored", "filtered", "dead", "blank", "lost")},
    )
