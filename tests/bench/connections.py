"""The figure "connections": what a record costs that comes over one of many connections.

The same instance gets the same records at the same total pace, by turns over one connection and
over a thousand. Who counts is the kernel: seconds of a core that our processes, and the database
beside them, have used for all records (processes.py). The sender is a process of its own
(paced.py), and isn't counted.
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.measure import (
    Comparison,
    Findings,
    Listing,
    Say,
    Side,
    WrongContentError,
    in_turns,
)
from tests.bench.processes import Usage, family_of
from tests.bench.run import WARM_UP_SHARE, Run
from tests.bench.ways import END_S, StreamDaemon, stream_daemon, wait_until

MANY = 1000
RECORDS_PER_S = 50_000  # in all, over one or many: what two slow cores can send and store
LATE = 1.1  # a sender that took so much longer than its pace would have it is worth a word
UNIT = "µs of a core a record"
WHAT = f"CPU of all our processes, {MANY:,} connections against one, the same {RECORDS_PER_S:,}/s"
DATABASE = "mariadbd"
MICROSECONDS = 1e6


@dataclass(frozen=True)
class Feed:
    """One side: the stream over so many connections; it keeps what was used in each round."""

    database: Database
    way: StreamDaemon
    lines: Lines
    connections: int
    say: Say
    rounds: list[dict[str, Usage]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As people say it."""
        return f"{self.connections:,} connections" if self.connections > 1 else "one connection"

    def once(self) -> float:
        """Feed all lines; microseconds of a core that our processes took for a record.

        Raises:
            WrongContentError: the table doesn't hold exactly the lines.
        """
        self.database.empty(self.way.table)
        wanted = self.way.committed() + self.lines.content.count
        assert self.way.daemon.process
        family = family_of(self.way.daemon.process.pid, {self.database.server.pid: DATABASE})
        with paced_sender(self.way.port, self.connections, self.lines) as sender:
            before = family.usage()
            sender.go()
            wait_until(lambda: self.way.committed() >= wanted)
            after = family.usage()
            self._say_if_late(sender.seconds())
        used = {role: after[role] - before[role] for role in after}
        self._check()
        self.rounds.append(used)
        ours = sum(usage.cpu_s for role, usage in used.items() if role != DATABASE)
        return ours * MICROSECONDS / self.lines.content.count

    def _say_if_late(self, seconds: float) -> None:
        planned = self.lines.content.count / RECORDS_PER_S
        if seconds > LATE * planned:
            self.say(f"{self.name}: the sender took {seconds:.1f} s, not {planned:.1f} s")

    def _check(self) -> None:
        found = self.database.content(self.way.table)
        if found != self.lines.content:
            raise WrongContentError(f"{self.name}: {found}, should be {self.lines.content}")

    def spent(self, role: str) -> float:
        """Microseconds of a core that a role took for a record, the middle one of the rounds."""
        seconds = median(used.get(role, Usage()).cpu_s for used in self.rounds)
        return seconds * MICROSECONDS / self.lines.content.count


class PacedSender:
    """The program of paced.py, connected and waiting."""

    def __init__(self, program: "subprocess.Popen[str]") -> None:
        self._program = program

    def go(self) -> None:
        """Begin."""
        assert self._program.stdin
        self._program.stdin.write("go\n")
        self._program.stdin.flush()

    def seconds(self) -> float:
        """How long it took, once it has sent all."""
        assert self._program.stdout
        return float(self._program.stdout.readline())


@contextmanager
def paced_sender(port: int, connections: int, lines: Lines) -> Iterator[PacedSender]:
    """A sender that is connected; ended at the end."""
    with tempfile.NamedTemporaryFile(prefix="paced-") as file:
        file.write(lines.body)
        file.flush()
        words = [str(port), str(connections), str(RECORDS_PER_S), file.name]
        program = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.paced", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with program:
            try:
                assert program.stdout
                assert program.stdout.readline() == "ready\n"
                yield PacedSender(program)
                program.communicate(timeout=END_S)
            except BaseException:
                program.kill()
                raise


def connections(run: Run) -> Findings:
    """A thousand against one."""
    with stream_daemon(run.database) as way:
        many, one = (_warm(run, way, count) for count in (MANY, 1))
        samples = in_turns(_side(many), _side(one), UNIT, run.rounds, run.say)
    rows = [Comparison("connections", WHAT, *samples, aim=1.3, at_most=True)]
    return Findings(rows, [_by_role(many, one)])


def _warm(run: Run, way: StreamDaemon, count: int) -> Feed:
    some = run.lines.first(run.lines.content.count // WARM_UP_SHARE)
    Feed(run.database, way, some, count, run.say).once()
    return Feed(run.database, way, run.lines, count, run.say)


def _side(feed: Feed) -> Side:
    return Side(feed.name, feed.once)


def _by_role(many: Feed, one: Feed) -> Listing:
    """Who spends it."""
    roles = sorted({role for used in (*many.rounds, *one.rounds) for role in used})
    rows = [(role, one.spent(role), many.spent(role)) for role in roles]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    return Listing(
        f"connections: {UNIT}, by process",
        ("process", one.name, many.name),
        [(role, f"{alone:.2f}", f"{together:.2f}") for role, alone, together in rows],
    )
