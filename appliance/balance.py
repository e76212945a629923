"""The balance: every record that came in is stored, left out, lost or waiting, or it is named here.

The accounts of collectors, queue and ledger (accounts.py) are held against each other. A run is a
line of numbers, and everybody who speaks of a frame also says how many records the run had before
it. So `compare` walks along each run, from what the ledger has folded to the last frame that is
known of. A number that nobody holds, a sum that doesn't fit what lies before it, counts of the
ledger that don't add up: each is a `Difference` that says where it is.

    received = stored + filtered + dead + blank + lost + queued

`received` is the sum at the run's end, by the collector's counting; `lost` is the size of gaps
that have numbers, of holes that will be gaps as their collector knows, and of what the header of a
frame made again says it lacks. What never reached us was never counted: it is shown beside.

**Accounts are read one after the other while frames move**, always in the order note, spool,
queue, ledger, which is the way that frames go: one that moves meanwhile is seen twice, never not
at all, and then counts where it is last. Numbers above the note's are too young to be judged.
What can still seem to be missing (a lease that was given back, a run begun meanwhile) is there at
the next look; a real difference stays, so `Standing` keeps what was in every look.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter

from appliance.accounts import (
    COUNTS,
    PARTS,
    UNKNOWN,
    Accounts,
    Book,
    Handed,
    Recount,
    Rows,
    Waiting,
)
from appliance.contracts import Remark
from appliance.frame import RunEnd

SPANS_SAID_MAX = 5

Span = tuple[int, int]


# ── the result ──────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the accounts disagree, as a sentence; `hint` says what to do.

    `records`: how many more came in than are accounted for, None: nobody knows.
    """

    kind: str
    source: str
    text: str
    hint: str
    run: str = ""
    first: int = 0
    records: int | None = None

    @property
    def name(self) -> tuple[str, str, str, int]:
        """The same at each look, if it is the same."""
        return (self.kind, self.source, self.run, self.first)


