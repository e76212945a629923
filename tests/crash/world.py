"""A whole pipe in one process, killed at chosen steps: real code, fake Redis and database.

A kill is an exception at a checkpoint that throws the role's objects away, as kill -9 does:
the kernel keeps the connection (the parent's duplicate), the mapped note file keeps its
bytes, Redis drops the client. The next object of the role is born as a new process is.
"""

import socket
import struct
from itertools import count
from pathlib import Path
from typing import Any

from appliance import link
from appliance.collector import Collector
from appliance.link import cookie_of
from appliance.note import later_run, open_note
from appliance.rows import RowMaker
from appliance.settings import DEFAULT_COLUMNS
from appliance.sources import held, tcp
from appliance.subscriber import Subscriber
from tests.fake_queue import Killed, MemoryQueue, MemoryRedis
from tests.fake_store import MemoryDatabase, MemoryStore

BOOT = "b" * 32
LIMITS = held.Limits(record_bytes_max=1000, frame_bytes_max=1000, close_wait_s=0.0)


class Steps:
    """Counts every step of the world; kills at the chosen ones."""

    def __init__(self, kill_at: set[int]) -> None:
        self.names: list[str] = []
        self._kill_at = kill_at

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 in self._kill_at:
            raise Killed


class Wish:
    """Nobody asks us to stop until `stop` is set."""

    stop = quick = False

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()

    def take_nudge(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._read.fileno()

    def clear(self) -> None:
        """Nothing ever comes."""

    def wait(self, timeout_s: float) -> None:
        """Time doesn't pass here."""

    def close(self) -> None:
        self._read.close()
        self._write.close()


class Gauge:
    """Numbers that nobody reads."""

    def beat(self) -> None: ...
    def worked(self) -> None: ...
    def add(self, name: str, amount: int) -> None: ...
    def set(self, name: str, value: int) -> None: ...
    def waiting_for(self, text: str) -> None: ...
    def error(self, text: str) -> None: ...
    def get(self, name: str) -> int:
        return 0


class SteppedQueue(MemoryQueue):
    """A queue whose calls are steps: before and after their effect."""

    steps: Steps

    def push(self, push: Any) -> Any:
        self.steps("before push")
        answer = super().push(push)
        self.steps("push done, answer lost")
        return answer

    def confirm(self, lease: Any) -> None:
        self.steps("before confirm")
        super().confirm(lease)
        self.steps("confirm done, answer lost")

    def take(self, bytes_max: int, wait_s: float) -> Any:
        lease = super().take(bytes_max, wait_s)
        self.steps("take done, answer lost")
        return lease


class SteppedStore(MemoryStore):
    """A store whose commit is a step: before and after."""

    steps: Steps

    def store(self, batches: Any) -> Any:
        self.steps("before commit")
        stored = super().store(batches)
        self.steps("commit done, answer lost")
        return stored


class World:
    """One TCP connection, its collector, Redis, a subscriber and the database."""

    def __init__(self, directory: Path, kill_at: set[int]) -> None:
        self.steps = Steps(kill_at)
        self._directory = directory
        self._redis = MemoryRedis()
        self._database = MemoryDatabase()
        self._runs = count(1)
        self._sender, self._kept = _tcp_pair()
        self._wish = Wish()
        self._collecting: tuple[Collector, held.HeldSource] | None = None
        self._subscribing: tuple[Subscriber, SteppedQueue] | None = None

    def close(self) -> None:
        for thing in (self._sender, self._kept, self._wish):
            thing.close()
        if self._collecting:
            self._collecting[1].close()

    def send(self, data: bytes) -> None:
        self._sender.sendall(data)

    def end(self) -> None:
        """The sender closes; nothing comes any more."""
        self._sender.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """The sender resets the connection."""
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sender.close()

    def collect(self) -> None:
        """Turns until the source shows nothing; a killed collector is born anew."""
        while not self._survives(self._collect_all):
            if self._collecting:
                self._collecting[1].close()  # as the kernel does with a dead process's
            self._collecting = None
            self._redis.clients = {c for c in self._redis.clients if not c.startswith("col")}

    def store(self) -> None:
        """Leases until the queue is empty; a killed subscriber's are given back."""
        while not self._survives(self._store_all):
            self._subscribing = None
            self._redis.clients = {c for c in self._redis.clients if not c.startswith("sub")}
            MemoryQueue(self._redis, "recovery").sweep()

    def stored(self) -> list[bytes]:
        """The raw column."""
        return [row[2].encode() for row in self._database.tables.rows]

    @property
    def gaps(self) -> list[Any]:
        return self._database.tables.gaps

    @property
    def dead(self) -> list[tuple[str, bytes]]:
        return [(letter.code, letter.raw) for letter in self._database.tables.dead.values()]

    def frames(self) -> list[int]:
        """Numbers of the frames that are stored."""
        return [number for _run, number in self._database.tables.frames]

    def _survives(self, act: Any) -> bool:
        try:
            act()
        except Killed:
            return False
        return True

    def _collect_all(self) -> None:
        if not self._collecting:
            self._collecting = self._born_collector()
            self._collecting[0]._birth()
        collector, source = self._collecting
        while (chunk := source.peek()) is not None:
            collector._turn(chunk)

    def _born_collector(self) -> tuple[Collector, held.HeldSource]:
        notes, _before = open_note(
            self._directory / "s.note", BOOT, "tcp", lambda after: later_run(after, 1, 0)
        )
        _parent, wire = link.pair()
        inherited = [(cookie_of(self._kept), self._kept.dup())]
        source = held.HeldSource(tcp.TcpKernel(), wire, self._wish, LIMITS, inherited)
        queue = SteppedQueue(self._redis, "col")
        queue.steps = self.steps
        collector = Collector(
            "s",
            source,
            queue,
            notes,
            Gauge(),
            self._wish,
            new_run=lambda after: later_run(after, 1, 0),
            frame_interval_s=0.0,
            checkpoint=self.steps,
            chance=lambda: 0.0,
        )
        return collector, source

    def _store_all(self) -> None:
        if not self._subscribing:
            self._subscribing = self._born_subscriber()
        subscriber, _queue = self._subscribing
        while (lease := subscriber._take()) is not None:
            subscriber._work(lease)

    def _born_subscriber(self) -> tuple[Subscriber, SteppedQueue]:
        queue = SteppedQueue(self._redis, "sub")
        store = SteppedStore(self._database)
        queue.steps = store.steps = self.steps
        maker = RowMaker(DEFAULT_COLUMNS, "text", (), "s")
        subscriber = Subscriber(
            queue,
            store,
            {"s": maker},
            lambda _source: maker,
            Gauge(),
            self._wish,
            lease_bytes_max=500,
            checkpoint=self.steps,
            chance=lambda: 0.0,
        )
        return subscriber, queue


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        kept, _address = listener.accept()
    tcp.prepare(kept)
    return sender, kept
