"""Who holds an instance: its parent, what is left of a killed one, or a `drain` or `audit`.

All of them hold the same lock (see instance.py), and its file names the process that took it.
A `drain` or `audit` that works alone holds it too, so that nobody starts a second server beside
it, but it is no instance: a `collect` ends it (nothing is lost by that) instead of being refused.
It is known by its turn, `drain.lock`.
"""

import logging
import signal
import time

from appliance import process
from appliance.errors import Exit, InstanceError, StreamDaemonError
from appliance.instance import Instance

LOOK_AGAIN_S = 0.1
SPARE_S = 5.0  # what leftovers of a dead parent get beyond their own deadline
KILL_WAIT_S = 5.0
DRAIN_END_S = 20.0  # its lease in hand, and its server

_log = logging.getLogger("parent")


class AlreadyRuns(InstanceError):
    """Another process runs this instance, or waits to run it."""


class StillHeld(StreamDaemonError):
    """Somebody else is at work in the instance's directory, and our time is over."""

    exit_code = Exit.TIMED_OUT


def parent(instance: Instance) -> int | None:
    """The pid of the running instance's parent."""
    drain = draining(instance)  # looked at before and after: it may begin or end meanwhile
    owner = process.lock_owner(instance.lock)
    return None if owner in (drain, draining(instance)) else owner


def draining(instance: Instance) -> int | None:
    """The pid of the `drain` that is at work, alone or not, or of an `audit` that is alone."""
    return process.lock_owner(instance.drain_lock)


def refuse_second(instance: Instance) -> None:
    """Raise if the instance runs.

    Raises:
        AlreadyRuns: it does.
    """
    owner = parent(instance)
    if owner is not None:
        raise AlreadyRuns(
            f"it already runs (pid {owner}) in {instance.directory}",
            "stop it first: stream-daemon stop; or give this one another name",
        )


def is_alone(lock: process.Lock, instance: Instance, errand: process.Errand) -> bool:
    """Whether no instance runs; then we hold its lock, and nobody can start one.

    Children of a killed parent still work with its server: they are waited for. Whoever asks
    has taken its turn, so that it isn't taken for an instance.

    Raises:
        StillHeld: they are still at work at our end.
    """
    while not lock.try_acquire():
        if parent(instance) is not None:
            return False
        if errand.stop:
            raise StillHeld(
                f"children of a killed instance still hold {instance.lock}",
                "they hand over and end by themselves; then run this again",
            )
        errand.wait(LOOK_AGAIN_S)  # flock(2) has no descriptor to wait on
    return True


def acquire(lock: process.Lock, instance: Instance, drain_s: float) -> None:
    """Take the instance's lock, waiting for a drain and for what is left of a dead parent.

    Raises:
        AlreadyRuns: another instance runs, or another `collect` waits already.
    """
    if lock.try_acquire():
        return
    refuse_second(instance)
    turnstile = process.Lock(instance.turnstile)
    if not turnstile.try_acquire():
        raise AlreadyRuns(
            "another `collect` already waits for this instance's lock",
            "nothing: that one starts it; see stream-daemon status",
        )
    try:
        _end_drain(instance)
        _wait_for_leftovers(lock, instance, drain_s)
    finally:
        turnstile.release()


def _end_drain(instance: Instance) -> None:
    """Reading goes first: what a drain leaves is stored by the instance."""
    pid = process.lock_owner(instance.lock)
    if pid is not None and pid == draining(instance):
        _log.info("a drain or audit is at work (pid %d): ending it", pid)
        process.kill_and_wait(pid, signal.SIGTERM, DRAIN_END_S)


def _wait_for_leftovers(lock: process.Lock, instance: Instance, drain_s: float) -> None:
    """Children of a dead parent hand over what they hold; after their deadline they go."""
    if lock.try_acquire():
        return
    _log.info("children of a killed parent are still handing over: waiting up to %.0f s", drain_s)
    deadline = time.monotonic() + drain_s + SPARE_S
    while not lock.try_acquire():
        refuse_second(instance)
        if time.monotonic() > deadline:
            _kill_leftovers(instance)
        time.sleep(LOOK_AGAIN_S)  # flock(2) has no descriptor to wait on


def _kill_leftovers(instance: Instance) -> None:
    for pid in process.holders(instance.lock):
        _log.warning("pid %d still holds %s: killing it", pid, instance.lock)
        process.kill_and_wait(pid, signal.SIGKILL, KILL_WAIT_S)
