"""B9: how long after it was sent a record is committed, against one single-row commit.

A sender in a process of its own sends one record every PACE_S over one TCP connection, and notes
when. Meanwhile an onlooker asks the database every LOOK_S for rows that it hasn't seen. Nothing
inside the instance knows of either. A latency says too much by what the onlooker adds, which is
up to LOOK_S and the time of its question; it never says too little.

The sender sets TCP_NODELAY, as all do for whom a millisecond counts. Without it the sender's
kernel holds a small record back until the one before is acknowledged (RFC 896), and ours does that
when a frame was handed over: so a record waits for one frame more. That is shown beside.
"""

import math
import multiprocessing
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pymysql

from appliance.settings import TcpSource
from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.measure import Comparison, Findings, Listing, Side, WrongContentError, in_turns
from tests.bench.run import Run
from tests.bench.ways import RAW, StreamDaemon, stream_daemon
from tests.ports import free_port
from tests.system.daemon import Daemon, connect, until

WHAT = "send → committed at 1,000 records/s, p99 less frame_interval_ms"
PACE_S = 0.001
PACED_S = 6.0  # of one measure at that pace
LONE_PACE_S = 0.05  # a record that comes so long behind the other is alone on its way
LONE_RECORDS = 100
LOOK_S = 0.001
COMMITS = 2000
QUIET_S = 0.5  # before each measure: what the one before has left to do is done
START_S_MAX = 30.0
STORED_S_MAX = 60.0
INTERVAL_MS = TcpSource().frame_interval_ms

Ask = Callable[[str], Sequence[tuple[Any, ...]]]
"""Asks a database; the rows that it answers."""

Latencies = list[float]  # milliseconds


def b9(run: Run) -> Findings:
    """Against one client that commits rows one by one; and what else there is to say of it."""
    paced = run.lines.first(round(PACED_S / PACE_S))
    lone = run.lines.first(LONE_RECORDS)
    ours, commits = Latencies(), Latencies()
    with _senders() as senders, stream_daemon(run.database) as way:
        here = Instance(senders, way.port, StreamDaemon.table, run.database.run)
        samples = in_turns(
            _p99(way.name, lambda: here.latencies(paced, PACE_S), ours, INTERVAL_MS),
            _p99("single-row commit", lambda: _commits(run), commits, 0),
            "ms",
            run.rounds,
            run.say,
        )
        held_back = here.latencies(paced, PACE_S, no_delay=False)
        alone = here.latencies(lone, LONE_PACE_S)
        with _on_sqlite(senders) as embedded:
            rows = [
                ("MariaDB, 1,000 records/s", ours),
                ("the same, a sender without TCP_NODELAY", held_back),
                ("MariaDB, a lone record", alone),
                ("SQLite, 1,000 records/s", embedded.latencies(paced, PACE_S)),
                ("SQLite, a lone record", embedded.latencies(lone, LONE_PACE_S)),
                ("MariaDB, one client's single-row commit", commits),
            ]
    row = Comparison("B9", WHAT, *samples, aim=10, at_most=True)
    return Findings([row], [_listing(rows)])


def _p99(name: str, measure: Callable[[], Latencies], kept: Latencies, less_ms: float) -> Side:
    """A side whose figure is its p99, less so much; all that it measures is kept, too."""

    def once() -> float:
        latencies = measure()
        kept.extend(latencies)
        return percentile(latencies, 99) - less_ms

    return Side(name, once)


def _listing(rows: Sequence[tuple[str, Latencies]]) -> Listing:
    return Listing(
        f"B9: send → committed, ms, frame_interval_ms = {INTERVAL_MS:g} included",
        ("of", "records", "p50", "p90", "p99", "highest"),
        [
            (name, f"{len(found):,}", *(f"{percentile(found, q):.2f}" for q in (50, 90, 99, 100)))
            for name, found in rows
        ],
    )


def percentile(figures: Sequence[float], share: float) -> float:
    """The lowest figure that so many percent of them are not above."""
    return sorted(figures)[max(0, math.ceil(len(figures) * share / 100) - 1)]


