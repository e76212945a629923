"""What a record costs: CPU seconds of a whole instance and of the database it stores into.

Wall clocks say what a machine can do while nobody else wants it; seconds of a core are what a
record takes from it in any case, and they add up over processes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.processes import family_of
from tests.bench.ways import StreamDaemon

DATABASE = "database"
CPU_S_PER_MILLION = "CPU s/million records"


@dataclass(frozen=True, slots=True)
class Cost:
    """What so many records have cost: wall seconds, and seconds of a core by process."""

    records: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_million(self) -> float:
        """Seconds of a core for a million records."""
        return sum(self.cpu_s.values()) / self.records * 1e6

    def of(self, name: str) -> float:
        """What one process, or several of one name, took of it for a million records."""
        return self.cpu_s.get(name, 0.0) / self.records * 1e6

    @property
    def records_per_s(self) -> float:
        """How fast they were stored."""
        return self.records / self.seconds


def cost_of(way: StreamDaemon, work: Callable[[], float]) -> Cost:
    """What a piece of work has cost, which stores records and says in how many seconds."""
    stored = way.committed()
    family = family_of(parent_of(way), {way.database.server.pid: DATABASE})
    before = family.usage()
    seconds = work()
    after = family.usage()
    cpu_s = {name: (after[name] - before[name]).cpu_s for name in after}
    return Cost(way.committed() - stored, seconds, cpu_s)


def parent_of(way: StreamDaemon) -> int:
    """The pid of an instance's parent."""
    assert way.daemon.process
    return way.daemon.process.pid
