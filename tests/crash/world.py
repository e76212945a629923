"""A whole pipe in one process, killed at chosen steps: real code, fake Redis and database.

A kill is an exception at a checkpoint that throws the role's objects away, as kill -9 does:
the kernel keeps the connection (the parent's duplicate), the mapped note file keeps its
bytes, Redis drops the client. The next object of the role is born as a new process is.

A failure is an error at such a step: the connection to Redis or the database breaks before
or after what was asked for was done. Time passes only when somebody looks at the clock.
"""

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance import link
from appliance.acceptor import Acceptor
from appliance.collector import Collector
from appliance.contracts import Push, Pushed, Source, Spool, Store
from appliance.errors import Unavailable
from appliance.frame import Frame, decode
from appliance.link import cookie_of
from appliance.note import later_run, open_note
from appliance.rows import RowMaker
from appliance.settings import DEFAULT_COLUMNS
from appliance.sources import held, tcp, unix
from appliance.sources.absence import SERVER_AWAY, Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.dialled import DialledSource, Dialler
from appliance.sources.file import FileSource
from appliance.sources.kernel import AT_REST, SO_PEEK_OFF, Kernel, Seen
from appliance.subscriber import Subscriber
from tests.fake_queue import Killed, MemoryQueue, MemoryRedis
from tests.fake_spool import MemoryDisk, MemorySpool
from tests.fake_store import MemoryDatabase, MemoryStore
from tests.socket_place import HurriedTcp

BOOT = "b" * 32
CALLS = (  # steps at which a connection may break
    "before push",
    "push done, answer lost",
    "take done, answer lost",
    "before commit",
    "commit done, answer lost",
    "before confirm",
    "confirm done, answer lost",
)
BYTES_MAX = 2**31
DIALS = 5  # times that the collector may be told to dial
IDLE_PEEKS = 5  # a source that skips an over-long record shows nothing for a while
LIMITS = held.Limits(record_bytes_max=1000, frame_bytes_max=1000, close_wait_s=0.0)


class Steps:
    """Counts every step of the world; kills or fails at the chosen ones.

    at: called with the index of each step, before anything else.
    """

    def __init__(self, kill_at: set[int], fail_at: set[int]) -> None:
        self.names: list[str] = []
        self.at: Callable[[int], None] = lambda _index: None
        self._kill_at = kill_at
        self._fail_at = fail_at

    def __call__(self, name: str) -> None:
        self.names.append(name)
        self.at(len(self.names) - 1)
        if len(self.names) - 1 in self._kill_at:
            raise Killed
        if len(self.names) - 1 in self._fail_at and name in CALLS:
            raise Unavailable(f"broken {name}")


class Wish:
    """Nobody asks us to stop until `stop` is set."""

    stop = quick = leave = False

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()

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
    def in_hand(self, owner: str, frame: str) -> None: ...
    def put_down(self) -> None: ...
    def get(self, name: str) -> int:
        return 0


class SteppedQueue(MemoryQueue):
    """A queue whose calls are steps: before and after their effect."""

    steps: Steps
    world: "World"

    def push(self, push: Any) -> Any:
        self._step("before push")
        self.bytes_max = 0 if self.world.is_full else BYTES_MAX
        answer = super().push(push)
        if answer is Pushed.TAKEN:
            self.world.pushed.append(decode(push.header + bytes(push.body)))
            if self.world.hangs_at_push:
                self.server.away = True
                self.close()
                raise Unavailable("no answer")
        self._step("push done, answer lost")
        return answer

    def confirm(self, lease: Any) -> None:
        self._step("before confirm")
        super().confirm(lease)
        self._step("confirm done, answer lost")

    def take(self, bytes_max: int, wait_s: float) -> Any:
        lease = super().take(bytes_max, wait_s)
        self._step("take done, answer lost")
        return lease

    def _step(self, name: str) -> None:
        try:
            self.steps(name)
        except Unavailable:
            self.close()
            raise


