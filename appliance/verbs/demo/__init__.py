"""`demo`: the whole system on a built-in sample stream, nothing else needed.

The story, in about 20 seconds:

    1. start an instance of this very program in a temporary directory
       (embedded server, SQLite, a filter on the names of the NFL's teams)
    2. send it a fictional stream of tweets over TCP, now slower, now faster
    3. on the way kill its collector and its subscriber with SIGKILL, and go on sending
    4. wait until the ledger accounts for every tweet, stop the instance in order
    5. compare what the database holds with what was sent, and say it

Tweets are counted, and their bytes kept, here at the sender: nothing that the instance says
of itself enters the verdict, but the number it filtered, which has to fit. Every wait has a
limit, and the whole has one (`DEMO_S_MAX`). What was started is stopped and what was written
is removed, whatever happens; `--keep DIR` keeps it to be looked at.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import InstanceError, StreamDaemonError, Unavailable
from appliance.tweets import NFL_TEAMS, TeamFinder
from appliance.verbs.demo.account import Account, Row, settle
from appliance.verbs.demo.instance import NAME, SOURCE, TABLE, Instance, Status
from appliance.verbs.demo.progress import figures, print_teams
from appliance.verbs.demo.sender import Sender, tweets_per_s
from appliance.verbs.interrupts import Interrupted, Interrupts, Overdue
from appliance.verbs.progress import Progress, progress_on
from appliance.verbs.staged import InstanceFailed

DEMO_S_MAX = 90.0
READY_S_MAX = 30.0
SENDING_S = 9.0
SENDING_S_MAX = SENDING_S + 10.0  # on a busy machine, until a killed child was seen again
SETTLE_S_MAX = 30.0

TICK_S = 0.02
TICK_LATE_S_MAX = 0.1  # a loop that comes later than this doesn't make up for it
LOOK_EVERY_S = 0.25
READY_EVERY_S = 0.05

COLLECTOR_DIES_AT_S = 0.35 * SENDING_S
SUBSCRIBER_DIES_AT_S = 0.65 * SENDING_S

Clock = Callable[[], float]


def run(args: argparse.Namespace) -> int:
    """Play the demo; `args` holds keep (a directory or None) and seed."""
    with Interrupts(DEMO_S_MAX) as interrupts:
        try:
            with _directory(args.keep, interrupts) as directory:
                account, code = _play(directory, args.seed, interrupts)
                if args.keep is not None:
                    _say(f"kept in {directory}; look at it with:\n  {_look(directory)}")
        except Overdue as overdue:
            raise InstanceFailed(f"the demo was given up after {DEMO_S_MAX:.0f} s") from overdue
        except Interrupted as interrupted:
            _say("interrupted; the instance is stopped")
            return interrupted.exit_code
    for line in account.lines:
        print(line)
    return account.exit_code or code


def _play(directory: Path, seed: int, interrupts: Interrupts) -> tuple[Account, int]:
    """Steps 1 to 5, in a directory that exists: the account and the instance's exit code."""
    with _instance(directory, interrupts) as instance, progress_on(sys.stderr, "demo") as progress:
        progress.say(
            f"started an instance in {directory}: embedded server, SQLite, 127.0.0.1:"
            f"{instance.port}"
        )
        _wait_until_ready(instance)
        with Sender(instance.port, seed) as sender:
            _send_all(instance, sender, progress)
        progress.say(f"connection closed after {sender.sent} tweets; waiting for the last ones")
        _wait_until_accounted(instance, sender.sent, progress)
        code = instance.stop()
        progress.say(f"instance stopped, exit code {code}")
    return _verdict(instance, sender), code


# ── waiting ─────────────────────────────────────────────────────────────────────────────


def _wait_until_ready(instance: Instance, clock: Clock = time.monotonic) -> None:
    """Until the instance names a running collector and a running subscriber."""
    deadline = clock() + READY_S_MAX
    while clock() < deadline:
        status = instance.status()
        if status is not None and status.collector and status.subscriber:
            return
        instance.pause(READY_EVERY_S)
    raise InstanceFailed(f"the demo's instance wasn't ready within {READY_S_MAX:.0f} s")


def _wait_until_accounted(
    instance: Instance, sent: int, progress: Progress, clock: Clock = time.monotonic
) -> None:
    """Until the ledger has all that was sent; after the limit the verdict says what it hasn't.

    The ledger, not `status`: a subscriber killed between commit and count is missing there.
    """
    deadline = clock() + SETTLE_S_MAX
    while _accounted(instance) < sent:
        if clock() >= deadline:
            progress.say(f"not all tweets are accounted for after {SETTLE_S_MAX:.0f} s")
            return
        progress.show(figures(sent, instance.status()))
        instance.pause(LOOK_EVERY_S)


def _accounted(instance: Instance) -> int:
    try:
        return instance.database.ledger().accounted
    except Unavailable:  # its tables aren't made yet, or it is busy: look again
        return 0


