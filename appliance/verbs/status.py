"""`stream-daemon status`: what the instance does now."""

import argparse
import json
import sys

from appliance import control, status
from appliance.errors import Exit
from appliance.verbs import locate


def run(args: argparse.Namespace) -> int:
    """Print one screen, or JSON; the exit code says how it is."""
    instance = locate.instance(args)
    try:
        report = control.ask(instance.control, {"verb": "status"})
    except control.NotRunning:
        print("not running", file=sys.stderr)
        return int(Exit.NOT_RUNNING)
    except TimeoutError:
        print("it runs, but doesn't answer\n  → is it stopped (ps shows state T)?", file=sys.stderr)
        return int(Exit.UNKNOWN)
    except PermissionError:
        raise locate.not_ours(instance) from None
    report["directory"] = str(instance.directory)  # as we have found it
    print(json.dumps(report, indent=2) if args.json else status.screen(report))
    return int(status.exit_code(report))