class SteppedSpool(MemorySpool):
    """A spool whose changes are steps: before and after."""

    steps: Steps

    def append(self, line: bytes, body: Any) -> None:
        self.steps("before append")
        super().append(line, body)
        self.steps("appended")

    def _drop_newest(self) -> None:
        super()._drop_newest()
        self.steps("segment dropped")


class SteppedStore(MemoryStore):
    """A store whose commit is a step: before and after."""

    steps: Steps

    def store(self, batches: Any) -> Any:
        self.steps("before commit")
        stored = super().store(batches)
        self.steps("commit done, answer lost")
        return stored


class World:
    """One TCP connection, its collector, Redis, a subscriber and the database.

    pushed: every frame that Redis took, in this order. is_full: it takes none. hangs_at_push: it
    takes one more without an answer, and is gone.
    """

    type = "tcp"
    boot = BOOT
    behind: tuple[bytes, ...] = ()  # records that come behind the end
    absences: tuple[str, ...] = ()  # causes of the gaps that a server's absence makes
    kernel: Kernel = tcp.TcpKernel()

    def __init__(
        self, directory: Path, kill_at: Iterable[int], fail_at: Iterable[int] = ()
    ) -> None:
        self.steps = Steps(set(kill_at), set(fail_at))
        self._directory = directory
        self.redis = MemoryRedis()
        self.disk = MemoryDisk()
        self.pushed: list[Frame] = []
        self.is_full = self.hangs_at_push = False
        self._seconds = itertools.count()
        self._database = MemoryDatabase()
        self._wish = Wish()
        self._collecting: tuple[Collector, Source] | None = None
        self._subscribing: tuple[Subscriber, SteppedQueue] | None = None
        self._open()

    def _open(self) -> None:
        self._kept, self._sender = tcp.connected()
        self._sent = 0
        self._numbers = itertools.count(1)

    def now(self) -> float:
        """A monotonic clock."""
        return float(next(self._seconds))

    def close(self) -> None:
        for thing in (self._sender, self._kept, self._wish):
            thing.close()
        if self._collecting:
            self._collecting[1].close()

    def send(self, data: bytes) -> None:
        self._sender.sendall(data)
        self._sent += len(data)
        self._until(lambda seen: seen.position + seen.available == self._sent)

    def end(self) -> None:
        """The sender closes; nothing comes any more."""
        self._sender.shutdown(socket.SHUT_WR)
        self._until(lambda seen: seen.ending)

    def reset(self) -> None:
        """The sender resets the connection."""
        self._sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sender.close()
        self._until(lambda seen: seen.failed)

    def _until(self, arrived: Callable[[Seen], bool]) -> None:
        """Wait for the kernel, which may be late with it on a busy machine."""
        while not arrived(self.kernel.observe(self._kept)):
            os.sched_yield()

    def collect(self) -> None:
        """Turns until the source shows nothing and no more can be replayed; a killed collector is
        born anew.
        """
        while not self._survives(self._collect_all):
            self.kill_collector()

    def take_turns(self, turns: int) -> None:
        """So many at most, of a collector that nobody kills."""
        self._collecting = self._born_collector()
        self._collecting[0]._birth()
        for _ in range(turns):
            self._collecting[0]._step()

    def kill_collector(self) -> None:
        if self._collecting:
            self._collecting[1].close()  # as the kernel does with a dead process's
        self._collecting = None
        self.redis.clients = {c for c in self.redis.clients if not c.startswith("col")}

    def break_queue(self, how: str) -> None:
        """From here on it takes nothing: it is away, full, or hangs."""
        self.redis.away = how == "away"
        self.is_full = how == "full"
        self.hangs_at_push = how == "hangs"

    def mend_queue(self) -> None:
        """It takes everything again."""
        self.redis.away = self.is_full = self.hangs_at_push = False

    def store(self) -> None:
        """Leases until the queue is empty; what dead or cut off ones held is given back."""
        empty = False
        while not empty:
            if not self._survives(self._store_all):
                self._subscribing = None
                self.redis.clients = {c for c in self.redis.clients if not c.startswith("sub")}
            MemoryQueue(self.redis, "recovery").sweep()
            empty = not self.redis.working

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
        collector, _source = self._collecting
        idle = 0
        while idle < IDLE_PEEKS:
            idle = 0 if collector._step() else idle + 1

    def _born_source(self) -> Source:
        _parent, wire = link.pair()
        inherited = [(cookie_of(self._kept), self._kept.dup())]
        folder = self._directory / "beginnings"
        return held.HeldSource(
            self.kernel,
            wire,
            self._wish,
            LIMITS,
            Beginnings(folder, self.boot, lambda: next(self._numbers)),
            inherited,
            **self._how(),
        )

    def _how(self) -> dict[str, Any]:
        """TCP marks nothing, and one call discards: no more steps than the collector's."""
        return {}

    def _born_collector(self) -> tuple[Collector, Source]:
        notes = open_note(
            self._directory / "s.note", self.boot, self.type, lambda after: later_run(after, 1, 0)
        )
        source = self._born_source()
        wait = source.wait
        source.wait = lambda _timeout_s: wait(0.0)  # type: ignore[method-assign]
        collector = Collector(
            "s",
            source,
            self._born_queue("col"),
            self._born_spool(),
            notes,
            Gauge(),
            self._wish,
            new_run=lambda after: later_run(after, 1, 0),
            frame_interval_s=0.0,
            checkpoint=self.steps,
            chance=lambda: 0.0,
            monotonic=self.now,
        )
        return collector, source

    def _store_all(self) -> None:
        if not self._subscribing:
            self._subscribing = self._born_subscriber()
        subscriber, _queue = self._subscribing
        while (lease := subscriber._persist("the queue", subscriber._take)) is not None:
            subscriber._work(lease)

    def _born_subscriber(self) -> tuple[Subscriber, SteppedQueue]:
        queue = self._born_queue("sub")
        maker = RowMaker(DEFAULT_COLUMNS, "text", (), "s")
        subscriber = Subscriber(
            "1",
            queue,
            self._born_store(),
            {"s": maker},
            lambda _source: maker,
            Gauge(),
            self._wish,
            lease_bytes_max=800,  # two frames
            checkpoint=self.steps,
            chance=lambda: 0.0,
        )
        return subscriber, queue

    def _born_queue(self, role: str) -> SteppedQueue:
        queue = SteppedQueue(self.redis, role)
        queue.steps, queue.world = self.steps, self
        return queue

    def _born_spool(self) -> Spool:
        spool = SteppedSpool(self.disk)
        spool.steps = self.steps
        return spool

    def _born_store(self) -> Store:
        store = SteppedStore(self._database)
        store.steps = self.steps
        return store


