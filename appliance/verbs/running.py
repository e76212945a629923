"""`stream-daemon running`: the pid of the instance's parent, or exit 3."""

import argparse
import sys

from appliance import control
from appliance.errors import Exit
from appliance.verbs import locate


def run(args: argparse.Namespace) -> int:
    """Print the pid and exit 0; exit 3 if the instance doesn't run."""
    instance = locate.instance(args)
    try:
        with control.connect(instance.control) as connection:
            pid = control.peer_pid(connection)
    except control.NotRunning:
        if not args.quiet:
            print("not running", file=sys.stderr)
        return int(Exit.NOT_RUNNING)
    except PermissionError:
        raise locate.not_ours(instance) from None
    if not args.quiet:
        print(pid)
    return int(Exit.OK)