@dataclass(slots=True)
class Line:
    """One source: what came in, and where it is.

    `spooled` is a part of `queued`. `in_hand` was not handed over yet, and isn't in the sum, nor is
    what never reached us: so many `stretches`, nobody knows of how many records.
    """

    received: int = 0
    stored: int = 0
    filtered: int = 0
    dead: int = 0
    blank: int = 0
    lost: int = 0
    queued: int = 0
    spooled: int = 0
    in_hand: int = 0
    stretches: int = 0

    @property
    def difference(self) -> int:
        """Records that came in and are nowhere; below 0: there are more than came in."""
        accounted = self.stored + self.filtered + self.dead + self.blank + self.lost
        return self.received - accounted - self.queued

    def add(self, other: "Line") -> None:
        """Add another line to this one."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


@dataclass(slots=True)
class Balance:
    """All sources, and what is wrong. `remarks` are worth saying, but no difference."""

    lines: dict[str, Line] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    recount: Recount | None = None

    @property
    def total(self) -> Line:
        """The sum of all sources."""
        total = Line()
        for line in self.lines.values():
            total.add(line)
        return total


class Standing:
    """Tells differences that stay from what only seems to be missing while frames move."""

    def __init__(self) -> None:
        self._names: set[tuple[str, str, str, int]] | None = None

    def look(self, found: Balance) -> None:
        """One more look; afterwards `found` has only the differences that every look had.

        If none of them was in every look, all stay: something is wrong, or too fast for us.
        """
        names = {one.name for one in found.differences}
        self._names = names if self._names is None else self._names & names
        stay = [one for one in found.differences if one.name in self._names]
        found.differences = stay or found.differences


# ── comparing ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _End:
    """By frame `number` the run had so many records, says `who`.

    `certain`: the frames up to there were handed over, so that somebody has to have them.
    """

    number: int
    records: int
    who: str
    certain: bool = True


@dataclass(slots=True)
class _Run:
    """All that anybody says of one run.

    Frames above `horizon` are too young to be judged; above `newest`, read last, there can be none.
    """

    run: str
    source: str
    book: Book
    waiting: dict[int, Rows] = field(default_factory=dict)
    holes: dict[int, str] = field(default_factory=dict)
    ends: list[_End] = field(default_factory=list)
    horizon: int | None = None
    note: Handed | None = None
    newest: int | None = None

    def judges(self, number: int) -> bool:
        return self.horizon is None or number <= self.horizon


def compare(accounts: Accounts) -> Balance:
    """Hold the accounts against each other."""
    balance = Balance(recount=accounts.recount)
    stored, dead = 0, dict[str, int]()
    for run in _Gathered(accounts).oldest_first():
        audit = _Audit(run)
        audit.walk()
        balance.lines.setdefault(run.source, Line()).add(audit.line())
        balance.differences += audit.differences
        balance.remarks += audit.remarks
        stored += audit.rows_stored
        dead[run.source] = dead.get(run.source, 0) + audit.rows_dead
    balance.lines = dict(sorted(balance.lines.items()))
    balance.remarks += _remarks(accounts)
    if accounts.recount:
        balance.differences += _recounted(accounts.recount, stored, dead)
    return balance


class _Gathered:
    """What is said of the same run, put together."""

    def __init__(self, accounts: Accounts) -> None:
        self._books = accounts.books
        self._runs: dict[str, _Run] = {}
        for run, book in accounts.books.items():
            self._of(run, book.source).holes |= book.holes
            self._ended(book.end, book.source, "what the ledger was told of the run's end")
        self._add_waiting(accounts.queued, QUEUED)
        self._add_waiting(accounts.spooled, SPOOLED)
        for source, state in accounts.states.items():
            known = _End(state.number, state.records, "the queue's own counts")
            self._of(state.run, source).ends.append(known)
        for note in accounts.handed:
            self._add_note(self._of(note.run, note.source), note)
            self._ended(note.previous, note.source, "the note's words on the run before")
        for note in accounts.handed_since:
            if note.run in self._runs:
                self._runs[note.run].newest = _newest(note)

    def oldest_first(self) -> list[_Run]:
        return [self._runs[run] for run in sorted(self._runs)]

    def _of(self, run: str, source: str) -> _Run:
        if run not in self._runs:
            self._runs[run] = _Run(run, source, self._books.get(run) or Book(source))
        return self._runs[run]

    def _ended(self, end: RunEnd | None, source: str, who: str) -> None:
        if end:
            self._of(end.run, source).ends.append(_End(end.number, end.records, who))

    def _add_waiting(self, waiting: Waiting, place: int) -> None:
        for run, source in waiting.sources.items():
            of_run = self._of(run, source)
            of_run.waiting[place] = waiting.frames[run]
            of_run.holes |= waiting.holes.get(run, {})
        for end, source in waiting.ends.items():
            self._ended(end, source, "the headers of a later run")

    @staticmethod
    def _add_note(run: _Run, note: Handed) -> None:
        run.note, newest = note, note.number
        run.ends.append(_End(newest, note.records, "the source's notes"))
        if note.in_hand is not None:
            newest += 1
            after = note.records + note.in_hand
            run.ends.append(_End(newest, after, "the source's notes", certain=False))
        run.horizon = run.newest = newest if note.firm else None
        if note.missing:
            run.holes[note.number + 1] = note.missing


FRAME, QUEUED, SPOOLED = 0, 1, 2  # where a frame is; the ledger's word goes first
GAP, END = -1, 3


class _Audit:
    """Walks along one run, from what is folded to its end, and says what doesn't fit.

    `at` and `records`: the frame that was reached, and the run's sum by then. `lacked`: what frames
    that were made again lack of it. Since the last certain sum: `open`, the numbers that nobody
    has, and `hides`, whether a gap of unknown size was passed. `hidden`: what such gaps hold, and
    what is known to be lost without a gap.
    """

    def __init__(self, run: _Run) -> None:
        book = run.book
        self.run = run
        self.differences: list[Difference] = []
        self.remarks: list[Remark] = []
        self.rows_stored, self.rows_dead = book.stored, book.dead
        self._gaps = [gap for gap in book.gaps if run.judges(gap[0])]
        self._firsts = [gap[0] for gap in self._gaps]
        self._found: dict[int, int] = {}  # frames that are in a gap, after all
        self._line = Line(0, *(getattr(book, part) for part in PARTS))
        self._at = book.up_to
        below = [gap for gap in self._gaps if gap[1] <= book.up_to]
        self._lacked = book.lacked - sum(row[2] for row in book.frames)
        self._records = book.records + self._lacked + book.refilled + sum(map(_missing, below))
        self._open: list[Span] = []
        self._hides = any(gap[2] == UNKNOWN for gap in below)
        self._hidden = 0

    def walk(self) -> None:
        """From the beginning to the end."""
        self._check_parts(self.run.book.up_to, "frames up to", _counts(self.run.book))
        if self.run.newest is not None and self._at > self.run.newest:
            self._is_ahead()
        if self.run.book.reached is not None:
            self._settle(self.run.book.reached, "the headers of its frames")
        for number, place, *rest in merge(*self._events(), key=itemgetter(0, 1)):
            if place == GAP:
                self._pass_gap(number, *rest)
            elif place == END:
                self._reach(number, *rest)
            else:
                self._meet(number, place, *rest)
        if self._open:  # and nobody knows a sum behind it
            self._is_adrift(None)

    def line(self) -> Line:
        """What the run adds to its source's line."""
        line, book = self._line, self.run.book
        line.received = self._records
        found = sum(self._found.values())
        in_gaps = sum(map(_missing, self._gaps)) + book.refilled + self._hidden
        line.lost = in_gaps + self._lacked - found
        note = self.run.note
        if note and note.in_hand is not None and self._at <= note.number:
            line.in_hand = note.in_hand
        line.stretches = book.stretches
        return line

    # ── what there is, in the order of numbers ──────────────────────────────────────────

    def _events(self) -> list[Iterator[tuple[int, ...]]]:
        """(number, what it is, …): gaps before frames, a frame's ledger row before others."""
        up_to = self.run.book.up_to
        gaps = ((gap[0], GAP, *gap[1:]) for gap in self._gaps if gap[1] > up_to)
        ends = sorted((end.number, index) for index, end in enumerate(self.run.ends))
        return [
            gaps,
            self._stored_frames(),
            self._waiting_frames(QUEUED),
            self._waiting_frames(SPOOLED),
            ((number, END, index) for number, index in ends if self.run.judges(number)),
        ]

    def _stored_frames(self) -> Iterator[tuple[int, ...]]:
        for number, before, lacks, *counts in self.run.book.frames:
            numbered = dict(zip(COUNTS, counts, strict=True))
            self.rows_stored += numbered["stored"]
            self.rows_dead += numbered["dead"]
            if self.run.judges(number):
                self._check_parts(number, "frame", counts)
                for part in PARTS:
                    setattr(self._line, part, getattr(self._line, part) + numbered[part])
                yield number, FRAME, before, counts[0], lacks

    def _waiting_frames(self, place: int) -> Iterator[tuple[int, ...]]:
        rows = self.run.waiting.get(place)
        for number, *rest in rows.in_order() if rows else ():
            if self.run.judges(number):
                yield number, place, *rest

    # ── steps ───────────────────────────────────────────────────────────────────────────

    def _pass_gap(self, first: int, last: int, records: int, recovered: int) -> None:
        self._leave_open(first - 1)
        self._at = last
        self._records += _missing((first, last, records, recovered))
        self._hides |= records == UNKNOWN

    def _meet(self, number: int, place: int, before: int, records: int, lacks: int) -> None:
        if self._is_in_gap(number):
            if number in self._found:
                return
            self._found[number] = records + lacks
        elif number > self._at:
            self._leave_open(number - 1)
            if before != UNKNOWN:
                self._settle(before, f"the sums before frame {number}")
            self._at = number
            self._records += records + lacks
        else:
            return  # stored, and still waiting to be forgotten
        self._lacked += lacks
        if place != FRAME:
            self._line.queued += records
            self._line.spooled += records if place == SPOOLED else 0

    def _reach(self, number: int, index: int) -> None:
        end = self.run.ends[index]
        if number > self._at and end.certain:
            self._leave_open(number)
        is_least = number < self._at and not self._open and end.records > self._records
        if number == self._at or is_least:  # of what is folded an earlier sum is the least there is
            self._settle(end.records, end.who)

    def _is_in_gap(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._gaps[at][1]

    def _leave_open(self, last: int) -> None:
        """Up to `last` nobody has these numbers."""
        if last > self._at:
            self._open.append((self._at + 1, last))
            self._at = last

    def _settle(self, records: int, who: str) -> None:
        """Here the run's sum is certain: what was left open has a size, or nothing is missing."""
        more, cause = records - self._records, self.run.holes.get(self._at + 1)
        if self._open and self._hides:
            self._is_adrift(None)
        elif self._open and more > 0 and cause:
            self._is_known_to_be_lost(more, cause)
        elif self._open and more > 0:
            self._is_adrift(more)
        elif self._hides and more > 0:
            self._hidden += more
        elif more:
            self._does_not_fit(more, who)
        self._records, self._open, self._hides = records, [], False

    # ── differences ─────────────────────────────────────────────────────────────────────

    def _is_known_to_be_lost(self, records: int, cause: str) -> None:
        """Its collector knows that these frames may never arrive, and has said why."""
        self._hidden += records
        self.remarks.append(
            Remark(
                f"{self._stretch}: {_are(records)} lost ({cause})",
                "nothing: a running instance makes a gap of it (see `gaps`)",
            )
        )

    @property
    def _stretch(self) -> str:
        return f"{_spans(self._open)} of run {self.run.run} (source {self.run.source})"

    def _say(self, kind: str, first: int, records: int | None, text: str, hint: str) -> None:
        run = self.run
        self.differences.append(Difference(kind, run.source, text, hint, run.run, first, records))

    def _is_adrift(self, records: int | None) -> None:
        self._say(
            "adrift",
            self._open[0][0],
            records,
            f"{self._stretch}: {_are(records)} in nobody's hands",
            "see `spool check`, and the queue's list of bad items; where nobody can have them any"
            " more, a running instance makes a gap of it (see `gaps`)",
        )

    def _does_not_fit(self, more: int, who: str) -> None:
        self._say(
            "sums",
            self._at,
            more,
            f"run {self.run.run} (source {self.run.source}), frame {self._at}: {who} say"
            f" {_number(abs(more))} {'more' if more > 0 else 'fewer'} than the frames up to there",
            "has somebody changed the ledger's tables, or the queue, by hand?",
        )

    def _is_ahead(self) -> None:
        run = self.run
        self._say(
            "ahead",
            run.book.up_to,
            None,
            f"the ledger has frames up to {run.book.up_to} of run {run.run}, the note of source"
            f" {run.source} knows of {run.newest}",
            "is the note an older copy? Stop the instance and move it away: a new run begins",
        )

    def _check_parts(self, number: int, what: str, counts: Sequence[int]) -> None:
        records, *parts = counts
        if records != sum(parts):
            said = " + ".join(f"{count:,} {part}" for count, part in zip(parts, PARTS, strict=True))
            self._say(
                "parts",
                number,
                records - sum(parts),
                f"the ledger's counts of run {self.run.run} (source {self.run.source}), {what}"
                f" {number}, don't add up: {_number(records)}, and {said}",
                "has somebody changed the ledger's tables by hand?",
            )


def _counts(book: Book) -> list[int]:
    return [getattr(book, name) for name in COUNTS]


def _newest(note: Handed) -> int | None:
    """The highest number that there can be; None: the note may be older than that."""
    return note.number + (note.in_hand is not None) if note.firm else None


def _missing(gap: Sequence[int]) -> int:
    return 0 if gap[2] == UNKNOWN else gap[2] - gap[3]


def _number(records: int) -> str:
    return f"{records:,} record{'' if records == 1 else 's'}"


def _are(records: int | None) -> str:
    if records is None:
        return "an unknown number of records is"
    return f"{_number(records)} {'is' if records == 1 else 'are'}"


def _spans(spans: Sequence[Span]) -> str:
    said = [f"{lo}" if lo == hi else f"{lo} to {hi}" for lo, hi in spans[:SPANS_SAID_MAX]]
    more = len(spans) - SPANS_SAID_MAX
    said += [f"{more} more stretches"] if more > 0 else []
    return f"frame{'' if said[0] == f'{spans[-1][1]}' else 's'} {', '.join(said)}"


# ── beside the walk ─────────────────────────────────────────────────────────────────────


def _remarks(accounts: Accounts) -> Iterator[Remark]:
    if accounts.queued.unreadable:
        yield Remark(
            f"{accounts.queued.unreadable} items in the queue can't be read as frames",
            "a subscriber sets them aside; see `a queue item is set aside` in docs/operations.md",
        )
    for note in accounts.handed:
        state = accounts.states.get(note.source)
        stands = state.number if state and state.run == note.run else 0
        may_be = not note.firm or note.run in accounts.spooled.frames
        if stands < note.number and not may_be and not (state and state.run > note.run):
            yield Remark(
                f"the queue stands at frame {stands} of source {note.source}, which had handed"
                f" over {note.number}: it has forgotten some",
                "what was stored by then is safe; the rest is named here, or is a gap already",
            )


def _recounted(recount: Recount, stored: int, dead: Mapping[str, int]) -> Iterator[Difference]:
    rows, table = recount.rows, recount.table
    if rows > stored or (rows < stored and not recount.rewrites):
        yield Difference(
            "table",
            "",
            f"table {table} has {rows:,} rows, the ledger says {stored:,} were stored",
            "has somebody else written or deleted rows? If nobody has, restore a backup of the"
            " whole database: table and ledger change together",
            records=stored - rows,
        )
    for source in sorted({*dead, *recount.dead}):
        letters, said = recount.dead.get(source, 0), dead.get(source, 0)
        if letters != said:
            yield Difference(
                "dead",
                source,
                f"there are {letters:,} dead letters of source {source}, the ledger says {said:,}",
                "dead letters that somebody deleted are missing here; the records are gone then",
                records=said - letters,
            )
