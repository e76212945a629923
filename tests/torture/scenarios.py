"""Plans that are written by hand: long outages, with kills while they last and behind them.

Run with `--scenario NAME`; `--pace 10` makes each ten times as short, to see that it runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tests.torture.plan import LANES, Fault

RATE = 5000.0


@dataclass(frozen=True)
class Scenario:
    """Faults, and how long the load lasts."""

    time_s: float
    faults: tuple[Fault, ...]

    def lanes(self, pace: float) -> dict[str, Iterator[Fault]]:
        """The faults, sorted into their lanes, so many times as fast."""
        lanes: dict[str, list[Fault]] = {}
        for fault in self.faults:
            name = next(name for name, lane in LANES.items() if fault.target in lane.targets)
            quick = replace(fault, at_s=fault.at_s / pace, lasts_s=fault.lasts_s / pace)
            lanes.setdefault(name, []).append(quick)
        return {name: iter(sorted(faults)) for name, faults in lanes.items()}


def kills(*moments: tuple[float, str]) -> tuple[Fault, ...]:
    """Who is killed when."""
    return tuple(Fault(at_s, target, "kill", 0.0) for at_s, target in moments)


BEGIN_S, REDIS_AWAY_S, REPLAY_S = 20.0, 120.0, 20.0
BACK_S = BEGIN_S + REDIS_AWAY_S


def redis_away(kind: str) -> Scenario:
    """Redis is away for two minutes, and everybody dies meanwhile and while frames come back."""
    during = kills(
        (BEGIN_S + 15, "collector tcp"),
        (BEGIN_S + 16, "collector file"),
        (BEGIN_S + 40, "parent"),
        (BEGIN_S + 70, "collector unix"),
        (BEGIN_S + 75, "collector tcp"),
        (BEGIN_S + 90, "recovery"),
        (BEGIN_S + 100, "parent"),
    )
    replay = kills(
        (BACK_S + 0.5, "collector tcp"),
        (BACK_S + 1.0, "collector file"),
        (BACK_S + 1.5, "collector unix"),
        (BACK_S + 2.0, "parent"),
        (BACK_S + 6.0, "collector unix"),
        (BACK_S + 6.1, "collector tcp"),
        (BACK_S + 6.2, "subscriber 1"),
        (BACK_S + 8.0, "collector file"),
        (BACK_S + 9.0, "parent"),
    )
    away = Fault(BEGIN_S, "redis", kind, REDIS_AWAY_S)
    return Scenario(BACK_S + REPLAY_S + 10, (away, *during, *replay))


SCENARIOS = {
    "redis-killed": redis_away("kill"),
    "redis-paused": redis_away("pause"),
    "redis-full": redis_away("refuse"),
    # Ten minutes without a database: frames wait in Redis, memory stays as it is.
    "store-away": Scenario(720.0, (Fault(60.0, "mariadb", "kill", 600.0),)),
    "store-paused": Scenario(720.0, (Fault(60.0, "mariadb", "pause", 600.0),)),
    # A subscriber stands still in its COMMIT, which is done, until the watchdog ends it (120 s).
    "commit-paused": Scenario(
        180.0,
        (
            Fault(10.0, "way to mariadb", "unheard", 20.0),
            Fault(13.0, "subscriber 1", "pause", 160.0),
        ),
    ),
    # The same elsewhere: for two minutes nobody can know that it is dead.
    "vanished": Scenario(
        300.0,
        (
            Fault(10.0, "far instance", "vanish", 60.0),
            Fault(150.0, "far instance", "vanish", 60.0),
        ),
    ),
}
