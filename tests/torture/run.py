"""One run: a world under load, faults, calm, and the account of what became of every record."""

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import Exit
from tests.torture import plan
from tests.torture.account import Account, compare
from tests.torture.faults import Executor, Outage
from tests.torture.plan import Fault
from tests.torture.scenarios import Scenario
from tests.torture.senders import Sender, Stretch, doubt
from tests.torture.world import LARGE_STATE_BYTES, STATE_BYTES, Sample, World, say, since

PROGRESS_S = 10.0
LOOK_S = 0.2
SETTLE_S = 120.0  # without any progress, once everything is there again
FINISH_S = 180.0  # for one sender
PSS_BYTES_MAX = 128 * 1024**2  # of one process of the instance
LOG_LINES_BASE, LOG_LINES_PER_FAULT = 200, 40
AUDIT_S = 20.0  # between two audits while things go wrong
AUDIT_LOOKS_S = 10  # for each of them
WRONG = 1  # its exit code where accounts differ; others say that it couldn't see them all
MIB = 1024**2


@dataclass(frozen=True)
class Order:
    """What is wanted. kills: end as soon as so many were done; 0: after time_s.

    scenario: this plan instead of one from the seed.
    """

    seed: int
    time_s: float
    only: tuple[str, ...] = plan.KINDS
    kills: int = 0
    pace: float = 1.0
    rate: float = 2500.0
    scenario: Scenario | None = None

    def lanes(self) -> dict[str, Iterator[Fault]]:
        """Its faults."""
        if self.scenario:
            return self.scenario.lanes(self.pace)
        lanes = plan.lanes(self.seed, self.only, self.pace)
        if self.kills:
            return lanes
        return {name: plan.until(self.time_s, faults) for name, faults in lanes.items()}


