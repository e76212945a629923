"""What a run of the benchmarks prints: a table for people, JSON for programs."""

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tests.bench.measure import Comparison, Rates


def table(comparisons: Sequence[Comparison]) -> str:
    """The table: medians of the rounds, in brackets the lowest and the highest."""
    shown = Table(box=box.ASCII2, title="records/s: median (lowest … highest)")
    for head in ("", "measure", "stream-daemon", "against", "its records/s", "ratio", "aim"):
        shown.add_column(head, justify="right" if "ratio" in head else "left")
    for one in comparisons:
        ratio = f"{one.ratio:.2f} ({min(one.ratios):.2f} … {max(one.ratios):.2f})"
        ours, theirs = _spread(one.ours), _spread(one.theirs)
        shown.add_row(one.name, one.what, ours, one.theirs.way, theirs, ratio, f"{one.aim:g}")
    console = Console(width=160)
    with console.capture() as captured:
        console.print(shown)
    return captured.get()


def as_json(comparisons: Sequence[Comparison], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the single rounds, the machine and the settings."""
    return {
        "machine": machine(),
        "settings": dict(settings),
        "figures": {
            one.name: {
                "measure": one.what,
                "ours": _rates(one.ours),
                "against": _rates(one.theirs),
                "ratios": [round(ratio, 3) for ratio in one.ratios],
                "ratio": round(one.ratio, 3),
                "aim": one.aim,
            }
            for one in comparisons
        },
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


def _rates(rates: Rates) -> dict[str, Any]:
    return {
        "way": rates.way,
        "records": rates.records,
        "records_per_s": round(rates.median),
        "rounds": [round(rate) for rate in rates.rounds],
    }


def _spread(rates: Rates) -> str:
    return f"{rates.median:,.0f} ({min(rates.rounds):,.0f} … {max(rates.rounds):,.0f})"
