"""B3, B4: from a backlog in the queue to committed rows, two subscribers, against LOAD DATA.

Nothing but storing is measured. The stream is sent while there is no subscriber; then two are
started, and the clock runs from the first frame that one of them takes to the ledger's last
row. LOAD DATA gets as many records into one transaction as one of our leases has.

B3 stores each line as it came. B4 stores seven columns: numbers, a time, texts, a truth value;
four of them lie deeper in the record, and one is often missing. LOAD DATA reads them from rows
that were prepared before its clock runs; we take them out of the JSON ourselves.
"""

import hashlib
import json
import re
import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tests.bench.database import Database
from tests.bench.lines import DIGEST_HEX, Content, Lines, joined
from tests.bench.measure import RECORDS_PER_S, Comparison, Findings, in_turns
from tests.bench.run import Run
from tests.bench.ways import LEASE_BYTES, RAW, LoadData, StreamDaemon, stream_daemon, wait_until
from tests.system.daemon import send_and_close
from tests.system.queues import QueueUnderTest

SUBSCRIBERS = 2
TAKEN_LOOK_S = 0.002  # between two looks whether the first frame was taken
WHAT = "a backlog → MariaDB committed, two subscribers"

COLUMNS = {
    "id": '{ path = "id", type = "BIGINT UNSIGNED" }',
    "created_at": '{ path = "created_at", type = "DATETIME(3)" }',
    "text": '{ path = "text", type = "TEXT" }',
    "screen_name": '{ path = "user.screen_name", type = "VARCHAR(64)" }',
    "followers": '{ path = "user.followers_count", type = "INT UNSIGNED" }',
    "verified": '{ path = "user.verified", type = "TINYINT" }',
    "hashtag": '{ path = "entities.hashtags.0", type = "VARCHAR(280)" }',
}
TYPED = "".join(f"{name} = {column}\n" for name, column in COLUMNS.items())
NULL = "\\N"  # as LOAD DATA and the digest have it
LOAD_ROWS = (
    "LOAD DATA LOCAL INFILE '{{file}}' INTO TABLE `{{table}}` CHARACTER SET utf8mb4 ({});"
).format(", ".join(COLUMNS))
ESCAPED = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n"})  # as LOAD DATA reads them
OF_A_ROW = "CONCAT_WS('\\t', {})".format(
    ", ".join(f"COALESCE(CAST(`{name}` AS CHAR), '\\\\N')" for name in COLUMNS)
)
CONTENT = (
    f"SELECT COUNT(*), COALESCE(SUM(CAST(CONV(LEFT(MD5({OF_A_ROW}), {DIGEST_HEX}), 16, 10)"
    " AS UNSIGNED)), 0) FROM `{}`"
)
TIMES = re.compile(rb'"created_at":"[^"]*"(.*)"timestamp_ms":"([0-9]+)"')


def b3(run: Run) -> Findings:
    """One raw column, against LOAD DATA of the same lines."""
    return _measured(run, "B3", f"{WHAT}, one raw column", RAW, LoadData(run.database), 1.1)


def b4(run: Run) -> Findings:
    """Seven typed columns, against LOAD DATA of prepared rows."""
    database = TypedDatabase(run.database.database, run.database.connection)
    typed = Run(database, TypedLines.made_from(run.lines), run.rounds, run.say)
    return _measured(typed, "B4", f"{WHAT}, seven typed columns", TYPED, LoadRows(database), 0.8)


def _measured(
    run: Run, name: str, what: str, columns: str, other: LoadData, aim: float
) -> Findings:
    with stream_daemon(run.database, columns, f"subscribers = {SUBSCRIBERS}\n") as way:
        run.database.make_like(other.table, way.table)
        ours = run.side(Backlog(way))
        samples = in_turns(ours, run.side(other), RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison(name, what, *samples, aim=aim)])


