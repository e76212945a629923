"""What a rehearsal measures while it kills: pauses, and how long recoveries take. Pure.

All of it comes from looks at `status`, so it is true to about the time between two looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Child:
    """One process of the instance; `work` is a counter that grows when it has done something."""

    name: str
    pid: int
    work: int


def children(report: Report) -> list[Child]:
    """The processes that a report names, those that live."""
    found = [
        Child(f"collector {name}", source["pid"] or 0, source["records"])
        for name, source in report["sources"].items()
    ]
    found += [
        Child(f"subscriber {one['n']}", one["pid"] or 0, one["records"])
        for one in report["subscribers"]
    ]
    found.append(Child("recovery", report["recovery"]["pid"] or 0, 0))
    return [child for child in found if child.pid]


class Pulse:
    """Something that goes on and on: how long it stood still at most."""

    def __init__(self, now: float) -> None:
        self.longest_s = 0.0
        self._value = 0
        self._moved_at = now

    def look(self, value: int, now: float) -> None:
        """It stands at this value now (one that is lower has begun anew)."""
        self.longest_s = max(self.longest_s, now - self._moved_at)
        if value > self._value or 0 < value < self._value:
            self._moved_at = now
        self._value = value


@dataclass(slots=True)
class Death:
    """A process that was killed, and what shows that its successor works."""

    name: str
    pid: int
    work: int
    at: float

    def is_over(self, report: Report) -> bool:
        """Whether the successor has done its first piece of work."""
        return any(
            child.name == self.name
            and child.pid != self.pid
            and (child.work > self.work or child.name == "recovery")
            for child in children(report)
        )


class ServerDeath(Death):
    """The same for the embedded server: frames are pushed and stored again."""

    def is_over(self, report: Report) -> bool:
        """Whether something was stored since, which takes a push and a take."""
        return stored(report) > self.work


def stored(report: Report) -> int:
    """What is stored, as the instance counts it."""
    return int(report["store"]["stored"])


class Measures:
    """The pauses and the recoveries of a rehearsal."""

    def __init__(self, now: float) -> None:
        self.kills = 0
        self.slowest_s = 0.0
        self.slowest = ""  # whose recovery it was
        self._reading, self._storing = Pulse(now), Pulse(now)
        self._deaths: list[Death] = []

    @property
    def longest_pause_s(self) -> float:
        """The longest time in which nothing was handed over, or nothing was stored."""
        return max(self._reading.longest_s, self._storing.longest_s)

    def died(self, death: Death) -> None:
        """Somebody was killed."""
        self.kills += 1
        self._deaths.append(death)

    def awaits(self, name: str) -> bool:
        """Whether somebody of this name is still to come back."""
        return any(death.name == name for death in self._deaths)

    def look(self, report: Report, now: float) -> None:
        """This is what the instance says now."""
        self._reading.look(sum(one["records"] for one in report["sources"].values()), now)
        self._storing.look(stored(report), now)
        for death in [death for death in self._deaths if death.is_over(report)]:
            self._deaths.remove(death)
            self._recovered(death, now)

    def restarted(self) -> None:
        """The whole instance is another one: nobody's successor is awaited any more."""
        self._deaths.clear()

    def end(self, now: float) -> None:
        """It is over; who isn't back by now took at least so long."""
        for death in self._deaths:
            self._recovered(death, now)

    def _recovered(self, death: Death, now: float) -> None:
        if now - death.at > self.slowest_s:
            self.slowest_s, self.slowest = now - death.at, death.name
