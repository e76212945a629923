"""What a run of the benchmarks prints: a table for people, JSON for programs."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.measure import Comparison, Findings, Listing, Samples, spread


def text(findings: Sequence[Findings]) -> str:
    """All tables: first the rows, if any, then what single figures have to show beside them."""
    rows = [row for found in findings for row in found.comparisons]
    listings = [listing for found in findings for listing in found.listings]
    return "\n".join([*([_rows(rows)] if rows else []), *map(_listing, listings)])


def _rows(comparisons: Iterable[Comparison]) -> str:
    """The rows: medians of the rounds, in brackets the lowest and the highest."""
    heads = ("", "measure", "unit", "stream-daemon", "against", "its figure", "ratio", "aim", "")
    return _printed(
        "medians of the rounds (lowest … highest)",
        heads,
        [
            (
                one.name,
                one.what,
                one.ours.unit,
                spread(one.ours.rounds),
                one.theirs.way,
                spread(one.theirs.rounds),
                spread(one.ratios),
                f"{'≤' if one.at_most else '≥'} {one.aim:g}",
                "" if one.is_reached else "missed",
            )
            for one in comparisons
        ],
    )


def _listing(listing: Listing) -> str:
    return _printed(listing.title, listing.heads, listing.rows)


def _printed(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    shown_table = Table(box=box.ASCII2, title=title)
    for head in heads:
        shown_table.add_column(head)
    for row in rows:
        shown_table.add_row(*row)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(shown_table)
    return captured.get()


def times(seconds: Mapping[str, float]) -> Findings:
    """What each figure took by the clock: where the time of a run goes."""
    rows = [(name, f"{took:.0f}") for name, took in seconds.items()]
    return Findings([], [Listing("time", ("figure", "seconds by the clock"), rows)])


def as_json(findings: Sequence[Findings], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the single rounds, the machine and the settings."""
    return {
        "machine": machine(),
        "settings": dict(settings),
        "figures": {
            one.name: {
                "measure": one.what,
                "ours": _samples(one.ours),
                "against": _samples(one.theirs),
                "ratios": [round(ratio, 4) for ratio in one.ratios],
                "ratio": round(one.ratio, 4),
                "aim": one.aim,
                "at_most": one.at_most,
                "reached": one.is_reached,
            }
            for found in findings
            for one in found.comparisons
        },
        "listings": [
            {"title": one.title, "heads": list(one.heads), "rows": [list(row) for row in one.rows]}
            for found in findings
            for one in found.listings
        ],
    }


def machine() -> dict[str, Any]:
    """Where this was measured, and how busy it is."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _samples(samples: Samples) -> dict[str, Any]:
    return {
        "way": samples.way,
        "unit": samples.unit,
        "median": _rounded(samples.median),
        "rounds": [_rounded(figure) for figure in samples.rounds],
    }


def _rounded(figure: float) -> float:
    return float(f"{figure:.6g}")