# ── ours ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Instance:
    """A running instance, who sends to it, and how to look into the table that it stores into."""

    senders: Executor
    port: int
    table: str
    ask: Ask

    def latencies(self, lines: Lines, pace_s: float, *, no_delay: bool = True) -> Latencies:
        """Send these lines one by one; how long each took until it was committed.

        no_delay: the sender sets TCP_NODELAY.

        Raises:
            WrongContentError: the table didn't get exactly the lines.
        """
        time.sleep(QUIET_S)
        [(before,)] = self.ask(f"SELECT COALESCE(MAX(seq), 0) FROM {self.table}")
        sending = self.senders.submit(send_paced, self.port, lines.records, pace_s, no_delay)
        seen = self._watch(before, lines.content.count)
        sent = dict(zip(lines.records, sending.result(), strict=True))
        raws = {
            seq: raw.encode()
            for seq, raw in self.ask(f"SELECT seq, raw FROM {self.table} WHERE seq > {before}")
        }
        if Lines.of(raws.values()).content != lines.content:
            raise WrongContentError(f"{len(raws)} rows of {self.table} aren't what was sent")
        return [(at - sent[raws[seq]]) * 1000 for seq, at in seen.items()]

    def _watch(self, before: int, count: int) -> dict[int, float]:
        """When each of so many rows was seen first, by its number; they are above `before`."""
        seen: dict[int, float] = {}
        due = time.perf_counter()
        ends_at = due + STORED_S_MAX
        while len(seen) < count:
            assert due < ends_at, f"not stored within {STORED_S_MAX:g} s"
            time.sleep(max(0.0, due - time.perf_counter()))
            found = self.ask(f"SELECT seq FROM {self.table} WHERE seq > {before}")
            now = time.perf_counter()
            for (seq,) in found:
                seen.setdefault(seq, now)
            while before + 1 in seen:
                before += 1
            due = max(due + LOOK_S, now)
        return seen


def send_paced(port: int, records: Sequence[bytes], pace_s: float, no_delay: bool) -> list[float]:
    """Send one record each pace_s; when each was given to the kernel (perf_counter)."""
    sent = []
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, no_delay)
        began = time.perf_counter()
        for number, record in enumerate(records):
            time.sleep(max(0.0, began + number * pace_s - time.perf_counter()))
            sent.append(time.perf_counter())
            connection.sendall(record + b"\n")
    return sent


def _senders() -> Executor:
    """A process that sends, so that it never waits for the onlooker's turn in the interpreter."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("fork"))


@contextmanager
def _on_sqlite(senders: Executor) -> Iterator[Instance]:
    """An instance that stores into the SQLite of its own, with nothing else installed."""
    with embedded() as (daemon, port):
        file = daemon.directory / "state/stream/stream.db"
        until(lambda: (daemon.try_status() or {}).get("ready"), START_S_MAX, "its tables")
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            yield Instance(
                senders, port, StreamDaemon.table, lambda sql: connection.execute(sql).fetchall()
            )


@contextmanager
def embedded() -> Iterator[tuple[Daemon, int]]:
    """A whole instance that needs nothing else, and its TCP port."""
    port = free_port()
    source = f'[source.lines]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "json"\n'
    with Daemon(f"{source}[store.columns]\n{RAW}") as daemon:
        yield daemon, port


# ── the other way ───────────────────────────────────────────────────────────────────────


def _commits(run: Run) -> Latencies:
    """INSERT and COMMIT of one row after the other, into a table of the same definition."""
    database, table = run.database, "committed"
    database.make_like(table, StreamDaemon.table)
    time.sleep(QUIET_S)
    took = Latencies()
    with closing(_client(database)) as client, client.cursor() as cursor:
        for record in run.lines.first(COMMITS).records:
            text = record.decode()
            began = time.perf_counter()
            cursor.execute(f"INSERT INTO {table} (raw) VALUES (%s)", (text,))
            client.commit()
            took.append((time.perf_counter() - began) * 1000)
    return took


def _client(database: Database) -> Any:
    return pymysql.connect(
        unix_socket=database.server.unix_socket,
        user=database.user,
        password=database.password,
        database=database.database.name,
        charset="utf8mb4",
        ssl_disabled=True,
    )
