"""`stream-daemon drain`: store what is queued now, and exit; made for crontabs.

Beside a running instance it is one subscriber more: it touches the queue and the store and
nothing else. Alone it holds the instance's lock, brings its own embedded server, and ends it.
Killed at any moment nothing is lost: its lease is an orphan that the next one gives back, and
the server that it leaves is ended by whoever needs the directory next.

    is it mine?      the caller owns the state directory, else files of root's would be in it
    am I alone?      another drain: nothing to do. An instance: beside it. Neither: the lock
    what waits?      counted once, so that a busy stream doesn't keep it for ever
    store it         app.drain; until that is done, the time is over, or a signal comes

Cron mails whatever it prints, so it prints nothing when all went well and nobody looks.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from appliance import control, logs, process
from appliance.app import App
from appliance.counters import Board, Slot
from appliance.errors import Exit, StreamDaemonError
from appliance.instance import Instance
from appliance.verbs import holder, locate
from appliance.verbs.progress import Tell, counted

if TYPE_CHECKING:
    from rich.console import RenderableType

QUIET_LEVEL = "error"
COUNTS = (("filtered", "filtered"), ("dead", "dead letters"), ("lost", "lost"))


class LeftQueued(StreamDaemonError):
    """Not all that was queued is stored; it stays queued, safely."""

    exit_code = Exit.TIMED_OUT


def run(args: argparse.Namespace) -> int:
    """Store what is queued; 0 when all of that is done, 75 when some is left."""
    config, instance, _file = locate.load(args)
    locate.as_owner(instance, args, ["drain", "--timeout", f"{args.timeout:g}"])
    process.fill_standard_descriptors()
    is_seen = args.verbose or sys.stdout.isatty()
    level = config.log.level if is_seen else QUIET_LEVEL
    logs.set_up_stderr(config.log, config.name, "drain", level)
    app = App(config, instance)
    if config.queue.url == "embedded" and not instance.queue.is_dir():
        print(f"nothing is queued: no instance has run in {instance.directory}", file=sys.stderr)
        return int(Exit.OK)
    instance.make()
    turn = process.Lock(instance.drain_lock)
    if not turn.try_acquire():
        print(
            f"another drain, or an audit, is at work (pid {holder.draining(instance)})",
            file=sys.stderr,
        )
        return int(Exit.OK)
    with process.Errand(args.timeout) as errand:
        account = Account(Board().slot("drain"))
        _drain(app, instance, errand, account)
    if is_seen:
        print(account.sentence)
    return int(Exit.OK)


# ── alone, or beside an instance ────────────────────────────────────────────────────────


def _drain(app: App, instance: Instance, errand: process.Errand, account: "Account") -> None:
    """Store what is queued.

    Raises:
        LeftQueued: some of it is left, or nobody knows.
    """
    lock = process.Lock(instance.lock)
    try:
        alone = holder.is_alone(lock, instance, errand)
        if not alone:
            _refuse_paused(instance)
        with counted("drain", "frames", Awaited(account.slot)) as account.bar:
            all_done = app.drain(errand, account.slot, alone, account.tell)
    except process.Overdue:
        all_done = False
    finally:
        lock.release()
    if not all_done:
        raise account.rest(errand)


def _refuse_paused(instance: Instance) -> None:
    """A pause is for work on the store: nobody may touch it meanwhile, nor do we.

    Raises:
        LeftQueued: the instance is paused.
    """
    try:
        report = control.ask(instance.control, {"verb": "status"})
    except (control.NotRunning, TimeoutError):  # it is starting, ending or stopped
        return
    if report["paused"]:
        raise LeftQueued(
            f"storing is paused in the running instance (pid {report['pid']})",
            f"resume it: kill -CONT {report['pid']}; what is queued stays queued",
        )


# ── what is said ────────────────────────────────────────────────────────────────────────


class Account:
    """What a drain has done so far; `tell` is told by who does it."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.done = 0
        self.frames: int | None = None  # None: the queue hasn't said it
        self.bar: Tell = lambda _done, _frames: None

    def tell(self, done: int, frames: int) -> None:
        """So many frames of so many are done."""
        self.done, self.frames = done, frames
        self.bar(done, frames)

    @property
    def sentence(self) -> str:
        """All is done."""
        if not self.frames:
            return "nothing is queued"
        more = [f"{self.slot.get(word)} {name}" for word, name in COUNTS if self.slot.get(word)]
        counts = ", ".join([f"stored {self.slot.get('stored')} records", *more])
        return f"{counts}; {self.frames} frames, none of them is left"

    def rest(self, errand: process.Errand) -> LeftQueued:
        """Some is left: how much, and what was awaited."""
        awaited = self.slot.text("waiting_for")
        why = f"waiting for {awaited}" if awaited else "told to end"
        if not awaited and not errand.drain:
            why = "the time is over"
        if self.frames is None:
            return LeftQueued(f"what is queued stays queued: {why}", "run drain again later")
        return LeftQueued(
            f"{self.frames - self.done} of {self.frames} frames stay queued: {why}",
            "run drain again, or with a longer --timeout",
        )


class Awaited:
    """What is awaited at this moment, for a progress bar that draws itself."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def __rich__(self) -> "RenderableType":
        from rich.text import Text

        awaited = self._slot.text("waiting_for")
        return Text(f"waiting for {awaited}" if awaited else "", no_wrap=True, overflow="ellipsis")
