"""The balance: any history adds up, wherever its frames are; whatever is taken away is named.

Histories are made frame by frame, and the accounts of them as each party would have written them
down. The truth of a history is summed up here, from its frames.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from appliance.accounts import COUNTS, UNKNOWN, Accounts, Book, Handed, Recount, Rows, Waiting
from appliance.balance import Balance, Difference, Standing, compare
from appliance.contracts import SourceState
from appliance.frame import Gap, Header, RunEnd, encode_header

OLD, RUN, LATER = ("0190c0de" + digit * 24 for digit in "0ab")
ROW, FOLDED, QUEUED, SPOOLED, GAP, LATE_ROW, LATE_QUEUED, LATE_FOLDED = [
    "row",
    "folded",
    "queued",
    "spooled",
    "gap",
    "late-row",
    "late-queued",
    "late-folded",
]
STORED = {ROW, FOLDED, LATE_ROW, LATE_FOLDED}
IN_GAP = {GAP, LATE_ROW, LATE_QUEUED, LATE_FOLDED}


@dataclass
class Frame:
    """One frame of a history. `lacks`: records that were counted but are in no frame."""

    counts: tuple[int, int, int, int]  # stored, filtered, dead, blank
    place: str
    lacks: int = 0
    tells: bool = False  # in its header of something that never reached us
    number: int = 0
    before: int = 0
    still_queued: bool = False  # stored, but not confirmed yet

    @property
    def records(self) -> int:
        return sum(self.counts)


@dataclass
class History:
    """One run: its frames, how far it is folded, whether a frame is in hand."""

    frames: list[Frame]
    up_to: int = 0
    in_hand: int | None = None
    firm: bool = True
    run: str = RUN
    source: str = "tweets"
    gone: set[int] = field(default_factory=set)  # numbers that nobody has
    told: bool = True  # the ledger knows the sums at up_to

    def __post_init__(self) -> None:
        before = 0
        for number, frame in enumerate(self.frames, 1):
            frame.number, frame.before = number, before
            before += frame.records + frame.lacks
        self.sum = before

    def note(self, previous: RunEnd | None = None) -> Handed:
        return Handed(
            self.source, self.run, len(self.frames), self.sum, self.in_hand, previous, self.firm
        )

    def waiting(self, *places: str) -> Waiting:
        waiting = Waiting()
        for frame in self.frames:
            is_there = frame.place in places or (frame.still_queued and QUEUED in places)
            if is_there and frame.number not in self.gone:
                waiting.add_lines([self.header(frame)])
        return waiting

    def header(self, frame: Frame, previous: RunEnd | None = None) -> bytes:
        gaps = [Gap("connection lost", frame.lacks)] if frame.lacks else []
        gaps += [Gap("cut")] if frame.tells else []
        header = Header(
            self.run, frame.number, self.source, frame.records, frame.before,
            0, 0, 0, 1.0, 2.0, gaps=tuple(gaps), previous=previous,
        )  # fmt: skip
        return encode_header(header).rstrip(b"\n")

    def book(self) -> Book:
        book = Book(self.source, self.up_to)
        if self.up_to and self.told:
            last = self.frames[self.up_to - 1]
            book.reached = last.before + last.records + last.lacks
        for frame in self.frames:
            if frame.place in (FOLDED, LATE_FOLDED):
                book.add_counts((frame.records, *frame.counts))
            elif frame.place in STORED and frame.number not in self.gone:
                sums = (frame.before, frame.lacks, frame.records)
                book.frames.add(frame.number, *sums, *frame.counts)
            if frame.place in STORED and frame.number not in self.gone:
                book.lacked += frame.lacks
                book.stretches += frame.tells
        for first, last, lost, recovered in self.gaps():
            if first:
                book.gaps.add(first, last, lost, recovered)
            else:
                book.refilled += lost - recovered
        return book

    def gaps(self) -> list[tuple[int, int, int, int]]:
        """Rows as a fold leaves them."""
        rows, group = [], list[Frame]()
        for frame in [*self.frames, Frame((0, 0, 0, 0), ROW)]:
            if frame.place in IN_GAP:
                group.append(frame)
            elif group:
                rows += self._pieces(group)
                group = []
        return rows

    def _pieces(self, group: list[Frame]) -> list[tuple[int, int, int, int]]:
        """What is left of a gap: each piece with its own size, what has come in the first."""
        left: list[list[Frame]] = [[]]
        for frame in group:
            if frame.place == LATE_FOLDED:
                left.append([])
            else:
                left[-1].append(frame)
        recovered = sum(frame.records for frame in group if frame.place == LATE_FOLDED)
        rows = [
            (piece[0].number, piece[-1].number, sum(frame.records for frame in piece), 0)
            for piece in left
            if piece
        ]
        first, last, records, _ = rows[0] if rows else (0, 0, 0, 0)
        return [(first, last, records + recovered, recovered), *rows[1:]]

    def accounts(self) -> Accounts:
        state = SourceState(self.run, len(self.frames), None, self.sum, 0)
        return Accounts(
            [self.note()],
            self.waiting(SPOOLED),
            {self.source: state} if self.frames else {},
            self.waiting(QUEUED, LATE_QUEUED),
            {self.run: self.book()},
        )

    def total(self, *places: str) -> int:
        return sum(frame.records for frame in self.frames if frame.place in places)


@st.composite
def histories(draw: st.DrawFn, *, min_records: int = 0, run: str = RUN) -> History:
    """Frames in any places, folded as far as they could be."""
    places = draw(st.lists(st.sampled_from([ROW, ROW, ROW, QUEUED, SPOOLED, GAP]), max_size=12))
    frames = []
    for place in places:
        counts = draw(st.tuples(*[st.integers(0, 20)] * 4))
        counts = (counts[0] + min_records, *counts[1:])
        lacks = draw(st.sampled_from([0, 0, 0, 7])) if place in (ROW, QUEUED, SPOOLED) else 0
        frames.append(Frame(counts, place, lacks, place == ROW and draw(st.booleans())))
    prefix = next((at for at, one in enumerate(places) if one in (QUEUED, SPOOLED)), len(places))
    up_to = draw(st.integers(0, prefix))
    while up_to and up_to < len(places) and places[up_to - 1] == places[up_to] == GAP:
        up_to += 1  # a gap is passed as a whole
    for at, frame in enumerate(frames):
        if frame.place == ROW and at < up_to:
            frame.place = FOLDED
        elif frame.place == ROW:
            frame.still_queued = draw(st.booleans())
        elif frame.place == GAP:
            late = [LATE_FOLDED] if at < up_to else []
            frame.place = draw(st.sampled_from([GAP, GAP, LATE_ROW, LATE_QUEUED, *late]))
    in_hand = draw(st.none() | st.integers(0, 9))
    return History(frames, up_to, in_hand, draw(st.booleans()), run, told=draw(st.booleans()))


def only(found: Balance) -> Difference:
    [difference] = found.differences
    return difference


# ── what adds up ────────────────────────────────────────────────────────────────────────


@settings(max_examples=200, deadline=None)
@given(histories())
def test_any_history_adds_up(history: History) -> None:
    found = compare(history.accounts())
    assert found.differences == []
    line = found.lines["tweets"]
    assert line.difference == 0
    assert line.received == history.sum
    stored = [frame for frame in history.frames if frame.place in STORED]
    assert [line.stored, line.filtered, line.dead, line.blank] == [
        sum(frame.counts[part] for frame in stored) for part in range(4)
    ]
    assert line.queued == history.total(QUEUED, SPOOLED, LATE_QUEUED)
    assert line.spooled == history.total(SPOOLED)
    assert line.lost == history.total(GAP) + sum(frame.lacks for frame in history.frames)
    assert line.stretches == sum(frame.tells for frame in history.frames)
    assert line.in_hand == (history.in_hand or 0)


@settings(max_examples=100, deadline=None)
@given(histories(), st.booleans())
def test_the_frame_in_hand_may_have_arrived_anywhere(history: History, firm: bool) -> None:
    assume(history.frames and history.frames[-1].place not in IN_GAP)
    last = history.frames[-1]
    note = Handed(
        "tweets", RUN, last.number - 1, last.before, last.records + last.lacks, None, firm
    )
    arrived = compare(replace(history.accounts(), handed=[note]))
    assert arrived.differences == []
    assert arrived.lines["tweets"].received == history.sum
    assert arrived.lines["tweets"].in_hand == 0


@settings(max_examples=100, deadline=None)
@given(histories(), st.data())
def test_what_is_younger_than_the_note_is_not_judged(history: History, data: st.DataObject) -> None:
    """Frames went on while the accounts were read: some of them were missed on their way."""
    number = data.draw(st.integers(history.up_to, len(history.frames)))
    gaps = {at for first, last, *_ in history.gaps() for at in range(first, last + 1)}
    assume(not {number, number + 1} <= gaps)
    for frame in history.frames[number:]:
        if data.draw(st.booleans()):
            history.gone.add(frame.number)
    reached = history.frames[number].before if number < len(history.frames) else history.sum
    accounts = replace(history.accounts(), handed=[Handed("tweets", RUN, number, reached)])
    found = compare(accounts)
    assert found.differences == []
    assert found.lines["tweets"].received == reached
    assert found.lines["tweets"].difference == 0


@settings(max_examples=100, deadline=None)
@given(histories(run=OLD), histories(), st.sampled_from(["note", "header", "ledger", "nobody"]))
def test_a_run_that_has_ended_counts_too(old: History, new: History, who: str) -> None:
    """Its end may be known from three sides; a frame in doubt then may have arrived or not."""
    end = RunEnd(OLD, len(old.frames), old.sum, 0)
    if old.frames and old.frames[-1].place not in IN_GAP:
        last = old.frames[-1]
        end = RunEnd(OLD, last.number - 1, last.before, 0)
    accounts = new.accounts()
    accounts.books[OLD] = old.book()
    for mine, theirs in (
        (accounts.queued, old.waiting(QUEUED, LATE_QUEUED)),
        (accounts.spooled, old.waiting(SPOOLED)),
    ):
        mine.frames |= theirs.frames
        mine.sources |= theirs.sources
    if who == "note":
        accounts = replace(accounts, handed=[new.note(end)])
    elif who == "ledger":
        accounts.books[OLD].end = end
    elif who == "header" and new.frames:
        accounts.queued.add_lines([new.header(new.frames[0], end)])
        assume(new.frames[0].place in STORED)
    found = compare(accounts)
    assert found.differences == []
    assert found.total.difference == 0
    if who != "nobody" and (who != "header" or new.frames):
        assert found.total.received == old.sum + new.sum


NEXT = {"hand": QUEUED, SPOOLED: QUEUED, QUEUED: ROW}


class Pipe:
    """A run at work: frames go from the collector's hand to the ledger, a step at a time."""

    def __init__(self) -> None:
        self.places: list[str] = []
        self.done = 0  # frames that are noted as handed over
        self.up_to = 0

    def step(self, chance: int) -> None:
        """One of the steps that are possible now."""
        steps = [partial(self._move, at) for at, one in enumerate(self.places) if one in NEXT]
        if self.done == len(self.places):
            steps.append(lambda: self.places.append("hand"))
        elif self.places[-1] != "hand":
            steps.append(self._note_as_done)
        else:
            steps.append(self._spool)
        if self.places[self.up_to : self.up_to + 1] == [ROW]:
            steps.append(self._fold)
        steps[chance % len(steps)]()

    def _move(self, at: int) -> None:
        self.places[at] = NEXT[self.places[at]]

    def _spool(self) -> None:
        self.places[-1] = SPOOLED

    def _note_as_done(self) -> None:
        self.done += 1

    def _fold(self) -> None:
        self.up_to += 1

    def history(self) -> History:
        frames = [Frame((at, 0, 0, 0), place) for at, place in enumerate(self.places, 1)]
        for frame in frames[: self.up_to]:
            frame.place = FOLDED
        return History(frames, self.up_to)

    def state(self) -> SourceState | None:
        """What the queue says."""
        pushed = [at for at, one in enumerate(self.places, 1) if one in (QUEUED, ROW)]
        return SourceState(RUN, pushed[-1], None, sum_up_to(pushed[-1]), 0) if pushed else None

    def note(self) -> Handed:
        in_hand = len(self.places) if self.done < len(self.places) else None
        return Handed("tweets", RUN, self.done, sum_up_to(self.done), in_hand)


