"""A subscriber: takes frames, stores them, and only then lets the queue forget them.

One piece of work: take a lease, make batches of its frames, store them in one transaction
with their ledger rows, confirm. Killed anywhere in it, the lease is given back by recovery
and whoever takes it next finds in the ledger what was stored.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from appliance import backoff, signals
from appliance.batch import Batch, Stored
from appliance.contracts import Checkpoint, Gauge, Lease, Queue, Store, Wish, no_checkpoint
from appliance.errors import Corrupt, Unavailable
from appliance.frame import Frame, decode
from appliance.logs import Outage
from appliance.refusals import Refusals

T = TypeVar("T")

TAKE_WAIT_S = 0.5  # a stop or a heartbeat is never later than this
PAUSE_LOOK_S = 0.5
FOLD_INTERVAL_S = 5.0


class MakesBatches(Protocol):
    """Turns frames into batches (see rows.py)."""

    def batch(self, frame: Frame) -> Batch:
        """The rows of a frame."""


class Stopped(Exception):
    """Told to end while something is away."""


class Subscriber:
    """Moves frames from the queue into the store until it is told to end."""

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
        self._lease_bytes_max = lease_bytes_max
        self._checkpoint = checkpoint
        self._chance = chance
        self._monotonic = monotonic
        self._fold_at = 0.0
        self._log = logging.getLogger(f"subscriber {name}")
        self._outage = Outage(self._log, gauge, monotonic)
        self._refusals = Refusals()

    def run(self) -> None:
        """Store until told to stop; the lease in hand is finished or given back."""
        self._gauge.set("in_hand_ms", 0)  # a predecessor's lease is an orphan's by now
        try:
            self._rest_while_paused()
            self._persist("the store", self._store.prepare)
            while not self._wish.stop:
                self._rest_while_paused()
                lease = self._persist("the queue", self._take)
                if lease is not None:
                    self._work(lease)
                self._fold_sometimes()
        except Stopped:
            self._log.info("stopped while waiting")

    def _take(self) -> Lease | None:
        if self._is_paused():  # while the queue was waited for
            return None
        return self._queue.take(self._lease_bytes_max, TAKE_WAIT_S)

    # ── one lease ───────────────────────────────────────────────────────────────────────

    def _work(self, lease: Lease) -> None:
        """Store a lease and confirm it; where the queue fails in it, the lease is dropped."""
        self._checkpoint("taken")
        try:
            batches = self._batches(lease)
            self._gauge.set("in_hand_ms", _ms(min((b.first_received for b in batches), default=0)))
            self._store_or_give_back(lease, batches)
            self._checkpoint("stored")
            self._queue.confirm(lease)
        except Unavailable as error:
            # The queue has dropped its connection, name and lease: somebody else may hold the
            # frames by now, and the ledger knows what is stored.
            self._gauge.error(error.message)
            self._log.warning("a lease was dropped: %s", error.message)
            return
        finally:
            self._gauge.set("in_hand_ms", 0)
        if batches:
            self._gauge.set("stored_ms", _ms(max(batch.last_received for batch in batches)))
        self._checkpoint("confirmed")
        self._gauge.worked()

    def _batches(self, lease: Lease) -> list[Batch]:
        batches = []
        for item in lease.items:
            self._gauge.beat()
            try:
                frame = decode(item)
            except Corrupt as error:
                self._log.error("a queue item is set aside: %s", error)
                self._gauge.error(error.message)
                self._queue.set_aside(lease, item)
                continue
            batches.append(self._maker(frame.header.source).batch(frame))
        return batches

    def _maker(self, source: str) -> MakesBatches:
        """Frames of a source that is no longer configured are stored all the same."""
        if source not in self._makers:
            self._makers[source] = self._other_sources(source)
        return self._makers[source]

    def _store_or_give_back(self, lease: Lease, batches: list[Batch]) -> None:
        try:
            stored = self._persist("the store", lambda: self._store.store(batches))
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
        self._fold_at = now + FOLD_INTERVAL_S
        try:
            self._store.fold()
        except Unavailable as error:  # comfort only; the next lease waits for the store
            self._gauge.error(error.message)

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
            self._wish.wait(PAUSE_LOOK_S)
        self._gauge.waiting_for("")

    def _persist(self, what: str, act: Callable[[], T]) -> T:
        """Do it until it succeeds, waiting while `what` is away.

        Raises:
            Stopped: told to end while waiting.
        """
        attempt = 0
        while True:
            self._gauge.beat()
            try:
                result = act()
            except Unavailable as error:
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