# ── sending ─────────────────────────────────────────────────────────────────────────────


def _send_all(
    instance: Instance, sender: Sender, progress: Progress, clock: Clock = time.monotonic
) -> None:
    """Send for SENDING_S, look at the instance now and then, and kill what is to be killed.

    Raises:
        InstanceFailed: a child could not be killed, or the instance doesn't take the stream.
    """
    accidents = [
        Accident(f"collector {SOURCE}", COLLECTOR_DIES_AT_S, lambda status: status.collector),
        Accident("subscriber 1", SUBSCRIBER_DIES_AT_S, lambda status: status.subscriber),
    ]
    began = last = clock()
    looked, due = 0.0, 0.0
    while (now := clock()) - began < SENDING_S or (
        any(accident.is_awaited for accident in accidents) and now - began < SENDING_S_MAX
    ):
        due += tweets_per_s(now - began) * min(now - last, TICK_LATE_S_MAX)
        sender.send(int(due))
        last, due = now, due % 1
        if now - looked >= LOOK_EVERY_S:
            looked, status = now, instance.status()
            progress.show(figures(sender.sent, status))
            for accident in accidents:
                accident.happen(now - began, instance, status, progress)
        instance.pause(TICK_S)
    for accident in accidents:
        if accident.victim is None:
            raise InstanceFailed(f"the demo found no {accident.child} to kill")


@dataclass(slots=True)
class Accident:
    """The death of one child, at its time, and its return."""

    child: str
    at_s: float
    pid_in: Callable[[Status], int | None]
    victim: int | None = field(default=None, init=False)
    returned: bool = field(default=False, init=False)

    @property
    def is_awaited(self) -> bool:
        """Whether it was killed, and nobody has seen it back."""
        return self.victim is not None and not self.returned

    def happen(
        self, elapsed_s: float, instance: Instance, status: Status | None, progress: Progress
    ) -> None:
        """Kill the child when its time has come; later say that it is back."""
        pid = self.pid_in(status) if status is not None else None
        if status is None or pid is None or self.returned or elapsed_s < self.at_s:
            return
        if self.victim is None:
            if instance.kill(pid, status):
                self.victim = pid
                progress.say(f"killed {self.child} (pid {pid}) with SIGKILL; sending goes on")
        elif pid != self.victim:
            self.returned = True
            progress.say(f"{self.child} is back as pid {pid}; same connection")


# ── saying ──────────────────────────────────────────────────────────────────────────────


def _say(text: str) -> None:
    print(f"demo: {text}", file=sys.stderr, flush=True)


def _look(directory: Path) -> str:
    query = f"SELECT lang, count(*) FROM {TABLE} GROUP BY lang"
    return f'sqlite3 {directory}/{NAME}/{NAME}.db "{query}"'


# ── the verdict ─────────────────────────────────────────────────────────────────────────


def _verdict(instance: Instance, sender: Sender) -> Account:
    """Compare content with content, print the table per team, and complain where needed."""
    counts: Counter[str] = Counter()
    rows = _counted(instance.database.rows(), counts)
    account = settle(sender.sent, sender.expected, rows, instance.database.ledger())
    print_teams(counts, sys.stdout)
    for complaint in account.complaints:
        _say(complaint)
    return account


def _counted(rows: Iterator[Row], counts: Counter[str]) -> Iterator[Row]:
    """Pass rows on and count on the way which teams they name."""
    finder = TeamFinder()
    for row in rows:
        counts.update(finder.teams(row.text))
        yield row


# ── leaving nothing behind ──────────────────────────────────────────────────────────────


@contextmanager
def _instance(directory: Path, interrupts: Interrupts) -> Iterator[Instance]:
    """A started instance that is gone afterwards; a failure shows its last words."""
    instance = Instance(directory, NFL_TEAMS)
    try:
        with interrupts.held():
            instance.start()
        yield instance
    except (StreamDaemonError, Overdue):
        for line in instance.last_words():
            print(f"  {line}", file=sys.stderr)
        raise
    finally:
        with interrupts.held():
            instance.end()


@contextmanager
def _directory(keep: str | None, interrupts: Interrupts) -> Iterator[Path]:
    """Where the instance lives: a temporary directory, or an empty one that is kept.

    Raises:
        InstanceError: the one to be kept can't be made or isn't empty.
    """
    if keep is not None:
        yield _empty(Path(keep).absolute())
        return
    directory: Path | None = None
    try:
        with interrupts.held():
            directory = Path(tempfile.mkdtemp(prefix="stream-demo-"))
        yield directory
    finally:
        with interrupts.held():
            if directory is not None:
                _remove(directory)


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():
        _say(f"could not remove {directory}")


def _empty(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        empty = not any(directory.iterdir())
    except OSError as error:
        raise InstanceError(f"--keep {directory}: {error.strerror}", "name another one") from error
    if not empty:
        raise InstanceError(f"--keep {directory}: is not empty", "name a new directory")
    return directory
