"""Times on the command line: a moment, or how long ago it was."""

import argparse
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_AGO = re.compile(rf"([0-9]{{1,9}})([{''.join(UNITS_S)}])")


def moment(text: str, clock: Callable[[], float] = time.time) -> float:
    """Seconds since the epoch: 90s, 2h or 7d ago, or a date and time (ISO 8601, else UTC).

    Raises:
        ArgumentTypeError: it is neither.
    """
    if found := _AGO.fullmatch(text):
        return clock() - int(found[1]) * UNITS_S[found[2]]
    try:
        found_at = datetime.fromisoformat(text)
        return (found_at if found_at.tzinfo else found_at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time such as 2h, 7d, 2026-01-31 or 2026-01-31T18:00:00+01:00"
        ) from None
