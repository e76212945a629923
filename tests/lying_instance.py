"""The program with a store that lies, for tests of who checks it: python -m … FAULT -c FILE …

FAULT is what happens once, to one row, in a frame that the ledger then calls stored: it
"loses" it, "doubles" it, or "alters" a byte of it. "exits" ends the parent early, with 1.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from appliance import cli
from appliance.batch import Batch
from appliance.stores.ledger import LedgerStore

AFTER_ROWS = 300


def lie(fault: str, rows: list[Any]) -> list[Any]:
    """The same rows, but for one."""
    first, rest = rows[:1], rows[1:]
    if fault == "loses":
        return rest
    if fault == "doubles":
        return first + rows
    return [tuple(f"{v} " if str(v).startswith("{") else v for v in first[0]), *rest]


def patch(fault: str) -> None:
    """Let the store lie once it has stored some rows."""
    honest = LedgerStore._writers
    seen = 0

    def writers(self: LedgerStore, new: Sequence[Batch], *more: Any) -> Any:
        nonlocal seen
        before, seen = seen, seen + sum(len(batch.rows) for batch in new)
        if before < AFTER_ROWS <= seen:
            first = next(batch for batch in new if batch.rows)
            changed = replace(first, rows=lie(fault, list(first.rows)))
            new = [changed if batch is first else batch for batch in new]
        return honest(self, new, *more)

    LedgerStore._writers = writers  # type: ignore[method-assign]


if __name__ == "__main__":
    fault, words = sys.argv[1], sys.argv[2:]
    if fault == "exits":
        print("as if something had gone wrong", flush=True)
        sys.exit(1)
    if fault != "none":
        patch(fault)
    sys.exit(cli.main(words))
