"""Folding: up to which number each run is accounted for, and what is missing in it.

The ledger's rule (ledger.py) stands above all that is done here: a frame is stored iff it has a
`frames` row, or its number ≤ `up_to` and no gap row covers it. Whatever changes one of the three
holds the run's row exclusively, so that nobody stores a frame of this run meanwhile.

`fold` raises `up_to` over the frames rows that have no hole before them, adds their sums to the
run's row and deletes them. A frame that came after all, inside a gap, is cut out of the gap's
row. What is missing is SUM(records) - SUM(recovered) over all gap rows, where it is known.

Who stores frames of a run waits while it is locked for that. So nothing is looked up under the
lock that can be known before, and a fold goes in steps of STEP_FRAMES_MAX.

A *hole* is a stretch of numbers that nobody has brought, with something known behind it: a row,
or the run's last number, which a later run tells. `fold` only reports holes: their frames may
still wait somewhere. Who has seen that they don't lets `give_up` make a gap row of the hole.
That this was seen is comfort, the lock and the rule are safety: a gap that was declared too
early fills itself again.

How much is missing is the difference of the run's sums on both sides, which the collector
wrote into its headers: `records_before` of the row behind it, less the sums up to the number
before it. Each side is kept where it can be found: in the frames row; in `up_to_records` of
the run's row, once that is folded; in a gap's own row. NULL is unknown, never 0.

A hole of no records gets a gap row too, of 0 records: it counts nowhere as missing. Without the
row `up_to` would go over its numbers, and a frame without records that came late would be
refused: such a frame exists only because of what its header says, which is often a loss.
"""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace

from appliance.contracts import Hole
from appliance.stores.tables import COUNTS, Row, Span, Statement, TableStore, quoted_names

FOLD_FRAMES_MAX = 10_000  # frames folded by one call: what bounds its time
STEP_FRAMES_MAX = 250  # of them in one transaction, for which all who store wait
CAUSE = "queue lost"  # of a hole, where its collector has said nothing: it had been handed over

GAP_COLUMNS = (
    *("first", "last", "records", "bytes", "recovered", "recovered_bytes"),
    *("records_before", "bytes_before"),
)

FRAME_COLUMNS = quoted_names(
    ("frame", "records", "bytes", "records_before", "bytes_before", "hole", "lost")
)

Size = tuple[int, int]  # records, bytes
NO_SIZE: Size = (0, 0)


@dataclass(frozen=True, slots=True)
class FrameRow:
    """A frames row, as far as folding looks at it. `before`: the run's sums before the frame.

    `lost`: records that its collector had counted, but that nobody held any more when the frame
    was made again. (How many bytes they were its row doesn't say.)
    """

    number: int
    size: Size
    before: Size | None
    hole: str | None = None
    lost: int = 0

    def after(self, before: Size | None) -> Size | None:
        """The run's sums with this frame, behind those."""
        return plus(before, (self.size[0] + self.lost, self.size[1]))


@dataclass(frozen=True, slots=True)
class GapRow:
    """A gap row that has numbers, or had (span None: all of it came after all).

    `size` is what it was and `recovered` what of that came; `before` as in FrameRow.
    """

    span: Span | None
    size: Size | None
    recovered: Size
    before: Size | None

    @property
    def missing(self) -> Size | None:
        """What its numbers hold: recovered ones are no longer among them."""
        return difference(self.recovered, self.size)

    @property
    def lost(self) -> int:
        """Records that it counts among the run's lost ones."""
        return self.missing[0] if self.missing else 0

    @property
    def after(self) -> Size | None:
        """The run's sums with its frames."""
        return plus(self.before, self.missing)

    def covers(self, number: int) -> bool:
        """Whether a frame of this number is in the gap."""
        return self.span is not None and self.span[0] <= number <= self.span[1]