class DialledWorld(World):
    """The same with a server that the collector connects to, and again behind the end.

    The server counts: whoever is killed, it sees two connections, and it cuts them, never we.
    """

    behind = (b"behind the end",)
    absences = (SERVER_AWAY,)

    def _open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self._acceptor = Acceptor("s", list, tcp.prepare, 1)
        self._wire: link.ChildEnd | None = None
        self._connect()

    def _connect(self) -> None:
        """Let the collector dial, until the server has a connection and the parent, too."""
        for _ in range(DIALS):
            self.collect()
            try:
                self._sender = self._listener.accept()[0]
            except BlockingIOError:
                continue
            self._acceptor.hear()
            ((_cookie, self._kept),) = self._acceptor.connections
            self._sent = 0
            return
        raise AssertionError("nobody dials")

    def end(self) -> None:
        super().end()
        self._go_on()

    def reset(self) -> None:
        super().reset()
        self._go_on()

    def _go_on(self) -> None:
        first = self._sender
        self._connect()
        first.close()
        self.send(self.behind[0] + b"\n")

    def close(self) -> None:
        self.kill_collector()
        self._acceptor.close_in_child()
        self._wish.close()
        self._sender.close()
        with self._listener, suppress(BlockingIOError):
            self._listener.accept()
            raise AssertionError("the server was dialled once too often")

    def kill_collector(self) -> None:
        super().kill_collector()
        if self._wire:
            self._wire.close()
        self._acceptor.bury()

    def _born_source(self) -> Source:
        self._wire = self._acceptor.birth()
        address = "{}:{}".format(*self._listener.getsockname())
        dialler = Dialler(
            address,
            lambda: tcp.find(address),
            tcp.prepare_dialled,
            self._wire,
            [(cookie, one.dup()) for cookie, one in self._acceptor.connections],
            chance=lambda: 0.0,
            monotonic=self.now,
            checkpoint=self.steps,
        )
        folder = self._directory / "beginnings"
        beginnings = Beginnings(folder, self.boot, lambda: next(self._numbers))
        absence = Absence(
            self._directory / "absence",
            Path.write_bytes,
            clock=lambda: 60.0 * self.now(),  # no absence is too short to be one
            monotonic=self.now,
        )
        return DialledSource(self.kernel, dialler, self._wish, LIMITS, beginnings, absence=absence)


