"""The play itself: send, kill, restart, and look, for the given time.

What is killed is one of the processes that the instance names in `status`, or its own embedded
server, whose lock lies in its own directory. One child isn't killed again before it is back.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable

from appliance import process
from appliance.errors import Exit, Unavailable
from appliance.instance import Instance
from appliance.settings import Config
from appliance.verbs.progress import Progress
from appliance.verbs.rehearse.feeds import Feed, Numbers, feed_for
from appliance.verbs.rehearse.measures import (
    Death,
    Measures,
    Report,
    ServerDeath,
    children,
    stored,
)
from appliance.verbs.staged import InstanceFailed, Staged, kill_child

READY_S_MAX = 60.0
SETTLE_S_MAX = 60.0  # without one record more
TICK_S = 0.01
TICK_LATE_S_MAX = 0.1  # a loop that comes later than this doesn't make up for it
LOOK_EVERY_S = 0.05
KILL_EVERY_S = (0.7, 3.0)  # at most and at least so often; else twenty times in all
RESTART_EVERY_S = 20.0
STOP_LAST_S = 15.0  # beside drain_s, before a stop has failed
SERVER = "embedded server"
STOPPED = (Exit.OK, Exit.TIMED_OUT)  # the second one leaves the rest queued, safely


class Play:
    """One rehearsal. After `run`, `wait_until_accounted` and `stop` it knows what was sent."""

    def __init__(
        self,
        staged: Staged,
        instance: Instance,
        config: Config,
        *,
        seconds: float,
        rate: float,
        restarts: bool,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.seconds = seconds
        self.restarts = 0
        self._rate = rate
        self._restarts_wanted = max(1, round(seconds / RESTART_EVERY_S)) if restarts else 0
        self._seed = seed
        self._staged = staged
        self._instance = instance
        self._config = config
        self._dice = random.Random(seed)
        self._clock = clock
        self._feeds: dict[str, Feed] = {}
        self._measures = Measures(0.0)
        self._killed: Counter[str] = Counter()
        self._due = self._ticked = self._looked = 0.0
        self._report: Report | None = None
        self.exit_code = Exit.OK

    @property
    def sent(self) -> dict[str, int]:
        """Records that were handed over, by source."""
        return {name: feed.sent for name, feed in self._feeds.items()}

    @property
    def numbers(self) -> dict[str, Numbers]:
        """How the records of each source are made."""
        return {name: feed.numbers for name, feed in self._feeds.items()}

    @property
    def lines(self) -> list[str]:
        """What was measured, as scripts read it."""
        measures = self._measures
        return [
            f"kills {measures.kills}",
            f"restarts {self.restarts}",
            f"longest_pause_ms {measures.longest_pause_s * 1000:.0f}",
            f"slowest_recovery_ms {measures.slowest_s * 1000:.0f}",
        ]

    @property
    def complaints(self) -> list[str]:
        """What the lines don't say, in words."""
        broken = {name: feed.broken for name, feed in self._feeds.items() if feed.broken}
        said = [f"source {name}: {count} connections broke" for name, count in broken.items()]
        if self._measures.slowest:
            said.append(f"the slowest recovery was that of {self._measures.slowest}")
        return said

    # ── the time that was asked for ─────────────────────────────────────────────────────

    def run(self, progress: Progress) -> None:
        """Send and kill, until the time is over.

        Raises:
            InstanceFailed: the instance ended by itself, isn't ready in time, or doesn't read.
        """
        progress.say(
            f"{self.seconds:g} s with seed {self._seed}, {self._rate:g} records/s into"
            f" {', '.join(self._config.sources)}; instance in {self._instance.directory}"
        )
        self._wait_until_ready()
        self._open()
        began = self._clock()
        self._measures = Measures(began)
        self._ticked = began
        kill_at = began + self._until_next_kill()
        restarts_at = self._restart_times(began)
        while (now := self._tick(progress, began)) - began < self.seconds:
            if now >= kill_at:
                kill_at = now + self._until_next_kill()
                self._kill(progress, now)
            if restarts_at and now >= restarts_at[0]:
                restarts_at.pop(0)
                self._restart(progress, began)
            self._staged.pause(TICK_S)
        self._measures.end(self._clock())
        self._finish()

    def _open(self) -> None:
        self._feeds = {
            name: feed_for(name, source, self._seed)
            for name, source in self._config.sources.items()
        }

    def _wait_until_ready(self) -> None:
        deadline = self._clock() + READY_S_MAX
        while self._clock() < deadline:
            report = self._staged.report()
            if report is not None and report["ready"]:
                return
            self._staged.pause(LOOK_EVERY_S)
        raise InstanceFailed(
            f"the rehearsal's instance wasn't ready within {READY_S_MAX:.0f} s",
            "see what it waits for with: stream-daemon check",
        )

    def _tick(self, progress: Progress, began: float) -> float:
        """Send what is due, and look now and then; the time."""
        now = self._clock()
        self._due += self._rate * min(now - self._ticked, TICK_LATE_S_MAX)
        self._ticked = now
        share = int(self._due / len(self._feeds))
        self._due -= share * len(self._feeds)
        for feed in self._feeds.values():
            feed.send(share)
        if now - self._looked >= LOOK_EVERY_S:
            self._looked = now
            self._report = self._staged.report()
            if self._report is not None:
                self._measures.look(self._report, self._clock())
            progress.show(self._figures(), now - began)
        return now

    def _figures(self) -> str:
        rows = stored(self._report) if self._report else 0
        return (
            f"sent {sum(self.sent.values()):>8}  stored {rows:>8}"
            f"  kills {self._measures.kills:>3}  restarts {self.restarts}"
        )

    def _finish(self) -> None:
        """Hand over what is made, and close."""
        deadline = self._clock() + SETTLE_S_MAX
        while not all(feed.is_done for feed in self._feeds.values()):
            if self._clock() > deadline:
                raise InstanceFailed("the rehearsal's instance doesn't read any more")
            for feed in self._feeds.values():
                feed.send(0)
            self._staged.pause(TICK_S)
        for feed in self._feeds.values():
            feed.close()

    # ── killing ─────────────────────────────────────────────────────────────────────────

    def _until_next_kill(self) -> float:
        low, high = KILL_EVERY_S
        usual = min(high, max(low, self.seconds / 20))
        return usual * self._dice.uniform(0.5, 1.5)

    def _kill(self, progress: Progress, now: float) -> None:
        """Kill one process of the instance, one of those that were killed the fewest times."""
        report = self._report
        if report is None:
            return
        deaths = [Death(one.name, one.pid, one.work, now) for one in children(report)]
        deaths += [
            ServerDeath(SERVER, pid, stored(report), now)
            for pid in process.holders(self._instance.queue / "valkey.lock")
        ]
        free = [death for death in deaths if not self._measures.awaits(death.name)]
        fewest = min((self._killed[death.name] for death in free), default=0)
        rarest = [death for death in free if self._killed[death.name] == fewest]
        if rarest and kill_child((death := self._dice.choice(rarest)).pid, report["pid"]):
            self._killed[death.name] += 1
            self._measures.died(death)
            progress.say(f"killed {death.name} (pid {death.pid})")

    # ── restarting ──────────────────────────────────────────────────────────────────────

    def _restart_times(self, began: float) -> list[float]:
        count = self._restarts_wanted
        return [began + self.seconds * (index + 1) / (count + 1) for index in range(count)]

    def _restart(self, progress: Progress, began: float) -> None:
        """Stop the instance in order while sending goes on, and start it again."""
        self._staged.ask_to_stop()
        deadline = self._clock() + self._config.drain_s
        while not self._staged.has_ended(TICK_S):
            self._tick(progress, began)
            if self._clock() > deadline:
                break
        self._note_exit(self._staged.stopped(STOP_LAST_S))
        self._staged.start()
        self.restarts += 1
        self._measures.restarted()
        progress.say("stopped the instance and started it again")

    def stop(self) -> None:
        """Stop the instance in order."""
        self._note_exit(self._staged.stop())

    def _note_exit(self, code: int) -> None:
        if code not in STOPPED:
            self.exit_code = Exit(code) if code in set(Exit) else Exit.INTERNAL

    # ── the end ─────────────────────────────────────────────────────────────────────────

    def wait_until_accounted(self, accounted: Callable[[], int], progress: Progress) -> None:
        """Until the ledger has all that was sent; if it doesn't come, the verdict will say it."""
        total, seen = sum(self.sent.values()), -1
        deadline = math.inf
        while (now_seen := _or_zero(accounted)) < total:
            if now_seen > seen:
                seen, deadline = now_seen, self._clock() + SETTLE_S_MAX
            if self._clock() >= deadline:
                progress.say(f"only {seen} of {total} records are accounted for")
                return
            progress.show(f"waiting for the last records: {seen} of {total}", self.seconds)
            self._staged.pause(LOOK_EVERY_S)


def _or_zero(accounted: Callable[[], int]) -> int:
    try:
        return accounted()
    except Unavailable:  # it is busy: look again
        return 0