@dataclass(frozen=True, slots=True)
class Account:
    """All that the ledger knows of one run, at one moment.

    Attributes:
        sums: the run's sums at up_to.
        end: the run's last number and its sums then, if a later run has told them.
        frames: its frames rows, sorted; not `whole` when there are more of them.
        gaps: its gap rows with numbers by their keys, sorted.
    """

    run: bytes
    source: str
    up_to: int
    sums: Size | None
    end: tuple[int, Size] | None
    frames: Sequence[FrameRow]
    gaps: dict[int, GapRow]
    whole: bool = True

    @property
    def spans(self) -> list[Span]:
        """The numbers of its gaps."""
        return [gap.span for gap in self.gaps.values() if gap.span]

    @property
    def known_to(self) -> int:
        """The highest number that is known to exist: behind it there may be rows not read."""
        if not self.whole:
            return self.frames[-1].number
        ends = [span[1] for span in self.spans] + [frame.number for frame in self.frames]
        return max([self.up_to, self.end[0] if self.end else 0, *ends])

    def reach(self) -> tuple[int, list[int]]:
        """How far it is accounted for, and which of its frames are below (see `reach`)."""
        return reach(self.up_to, [frame.number for frame in self.frames], self.spans)

    def is_plain(self, up_to: int, some: Sequence[int]) -> bool:
        """Whether these frames just follow up_to, as far as the new one, and no gap is touched."""
        in_gaps = any(gap.covers(number) for gap in self.gaps.values() for number in some)
        return up_to == self.up_to + len(some) and not in_gaps

    def before(self) -> dict[int, Size]:
        """By number: the run's sums before it, where they are known."""
        found = {gap.span[0]: gap.before for gap in self.gaps.values() if gap.span}
        found |= {frame.number: frame.before for frame in self.frames}
        if self.end:
            found.setdefault(self.end[0] + 1, self.end[1])
        return {number: sums for number, sums in found.items() if sums}

    def after(self) -> dict[int, Size]:
        """By number: the run's sums with it, where they are known."""
        found = {self.up_to: self.sums}
        found |= {gap.span[1]: gap.after for gap in self.gaps.values() if gap.span and gap.after}
        for frame in self.frames:
            before = frame.before or found.get(frame.number - 1)
            found[frame.number] = frame.after(before) or found.get(frame.number)
        return {number: sums for number, sums in found.items() if sums}


