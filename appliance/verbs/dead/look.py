"""`dead list` and `dead show`: looking at dead letters."""

import argparse
import json
import sys
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING

from appliance import refusals
from appliance.stores.letters import Letter, Letters
from appliance.verbs.dead import asked, words

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 50  # by default; `--limit` says otherwise
PIPE_COLUMNS = 160  # the table's width where there is no terminal
SECONDS = len("2026-01-31 18:00:00")


def list_letters(args: argparse.Namespace, letters: Letters) -> None:
    """Print a summary and a table of the newest, or a JSON object for each."""
    wanted = asked.wanted(args, letters)
    if args.json:
        for letter in islice(letters.newest_letters(wanted), args.limit):
            beginning = {"beginning": words.printable(letter.raw)}
            print(json.dumps(words.facts(letter) | beginning, ensure_ascii=False))
        return
    counts = letters.count_letters(wanted)
    print(words.sentence(counts))
    if not counts:
        return
    shown = list(islice(letters.newest_letters(wanted), args.limit or SHOWN))
    _print(_table(shown, words.digits_needed(letters.runs_of_letters(""))))
    if more := sum(counts.values()) - len(shown):
        print(f"… and {more:,} older ones (--limit)")


def show(args: argparse.Namespace, letters: Letters) -> None:
    """Print the record as it is to stdout, and what is known about it to stderr.

    Several records are told apart by a newline behind each; a single one gets none.
    """
    for name in asked.find(letters, args.letter):
        found = letters.read_letters([name])
        if not found:
            raise asked.NoSuchLetter(f"no dead letter {name.text}", "see: stream-daemon dead list")
        print(_account(found[0]), file=sys.stderr, flush=True)
        if sys.stdout.isatty():
            print(words.printable(found[0].raw), flush=True)
        else:
            end = b"\n" if len(args.letter) > 1 else b""
            sys.stdout.buffer.write(found[0].raw + end)
            sys.stdout.buffer.flush()


def _account(letter: Letter) -> str:
    """What is known about a letter, and what to do."""
    part = ", only its beginning" if letter.incomplete else ""
    lines = [
        f"dead letter {letter.name.text}",
        f"  source    {letter.source}",
        f"  received  {letter.received_at} UTC",
        f"  died      {letter.dead_at} UTC",
        f"  code      {letter.code}",
        f"  reason    {words.printable(letter.reason.encode())}",
        f"  record    {letter.bytes} bytes{part}",
    ]
    if letter.retried_at:
        return "\n".join([*lines, f"  retried   {letter.retried_at} UTC: it is dead no longer"])
    return "\n".join([*lines, f"  → {refusals.advice(letter.code, letter.incomplete)}"])


def _table(letters: Iterable[Letter], digits: int) -> "Table":
    from rich.table import Column, Table  # here: nobody but a list for people needs it
    from rich.text import Text

    fixed = [Column(head, no_wrap=True) for head in ("NAME", "SOURCE", "CODE", "DIED (UTC)")]
    rest = [
        Column(head, no_wrap=True, ratio=1, overflow="ellipsis") for head in ("REASON", "RECORD")
    ]
    table = Table(*fixed, *rest, box=None, expand=True, pad_edge=False)
    for letter in letters:
        run, place = letter.name.text[:digits], letter.name.text.partition(":")[2]
        texts = (
            f"{run}:{place}",
            letter.source,
            letter.code,
            letter.dead_at[:SECONDS],
            words.printable(letter.reason.encode()),
            words.printable(letter.raw),
        )
        table.add_row(*map(Text, texts))
    return table


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
