"""A subscriber: takes frames, stores them, and only then lets the queue forget them.

One piece of work: take a lease, make batches of its frames, store them in one transaction
with their ledger rows, confirm. Killed anywhere in it, the lease is given back by recovery
and whoever takes it next finds in the ledger what was stored. How large a lease may be follows
from what the last ones took (pace.py).

What is being parsed or stored is said to be in hand, so that the parent can tell what somebody
died of. That is written once for each frame and each transaction. A frame that was in hand at
several deaths goes alone, behind its neighbours, and record by record: poison.py judges it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from appliance import backoff, holes, poison, signals
from appliance.batch import Batch, Stored
from appliance.contracts import (
    Checkpoint,
    Gauge,
    Hold,
    Hole,
    Lease,
    Queue,
    Store,
    Wish,
    no_checkpoint,
)
from appliance.errors import Corrupt, Unavailable
from appliance.frame import Buffer, Frame, Header, decode
from appliance.logs import Outage
from appliance.pace import Pace
from appliance.refusals import Refusals

T = TypeVar("T")

WAIT_S_MAX = 5.0  # between heartbeats when nothing comes; a signal ends each wait
FOLD_INTERVAL_S = 5.0
FOLD_EARLIER_S_MAX = 1.0  # by chance: all who fold at the same moment store nothing meanwhile
FOLD_REST_S = 60.0  # behind one that failed: it may have held up everybody for some seconds
LOOK_FRAMES_MAX = 256  # of those that wait: what was given back stands in front
LOOK_AT_GAPS = "see: stream-daemon gaps; what a damaged spool still holds comes by: spool repair"
SWEEP_AGAIN_S = (0.1, 1.0)  # the queue may still list a connection that was just dropped
ALL = ""  # in place of one frame's name: all frames of the lease that go together


class MakesBatches(Protocol):
    """Turns frames into batches (see rows.py)."""

    def batch(self, frame: Frame) -> Batch:
        """The rows of a frame."""

    def batch_one_by_one(self, frame: Frame, hold: Hold, condemned: Mapping[int, str]) -> Batch:
        """The same, record by record, each named before; the condemned ones aren't touched."""


Suspect = tuple[Frame, poison.Verdict]  # a frame that others died with


class Stopped(Exception):
    """Told to end while something is away."""