class FoldingStore(TableStore):
    """A store that knows what of each run is accounted for."""

    def fold(self) -> list[Hole]:
        """Fold ledger rows without a hole before them into their run's row; the holes."""
        found: list[Hole] = []
        with self._giving_way():
            budget = FOLD_FRAMES_MAX
            for (run,) in self._query(
                f'SELECT DISTINCT "run" FROM {self._frames}'
                f' UNION SELECT "run" FROM {self._runs} WHERE "last" > "up_to" ORDER BY "run"'
            ):
                if budget > 0:
                    folded, holes = self._fold_run(run, budget)
                    budget -= folded
                    found += holes
        return found

    def give_up(self, holes: Sequence[Hole]) -> list[Hole]:
        """Make gaps of those holes that are still just these; the ones that are gaps now."""
        spans: dict[bytes, set[Span]] = {}
        for hole in holes:
            spans.setdefault(hole.run, set()).add((hole.first, hole.last))
        with self._giving_way():
            return [hole for run in sorted(spans) for hole in self._give_up_run(run, spans[run])]

    # ── one run, in a transaction of its own ────────────────────────────────────────────

    def _fold_run(self, run: bytes, frames_max: int) -> tuple[int, list[Hole]]:
        """Fold one run in steps; how many frames were folded, and the holes that are left."""
        folded = 0
        while folded < frames_max:
            room = min(frames_max - folded, STEP_FRAMES_MAX)
            following = self._fold_following(run, room)
            folded += following
            if following == room:
                continue
            account = self._account(run, frames_max - folded)
            up_to, some = account.reach()
            has_moved = up_to != account.up_to or some
            if not has_moved or (following and account.is_plain(up_to, some)):
                return folded, holes_of(account, up_to)  # what came since is for the next fold
            folded += max(1, self._fold_looking(run, min(max(1, len(some)), room)))
        return folded, []

    def _fold_following(self, run: bytes, frames_max: int) -> int:
        """Fold frames that follow up_to one behind the other, and lie in no gap; how many.

        It is seen before the run is locked that these frames are there, and holds still when it
        is: rows above up_to are taken away only by who folds, who raises up_to then, and a gap is
        made only of numbers that have no row. Others wait for few questions, and no row is read.
        """
        [[(up_to,)]] = self._query_all((f'SELECT "up_to" FROM {self._runs} WHERE "run" = ?', run))
        newest = self._newest_following(run, int(up_to), frames_max)
        if not newest or not newest.before:
            return 0
        first, last = int(up_to) + 1, newest.number
        _, [(up_to_now,)], [sums] = self._query_all(
            (self.BEGIN,),
            self._locked_up_to(run),
            self._sums_of(run, first, last),
        )
        if int(up_to_now) != first - 1:
            self._query("ROLLBACK")
            return 0
        self._query_all(
            self._added(run, sums),
            self._forgotten(run, first, last),
            self._moved(run, last, newest.after(newest.before), 0),
            ("COMMIT",),
        )
        return last - first + 1

    def _newest_following(self, run: bytes, up_to: int, frames_max: int) -> FrameRow | None:
        """The last frame that follows up_to so; None where one is missing, or lies in a gap."""
        those = f'FROM {self._frames} WHERE "run" = ? AND "frame" BETWEEN ? AND ?'
        values = (run, up_to + 1, up_to + frames_max)
        in_gaps = f'FROM {self._gaps} WHERE "run" = ? AND "last" >= ? AND "first" <= ?'
        [(count,)], newest, gaps = self._query_all(
            (f"SELECT COUNT(*) {those}", *values),
            (f'SELECT {FRAME_COLUMNS} {those} ORDER BY "frame" DESC LIMIT 1', *values),
            (f"SELECT 1 {in_gaps} LIMIT 1", *values),
        )
        [frame] = map(frame_row, newest) if newest else [None]
        return frame if frame and not gaps and frame.number == up_to + int(count) else None

    def _fold_looking(self, run: bytes, frames_max: int) -> int:
        """Fold so many frames at most, looking at each, and at the gaps; how many."""
        account = self._account(run, frames_max, locked=True)
        up_to, folded = account.reach()
        if not folded and up_to == account.up_to:
            self._query("ROLLBACK")
        else:
            self._move_up(account, up_to, account.frames[: len(folded)])
        return len(folded)

    def _give_up_run(self, run: bytes, spans: set[Span]) -> list[Hole]:
        account = self._account(run, FOLD_FRAMES_MAX, locked=True)
        found = holes_of(account, account.up_to)
        given_up = [hole for hole in found if (hole.first, hole.last) in spans]
        if not given_up:
            self._query("ROLLBACK")
            return []
        for hole in given_up:
            self._insert_gap(hole)
        self._query(
            f'UPDATE {self._runs} SET "lost" = "lost" + ? WHERE "run" = ?',
            sum(hole.records or 0 for hole in given_up),
            run,
        )
        self._query("COMMIT")
        return given_up

    def _account(self, run: bytes, frames_max: int, *, locked: bool = False) -> Account:
        """What is known of a run, with so many frames rows at most.

        `locked`: against everybody, until the transaction ends that begins here. Else what it says
        may be over before it has been read, and be of several moments: up_to is the oldest.
        """
        statements = [
            (
                'SELECT "source", "up_to", COALESCE("up_to_records", "records"),'
                ' COALESCE("up_to_bytes", "bytes"), "last", "last_records", "last_bytes"'
                f' FROM {self._runs} WHERE "run" = ?{self.EXCLUSIVE if locked else ""}',
                run,
            ),
            (
                f'SELECT {FRAME_COLUMNS} FROM {self._frames} WHERE "run" = ?'
                f' ORDER BY "frame" LIMIT {frames_max}',
                run,
            ),
            self._numbered_gaps(run),
        ]
        begin = [(self.BEGIN,)] if locked else []
        *_, [row], frames, gaps = self._query_all(*begin, *statements)
        source, up_to, *sums, last, last_records, last_bytes = row
        return Account(
            run,
            str(source),
            int(up_to),
            _size(*sums),
            None if last is None else (int(last), (int(last_records), int(last_bytes))),
            list(map(frame_row, frames)),
            dict(map(_gap, gaps)),
            len(frames) < frames_max,
        )

    def _locked_up_to(self, run: bytes) -> Statement:
        """Locks a run's row against everybody until the transaction ends, and tells up_to."""
        return (f'SELECT "up_to" FROM {self._runs} WHERE "run" = ?{self.EXCLUSIVE}', run)

    def _gaps_of(self, run: bytes) -> dict[int, GapRow]:
        """The run's gaps that have numbers, by their keys, in the order of their numbers."""
        return dict(map(_gap, self._query(*self._numbered_gaps(run))))

    def _numbered_gaps(self, run: bytes) -> Statement:
        return (
            'SELECT "gap", "first", "last", "records", "bytes", "recovered", "recovered_bytes",'
            f' "records_before", "bytes_before" FROM {self._gaps}'
            ' WHERE "run" = ? AND "first" IS NOT NULL ORDER BY "first"',
            run,
        )

    def _move_up(self, account: Account, up_to: int, folded: Sequence[FrameRow]) -> None:
        """Write down what is accounted for now, and commit it."""
        run = account.run
        found = self._cut_gaps(account, folded)
        if folded:
            last = folded[-1].number
            [sums] = self._query(*self._sums_of(run, 0, last))
            self._query_all(self._added(run, sums), self._forgotten(run, 0, last))
        self._query_all(
            self._moved(run, up_to, account.after().get(up_to), found),
            ("COMMIT",),
        )

    # ── statements of a fold: frames rows from number `first` to `last` ─────────────────

    def _sums_of(self, run: bytes, first: int, last: int) -> Statement:
        """What they add up to."""
        sums = ", ".join(f'SUM("{name}")' for name in COUNTS)
        return (
            f'SELECT {sums}, MIN("first_received"), MAX("last_received") FROM {self._frames}'
            ' WHERE "run" = ? AND "frame" BETWEEN ? AND ?',
            *(run, first, last),
        )

    def _added(self, run: bytes, sums: Row) -> Statement:
        """Adds their sums to the run's row."""
        counts, (begin, end) = [int(count) for count in sums[: len(COUNTS)]], sums[len(COUNTS) :]
        added = ", ".join(f'"{name}" = "{name}" + ?' for name in COUNTS)
        return (
            f"UPDATE {self._runs} SET {added},"
            ' "first_received" = CASE WHEN "first_received" <= ? THEN "first_received" ELSE ? END,'
            ' "last_received" = CASE WHEN "last_received" >= ? THEN "last_received" ELSE ? END'
            ' WHERE "run" = ?',
            *(*counts, begin, begin, end, end, run),
        )

    def _forgotten(self, run: bytes, first: int, last: int) -> Statement:
        """Deletes them."""
        return (
            f'DELETE FROM {self._frames} WHERE "run" = ? AND "frame" BETWEEN ? AND ?',
            *(run, first, last),
        )

    def _moved(self, run: bytes, up_to: int, sums: Size | None, found: int) -> Statement:
        """Raises up_to, with the run's sums there; so many records are no longer missing."""
        return (
            f'UPDATE {self._runs} SET "up_to" = ?, "up_to_records" = ?, "up_to_bytes" = ?,'
            ' "lost" = CASE WHEN "lost" > ? THEN "lost" - ? ELSE 0 END WHERE "run" = ?',
            *(up_to, *(sums or (None, None)), found, found, run),
        )

    # ── gaps ────────────────────────────────────────────────────────────────────────────

    def _insert_gap(self, hole: Hole) -> None:
        """A hole's row: it lasted from what came last before it to what came first behind it."""
        frame = f'FROM {self._frames} WHERE "run" = ? AND "frame" = ?'
        self._query(
            f"INSERT INTO {self._gaps} ({quoted_names(GAP_COLUMNS)},"
            ' "run", "source", "cause", "began_at", "ended_at")'
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
            f' COALESCE((SELECT "last_received" {frame}),'
            f' (SELECT "last_received" FROM {self._runs} WHERE "run" = ?)),'
            f' (SELECT "first_received" {frame}))',
            *_columns(gap_of(hole)),
            *(hole.run, hole.source, hole.cause),
            *(hole.run, hole.first - 1, hole.run, hole.run, hole.last + 1),
        )

    def _cut_gaps(self, account: Account, folded: Sequence[FrameRow]) -> int:
        """Cut frames that came after all out of their gaps; how many records fewer are lost."""
        fewer = 0
        for key, gap in account.gaps.items():
            filled = [frame for frame in folded if gap.covers(frame.number)]
            if filled:
                own, *others = cut(gap, filled)
                self._update_gap(key, own)
                for other in others:
                    self._insert_piece(key, other)
                fewer += gap.lost - sum(piece.lost for piece in (own, *others))
        return fewer

    def _update_gap(self, key: int, gap: GapRow) -> None:
        changes = ", ".join(f'"{name}" = ?' for name in GAP_COLUMNS)
        self._query(f'UPDATE {self._gaps} SET {changes} WHERE "gap" = ?', *_columns(gap), key)

    def _insert_piece(self, key: int, piece: GapRow) -> None:
        """A row for a piece that was cut off a gap."""
        same = quoted_names(("run", "source", "cause", "began_at", "ended_at"))
        self._query(
            f"INSERT INTO {self._gaps} ({quoted_names(GAP_COLUMNS)}, {same})"
            f' SELECT ?, ?, ?, ?, ?, ?, ?, ?, {same} FROM {self._gaps} WHERE "gap" = ?',
            *_columns(piece),
            key,
        )


