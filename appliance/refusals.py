"""Refusals in a row: when all that comes becomes dead letters, table and stream don't fit.

One dead letter costs one record. A thousand with no row stored between them mean that a column
is too short, a path leads elsewhere, or a trigger refuses everybody: nothing stops (the records
are kept, as dead letters), but it is said, once, with the column (the database's message names
it) and with what to do. It is over as soon as a row is stored.

A lease counts as a whole: if one row of it was stored, the row of refusals has ended there.
"""

from collections.abc import Mapping

from appliance.batch import DeadLetter, Stored

REFUSALS_MAX = 1000  # in a row, before it is said
REASON_CHARS_MAX = 100  # so that the fix behind it has room in `status`

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
    "too long": "widen that column (ALTER TABLE … MODIFY), or raise the source's record_bytes_max",
    "truncated": "give that column a type that takes such values, or correct its path",
    "utf8": "send UTF-8",
    "value": "give that column a type that takes such values, or correct its path",
}
OTHER_FIX = "see the dead letters' reasons"


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
    fix = FIXES.get(last.code, OTHER_FIX)
    return f"{count} records in a row became dead letters: {last.reason[:REASON_CHARS_MAX]}; {fix}"
