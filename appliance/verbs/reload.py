"""`stream-daemon reload`: have the running instance take up its changed configuration."""

import argparse
import sys

from appliance import control
from appliance.errors import Exit
from appliance.verbs import locate


def run(args: argparse.Namespace) -> int:
    """Reload and wait; say what has changed, or why the old configuration was kept."""
    instance = locate.instance(args)
    try:
        with control.connect(instance.control, args.timeout) as connection:
            answer = control.converse(connection, {"verb": "reload"})
    except control.NotRunning:
        print("not running", file=sys.stderr)
        return int(Exit.NOT_RUNNING)
    except TimeoutError:
        print(
            f"no outcome after {args.timeout:g} s; it goes on by itself"
            "\n  → see its log, or: stream-daemon status",
            file=sys.stderr,
        )
        return int(Exit.TIMED_OUT)
    except PermissionError:
        raise locate.not_ours(instance) from None
    if "error" in answer:
        kept = answer.get("exit") == Exit.CONFIG
        print(f"{'the old configuration is kept: ' * kept}{answer['error']}", file=sys.stderr)
    else:
        print("\n  ".join([answer["said"], *answer["changed"]]))
    return int(answer.get("exit", Exit.INTERNAL))  # another version may not know the verb
