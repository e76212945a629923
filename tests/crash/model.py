"""The protocol as a small model: whatever may happen next, in every state that may be.

In it are a connection whose bytes the kernel keeps, a collector with its note and its spool, the
queue, two subscribers with their owners, recovery, the ledger with its locks and its fold, and
holes that become gaps and are filled. Around them the worst: kills of any processes, commands of
dead ones that arrive late, an outage of the queue (nothing reaches it, answers are lost, it cuts
everybody off) or of the store, a queue that comes back empty. `search.py` walks through all of it.

Where the program has pure code it is used here: whether a frame is stored, how far a fold reaches,
which numbers are missing and how much that is, what is left of a gap. The rest says in a line or
two what its file says in a page; who changes the protocol there changes it here, first. Not in it:
sources with a cursor, whose queue may stand elsewhere, and another boot (see test_spool.py).

What keeps it small, and why nothing is left out by it:

- Bytes are a few units. A peek shows one or two of them, as if the rest came later.
- Birth follows a death in the same step: it only reads what nobody else writes.
- Steps that nobody else notices (peek, note, discard, confirm) are not interleaved with those of
  others, only with one's own death. Fold and gaps matter to who looks next, so they wait for him.
- What is one command or stands behind a lock is one step: nobody sees its middle.
- Who isn't listed as a client never comes back: SCAN and then CLIENT LIST are as one look.
- An outage takes no time: of those who are calling at that moment some fail. Who isn't hit, or
  fails without any effect and tries again, is only slower. Who is cut off before he has looked
  into the ledger only looks later.
- Recovery that is killed leaves nothing behind: that is as if it had not begun.
- A hole becomes a gap at any time at all: that spool and queue were looked at is for comfort.
- Subscribers are alike, and an owner is its busy list: names don't matter.

Every rule of the protocol can be broken (`Rules`); then the search has to find what it is for.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, TypeVar

from appliance.stores.folding import (
    NO_SIZE,
    Account,
    FrameRow,
    GapRow,
    cut,
    holes_of,
    is_stored,
    reach,
)

T = TypeVar("T")


class Frame(NamedTuple):
    """A numbered frame; in it are the units of the stream from `start` to before `end`."""

    number: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"frame {self.number} (units {self.start} to {self.end - 1})"


Frames = tuple[Frame, ...]


class Gap(NamedTuple):
    """Frames `first` to `last` are missing, with so many units behind the first `before`."""

    first: int
    last: int
    before: int
    units: int

    def __str__(self) -> str:
        return f"frames {self.first} to {self.last} ({self.units} units)"


Gaps = tuple[Gap, ...]


@dataclass(frozen=True)
class Rules:
    """What the protocol asks for. False: this rule is broken."""

    peek_leaves_bytes: bool = True
    push_before_discard: bool = True
    word_after_discard: bool = True
    two_slots: bool = True
    birth_heeds_doubt: bool = True
    again_is_what_was_noted: bool = True
    begun_discard_is_finished: bool = True
    one_collector: bool = True
    spool_goes_first: bool = True
    forget_after_push: bool = True
    commit_before_confirm: bool = True
    new_owner_after_error: bool = True
    give_back: bool = True
    scan_before_list: bool = True
    living_keep_theirs: bool = True
    look_into_ledger: bool = True
    one_row_per_frame: bool = True
    shared_lock: bool = True
    exclusive_lock: bool = True
    fold_cuts_gaps: bool = True
    gap_is_not_stored: bool = True
    look_again_before_gap: bool = True
    look_whether_queue_forgot: bool = True


@dataclass(frozen=True)
class Limits:
    """How large the world is, and how much may go wrong in it."""

    units: int = 3
    peek_units_max: int = 2
    lease_frames_max: int = 2
    kills: int = 2
    outages: int = 1
    forgets: int = 0


# ── what there is ───────────────────────────────────────────────────────────────────────

# What a collector is at,
IDLE, NOTED, IN_HAND, DISCARDING, REPLAYED, LOST = (
    *("idle", "noted", "in hand", "discarding", "replayed", "lost in its note"),
)
# and a subscriber,
HOLDS, LOOKED, STORED = "holds", "looked", "stored"
# and what may come of a dead one.
TAKE, CONFIRM = "take", "confirm"


class Collector(NamedTuple):
    at: str = IDLE
    frame: Frame | None = None


class Note(NamedTuple):
    """The note file: its state word, and the slots for odd and even frames."""

    word: int = 0
    slots: tuple[Frame | None, Frame | None] = (None, None)


class Subscriber(NamedTuple):
    """`busy` is what lies under its name in the queue; None: its connection was cut.

    `new` is what it found not to be stored. `marked`: a broken sweep has seen it.
    """

    at: str = IDLE
    lease: Frames = ()
    busy: Frames | None = ()
    new: Frames = ()
    marked: bool = False


class Orphan(NamedTuple):
    """A busy list whose owner is gone; listed as a client as long as a command may come."""

    busy: Frames = ()
    late: str = ""


class Queue(NamedTuple):
    """`late`: pushes on their way, of connections that are gone. `forgot`: 1 once it did."""

    working: Frames = ()
    last: int = 0
    late: Frames = ()
    orphans: tuple[Orphan, ...] = ()
    overtaken: bool = False
    forgot: int = 0


class Books(NamedTuple):
    """What the ledger says of the run: all is accounted for up to `up_to`, with so many units."""

    up_to: int = 0
    sum: int = 0
    rows: Frames = ()
    gaps: Gaps = ()


class Ledger(NamedTuple):
    """Its books, and the data: `units` that are stored and that are `doubled`, as bits.

    `sessions` are the transactions of dead processes, with what they are about to commit.
    """

    books: Books = Books()
    units: int = 0
    doubled: int = 0
    sessions: tuple[Frames, ...] = ()


class State(NamedTuple):
    """`position`: units that the kernel has given away. `forgotten`: by a queue that had them.

    `hole`: what a broken rule remembers.
    """

    position: int
    note: Note
    collectors: tuple[Collector, ...]
    spool: Frames
    queue: Queue
    subscribers: tuple[Subscriber, Subscriber]
    sweeping: bool
    ledger: Ledger
    hole: Gap | None
    forgotten: int
    kills: int
    outages: int
    forgets: int


class Step(NamedTuple):
    """What happens, in words with {} for the things, and what comes of it."""

    text: str
    things: tuple[object, ...]
    after: State

    def __str__(self) -> str:
        return self.text.format(", ".join(map(str, self.things)))


# ── what may happen ─────────────────────────────────────────────────────────────────────


class Model:
    """The steps from each state, and what must never be."""

    def __init__(self, rules: Rules, limits: Limits) -> None:
        self.rules = rules
        self.limits = limits
        self.everything = (1 << limits.units) - 1
        # Who breaks a rule may do so in steps that are left out otherwise.
        self._is_whole = rules == Rules()

    def first(self) -> State:
        """Everything is still in the kernel."""
        return State(
            position=0,
            note=Note(),
            collectors=(Collector(),) * (1 if self.rules.one_collector else 2),
            spool=(),
            queue=Queue(),
            subscribers=(Subscriber(), Subscriber()),
            sweeping=False,
            ledger=Ledger(),
            hole=None,
            forgotten=0,
            kills=self.limits.kills,
            outages=self.limits.outages,
            forgets=self.limits.forgets,
        )

    def broken(self, state: State) -> str:
        """The promise that is broken in this state; empty if none is."""
        queue, ledger = state.queue, state.ledger
        if ledger.doubled:
            return "doubled"
        if self._kept(state) | state.forgotten != self.everything:
            return "lost"
        if any(one.at is LOST for one in state.collectors):
            return "damaged note"
        if queue.overtaken:
            return "overtaken"
        for one in state.subscribers:
            if one.at is not IDLE and one.busy is not None and one.busy != one.lease:
                return "taken away"
        return ""

    def _kept(self, state: State) -> int:
        """The units that somebody holds."""
        kept = self.everything >> state.position << state.position
        return kept | units_of(state.spool) | self._queued(state) | state.ledger.units

    def _queued(self, state: State) -> int:
        queued = units_of(state.queue.working)
        for orphan in state.queue.orphans:
            queued |= units_of(orphan.busy)
        for one in state.subscribers:
            queued |= units_of(one.busy or ())
        return queued

    def is_done(self, state: State) -> bool:
        """Whether nothing waits, and just what isn't stored is in a gap."""
        queue, ledger = state.queue, state.ledger
        waits = (state.spool, queue.working, *(orphan.busy for orphan in queue.orphans))
        is_idle = all(one.at is IDLE for one in (*state.collectors, *state.subscribers))
        missing = self.everything & ~ledger.units
        return is_idle and not any(waits) and missing == units_in(ledger.books.gaps)

    def steps(self, state: State) -> tuple[list[Step], list[Step]]:
        """What comes next if nothing goes wrong, and what may go wrong."""
        if self.rules.one_collector and (alone := [*self._own_steps(state, 0)]):
            return alone, [*self._kill_collector(state, 0)]
        for at, one in enumerate(state.subscribers):
            if one.at is STORED:
                return [*self._confirm(state, at)], [*self._kill_subscriber(state, at)]
        good: list[Step] = []
        bad: list[Step] = []
        for at in range(len(state.collectors)):
            good += self._collector(state, at)
            bad += self._kill_collector(state, at)
        for at in self._different(state.subscribers):
            good += self._subscriber(state, at)
            bad += self._kill_subscriber(state, at)
        good += self._sweep(state)
        good += self._sessions(state)
        looking = any(one.at is HOLDS for one in state.subscribers)
        if looking or not good or not self._is_whole:
            good += self._fold(state)
            good += self._give_up(state)
        bad += self._late(state)
        bad += self._outage(state)
        bad += self._forgetting(state)
        return good, bad

    def _different(self, subscribers: tuple[Subscriber, Subscriber]) -> range:
        return range(1 if subscribers[0] == subscribers[1] else 2)

    # ── collector ───────────────────────────────────────────────────────────────────────

    def _own_steps(self, state: State, at: int) -> Iterator[Step]:
        """Steps that touch only kernel and note, while there is no choice of others."""
        me = state.collectors[at]
        if me.at is IDLE and not state.spool:
            yield from self._peek(state, at)
        elif me.at is NOTED:
            yield self._note_is_valid(state, at)
        elif me.at is DISCARDING:
            yield self._discard(state, at)

    def _peek(self, state: State, at: int) -> Iterator[Step]:
        start, note = state.position, state.note
        number = number_of(note.word) + 1
        for end in range(start + 1, 1 + min(start + self.limits.peek_units_max, self.limits.units)):
            frame = Frame(number, start, end)
            after = collecting(state, at, NOTED, frame, self._noted(note, frame))
            if not self.rules.peek_leaves_bytes:
                after = after._replace(position=end)
            yield Step("the collector peeks and notes {}", (frame,), after)

    def _noted(self, note: Note, frame: Frame) -> Note:
        odd = bool(frame.number % 2) or not self.rules.two_slots
        return Note(note.word, (note.slots[0], frame) if odd else (frame, note.slots[1]))

    def _slot(self, note: Note) -> Frame | None:
        odd = bool(number_of(note.word) % 2) or not self.rules.two_slots
        return note.slots[1 if odd else 0]

    def _note_is_valid(self, state: State, at: int) -> Step:
        frame = state.collectors[at].frame
        assert frame
        word = 2 * frame.number - 1
        goes_on = IN_HAND if self.rules.push_before_discard else DISCARDING
        after = collecting(state, at, goes_on, frame, state.note._replace(word=word))
        return Step("W = {}", (word,), after)

    def _discard(self, state: State, at: int) -> Step:
        frame, note = state.collectors[at].frame, state.note
        assert frame
        if state.position < frame.end:
            after = state._replace(position=state.position + 1)
            return Step("it discards unit {}", (state.position,), after)
        if not self.rules.push_before_discard and note.word % 2:
            return Step("all is discarded", (), collecting(state, at, IN_HAND, frame, note))
        return self._turn_is_over(state, at)

    def _turn_is_over(self, state: State, at: int) -> Step:
        """The slots' content is of no more use; another one's note would be damage."""
        frame = state.collectors[at].frame
        assert frame
        word = 2 * frame.number
        return Step("W = {}", (word,), collecting(state, at, IDLE, None, Note(word)))

    def _kept_safe(self, state: State, at: int) -> State:
        """Behind an answered push or an append."""
        frame, note = state.collectors[at].frame, state.note
        assert frame
        if not self.rules.push_before_discard:
            return self._turn_is_over(state, at).after
        if not self.rules.word_after_discard:
            note = note._replace(word=2 * frame.number)
        return collecting(state, at, DISCARDING, frame, note)

    def _collector(self, state: State, at: int) -> Iterator[Step]:
        """Steps that others see; and one's own, where they are a choice."""
        me = state.collectors[at]
        if me.at is IN_HAND and me.frame:
            if state.spool and self.rules.spool_goes_first:
                yield Step("{} goes into the spool", (me.frame,), self._spooled(state, at))
            else:
                after = state._replace(queue=pushed(state.queue, me.frame))
                yield Step("{} is pushed", (me.frame,), self._kept_safe(after, at))
        elif me.at is IDLE and state.spool:
            yield from self._peek(state, at)
            yield self._replay(state, at)
        elif me.at is REPLAYED:
            yield self._replayed(state, at)
        elif me.at is IDLE and self._is_behind(state):
            yield self._show_what_is_missing(state, at)
        else:
            yield from self._own_steps(state, at)

    def _is_behind(self, state: State) -> bool:
        """Whether the queue has forgotten where we stood, and no frame is coming that tells it."""
        end = number_of(state.note.word)
        is_read = state.position == self.limits.units
        return is_read and state.queue.last < end and self.rules.look_whether_queue_forgot

    def _show_what_is_missing(self, state: State, at: int) -> Step:
        """A frame of no records, whose number and sums tell the ledger."""
        here = state.position
        frame = Frame(number_of(state.note.word) + 1, here, here)
        after = collecting(state, at, NOTED, frame, self._noted(state.note, frame))
        return Step("the queue has forgotten something: {} comes behind it", (frame,), after)

    def _spooled(self, state: State, at: int) -> State:
        """The newest frame may be appended again."""
        frame = state.collectors[at].frame
        spool = state.spool if state.spool[-1:] == (frame,) else (*state.spool, frame)
        return self._kept_safe(state._replace(spool=spool), at)

    def _replay(self, state: State, at: int) -> Step:
        frame = state.spool[0]
        after = collecting(state, at, REPLAYED, frame, state.note)
        first, second = self._push_out, self._forget
        return (first if self.rules.forget_after_push else second)(after, frame)

    def _replayed(self, state: State, at: int) -> Step:
        frame = state.collectors[at].frame
        assert frame
        after = collecting(state, at, IDLE, None, state.note)
        first, second = self._push_out, self._forget
        return (second if self.rules.forget_after_push else first)(after, frame)

    def _push_out(self, state: State, frame: Frame) -> Step:
        if frame.number <= state.queue.last:
            return Step("the queue has {} already", (frame,), state)
        after = state._replace(queue=pushed(state.queue, frame))
        return Step("{} is pushed out of the spool", (frame,), after)

    def _forget(self, state: State, frame: Frame) -> Step:
        return Step("the spool forgets {}", (frame,), state._replace(spool=state.spool[1:]))

    def _kill_collector(self, state: State, at: int) -> Iterator[Step]:
        """It dies, and maybe a push of it is on its way."""
        if not state.kills:
            return
        me, queue = state.collectors[at], state.queue
        after = self._reborn(state._replace(kills=state.kills - 1), at)
        if me != after.collectors[at]:
            yield Step("the collector is killed ({})", (me.at,), after)
        sending = None
        if me.at is IN_HAND and not state.spool:
            sending = me.frame
        elif me.at is IDLE and state.spool:
            sending = state.spool[0]
        if sending and sending not in queue.late:
            after = after._replace(queue=queue._replace(late=put(queue.late, sending)))
            yield Step("the collector is killed, its push of {} is on its way", (sending,), after)

    def _reborn(self, state: State, at: int) -> State:
        """Birth: W odd says that one frame is in doubt, and the kernel whether it was taken."""
        note, rules = state.note, self.rules
        number, frame = number_of(note.word), self._slot(state.note)
        if number and frame and frame.number != number:
            return collecting(state, at, LOST, None, note)
        if note.word % 2 == 0 or not rules.birth_heeds_doubt or frame is None:
            return collecting(state, at, IDLE, None, note)
        if state.position > frame.start:
            if rules.begun_discard_is_finished:
                return collecting(state, at, DISCARDING, frame, note)
            return collecting(state, at, IDLE, None, Note(2 * number))
        if not rules.again_is_what_was_noted:
            frame = frame._replace(end=self.limits.units)
        return collecting(state, at, IN_HAND, frame, note)

    # ── subscribers ─────────────────────────────────────────────────────────────────────

    def _subscriber(self, state: State, at: int) -> Iterator[Step]:
        me, queue = state.subscribers[at], state.queue
        if me.at is IDLE and queue.working:
            taken, left = self._split(queue.working)
            after = state._replace(queue=queue._replace(working=left))
            holder = me._replace(at=HOLDS, lease=taken, busy=(*(me.busy or ()), *taken))
            yield Step("a subscriber takes {}", taken, storing(after, at, holder))
        elif me.at is HOLDS:
            yield self._look(state, at)
        elif me.at is LOOKED:
            yield self._commit(state, at)

    def _split(self, working: Frames) -> tuple[Frames, Frames]:
        return working[: self.limits.lease_frames_max], working[self.limits.lease_frames_max :]

    def _look(self, state: State, at: int) -> Step:
        """Into the ledger, with the shared lock, that stands until the transaction ends."""
        me = state.subscribers[at]
        new = tuple(frame for frame in me.lease if not self._is_stored(frame, state.ledger))
        after = me._replace(at=LOOKED if new else STORED, new=new)
        if not self.rules.commit_before_confirm:
            after = after._replace(busy=())
        return Step("it looks: new are {}", new or ("none",), storing(state, at, after))

    def _is_stored(self, frame: Frame, ledger: Ledger) -> bool:
        if not self.rules.look_into_ledger:
            return False
        books = ledger.books
        gaps = books.gaps if self.rules.gap_is_not_stored else ()
        rows = {row.number for row in books.rows}
        return is_stored(frame.number, rows, books.up_to, [(gap.first, gap.last) for gap in gaps])

    def _commit(self, state: State, at: int) -> Step:
        me = state.subscribers[at]
        ledger = self._with_rows(state.ledger, me.new)
        if ledger is None:
            after = storing(state, at, me._replace(at=HOLDS, new=()))
            return Step("others have stored some of {} meanwhile", me.new, after)
        done = me._replace(at=STORED, new=())
        if not self.rules.commit_before_confirm:
            done = Subscriber()
        return Step("it commits {}", me.new, storing(state._replace(ledger=ledger), at, done))

    def _with_rows(self, ledger: Ledger, new: Frames) -> Ledger | None:
        """The frames' rows and their data; None: one of the rows is there."""
        books = ledger.books
        numbers = {frame.number for frame in new}
        if self.rules.one_row_per_frame and any(row.number in numbers for row in books.rows):
            return None
        rows = tuple(sorted({*books.rows, *new}))
        units = units_of(new)
        return ledger._replace(
            books=books._replace(rows=rows),
            units=ledger.units | units,
            doubled=ledger.doubled | (ledger.units & units),
        )

    def _confirm(self, state: State, at: int) -> Iterator[Step]:
        me = state.subscribers[at]
        after = storing(state, at, Subscriber(marked=me.marked and me.busy is not None))
        yield Step("it confirms {}", me.lease, after)

    def _kill_subscriber(self, state: State, at: int) -> Iterator[Step]:
        if not state.kills:
            return
        me = state.subscribers[at]
        after = storing(state._replace(kills=state.kills - 1), at, Subscriber())
        busy = me.busy or ()
        if me.at is IDLE:
            after = orphaned(after, Orphan(busy, TAKE))
            yield Step("a subscriber is killed, its take is on its way", (), after)
            return
        if me.at is STORED and busy:
            late = orphaned(after, Orphan(busy, CONFIRM))
            yield Step("a subscriber is killed, its confirm of {} is on its way", me.lease, late)
        if me.at is LOOKED:
            after = with_session(after, me.new)
        after = orphaned(after, Orphan(busy))
        yield Step("a subscriber is killed ({})", (me.at,), after)

    # ── queue ───────────────────────────────────────────────────────────────────────────

    def _late(self, state: State) -> Iterator[Step]:
        """Commands of connections that are gone are run all the same, or never."""
        queue = state.queue
        for frame in queue.late:
            after = pushed(queue._replace(late=without(queue.late, frame)), frame)
            yield Step("a late push of {} arrives", (frame,), state._replace(queue=after))
        for orphan in {orphan for orphan in queue.orphans if orphan.late}:
            others = without(queue.orphans, orphan)
            if orphan.late is CONFIRM:
                after = queue._replace(orphans=others)
                step = Step("a late confirm of {} arrives", orphan.busy, state)
                yield step._replace(after=state._replace(queue=after))
            elif queue.working:
                taken, left = self._split(queue.working)
                served = Orphan((*orphan.busy, *taken))
                after = queue._replace(working=left, orphans=put(others, served))
                yield Step("a late take gets {}", taken, state._replace(queue=after))

    def _sweep(self, state: State) -> Iterator[Step]:
        queue, rules = state.queue, self.rules
        for orphan in {orphan for orphan in queue.orphans if orphan.late is CONFIRM}:
            after = put(without(queue.orphans, orphan), Orphan(orphan.busy))
            unlisted = state._replace(queue=queue._replace(orphans=after))
            yield Step("the queue drops the client of {}", orphan.busy, unlisted)
        if not rules.give_back:
            return
        for orphan in {orphan for orphan in queue.orphans if not orphan.late}:
            others = without(queue.orphans, orphan)
            after = queue._replace(working=(*orphan.busy, *queue.working), orphans=others)
            yield Step("recovery gives {} back", orphan.busy, state._replace(queue=after))
        if not (rules.scan_before_list and rules.living_keep_theirs):
            yield from self._broken_sweep(state)

    def _broken_sweep(self, state: State) -> Iterator[Step]:
        """It doesn't know who lives: by an old list of clients, or by none."""
        if not self.rules.scan_before_list and not state.sweeping:
            marked = in_order(one._replace(marked=True) for one in state.subscribers)
            after = state._replace(subscribers=marked, sweeping=True)
            yield Step("recovery lists the clients", (), after)
            return
        for at, one in enumerate(state.subscribers):
            if one.busy and not one.marked:
                queue = state.queue
                queue = queue._replace(working=(*one.busy, *queue.working))
                after = storing(state._replace(queue=queue), at, one._replace(busy=()))
                after = after._replace(sweeping=False)
                yield Step("recovery gives {} back", one.busy, after)

    # ── store ───────────────────────────────────────────────────────────────────────────

    def _is_locked(self, state: State) -> bool:
        """Whether the run's row can't be locked exclusively now by who folds or declares."""
        if not (self.rules.shared_lock and self.rules.exclusive_lock):
            return False
        return bool(state.ledger.sessions) or any(one.at is LOOKED for one in state.subscribers)

    def _sessions(self, state: State) -> Iterator[Step]:
        """The transaction of a dead process ends, one way or the other."""
        ledger = state.ledger
        for new in set(ledger.sessions):
            left = ledger._replace(sessions=without(ledger.sessions, new))
            rolled_back = state._replace(ledger=left)
            yield Step("the dead one's transaction with {} is rolled back", new, rolled_back)
            if (ledger_then := self._with_rows(left, new)) is not None:
                after = state._replace(ledger=ledger_then)
                yield Step("a late commit of {} arrives", new, after)

    def _fold(self, state: State) -> Iterator[Step]:
        ledger = state.ledger
        if self._is_locked(state):
            return
        books = folded(ledger.books, self.rules.fold_cuts_gaps)
        if books != ledger.books:
            after = state._replace(ledger=ledger._replace(books=books))
            yield Step("fold: all is accounted for up to {}", (books.up_to,), after)

    def _give_up(self, state: State) -> Iterator[Step]:
        """A hole becomes a gap, under the exclusive lock and after another look that it is one."""
        books = state.ledger.books
        found = holes(books)
        if not self.rules.look_again_before_gap:
            if found and state.hole is None:
                yield Step("{} never came", found[:1], state._replace(hole=found[0]))
            found = (state.hole,) if state.hole else ()
        for hole in () if self._is_locked(state) else found:
            ledger = state.ledger._replace(books=books._replace(gaps=put(books.gaps, hole)))
            yield Step("{} are a gap now", (hole,), state._replace(ledger=ledger, hole=None))

    # ── outages ─────────────────────────────────────────────────────────────────────────

    def _outage(self, state: State) -> Iterator[Step]:
        """Of all calls that are under way some fail."""
        if not state.outages:
            return
        start = state._replace(outages=state.outages - 1)
        of_queue = Step("the queue fails: {}", (), start)
        for push in [of_queue, *self._push_fails(start)]:
            yield from self._calls_fail(push, self._queue_call_fails)
        yield from self._calls_fail(Step("the store fails: {}", (), start), self._commit_fails)

    def _calls_fail(
        self, step: Step, fail: Callable[[State, int], Iterator[Step]]
    ) -> Iterator[Step]:
        """The same with each choice of the subscribers' failures."""
        for one in [step, *(joined(step, also) for also in fail(step.after, 1))]:
            for both in [one, *(joined(one, also) for also in fail(one.after, 0))]:
                if both.things:  # else nothing has happened
                    after = both.after
                    yield both._replace(
                        after=after._replace(subscribers=in_order(after.subscribers))
                    )

    def _push_fails(self, state: State) -> Iterator[Step]:
        for at, me in enumerate(state.collectors):
            if me.at is not IN_HAND or not me.frame or state.spool:
                continue
            queue = state.queue
            arrived = state._replace(queue=pushed(queue, me.frame))
            late = state._replace(queue=queue._replace(late=put(queue.late, me.frame)))
            for how, before in (("", state), (", pushed,", arrived), (", on its way,", late)):
                said = f"{me.frame}{how} goes into the spool"
                yield Step("the queue fails: {}", (said,), self._spooled(before, at))

    def _queue_call_fails(self, state: State, at: int) -> Iterator[Step]:
        me, queue = state.subscribers[at], state.queue
        if me.at is LOOKED and me.busy:
            after = standing(state, at, me._replace(busy=None, marked=False))
            yield Step("who has {} to commit is cut off", me.new, orphaned(after, Orphan(me.busy)))
        elif me.at is IDLE and queue.working:
            taken, left = self._split(queue.working)
            after = state._replace(queue=queue._replace(working=left))
            if self.rules.new_owner_after_error:
                after = orphaned(standing(after, at, Subscriber()), Orphan(taken))
            else:
                after = standing(after, at, me._replace(busy=(*(me.busy or ()), *taken)))
            yield Step("the answer of a take with {} is lost", taken, after)

    def _commit_fails(self, state: State, at: int) -> Iterator[Step]:
        me = state.subscribers[at]
        if me.at is not LOOKED:
            return
        again = standing(state, at, me._replace(at=HOLDS, new=()))
        yield Step("a commit of {} is on its way", me.new, with_session(again, me.new))
        ledger = self._with_rows(state.ledger, me.new)
        if ledger is not None:
            after = again._replace(ledger=ledger)
            yield Step("the answer of a commit of {} is lost", me.new, after)

    # ── a queue that forgets ────────────────────────────────────────────────────────────

    def _forgetting(self, state: State) -> Iterator[Step]:
        """It comes back empty, and everybody's connection was cut."""
        if not state.forgets:
            return
        cut_off = in_order(
            one if one.at is IDLE else one._replace(busy=None) for one in state.subscribers
        )
        after = state._replace(
            queue=Queue(forgot=1),
            subscribers=cut_off,
            forgotten=state.forgotten | self._queued(state),
            forgets=state.forgets - 1,
        )
        yield Step("the queue forgets everything", (), after)