# ── pure parts ──────────────────────────────────────────────────────────────────────────


def is_stored(number: int, rows: Container[int], up_to: int, gaps: Sequence[Span]) -> bool:
    """The ledger's rule. `rows`: the numbers, of those that are asked for, that have one."""
    in_a_gap = any(first <= number <= last for first, last in gaps)
    return number in rows or (number <= up_to and not in_a_gap)


def reach(up_to: int, frames: Sequence[int], holes: Sequence[Span]) -> tuple[int, list[int]]:
    """How far a run is accounted for: the new up_to, and which of the frames are below it.

    `frames` and `holes` (first, last) are sorted. Frames below up_to, and those inside a hole,
    came after all; the run goes on behind a hole that begins where it has ended.
    """
    folded: list[int] = []
    waiting = list(reversed(holes))
    for frame in (*frames, None):
        while waiting and waiting[-1][0] <= up_to + 1:
            up_to = max(up_to, waiting.pop()[1])
        if frame is None or frame > up_to + 1:
            break
        up_to = max(up_to, frame)
        folded.append(frame)
    return up_to, folded


def holes_of(account: Account, up_to: int) -> list[Hole]:
    """What nobody has brought of a run that is accounted for up to `up_to`."""
    after, before = account.after(), account.before()
    causes = {frame.number: frame.hole for frame in account.frames}
    spans = [*((frame.number, frame.number) for frame in account.frames), *account.spans]
    found = []
    for first, last in uncovered(up_to, sorted(spans), account.known_to):
        sums = after.get(first - 1)
        hole = Hole(account.run, account.source, first, last, causes.get(last + 1) or CAUSE)
        size = difference(sums, before.get(last + 1))
        if size:
            hole = replace(hole, records=size[0], bytes=size[1])
        if sums:
            hole = replace(hole, records_before=sums[0], bytes_before=sums[1])
        found.append(hole)
    return found


