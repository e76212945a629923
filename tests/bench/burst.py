"""burst: what the whole is for. A hundred times the usual rate for a minute, and usual again.

    find       how fast the collector alone can be: storing is paused, all lines are sent at once
    before     the usual rate; how old is each record when it can be seen in the table?
    burst      the sender's plan says a hundred times as many; how far is it held up?
    catch up   the usual rate again, until the table is no further behind than before
    after      as before
    check      nothing is lost and nothing doubled

With few lines all is as much shorter (a run's default number of them makes it a minute).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from signal import SIGCONT, SIGTSTP

from tests.bench.database import Database
from tests.bench.latency import percentile
from tests.bench.lines import FIRST_ID, Lines
from tests.bench.measure import (
    RECORDS_PER_S,
    Comparison,
    Findings,
    Listing,
    Samples,
    Say,
    WrongContentError,
    limit,
)
from tests.bench.run import Run
from tests.bench.sender import Sender, Stretch, Sums
from tests.bench.ways import MEASURE_S_MAX, StreamDaemon, stream_daemon, wait_until
from tests.system.daemon import connect

TIMES = 100
USUAL_PER_S_MAX = 1_000
RECORDS_A_SECOND_OF_BURST = 5_000  # of the run's lines: 300,000 make it a minute
USUAL_SHARE = 15  # of the burst's time, before it and behind it
USUAL_S_MIN = 1.0
SAMPLE_S = 0.5
RATE_SAMPLES = 2  # a rate is an average over so many
PICTURE = "burst.svg"
NORMAL_S = 0.1  # of the usual rate may wait without anybody being late
WATCH_S = 0.004  # between two looks for new rows, when each one's age is wanted
WATCHED_BACK = 50  # keys that are looked at again: the order of keys isn't that of commits
NUMBER_AT = len('{"id":')
NUMBER_DIGITS = len(str(FIRST_ID))


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at everything, at a time (perf_counter's): records so far, since the beginning."""

    at: float
    sent: int
    taken: int
    stored: int

    @property
    def waiting(self) -> int:
        """Taken by the collector and not stored: in the queue, the spool, or a lease."""
        return max(0, self.taken - self.stored)


@dataclass(slots=True)
class Story:
    """What was seen, from the first record to the last."""

    usual_per_s: int
    burst_s: float
    samples: list[Sample] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)  # of what was stored last, at each sample
    before: list[float] = field(default_factory=list)  # the age of each record, in seconds
    after: list[float] = field(default_factory=list)
    burst_at: float = 0.0
    sent_in_s: float = 0.0  # until the last record of the burst was accepted
    caught_up_in_s: float = 0.0  # after its end

    @property
    def burst_records(self) -> int:
        """How many are sent in the burst."""
        return int(self.usual_per_s * TIMES * self.burst_s)


def burst(run: Run) -> Findings:
    """Once, whatever the number of rounds: it takes longer than all rounds of others."""
    with stream_daemon(run.database) as way:
        per_s = collector_limit(way, run.lines)
        run.say(f"the collector alone takes {per_s:,.0f} records/s")
        run.database.empty(way.table)
        usual = max(1, min(USUAL_PER_S_MAX, int(per_s / TIMES)))
        story, wanted = _told(
            way, run, Story(usual, run.lines.content.count / RECORDS_A_SECOND_OF_BURST)
        )
        found = sums(run.database, way.table)
    if found != wanted:
        raise WrongContentError(f"stored {found}, should be {wanted}")
    return Findings(_rows(story), [_listing(story, per_s)], _pictures(story, run.say))


def collector_limit(way: StreamDaemon, lines: Lines) -> float:
    """Records a second from a sender into the queue, while nobody stores."""
    wanted = _taken(way) + lines.content.count
    stored = way.committed() + lines.content.count
    way.daemon.signal(SIGTSTP)
    wait_until(lambda: bool((way.daemon.try_status() or {}).get("paused")))
    with connect(way.port) as connection:
        began = time.perf_counter()
        connection.sendall(lines.body)
        wait_until(lambda: _taken(way) >= wanted)
        seconds = time.perf_counter() - began
    way.daemon.signal(SIGCONT)
    wait_until(lambda: way.committed() >= stored)
    return lines.content.count / seconds


