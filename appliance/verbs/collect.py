"""`stream-daemon collect`: start an instance and run it to its end."""

import argparse
import logging
import signal
import time

from appliance import control, logs, process
from appliance.app import App
from appliance.contracts import Checkpoint, no_checkpoint
from appliance.errors import Exit, InstanceError
from appliance.instance import Instance
from appliance.verbs import locate

LOOK_AGAIN_S = 0.1
SPARE_S = 5.0  # what leftovers of a dead parent get beyond their own deadline
KILL_WAIT_S = 5.0

_log = logging.getLogger("parent")


class AlreadyRuns(InstanceError):
    """Another process runs this instance, or waits to run it."""


def run(args: argparse.Namespace, checkpoint: Checkpoint = no_checkpoint) -> int:
    """Run until stopped; the exit code says whether all is safe."""
    if args.if_needed and _runs(locate.instance(args)):
        return int(Exit.OK)
    config, instance, _file = locate.load(args)
    logs.set_up(config.log.level)
    process.fill_standard_descriptors()
    control.check_path(instance.control)
    app = App(config, instance, checkpoint)  # the last that can find the configuration wanting
    instance.make()
    lock = process.Lock(instance.lock)
    try:
        _acquire(lock, instance, config.drain_s)
    except AlreadyRuns:
        if args.if_needed:
            return int(Exit.OK)
        raise
    try:
        return int(app.run())
    finally:
        lock.release()


def _acquire(lock: process.Lock, instance: Instance, drain_s: float) -> None:
    """Take the instance's lock, waiting for what is left of a dead parent.

    Raises:
        AlreadyRuns: another instance runs, or another `collect` waits already.
    """
    if lock.try_acquire():
        return
    _refuse_second(instance)
    turnstile = process.Lock(instance.turnstile)
    if not turnstile.try_acquire():
        raise AlreadyRuns(
            "another `collect` already waits for this instance's lock",
            "nothing: that one starts it; see stream-daemon status",
        )
    try:
        _wait_for_leftovers(lock, instance, drain_s)
    finally:
        turnstile.release()


def _wait_for_leftovers(lock: process.Lock, instance: Instance, drain_s: float) -> None:
    """Children of a dead parent hand over what they hold; after their deadline they go."""
    _log.info("children of a killed parent are still handing over: waiting up to %.0f s", drain_s)
    deadline = time.monotonic() + drain_s + SPARE_S
    while not lock.try_acquire():
        _refuse_second(instance)
        if time.monotonic() > deadline:
            _kill_leftovers(instance)
        time.sleep(LOOK_AGAIN_S)  # flock(2) has no descriptor to wait on


def _kill_leftovers(instance: Instance) -> None:
    for pid in process.holders(instance.lock):
        _log.warning("pid %d still holds %s: killing it", pid, instance.lock)
        process.kill_and_wait(pid, signal.SIGKILL, KILL_WAIT_S)


def _runs(instance: Instance) -> bool:
    """Whether it runs; a broken configuration or a missing secret is no reason to ask more."""
    try:
        return process.lock_owner(instance.lock) is not None
    except PermissionError:  # not ours: said where the directory is made
        return False


def _refuse_second(instance: Instance) -> None:
    owner = process.lock_owner(instance.lock)
    if owner is not None:
        raise AlreadyRuns(
            f"it already runs (pid {owner}) in {instance.directory}",
            "stop it first: stream-daemon stop; or give this one another name",
        )
