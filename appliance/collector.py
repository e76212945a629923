"""A collector: reads one source and hands its records over, frame by frame.

One turn, in exactly this order (every other order that was tried lost or doubled):

    chunk = source.peek()      whole records, still owned by the source
    note it, W = 2n - 1        frame n is in hand
    queue.push(frame)          repeated until answered; the number makes it idempotent
    source.discard(chunk)      only now is it forgotten
    W = 2n, settle             frame n was handed over

Killed anywhere in it, a successor finds W odd and makes exactly this frame again (`_birth`),
unless some of its bytes are gone: then it had been handed over.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from appliance import backoff
from appliance.contracts import (
    Checkpoint,
    Chunk,
    Gauge,
    Push,
    Pushed,
    Queue,
    Source,
    Wish,
    no_checkpoint,
)
from appliance.errors import Occupied, Unavailable
from appliance.frame import Header, checksum, encode_header
from appliance.logs import Outage
from appliance.note import Note, NoteFile

WAIT_S_MAX = 5.0  # between heartbeats when nothing comes
ATTACH_INTERVAL_S = 5.0  # between two looks whether the queue still knows us, when nothing comes
FULL_RETRY_S = 0.2
QUEUE = "the queue (reading stops)"
AGAIN_RETRY_S = 1.0
NO_ROOM = {
    Pushed.FULL: (
        "room in the queue (reading stops)",
        Unavailable(
            "it is full", "store faster (subscribers, the database), or raise queue.bytes_max"
        ),
    ),
    Pushed.DISK_LOW: (
        "disk space (reading stops)",
        Unavailable(
            "less than disk_free_min is free where the queue keeps its data",
            "make room on the disk of state_dir, or lower disk_free_min",
            loud=True,
        ),
    ),
}
"""The answers to a push that ask for patience: what is awaited then, and why."""

FLOOD_BYTES = 128 * 1024  # a frame this large needs no pause behind it


@dataclass(slots=True)
class Sums:
    """What a run has handed over so far."""

    number: int = 0
    records: int = 0
    bytes: int = 0


class Stopped(Exception):
    """Told to end at once while the queue doesn't answer and a frame is in hand."""


