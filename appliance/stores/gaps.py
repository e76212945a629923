"""Gaps for people: what is known to be missing, and what of it came after all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from appliance.rows import utc_text
from appliance.stores.tables import Row, TableStore, time_text

PAGE_GAPS_MAX = 1000  # read at once
MISSING = '("records" IS NULL OR "records" > "recovered")'
SINCE = '("began_at" IS NULL AND "ended_at" IS NULL OR COALESCE("ended_at", "began_at") >= ?)'


@dataclass(frozen=True, slots=True)
class GapEntry:
    """One stretch that is missing, or was.

    Attributes:
        began, ended: UTC, as utc_text writes it; None: nobody knows.
        records, bytes: how much it was; None: nobody knows.
        recovered: records of it that came after all.
        run: as 32 hex digits.
        first, last: numbers of the frames that are missing now; None: no whole frames.
    """

    cause: str
    source: str
    began: str | None
    ended: str | None
    records: int | None
    bytes: int | None
    recovered: int
    run: str
    first: int | None
    last: int | None


@dataclass(frozen=True, slots=True)
class GapsWanted:
    """Which gaps are meant: those of which something is missing (or `all`), since then or ever."""

    since: float | None = None
    all: bool = False


@dataclass(frozen=True, slots=True)
class GapSums:
    """So many gaps, of which so many records are missing; of some nobody knows how many."""

    gaps: int
    records: int
    unknown: int


class GapList(TableStore):
    """A store that can say what is missing."""

    def sum_gaps(self, wanted: GapsWanted) -> GapSums:
        """How many there are."""
        condition, values = _condition(wanted)
        with self._session():
            [row] = self._query(
                "SELECT COUNT(*),"
                ' SUM(CASE WHEN "records" > "recovered" THEN "records" - "recovered" ELSE 0 END),'
                ' SUM(CASE WHEN "records" IS NULL THEN 1 ELSE 0 END)'
                f" FROM {self._gaps} WHERE {condition}",
                *values,
            )
        return GapSums(*(int(number or 0) for number in row))

    def newest_gaps(self, wanted: GapsWanted) -> Iterator[GapEntry]:
        """All of them, what was written down last first."""
        condition, values = _condition(wanted)
        before: list[int] = []
        while True:
            older = ' AND "gap" < ?' if before else ""
            with self._session():
                rows = self._query(
                    'SELECT "gap", "cause", "source", "began_at", "ended_at", "records", "bytes",'
                    f' "recovered", "run", "first", "last" FROM {self._gaps}'
                    f' WHERE {condition}{older} ORDER BY "gap" DESC LIMIT {PAGE_GAPS_MAX}',
                    *(*values, *before),
                )
            yield from map(_entry, rows)
            if len(rows) < PAGE_GAPS_MAX:
                return
            before = [rows[-1][0]]


def _condition(wanted: GapsWanted) -> tuple[str, list[Any]]:
    terms = ["1 = 1", *([] if wanted.all else [MISSING])]
    if wanted.since is None:
        return " AND ".join(terms), []
    return " AND ".join([*terms, SINCE]), [utc_text(wanted.since)]


def _entry(row: Row) -> GapEntry:
    _gap, cause, source, began, ended, *counts, run, first, last = row
    records, size, recovered = (None if count is None else int(count) for count in counts)
    return GapEntry(
        cause,
        source,
        time_text(began),
        time_text(ended),
        records,
        size,
        recovered or 0,
        bytes(run).hex(),
        first,
        last,
    )
