"""Recovery: gives frames of dead owners back, and watches the queue's depth.

It sweeps once before the first subscriber starts, when the parent says that a child died, and
every 60 s. A sweep right after a death may still see the dead client listed, so it is
repeated after 0.1 and 1 s. Each sweep tells the queue of the newest deaths with work in hand
(deaths.py), which it writes down beside the frames that it gives back. When the parent dies,
it waits until the other children have handed over and then ends the embedded server.

What waits in the spools of sources that are not configured any more it hands over to the queue,
at the start and as often as it sweeps: nobody else would.
"""

import logging
import time
from collections.abc import Callable, Sequence

from appliance import backoff
from appliance.contracts import Death, Gauge, Queue, Wish
from appliance.errors import Unavailable
from appliance.logs import Outage
from appliance.replay import Leftovers

SWEEP_INTERVAL_S = 60.0
SWEEP_AGAIN_S = (0.1, 1.0)
SAMPLE_INTERVAL_S = 5.0  # when the parent doesn't ask: what others do with the same queue


class Recovery:
    """Sweeps and samples until it is told to end."""

    def __init__(
        self,
        queue: Queue,
        gauge: Gauge,
        wish: Wish,
        *,
        deaths: Callable[[], Sequence[Death]] = lambda: (),
        leftovers: Leftovers | None = None,
        chance: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._gauge = gauge
        self._wish = wish
        self._deaths = deaths
        self._leftovers = leftovers
        self._replay_at = monotonic()
        self._deaths_known = 0  # those that sweeps are planned for
        self._chance = chance
        self._monotonic = monotonic
        self._sweeps = [monotonic()]  # when to sweep, soonest first
        self._failures = 0
        self._log = logging.getLogger("recovery")
        self._outage = Outage(self._log, gauge, monotonic)

    def run(self) -> None:
        """Work until told to stop."""
        while not self._wish.stop:
            self._gauge.beat()
            try:
                self._round()
            except Unavailable as error:
                self._wait_out(error)
                continue
            self._succeeded()
            self._wish.wait(self._next_wait_s())

    def last_sweep(self) -> None:
        """Give back what the subscribers left when they ended. Raises Unavailable."""
        self._sweep()

    def _round(self) -> None:
        now = self._monotonic()
        died = self._gauge.get("died")
        if died > self._deaths_known:
            self._deaths_known = died
            self._sweep_soon()
        if self._sweeps[0] <= now:
            self._sweep()
            self._sweeps = [at for at in self._sweeps if at > now] or [now + SWEEP_INTERVAL_S]
        self._sample()
        if self._leftovers and self._replay_at <= now:
            more = self._leftovers.some()
            self._gauge.set("spool_bytes", self._leftovers.size)
            self._replay_at = now if more else now + SWEEP_INTERVAL_S

    def _sweep(self) -> None:
        given_back = self._queue.sweep(self._deaths())
        if given_back:
            self._log.info("gave %d frames of dead subscribers back", given_back)
        self._gauge.add("swept", 1)
        self._gauge.worked()

    def _sample(self) -> None:
        look = self._gauge.get("look")
        depth = self._queue.depth()
        self._gauge.set("queue_frames", depth.frames)
        self._gauge.set("queue_busy", depth.busy)
        self._gauge.set("queue_bytes", depth.bytes)
        self._gauge.set("looked", look)  # last: the sample answers this look

    def _sweep_soon(self) -> None:
        """The plan for the newest death is late enough for all before it: it replaces theirs."""
        now = self._monotonic()
        self._sweeps = [now, *(now + delay_s for delay_s in SWEEP_AGAIN_S)]

    def _next_wait_s(self) -> float:
        next_at = min(self._sweeps[0], self._replay_at) if self._leftovers else self._sweeps[0]
        return max(0.0, min(SAMPLE_INTERVAL_S, next_at - self._monotonic()))

    def _wait_out(self, error: Unavailable) -> None:
        self._outage.goes_on("the queue", error)
        self._wish.wait(backoff.full_jitter(self._failures, self._chance()))
        self._failures += 1

    def _succeeded(self) -> None:
        if self._failures:
            self._outage.is_over()
            self._failures = 0
            self._sweep_soon()
