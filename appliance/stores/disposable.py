"""Tables that are made to be tried, and dropped again: a rehearsal's.

Nothing here is of use to an instance that keeps what it stores.
"""

from collections.abc import Iterator

from appliance.stores.tables import TABLES, TableStore

ROWS_AT_ONCE = 1000


class Disposable(TableStore):
    """The tables of an instance as things to look for, to read and to drop."""

    def tables(self) -> list[str]:
        """Which of the instance's tables, its data table too, are there."""
        if not self._is_there():
            return []
        with self._session():
            names = [self._table, *map(self._name, TABLES)]
            return [name for name in names if self._columns_of(name)]

    def drop(self) -> None:
        """Drop all tables of the instance, with all that is in them."""
        if not self._is_there():
            return
        with self._session():
            for name in (self._table, *map(self._name, TABLES)):
                self._query(f'DROP TABLE IF EXISTS "{name}"')

    def accounted(self) -> int:
        """Records whose fate is committed: stored, filtered or dead."""
        total = 0
        with self._session():
            for table in (self._runs, self._frames):
                [(records,)] = self._query(
                    f'SELECT COALESCE(SUM("records" - "blank"), 0) FROM {table}'
                )
                total += int(records)
        return total

    def raws(self) -> Iterator[bytes]:
        """Column `raw` of each row of the data table, in the order of its key."""
        seq = 0
        while True:
            with self._session():
                rows = self._query(
                    f'SELECT "seq", "raw" FROM "{self._table}" WHERE "seq" > ?'
                    f' ORDER BY "seq" LIMIT {ROWS_AT_ONCE}',
                    seq,
                )
            if not rows:
                return
            yield from (raw.encode() if isinstance(raw, str) else bytes(raw) for _, raw in rows)
            seq = rows[-1][0]