def sums(database: Database, table: str) -> Sums:
    """What is in the table."""
    [(count, crc)] = database.run(f"SELECT COUNT(*), COALESCE(SUM(CRC32(raw)), 0) FROM `{table}`")
    return Sums(int(count), int(crc))


def _taken(way: StreamDaemon) -> int:
    """What the collector has handed over since the start."""
    status = way.daemon.try_status()
    return int(status["sources"]["lines"]["records"]) if status else 0


# ── the story ───────────────────────────────────────────────────────────────────────────


def _told(way: StreamDaemon, run: Run, story: Story) -> tuple[Story, Sums]:
    """Send by the plan, look on, and say what was sent."""
    usual_s = max(USUAL_S_MIN, story.burst_s / USUAL_SHARE)
    plan = [
        Stretch(usual_s, story.usual_per_s),
        Stretch(story.burst_s, story.usual_per_s * TIMES),
        Stretch(usual_s, story.usual_per_s),
    ]
    sender = Sender(way.port, run.lines, plan)
    onlooker = Onlooker(way, sender, story)
    with _sending(sender):
        story.burst_at = sender.began + usual_s
        story.before = _watched(run.database, way.table, sender, story.burst_at, onlooker)
        last = int(usual_s * story.usual_per_s) + story.burst_records
        while sender.sent <= last:
            onlooker.next()
        story.sent_in_s = sender.time_of(last) - story.burst_at
        run.say(f"sent {story.burst_records:,} records in {story.sent_in_s:.1f} s")
        while (newest := onlooker.next()).waiting > story.usual_per_s * NORMAL_S:
            pass
        story.caught_up_in_s = newest.at - story.burst_at - story.sent_in_s
        run.say(f"stored them {story.caught_up_in_s:.1f} s later")
        until = time.perf_counter() + usual_s
        story.after = _watched(run.database, way.table, sender, until, onlooker)
        wanted = sender.finish()
        wait_until(lambda: onlooker.now().stored >= wanted.count)
    return story, wanted


@contextmanager
def _sending(sender: Sender) -> Iterator[None]:
    sender.start()
    wait_until(lambda: sender.sent > 0)
    try:
        yield
    finally:
        sender.finish()


class Onlooker:
    """Who takes a sample of everything each SAMPLE_S."""

    def __init__(self, way: StreamDaemon, sender: Sender, story: Story) -> None:
        self._way = way
        self._sender = sender
        self._story = story
        self._taken, self._stored = _taken(way), way.committed()
        self._due = time.perf_counter()
        self._deadline = self._due + MEASURE_S_MAX + story.burst_s

    def next(self) -> Sample:
        """The next sample, when its time has come."""
        time.sleep(max(0.0, self._due - time.perf_counter()))
        return self.now()

    def maybe_next(self) -> None:
        """Take it if its time has come."""
        if time.perf_counter() >= self._due:
            self.now()

    def now(self) -> Sample:
        """Take one."""
        at = time.perf_counter()
        assert at < self._deadline, "the burst isn't stored"
        self._due = at + SAMPLE_S
        taken, stored = _taken(self._way) - self._taken, self._way.committed() - self._stored
        sample = Sample(at, self._sender.sent, taken, stored)
        self._story.samples.append(sample)
        self._story.ages.append(at - self._sender.time_of(max(0, stored - 1)))
        return sample


