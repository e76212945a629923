"""The command line's grammar: verbs, options, and an example for each.

A verb is a module of appliance/verbs with `run(args) -> int`; it is imported only when it
is asked for, so that `running` doesn't wait for a database driver.
"""

import argparse
import importlib
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from appliance import __version__
from appliance.errors import Exit, StreamDaemonError
from appliance.verbs import times

TIMEOUT_S_MAX = 1_000_000.0  # poll(2) counts milliseconds in 31 bits
INTERRUPTED = 128 + signal.SIGINT  # as shells say it

Options = tuple[tuple[tuple[str, ...], dict[str, object]], ...]


def seconds(text: str) -> float:
    """A time on the command line.

    Raises:
        ArgumentTypeError: not a positive number, or too large for the kernel.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= TIMEOUT_S_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds such as 90 or 0.5")
    return value


def count(text: str) -> int:
    """How many, on the command line.

    Raises:
        ArgumentTypeError: not a positive whole number.
    """
    if not re.fullmatch("[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 100")
    return int(text)


def system_user(text: str) -> str:
    """A user's name on the command line, as useradd(8) takes it.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a user's name such as stream")
    return text


VERBS: dict[str, tuple[str, str, Options]] = {
    "collect": (
        "collect and store until stopped, in the foreground or with --detach",
        "stream-daemon -c /etc/stream-daemon/stream-daemon.toml collect",
        (
            (
                ("--detach",),
                {"action": "store_true", "help": "go on in the background; return when ready"},
            ),
            (
                ("--if-needed",),
                {"action": "store_true", "help": "if it runs already, exit 0 in silence (cron)"},
            ),
            (
                ("--replace",),
                {
                    "action": "store_true",
                    "help": "if it runs already, end it and go on with its connections: an"
                    " upgrade, or a new configuration, that no sender notices",
                },
            ),
        ),
    ),
    "stop": (
        "stop the instance gracefully, wait, and exit with its exit code",
        "stream-daemon stop --timeout 90",
        (
            (("--now",), {"action": "store_true", "help": "give leases back, finish nothing"}),
            (
                ("--timeout",),
                {
                    "type": seconds,
                    "metavar": "S",
                    "help": "wait at most so many seconds (then exit 75; nothing is killed)",
                },
            ),
        ),
    ),
    "reload": (
        "take up the changed configuration; on any failure the old one is kept (exit 78)",
        "stream-daemon reload",
        (
            (
                ("--timeout",),
                {
                    "type": seconds,
                    "metavar": "S",
                    "help": "wait at most so many seconds for the outcome (then exit 75)",
                },
            ),
        ),
    ),
    "running": (
        "print the instance's pid; exit 3 if it doesn't run",
        "stream-daemon running && echo yes",
        ((("-q", "--quiet"), {"action": "store_true", "help": "print nothing"}),),
    ),
    "status": (
        "say what the instance does now; exit 0 healthy, 2 degraded, 3 not running, 4 unknown",
        "stream-daemon status --json | jq .queue",
        ((("--json",), {"action": "store_true", "help": "print JSON"}),),
    ),
    "drain": (
        "store what is queued now, then exit (for cron); exit 75 if some of it is left",
        "stream-daemon -c /etc/stream-daemon/stream-daemon.toml drain --timeout 120",
        (
            (
                ("--timeout",),
                {
                    "type": seconds,
                    "metavar": "S",
                    "default": 60.0,
                    "help": "take at most about so many seconds (default: 60)",
                },
            ),
            (
                ("-v", "--verbose"),
                {"action": "store_true", "help": "say what was stored, as on a terminal"},
            ),
        ),
    ),
    "dead": (
        "list, show, retry or export dead letters: records that could not be stored",
        "stream-daemon dead retry --code duplicate --since 2h",
        (
            (
                ("action",),
                {
                    "choices": ("list", "show", "retry", "export"),
                    "help": "list: the newest first; show: all about some, their bytes to stdout;"
                    " retry: store them, after table or columns were mended; export: their bytes,"
                    " so that they can be sent in again",
                },
            ),
            (
                ("letter",),
                {"nargs": "*", "metavar": "RUN:FRAME:POSITION", "help": "only these (see list)"},
            ),
            (("--source",), {"metavar": "SOURCE", "help": "only those of this source"}),
            (("--code",), {"metavar": "CODE", "help": "only those with this code"}),
            (
                ("--since",),
                {
                    "type": times.moment,
                    "metavar": "TIME",
                    "help": "only those since then: 2h, 7d, or a date and time (UTC)",
                },
            ),
            (
                ("--limit",),
                {
                    "type": count,
                    "metavar": "N",
                    "help": "list: at most the newest N (default: 50); else the oldest N",
                },
            ),
            (("--json",), {"action": "store_true", "help": "list, export: a JSON object each"}),
            (
                ("--incomplete",),
                {
                    "action": "store_true",
                    "help": "retry, export: also those of which only a part is kept",
                },
            ),
            (
                ("--dry-run",),
                {"action": "store_true", "help": "retry: say what would happen, change nothing"},
            ),
        ),
    ),
    "gaps": (
        "list what is known to be missing, and why; exit 0",
        "stream-daemon gaps --since 7d",
        (
            (("--json",), {"action": "store_true", "help": "print a JSON object for each"}),
            (
                ("--since",),
                {
                    "type": times.moment,
                    "metavar": "TIME",
                    "help": "only those that ended then or later: 2h, 7d, or a date and time (UTC)",
                },
            ),
            (("--all",), {"action": "store_true", "help": "also those that were filled after all"}),
        ),
    ),
    "check": (
        "check configuration, connections and leftovers; changes nothing; exit 0, 69 or 78",
        "stream-daemon -c stream-daemon.toml check",
        ((("--offline",), {"action": "store_true", "help": "connect to nothing"}),),
    ),
    "audit": (
        "is every record that came in accounted for? exit 0 if it is, 1 and what is missing if not",
        "stream-daemon audit --recount",
        (
            (("--json",), {"action": "store_true", "help": "print JSON"}),
            (
                ("--recount",),
                {"action": "store_true", "help": "count your table and the dead letters, too"},
            ),
            (
                ("--timeout",),
                {
                    "type": seconds,
                    "metavar": "S",
                    "default": 60.0,
                    "help": "take at most about so many seconds (default: 60)",
                },
            ),
        ),
    ),
    "spool": (
        "check, repair or print what waits on this machine's disk; exit 1 if something is damaged",
        "stream-daemon spool dump | less",
        (
            (
                ("action",),
                {
                    "choices": ("check", "repair", "dump"),
                    "help": "verify everything; bring damaged frames back; print records",
                },
            ),
            (("--source",), {"metavar": "SOURCE", "help": "of this source alone"}),
            (
                ("--headers",),
                {"action": "store_true", "help": "dump: header lines in place of records"},
            ),
            (
                ("--bad",),
                {"action": "store_true", "help": "dump: what can be read in damaged segments"},
            ),
        ),
    ),
    "init": (
        "print a commented configuration to start from",
        "stream-daemon init > stream-daemon.toml",
        (),
    ),
    "install": (
        "make this file a service: program, units, example configuration; says each step",
        "sudo ./stream-daemon install",
        (
            (
                ("--user",),
                {
                    "type": system_user,
                    "metavar": "U",
                    "help": "the service runs as this user, who is made if missing"
                    " (default: one that systemd makes while it runs)",
                },
            ),
            (
                ("--dry-run",),
                {"action": "store_true", "help": "say what would be done, change nothing"},
            ),
            (("--root",), {"metavar": "DIR", "help": "install into DIR, another machine's root"}),
        ),
    ),
    "uninstall": (
        "remove what install has made; what was collected and the configuration stay",
        "sudo stream-daemon uninstall --dry-run",
        (
            (("--purge",), {"action": "store_true", "help": "also configuration and cache"}),
            (("--data",), {"action": "store_true", "help": "also what was collected"}),
            (("--yes",), {"action": "store_true", "help": "yes, --data is meant"}),
            (
                ("--dry-run",),
                {"action": "store_true", "help": "say what would be done, change nothing"},
            ),
            (("--root",), {"metavar": "DIR", "help": "in DIR, another machine's root"}),
        ),
    ),
    "completion": (
        "print what makes bash, zsh or fish complete our commands and options",
        "stream-daemon completion bash > /etc/bash_completion.d/stream-daemon",
        ((("shell",), {"choices": ("bash", "zsh", "fish"), "help": "for which shell"}),),
    ),
    "licenses": (
        "list what this program consists of, with versions and licences",
        "stream-daemon licenses --text | less",
        (
            (("--text",), {"action": "store_true", "help": "print all licence texts"}),
            (
                ("--sbom",),
                {"action": "store_true", "help": "print the list as CycloneDX JSON (frozen file)"},
            ),
        ),
    ),
    "demo": (
        "show the whole system on a built-in sample stream, in about 20 seconds",
        "stream-daemon demo --keep /tmp/demo",
        (
            (("--keep",), {"metavar": "DIR", "help": "leave the files in DIR to look at"}),
            (
                ("--seed",),
                {"type": int, "default": 1, "help": "which tweets are made (default: 1)"},
            ),
        ),
    ),
    "rehearse": (
        "kill an instance of your configuration for a while, and see that nothing is lost",
        "stream-daemon -c stream-daemon.toml rehearse --time 600 --restarts",
        (
            (
                ("--time",),
                {
                    "type": seconds,
                    "metavar": "S",
                    "default": 60.0,
                    "help": "send and kill for so many seconds (default: 60)",
                },
            ),
            (
                ("--restarts",),
                {"action": "store_true", "help": "stop and start the instance, too"},
            ),
            (
                ("--rate",),
                {
                    "type": count,
                    "metavar": "R",
                    "default": 2000,
                    "help": "records a second in all (default: 2000)",
                },
            ),
            (
                ("--seed",),
                {"type": int, "metavar": "N", "help": "which records, and whom it kills when"},
            ),
        ),
    ),
}
"""Verb → what it does, an example, its options."""