def sum_up_to(number: int) -> int:
    """Records of the frames of a pipe, of which frame n has n."""
    return number * (number + 1) // 2


STEPS = st.lists(st.integers(0, 99), max_size=12)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 99), max_size=40), st.tuples(STEPS, STEPS, STEPS, STEPS))
def test_frames_that_move_while_the_accounts_are_read(
    before: list[int], moves: tuple[list[int], ...]
) -> None:
    """Each account is read at another moment, in the order of the auditor."""
    pipe = Pipe()

    def after(chances: list[int]) -> Pipe:
        for chance in chances:
            pipe.step(chance)
        return pipe

    note = after(before).note()
    spooled = after(moves[0]).history().waiting(SPOOLED)
    state = after(moves[1]).state()
    queued = after(moves[2]).history().waiting(QUEUED)
    books = {RUN: after(moves[3]).history().book()}
    states = {"tweets": state} if state else {}
    found = compare(Accounts([note], spooled, states, queued, books))
    if pipe.up_to > note.number + (note.in_hand is not None):
        assert [one.kind for one in found.differences] == ["ahead"], "the next look tells"
        return
    assert (found.differences, found.remarks) == ([], [])
    line = found.lines["tweets"]
    assert line.difference == 0
    arrived = note.in_hand if note.in_hand and not line.in_hand else 0
    assert line.received == note.records + arrived