class Collector:
    """Moves records of one source into the queue until the source ends or we shall."""

    def __init__(
        self,
        name: str,
        source: Source,
        queue: Queue,
        notes: NoteFile,
        gauge: Gauge,
        wish: Wish,
        *,
        new_run: Callable[[str], str],
        frame_interval_s: float,
        checkpoint: Checkpoint = no_checkpoint,
        chance: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._source = source
        self._queue = queue
        self._notes = notes
        self._gauge = gauge
        self._wish = wish
        self._new_run = new_run
        self._frame_interval_s = frame_interval_s
        self._cursor = notes.cursor
        self._checkpoint = checkpoint
        self._chance = chance
        self._monotonic = monotonic
        self._sums = Sums()
        self._told = ""
        self._attach_failures = 0
        self._attach_at = 0.0
        self._log = logging.getLogger(f"collector {name}")
        self._outage = Outage(self._log, gauge, monotonic)
        self._source_outage = Outage(self._log, gauge, monotonic)

    def run(self) -> None:
        """Collect until the source has ended. Returns when everything was handed over.

        Raises:
            Stopped: told to end quickly while the queue doesn't answer.
            Occupied: at the instance's start, another one collects this source already.
        """
        self._birth()
        while not self._is_at_end():
            chunk = self._source.peek()
            self._publish()
            if chunk is None:
                self._wait()
            else:
                self._turn(chunk)
        if not self._wish.stop:
            self._gauge.set("ended", 1)

    # ── birth ───────────────────────────────────────────────────────────────────────────

    def _birth(self) -> None:
        """Take up where the predecessor stopped, the frame in hand first."""
        self._gauge.beat()
        self._attach()
        last = self._notes.last()
        in_doubt = self._notes.in_doubt
        if last is not None:
            self._cursor = last.cursor_before if in_doubt else last.cursor_after
            self._sums = _sums_of(last, in_doubt)
        self._source.resume(self._cursor, last.claim if last else None)
        if last is not None and in_doubt:
            self._settle_doubt(last)

    def _settle_doubt(self, note: Note) -> None:
        """Frame n is in doubt, and no other: make it again, or know that it was taken."""
        chunk = self._again(note)
        if chunk is None:
            self._log.info("frame %d had been handed over", note.number)
            self._finish_turn(note)
        else:
            self._log.info("making frame %d again", note.number)
            self._hand_over(note, chunk)

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

    def _turn(self, chunk: Chunk) -> None:
        began = self._monotonic()
        note = self._note_of(chunk)
        self._checkpoint("peeked")
        self._notes.begin(note)
        self._checkpoint("noted")
        self._hand_over(note, chunk)
        self._publish()
        if len(chunk.body) < FLOOD_BYTES:
            self._pause(began + self._frame_interval_s)

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
        )

    def _hand_over(self, note: Note, chunk: Chunk) -> None:
        """Push until it is answered, forget the chunk, close the turn."""
        if not self._push(note, chunk):
            return
        self._checkpoint("pushed")
        self._source.discard(chunk)
        self._checkpoint("discarded")
        self._finish_turn(note)
        self._gauge.add("records", chunk.records)
        self._gauge.add("bytes", len(chunk.body))

    def _finish_turn(self, note: Note) -> None:
        self._notes.done(note.number)
        self._sums = Sums(note.number, note.records_after, note.bytes_after)
        if note.cursor_after is not None:
            self._cursor = note.cursor_after
        self._checkpoint("done")
        self._source.settle()
        self._gauge.worked()

    # ── the queue ───────────────────────────────────────────────────────────────────────

    def _attach(self) -> None:
        """Be known to the queue also while there is nothing to push: a second one is refused."""
        try:
            self._queue.attach()
        except Unavailable as error:
            self._queue_is_away(error)
            delay_s = backoff.full_jitter(self._attach_failures, self._chance())
            self._attach_at = self._monotonic() + delay_s
            self._attach_failures += 1
        else:
            self._queue_is_back()

    def _be_known(self) -> None:
        """Subscribers, who make room, begin when each collector was let in: so be it now."""
        if not self._gauge.get("attached"):
            self._queue.attach()
            self._gauge.set("attached", 1)

    def _queue_is_away(self, error: Unavailable) -> None:
        """It is waited for; but a newcomer goes where another instance was first."""
        if isinstance(error, Occupied) and not self._gauge.get("attached"):
            raise error
        self._outage.goes_on(QUEUE, error)

    def _queue_is_back(self) -> None:
        self._gauge.set("attached", 1)
        self._attach_failures = 0
        self._attach_at = self._monotonic() + ATTACH_INTERVAL_S
        self._outage.is_over()

    def _push(self, note: Note, chunk: Chunk) -> bool:
        """Hand the frame to the queue, however long that takes. False: it begins elsewhere."""
        push = self._push_of(note, chunk)
        attempt = 0
        while True:
            self._gauge.beat()
            try:
                answer = self._queue.push(push)
                if answer is Pushed.ELSEWHERE:
                    if self._adopted():
                        return False
                    push = self._push_of(note, chunk, force=True)
                    continue
                if answer in NO_ROOM:
                    self._be_known()
            except Unavailable as error:
                self._queue_is_away(error)
                self._wait_to_retry(backoff.full_jitter(attempt, self._chance()))
                attempt += 1
                continue
            if answer not in NO_ROOM:
                self._queue_is_back()
                return True
            self._outage.goes_on(*NO_ROOM[answer])
            self._wait_to_retry(FULL_RETRY_S)

    def _push_of(self, note: Note, chunk: Chunk, force: bool = False) -> Push:
        return Push(
            source=self._name,
            run=self._notes.run,
            number=note.number,
            header=encode_header(self._header(note, chunk)),
            body=chunk.body,
            records=note.records_after,
            bytes=note.bytes_after,
            cursor_before=note.cursor_before,
            cursor_after=note.cursor_after,
            force=force,
        )

    def _header(self, note: Note, chunk: Chunk) -> Header:
        return Header(
            run=self._notes.run,
            number=note.number,
            source=self._name,
            records=chunk.records,
            records_before=note.records_before,
            bytes_before=note.bytes_before,
            body_bytes=len(chunk.body),
            crc=checksum(chunk.body),
            first_received=chunk.first_received,
            last_received=chunk.last_received,
            cursor_before=note.cursor_before,
            cursor_after=note.cursor_after,
            rejected=chunk.rejected,
            gaps=chunk.gaps,
            skipped_bytes=chunk.skipped_bytes,
            previous=self._notes.previous,
        )

    def _adopted(self) -> bool:
        """The queue stands at another cursor than we: go on from there, under a new run.

        A new run, because a frame of the old one may be stored that the queue has forgotten.
        False if the queue forgot what we handed over: then our own cursor is the true one.
        """
        state = self._queue.source_state(self._name)
        ours = (self._notes.run, self._sums.number)
        if state is None or (self._sums.number and (state.run, state.number) < ours):
            self._log.warning("the queue has forgotten frames of this source")
            return False
        self._log.warning("the queue stands elsewhere: going on at its cursor %s", state.cursor)
        run = self._new_run(max(self._notes.run, state.run))
        self._notes.start_run(run, state.cursor)
        self._sums = Sums()
        self._cursor = state.cursor
        self._source.resume(self._cursor, None)
        return True

    # ── waiting ─────────────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        if self._wished() != self._told:
            return  # the signal came after the loop had looked, and peek may have cleared it
        self._gauge.beat()
        self._source.wait(max(0.0, min(WAIT_S_MAX, self._attach_at - self._monotonic())))
        self._gauge.beat()
        if self._monotonic() >= self._attach_at:
            self._attach()
        self._wish.wait(0)  # a signal that wants nothing may not wake us again and again

    def _pause(self, until: float) -> None:
        """Let records gather: at most one small frame an interval."""
        left_s = until - self._monotonic()
        if left_s > 0 and not self._wish.stop:
            self._wish.wait(left_s)

    def _wait_to_retry(self, delay_s: float) -> None:
        if self._wish.quick:
            hand = self._notes.last()
            assert hand
            self._log.error(
                "ended with %d records (%d bytes) in hand that could not be handed over",
                hand.records,
                hand.bytes,
            )
            raise Stopped
        self._wish.wait(delay_s)

    def _is_at_end(self) -> bool:
        """Whether the source has ended; tells it first if it shall."""
        if self._wished() != self._told:
            self._told = self._wished()
            self._source.stop(self._wish.quick)
        return self._source.ended

    def _wished(self) -> str:
        if self._wish.quick:
            return "quick"
        return "drain" if self._wish.stop else ""

    # ── what others see ─────────────────────────────────────────────────────────────────

    def _publish(self) -> None:
        records, size = self._source.at_risk
        self._gauge.set("at_risk_records", records)
        self._gauge.set("at_risk_bytes", size)
        self._gauge.set("connections", self._source.connections)
        if self._source.waiting_for:
            self._source_outage.awaits(self._source.waiting_for)
        else:
            self._source_outage.is_over()


def _sums_of(note: Note, in_doubt: bool) -> Sums:
    if in_doubt:
        return Sums(note.number - 1, note.records_before, note.bytes_before)
    return Sums(note.number, note.records_after, note.bytes_after)