class Backlog:
    """A running instance whose subscribers come when the whole stream is in the queue."""

    name = StreamDaemon.name
    table = StreamDaemon.table

    def __init__(self, way: StreamDaemon) -> None:
        self._way = way
        self._queue = QueueUnderTest.embedded(way.daemon, "bench")

    def store(self, lines: Lines) -> float:
        wanted = self._way.committed() + lines.content.count
        self._want_subscribers(0)
        send_and_close(self._way.port, [lines.body])  # closed when all of it is in the queue
        frames = self._queue.waiting()
        self._want_subscribers(SUBSCRIBERS)
        while self._queue.waiting() == frames:
            time.sleep(TAKEN_LOOK_S)
        began = time.perf_counter()
        wait_until(lambda: self._way.committed() >= wanted)
        return time.perf_counter() - began

    def _want_subscribers(self, count: int) -> None:
        """One signal after the other: of two at once only one may arrive."""
        while (there := self._subscribers()) != count:
            self._way.daemon.signal(signal.SIGTTIN if there < count else signal.SIGTTOU)
            wait_until(lambda before=there: self._subscribers() != before)

    def _subscribers(self) -> int:
        return sum(" subscriber " in title for title in self._way.daemon.children())


# ── seven columns ───────────────────────────────────────────────────────────────────────


class Row(NamedTuple):
    """The seven values of a tweet: as LOAD DATA reads them, and their digest."""

    written: bytes
    digest: int


@dataclass(frozen=True, slots=True)
class TypedLines(Lines):
    """The stream, and for each line the row that it stands for."""

    rows: tuple[Row, ...] = ()

    @classmethod
    def made_from(cls, lines: Lines) -> "TypedLines":
        """The same tweets, with times that a database knows."""
        records = tuple(map(_with_iso_time, lines.records))
        return cls.of_rows(records, tuple(_row(json.loads(record)) for record in records))

    @classmethod
    def of_rows(cls, records: tuple[bytes, ...], rows: tuple[Row, ...]) -> "TypedLines":
        """A stream of these."""
        return cls(records, Content(len(rows), sum(row.digest for row in rows)), rows)

    def first(self, count: int) -> "TypedLines":
        return self.of_rows(self.records[:count], self.rows[:count])


class TypedDatabase(Database):
    """The database, looked at through all seven columns."""

    def content(self, table: str) -> Content:
        [(count, digest)] = self.run(CONTENT.format(table))
        return Content(int(count), int(digest))


class LoadRows(LoadData):
    """The stock client's LOAD DATA of rows that somebody has prepared."""

    name = "LOAD DATA of prepared rows"
    statement = LOAD_ROWS

    def _files(self, lines: Lines) -> list[bytes]:
        assert isinstance(lines, TypedLines)
        return [
            joined(row.written for row in lines.rows[part]) for part in lines.parts(LEASE_BYTES)
        ]


def _with_iso_time(line: bytes) -> bytes:
    """The tweet with its time in ISO 8601 and UTC, as most streams have it."""

    def written(found: "re.Match[bytes]") -> bytes:
        return b'"created_at":"%b"%b"timestamp_ms":"%b"' % (
            _time_of(found[2]).isoformat(timespec="milliseconds").encode(),
            found[1],
            found[2],
        )

    return TIMES.sub(written, line, count=1)


def _time_of(timestamp_ms: bytes | str) -> datetime:
    return datetime.fromtimestamp(int(timestamp_ms) / 1000, UTC)


def _row(tweet: dict[str, Any]) -> Row:
    user, hashtags = tweet["user"], tweet["entities"]["hashtags"]
    created_at = _time_of(tweet["timestamp_ms"]).replace(tzinfo=None)
    values = (
        str(tweet["id"]),
        created_at.isoformat(" ", "milliseconds"),
        tweet["text"],
        user["screen_name"],
        str(user["followers_count"]),
        "1" if user["verified"] else "0",
        hashtags[0] if hashtags else None,
    )
    written = [NULL if value is None else value.translate(ESCAPED) for value in values]
    whole = "\t".join(NULL if value is None else value for value in values)
    digest = int(hashlib.md5(whole.encode()).hexdigest()[:DIGEST_HEX], 16)
    return Row("\t".join(written).encode(), digest)