# ── what doesn't ────────────────────────────────────────────────────────────────────────


@settings(max_examples=100, deadline=None)
@given(histories(min_records=1), st.data())
def test_a_frame_that_nobody_has_is_named_with_its_size(
    history: History, data: st.DataObject
) -> None:
    there = [one for one in history.frames if one.place in (ROW, QUEUED, SPOOLED)]
    assume(there)
    gone = data.draw(st.sampled_from(there))
    history.gone.add(gone.number)
    found = compare(history.accounts())
    difference = only(found)
    assert (difference.kind, difference.run, difference.first) == ("adrift", RUN, gone.number)
    size = gone.records + gone.lacks
    assert difference.records == size == found.lines["tweets"].difference
    text = f"frame {gone.number} of run {RUN} (source tweets): {size:,} rec"
    assert text in difference.text


def content(book: Book) -> object:
    return book.records, book.stored, [*book.frames], [*book.gaps]


Tamper = Callable[[Book, int], None]


def fewer_stored(book: Book, by: int) -> None:
    book.stored = max(0, book.stored - by)


def fewer_records(book: Book, by: int) -> None:
    by = min(by, book.stored)
    book.stored -= by
    book.records -= by


def a_row_less(book: Book, by: int) -> None:
    rows = [*book.frames]
    book.frames = Rows(3 + len(COUNTS))
    for row in rows[:by] + rows[by + 1 :]:
        book.frames.add(*row)


