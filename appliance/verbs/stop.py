"""`stream-daemon stop`: end the instance gracefully and exit with its exit code."""

import argparse
import os
import select
import sys

from appliance import control
from appliance.errors import Exit
from appliance.instance import Instance
from appliance.verbs import locate

LAST_STEP_S = 10.0  # from its last word to its end


def run(args: argparse.Namespace) -> int:
    """Stop and wait; nothing running is no error."""
    instance = locate.instance(args)
    try:
        connection = control.connect(instance.control, args.timeout)
    except control.NotRunning:
        print("not running", file=sys.stderr)
        return int(Exit.OK)
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
