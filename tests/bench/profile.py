"""Where the time goes: CPU seconds per million records, by process and by whose code it is.

    python -m tests.bench.profile [FIGURE …] [--records N] [--seed N]

The same work is done twice for each figure. Once nobody looks on, and the kernel's own counts
tell what each process has taken; once py-spy looks into the collector and the subscribers, and
its samples tell how their time outside of the kernel is shared out. Then the servers do their
part alone (bare.py): the limit that follows stands beside what was reached.

It needs py-spy, and leave to look into other processes, so it is no figure of `make bench`.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import pytest

from appliance.errors import Exit
from tests.bench import report
from tests.bench.bare import database_alone, queue_alone
from tests.bench.database import Database, private_database
from tests.bench.lines import Lines, make_lines
from tests.bench.measure import Findings, Listing
from tests.bench.processes import Family, Usage, family_of, machine_busy_s
from tests.bench.run import one_of
from tests.bench.sampling import OWNERS, NoSamplesError, Shares, find_sampler, sampled
from tests.bench.store_side import TYPED, TypedLines
from tests.bench.ways import RAW, StreamDaemon, stream_daemon, wait_until
from tests.system.daemon import connect

RECORDS = 250_000
SEED = 1
WARM_UP_SHARE = 4
MILLION = 1_000_000
CORES = len(os.sched_getaffinity(0))
DATABASE, QUEUE, OTHERS = "mariadbd", "valkey-server", "others"
SAMPLED = ("collector", "subscriber")
IN_ORDER = (*SAMPLED, QUEUE, DATABASE)
HEADS = ("process", "in all", "user", "kernel", *OWNERS)
LIMIT_HEADS = ("", "records/s", "limit", "of it", "servers alone", "in all", "whole machine")


@dataclass(frozen=True, slots=True)
class Work:
    """What is profiled: into which columns, and whether all lines wait in the queue before."""

    what: str
    columns: str
    waits: bool


FIGURES: Mapping[str, Work] = {
    "B3": Work("backlog → MariaDB, one raw column", RAW, waits=True),
    "B4": Work("backlog → MariaDB, seven typed columns", TYPED, waits=True),
    "B5": Work("TCP → MariaDB, everything running", RAW, waits=False),
}


@dataclass(frozen=True, slots=True)
class Done:
    """What one run of the work took: seconds by the clock and of cores, and whose samples."""

    seconds: float
    used: Mapping[str, Usage]
    machine_s: float
    shares: Mapping[str, Shares]

    @property
    def cpu_s(self) -> float:
        """Of all our processes and the servers."""
        return sum(one.cpu_s for one in self.used.values())


def main(words: Sequence[str]) -> int:
    """Profile what is asked for, and print it."""
    asked = _arguments(words)
    try:
        find_sampler()
        findings = _profiled(asked.figures or list(FIGURES), make_lines(asked.records, asked.seed))
    except (pytest.skip.Exception, pytest.fail.Exception, NoSamplesError) as missing:
        print(missing, file=sys.stderr)
        return Exit.UNREACHABLE
    print(report.text([findings]), end="")
    return Exit.OK


def _profiled(names: Iterable[str], lines: Lines) -> Findings:
    listings, limits = [], []
    with private_database() as database:
        for name in names:
            work = FIGURES[name]
            print(f"{name}: {work.what}", file=sys.stderr, flush=True)
            its = TypedLines.made_from(lines) if work.columns == TYPED else lines
            done, alone = _measured(database, work, its)
            listings.append(_listing(f"{name}: {work.what}", done, alone, lines.content.count))
            limits.append(_limit(name, done, alone, lines.content.count))
    title = (
        f"the limit: {CORES} cores and the servers' work alone (behind it: CPU seconds per million)"
    )
    return Findings([], [*listings, Listing(title, LIMIT_HEADS, limits)])


# ── one figure ──────────────────────────────────────────────────────────────────────────


def _measured(database: Database, work: Work, lines: Lines) -> tuple[Done, dict[str, Usage]]:
    """The work with nobody looking on, whose code it runs, and the servers alone."""
    with stream_daemon(database, work.columns, top="subscribers = 2\n") as way:
        _do(way, work, lines.first(lines.content.count // WARM_UP_SHARE), sample=False)
        done = _do(way, work, lines, sample=False)
        shares = _do(way, work, lines, sample=True).shares
        alone = {
            DATABASE: database_alone(database, lines, work.columns, way.table),
            QUEUE: queue_alone(lines, waits=work.waits),
        }
    return replace(done, shares=shares), alone


def _do(way: StreamDaemon, work: Work, lines: Lines, *, sample: bool) -> Done:
    """Do the work once, on an empty table."""
    way.database.empty(way.table)
    assert way.daemon.process
    names = {way.database.server.pid: DATABASE}
    family = _named(family_of(way.daemon.process.pid, names))
    watched = {pid: name for pid, name in family.names.items() if name in SAMPLED}
    if work.waits:
        _queue_up(way, lines)
    with sampled(watched) if sample else nullcontext({}) as shares:
        before, machine_before = family.usage(), machine_busy_s()
        seconds = _let_go(way, lines) if work.waits else way.store(lines)
        used = {name: after - before[name] for name, after in family.usage().items()}
        machine_s = machine_busy_s() - machine_before
    return Done(seconds, used, machine_s, shares)


def _named(family: Family) -> Family:
    return Family({pid: n if n in IN_ORDER else OTHERS for pid, n in family.names.items()})


def _queue_up(way: StreamDaemon, lines: Lines) -> None:
    """Have all lines wait in the queue, and nobody store them."""
    way.daemon.signal(signal.SIGTSTP)
    wait_until(lambda: all(one["waiting_for"] for one in _status(way)["subscribers"]))
    wanted = _pushed(way) + lines.content.count
    with connect(way.port) as connection:
        connection.sendall(lines.body)
        connection.shutdown(socket.SHUT_WR)
        wait_until(lambda: _pushed(way) >= wanted)


def _let_go(way: StreamDaemon, lines: Lines) -> float:
    """Have what waits stored; seconds until all of it is committed."""
    wanted = way.committed() + lines.content.count
    began = time.perf_counter()
    way.daemon.signal(signal.SIGCONT)
    wait_until(lambda: way.committed() >= wanted)
    return time.perf_counter() - began


def _pushed(way: StreamDaemon) -> int:
    return int(_status(way)["sources"]["lines"]["records"])


def _status(way: StreamDaemon) -> dict[str, Any]:
    status = way.daemon.try_status()
    assert status, way.daemon.said()
    return status


# ── tables ──────────────────────────────────────────────────────────────────────────────


def _listing(title: str, done: Done, alone: Mapping[str, Usage], records: int) -> Listing:
    rows = [_row(name, done.used[name], done.shares.get(name), records) for name in IN_ORDER]
    rows.append(_row(OTHERS, done.used[OTHERS], None, records))
    rows += [_row(f"{name} alone", alone[name], None, records) for name in alone]
    return Listing(f"{title}: CPU seconds per million records", HEADS, rows)


def _row(name: str, used: Usage, shares: Shares | None, records: int) -> list[str]:
    """One process: what it took, and of its time outside of the kernel, whose code it was."""
    times = [used.cpu_s, used.user_s, used.system_s]
    if shares:
        times += [used.user_s * shares[owner] for owner in OWNERS]
    figures = [_per_million(time_s, records) for time_s in times]
    return [name, *figures, *[""] * (len(HEADS) - 1 - len(figures))]


def _limit(name: str, done: Done, alone: Mapping[str, Usage], records: int) -> list[str]:
    """What was reached, beside the rate at which the servers alone would use up all cores.

    Alone or with us: whichever took less, since two at once on one core's threads slow each other.
    """
    alone_s = sum(min(one.cpu_s, done.used[server].cpu_s) for server, one in alone.items())
    reached, limit = records / done.seconds, CORES * records / alone_s
    times = [_per_million(time_s, records) for time_s in (alone_s, done.cpu_s, done.machine_s)]
    return [name, f"{reached:,.0f}", f"{limit:,.0f}", f"{reached / limit:.2f}", *times]


def _per_million(time_s: float, records: int) -> str:
    return f"{time_s / records * MILLION:.2f}"


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.profile", description="Say where the time goes."
    )
    parser.add_argument("figures", nargs="*", type=one_of(FIGURES), metavar="FIGURE")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
