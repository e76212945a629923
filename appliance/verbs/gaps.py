"""`stream-daemon gaps`: what is known to be missing, and why.

A gap is a stretch of frames that were handed over and never came to the store, or something that
never reached us whole. One that was filled after all is only shown with --all. Works beside a
running instance and without one, and only reads from the database.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

from appliance.app import App
from appliance.errors import Exit
from appliance.stores.gaps import GapEntry, GapList, GapSums, GapsWanted
from appliance.verbs import locate

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 200  # lines of the table; --json shows all
PIPE_COLUMNS = 160  # the table's width where there is no terminal
SECONDS = len("2026-01-31 18:00:00")
UNKNOWN = "unknown"


def run(args: argparse.Namespace) -> int:
    """List the gaps; exit 0, also where something is missing."""
    config, instance, _ = locate.load(args)
    if not config.store.url.startswith("mysql:"):  # SQLite makes files beside its own
        locate.as_owner(instance, args, ["gaps"])
    wanted = GapsWanted(args.since, args.all)
    with App(config, instance).gaps() as store:
        if not store.is_prepared():
            text = f"no gaps: store {config.store.url} has no tables of this instance yet"
            print(text, file=sys.stderr)
        elif args.json:
            for gap in store.newest_gaps(wanted):
                print(json.dumps(facts(gap)))
        else:
            _list(store, wanted)
    return int(Exit.OK)


def _list(store: GapList, wanted: GapsWanted) -> None:
    sums = store.sum_gaps(wanted)
    print(sentence(sums))
    if sums.gaps:
        _print(_table(islice(store.newest_gaps(wanted), SHOWN)))
    if sums.gaps > SHOWN:
        print(f"… and {sums.gaps - SHOWN:,} older ones (--json shows all)")


# ── words ───────────────────────────────────────────────────────────────────────────────


def sentence(sums: GapSums) -> str:
    """How much is missing."""
    if not sums.gaps:
        return "no gaps: nothing is known to be missing"
    gaps = "1 gap" if sums.gaps == 1 else f"{sums.gaps:,} gaps"
    more = f", and in {sums.unknown:,} of them nobody knows how many" if sums.unknown else ""
    return f"{gaps}: {sums.records:,} records are missing{more}"


def facts(gap: GapEntry) -> dict[str, Any]:
    """A gap as JSON has it: times as ISO 8601, what nobody knows as null."""
    return asdict(gap) | {"began": _iso(gap.began), "ended": _iso(gap.ended)}


def _iso(utc: str | None) -> str | None:
    return utc and utc.replace(" ", "T") + "Z"


def _table(gaps: Iterable[GapEntry]) -> "Table":
    from rich.table import Column, Table  # here: nobody but a list for people needs it
    from rich.text import Text

    heads = ("SOURCE", "CAUSE", "BEGAN (UTC)", "ENDED (UTC)")
    numbers = ("RECORDS", "BYTES", "RECOVERED", "FRAMES")
    columns = [Column(head, no_wrap=True) for head in heads]
    columns += [Column(head, no_wrap=True, justify="right") for head in numbers]
    table = Table(*columns, box=None, pad_edge=False)
    for gap in gaps:
        table.add_row(*map(Text, _cells(gap)))
    return table


def _cells(gap: GapEntry) -> tuple[str, ...]:
    """A line of the table; FRAMES are those that are missing now, and the beginning of the run."""
    frames = f"{gap.run[:13]}:{gap.first}-{gap.last}" if gap.first is not None else ""
    times = [(time or UNKNOWN)[:SECONDS] for time in (gap.began, gap.ended)]
    sizes = [UNKNOWN if size is None else f"{size:,}" for size in (gap.records, gap.bytes)]
    return (gap.source, gap.cause, *times, *sizes, f"{gap.recovered:,}", frames)


def _print(table: "Table") -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS).print(table)
