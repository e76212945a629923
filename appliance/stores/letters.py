"""Dead letters: counted, listed, read, and tried again.

A dead letter is a record of a frame that is stored, and is named by its place there for ever:
RUN:FRAME:POSITION. It is *open* until `retried_at` is set. The ledger counts it as dead exactly
as long, so records = stored + filtered + dead + blank holds at every instant.

`retry` is one transaction: lock the run's row exclusively, read the letters that are still open,
have rows made of them as table and configuration are now, insert these as storing does it, mark
what is settled, move its counts; commit. So each letter becomes one row, whoever retries it how
often and dies where:

- The lock keeps out a second retry, which would read the same letters as open, and the fold, which
  moves the counts of a frame from its own row into the run's.
- A frame that comes again finds itself stored, as ever: neither its name nor its row changes.

Memory stays bounded whatever their number: letters are gone through in pages of one run each,
limited in number and bytes; what is over-long for that goes alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from itertools import groupby
from typing import Any, NamedTuple

from appliance.batch import Batch, DeadLetter
from appliance.rows import PART_KEPT, REASONS, is_incomplete, utc_text
from appliance.stores.ledger import REASON_CHARS_MAX, WORD_CHARS_MAX, LedgerStore, LeftOut, by_batch
from appliance.stores.tables import Row, time_text

PAGE_LETTERS_MAX = 500  # at once; SQLite takes at most 1000 terms joined by OR
PAGE_BYTES_MAX = 4 * 1024 * 1024  # of their records
BEGINNING_BYTES = 200  # of a record, where only a look at it is wanted
ANY = "1 = 1"
RUN_DIGITS = 32  # hex digits of a run's id

COLUMNS = (
    '"run", "frame", "position", "source", "code", "reason",'
    ' "received_at", "dead_at", "retried_at", LENGTH("raw")'
)
OLDER = (  # than the one with this dead_at (twice), and this name
    ' AND "dead_at" <= ? AND ("dead_at" < ? OR "run" < ? OR ("run" = ? AND'
    ' ("frame" < ? OR ("frame" = ? AND "position" < ?))))'
)

Raw = bytes  # Letter has a field that is called bytes


class Name(NamedTuple):
    """Which record it was, for ever."""

    run: bytes
    frame: int
    position: int

    @property
    def text(self) -> str:
        """RUN:FRAME:POSITION."""
        return f"{self.run.hex()}:{self.frame}:{self.position}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter, or its beginning.

    Attributes:
        raw: the record, or its first BEGINNING_BYTES.
        bytes: the length of the record as it is kept.
        received_at, dead_at, retried_at: UTC, as utc_text writes it; retried_at None: still dead.
    """

    name: Name
    source: str
    code: str
    reason: str
    received_at: str
    dead_at: str
    retried_at: str | None
    bytes: int
    raw: Raw

    @property
    def incomplete(self) -> bool:
        """Whether this is only a part of the record that was sent."""
        return is_incomplete(self.code, self.reason)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which of the open letters are meant; None: whatever it is.

    Attributes:
        since: died then or later, in seconds since the epoch.
        names: only these.
        incomplete: those, too, of whose record there is only a part.
        without: codes that are left out.
    """

    source: str | None = None
    code: str | None = None
    since: float | None = None
    names: tuple[Name, ...] | None = None
    incomplete: bool = True
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of letters that were tried again; `gone` were no longer open."""

    stored: int = 0
    filtered: int = 0
    blank: int = 0
    dead: int = 0
    gone: int = 0

    def __add__(self, other: "Retried") -> "Retried":
        return Retried(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    @property
    def settled(self) -> int:
        """How many are dead no longer."""
        return self.stored + self.filtered + self.blank


Remake = Callable[[Sequence[Letter]], Sequence[Batch]]
"""Makes batches of letters of one run: one for each frame, in the order of their names."""


class Letters(LedgerStore):
    """The dead letters of a store."""

    def count_letters(self, wanted: Wanted) -> dict[str, int]:
        """How many there are of each code, the most frequent first."""
        condition, values = _condition(wanted)
        counts: dict[str, int] = {}
        with self._session():
            for names in _portions(wanted.names):
                rows = self._query(
                    f'SELECT "code", COUNT(*) FROM {self._dead}'
                    f' WHERE {condition} AND {_among(names)} GROUP BY "code"',
                    *values,
                )
                for code, number in rows:
                    counts[code] = counts.get(code, 0) + int(number)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def newest_letters(self, wanted: Wanted) -> Iterator[Letter]:
        """The beginnings of letters, those that died last first."""
        condition, values = _condition(wanted)
        last: Letter | None = None
        while True:
            with self._session():
                rows = self._query(
                    f'SELECT {COLUMNS}, SUBSTR("raw", 1, {BEGINNING_BYTES})'
                    f" FROM {self._dead} WHERE {condition}{'' if last is None else OLDER}"
                    ' ORDER BY "dead_at" DESC, "run" DESC, "frame" DESC, "position" DESC'
                    f" LIMIT {PAGE_LETTERS_MAX}",
                    *values,
                    *([] if last is None else _older(last)),
                )
            letters = [_letter(row) for row in rows]
            yield from letters
            if len(letters) < PAGE_LETTERS_MAX:
                return
            last = letters[-1]

    def letter_pages(self, wanted: Wanted) -> Iterator[list[Name]]:
        """The names of letters in their order, in pages that are read and retried as one."""
        for names in _portions(wanted.names):
            for run in self._runs_with_letters(wanted, names):
                after = Name(run, 0, -1)
                while page := self._page(wanted, names, after):
                    yield page
                    after = page[-1]

    def read_letters(self, names: Sequence[Name]) -> list[Letter]:
        """These letters, whole, those too that were retried with success."""
        with self._session():
            return self._read(names)

    def runs_of_letters(self, digits: str) -> list[bytes]:
        """Runs that have, or had, dead letters and whose hex digits begin with these."""
        first, last = (bytes.fromhex(digits.ljust(RUN_DIGITS, end)) for end in "0f")
        with self._session():
            rows = self._query(
                f'SELECT DISTINCT "run" FROM {self._dead} WHERE "run" >= ? AND "run" <= ?',
                first,
                last,
            )
        return sorted(bytes(run) for (run,) in rows)

    def retry_letters(self, names: Sequence[Name], remake: Remake, *, keep: bool = True) -> Retried:
        """Try letters of one run again, in one transaction; unless `keep`, it is rolled back."""
        [run] = {name.run for name in names}
        with self._giving_way():
            self._query_all((self.BEGIN,), self._locked_up_to(run))
            letters = [letter for letter in self._read(names) if letter.retried_at is None]
            retried = self._retry(run, letters, remake(letters))
            self._query("COMMIT" if keep else "ROLLBACK")
        return retried + Retried(gone=len(names) - len(letters))

    # ── reading ─────────────────────────────────────────────────────────────────────────

    def _runs_with_letters(self, wanted: Wanted, names: Sequence[Name] | None) -> list[bytes]:
        condition, values = _condition(wanted)
        with self._session():
            rows = self._query(
                f'SELECT DISTINCT "run" FROM {self._dead}'
                f' WHERE {condition} AND {_among(names)} ORDER BY "run"',
                *values,
            )
        return [bytes(run) for (run,) in rows]

    def _page(self, wanted: Wanted, names: Sequence[Name] | None, after: Name) -> list[Name]:
        """Letters behind this one, of its run: as many as are handled at once."""
        condition, values = _condition(wanted)
        with self._session():
            rows = self._query(
                f'SELECT "frame", "position", LENGTH("raw") FROM {self._dead}'
                f" WHERE {condition} AND {_among(names)}"
                ' AND "run" = ? AND "frame" >= ? AND ("frame" > ? OR "position" > ?)'
                f' ORDER BY "run", "frame", "position" LIMIT {PAGE_LETTERS_MAX}',
                *values,
                *(after.run, after.frame, after.frame, after.position),
            )
        page: list[Name] = []
        size = 0
        for frame, position, length in rows:
            size += int(length)
            if page and size > PAGE_BYTES_MAX:
                break
            page.append(Name(after.run, int(frame), int(position)))
        return page

    def _read(self, names: Sequence[Name]) -> list[Letter]:
        rows = self._query(
            f'SELECT {COLUMNS}, "raw" FROM {self._dead}'
            f' WHERE {_among(names)} ORDER BY "run", "frame", "position"'
        )
        return [_letter(row) for row in rows]

    # ── trying again ────────────────────────────────────────────────────────────────────

    def _retry(self, run: bytes, letters: Sequence[Letter], batches: Sequence[Batch]) -> Retried:
        """Store what can be stored now, and write down what became of each letter."""
        refused = by_batch(
            batches, self._insert_data(batches, None), self._on_duplicate == "ignore"
        )
        parts = [refused.get(index, LeftOut()) for index in range(len(batches))]
        dead = {
            Name(run, batch.number, letter.position): letter
            for batch, part in zip(batches, parts, strict=True)
            for letter in (*batch.dead, *part.dead)
        }
        moved = {
            batch.number: Retried(
                stored=len(batch.rows) - part.ignored - len(part.dead),
                filtered=batch.filtered + part.ignored,
                blank=batch.blank,
            )
            for batch, part in zip(batches, parts, strict=True)
        }
        self._settle([letter.name for letter in letters if letter.name not in dead])
        self._move_counts(run, moved)
        for letter in letters:
            if letter.name in dead and not letter.incomplete:  # that stays worth knowing
                self._correct_reason(letter, dead[letter.name])
        return sum(moved.values(), Retried(dead=len(dead)))

    def _settle(self, names: Sequence[Name]) -> None:
        if names:
            self._query(
                f'UPDATE {self._dead} SET "retried_at" = ? WHERE {_among(names)}',
                utc_text(self._wall_clock()),
            )

    def _correct_reason(self, letter: Letter, now: DeadLetter) -> None:
        code, reason = now.code[:WORD_CHARS_MAX], now.reason[:REASON_CHARS_MAX]
        if (code, reason) != (letter.code, letter.reason):
            self._query(
                f'UPDATE {self._dead} SET "code" = ?, "reason" = ? WHERE {_among([letter.name])}',
                code,
                reason,
            )

    def _move_counts(self, run: bytes, moved: Mapping[int, Retried]) -> None:
        """Count letters as what they are now: in their frame's row, or where it was folded."""
        moved = {frame: counts for frame, counts in moved.items() if counts.settled}
        if not moved:
            return
        listed = ", ".join(map(str, moved))
        rows = self._query(
            f'SELECT "frame" FROM {self._frames} WHERE "run" = ? AND "frame" IN ({listed})', run
        )
        unfolded = {int(frame) for (frame,) in rows}
        for frame in unfolded:
            self._move(self._frames, run, f' AND "frame" = {frame}', moved[frame])
        folded = sum((moved[frame] for frame in moved.keys() - unfolded), Retried())
        if folded.settled:
            self._move(self._runs, run, "", folded)

    def _move(self, table: str, run: bytes, more: str, counts: Retried) -> None:
        """Move counts of dead letters in one row of the ledger, whose sum stays what it is."""
        changes = [f'"{name}" = "{name}" + ?' for name in ("stored", "filtered", "blank")]
        self._query(
            f'UPDATE {table} SET "dead" = "dead" - ?, {", ".join(changes)} WHERE "run" = ?{more}',
            *(counts.settled, counts.stored, counts.filtered, counts.blank, run),
        )


# ── pure parts ──────────────────────────────────────────────────────────────────────────


def _condition(wanted: Wanted) -> tuple[str, list[Any]]:
    """What is wanted as a condition in SQL, but for the names; and its values."""
    terms: list[tuple[str, list[Any]]] = [('"retried_at" IS NULL', [])]
    if wanted.source is not None:
        terms.append(('"source" = ?', [wanted.source]))
    if wanted.code is not None:
        terms.append(('"code" = ?', [wanted.code]))
    if wanted.since is not None:
        terms.append(('"dead_at" >= ?', [utc_text(wanted.since)]))
    terms += [('"code" <> ?', [code]) for code in wanted.without]
    if not wanted.incomplete:
        terms += [('NOT ("code" = ? AND "reason" = ?)', [*item]) for item in REASONS.items()]
        terms.append(('"reason" NOT LIKE ?', [f"{PART_KEPT}%"]))
    values = [value for _, part in terms for value in part]
    return " AND ".join(term for term, _ in terms), values


def _among(names: Sequence[Name] | None) -> str:
    """A condition in SQL: one of these letters; None is any."""
    if names is None:
        return ANY
    terms = [
        f'("run" = X\'{run.hex()}\' AND "frame" = {frame} AND "position" IN'
        f" ({', '.join(str(name.position) for name in part)}))"
        for (run, frame), part in groupby(names, key=lambda name: name[:2])
    ]
    return f"({' OR '.join(terms)})"


def _portions(names: Sequence[Name] | None) -> Iterator[Sequence[Name] | None]:
    """The names that are wanted, in their order, as many at once as a statement takes."""
    if names is None:
        yield None
        return
    ordered = sorted(set(names))
    for first in range(0, len(ordered), PAGE_LETTERS_MAX):
        yield ordered[first : first + PAGE_LETTERS_MAX]


def _letter(row: Row) -> Letter:
    run, frame, position, source, code, reason, received, dead, retried, size, raw = row
    return Letter(
        Name(bytes(run), int(frame), int(position)),
        source,
        code,
        reason,
        time_text(received) or time_text(dead) or "",
        time_text(dead) or "",
        time_text(retried),
        int(size),
        bytes(raw),
    )


def _older(last: Letter) -> tuple[Any, ...]:
    run, frame, position = last.name
    return (last.dead_at, last.dead_at, run, run, frame, frame, position)
