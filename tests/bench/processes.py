"""What the processes of a running instance, and servers beside it, take: time, memory, wakes.

All read from /proc (proc(5)), from outside: nothing of what is measured knows of it.
"""

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
REWRITE = "-aof-rewrite"  # behind "valkey" or "redis"
GONE = (FileNotFoundError, ProcessLookupError)  # a process that has ended


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes have used since they began: seconds of a core, and how often they woke."""

    user_s: float = 0.0
    system_s: float = 0.0
    wakes: int = 0

    @property
    def cpu_s(self) -> float:
        """Seconds of a core, in the kernel or not."""
        return self.user_s + self.system_s

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.user_s + other.user_s, self.system_s + other.system_s, self.wakes + other.wakes
        )

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(
            self.user_s - other.user_s, self.system_s - other.system_s, self.wakes - other.wakes
        )


@dataclass(frozen=True)
class Family:
    """Processes under a name for each: {pid: "collector lines"}."""

    names: Mapping[int, str] = field(default_factory=dict)

    def usage(self) -> dict[str, Usage]:
        """What each has used so far, by name: several under one name are added up.

        One that has ended meanwhile has handed what it used to its parent.
        """
        used = dict.fromkeys(self.names.values(), Usage())
        for pid, name in self.names.items():
            with suppress(*GONE):
                used[name] += usage(pid)
        return used

    def total(self) -> Usage:
        """What all have used so far."""
        return sum(self.usage().values(), Usage())

    def pss_bytes(self) -> int:
        """Memory of all of them; what several share counts once."""
        return sum(map(pss_bytes, self.names))


def family_of(parent: int, others: Mapping[int, str] | None = None) -> Family:
    """An instance's parent and all that it has started, by their roles; `others` as named."""
    names: dict[int, str] = {}
    for pid in (parent, *_descendants(parent)):
        with suppress(*GONE):
            names[pid] = role(pid)
    return Family(names | dict(others or {}))


def role(pid: int) -> str:
    """A process's part in an instance, as its title says: "collector", "subscriber" …

    The server's child that just writes its file anew is the server: it ends at any moment.
    """
    words = (PROC / f"{pid}" / "cmdline").read_bytes().replace(b"\0", b" ").decode().split()
    if words and words[0] == "stream-daemon":
        return words[2] if len(words) > 2 else "parent"
    return Path(words[0]).name.replace(REWRITE, "-server") if words else "?"


def usage(pid: int) -> Usage:
    """What a process and those of its children that have ended have used so far."""
    fields = (PROC / f"{pid}" / "stat").read_text().rpartition(")")[2].split()
    user, system, of_children, system_of_children = (int(ticks) for ticks in fields[11:15])
    return Usage(
        (user + of_children) / TICKS_PER_S,
        (system + system_of_children) / TICKS_PER_S,
        sum(map(_wakes, (PROC / f"{pid}" / "task").iterdir())),
    )


def machine_busy_s() -> float:
    """What all cores have worked since the boot, for whomever: the kernel's own threads, too."""
    ticks = [int(word) for word in (PROC / "stat").read_text().splitlines()[0].split()[1:8]]
    user, nice, system, _idle, _iowait, irq, softirq = ticks
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def cpu_clock_s(pid: int) -> float:
    """Seconds of a core that a living process has used, to the nanosecond (clock_getcpuclockid(3)).

    Its threads count, its children don't. /proc counts in ticks of 10 ms, too coarse for idling.
    """
    return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED


def pss_bytes(pid: int) -> int:
    """Proportional set size: own pages, and a share of those that others have, too."""
    return _field(PROC / f"{pid}" / "smaps_rollup", "Pss") * 1024


def _wakes(task: Path) -> int:
    return _field(task / "status", "voluntary_ctxt_switches")


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise LookupError(f"{file} has no {name}")


def _descendants(pid: int) -> Iterable[int]:
    for child in _children(pid):
        yield child
        yield from _descendants(child)


def _children(pid: int) -> list[int]:
    with suppress(*GONE):
        tasks = (PROC / f"{pid}" / "task").iterdir()
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return []