# ── the ledger's books ──────────────────────────────────────────────────────────────────

# One unit is one record of one byte.


def account_of(books: Books) -> Account:
    """As the program has them."""
    return Account(
        b"",
        "",
        books.up_to,
        (books.sum, books.sum),
        None,
        [FrameRow(row.number, (row.end - row.start,) * 2, (row.start,) * 2) for row in books.rows],
        {
            at: GapRow((gap.first, gap.last), (gap.units,) * 2, NO_SIZE, (gap.before,) * 2)
            for at, gap in enumerate(books.gaps)
        },
    )


@cache
def folded(books: Books, cuts_gaps: bool) -> Books:
    """What a fold makes of them."""
    account = account_of(books)
    up_to, numbers = reach(books.up_to, [row.number for row in books.rows], account.spans)
    came = account.frames[: len(numbers)]
    gaps: list[GapRow] = []
    for gap in account.gaps.values():
        filled = [frame for frame in came if gap.covers(frame.number)]
        gaps += cut(gap, filled) if filled and cuts_gaps else [gap]
    total = account.after()[up_to][0]
    left = tuple(sorted(_gap(gap) for gap in gaps if gap.span))
    return Books(up_to, total, books.rows[len(numbers) :], left)


def _gap(row: GapRow) -> Gap:
    assert row.span
    assert row.before
    assert row.missing
    return Gap(*row.span, row.before[0], row.missing[0])