@dataclass
class Report:
    """What came out. longest_pauses: {sender: how long, when it ended}, in seconds."""

    order: Order
    account: Account = field(default_factory=Account)
    problems: list[str] = field(default_factory=list)
    done: Mapping[tuple[str, str], int] = field(default_factory=Counter)
    missed: Mapping[tuple[str, str], int] = field(default_factory=Counter)
    lasted_s: float = 0.0
    longest_pauses: dict[str, tuple[float, float]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    audits: Counter[int] = field(default_factory=Counter)
    log_lines: int = 0
    refused_starts: int = 0
    kept: Path | None = None

    @property
    def memory(self) -> dict[str, int]:
        """The most that each process has taken, {title: bytes}."""
        most: dict[str, int] = {}
        for sample in self.samples:
            for title, used in sample.memory.items():
                most[title] = max(most.get(title, 0), used)
        return most

    @property
    def good(self) -> bool:
        """Whether all was as promised."""
        return not self.problems


def torture(order: Order, *, keep: bool = False) -> Report:
    """Run it; what is left of a run that failed stays in a folder of its own."""
    report = Report(order)
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{order.seed}-", dir="/tmp"))
    state_bytes = LARGE_STATE_BYTES if order.scenario else STATE_BYTES
    try:
        with World(order.seed, order.rate, folder, state_bytes) as world:
            _run_and_keep(world, report, keep)
    finally:
        if not report.kept:
            shutil.rmtree(folder)
    return report


def _run_and_keep(world: World, report: Report, keep: bool) -> None:
    start = time.monotonic()
    try:
        _run(world, report)
    except BaseException as error:
        world.problems.append(f"the run itself failed: {error!r}")
        raise
    finally:
        report.lasted_s = since(start)
        report.problems += world.problems
        if keep or report.problems:
            _keep(world, world.folder)
            report.kept = world.folder


def _run(world: World, report: Report) -> None:
    order = report.order
    if world.unmounted and "fill" in order.only:
        say(f"no disk is filled: this user may not mount ({world.unmounted})")
    for sender in world.senders.values():
        sender.start()
    with _faults(world, order) as executor:
        _wait(world, executor, report)
    report.done, report.missed, report.outages = executor.done, executor.missed, executor.outages
    _settle(world, report)
    if _audit(world, report, "--recount") != Exit.OK:
        world.problems.append("the audit at the end can't tell")
    world.stop()
    for sender in world.senders.values():
        _check_refusals(world, sender)
        for stretch in sender.stretches:
            doubt(stretch, world.parent_kills)
    report.account = compare(
        {name: (sender.lines, sender.stretches) for name, sender in world.senders.items()},
        world.rows(),
        world.dead(),
        world.gaps(),
    )
    _judge(world, report)


@contextmanager
def _faults(world: World, order: Order) -> Iterator[Executor]:
    executor = Executor(world, world.folder / "faults", order.kills)
    executor.start(order.lanes())
    try:
        yield executor
    finally:
        executor.end()


def _wait(world: World, executor: Executor, report: Report) -> None:
    """Wait until the faults are over, have audits meanwhile, and say how far it is."""
    order = report.order
    start = said = audited = time.monotonic()
    while since(start) < order.time_s or (order.kills and executor.running):
        time.sleep(LOOK_S)
        if since(audited) > AUDIT_S:
            _audit(world, report)
            audited = time.monotonic()
        if since(said) > PROGRESS_S:
            said = time.monotonic()
            stored = sum(world.accounted().values())
            say(
                f"{since(start):6.0f} s  {executor.kills:5} kills  {sum(executor.done.values()):5}"
                f" faults  {_sent(world):10,} sent  {stored:10,} stored"
            )


def _audit(world: World, report: Report, *words: str) -> int:
    """Have the accounts compared; its exit code."""
    done = world.daemon.run("audit", "--timeout", str(AUDIT_LOOKS_S), *words)
    report.audits[done.returncode] += 1
    if done.returncode == WRONG:
        world.problems.append(f"audit after {since(world.born_at):.1f} s:\n{done.stdout}")
    return done.returncode


def _sent(world: World) -> int:
    return sum(sender.sent for sender in world.senders.values())


# ── calm ────────────────────────────────────────────────────────────────────────────────


def _settle(world: World, report: Report) -> None:
    """Let the senders finish, and wait until all that they were told to have sent is stored."""
    start = time.monotonic()
    for sender in world.senders.values():
        if not sender.finish(FINISH_S):
            world.problems.append(f"{sender.name} couldn't finish in {FINISH_S:.0f} s")
        if sender.problem:
            world.problems.append(sender.problem)
    best, best_at, said = -1, time.monotonic(), time.monotonic()
    while (missing := _missing(world)) != 0:
        stored = sum(world.accounted().values())
        if stored > best:
            best, best_at = stored, time.monotonic()
        if since(best_at) > SETTLE_S:
            world.problems.append(f"no progress for {SETTLE_S:.0f} s, {missing} missing")
            return
        if since(said) > PROGRESS_S:
            said = time.monotonic()
            say(f"settling: {missing:,} to be stored")
        time.sleep(LOOK_S)
    world.sample()
    say(f"settled after {since(start):.1f} s")


def _missing(world: World) -> int:
    """Records that must be stored and aren't, as far as sums can tell; 1 while some are queued."""
    accounted = world.accounted()
    wanted: Counter[str] = Counter()
    for name, sender in world.senders.items():
        proven = (s for s in sender.stretches if s.fate != "refused")
        wanted[name.rstrip("0123456789")] += sum(s.end - s.first + bool(s.tail) for s in proven)
    missing = sum(max(0, count - accounted.get(source, 0)) for source, count in wanted.items())
    return missing or int(bool(world.queue.waiting() or world.queue.busy() or world.spooled()))


# ── the verdict ─────────────────────────────────────────────────────────────────────────


def _judge(world: World, report: Report) -> None:
    account = report.account
    for kind, shown in account.problems.items():
        report.problems.append(f"{account.counts[kind]} {kind}: {'; '.join(shown)}")
    for name, sender in world.senders.items():
        pause_s, ended_at = sender.longest_pause
        report.longest_pauses[name] = (pause_s, ended_at - world.born_at)
    _judge_limits(world, report)


def _check_refusals(world: World, sender: Sender) -> None:
    """Only a parent that dies may cut a connection."""
    for stretch in sender.stretches:
        if stretch.fate == "refused" and not _was_parent_killed(world, stretch):
            opened, ended = stretch.opened_at - world.born_at, stretch.ended_at - world.born_at
            world.problems.append(
                f"{sender.name} was refused at {stretch.end} with no parent killed meanwhile"
                f" ({opened:.3f} to {ended:.3f} s)"
            )


def _was_parent_killed(world: World, stretch: Stretch) -> bool:
    return any(
        began <= stretch.ended_at and stretch.opened_at <= gone
        for began, gone in world.parent_kills
    )


def _judge_limits(world: World, report: Report) -> None:
    report.refused_starts = world.refused_starts
    report.samples = world.samples
    for title, used in report.memory.items():
        if used > PSS_BYTES_MAX:
            report.problems.append(f"{title} took {used / MIB:.0f} MiB")
    report.log_lines = world.daemon.said().count("\n")
    limit = LOG_LINES_BASE + LOG_LINES_PER_FAULT * sum(report.done.values())
    if report.log_lines > limit:
        report.problems.append(f"{report.log_lines} lines in the log, more than {limit}")


def _keep(world: World, folder: Path) -> None:
    """Copy what one needs to find out into the run's folder."""
    (folder / "lines").unlink(missing_ok=True)  # made again from the seed
    for file in (world.daemon.log, world.daemon.file, world.mariadb.log):
        shutil.copy(file, folder / f"{file.parent.name[:5]}-{file.name}")
    (folder / "samples").write_text("".join(f"{sample}\n" for sample in world.samples))
    shutil.copytree(world.state, folder / "state", ignore=_no_sockets)
    shutil.copytree(world.redis.directory, folder / "redis", ignore=_no_sockets)
    with (folder / "tables").open("w") as tables:
        for table in ("runs", "frames", "dead", "gaps", "meta"):
            for row in world.database.run(f"SELECT * FROM torture_{table}"):
                tables.write(f"{table} {row!r}\n")


def _no_sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]
