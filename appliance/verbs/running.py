"""`stream-daemon running`: the pid of the instance's parent, or exit 3."""

import argparse
import sys

from appliance import control
from appliance.errors import Exit
from appliance.instance import Instance
from appliance.verbs import holder, locate


def run(args: argparse.Namespace) -> int:
    """Print the pid and exit 0; exit 3 if the instance doesn't run."""
    pid = _pid(locate.instance(args))
    if pid is None:
        if not args.quiet:
            print("not running", file=sys.stderr)
        return int(Exit.NOT_RUNNING)
    if not args.quiet:
        print(pid)
    return int(Exit.OK)


def _pid(instance: Instance) -> int | None:
    try:
        with control.connect(instance.control) as connection:
            return control.peer_pid(connection)
    except control.NotRunning:
        return None
    except TimeoutError:  # it was stopped (ps shows T), and many have asked since
        return holder.parent(instance)
    except PermissionError:
        raise locate.not_ours(instance) from None