def gap_of(hole: Hole) -> GapRow:
    """The row that a hole gets when it is given up."""
    size, before = _size(hole.records, hole.bytes), _size(hole.records_before, hole.bytes_before)
    return GapRow((hole.first, hole.last), size, NO_SIZE, before)


def uncovered(up_to: int, spans: Sequence[Span], known_to: int) -> Iterator[Span]:
    """Numbers above up_to, as far as known_to, that none of the spans (sorted) covers."""
    for first, last in (*spans, (known_to + 1, known_to + 1)):
        end = min(first - 1, known_to)
        if up_to < end:
            yield up_to + 1, end
        up_to = max(up_to, last)


def cut(gap: GapRow, filled: Sequence[FrameRow]) -> list[GapRow]:
    """What becomes of a gap whose frames `filled` (sorted) came: its own row, then new ones.

    Each piece that is left has its own size, from the sums on both sides of it.
    """
    assert gap.span
    first, last = gap.span
    after = {first - 1: gap.before, **{frame.number: frame.after(frame.before) for frame in filled}}
    before = {last + 1: gap.after, **{frame.number: frame.before for frame in filled}}
    records, size = zip(gap.recovered, *(frame.size for frame in filled), strict=True)
    recovered = sum(records), sum(size)
    left = []
    for lo, hi in pieces(first, last, [frame.number for frame in filled]):
        missing = difference(after[lo - 1], before[hi + 1])
        left.append(GapRow((lo, hi), missing, NO_SIZE, after[lo - 1]))
    if not left:
        return [GapRow(None, recovered, recovered, gap.before)]
    own, *others = left
    return [GapRow(own.span, plus(own.size, recovered), recovered, own.before), *others]


