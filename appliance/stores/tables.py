"""The tables beside the user's own, and how a statement reaches a database.

    PREFIX_runs     one row per run: everything up to number `up_to` is accounted for
    PREFIX_frames   one row per frame above `up_to` (or in a gap): stored out of order
    PREFIX_dead     records that no row could be made of, with the reason
    PREFIX_gaps     what is known to be missing; with numbers where whole frames are missing
    PREFIX_meta     the store's id, the version of these tables

`TableStore` makes and checks them, and keeps a session; what is done with them is in the files
beside (ledger.py stores and folds), how a database does its part in mysql.py and sqlite.py.

Whoever changes TABLES raises SCHEMA, names what is new in ADDED and INDEXED (a column needs a
default, or may be NULL: rows are there), and changes the fold, docs/formats.md and both databases
with it.
"""

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from appliance.config import Column, OnDuplicate
from appliance.contracts import Remark
from appliance.errors import Rejected, Unavailable

SCHEMA = 2  # version of the tables below
OLDER_SCHEMAS = ("1",)  # what `prepare` brings to this version
DUPLICATE = "duplicate"  # the code of a duplicate key, in every database

LOOK_AT_LETTERS = "see: stream-daemon dead list; when table or columns are mended: dead retry"
LOOK_AT_GAPS = "see: stream-daemon gaps"

COUNTS = ("records", "stored", "filtered", "dead", "blank", "lost", "bytes")
SPAN = ("first_received", "last_received")
_COUNTED = dict.fromkeys(COUNTS, "count") | dict.fromkeys(SPAN, "time")


@dataclass(frozen=True)
class Table:
    """One table of the ledger: {column: kind}, its key, and one more index if it needs one."""

    columns: Mapping[str, str]
    key: tuple[str, ...] = ()  # empty: the column of kind "serial"
    index: tuple[str, ...] = ()


TABLES = {
    "runs": Table(
        {"run": "run", "source": "word", "up_to": "count"}
        | _COUNTED
        # What all frames up to up_to hold, the missing ones too, as headers say; NULL: the same as
        # records and bytes, as far as anybody knows.
        | {"up_to_records": "number or null", "up_to_bytes": "number or null"}
        # How the run ended, as the header of a later run says; NULL: nobody has said it yet.
        | {"last": "number or null", "last_records": "count", "last_bytes": "count"},
        ("run",),
    ),
    "frames": Table(
        {"run": "run", "frame": "number"}
        | _COUNTED
        # The run's sums before the frame (NULL: an older version has stored it), and what the
        # collector knows of a hole before it.
        | {"records_before": "number or null", "bytes_before": "number or null"}
        | {"hole": "word or null"},
        ("run", "frame"),
    ),
    "dead": Table(
        {
            "run": "run",
            "frame": "number",
            "position": "position",
            "source": "word",
            "raw": "raw",
            "code": "word",
            "reason": "text",
            "received_at": "time",  # its frame's first_received
            "dead_at": "time",
            "retried_at": "time",
        },
        ("run", "frame", "position"),
        index=("retried_at", "dead_at", "run", "frame", "position"),
    ),
    "gaps": Table(
        {
            "gap": "serial",
            "run": "run",
            "first": "number or null",
            "last": "number or null",
            "source": "word",
            "began_at": "time",
            "ended_at": "time",
            "cause": "word",
            "records": "number or null",
            "bytes": "number or null",
            "recovered": "count",  # records, and bytes, of frames that came after all
            "recovered_bytes": "count",
            "records_before": "number or null",  # the run's sums before `first`
            "bytes_before": "number or null",
        },
        index=("run", "first"),
    ),
    "meta": Table({"name": "word", "value": "value"}, ("name",)),
}

ADDED = {  # columns that tables of OLDER_SCHEMAS lack
    "runs": ("up_to_records", "up_to_bytes", "last", "last_records", "last_bytes"),
    "frames": ("records_before", "bytes_before", "hole"),
    "dead": ("received_at",),
    "gaps": ("recovered_bytes", "records_before", "bytes_before"),
}
INDEXED = ("dead",)  # tables that have an index, which those of OLDER_SCHEMAS lack

Row = tuple[Any, ...]
Rows = Sequence[Row]
Span = tuple[int, int]
Statement = tuple[Any, ...]  # SQL of the ledger, and a value for each ? in it
Change = tuple[str, Callable[[], bool]]  # a statement, and whether what it makes is there


class Unrecognised(Rejected):
    """An error that the database's table of errors doesn't know.

    It is about the data if other rows pass, else about the database.
    """


