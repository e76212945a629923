"""What goes wrong when: a schedule of faults that is a pure function of its seed.

Faults come in lanes, one for each thing that they strike. Within a lane one fault is over before
the next begins (a server can't be killed twice at once); the lanes know nothing of each other, so
faults of different lanes overlap as they like. Each lane throws dice of its own: that one of
them gets another fault, or is left out, changes nothing in the others.

    kill, pause        SIGKILL; SIGSTOP and later SIGCONT
    massacre           the parent is killed, and meanwhile its children, one after the other
    refuse             Redis is full: it refuses to take anything
    delay … late       weather on the way to a server (weather.py); cut: every connection is
    vanish             an instance on another machine, a lease in hand, is never heard of again
    fill               the disk of the state directory is full
    break, end         a sender's connection ends in the middle of a record, or properly; the file
                       is rotated
    slow, freeze       a sender sends in little pieces, or stops in the middle of a record

A new kind of fault is a word here and a method in faults.py.
"""

import heapq
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

SOURCES = ("file", "tcp", "unix")
SUBSCRIBERS = 2
CHILDREN = (
    *(f"collector {source}" for source in SOURCES),
    *(f"subscriber {n}" for n in range(1, SUBSCRIBERS + 1)),
    "recovery",
)
SENDERS = ("file", "tcp1", "tcp2", "unix1", "unix2")  # each belongs to the source it is named for
LONG_SHARE = 0.1  # of the faults that last: so many last up to `longest_s`
INSTANT = 0.0


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: when it begins, after the start of the run, and how long it lasts."""

    at_s: float
    target: str
    kind: str
    lasts_s: float

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.2f} s" if self.lasts_s else ""
        return f"{self.at_s:8.2f} s  {self.kind} {self.target}{lasts}"


@dataclass(frozen=True)
class Lane:
    """Faults that come one after the other.

    every_s: the mean time from the end of one to the next. kinds: {kind: how often, relative to
    the others}. lasts_s: the usual limit of those that last; longest_s: of a few of them.
    """

    targets: tuple[str, ...]
    every_s: float
    kinds: Mapping[str, int]
    lasts_s: float = 1.0
    longest_s: float = 1.0


LINK = {"delay": 2, "throttle": 1, "freeze": 2, "cut": 3, "withhold": 2, "lose": 3, "halve": 2}
COMMITS = {"unheard": 2, "late": 2}
LANES = {
    "children": Lane(CHILDREN, 0.6, {"kill": 8, "pause": 1}, 0.5, 5.0),
    "parent": Lane(("parent",), 20.0, {"kill": 4, "massacre": 2, "pause": 1}, 1.0, 8.0),
    "keeper": Lane(("keeper",), 10.0, {"kill": 1}),
    "redis": Lane(("redis",), 15.0, {"kill": 3, "pause": 2, "refuse": 1}, 2.0, 12.0),
    "mariadb": Lane(("mariadb",), 20.0, {"kill": 2, "pause": 2}, 3.0, 15.0),
    "way to redis": Lane(("way to redis",), 6.0, LINK, 1.5, 8.0),
    "way to mariadb": Lane(("way to mariadb",), 6.0, LINK | COMMITS, 1.5, 8.0),
    "far": Lane(("far instance",), 20.0, {"vanish": 1}, 2.0, 10.0),
    "disk": Lane(("disk",), 30.0, {"fill": 1}, 3.0, 15.0),
    "senders": Lane(SENDERS, 3.0, {"break": 3, "end": 2, "slow": 2, "freeze": 2}, 1.0, 10.0),
}
AT_ONCE = frozenset({"cut", "break", "end"})
KINDS = (
    "kill",
    "massacre",
    "pause",
    "refuse",
    *LINK,
    *COMMITS,
    "vanish",
    "fill",
    "break",
    "end",
    "slow",
)
KILLS_LAST_S = 2.0  # a killed server stays away for so long; everybody else is there at once


def lanes(
    seed: int, only: Collection[str] = KINDS, pace: float = 1.0
) -> dict[str, Iterator[Fault]]:
    """All faults of a seed, {lane: its faults in their order, without an end}.

    only: kinds of faults; a lane with none of them is left out. pace: so many times as often.
    """
    return {
        name: _lane(random.Random(f"{seed} {name}"), lane, only, pace)
        for name, lane in LANES.items()
        if set(lane.kinds) & set(only)
    }


def until(time_s: float, faults: Iterator[Fault]) -> Iterator[Fault]:
    """Those that begin before this moment."""
    return takewhile(lambda fault: fault.at_s < time_s, faults)


def merged(faults: Iterable[Iterator[Fault]]) -> Iterator[Fault]:
    """The faults of several lanes, in their order."""
    return heapq.merge(*faults)


def _lane(dice: random.Random, lane: Lane, only: Collection[str], pace: float) -> Iterator[Fault]:
    kinds = {kind: weight for kind, weight in lane.kinds.items() if kind in only}
    at_s = 0.0
    while True:
        at_s += dice.expovariate(pace / lane.every_s)
        target = dice.choice(lane.targets)
        [kind] = dice.choices(list(kinds), list(kinds.values()))
        fault = Fault(round(at_s, 3), target, kind, round(_lasts_s(dice, lane, target, kind), 3))
        yield fault
        at_s = fault.at_s + fault.lasts_s


def _lasts_s(dice: random.Random, lane: Lane, target: str, kind: str) -> float:
    limit_s = lane.longest_s if dice.random() < LONG_SHARE else lane.lasts_s
    lasts_s = dice.uniform(0.05, limit_s)  # thrown also where it isn't needed
    if kind == "kill":
        return min(lasts_s, KILLS_LAST_S) if target in ("redis", "mariadb") else INSTANT
    return INSTANT if kind in AT_ONCE else lasts_s