@cache
def holes(books: Books) -> Gaps:
    """What nobody has brought, with its size."""
    found = []
    for hole in holes_of(account_of(books), books.up_to):
        assert hole.records is not None
        assert hole.records_before is not None
        found.append(Gap(hole.first, hole.last, hole.records_before, hole.records))
    return tuple(found)


# ── small things ────────────────────────────────────────────────────────────────────────


def number_of(word: int) -> int:
    """The frame that a state word speaks of."""
    return (word + 1) // 2


@cache
def units_of(frames: Frames) -> int:
    """The units in these frames, as bits."""
    bits = 0
    for frame in frames:
        bits |= (1 << frame.end) - (1 << frame.start)
    return bits


def units_in(gaps: Gaps) -> int:
    """The units in these gaps, as bits."""
    return units_of(tuple(Frame(0, gap.before, gap.before + gap.units) for gap in gaps))


def pushed(queue: Queue, frame: Frame) -> Queue:
    """The push script: the run's last number is there already, any other is taken."""
    if frame.number == queue.last:
        return queue
    return queue._replace(
        working=(*queue.working, frame),
        last=max(queue.last, frame.number),
        overtaken=queue.overtaken or frame.number > queue.last + 1 > queue.forgot,
    )


def put(things: tuple[T, ...], one: T) -> tuple[T, ...]:
    """With one more thing, in a certain order."""
    return tuple(sorted((*things, one)))  # type: ignore[type-var]