class Writer(ABC):
    """Rows on their way into one table: `parts` says how to cut them into statements."""

    parts: Sequence[Span]

    @abstractmethod
    def insert(self, lo: int, hi: int) -> None:
        """Insert rows lo to hi - 1; Rejected if the database refuses one of them."""

    def insert_all(self) -> None:
        """Insert all rows, part by part; Rejected like insert, and none behind that."""
        for part in self.parts:
            self.insert(*part)


class TableStore(ABC):
    """The ledger's tables on some SQL database.

    SQL of the ledger is written once, with "quoted" identifiers and ? marks. The prefix is made
    of letters, digits and underscores, so neither sign is in it otherwise.
    """

    BEGIN: ClassVar[str]
    SHARED: ClassVar[str]  # ends a SELECT that locks its rows against writers
    EXCLUSIVE: ClassVar[str]  # ends a SELECT that locks its rows against everybody
    INSERT_NEW: ClassVar[str]  # begins an INSERT that passes over rows that are there
    SERIAL: ClassVar[str]  # type of a key that numbers itself
    KINDS: ClassVar[Mapping[str, str]]  # the types of the ledger's columns
    _turn: tuple[Statement, Statement] | None = None  # begins and ends one, where they are taken

    def __init__(
        self,
        prefix: str,
        table: str,
        columns: Mapping[str, Column],
        beat: Callable[[], None] = lambda: None,
        wall_clock: Callable[[], float] = time.time,
        on_duplicate: OnDuplicate = "dead",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prefix = prefix
        self._on_duplicate = on_duplicate
        self._table = table
        self._columns = columns
        self._beat = beat
        self._wall_clock = wall_clock
        self._clock = clock

    # ── the contract ────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """Make the tables that are missing; check those that exist, and bring them up to date."""
        with self._session():
            tables, columns = self._lacking()
            older = "meta" not in tables and self._is_older()
            for name in tables:
                self._make_ledger_table(self._name(name), TABLES[name])
            if columns or older:
                self._upgrade(columns)
            present = self._columns_of(self._table)
            if not present:
                self._make_data_table()
            elif missing := self._missing(present):
                raise self._missing_columns(missing)
            self._check_tables()
            self._note_schema()
            self._check_schema()

    def identity(self) -> str:
        """This store's own id, random, made with its tables."""
        with self._session():
            return self._kept("store", uuid.uuid4().hex)

    def is_prepared(self) -> bool:
        """Whether the tables are there. Raises Unavailable where another version made them."""
        if not self._is_there():
            return False
        with self._session():
            tables, _ = self._lacking()
            if tables or not self._has_schema():
                return False
            self._check_schema()
            return True

    def look(self) -> list[Remark]:
        """What is there, and what `prepare` would make. Changes nothing.

        Raises Unavailable and ConfigError where `prepare` would.
        """
        if not self._is_there():
            return [self._try_data_table(), Remark("the database will be made")]
        with self._session():
            present = self._columns_of(self._table)
            if missing := self._missing(present):
                raise self._missing_columns(missing)
            self._check_tables()
            remarks = [] if present else [self._try_data_table()]
            tables, columns = self._lacking()
            if "meta" in tables or not self._has_schema():
                return [*remarks, Remark(f"the ledger's tables {self._prefix}_… will be made")]
            if self._is_older() or columns:
                remarks.append(self._will_be_upgraded())
            return [*remarks, *self._accounts()]

    def _will_be_upgraded(self) -> Remark:
        return Remark(
            f"the ledger's tables {self._prefix}_… will be brought from version"
            f" {self._value_of('schema')} to version {SCHEMA}",
            "nothing; older versions of stream-daemon refuse them then",
        )

    def _accounts(self) -> list[Remark]:
        """What the ledger says for people."""
        [(letters,)] = self._query(f'SELECT COUNT(*) FROM {self._dead} WHERE "retried_at" IS NULL')
        [(gaps,)] = self._query(
            f'SELECT COUNT(*) FROM {self._gaps} WHERE "records" IS NULL OR "records" > "recovered"'
        )
        remarks = [Remark("its tables are there")]
        if letters:
            remarks.append(Remark(f"{letters} dead letters", LOOK_AT_LETTERS))
        if gaps:
            remarks.append(Remark(f"{gaps} gaps: records that are missing", LOOK_AT_GAPS))
        return remarks

    @abstractmethod
    def close(self) -> None:
        """Drop the connection. Safe to call twice."""

    # ── what each database does its own way ─────────────────────────────────────────────

    @abstractmethod
    def _open(self) -> None:
        """Make sure that a session is there and answers."""

    @abstractmethod
    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """Run one statement of the ledger."""

    @abstractmethod
    def _is_there(self) -> bool:
        """Whether there is a database to look at, without making one."""

    @abstractmethod
    def _try_data_table(self) -> Remark:
        """See that the user's table could be made, leaving nothing; ConfigError if not."""

    @abstractmethod
    def _writer(
        self, table: str, columns: Sequence[str], blocks: Sequence[Rows], *, update: bool = False
    ) -> Writer:
        """Prepare the rows of all blocks, in this order, for a table.

        `update`: each replaces the row that has a key of its own.
        """

    @abstractmethod
    def _letter_bytes_max(self) -> int:
        """The longest record for which a dead letter's row fits into a statement."""

    @abstractmethod
    def _columns_of(self, table: str) -> set[str]:
        """Names of a table's columns in lower case; empty if there is no such table."""

    @abstractmethod
    def _has_index(self, table: str) -> bool:
        """Whether a table of the ledger has the index TABLE_index."""

    @abstractmethod
    def _make_ledger_table(self, name: str, table: Table) -> None:
        """Make a table of the ledger, unless somebody else has just done so."""

    @abstractmethod
    def _make_data_table(self) -> None:
        """Make the user's table, unless somebody else has just done so."""

    @abstractmethod
    def _check_tables(self) -> None:
        """Refuse tables that can't keep a transaction."""

    @staticmethod
    @abstractmethod
    def _quoted(identifier: str) -> str:
        """An identifier of the user's in this database's quotes."""

    # ── sessions and statements ─────────────────────────────────────────────────────────

    @contextmanager
    def _session(self) -> Iterator[None]:
        """A session that is dropped, with its open transaction, if anything goes wrong."""
        done = False
        try:
            self._open()
            yield
            done = True
        finally:
            if not done:
                self.close()

    @contextmanager
    def _giving_way(self) -> Iterator[None]:
        """A session in which a lock that somebody keeps isn't waited for long.

        Who waits for the exclusive lock holds up everybody who stores, however long the session
        that has it is silent: its client may have died on another machine.
        """
        with self._session():
            yield

    def _query(self, sql: str, *parameters: Any) -> list[Row]:
        """Run a statement of the ledger: a refusal there is never about a record."""
        try:
            return self._execute(sql, parameters)
        except Rejected as error:
            raise self._refused_ledger(error) from error

    def _query_all(self, *statements: Statement) -> list[list[Row]]:
        """The same for several, in this order, and none behind one that fails; the rows of each.

        A server is asked for all of them at once: what waits for its answers, under a lock, waits
        once.
        """
        return [self._query(*statement) for statement in statements]

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Let a server have the statements of this block at once, where it ends.

        They are run in their order, and none behind one that fails. Of what a statement in here
        answers nothing is seen, and its refusal may be met at the end only, as it is: Rejected.
        """
        yield

    def _insert(self, table: str, rows: Rows) -> None:
        """Insert rows into a table of the ledger, all of its columns but a serial one."""
        if not rows:
            return
        names = [name for name, kind in TABLES[table].columns.items() if kind != "serial"]
        try:
            self._writer(self._name(table), names, [rows]).insert_all()
        except Rejected as error:
            if table == "frames" and error.code == DUPLICATE:
                raise
            raise self._refused_ledger(error) from error

    def _refused_ledger(self, error: Rejected) -> Unavailable:
        return Unavailable(
            f"the database refuses a statement of the ledger: {error.message}",
            f"compare the tables {self._prefix}_… with docs/formats.md",
            loud=True,
        )

    def _name(self, table: str) -> str:
        return f"{self._prefix}_{table}"

    @property
    def _runs(self) -> str:
        return f'"{self._prefix}_runs"'

    @property
    def _frames(self) -> str:
        return f'"{self._prefix}_frames"'

    @property
    def _dead(self) -> str:
        return f'"{self._prefix}_dead"'

    @property
    def _gaps(self) -> str:
        return f'"{self._prefix}_gaps"'

    @property
    def _meta(self) -> str:
        return f'"{self._prefix}_meta"'

    # ── tables ──────────────────────────────────────────────────────────────────────────

    def _definition(self, table: Table) -> str:
        """Columns and key of a ledger table, as CREATE TABLE has them between its brackets."""
        kinds = {**self.KINDS, "serial": self.SERIAL}
        parts = [f'"{name}" {kinds[kind]}' for name, kind in table.columns.items()]
        if table.key:
            parts.append(f"PRIMARY KEY ({quoted_names(table.key)})")
        return ", ".join(parts)

    def _data_definition(self) -> str:
        """The same for the user's table, in this database's quotes."""
        parts = [f"{self._quoted('seq')} {self.SERIAL}"]
        parts += [f"{self._quoted(name)} {column.type}" for name, column in self._columns.items()]
        return ", ".join(parts)

    def _missing(self, present: Collection[str]) -> list[str]:
        """Configured columns that a table lacks; none of a table that isn't there."""
        return [name for name in self._columns if present and name.lower() not in present]

    def _lacking(self) -> tuple[list[str], list[tuple[str, str]]]:
        """Tables of ours that aren't there, and columns (with their tables) of an older version.

        Refuses somebody else's tables under our names.
        """
        tables: list[str] = []
        columns: list[tuple[str, str]] = []
        for name, table in TABLES.items():
            if present := self._columns_of(self._name(name)):
                missing = [column for column in table.columns if column not in present]
                self._refuse_foreign(name, missing)
                columns += [(name, column) for column in missing]
            else:
                tables.append(name)
        return tables, columns

    def _refuse_foreign(self, name: str, missing: Sequence[str]) -> None:
        if foreign := [column for column in missing if column not in ADDED.get(name, ())]:
            raise Unavailable(
                f"table {self._name(name)} is no table of ours:"
                f" it has no column {', '.join(foreign)}",
                "rename it, or choose another `name` for the instance (see docs/formats.md)",
                loud=True,
            )

    def _upgrade(self, columns: Sequence[tuple[str, str]]) -> None:
        """Add what an older version didn't have, unless somebody else has just done so."""
        changes = [*map(self._new_column, columns), *map(self._new_index, INDEXED)]
        changes = [(change, is_done) for change, is_done in changes if not is_done()]
        for at, (change, is_done) in enumerate(changes):
            try:
                self._execute(change, ())
            except Rejected as error:
                if not is_done():
                    raise self._refused_ledger(error) from error
            except Unavailable as error:
                if error.loud:
                    pasted = " ".join(f"{rest};" for rest, _ in changes[at:]).replace('"', "")
                    error.hint += f"; or run as another user: {pasted}"
                raise

    def _new_column(self, place: tuple[str, str]) -> Change:
        name, column = self._name(place[0]), place[1]
        kind = self.KINDS[TABLES[place[0]].columns[column]]
        change = f'ALTER TABLE "{name}" ADD COLUMN "{column}" {kind}'
        return change, lambda: column in self._columns_of(name)

    def _new_index(self, table: str) -> Change:
        name, columns = self._name(table), quoted_names(TABLES[table].index)
        change = f'CREATE INDEX "{name}_index" ON "{name}" ({columns})'
        return change, lambda: self._has_index(name)

    def _missing_columns(self, missing: Sequence[str]) -> Unavailable:
        table = self._quoted(self._table)
        alters = [
            f"ALTER TABLE {table} ADD COLUMN {self._quoted(name)} {self._columns[name].type};"
            for name in missing
        ]
        return Unavailable(
            f"table {self._table} has no column {', '.join(missing)}",
            f"run: {' '.join(alters)}",
            loud=True,
        )

    def _note_schema(self) -> None:
        """Write the store's id, once for ever, and the version of its tables, which are whole."""
        self._kept("store", uuid.uuid4().hex)
        older = self._kept("schema", str(SCHEMA))
        if older in OLDER_SCHEMAS:
            self._query(
                f'UPDATE {self._meta} SET "value" = ? WHERE "name" = ? AND "value" = ?',
                *(str(SCHEMA).encode(), "schema", older.encode()),
            )

    def _is_older(self) -> bool:
        """Whether an older version has made the tables; those of a newer one are refused."""
        older = self._has_schema() and self._value_of("schema") in OLDER_SCHEMAS
        if not older and self._has_schema():
            self._check_schema()
        return older

    def _check_schema(self) -> None:
        found = self._value_of("schema")
        if found in OLDER_SCHEMAS:
            hint = "start the instance, or run drain: it brings them to its version"
        else:
            hint = "use the version of stream-daemon that made them, or a newer one"
        if found != str(SCHEMA):
            raise Unavailable(
                f"the tables {self._prefix}_… have version {found},"
                f" this program writes version {SCHEMA}",
                hint,
                loud=True,
            )

    def _kept(self, name: str, new: str) -> str:
        """What is kept under this name; `new` if nothing was yet, whoever comes first."""
        insert = f'{self.INSERT_NEW} {self._meta} ("name", "value") VALUES (?, ?)'
        self._query(insert, name, new.encode())
        return self._value_of(name)

    def _has_schema(self) -> bool:
        """Whether the ledger's tables were finished: who made them may have died in it."""
        return bool(self._query(f'SELECT 1 FROM {self._meta} WHERE "name" = ?', "schema"))

    def _value_of(self, name: str) -> str:
        [(found,)] = self._query(f'SELECT "value" FROM {self._meta} WHERE "name" = ?', name)
        return bytes(found).decode()


def quoted_names(names: Sequence[str]) -> str:
    """Names of the ledger's own columns, as its SQL has them."""
    return ", ".join(f'"{name}"' for name in names)


def time_text(value: Any) -> str | None:
    """A time of the database's as utc_text writes it, however the database gives it."""
    return value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value