class Subscriber:
    """Moves frames from the queue into the store until it is told to end.

    awaited: whom it asked last, "the queue" or "the store".
    """

    def __init__(
        self,
        name: str,
        queue: Queue,
        store: Store,
        makers: Mapping[str, MakesBatches],
        other_sources: Callable[[str], MakesBatches],
        gauge: Gauge,
        wish: Wish,
        *,
        lease_bytes_max: int,
        checkpoint: Checkpoint = no_checkpoint,
        chance: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._store = store
        self._makers = dict(makers)
        self._other_sources = other_sources
        self._gauge = gauge
        self._wish = wish
        self._pace = Pace(lease_bytes_max)
        self._checkpoint = checkpoint
        self._chance = chance
        self._monotonic = monotonic
        self._fold_at = 0.0
        self._holes: list[Hole] = []  # that the last fold has met
        self.awaited = ""
        self._dropped = False  # a connection, in a drain; frames may lie under its name
        self._log = logging.getLogger(f"subscriber {name}")
        self._outage = Outage(self._log, gauge, monotonic)
        self._refusals = Refusals()

    def run(self) -> None:
        """Store until told to stop; the lease in hand is finished or given back."""
        self._gauge.set("in_hand_ms", 0)  # a predecessor's lease is an orphan's by now
        try:
            self._rest_while_paused()
            self._prepare()
            while not self._wish.stop:
                self._rest_while_paused()
                lease = self._persist("the queue", self._take)
                self._wish.clear()  # the signal that ended this take shall not end the next one
                if lease is not None:
                    self._work(lease)
                self._fold_sometimes()
        except Stopped:
            self._log.info("stopped while waiting")

    def _prepare(self) -> None:
        """Make the store ready, and see that the queue is its own: one queue, one store."""
        self._persist("the store", self._store.prepare)
        self._gauge.set("prepared", 1)
        store = self._persist("the store", self._store.identity)
        self._persist("the queue", lambda: self._queue.bind(store))

    def _take(self) -> Lease | None:
        if self._is_paused():  # while the queue was waited for
            return None
        until_fold_s = max(0.0, self._fold_at - self._monotonic())
        return self._queue.take(self._pace.bytes, min(WAIT_S_MAX, until_fold_s))

    # ── what waits now, and no more ─────────────────────────────────────────────────────

    def drain(self, progress: Callable[[int, int], None]) -> bool:
        """Store what waits in the queue now, not what comes later; whether nothing is left of it.

        What a dead owner holds waits, too; what a living one has taken, or takes meanwhile, is
        its own. `progress` is told how many frames of how many are done.
        """
        try:
            self._persist("the queue", self._queue.sweep)
            frames = self._persist("the queue", self._queue.depth).frames
            progress(0, frames)
            if not frames:
                return True  # and the store may be away
            self._prepare()
            all_done = self._drain(frames, progress)
        except Stopped:
            return False
        self._fold()
        if self._holes:  # nobody folds behind us: so look twice at once, and go over the gaps
            self._fold()
            self._fold()
        return all_done

    def _drain(self, frames: int, progress: Callable[[int, int], None]) -> bool:
        done = 0
        while done < frames and not self._wish.stop:
            lease = self._persist("the queue", self._take_at_once)
            if lease is None:
                if not self._bring_back():
                    return not self._dropped or self._is_empty()
                continue
            if self._work(lease):
                done += lease.frames
                progress(min(done, frames), frames)
            else:
                self._dropped = True
        return done >= frames

    def _take_at_once(self) -> Lease | None:
        try:
            return self._queue.take(self._pace.bytes, 0)
        except Unavailable:
            self._dropped = True  # the reply that was lost may have been a frame
            raise

    def _bring_back(self) -> bool:
        """Give back what lies under the names that we have dropped; whether anything did."""
        for wait_s in (0.0, *SWEEP_AGAIN_S) if self._dropped else ():
            self._wish.wait(wait_s)
            if self._persist("the queue", self._queue.sweep):
                return True
        return False

    def _is_empty(self) -> bool:
        depth = self._persist("the queue", self._queue.depth)
        return depth.frames == depth.busy == 0

    # ── one lease ───────────────────────────────────────────────────────────────────────

    def _work(self, lease: Lease) -> bool:
        """Store a lease and confirm it; False: the queue failed in it, and it is dropped."""
        self._checkpoint("taken")
        try:
            batches, alone = self._batches(lease)
            spans: list[Batch | Header] = [*batches, *(frame.header for frame, _ in alone)]
            self._gauge.set("in_hand_ms", _ms(min((s.first_received for s in spans), default=0)))
            self._store_together(lease, batches)
            # News lets our backoff begin anew: not before a frame that kills and kills.
            for frame, verdict in sorted(alone, key=lambda suspect: suspect[1].news):
                self._store_alone(lease, frame, verdict)
            self._checkpoint("stored")
            self._queue.confirm(lease)
        except Unavailable as error:
            self._gauge.put_down()
            # The queue has dropped its connection, name and lease: somebody else may hold the
            # frames by now, and the ledger knows what is stored.
            self._gauge.error(error.message)
            self._log.warning("a lease was dropped: %s", error.message)
            return False
        finally:
            self._gauge.set("in_hand_ms", 0)
        if spans:
            self._gauge.set("stored_ms", _ms(max(span.last_received for span in spans)))
        self._checkpoint("confirmed")
        self._gauge.worked()
        return True

    def _batches(self, lease: Lease) -> tuple[list[Batch], list[Suspect]]:
        """What goes together and what goes alone; what can't be read is set aside."""
        batches: list[Batch] = []
        alone: list[Suspect] = []
        for item in lease.items:
            frame = self._decoded(lease, item)
            del item  # a frame is here once while its rows are made, and not at all when the next
            if frame:
                name = frame.header.name
                deaths = lease.deaths.get(name)
                if deaths and (verdict := poison.judge(deaths)).alone:
                    alone.append((frame.kept(), verdict))
                else:
                    self._gauge.in_hand(lease.owner, name)
                    batches.append(self._maker(frame.header.source).batch(frame))
            del frame  # … is read: its rows have taken its place
        return batches, alone

    def _decoded(self, lease: Lease, item: Buffer) -> Frame | None:
        """An item as a frame; None: it can't be read, and is set aside."""
        self._gauge.beat()
        try:
            return decode(item)
        except Corrupt as error:
            self._log.error("a queue item is set aside: %s", error.line)
            self._gauge.error(error.message)
        if not self._queue.set_aside(lease, item):
            self._log.error("it is lost, all %d bytes: the list of bad items is full", len(item))
        return None

    def _maker(self, source: str) -> MakesBatches:
        """Frames of a source that is no longer configured are stored all the same."""
        if source not in self._makers:
            self._makers[source] = self._other_sources(source)
        return self._makers[source]

    def _store_together(self, lease: Lease, batches: list[Batch]) -> None:
        if batches:
            frame = batches[0].name if len(batches) == 1 else ALL
            self._store_or_give_back(lease, frame, lambda: self._store_paced(batches))

    def _store_paced(self, batches: list[Batch]) -> Stored:
        """Store, and learn from how long that took how large the next lease may be."""
        began = self._monotonic()
        stored = self._store.store(batches)
        if stored.frames == len(batches):  # what was there already took no time
            size, records = sum(one.bytes for one in batches), sum(one.records for one in batches)
            self._pace.learn(size, records, self._monotonic() - began, stored.rows_s)
        return stored

    def _store_alone(self, lease: Lease, frame: Frame, verdict: poison.Verdict) -> None:
        """Store a frame that others died with: if we die, too, it is known which record did it."""
        name = frame.header.name
        deaths = len(lease.deaths[name].split())
        self._log.warning("frame %s goes alone: %d subscribers died with it", name, deaths)
        if verdict.news:  # no reason to start us again more and more slowly
            self._gauge.worked()
        self._gauge.in_hand(lease.owner, name)
        hold, maker = self._hold, self._maker(frame.header.source)
        batch = maker.batch_one_by_one(frame, hold, verdict.condemned)
        self._store_or_give_back(lease, name, lambda: self._store.store_one_by_one(batch, hold))
        for position, reason in verdict.condemned.items():
            text = f"record {position} of frame {name} is a dead letter: {reason}"
            self._gauge.error(text)
            self._log.error("%s", text)

    def _hold(self, position: int) -> None:
        """Name the record in hand; a frame of millions of them takes long."""
        self._gauge.set("position", position)
        self._gauge.beat()

    def _store_or_give_back(self, lease: Lease, frame: str, store: Callable[[], Stored]) -> None:
        def attempt() -> Stored:
            self._gauge.in_hand(lease.owner, frame)
            stored = store()
            self._gauge.put_down()
            return stored

        try:
            stored = self._persist("the store", attempt)
        except Stopped:
            self._queue.give_back(lease)
            raise
        for name in ("stored", "filtered", "dead", "lost"):
            self._gauge.add(name, getattr(stored, name))
        self._gauge.add("records", stored.stored)
        self._say_refusals(stored)

    def _say_refusals(self, stored: Stored) -> None:
        """Say when nothing but dead letters comes, and when that is over."""
        count = self._refusals.in_a_row
        if not self._refusals.note(stored):
            return
        self._gauge.refusing(self._refusals.text)
        if self._refusals.text:
            self._log.error("%s", self._refusals.text)
        else:
            self._log.info("rows are stored again after %d dead letters", count)

    def _fold_sometimes(self) -> None:
        now = self._monotonic()
        if now < self._fold_at:
            return
        self._fold_at = now + FOLD_INTERVAL_S - FOLD_EARLIER_S_MAX * self._chance()
        self._fold()

    def _fold(self) -> None:
        """Fold, and give up what was missing at the fold before already and isn't queued."""
        try:
            found = self._store.fold()
            known, self._holes = self._holes, found
            if old := holes.still_open(found, known):
                self._give_up(holes.not_queued(old, self._queue.headers(LOOK_FRAMES_MAX)))
        except Unavailable as error:  # comfort only; the next lease waits for the store
            self._gauge.error(error.message)
            self._fold_at = self._monotonic() + FOLD_REST_S

    def _give_up(self, gone: list[Hole]) -> None:
        missing = self._store.give_up(gone) if gone else []
        self._gauge.add("lost", sum(hole.records or 0 for hole in missing))
        for text in holes.sentences([hole for hole in missing if hole.records != 0]):
            self._gauge.error(text)
            self._log.error("%s → %s", text, LOOK_AT_GAPS)

    # ── waiting ─────────────────────────────────────────────────────────────────────────

    def _is_paused(self) -> bool:
        return self._gauge.get("paused") > 0

    def _rest_while_paused(self) -> None:
        """Touch neither queue nor store until the parent lets storing go on.

        Raises:
            Stopped: told to end meanwhile.
        """
        if not self._is_paused():
            return
        self._gauge.waiting_for(signals.PAUSED)
        while self._is_paused():
            if self._wish.stop:
                raise Stopped
            self._gauge.beat()
            self._wish.wait(WAIT_S_MAX)
        self._gauge.waiting_for("")

    def _persist(self, what: str, act: Callable[[], T]) -> T:
        """Do it until it succeeds, waiting while `what` is away.

        Raises:
            Stopped: told to end while waiting.
        """
        attempt = 0
        self.awaited = what
        while True:
            self._gauge.beat()
            try:
                result = act()
            except Unavailable as error:
                self._gauge.put_down()  # who dies while it waits dies of no record
                self._outage.goes_on(what, error)
            else:
                self._outage.is_over()
                return result
            if self._wish.stop:
                raise Stopped
            self._gauge.beat()
            self._wish.wait(backoff.full_jitter(attempt, self._chance()))
            attempt += 1


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
