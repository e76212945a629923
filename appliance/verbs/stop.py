"""`stream-daemon stop`: end the instance gracefully and exit with its exit code."""

import argparse
import math
import os
import select
import signal
import sys
import time

from appliance import control, keeper_wire, process
from appliance.errors import Exit
from appliance.instance import Instance
from appliance.verbs import holder, locate

LOOK_AGAIN_S = 0.2
LAST_STEP_S = 10.0  # from its last word to its end


def run(args: argparse.Namespace) -> int:
    """Stop and wait; nothing running is no error."""
    instance = locate.instance(args)
    try:
        connection = control.connect(instance.control, args.timeout)
    except control.NotRunning:
        return _not_running(instance, args.timeout)
    except TimeoutError:
        return _too_long(instance, "not heard", args.timeout)
    except PermissionError:
        raise locate.not_ours(instance) from None
    with connection:
        pidfd = _pidfd(control.peer_pid(connection))
        try:
            answer = control.converse(connection, {"verb": "stop", "now": args.now})
        except TimeoutError:
            return _too_long(instance, "still stopping", args.timeout)
        except control.NotRunning:
            print("it was killed before it had ended", file=sys.stderr)
            return int(Exit.INTERNAL)
        if pidfd is not None:
            select.select([pidfd], [], [], LAST_STEP_S)
            os.close(pidfd)
    return int(answer["exit"])


def _not_running(instance: Instance, timeout_s: float | None) -> int:
    """Nothing to stop, unless children of a killed parent are still handing over."""
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    if not _leftovers(instance):
        _end_keeper(instance)
        print("not running", file=sys.stderr)
        return int(Exit.OK)
    print("its parent was killed; waiting for the children to hand over", file=sys.stderr)
    while _leftovers(instance):
        if time.monotonic() > deadline:
            return _too_long(instance, "still handing over", timeout_s or 0.0)
        time.sleep(LOOK_AGAIN_S)  # flock(2) has no descriptor to wait on
    _end_keeper(instance)
    return int(Exit.INTERNAL)


def _end_keeper(instance: Instance) -> None:
    """A stop means stop: nobody shall go on with connections of a killed instance."""
    if holder.parent(instance) is None and keeper_wire.end(instance.keeper, _kill):
        print("ended the keeper of a killed instance: its senders are cut", file=sys.stderr)


def _kill(pid: int) -> None:
    process.kill_and_wait(pid, signal.SIGKILL, holder.KILL_WAIT_S)


def _leftovers(instance: Instance) -> set[int]:
    return process.holders(instance.lock) - {holder.draining(instance)}


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _too_long(instance: Instance, what: str, timeout_s: float) -> int:
    print(
        f"{what} after {timeout_s:g} s; nothing was killed"
        f"\n  → look again: stream-daemon running ({instance.directory})",
        file=sys.stderr,
    )
    return int(Exit.TIMED_OUT)