class Parser(argparse.ArgumentParser):
    """argparse, with the exit code that says "usage" everywhere else (sysexits.h)."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how to see what is right."""
        self.exit(Exit.USAGE, f"{self.prog}: {message}\n  → see: {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """The whole grammar."""
    top = Parser(
        prog="stream-daemon",
        description="Collects a live stream and stores each record once in MySQL, MariaDB "
        "or SQLite.",
        epilog=_examples(VERBS),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"stream-daemon {__version__}")
    top.add_argument("-c", dest="config", metavar="FILE", help="the configuration")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    for name, (what, _example, options) in VERBS.items():
        _add_verb(verbs, name, what, options)
    return top


def _add_verb(
    verbs: "argparse._SubParsersAction[Parser]", name: str, what: str, options: Options
) -> None:
    verb = verbs.add_parser(
        name,
        help=what,
        description=what,
        epilog=_examples([name]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Without SUPPRESS the verb's default would overwrite a -c given before it.
    verb.add_argument(
        "-c", dest="config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration"
    )
    for flags, settings in options:
        verb.add_argument(*flags, **settings)  # type: ignore[arg-type]


def _examples(names: Iterable[str]) -> str:
    return "\n".join(["examples:", *(f"  {VERBS[name][1]}" for name in names)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors that we know are one message and their exit code."""
    try:
        return _run(argv)
    except StreamDaemonError as error:
        print(f"stream-daemon: {error}", file=sys.stderr)
        return int(error.exit_code)
    except BrokenPipeError:  # `stream-daemon init | head`: the reader has seen enough
        _discard_output()
        return int(Exit.OK)
    except KeyboardInterrupt:  # while a verb waits; an instance hears it in its own way
        return INTERRUPTED


def _run(argv: Sequence[str] | None) -> int:
    try:
        grammar = parser()
        args = grammar.parse_args(argv)
        args.grammar = grammar  # `completion` prints it in another form
        verb = importlib.import_module(f"appliance.verbs.{args.verb}")
        code: int = verb.run(args)
    finally:
        _flush()
    return code


def _flush() -> None:
    """Write out what was printed now: at exit its error could not be said any more."""
    try:
        if sys.stdout:  # None where it is closed
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_output()
        raise StreamDaemonError(
            f"standard output can't be written: {error.strerror}", "is the disk full?"
        ) from error


def _discard_output() -> None:
    """Let Python's own flush at exit succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