def a_larger_row(book: Book, by: int) -> None:
    rows = [*book.frames]
    book.frames = Rows(3 + len(COUNTS))
    for number, before, lacks, records, stored, *others in rows:
        book.frames.add(number, before, lacks, records + by, stored + by, *others)


def a_gap_less(book: Book, by: int) -> None:
    rows = [*book.gaps]
    book.gaps = Rows(4)
    for row in rows[:by] + rows[by + 1 :]:
        book.gaps.add(*row)


def a_smaller_gap(book: Book, by: int) -> None:
    rows = [*book.gaps]
    book.gaps = Rows(4)
    for first, last, records, recovered in rows:
        book.gaps.add(first, last, max(recovered, records - by), recovered)


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize(
    "tamper",
    [fewer_stored, fewer_records, a_row_less, a_larger_row, a_gap_less, a_smaller_gap],
)
@given(histories(min_records=1), st.integers(0, 5))
def test_a_ledger_that_was_changed_by_hand_never_adds_up(
    tamper: Tamper, history: History, by: int
) -> None:
    """Whatever it was, the differences that are named explain all that is missing."""
    for frame in history.frames:
        frame.still_queued = False  # else it is queued without its row
        if frame.place in (LATE_ROW, LATE_QUEUED):  # either that or the gap: both add up
            frame.place = GAP
    history.__post_init__()
    accounts = history.accounts()
    book = accounts.books[RUN]
    before = content(book)
    tamper(book, by)
    found = compare(accounts)
    if content(book) == before:
        return  # there was nothing of the kind
    assert found.differences
    named = Counter(one.kind for one in found.differences)
    assert named.keys() <= {"adrift", "sums", "parts"}
    said = sum(one.records or 0 for one in found.differences)
    assert said == found.lines["tweets"].difference


def frames(*places: str) -> History:
    """Frames of 10, 20, 30 … stored records each."""
    return History([Frame((10 * at, 0, 0, 0), one) for at, one in enumerate(places, 1)])


