"""Refusals in a row: when all that comes becomes dead letters, table and stream don't fit.

One dead letter costs one record. A thousand with no row stored between them mean that a column
is too short, a path leads elsewhere, or a trigger refuses everybody: nothing stops (the records
are kept, as dead letters), but it is said, once, with the column (the database's message names
it) and with what to do. It is over as soon as a row is stored.

A lease counts as a whole: if one row of it was stored, the row of refusals has ended there.
"""

from collections.abc import Mapping

from appliance import poison
from appliance.batch import DeadLetter, Stored

REFUSALS_MAX = 1000  # in a row, before it is said
REASON_CHARS_MAX = 85  # so that the fix behind it has room in `status`

FIXES: Mapping[str, str] = {  # by a dead letter's code
    "check": "mend the CHECK of that table, or leave such records out with exclude",
    "constraint": "mend that constraint of the table, or leave such records out with exclude",
    "cut": "see why senders break off",
    "duplicate": "set store.on_duplicate to ignore or update, or drop that key",
    "foreign key": "insert the parent rows first, or drop that foreign key",
    "json": "set the source's format to text, or send JSON",
    "no default": "give that column a DEFAULT, or a path in [store.columns]",
    "null": "allow NULL in that column, or correct its path in [store.columns]",
    "packet": "raise max_allowed_packet on the server",
    "partition": "add a partition for such values",
    "range": "give that column a wider type (ALTER TABLE … MODIFY)",
    "signal": "mend the trigger that refuses the row (SHOW TRIGGERS)",
    "too long": "widen that column (ALTER TABLE … MODIFY), or raise record_bytes_max",
    "truncated": "give that column a type that takes such values, or correct its path",
    "utf8": "send UTF-8",
    "value": "give that column a type that takes such values, or correct its path",
}
OTHER_FIX = "see their reasons: stream-daemon dead list"
RETRY = "stream-daemon dead retry"  # stores them, once that is mended
NO_RETRY = ("cut", "utf8")  # what is mended elsewhere
REST_IS_GONE = "its rest is gone; for others like it raise max_allowed_packet on the server"
PARTS: Mapping[str, str] = {  # by the code of a dead letter that has only a part of its record
    "cut": "its rest is gone; see why the sender broke off",
    "too long": "its rest is gone; for others like it raise the source's record_bytes_max",
}


def advice(code: str, incomplete: bool) -> str:
    """What to do about one dead letter."""
    if incomplete:
        return f"{PARTS.get(code, REST_IS_GONE)} ({RETRY} --incomplete stores the part)"
    if code == poison.CODE:
        return f"try it apart from the stream: whoever touches it may die ({RETRY} --code {code})"
    return _fix(code)


class Refusals:
    """Counts dead letters since the last row; `text` says it once they are too many."""

    def __init__(self) -> None:
        self.in_a_row = 0
        self.text = ""

    def note(self, stored: Stored) -> bool:
        """Count what a lease has brought; whether `text` has changed."""
        before = self.text
        if stored.stored:
            self.in_a_row, self.text = 0, ""
        elif stored.refusal:
            self.in_a_row += stored.dead
            if self.in_a_row >= REFUSALS_MAX and not before:
                self.text = _said(self.in_a_row, stored.refusal)
        return self.text != before


def _said(count: int, last: DeadLetter) -> str:
    reason = last.reason[:REASON_CHARS_MAX]
    return f"{count} records in a row became dead letters: {reason}; {_fix(last.code)}"


def _fix(code: str) -> str:
    """How to mend it, and what brings the records back then."""
    fix = FIXES.get(code, OTHER_FIX)
    return fix if code in NO_RETRY else f"{fix}; then: {RETRY}"
