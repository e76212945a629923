"""Which dead letters are asked for on the command line, and whether that makes sense."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from appliance import poison
from appliance.errors import Exit, StreamDaemonError
from appliance.stores.letters import RUN_DIGITS, Letters, Name, Wanted

RUNS_SAID_MAX = 5  # of those that a shortened name may mean

_NAME = re.compile(rf"([0-9a-f]{{1,{RUN_DIGITS}}}):([0-9]{{1,18}}):([0-9]{{1,9}})")

OPTIONS = {  # what is more than a filter, and for which actions
    "json": ("list", "export"),
    "incomplete": ("retry", "export"),
    "dry_run": ("retry",),
}
ONLY_A_PART = "only a part of such a record was kept (take it with --incomplete)"
WHOEVER_TOUCHED_IT = f"whoever touched it died (take it with --code {poison.CODE}, or by its name)"
FILTERS = ("source", "code", "since", "limit")


class NoSuchLetter(StreamDaemonError):
    """No dead letter has this name, or more than one may be meant."""

    exit_code = Exit.USAGE


def check(args: argparse.Namespace) -> None:
    """End with a usage error where words don't fit together."""
    filters = [name for name in FILTERS if getattr(args, name) is not None]
    for name, actions in OPTIONS.items():
        if getattr(args, name) and args.action not in actions:
            args.grammar.error(f"--{name.replace('_', '-')} is for {' and '.join(actions)}")
    if args.action == "list" and args.letter:
        args.grammar.error("list takes no names; see: dead show")
    if args.action == "show" and (filters or not args.letter):
        args.grammar.error("show takes names as list prints them: RUN:FRAME:POSITION")
    if args.letter and filters:
        args.grammar.error(f"names and --{filters[0]} don't go together")


def say_nothing_there(args: argparse.Namespace, url: str) -> None:
    """Say that no instance has made its tables in this store.

    Raises:
        NoSuchLetter: a letter in it was named.
    """
    text = f"no dead letters: store {url} has no tables of this instance yet"
    if args.letter:
        raise NoSuchLetter(text, "see [store] and `name` in the configuration")
    print(text, file=sys.stderr)


def wanted(args: argparse.Namespace, letters: Letters) -> Wanted:
    """The letters that are asked for, by their names or by filters.

    A record that kills whoever touches it is only wanted by its name or its code.
    """
    names = tuple(find(letters, args.letter)) if args.letter else None
    is_risky = args.action == "retry" and not names and args.code != poison.CODE
    return Wanted(
        source=args.source,
        code=args.code,
        since=args.since,
        names=names,
        incomplete=args.action == "list" or args.incomplete,
        without=(poison.CODE,) if is_risky else (),
    )


def say_left_out(letters: Letters, wanted: Wanted) -> None:
    """Say on stderr which letters the same words would have meant, and how to have them too."""
    meant = letters.count_letters(replace(wanted, incomplete=True, without=()))
    counts = letters.count_letters(wanted)
    for code, number in meant.items():
        if more := number - counts.get(code, 0):
            why = WHOEVER_TOUCHED_IT if code in wanted.without else ONLY_A_PART
            print(f"{more:,} {code} left out: {why}", file=sys.stderr)


def find(letters: Letters, texts: Sequence[str]) -> list[Name]:
    """Names as people type them, the run perhaps shortened.

    Raises:
        NoSuchLetter: it is no name, or the run isn't there, or more than one begins so.
    """
    return [_find(letters, text) for text in texts]


def _find(letters: Letters, text: str) -> Name:
    found = _NAME.fullmatch(text.lower())
    if found is None:
        raise NoSuchLetter(f"{text} is no name of a dead letter", "names are RUN:FRAME:POSITION")
    runs = letters.runs_of_letters(found[1])
    if not runs:
        raise NoSuchLetter(f"no dead letter {text}", "see: stream-daemon dead list")
    if len(runs) > 1:
        some = ", ".join(run.hex() for run in runs[:RUNS_SAID_MAX])
        raise NoSuchLetter(f"{text} may be of {len(runs)} runs", f"write more of it: {some}")
    return Name(runs[0], int(found[2]), int(found[3]))