def test_a_source_that_had_handed_over_more() -> None:
    history = frames(ROW, ROW, QUEUED)
    found = compare(replace(history.accounts(), handed=[Handed("tweets", RUN, 5, 1_294)]))
    difference = only(found)
    text = f"frames 4 to 5 of run {RUN} (source tweets): 1,234 records are in nobody's hands"
    assert difference.text == text
    assert found.lines["tweets"].received == 1_294


@pytest.mark.parametrize("who", ["row", "header", "note"])
def test_a_hole_that_its_collector_knows_of_is_lost(who: str) -> None:
    """A frame was in hand at a death, or found no room anywhere: that will be a gap."""
    history = frames(ROW, ROW, QUEUED if who == "header" else ROW)
    accounts = history.accounts()
    if who == "note":
        accounts = replace(accounts, handed=[Handed("tweets", RUN, 4, 80, missing="killed")])
    else:
        history.gone.add(2)
        accounts = history.accounts()
        holes = accounts.queued.holes.setdefault(RUN, {})
        (holes if who == "header" else accounts.books[RUN].holes)[3] = "killed"
    found = compare(accounts)
    assert found.differences == []
    number = 4 if who == "note" else 2
    text = f"frame {number} of run {RUN} (source tweets): 20 records are lost (killed)"
    assert [remark.text for remark in found.remarks if "lost" in remark.text] == [text]
    assert (found.lines["tweets"].lost, found.lines["tweets"].difference) == (20, 0)


def test_several_stretches_of_which_only_the_sum_is_known() -> None:
    """Nobody can say how much was before the gap, and how much behind it."""
    history = frames(*[ROW] * 7)
    accounts = history.accounts()
    book = accounts.books[RUN]
    book.frames = Rows(3 + len(COUNTS))
    book.gaps.add(3, 5, 100, 0)
    text = f"frames 1 to 2, 6 to 7 of run {RUN} (source tweets): 180 records are in nobody's hands"
    assert only(compare(accounts)).text == text


@pytest.mark.parametrize("unknown", ["gap", "row"])
def test_frames_that_nobody_has_beside_something_of_unknown_size(unknown: str) -> None:
    accounts = frames(ROW, ROW, ROW).accounts()
    book = accounts.books[RUN]
    book.frames = Rows(3 + len(COUNTS))
    if unknown == "gap":
        book.gaps.add(2, 2, UNKNOWN, 0)
        accounts = replace(accounts, handed=[Handed("tweets", RUN, 3, 60)])
    else:
        book.frames.add(3, UNKNOWN, 0, 30, 30, 0, 0, 0)
        accounts = replace(accounts, handed=[], states={})
    assert "an unknown number of records is in nobody's hands" in only(compare(accounts)).text


def test_rows_and_gaps_of_an_older_version_are_no_differences() -> None:
    """They don't know the sums before them, or how much is missing."""
    accounts = frames(*[ROW] * 4).accounts()
    book = accounts.books[RUN]
    book.frames = Rows(3 + len(COUNTS))
    book.gaps.add(2, 3, UNKNOWN, 0)
    book.frames.add(1, UNKNOWN, 0, 10, 10, 0, 0, 0)
    book.frames.add(4, UNKNOWN, 0, 40, 40, 0, 0, 0)
    found = compare(accounts)
    assert found.differences == []
    assert (found.total.received, found.total.lost, found.total.difference) == (100, 50, 0)


def test_sums_that_do_not_fit_are_named_where_they_do_not() -> None:
    history = frames(ROW, ROW, ROW)
    history.frames[2].before += 40
    found = compare(replace(history.accounts(), handed=[], states={}))
    assert only(found).text == (
        f"run {RUN} (source tweets), frame 2: the sums before frame 3 say 40 records more"
        " than the frames up to there"
    )
    history.frames[2].before -= 41
    found = compare(replace(history.accounts(), handed=[], states={}))
    assert "say 1 record fewer than" in only(found).text


def test_a_ledger_that_is_ahead_of_the_note() -> None:
    history = frames(FOLDED, FOLDED, FOLDED)
    history.up_to = 3
    early = replace(history.accounts(), handed=[Handed("tweets", RUN, 1, 10)])
    difference = only(compare(early))
    assert difference.kind == "ahead"
    assert f"frames up to 3 of run {RUN}, the note of source tweets knows of 1" in difference.text
    older = replace(early, handed=[Handed("tweets", RUN, 1, 10, firm=False)])
    assert compare(older).differences == [], "it is of another boot, and says the least there was"


