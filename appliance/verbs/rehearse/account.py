"""What a rehearsal sent against what its table holds, record by record. Pure.

A record is *lost* if no row holds exactly its bytes, *doubled* for each further row that does;
a row that is none of our records, or differs from it by a byte, is *foreign*.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import Exit
from appliance.verbs.rehearse.feeds import Numbers

COPIES_MAX = 255  # of one record that are told apart


@dataclass(frozen=True, slots=True)
class Account:
    """The result of a rehearsal."""

    sent: int
    stored: int
    doubled: int
    lost: int
    foreign: int

    @property
    def exit_code(self) -> Exit:
        """0 only if each record is there once, and nothing else."""
        if self.lost:
            return Exit.MAY_BE_LOST
        return Exit.INTERNAL if self.doubled or self.foreign else Exit.OK

    @property
    def lines(self) -> list[str]:
        """The lines that scripts read."""
        names = ("sent", "stored", "doubled", "lost")
        return [f"{name} {getattr(self, name)}" for name in names]

    @property
    def complaints(self) -> list[str]:
        """What the lines don't say, in words."""
        return [f"{self.foreign} rows are no records that were sent"] if self.foreign else []


def settle(
    sent: Mapping[str, int], numbers: Mapping[str, Numbers], raws: Iterable[bytes]
) -> Account:
    """Compare. `sent` and `numbers` are by source."""
    copies = {source: bytearray(count) for source, count in sent.items()}
    stored = foreign = doubled = 0
    for raw in raws:
        stored += 1
        source, number = _whose(raw, numbers)
        if number is None or number >= sent[source]:
            foreign += 1
            continue
        doubled += copies[source][number] > 0
        copies[source][number] = min(COPIES_MAX, copies[source][number] + 1)
    return Account(
        sent=sum(sent.values()),
        stored=stored,
        doubled=doubled,
        lost=sum(seen.count(0) for seen in copies.values()),
        foreign=foreign,
    )


def _whose(raw: bytes, numbers: Mapping[str, Numbers]) -> tuple[str, int | None]:
    """The source of a record and its number there; None if it is none of ours, byte for byte."""
    try:
        found: Any = json.loads(raw)
        source, number = found["source"], found["n"]
        is_ours = type(number) is int and number >= 0 and numbers[source].line(number) == raw
    except (ValueError, TypeError, KeyError):
        is_ours = False
    return (source, number) if is_ours else ("", None)
