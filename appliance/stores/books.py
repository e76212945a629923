"""The ledger's books: what it says of each run, read in one snapshot, for `audit`.

Nothing is written, not even a table that is missing: the transaction is read-only. All of it is
of one moment, also where the tables themselves are counted: in READ COMMITTED each statement would
see another, and a frame folded between two of them would be in both or in neither.

A frame's row is a few whole numbers here, read some thousands at a time: behind a hole that
stays open there may be many of them.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

from appliance.accounts import COUNTS, UNKNOWN, Book, Recount
from appliance.frame import RunEnd
from appliance.stores.tables import Row, TableStore, quoted_names

PAGE_ROWS = 10_000  # rows of a table of the ledger that are read at once


class Books(TableStore):
    """A store whose ledger can be audited."""

    SNAPSHOT: ClassVar[Sequence[str]]  # begins a transaction that sees one moment, and only reads

    def books(self) -> dict[str, Book]:
        """What the ledger says of each run, by the run; nothing where no ledger is yet."""
        return self.books_and_recount(recount=False)[0]

    def books_and_recount(self, *, recount: bool) -> tuple[dict[str, Book], Recount | None]:
        """The same, and with `recount` the rows of the user's table and the dead letters."""
        if not self._is_there():
            return {}, self._recount(is_there=False) if recount else None
        with self._session():
            is_there = self._has_ledger()
            for statement in self.SNAPSHOT:
                self._query(statement)
            books = self._books() if is_there else {}
            counted = self._recount(is_there) if recount else None
            self._query("ROLLBACK")
        return books, counted

    def _has_ledger(self) -> bool:
        """Whether there is one, of this version.

        Raises:
            Unavailable: it is of another version.
        """
        tables, _ = self._lacking()
        if "meta" in tables or not self._has_schema():
            return False
        self._check_schema()
        return True

    def _books(self) -> dict[str, Book]:
        books: dict[str, Book] = {}
        names = ("up_to", *COUNTS, "up_to_records", "last", "last_records", "last_bytes")
        for run, source, up_to, *rest in self._query(
            f'SELECT "run", "source", {quoted_names(names)} FROM {self._runs}'
        ):
            book = Book(str(source), int(up_to))
            book.add_counts(map(int, rest[: len(COUNTS)]))
            reached, last, *sums = rest[len(COUNTS) :]
            book.reached = None if reached is None else int(reached)
            if last is not None:
                book.end = RunEnd(bytes(run).hex(), int(last), *map(int, sums))
            self._add_frames(bytes(run), book)
            books[bytes(run).hex()] = book
        self._add_gaps(books)
        return books

    def _add_frames(self, run: bytes, book: Book) -> None:
        names = ("frame", "hole", "records_before", "lost", *COUNTS)
        for frame, hole, before, *counts in self._pages(
            f'SELECT {quoted_names(names)} FROM {self._frames} WHERE "run" = ? AND "frame" > ?'
            f' ORDER BY "frame" LIMIT {PAGE_ROWS}',
            run,
        ):
            book.frames.add(int(frame), _known(before), *map(int, counts))
            if hole:
                book.holes[int(frame)] = str(hole)

    def _add_gaps(self, books: dict[str, Book]) -> None:
        numbered: dict[str, list[tuple[int, ...]]] = {}
        names = ("gap", "run", "source", "first", "last", "records", "recovered")
        for _, run, source, first, last, records, recovered in self._pages(
            f'SELECT {quoted_names(names)} FROM {self._gaps} WHERE "gap" > ?'
            f' ORDER BY "gap" LIMIT {PAGE_ROWS}'
        ):
            name = bytes(run).hex()
            book = books.setdefault(name, Book(str(source)))
            if first is not None:
                numbered.setdefault(name, []).append(
                    (int(first), int(last), _known(records), int(recovered))
                )
            elif recovered:  # it had numbers, until all of its frames came
                book.refilled += int(records or recovered) - int(recovered)
            elif records is None:
                book.stretches += 1
            else:
                book.lacked += int(records)
        for name, gaps in numbered.items():
            for gap in sorted(gaps):
                books[name].gaps.add(*gap)

    def _pages(self, sql: str, *parameters: object) -> Iterator[Row]:
        """All rows of a statement that asks for those behind a number, its first column."""
        behind = 0
        while page := self._query(sql, *parameters, behind):
            yield from page
            if len(page) < PAGE_ROWS:
                return
            behind = page[-1][0]

    # ── the tables themselves ───────────────────────────────────────────────────────────

    def _recount(self, is_there: bool) -> Recount:
        rewrites = self._on_duplicate == "update"
        if not is_there:
            return Recount(self._table, self._rows(), {}, rewrites)
        letters = self._query(
            f'SELECT "source", COUNT(*) FROM "{self._name("dead")}"'
            ' WHERE "retried_at" IS NULL GROUP BY "source"'
        )
        dead = {str(source): int(count) for source, count in letters}
        return Recount(self._table, self._rows(), dead, rewrites)

    def _rows(self) -> int:
        if not self._is_there() or not self._columns_of(self._table):
            return 0
        [(rows,)] = self._as_it_stands(f"SELECT COUNT(*) FROM {self._quoted(self._table)}")
        return int(rows)

    @abstractmethod
    def _as_it_stands(self, sql: str) -> list[Row]:
        """Run a statement whose identifiers are quoted already, of the user's table."""


def _known(value: int | None) -> int:
    return UNKNOWN if value is None else int(value)