def without(things: tuple[T, ...], one: T) -> tuple[T, ...]:
    """With one thing less."""
    at = things.index(one)
    return things[:at] + things[at + 1 :]


def collecting(state: State, at: int, what: str, frame: Frame | None, note: Note) -> State:
    """The same state, with a collector at something else."""
    me = Collector(what, frame)
    others = state.collectors
    return state._replace(collectors=(*others[:at], me, *others[at + 1 :]), note=note)


def standing(state: State, at: int, me: Subscriber) -> State:
    """The same state, with a subscriber changed in its place."""
    one, other = state.subscribers
    return state._replace(subscribers=(me, other) if at == 0 else (one, me))


def storing(state: State, at: int, me: Subscriber) -> State:
    """The same state, with a subscriber changed."""
    return state._replace(subscribers=in_order((me, state.subscribers[1 - at])))


def in_order(subscribers: Iterable[Subscriber]) -> tuple[Subscriber, Subscriber]:
    """Who of them is who doesn't matter."""
    one, other = subscribers
    return (one, other) if _rank(one) <= _rank(other) else (other, one)


def _rank(me: Subscriber) -> tuple[object, ...]:
    return me.at, me.lease, me.busy is None, me.busy or (), me.new, me.marked


def orphaned(state: State, orphan: Orphan) -> State:
    """The same state, with a busy list, or a command, that nobody owns any more."""
    if not orphan.busy and not orphan.late:
        return state
    queue = state.queue
    return state._replace(queue=queue._replace(orphans=put(queue.orphans, orphan)))


def with_session(state: State, new: Frames) -> State:
    """The same state, with a transaction that nobody waits for."""
    ledger = state.ledger
    return state._replace(ledger=ledger._replace(sessions=put(ledger.sessions, new)))


def joined(step: Step, also: Step) -> Step:
    """Both at once."""
    return step._replace(things=(*step.things, str(also)), after=also.after)