class HurriedWorld(World):
    """The same, where the kernel never holds the beginning of a record for long.

    Time flies, and marks, discards and moves of a beginning are steps too.
    """

    kernel = HurriedTcp()

    def _how(self) -> dict[str, Any]:
        return {"checkpoint": self.steps, "monotonic": itertools.count().__next__}


class SteppedTcp(tcp.TcpKernel):
    """A peek behind the frame in hand is a step: then the socket's offset is not at rest."""

    steps: Steps
    peeks_behind = True

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        shown = super().peek(connection, view)
        if connection.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) != AT_REST:
            self.steps("peeked behind")
        return shown


class AheadWorld(World):
    """The same, where the collector looks ahead while the queue takes a frame, or has taken it."""

    has_taken = True

    def _open(self) -> None:
        super()._open()
        self.kernel = SteppedTcp()
        self.kernel.steps = self.steps

    def _how(self) -> dict[str, Any]:
        return {"checkpoint": self.steps}

    def _born_collector(self) -> tuple[Collector, Source]:
        collector, source = super()._born_collector()
        queue = collector._queue
        assert isinstance(queue, SteppedQueue)
        assert isinstance(source, held.HeldSource)
        push, look_ahead = queue.push, source.look_ahead

        def pushed(one: Push) -> Pushed:
            if self.has_taken:
                answer = push(one)
                look_ahead()
                return answer
            look_ahead()
            return push(one)

        queue.push = pushed  # type: ignore[method-assign]
        return collector, source


class UnansweredWorld(AheadWorld):
    """It looks ahead before the queue takes the frame."""

    has_taken = False


class UnixWorld(HurriedWorld):
    """The same over a Unix socket, which needs no time to hand bytes over."""

    type = "unix"
    kernel = unix.UnixKernel()

    def _open(self) -> None:
        self._kept, self._sender = unix.connected()
        self._sent = 0
        self._numbers = itertools.count(1)

    def _until(self, arrived: Callable[[Seen], bool]) -> None:
        """What one end did, the other sees at once."""


class FileWorld(World):
    """The same with a file that grows."""

    type = "file"

    def _open(self) -> None:
        self._file = self._directory / "input.log"
        self._file.write_bytes(b"")
        self._follow = True

    def close(self) -> None:
        self._wish.close()
        self.kill_collector()

    def send(self, data: bytes) -> None:
        with self._file.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        """From here on the file is read to its end and not followed: by a new collector."""
        self._follow = False
        self.kill_collector()

    def _born_source(self) -> Source:
        return FileSource(
            str(self._file),
            "beginning",
            self._follow,
            LIMITS.record_bytes_max,
            LIMITS.frame_bytes_max,
            boot=self.boot,
        )
