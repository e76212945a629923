"""What the demo shows: a line of figures, and the table per team (drawn on a terminal)."""

from collections.abc import Mapping
from typing import TextIO

from appliance.tweets import NFL_TEAMS
from appliance.verbs.demo.instance import Status


def figures(sent: int, status: Status | None) -> str:
    """The progress line."""
    if status is None:
        return f"sent {sent:>6}  (the instance doesn't answer just now)"
    return (
        f"sent {sent:>6}  stored {status.stored:>6}  filtered {status.filtered:>6}"
        f"  queue {status.queued:>3} frames"
    )


def print_teams(counts: Mapping[str, int], out: TextIO) -> None:
    """The table per team: how many stored tweets name it."""
    if out.isatty():
        _draw_teams(counts, out)
        return
    print(f"{'team':<12} {'tweets':>6}", file=out)
    for team in NFL_TEAMS:
        print(f"{team:<12} {counts[team]:>6}", file=out)


def _draw_teams(counts: Mapping[str, int], out: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="stored tweets by team")
    for _ in ("left half", "right half"):
        table.add_column("team")
        table.add_column("tweets", justify="right")
    half = len(NFL_TEAMS) // 2
    for left, right in zip(NFL_TEAMS[:half], NFL_TEAMS[half:], strict=True):
        table.add_row(left, str(counts[left]), right, str(counts[right]))
    Console(file=out).print(table)
