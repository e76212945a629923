"""`stream-daemon rehearse`: is anything lost on *this* machine, with *this* configuration?

An instance with names, addresses, tables and keys of its own runs beside the real one (plan.py,
ground.py), in the same queue and the same store. Numbered records are sent through its real
sockets (feeds.py) while its processes are killed, again and again, at random; then its table is
compared with what was sent, byte for byte (account.py). All of it is removed at the end.

Nothing that the instance says of itself enters the verdict.
"""

import argparse
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from appliance import config, control
from appliance.app import App
from appliance.errors import StreamDaemonError
from appliance.instance import Instance
from appliance.verbs import locate
from appliance.verbs.interrupts import Interrupted, Interrupts, Overdue
from appliance.verbs.progress import progress_on
from appliance.verbs.rehearse import plan
from appliance.verbs.rehearse.account import Account, settle
from appliance.verbs.rehearse.ground import Ground
from appliance.verbs.rehearse.play import Play
from appliance.verbs.staged import InstanceFailed, Staged, free_port

SPARE_S = 600.0  # beside the time that was asked for: start, last records, stop, comparing
STOP_SPARE_S = 15.0  # beside drain_s
SEED_LIMIT = 10**6


def run(args: argparse.Namespace) -> int:
    """Rehearse for the given time; 0 if each record was stored once, 74 if one was lost."""
    users, real, _file = locate.load(args)
    locate.as_owner(real, args, ["rehearse"])
    instance = Instance(real.directory.parent / plan.name_of(users.name))
    control.check_path(instance.control)
    text = plan.text(plan.derive(users, instance.directory, free_port))
    own = config.parse(text, "the rehearsal's configuration")
    for sentence in plan.left_out(users):
        _say(sentence)
    environ = dict(os.environ)  # App forgets the variables that hold passwords
    app = App(own, instance)
    staged = Staged(
        "the rehearsal's instance",
        instance.directory / "toml",
        instance.directory / "log",
        instance.control,
        keep="it is removed with all else",
        stop_s_max=own.drain_s + STOP_SPARE_S,
        environ=environ,
    )
    play = Play(
        staged,
        instance,
        own,
        seconds=args.time,
        rate=args.rate,
        restarts=args.restarts,
        seed=random.randrange(SEED_LIMIT) if args.seed is None else args.seed,
    )
    with Interrupts(args.time + SPARE_S) as interrupts:
        try:
            with _claimed(Ground(instance, app, _say), interrupts):
                (instance.directory / "toml").write_text(text, encoding="utf-8")
                account = _play(play, staged, app, interrupts)
        except Overdue as overdue:
            raise InstanceFailed(
                f"the rehearsal took {SPARE_S:g} s more than its time"
            ) from overdue
        except Interrupted as interrupted:
            _say("interrupted; the instance is stopped, all is removed")
            return interrupted.exit_code
    for line in (*account.lines, *play.lines):
        print(line)
    return int(account.exit_code or play.exit_code)


def _play(play: Play, staged: Staged, app: App, interrupts: Interrupts) -> Account:
    """Send and kill, end it in order, and compare."""
    with app.traces() as (_, store), _running(staged, interrupts):
        with progress_on(sys.stderr, "rehearse", play.seconds) as progress:
            play.run(progress)
            play.wait_until_accounted(store.accounted, progress)
            play.stop()
            progress.say("comparing what is stored with what was sent")
        account = settle(play.sent, play.numbers, store.raws())
    for complaint in (*account.complaints, *play.complaints):
        _say(complaint)
    return account


def _say(text: str) -> None:
    print(f"rehearse: {text}", file=sys.stderr, flush=True)


@contextmanager
def _claimed(ground: Ground, interrupts: Interrupts) -> Iterator[None]:
    """The names are ours meanwhile, and nothing is left of it."""
    is_ours = False
    try:
        with interrupts.held():
            ground.claim()
            is_ours = True
        yield
    finally:
        with interrupts.held():
            if is_ours:
                ground.clear()


@contextmanager
def _running(staged: Staged, interrupts: Interrupts) -> Iterator[None]:
    """A started instance that is gone afterwards; a failure shows its last words."""
    try:
        with interrupts.held():
            staged.start()
        yield
    except (StreamDaemonError, Overdue):
        for line in staged.last_words():
            print(f"  {line}", file=sys.stderr)
        raise
    finally:
        with interrupts.held():
            staged.end()
