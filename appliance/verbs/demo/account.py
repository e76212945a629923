"""What `demo` sent against what its database holds, content by content.

The sender keeps the bytes of every tweet that names a team. `settle` compares them with the
rows of the table: a tweet is *lost* if no row holds exactly its bytes under its id, *doubled*
for each further row that does, and a row that is no tweet of ours, or whose bytes differ, is
*foreign*. What was filtered is the ledger's word, so the account adds up only if table, ledger
and sender agree: sent = filtered + stored.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import Exit, Unavailable

BUSY_S = 5.0
LEDGER_COUNTS = ("records", "stored", "filtered", "dead", "blank")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger's sums over all runs and frames. `records` are lines, blank ones included."""

    records: int = 0
    stored: int = 0
    filtered: int = 0
    dead: int = 0
    blank: int = 0

    @property
    def accounted(self) -> int:
        """Tweets whose fate is committed: stored, filtered or dead."""
        return self.records - self.blank


@dataclass(frozen=True, slots=True)
class Row:
    """What the demo needs of one stored row; `raw` is the record exactly as it is stored."""

    id: int | None
    text: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """The demo's result. `lines` are its last words, `exit_code` its verdict."""

    sent: int
    filtered: int
    stored: int
    lost: int
    doubled: int
    foreign: int
    dead: int

    @property
    def lines(self) -> list[str]:
        """The five lines that scripts read."""
        names = ("sent", "filtered", "stored", "lost", "doubled")
        return [f"{name} {getattr(self, name)}" for name in names]

    @property
    def exit_code(self) -> Exit:
        """0 only if every tweet is where it belongs, once."""
        if self.lost or self.sent > self.filtered + self.stored:
            return Exit.MAY_BE_LOST
        wrong = self.doubled or self.foreign or self.dead
        return Exit.INTERNAL if wrong or self.sent != self.filtered + self.stored else Exit.OK

    @property
    def complaints(self) -> list[str]:
        """What the five lines don't say, in words; empty when all is well."""
        found = {
            f"{self.dead} tweets became dead letters (table demo_dead says why)": self.dead,
            f"{self.foreign} rows are no tweets that were sent": self.foreign,
        }
        return [text for text, count in found.items() if count]


def settle(
    sent: int, expected: Mapping[int, bytes], rows: Iterable[Row], ledger: Ledger
) -> Account:
    """Compare what was sent with what is stored.

    `sent` counts all tweets, `expected` holds the bytes of those that name a team, by id.
    """
    copies: Counter[int] = Counter()
    stored = foreign = 0
    for row in rows:
        stored += 1
        if row.id is not None and expected.get(row.id) == row.raw:
            copies[row.id] += 1
        else:
            foreign += 1
    return Account(
        sent=sent,
        filtered=ledger.filtered,
        stored=stored,
        lost=len(expected) - len(copies),
        doubled=copies.total() - len(copies),
        foreign=foreign,
        dead=ledger.dead,
    )


class Database:
    """The instance's SQLite database, read only: it may be looked into at any time.

    Methods raise Unavailable where there is no database, or no table, yet.
    """

    def __init__(self, path: Path, name: str, table: str) -> None:
        self._uri = f"{path.as_uri()}?mode=ro"
        self._name = name
        self._table = table

    def ledger(self) -> Ledger:
        """The sums of the ledger."""
        sums = ", ".join(f"COALESCE(SUM(`{count}`), 0)" for count in LEDGER_COUNTS)
        counts = ", ".join(f"`{count}`" for count in LEDGER_COUNTS)
        both = " UNION ALL ".join(
            f"SELECT {counts} FROM `{self._name}_{kind}`" for kind in ("runs", "frames")
        )
        with self._open() as database:
            return Ledger(*database.execute(f"SELECT {sums} FROM ({both})").fetchone())

    def rows(self) -> Iterator[Row]:
        """All rows of the data table."""
        columns = "`id`, COALESCE(`text`, ''), CAST(`raw` AS BLOB)"
        with self._open() as database:
            for values in database.execute(f"SELECT {columns} FROM `{self._table}`"):
                yield Row(*values)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=BUSY_S)) as database:
                yield database
        except sqlite3.Error as error:
            raise Unavailable(f"the demo's database can't be read: {error}") from error