def test_a_ledger_that_went_on_while_the_queue_was_read_is_not_ahead() -> None:
    """The note of that moment tells: reading all that is queued may take longer than a fold."""
    history = History([Frame((2, 0, 0, 0), FOLDED) for _ in range(5)], up_to=5)
    early = Handed("tweets", RUN, 2, 4)
    books = {RUN: history.book()}
    read = Accounts([early], Waiting(), {}, Waiting(), books)
    assert compare(replace(read, handed_since=[history.note()])).differences == []
    for since in ([], [early], [replace(early, number=3, records=6, in_hand=2)]):
        assert only(compare(replace(read, handed_since=since))).kind == "ahead"


def test_a_run_that_nobody_has_stored_of_yet() -> None:
    history = frames(QUEUED, SPOOLED)
    accounts = replace(history.accounts(), books={})
    found = compare(accounts)
    assert (found.differences, found.lines["tweets"].queued) == ([], 30)
    assert compare(replace(accounts, queued=Waiting())).differences[0].first == 1


def test_sources_are_summed_up_by_themselves() -> None:
    one, other = frames(ROW, QUEUED), frames(ROW)
    other.source, other.run = "log", LATER
    accounts, more = one.accounts(), other.accounts()
    both = Accounts(
        [*accounts.handed, *more.handed],
        accounts.spooled,
        {**accounts.states, **more.states},
        accounts.queued,
        {**accounts.books, **more.books},
    )
    found = compare(both)
    assert [*found.lines] == ["log", "tweets"]
    assert (found.lines["log"].received, found.lines["tweets"].received) == (10, 30)
    assert (found.total.received, found.total.queued) == (40, 20)


# ── remarks, recounts, looks ────────────────────────────────────────────────────────────


def test_a_queue_that_has_forgotten_is_no_difference_by_itself() -> None:
    history = frames(ROW, ROW, ROW)
    for state, stands in ((None, 0), (SourceState(RUN, 2, None, 30, 0), 2)):
        states = {"tweets": state} if state else {}
        found = compare(replace(history.accounts(), states=states))
        assert found.differences == []
        assert f"at frame {stands} of source tweets, which had handed over 3" in (
            found.remarks[0].text
        )
    waits = replace(frames(ROW, SPOOLED).accounts(), states={})
    assert compare(waits).remarks == [], "it waits in the spool"


def test_items_that_cannot_be_read_are_said() -> None:
    accounts = frames(ROW).accounts()
    accounts.queued.add_lines([b"nonsense", b'{"format":99}'])
    texts = [remark.text for remark in compare(accounts).remarks]
    assert texts == ["2 items in the queue can't be read as frames"]


@pytest.mark.parametrize(
    ("rows", "rewrites", "differs"),
    [(30, False, 0), (29, False, 1), (31, False, -1), (29, True, 0), (31, True, -1)],
)
def test_the_users_table_is_counted(rows: int, rewrites: bool, differs: int) -> None:
    accounts = replace(
        frames(ROW, ROW, QUEUED).accounts(), recount=Recount("tw", rows, {}, rewrites)
    )
    found = compare(accounts).differences
    assert sum(one.records or 0 for one in found) == differs
    texts = [one.text for one in found]
    assert texts == (
        [f"table tw has {rows} rows, the ledger says 30 were stored"] if differs else []
    )


def test_dead_letters_are_counted_by_source() -> None:
    history = History([Frame((5, 0, 3, 0), ROW)])
    accounts = replace(history.accounts(), recount=Recount("tw", 5, {"tweets": 2, "log": 1}))
    texts = [one.text for one in compare(accounts).differences]
    assert texts == [
        "there are 1 dead letters of source log, the ledger says 0",
        "there are 2 dead letters of source tweets, the ledger says 3",
    ]
    whole = replace(accounts, recount=Recount("tw", 5, {"tweets": 3}))
    assert compare(whole).differences == []


def test_what_was_in_every_look_stays() -> None:
    def look(*firsts: int) -> Balance:
        return Balance(differences=[Difference("adrift", "s", "", "", RUN, at) for at in firsts])

    standing = Standing()
    seen = []
    for found in (look(1, 2), look(2, 3), look(3), look(4)):
        standing.look(found)
        seen.append([one.first for one in found.differences])
    assert seen == [[1, 2], [2], [3], [4]], "when nothing stays, all that is there is said"
