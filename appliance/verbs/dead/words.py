"""How dead letters are written for people and for programs. Pure."""

import base64
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from appliance import texts
from appliance.stores.letters import Letter

RUN_DIGITS_MIN = 8


def sentence(counts: Mapping[str, int]) -> str:
    """How many, and of which codes: 3,120 letters: 3,000 duplicate, 120 json."""
    total = sum(counts.values())
    if not total:
        return "no dead letters"
    parts = ", ".join(f"{number:,} {code}" for code, number in counts.items())
    return f"{total:,} {'letter' if total == 1 else 'letters'}: {parts}"


def printable(raw: bytes) -> str:
    """Bytes for a terminal: text where it is some, escaped where it isn't or would do harm."""
    return texts.printable(raw.decode(errors="backslashreplace"))


def digits_needed(runs: Sequence[bytes]) -> int:
    """How many hex digits tell these runs apart."""
    texts = sorted(run.hex() for run in runs)
    return max([RUN_DIGITS_MIN, *(_common(*pair) + 1 for pair in pairwise(texts))])


def _common(one: str, other: str) -> int:
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if len(set(pair)) > 1))


def facts(letter: Letter) -> dict[str, Any]:
    """All about a letter but its record, as JSON has it."""
    return {
        "name": letter.name.text,
        "source": letter.source,
        "code": letter.code,
        "reason": letter.reason,
        "received_at": iso(letter.received_at),
        "dead_at": iso(letter.dead_at),
        "bytes": letter.bytes,
        "incomplete": letter.incomplete,
    }


def record(raw: bytes) -> dict[str, str]:
    """A record as JSON has it: text, or base64 where it isn't UTF-8."""
    try:
        return {"raw": raw.decode()}
    except UnicodeDecodeError:
        return {"raw_base64": base64.b64encode(raw).decode()}


def iso(utc: str) -> str:
    """A time of the database's as ISO 8601 has it, with its zone."""
    return utc.replace(" ", "T") + "Z"