def _watched(
    database: Database, table: str, sender: Sender, until: float, onlooker: Onlooker
) -> list[float]:
    """The age of each record when its row was seen, with the samples that fall into that time."""
    ages: dict[int, float] = {}
    first, newest = sender.sent, _newest(database, table)
    while time.perf_counter() < until:
        rows = _rows_behind(database, table, newest - WATCHED_BACK)
        now = time.perf_counter()
        for key, number in rows:
            newest = max(newest, key)
            if number >= first and number not in ages:
                ages[number] = now - sender.time_of(number)
        onlooker.maybe_next()
        time.sleep(WATCH_S)
    return list(ages.values())


def _newest(database: Database, table: str) -> int:
    [(newest,)] = database.run(f"SELECT COALESCE(MAX(seq), 0) FROM `{table}`")
    return int(newest)


def _rows_behind(database: Database, table: str, key: int) -> list[tuple[int, int]]:
    """Keys and numbers of the rows behind a key."""
    rows = database.run(
        f"SELECT seq, SUBSTR(raw, {NUMBER_AT + 1}, {NUMBER_DIGITS}) FROM `{table}`"
        f" WHERE seq > {key}"
    )
    return [(int(key), int(number) - FIRST_ID) for key, number in rows]


# ── what it comes to ────────────────────────────────────────────────────────────────────


def _rows(story: Story) -> list[Comparison]:
    asked = story.usual_per_s * TIMES
    sent = story.burst_records / story.sent_in_s
    before, after = (_p99_ms(ages) for ages in (story.before, story.after))
    return [
        Comparison(
            "burst",
            f"sent in {story.burst_s:.0f} s at {TIMES} x the usual rate",
            Samples("stream-daemon", RECORDS_PER_S, (sent,)),
            limit(asked, RECORDS_PER_S, 1),
            aim=0.99,
        ),
        Comparison(
            "burst p99",
            "age of a record in the table, p99, behind the burst",
            Samples("stream-daemon", "ms", (after,)),
            Samples("before it", "ms", (before,)),
            aim=2,
            at_most=True,
        ),
    ]


def _p99_ms(ages: list[float]) -> float:
    return percentile(ages, 99) * 1000


def _listing(story: Story, limit_per_s: float) -> Listing:
    deepest = max(sample.waiting for sample in story.samples)
    facts = {
        "the collector alone": f"{limit_per_s:,.0f} records/s",
        "usual rate": f"{story.usual_per_s:,} records/s",
        f"burst, {story.burst_s:g} s": f"{story.usual_per_s * TIMES:,} records/s",
        "sent in it": f"{story.burst_records:,} records in {story.sent_in_s:.1f} s",
        "waiting at most": f"{deepest:,} records",
        "oldest of them": f"{max(story.ages):.1f} s",
        "all stored": f"{story.caught_up_in_s:.1f} s behind its end",
        "lost, doubled": "0, 0",
    }
    return Listing("the burst", ("", ""), [*facts.items()])


def _pictures(story: Story, say: Say) -> dict[str, str]:
    """The story as a picture, where the library for it is installed."""
    try:
        from tests.bench import pictures
    except ImportError:
        say("no picture of it: matplotlib isn't installed (pip install -e '.[bench]')")
        return {}
    at = [sample.at - story.samples[0].at for sample in story.samples]
    rates = {
        "sent": per_s(at, [sample.sent for sample in story.samples]),
        "stored": per_s(at, [sample.stored for sample in story.samples]),
    }
    panels = [
        pictures.Panel("records/s", rates),
        pictures.Panel("records", {"waiting": [sample.waiting for sample in story.samples]}),
        pictures.Panel("seconds", {"age of what was stored last": story.ages}),
    ]
    burst_at = story.burst_at - story.samples[0].at
    return {PICTURE: pictures.over_time(at, panels, (burst_at, burst_at + story.burst_s))}


def per_s(seconds: Sequence[float], counts: Sequence[int]) -> list[float]:
    """How fast a count has grown at each moment: over the two samples before it."""
    rates = [0.0]
    for index in range(1, len(counts)):
        before = max(0, index - RATE_SAMPLES)
        rates.append((counts[index] - counts[before]) / (seconds[index] - seconds[before]))
    return rates
