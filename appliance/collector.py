"""A collector: reads one source and hands its records over, frame by frame.

One turn, in exactly this order (every other order that was tried lost or doubled):

    chunk = source.peek()      whole records, still owned by the source
    note it, W = 2n - 1        frame n is in hand
    push it, or spool it       the queue takes it, or else this machine's disk
    source.discard(chunk)      only now is it forgotten
    W = 2n, settle             frame n was handed over

While the push is not answered, the source may get its next chunk ready (sources/ahead.py). That
reads, and nothing else: no step of a turn moves for it.

Killed anywhere in it, a successor finds W odd and makes exactly this frame again (`_birth`),
unless some of its bytes are gone: then it had been handed over.

    what there is                    where a frame goes
    ──────────────────────────────   ─────────────────────────────────────────────────────────
    an empty spool                   into the queue; into the spool if it takes none now
    frames in the spool              behind them; a few of them go into the queue each turn
    no room in the spool either      who sends waits, and both are tried in turn; if he can't
                                     wait, it is dropped, and its number is a hole in the ledger

So frames reach the queue in their order, and the frame in doubt goes the same way as any other:
neither queue nor spool has to be asked for it. Where the queue stands is compared with where we
stand on each new connection, and now and then: what it forgot is made visible (`_look`).
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from appliance import backoff
from appliance.contracts import (
    Checkpoint,
    Chunk,
    Gauge,
    Pushed,
    Queue,
    Source,
    SourceState,
    Spool,
    Spooled,
    Wish,
    no_checkpoint,
)
from appliance.errors import Occupied, Unavailable
from appliance.frame import Header, RunEnd, checksum, encode_header
from appliance.logs import Outage
from appliance.note import KILLED, SPOOL_FULL, Note, NoteFile
from appliance.replay import DONE, QUEUE_FORGOT, Line, Replay, Unreadable, end_of, is_behind

WAIT_S_MAX = 5.0  # between heartbeats when nothing comes
LOOK_INTERVAL_S = 5.0  # between two looks whether the queue still knows us, when nothing comes
FULL_RETRY_S = 0.2
ROOM_RETRY_S = 1.0  # between two tries whether the spool has room, while the queue is away
AGAIN_RETRY_S = 1.0
REPLAY_FRAMES = 8  # out of the spool in one turn, which puts one in: it shrinks in a flood, too
QUEUE = "the queue (records go to the spool)"
SPOOL = "the disk of the spool (what is in it waits)"
NO_ROOM = {
    Pushed.FULL: (
        "room in the queue (records go to the spool)",
        Unavailable(
            "it is full", "store faster (subscribers, the database), or raise queue.bytes_max"
        ),
    ),
    Pushed.DISK_LOW: (
        "disk space for the queue",
        Unavailable(
            "less than disk_free_min is free where the queue keeps its data",
            "make room on the disk of state_dir, or lower disk_free_min",
            loud=True,
        ),
    ),
}
"""The answers to a push that ask for patience: what is awaited then, and why."""

ROOM = "room in the spool (reading stops)"
ROOM_OR_DROP = "room in the spool (records are dropped)"

FLOOD_BYTES = 128 * 1024  # a frame this large needs no pause behind it

T = TypeVar("T")


class Kept(Enum):
    """What became of a frame."""

    SAFE = "safe"  # the queue or the spool has it
    DROPPED = "dropped"  # neither takes it, and its source can't wait
    VOID = "void"  # another position was adopted: the source shows its records again


@dataclass(slots=True)
class Sums:
    """What a run has handed over so far."""

    number: int = 0
    records: int = 0
    bytes: int = 0


class Stopped(Exception):
    """Told to end at once while neither queue nor spool takes the frame in hand."""


class Collector:
    """Moves records of one source into the queue until the source ends or we shall."""

    def __init__(
        self,
        name: str,
        source: Source,
        queue: Queue,
        spool: Spool,
        notes: NoteFile,
        gauge: Gauge,
        wish: Wish,
        *,
        new_run: Callable[[str], str],
        frame_interval_s: float,
        checkpoint: Checkpoint = no_checkpoint,
        chance: Callable[[], float],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._source = source
        self._queue = queue
        self._spool = spool
        self._notes = notes
        self._gauge = gauge
        self._wish = wish
        self._new_run = new_run
        self._frame_interval_s = frame_interval_s
        self._cursor = notes.cursor
        self._checkpoint = checkpoint
        self._chance = chance
        self._clock = clock
        self._monotonic = monotonic
        self._sums = Sums()
        self._told = ""
        self._failures = 0
        self._insisted = False
        self._resting = False  # the queue took nothing: it isn't asked before _ask_at
        self._ask_at = 0.0
        self._log = logging.getLogger(f"collector {name}")
        self._outage = Outage(self._log, gauge, monotonic)
        self._room = Outage(self._log, gauge, monotonic)
        self._source_outage = Outage(self._log, gauge, monotonic)
        self._line = Line(name, queue, self._say_forgotten)
        self._replay = Replay(self._line, spool, checkpoint)

    def run(self) -> None:
        """Collect until the source has ended. Returns when everything was handed over.

        Told to stop, it leaves what is in the spool to its successor.

        Raises:
            Stopped: told to end quickly, or to leave, while neither queue nor spool takes the
                frame in hand.
            Occupied: at the instance's start, another one collects this source already.
        """
        self._birth()
        self._collect()
        if not self._spool.size and self._may_ask and self._end() is not None:
            self._look()
            self._collect()  # the last look may have left something in the spool
        self._leave()

    def _collect(self) -> None:
        while not self._is_at_end():
            self._step()

    # ── birth ───────────────────────────────────────────────────────────────────────────

    def _birth(self) -> None:
        """Take up where the predecessor stopped, the frame in hand first."""
        self._gauge.beat()
        self._open_spool()
        if self._ask(self._attach):
            self._ask_at = self._monotonic()  # a look comes next
        last = self._notes.last()
        in_doubt = self._notes.in_doubt
        self._cursor = self._notes.cursor
        if last is not None:
            self._cursor = last.cursor_before if in_doubt else last.cursor_after
            self._sums = _sums_of(last, in_doubt)
        self._source.resume(self._cursor, last.claim if last else None)
        if last is not None and in_doubt:
            self._settle_doubt(last)

    def _open_spool(self) -> None:
        """See what a predecessor has left; the note may be older than that (another boot)."""
        self._spool.open()
        with suppress(Unavailable):  # it is said when it has to be waited for
            self._replay.oldest()
        self._say_notices()
        if self._spool.size:
            self._log.info("%d bytes wait in the spool", self._spool.size)
        newest = self._spool.newest
        if newest is not None and _is_later(newest, self._noted()):
            self._begin_run(newest.cursor_after, end_of(newest))

    def _noted(self) -> tuple[str, int]:
        """Run and number of the newest frame that the note file speaks of."""
        last, previous = self._notes.last(), self._notes.previous
        if last is not None:
            return self._notes.run, last.number
        return (previous.run, previous.number) if previous else ("", 0)

    def _begin_run(self, cursor: str | None, behind: RunEnd) -> None:
        """Frames count from 1 again, later than all that there were."""
        run = self._new_run(max(self._notes.run, behind.run))
        self._notes.start_run(run, cursor, behind)
        self._sums = Sums()
        self._cursor = cursor

    def _settle_doubt(self, note: Note) -> None:
        """Frame n is in doubt, and no other: make it again, or know what became of it."""
        if note.made:
            self._hand_over(note, None)
            return
        chunk = self._again(note)
        if chunk is not None:
            self._log.info("making frame %d again", note.number)
            self._hand_over(note, chunk)
        elif self._source.fleeting and not self._is_spooled(note):
            self._log.warning("frame %d was in hand: it is lost, or it arrived", note.number)
            self._notes.may_miss(note.number, KILLED)
            self._finish_turn(note)
        else:
            self._log.info("frame %d had been handed over", note.number)
            self._finish_turn(note)

    def _is_spooled(self, note: Note) -> bool:
        newest = self._spool.newest
        return newest is not None and (newest.run, newest.number) == (self._notes.run, note.number)

    def _again(self, note: Note) -> Chunk | None:
        """The noted chunk, as soon as the source can be read (a disk may be away)."""
        while True:
            self._gauge.beat()
            try:
                return self._source.again(note.claim)
            except Unavailable as error:
                self._outage.goes_on("the source", error)
                self._wait_to_retry(AGAIN_RETRY_S)

    # ── a turn ──────────────────────────────────────────────────────────────────────────

    def _step(self) -> bool:
        """One turn if the source shows something, else what there is to do; whether it did."""
        chunk = None if self._source.ended else self._source.peek()
        self._publish()
        if chunk is not None:
            self._turn(chunk)
            return True
        if self._may_replay:
            return self._replay_some()
        self._wait()
        return False

    def _turn(self, chunk: Chunk) -> None:
        began = self._monotonic()
        note = self._note_of(chunk)
        self._checkpoint("peeked")
        self._notes.begin(note)
        self._checkpoint("noted")
        self._hand_over(note, chunk)
        self._publish()
        if self._may_replay:
            self._replay_some()
        interval_s = self._frame_interval_s if len(chunk.body) < FLOOD_BYTES else 0.0
        self._pause(began + max(interval_s, chunk.rest_s))

    def _note_of(self, chunk: Chunk) -> Note:
        return Note(
            number=self._sums.number + 1,
            records_before=self._sums.records,
            bytes_before=self._sums.bytes,
            records=chunk.records,
            bytes=len(chunk.body),
            first_received=chunk.first_received,
            last_received=chunk.last_received,
            claim=chunk.claim,
            cursor_before=self._cursor,
            cursor_after=chunk.cursor_after,
            hole=self._hole(),
        )

    def _hole(self) -> str | None:
        """Why frames directly before the next one may be missing, if something is known."""
        missing = self._notes.missing
        if missing is not None:
            return missing.cause
        return None if self._spool.size else self._replay.hole

    def _hand_over(self, note: Note, chunk: Chunk | None) -> None:
        """Have queue or spool take the frame, forget the chunk, close the turn."""
        kept = self._keep(self._frame_of(note, chunk))
        if kept is Kept.VOID:
            return
        self._checkpoint("pushed")
        if kept is Kept.DROPPED:
            self._notes.may_miss(note.number, SPOOL_FULL)
            self._gauge.add("dropped", note.records)
        else:
            self._notes.arrived()
        if chunk is not None:
            self._source.discard(chunk)
            self._checkpoint("discarded")
        self._finish_turn(note)
        if chunk is not None and kept is Kept.SAFE:
            self._gauge.add("records", chunk.records)
            self._gauge.add("bytes", len(chunk.body))

    def _finish_turn(self, note: Note) -> None:
        self._notes.done(note.number)
        self._sums = Sums(note.number, note.records_after, note.bytes_after)
        if note.cursor_after is not None:
            self._cursor = note.cursor_after
        self._checkpoint("done")
        if not note.made:
            self._source.settle()
        self._gauge.worked()

    def _frame_of(self, note: Note, chunk: Chunk | None) -> Spooled:
        header = self._header(note, chunk)
        return Spooled(header, encode_header(header), chunk.body if chunk else b"")

    def _header(self, note: Note, chunk: Chunk | None) -> Header:
        body, records = (chunk.body, chunk.records) if chunk else (b"", 0)
        return Header(
            run=self._notes.run,
            number=note.number,
            source=self._name,
            records=records,
            records_before=note.records_before,
            bytes_before=note.bytes_before,
            body_bytes=len(body),
            crc=checksum(body) if chunk is None or chunk.crc is None else chunk.crc,
            first_received=note.first_received,
            last_received=note.last_received,
            cursor_before=note.cursor_before,
            cursor_after=note.cursor_after,
            rejected=chunk.rejected if chunk else {},
            gaps=chunk.gaps if chunk else (),
            skipped_bytes=chunk.skipped_bytes if chunk else 0,
            previous=self._notes.previous,
            hole=note.hole,
            lacks=note.records - records or None,
            lacks_bytes=note.bytes - len(body) or None,
        )

    # ── where a frame goes ──────────────────────────────────────────────────────────────

    def _keep(self, frame: Spooled) -> Kept:
        """Into the queue if the spool is empty, else, or if it takes none, into the spool.

        Where neither has room it is dropped, or both are tried again, however long that takes.
        """
        run = self._notes.run
        while self._notes.run == run:
            if not self._spool.size and self._may_ask:
                answer = self._ask(lambda: self._line.push(frame))
                if answer in DONE:
                    self._room.is_over()
                    self._replay.hole = None
                    return Kept.SAFE
                if answer is Pushed.ELSEWHERE:
                    self._adopt()
                    continue
            if self._append(frame):
                return Kept.SAFE
            if not self._source.patient:
                return Kept.DROPPED
            self._wait_to_retry(self._room_retry_s())
            if self._may_replay:
                self._replay_some()
        return Kept.VOID

    def _append(self, frame: Spooled) -> bool:
        """Whether the spool takes it."""
        self._gauge.beat()
        try:
            self._spool.append(frame.line, frame.body)
        except Unavailable as error:
            self._room.goes_on(ROOM if self._source.patient else ROOM_OR_DROP, error)
            return False
        self._room.is_over()
        self._gauge.set("spool_bytes", self._spool.size)
        return True

    def _room_retry_s(self) -> float:
        if not self._resting:
            return FULL_RETRY_S
        return min(ROOM_RETRY_S, max(0.0, self._ask_at - self._monotonic()))

    @property
    def _may_replay(self) -> bool:
        return self._spool.size > 0 and self._may_ask

    def _replay_some(self) -> bool:
        """Hand a few frames of the spool over, oldest first; whether the queue took them."""
        answer = self._ask(self._replay_frames)
        self._say_notices()
        self._gauge.set("spool_bytes", self._spool.size)
        if answer is Pushed.ELSEWHERE:
            self._adopt()
        elif answer in DONE:
            self._gauge.worked()
        if not self._spool.size:
            self._say_replayed()
        return answer in DONE

    def _replay_frames(self) -> Pushed:
        try:
            return self._replay.some(REPLAY_FRAMES)
        except Unreadable:
            self._attach()  # the queue wasn't asked: others wait until it has let us in
            self._gauge.set("attached", 1)
            raise

    def _adopt(self) -> None:
        """The queue stands at another cursor than we: go on from there, under a new run.

        A new run, because a frame of the old one may be stored that the queue has forgotten.
        First the note, then the spool: its frames lie before the cursor, or are read again.
        """
        newest = self._spool.newest
        if newest and newest.cursor_after is None:
            self._insist()
            return
        state = self._line.state
        assert state is not None, "a queue that knows nothing is nowhere"
        self._log.warning("the queue stands elsewhere: going on at its cursor %s", state.cursor)
        self._begin_run(state.cursor, _end_at(state))
        self._checkpoint("adopted")
        self._spool.drop()
        self._checkpoint("dropped")
        self._source.resume(self._cursor, None)

    def _insist(self) -> None:
        """Its kind was changed: the source can't show again what waits, so nothing is dropped."""
        if not self._insisted:
            self._insisted = True
            self._log.error(
                "the queue stands elsewhere than what waits in the spool, and the source can't show"
                " it again: it is handed over all the same, and some records may be stored twice"
            )
        self._line.insist()

    # ── the queue ───────────────────────────────────────────────────────────────────────

    @property
    def _may_ask(self) -> bool:
        return not self._resting or self._monotonic() >= self._ask_at

    def _ask(self, act: Callable[[], T]) -> T | None:
        """Speak to the queue; None when it doesn't answer: then it is left alone for a while.

        Raises:
            Occupied: another instance was here before us, and we have never been let in.
        """
        self._gauge.beat()
        try:
            answer = act()
        except Unavailable as error:
            if isinstance(error, Occupied) and not self._gauge.get("attached"):
                raise
            self._outage.goes_on(SPOOL if isinstance(error, Unreadable) else QUEUE, error)
            self._rest(backoff.full_jitter(self._failures, self._chance()))
            self._failures += 1
            return None
        if not self._queue.owner:
            return answer  # there was nothing to hand over after all
        # Subscribers, who make room, begin when each collector was let in: so be it now.
        self._gauge.set("attached", 1)
        self._failures = 0
        if isinstance(answer, Pushed) and answer in NO_ROOM:
            self._outage.goes_on(*NO_ROOM[answer])
            self._rest(FULL_RETRY_S)
        else:
            self._resting = False
            self._ask_at = self._monotonic() + LOOK_INTERVAL_S
            self._outage.is_over()
        return answer

    def _rest(self, delay_s: float) -> None:
        self._resting = True
        self._ask_at = self._monotonic() + delay_s

    def _attach(self) -> bool:
        """Be known to the queue also while there is nothing to push: a second one is refused."""
        self._queue.attach()
        return True

    def _look(self) -> None:
        """See whether the queue still stands where we do; if not, show the ledger where that is.

        An empty frame does it: its number and its sums tell what is missing before it. Then the
        queue stands where we do again.
        """
        if self._ask(self._ask_where) is None or not is_behind(self._line.state, self._end()):
            return
        self._make_frame(self._why_behind())

    def _why_behind(self) -> str:
        """Why the queue lacks frames, said where nobody has said it yet.

        Behind damaged segments nobody can tell whether it has forgotten some, too.
        """
        if self._replay.hole:
            return self._hole() or self._replay.hole
        missing = self._notes.missing
        forgot = self._line.lacks(self._end_before(missing.first) if missing else self._end())
        return missing.cause if missing and not forgot else QUEUE_FORGOT

    def _ask_where(self) -> bool:
        self._line.ask()
        return True

    def _end(self) -> RunEnd | None:
        """Where we stand: the last frame, or how the run before ended."""
        if not self._sums.number:
            return self._notes.previous
        return RunEnd(self._notes.run, self._sums.number, self._sums.records, self._sums.bytes)

    def _end_before(self, first: int) -> RunEnd | None:
        """Where we stood before frame `first`; the sums are those of today."""
        if first == 1:
            return self._notes.previous
        return RunEnd(self._notes.run, first - 1, self._sums.records, self._sums.bytes)

    def _make_frame(self, hole: str) -> None:
        """Hand over a frame of our own, of no records; the source never sees it."""
        last, now = self._notes.last(), self._clock()
        note = Note(
            number=self._sums.number + 1,
            records_before=self._sums.records,
            bytes_before=self._sums.bytes,
            records=0,
            bytes=0,
            first_received=now,
            last_received=now,
            claim=last.claim if last else None,
            cursor_before=self._cursor,
            cursor_after=self._cursor,
            hole=hole,
            made=True,
        )
        self._notes.begin(note)
        self._checkpoint("noted")
        self._hand_over(note, None)

    # ── waiting ─────────────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        if self._wished() != self._told or self._is_over:
            return  # the signal came after the loop had looked, and peek may have cleared it
        self._gauge.beat()
        timeout_s = max(0.0, min(WAIT_S_MAX, self._ask_at - self._monotonic()))
        (self._wish if self._source.ended else self._source).wait(timeout_s)
        self._gauge.beat()
        if not self._spool.size and self._monotonic() >= self._ask_at:
            self._look()
        self._wish.wait(0)  # a signal that wants nothing may not wake us again and again

    def _pause(self, until: float) -> None:
        """Let records gather: at most one small frame an interval, and few visits to senders."""
        left_s = until - self._monotonic()
        if left_s > 0 and not self._wish.stop:
            self._wish.wait(left_s)

    def _wait_to_retry(self, delay_s: float) -> None:
        if self._wish.leave and not self._source.fleeting:
            raise Stopped  # the successor makes it again
        if self._wish.quick or self._wish.leave:
            hand = self._notes.last()
            assert hand
            self._log.error(
                "ended with %d records (%d bytes) in hand that could not be handed over",
                hand.records,
                hand.bytes,
            )
            raise Stopped
        self._wish.wait(delay_s)

    # ── the end ─────────────────────────────────────────────────────────────────────────

    def _is_at_end(self) -> bool:
        """Whether we have ended; tells the source first if it shall."""
        if self._wished() != self._told:
            self._told = self._wished()
            if self._wish.leave:
                self._source.leave()
            else:
                self._source.stop(self._wish.quick)
        return self._is_over

    @property
    def _is_over(self) -> bool:
        """Whether the source has ended; if by itself, nothing may be left in the spool."""
        return self._source.ended and (self._wish.stop or not self._spool.size)

    def _leave(self) -> None:
        """Nothing comes any more: say what is left."""
        self._publish()
        if self._spool.size:
            text = "%d bytes stay in the spool: they are handed over at the next start"
            self._log.warning(text, self._spool.size)
        if not self._wish.stop:
            self._gauge.set("ended", 1)

    def _wished(self) -> str:
        if self._wish.leave:
            return "leave"
        if self._wish.quick:
            return "quick"
        return "drain" if self._wish.stop else ""

    # ── what others see ─────────────────────────────────────────────────────────────────

    def _publish(self) -> None:
        records, size = self._source.at_risk
        self._gauge.set("at_risk_records", records)
        self._gauge.set("at_risk_bytes", size)
        self._gauge.set("connections", self._source.connections)
        self._gauge.set("spool_bytes", self._spool.size)
        if self._source.waiting_for:
            self._source_outage.awaits(self._source.waiting_for)
        else:
            self._source_outage.is_over()

    def _say_replayed(self) -> None:
        done = self._replay
        if done.frames:
            text = "handed over out of the spool: %d frames with %d records (%d bytes)"
            self._log.info(text, done.frames, done.records, done.bytes)
        done.frames = done.records = done.bytes = 0

    def _say_notices(self) -> None:
        for notice in self._spool.notices():
            self._log.error("%s", notice)
            self._gauge.error(notice)

    def _say_forgotten(self, text: str) -> None:
        self._log.error("%s", text)
        self._gauge.error(text)


def _sums_of(note: Note, in_doubt: bool) -> Sums:
    if in_doubt:
        return Sums(note.number - 1, note.records_before, note.bytes_before)
    return Sums(note.number, note.records_after, note.bytes_after)


def _end_at(state: SourceState) -> RunEnd:
    return RunEnd(state.run, state.number, state.records, state.bytes)


def _is_later(header: Header, noted: tuple[str, int]) -> bool:
    return (header.run, header.number) > noted