def pieces(first: int, last: int, filled: Sequence[int]) -> Iterator[Span]:
    """What is left of first to last without the filled numbers (sorted, all inside)."""
    for number in (*filled, last + 1):
        if first < number:
            yield first, number - 1
        first = number + 1


def plus(sums: Size | None, size: Size | None) -> Size | None:
    """Sums with one size more; None: unknown."""
    return (sums[0] + size[0], sums[1] + size[1]) if sums and size else None


def difference(before: Size | None, after: Size | None) -> Size | None:
    """What lies between two sums; None where one is unknown, or they can't both be true."""
    if not before or not after:
        return None
    records, size = after[0] - before[0], after[1] - before[1]
    return (records, size) if records >= 0 and size >= 0 else None


def frame_row(row: Row) -> FrameRow:
    """A row of FRAME_COLUMNS."""
    number, records, size, *before, hole, lost = row
    return FrameRow(int(number), (int(records), int(size)), _size(*before), hole, int(lost))


def _gap(row: Row) -> tuple[int, GapRow]:
    """A gap's key, and what else is in its row."""
    gap, first, last, records, size, recovered, recovered_bytes, *before = row
    came = int(recovered), int(recovered_bytes)
    return int(gap), GapRow((int(first), int(last)), _size(records, size), came, _size(*before))


def _size(records: int | None, size: int | None) -> Size | None:
    return None if records is None or size is None else (int(records), int(size))


def _columns(gap: GapRow) -> tuple[int | None, ...]:
    """A gap's values in the order of GAP_COLUMNS."""
    nothing = (None, None)
    return (
        *(gap.span or nothing),
        *(gap.size or nothing),
        *gap.recovered,
        *(gap.before or nothing),
    )
