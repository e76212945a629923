"""idle: what an instance that has nothing to do takes, with one open, silent connection.

All processes that it has started count, the embedded server and the keeper, too. The database
server isn't ours, but what we ask of it is listed. Instances with both kinds of store are measured
in the same seconds, since neither has anything to do; the one that takes more counts.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.bench.latency import embedded
from tests.bench.measure import Comparison, Findings, Listing, Samples, limit
from tests.bench.processes import Family, cpu_clock_s, family_of, usage
from tests.bench.run import Run
from tests.bench.ways import stream_daemon
from tests.system.daemon import Daemon, connect, until

START_S_MAX = 30.0
SETTLE_S = 8.0  # behind the start: the first sweeps, looks and folds are over
IDLE_S = 5.0  # of one round: what is done now and then is done at least this often
CORE_PERCENT_MAX = 0.5
WAKES_PER_S_MAX = 20.0
DATABASE = "mariadbd (not ours)"


@dataclass(frozen=True, slots=True)
class Use:
    """What processes took: percent of one core, and how often a second they woke."""

    core_percent: float = 0.0
    wakes_per_s: float = 0.0

    def __add__(self, other: "Use") -> "Use":
        return Use(self.core_percent + other.core_percent, self.wakes_per_s + other.wakes_per_s)


Uses = Mapping[str, Use]  # by role


def idle(run: Run) -> Findings:
    """Against the limits."""
    with _instances(run) as families:
        rounds = [_round(families) for _ in range(run.rounds)]
    totals = [[_total(uses) for uses in one.values()] for one in rounds]
    core = [max(use.core_percent for use in one) for one in totals]
    wakes = [max(use.wakes_per_s for use in one) for one in totals]
    rows = [
        _row("idle CPU", "% of a core", core, CORE_PERCENT_MAX),
        _row("idle wakes", "wakes/s", wakes, WAKES_PER_S_MAX),
    ]
    return Findings(rows, [_listing(store, [one[store] for one in rounds]) for store in families])


def _row(name: str, unit: str, figures: Sequence[float], most: float) -> Comparison:
    ours = Samples("stream-daemon", unit, tuple(figures))
    what = "nothing to do, one silent connection, all processes"
    return Comparison(name, what, ours, limit(most, unit, len(figures)), aim=1, at_most=True)


def _listing(store: str, rounds: Sequence[Uses]) -> Listing:
    """Means of all rounds, by role."""
    uses = {role: [one[role] for one in rounds] for role in rounds[0]}
    uses["all of ours"] = [_total(one) for one in rounds]
    return Listing(
        f"idle, storing into {store}",
        ("process", "% of a core", "wakes/s"),
        [(role, *_means(found)) for role, found in uses.items()],
    )


def _means(uses: Sequence[Use]) -> tuple[str, str]:
    whole = sum(uses, Use())
    return f"{whole.core_percent / len(uses):.3f}", f"{whole.wakes_per_s / len(uses):.2f}"


def _total(uses: Uses) -> Use:
    return sum((use for role, use in uses.items() if role != DATABASE), Use())


# ── measuring ───────────────────────────────────────────────────────────────────────────


@contextmanager
def _instances(run: Run) -> Iterator[Mapping[str, Family]]:
    """Two instances with a silent connection each, that have come to rest, by their stores."""
    with (
        stream_daemon(run.database) as way,
        embedded() as (alone, port),
        connect(way.port),
        connect(port),
    ):
        for daemon in (way.daemon, alone):
            until(lambda daemon=daemon: _is_at_work(daemon), START_S_MAX, "its start")
        time.sleep(SETTLE_S)
        yield {
            "MariaDB": _family(way.daemon, {run.database.server.pid: DATABASE}),
            "SQLite": _family(alone, {}),
        }


def _is_at_work(daemon: Daemon) -> bool:
    status = daemon.try_status()
    return bool(status and status["ready"] and status["keeper"]["holds"])


def _family(daemon: Daemon, others: Mapping[int, str]) -> Family:
    assert daemon.process
    return family_of(daemon.process.pid, others)


def _round(families: Mapping[str, Family]) -> Mapping[str, Uses]:
    """What each family takes in IDLE_S."""
    before = {store: _clocks(family) for store, family in families.items()}
    time.sleep(IDLE_S)
    after = {store: _clocks(family) for store, family in families.items()}
    return {store: _uses(families[store], before[store], after[store]) for store in families}


Clocks = tuple[float, dict[int, tuple[float, int]]]
"""When it was read; {pid: seconds of a core, wakes} so far, of those that live."""


def _clocks(family: Family) -> Clocks:
    now, clocks = time.monotonic(), {}
    for pid in family.names:
        with suppress(OSError):  # it has ended
            clocks[pid] = cpu_clock_s(pid), usage(pid).wakes
    return now, clocks


def _uses(family: Family, before: Clocks, after: Clocks) -> Uses:
    uses = dict.fromkeys(family.names.values(), Use())
    took_s = after[0] - before[0]
    for pid in before[1].keys() & after[1].keys():
        cpu_s, wakes = (new - old for new, old in zip(after[1][pid], before[1][pid], strict=True))
        uses[family.names[pid]] += Use(100 * cpu_s / took_s, wakes / took_s)
    return uses
