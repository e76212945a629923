"""A collector in a world of its own: fake source, queue and spool, a real note file, no time.

`Records` is what outlives a killed collector, as a kernel's buffer or a file does; the spool's
`MemoryDisk` and the queue's `MemoryRedis` outlive it, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from appliance import backoff
from appliance.collector import Collector
from appliance.contracts import NOTHING_AT_RISK, AtRisk, Chunk, Push, Pushed
from appliance.errors import Unavailable
from appliance.frame import Frame, decode
from appliance.note import NoteFile, later_run, open_note
from tests.fake_queue import Killed, MemoryQueue, MemoryRedis
from tests.fake_role import FakeClock, FakeGauge, FakeWish
from tests.fake_spool import MemoryDisk, MemorySpool

BOOT, OTHER_BOOT = "b" * 32, "c" * 32
CHANCE = 0.5
INTERVAL_S = 0.005
RECEIVED = 1_700_000_000.0


@dataclass
class Records:
    """What a source reads from, one frame's body after the other; outlives its reader."""

    bodies: list[bytes]
    has_cursor: bool = False
    discarded: int = 0
    ends: bool = True


class FakeSource:
    """Shows Records a body at a time; tells `trace` of each call (contract: Source)."""

    fleeting = False
    at_risk = NOTHING_AT_RISK  # what a fleeting one shows, if this one is
    patient = True
    waiting_for = ""
    connections = 3

    def __init__(self, records: Records, clock: FakeClock, trace: Callable[[str], None]) -> None:
        self.records = records
        self.again_errors: list[Unavailable] = []
        self.at_peek: list[Callable[[], None]] = []
        self.resumed: list[tuple[str | None, Any]] = []
        self.stops: list[bool] = []
        self.left = False
        self.extra: dict[str, Any] = {}
        self._position = 0
        self._clock = clock
        self._trace = trace

    @property
    def ended(self) -> bool:
        return self.left or bool(self.stops) or (self.records.ends and not self._left())

    def _left(self) -> int:
        return len(self.records.bodies) - self._at()

    def _at(self) -> int:
        return self._position if self.records.has_cursor else self.records.discarded

    def resume(self, cursor: str | None, claim: Any) -> None:
        self._trace("resume")
        self.resumed.append((cursor, claim))
        self._position = int(cursor or 0)

    def again(self, claim: Any) -> Chunk | None:
        self._trace("again")
        if self.again_errors:
            raise self.again_errors.pop(0)
        if not self.records.has_cursor and self.records.discarded > claim["at"]:
            return None
        return self._chunk(claim["at"])

    def peek(self) -> Chunk | None:
        self._trace("peek")
        if self.at_peek:
            self.at_peek.pop(0)()
        chunk = self._chunk(self._at()) if self._left() else None
        if chunk and self.fleeting:
            self.at_risk = AtRisk(chunk.records, len(chunk.body))
        return chunk

    def discard(self, chunk: Chunk) -> None:
        self._trace("discard")
        self.at_risk = NOTHING_AT_RISK
        self.records.discarded = self._position = chunk.claim["at"] + 1

    def settle(self) -> None:
        self._trace("settle")

    def wait(self, timeout_s: float) -> None:
        self._trace("wait")
        self._clock.sleep(timeout_s)

    def stop(self, quick: bool) -> None:
        self._trace("stop")
        self.stops.append(quick)

    def leave(self) -> None:
        self._trace("leave")
        self.left = True

    def close(self) -> None:
        """Nothing is held open."""

    def _chunk(self, at: int) -> Chunk:
        body = self.records.bodies[at]
        cursors = (str(at), str(at + 1)) if self.records.has_cursor else (None, None)
        received = (RECEIVED + at, RECEIVED + at + 0.5)
        return Chunk(body, body.count(b"\n"), {"at": at}, *received, *cursors, **self.extra)


class TracedQueue(MemoryQueue):
    """Keeps each push as it was asked for; `before_push` runs at each."""

    def __init__(
        self, server: MemoryRedis, trace: Callable[[str], None], instance: str = ""
    ) -> None:
        super().__init__(server, "collector", instance=instance)
        self.pushes: list[Push] = []
        self.before_push: Callable[[], None] = lambda: None
        self._trace = trace

    def push(self, push: Push) -> Pushed:
        self._trace("push")
        self.pushes.append(replace(push, body=bytes(push.body)))
        self.before_push()
        return super().push(push)


@dataclass
class Life:
    """One collector's process, and everything that it was given."""

    collector: Collector
    source: FakeSource
    queue: TracedQueue
    spool: MemorySpool
    notes: NoteFile
    gauge: FakeGauge
    wish: FakeWish
    trace: list[tuple[str, int]] = field(default_factory=list)

    def steps(self) -> list[str]:
        return [step for step, _word in self.trace]

    def run(self) -> None:
        self.collector.run()


class World:
    """What stays while collectors come and go."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.redis = MemoryRedis()
        self.disk = MemoryDisk()
        self.records = Records([])
        self.path = directory / "tweets.note"
        self.clock_ms = 1_000_000
        self.lives: list[Life] = []

    def feed(self, *bodies: bytes) -> None:
        self.records.bodies += bodies

    def new_run(self, after: str) -> str:
        return later_run(after, self.clock_ms, 0)

    def born(
        self,
        boot: str = BOOT,
        kind: str = "held",
        die_at: str = "",
        interval_s: float = INTERVAL_S,
        instance: str = "",
    ) -> Life:
        """A new collector's process; at the step `die_at` it is killed."""
        notes = open_note(self.path, boot, kind, self.new_run)
        wish, gauge = FakeWish(self.clock), FakeGauge()
        steps: list[tuple[str, int]] = []

        def trace(step: str) -> None:
            steps.append((step, notes.word))
            if step == die_at:
                raise Killed

        source = FakeSource(self.records, self.clock, trace)
        queue, spool = TracedQueue(self.redis, trace, instance), MemorySpool(self.disk)
        made = Collector(
            "tweets",
            source,
            queue,
            spool,
            notes,
            gauge,
            wish,
            new_run=self.new_run,
            frame_interval_s=interval_s,
            checkpoint=trace,
            chance=lambda: CHANCE,
            clock=lambda: RECEIVED,
            monotonic=self.clock,
        )
        self.lives.append(Life(made, source, queue, spool, notes, gauge, wish, steps))
        return self.lives[-1]

    def run(self, **how: Any) -> Life:
        """A collector's life from birth to its end; killed where it is said so."""
        life = self.born(**how)
        if how.get("die_at"):
            with pytest.raises(Killed):
                life.run()
        else:
            life.run()
        return life

    def frames(self) -> list[Frame]:
        """What waits in the queue."""
        return [decode(item) for item in self.redis.working]

    def queued(self) -> list[tuple[int, bytes]]:
        return [(frame.header.number, frame.body) for frame in self.frames()]


def jitter(attempts: int) -> list[float]:
    return [backoff.full_jitter(attempt, CHANCE) for attempt in range(attempts)]


def outages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines about something that is away, without their hints."""
    lines = [record.getMessage().partition(" →")[0] for record in caplog.records]
    return [line for line in lines if "waiting for" in line]
