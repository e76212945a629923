"""The wiring diagram: a configuration becomes concrete classes and a list of children.

Nothing is decided here but which class stands for which word of the configuration. What a
child needs of its own (connections to Redis and the store) is made in the child, after fork.
"""

import copy
import gc
import logging
import os
import random
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cache, cached_property, partial
from typing import Any

from appliance import __version__, credentials, keeper_wire, logs, process, stock
from appliance.acceptor import Acceptor
from appliance.auditor import Auditor
from appliance.child import Birth, ChildSpec, Server
from appliance.collector import Collector
from appliance.collector import Stopped as CollectorStopped
from appliance.contracts import (
    Checkpoint,
    Holder,
    NoHolder,
    NoManager,
    Queue,
    Remark,
    ServiceManager,
    Source,
    no_checkpoint,
)
from appliance.control import ControlServer
from appliance.counters import Board, Slot
from appliance.deaths import Deaths
from appliance.disk import DiskSpace
from appliance.errors import ConfigError, Exit, StreamDaemonError, Unavailable
from appliance.fdnames import Inherited, connection_name
from appliance.instance import Instance
from appliance.keeper import KEEP_S, Keeper
from appliance.keeping import Keeping
from appliance.kinds import CONNECTED, KERNELS, connections_max, find, look_at_source, type_of
from appliance.link import cookie_of
from appliance.note import later_run, open_note, replace_file
from appliance.queues.address import RedisAddress
from appliance.queues.redis import RedisQueue
from appliance.recovery import Recovery
from appliance.redis_server import EmbeddedServer, find_server
from appliance.reloading import Candidate
from appliance.replay import Leftovers
from appliance.rows import RowMaker
from appliance.settings import (
    LOG_TO_STDERR,
    AnySource,
    Config,
    FileSource,
    LogConfig,
    SecretRef,
    SocketSource,
    StdinSource,
    TcpSource,
    UnixSource,
)
from appliance.sources import dialled, held, stdin, tcp, unix
from appliance.sources import file as file_source
from appliance.sources.absence import Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.kernel import Kernel, PlainKernel, holds
from appliance.sources.listening import (
    Listening,
    belongs_to,
    close_unused,
    is_left,
    listen,
    listens,
    waiting_at,
    wants,
    words,
)
from appliance.spool import DiskSpool
from appliance.stores import address, mysql, sqlite
from appliance.stores.gaps import GapList
from appliance.stores.letters import Letters
from appliance.subscriber import Subscriber
from appliance.watchdog import Watchdog

QUEUE_BYTES_MAX = 2 * 1024**3
REPLY_TIMEOUT_S = 10.0  # for what isn't a push
SUBSCRIBERS_AUTO_MAX = 4
CHILD_DESCRIPTORS = 8  # what a child and the parent's end of it take beside connections
ORPHAN_LOOK_S = 0.2
KEEPER_KILL_S = 5.0
SERVER_LOOK_S = 0.05  # between two looks whether our own server has loaded its data
ORPHAN_SPARE_S = 2.0  # what recovery gets beyond drain_s, at which its siblings are gone

Look = Callable[[], list[Remark]]
"""Looks at one thing; raises a StreamDaemonError where it will not serve."""

AnyStore = mysql.MySQLStore | sqlite.SQLiteStore
Beat = Callable[[], None]


def _meanwhile(source: Source) -> Callable[[], None]:
    """What a collector does while the queue takes a frame."""
    return source.look_ahead if isinstance(source, held.HeldSource) else lambda: None


def no_beat() -> None:
    """The sign of life of a process that nobody watches."""


class App:
    """One instance, wired: made in the parent before the first fork."""

    def __init__(
        self,
        config: Config,
        instance: Instance,
        checkpoint: Checkpoint = no_checkpoint,
        kernels: Mapping[str, Kernel] = KERNELS,
        *,
        inherited: Inherited | None = None,
        holder: Holder | None = None,
        manager: ServiceManager | None = None,
        keep_s: float = KEEP_S,
    ) -> None:
        self._config = config
        self._instance = instance
        self._inherited = inherited or Inherited()
        self._units = {_inode(one): name for name, one in self._inherited.others}
        self._holder = holder or NoHolder()
        self._manager = manager or NoManager()
        self._checkpoint = checkpoint
        self._known_kernels = kernels
        self._kernels = self._usable_kernels()
        # Where the boot can't be known, this parent's life counts as one.
        boot = process.boot_id(os.environ)
        self._boot = boot or secrets.token_hex(16)
        # Where the boot can't be known, no successor may go on with a connection of ours.
        self._knows_boot = boot is not None
        # A service manager ends a keeper together with us: what were left to it would be cut.
        is_managed = not isinstance(self._manager, NoManager)
        self._wants_keeper = self._knows_boot and not self._holder.holds and not is_managed
        self._keep_s = keep_s
        self._keyring = credentials.Keyring()
        self._secrets = self._keyring.resolve(_references(config))
        self._disk = DiskSpace(instance.queue, config.disk_free_min)
        self._spool_disk = DiskSpace(instance.spool, config.disk_free_min)
        process.forget_variables(self._keyring.variables)
        self._server = self._embedded_server() if config.queue.url == "embedded" else None
        self._queue_address = self._address()
        self._queue_address.check_files()
        self._deaths = Deaths()
        self._former: dict[str, AnySource] = {}  # that were removed by a reload
        self._acceptors: dict[str, Acceptor] = {}
        # fd 0 goes to /dev/null in each child, so the parent keeps standard input elsewhere.
        wants_stdin = any(isinstance(s, StdinSource) for s in config.sources.values())
        self._stdin_fd = os.dup(0) if wants_stdin else -1

    def run(
        self,
        release_lock: Callable[[], None] = lambda: None,
        read: Callable[[], Candidate] | None = None,
        announce: Callable[[], None] = lambda: None,
    ) -> Exit:
        """Run the instance to its end.

        `release_lock` lets go of the instance's lock in a child that outlives it, the keeper.
        `read` reads another configuration for a reload. `announce` is called when nothing speaks
        against the start any more.
        """
        self.make_room()
        _ = self._identity  # made here, once, under the lock
        keeping = self._keeping(release_lock) if self._wants_keeper else None
        self._holder = keeping or self._holder
        with self._legacy() as legacy:
            aside = self._put_aside() if keeping else []
            if not keeping:
                self._let_go()
            specs = self._specs()  # listens: an address that is taken ends it here
            self._refuse_strangers()
        self._give_up(aside)
        self._close_left()
        if keeping:
            keeping.inherit(legacy)
        else:
            legacy.taken()
        if self._server:
            self._server.take_over()
        control = ControlServer(self._instance.control)
        announce()
        watchdog = Watchdog(
            self._config.name,
            __version__,
            specs,
            Board(),
            control,
            self._server,
            self._config.drain_s,
            self.subscriber_spec,
            self._deaths,
            healthy_s=self._config.ready_s if self._config.require_healthy else None,
            holder=self._holder,
            manager=self._manager,
            keeping=keeping,
            read=read,
            took_over=self._inherited.size > 0,
        )
        process.set_title(f"stream-daemon {self._config.name}")
        gc.collect()
        gc.freeze()  # what is there now stays shared with the children
        try:
            code = watchdog.run()
        finally:
            control.close()
        watchdog.answer_stops()
        return code

    def drain(
        self, wish: process.Wish, slot: Slot, alone: bool, progress: Callable[[int, int], None]
    ) -> bool:
        """Store, in this process, what waits in the queue now; whether nothing of it is left.

        `alone`: no instance runs, so the embedded server is ours to start and to end.
        `slot` says what is awaited where something is left.
        """
        birth = Birth(wish, slot)
        with (
            self._own_server(alone),
            self._leftovers(
                "drain", birth, stock.sources(self._instance.spool) if alone else []
            ) as leftovers,
            self._subscriber("drain", "drain", birth) as subscriber,
        ):
            try:
                return self._drain(leftovers, subscriber, birth, progress)
            except process.Overdue:
                awaited = subscriber.awaited or "the queue"
                slot.waiting_for(f"{awaited}, which doesn't answer")
                return False

    def _drain(
        self,
        leftovers: Leftovers,
        subscriber: Subscriber,
        birth: Birth,
        progress: Callable[[int, int], None],
    ) -> bool:
        """First what waits in spools goes into the queue, as long as that has room for it."""
        while True:
            before = leftovers.handed_over
            leftovers.all(birth.slot, birth.wish, random.random)
            if not subscriber.drain(progress):
                return False
            if not leftovers.size:
                return True
            if leftovers.handed_over == before:
                text = f"the queue to take {leftovers.size} bytes that stay in the spool"
                birth.slot.waiting_for(text)
                return False

    @contextmanager
    def _own_server(self, alone: bool) -> Iterator[None]:
        """The embedded server, if there is one and nobody else runs it."""
        if not self._server or not alone:
            yield
            return
        self._server.take_over()
        server = Server(self._server)
        server.keep(time.monotonic(), 0)
        try:
            yield
        finally:
            self._server.take_over()  # ends it, also one that hangs
            server.join()

    @contextmanager
    def letters(self) -> Iterator[tuple[Letters, Callable[[str], RowMaker]]]:
        """The dead letters, and the row makers of their sources as they are configured now."""
        with closing(self._store()) as store:
            yield store, cache(self._maker)

    @contextmanager
    def auditor(
        self, wish: process.Wish, slot: Slot, alone: bool, timeout_s: float
    ) -> Iterator[Auditor]:
        """Who looks at all accounts.

        `alone`: no instance runs, so the embedded server is ours to start and to end.
        """
        birth = Birth(wish, slot)
        with (
            self._own_server(alone),
            closing(self._queue("audit", birth.slot.beat, REPLY_TIMEOUT_S)) as queue,
            closing(self._store(birth.slot.beat, timeout_s)) as store,
        ):
            while alone and self._server and not self._server.is_ready(REPLY_TIMEOUT_S):
                if wish.stop:
                    break  # and the first look says what is wrong
                wish.wait(SERVER_LOOK_S)
            yield Auditor(self._instance, process.boot_id(os.environ), queue, store)

    @contextmanager
    def gaps(self) -> Iterator[GapList]:
        """What is missing."""
        with closing(self._store()) as store:
            yield store

    @contextmanager
    def traces(self) -> Iterator[tuple[RedisQueue | None, AnyStore]]:
        """What an instance leaves outside its directory: keys in a Redis, tables in the store."""
        with ExitStack() as stack:
            queue = None
            if not self._server:
                queue = self._queue("rehearse", no_beat, REPLY_TIMEOUT_S)
                stack.enter_context(closing(queue))
            yield queue, stack.enter_context(closing(self._store()))

    # ── another configuration, for a reload ─────────────────────────────────────────────

    def changed_to(self, config: Config) -> "App":
        """The same instance by another configuration: nothing is touched yet.

        Raises:
            ConfigError: a secret isn't there.
        """
        new = copy.copy(self)
        new._config = config
        new._acceptors = {n: a for n, a in self._acceptors.items() if n in config.sources}
        new._former = {**self._former, **self._config.sources}
        new._kernels = new._usable_kernels()
        new._secrets = self._keyring.resolve(_references(config))
        new._queue_address.check_files()
        return new

    @property
    def config(self) -> Config:
        """What it was made from."""
        return self._config

    def changed_secrets(self, other: "App") -> list[str]:
        """Keys of secrets that are other ones there."""
        return [key for key, secret in self._secrets.items() if secret != other._secrets[key]]

    def take_over(self) -> None:
        """What the parent itself, and the embedded server, go by."""
        process.forget_variables(self._keyring.variables)
        self._disk.require(self._config.disk_free_min)
        self._spool_disk.require(self._config.disk_free_min)

    def make_room(self) -> None:
        """Room for all descriptors.

        Raises:
            InstanceError: the hard limit is too low.
        """
        sources = self._config.sources.values()
        connections = sum(connections_max(one) for one in sources)
        children = 2 + len(sources) + self.subscriber_count()
        process.raise_descriptor_limit(connections + children * CHILD_DESCRIPTORS)

    def acceptor_of(self, name: str) -> Acceptor | None:
        """Who holds a source's sockets, if it has some."""
        return self._acceptors.get(name)

    def listen_at(self, name: str, own: Listening) -> None:
        """A source listens here from now on."""
        source = self._config.sources[name]
        assert isinstance(source, SocketSource)
        if name in self._acceptors:
            self._acceptors[name].listen_at(own.sockets, own.forget, connections_max(source))
        else:
            self._acceptors[name] = self._new_acceptor(name, source, own)

    def unit_of(self, one: socket.socket) -> str | None:
        """The name under which a .socket unit has given us this socket; None: it is our own."""
        return self._units.get(_inode(one))

    def unheld(self) -> list[str]:
        """Sources of which nobody can go on with what a collector has in hand."""
        return [name for name, source in self._config.sources.items() if not self._is_held(source)]

    def _usable_kernels(self) -> dict[str, Kernel]:
        known = self._known_kernels
        used = {type_of(source) for source in self._config.sources.values()} & known.keys()
        return {kind: known[kind] for kind in used if holds(known[kind], CONNECTED[kind])}

    # ── looking, for `check` ────────────────────────────────────────────────────────────

    def looks(self, slot: Slot, runs: bool) -> Iterator[tuple[str, Look]]:
        """What there is to look at, each by its name; no look changes anything.

        `runs`: an instance runs, so that its addresses are taken by itself.
        """
        config = self._config
        for name, source in config.sources.items():
            yield f"source {name}", partial(look_at_source, source, runs)
        yield f"queue {config.queue.url}", partial(self.look_at_queue, slot.beat, runs)
        yield f"store {config.store.url}", partial(self.look_at_store, slot.beat)
        if config.log.to != LOG_TO_STDERR:
            yield f"log {config.log.to}", partial(_look_at_log, config.log)
        yield f"state directory {self._instance.directory}", self._look_at_leftovers

    def look_at_queue(self, beat: Beat, runs: bool) -> list[Remark]:
        """Whether the queue will serve."""
        if self._server and not runs:
            return [Remark("collect starts the embedded server")]
        with closing(self._queue("check", beat, REPLY_TIMEOUT_S)) as queue:
            return queue.look(self._config.sources)

    def look_at_store(self, beat: Beat) -> list[Remark]:
        """Whether the store will serve."""
        with closing(self._store(beat)) as store:
            return store.look()

    def _look_at_leftovers(self) -> list[Remark]:
        """What earlier runs have left that this configuration doesn't speak of."""
        instance, remarks = self._instance, []
        for name in sorted({*instance.noted_sources()} - {*self._config.sources}):
            text = f"it has a note of source {name}, which isn't configured"
            remarks.append(Remark(text, f"nothing, or remove {instance.note(name)}"))
        remarks += stock.look(instance.spool, self._config.sources)
        if not self._server and instance.queue_has_data():
            remarks.append(
                Remark(
                    f"{instance.queue} holds what an embedded queue has left",
                    'store it: stream-daemon drain with url = "embedded" under [queue]',
                )
            )
        return remarks or [Remark("nothing is left over")]

    @cached_property
    def _identity(self) -> str:
        return self._instance.identity(process.machine_id())

    # ── sockets that outlive a parent ───────────────────────────────────────────────────

    def _keeping(self, release_lock: Callable[[], None]) -> Keeping:
        path = self._instance.keeper

        def run(kept: dict[str, Any], wire: keeper_wire.Wire, legacy: keeper_wire.Legacy) -> None:
            release_lock()
            self._close_stdin()
            Keeper(kept, wire, path, close_unused, legacy, self._keep_s).run()

        return Keeping(
            f"stream-daemon {self._config.name} keeper",
            run,
            remove=lambda: path.unlink(missing_ok=True),
            wanted=any(isinstance(s, SocketSource) for s in self._config.sources.values()),
        )

    @contextmanager
    def _legacy(self) -> Iterator[keeper_wire.Legacy]:
        """Take over what the keeper of a predecessor holds; it goes on with it if we fail."""
        log = logging.getLogger("parent")
        legacy = keeper_wire.take_over(self._instance.keeper, self._inherited, _kill_keeper)
        if self._inherited.size:
            log.info("taking over %d sockets of the instance before", self._inherited.size)
        try:
            yield legacy
        except StreamDaemonError:
            if self._inherited.size:
                text = "this start has failed: senders are cut unless another succeeds in %.0f s"
                log.error(text, self._keep_s)
            raise

    def look_ahead(self) -> None:
        """Beside a running instance that we are to replace: are all new addresses free?

        Changes nothing.

        Raises:
            AddressError: one isn't.
            ConfigError: a user or group doesn't exist.
        """
        self.make_room()
        running = Inherited()
        keeper_wire.take_over(self._instance.keeper, running, kill=lambda _pid: None).close()
        try:
            for source in self._config.sources.values():
                if not isinstance(source, SocketSource) or source.listen is None:
                    continue
                if not is_left(source, running.listeners):
                    look_at_source(source, runs=False)
                elif isinstance(source, UnixSource) and source.owner:
                    unix.ids_of(source.owner)
        finally:
            running.close()

    def _let_go(self) -> None:
        """What was held for this start, and this configuration has no use for.

        Before anybody listens, so that its addresses are free. Who holds our sockets knows each
        under one name, so one that goes to another source is given back, too.
        """
        for name, source, one in self._inherited.named:
            if not self._is_own(source, one):
                self._holder.release(name)
        dropped = self._inherited.drop(self._is_wanted)
        for name, one in dropped:
            self._take_waiting(name.partition(".")[0], one)
            text = "closing %s, which was kept for this start: no source goes on with it"
            logging.getLogger("parent").info(text, name)
        close_unused([one for _, one in dropped])
        if dropped:
            self._holder.settle()

    def _put_aside(self) -> list[tuple[str, Any]]:
        """Listening sockets of a keeper whose addresses are given up, if this start succeeds."""
        return self._inherited.drop(
            lambda name, one: not listens(one) or self._is_wanted(name, one)
        )

    def _give_up(self, aside: list[tuple[str, Any]]) -> None:
        """Close them; who waits there is let in where its source goes on elsewhere."""
        ours = [one.getsockname() for a in self._acceptors.values() for one in a.listeners]
        for name, one in aside:
            source = self._config.sources.get(name.partition(".")[0])
            if isinstance(source, SocketSource):
                for connection in waiting_at(source, one):
                    self._acceptors[name.partition(".")[0]].take_over(connection)
            if one.getsockname() in ours:  # a new socket is at this path
                one.close()
        close_unused([one for _, one in aside if one.fileno() >= 0])

    def _take_waiting(self, name: str, listener: socket.socket) -> None:
        """Who waits at an address that is given up is let in where its source goes on elsewhere."""
        source = self._config.sources.get(name)
        if isinstance(source, SocketSource):
            for connection in waiting_at(source, listener):
                cookie = cookie_of(connection)
                self._inherited.add(connection_name(name, cookie), connection)

    def _is_own(self, name: str, one: socket.socket) -> bool:
        """Whether its source goes on with it."""
        source = self._config.sources.get(name)
        return isinstance(source, SocketSource) and wants(source, one, self._knows_boot)

    def _is_wanted(self, name: str, one: socket.socket) -> bool:
        """Whether its source goes on with it; an address may be any other source's by now."""
        own = self._config.sources.get(name)
        sources = [source for source in self._config.sources.values() if source is not own]
        return any(
            isinstance(source, SocketSource)
            and wants(source, one, source is own and self._knows_boot)
            for source in (own, *sources)
        )

    def _refuse_strangers(self) -> None:
        """A socket of a .socket unit whose senders nobody would hear is a mistake to mend first."""
        for name, one in self._inherited.others:
            raise ConfigError(
                f"systemd has handed over a socket ({words(one)}) that no source listens on",
                "give a source this address as its listen, or write the source's name as "
                f"FileDescriptorName= in the .socket unit (now it is {name})",
            )

    def _close_left(self) -> None:
        """What was left to sources that there are no more."""
        close_unused(self._inherited.listeners)
        log = logging.getLogger("parent")
        for name, connections in self._inherited.connections.items():
            for connection in connections.values():
                connection.close()
            if connections:
                log.warning("%d connections of source %s are closed", len(connections), name)
        self._inherited.listeners.clear()
        self._inherited.connections.clear()

    # ── children ────────────────────────────────────────────────────────────────────────

    def _specs(self) -> list[ChildSpec]:
        collectors = [self.collector_spec(name) for name in self._config.sources]
        subscribers = [self.subscriber_spec(f"{n}") for n in range(1, self.subscriber_count() + 1)]
        return [self.recovery_spec(), *collectors, *subscribers]

    def recovery_spec(self, also: Collection[str] = ()) -> ChildSpec:
        """Recovery; the spools of these sources, too, it leaves to their collectors."""
        title = f"stream-daemon {self._config.name} recovery"
        return ChildSpec("recovery", "", title, lambda birth: self._recover(birth, also))

    def collector_spec(self, name: str) -> ChildSpec:
        """The collector of a source; listens for it, unless somebody does already."""
        source = self._config.sources[name]
        acceptor = self._acceptor(name, source) if isinstance(source, SocketSource) else None
        is_held = self._is_held(source)
        if acceptor and not is_held:
            text = "this kernel can't say what was read: what is in hand is lost at a kill -9"
            logging.getLogger(f"source {name}").warning(text)
        return ChildSpec(
            "collector",
            name,
            f"stream-daemon {self._config.name} collector {name}",
            lambda birth: self._collect(name, source, birth),
            type=type_of(source),
            held=is_held,
            may_lose=not isinstance(source, FileSource),
            acceptor=acceptor,
        )

    def _acceptor(self, name: str, source: SocketSource) -> Acceptor:
        """Listening sockets and connections that were left to this source are its own again."""
        if name not in self._acceptors:
            own = listen(source, self._inherited.listeners, name, self._inherited.others)
            self._acceptors[name] = self._new_acceptor(name, source, own)
        return self._acceptors[name]

    def _new_acceptor(self, name: str, source: SocketSource, own: Listening) -> Acceptor:
        left = self._inherited.connections.get(name, {})
        mine = {c: left[c] for c in [*left] if belongs_to(source, left[c])}
        self._inherited.connections[name] = {c: left[c] for c in left.keys() - mine.keys()}
        return Acceptor(
            name,
            lambda: own.sockets,
            own.prepare,
            connections_max(source),
            forget=own.forget,
            holder=self._holder,
            inherited=mine,
        )

    def _is_held(self, source: AnySource) -> bool:
        """Whether what a collector has in hand outlives it."""
        if isinstance(source, SocketSource):
            return type_of(source) in self._kernels
        return isinstance(source, FileSource)

    def subscriber_spec(self, number: str) -> ChildSpec:
        """A subscriber."""
        title = f"stream-daemon {self._config.name} subscriber {number}"
        return ChildSpec("subscriber", number, title, lambda birth: self._subscribe(number, birth))

    def subscriber_count(self) -> int:
        """How many subscribers the configuration asks for."""
        wanted = self._config.subscribers
        if wanted != "auto":
            return wanted
        if not self._config.store.url.startswith("mysql:"):
            return 1  # SQLite has one writer
        return min(os.cpu_count() or 1, SUBSCRIBERS_AUTO_MAX)

    # ── what runs in a child ────────────────────────────────────────────────────────────

    def _collect(self, name: str, config: AnySource, birth: Birth) -> Exit:
        if not isinstance(config, StdinSource):
            self._close_stdin()
        notes = open_note(self._instance.note(name), self._boot, type_of(config), _new_run)
        source = self._source(name, config, birth)
        spool = self._spool(name, birth)
        collector = Collector(
            name,
            source,
            self._queue(
                f"collector-{name}",
                birth.slot.beat,
                self._config.queue.push_s,
                self._identity,
                meanwhile=_meanwhile(source),
            ),
            spool,
            notes,
            birth.slot,
            birth.wish,
            new_run=_new_run,
            frame_interval_s=config.frame_interval_ms / 1000,
            checkpoint=self._checkpoint,
            chance=random.random,
        )
        try:
            collector.run()
        except CollectorStopped:
            is_left = isinstance(config, FileSource) or (birth.wish.leave and not source.fleeting)
            return Exit.TIMED_OUT if is_left else Exit.MAY_BE_LOST
        finally:
            source.close()
            spool.close()
        return Exit.OK

    def _subscribe(self, number: str, birth: Birth) -> Exit:
        self._close_stdin()
        with self._subscriber(number, "subscriber", birth) as subscriber:
            subscriber.run()
        return Exit.OK

    @contextmanager
    def _subscriber(self, name: str, role: str, birth: Birth) -> Iterator[Subscriber]:
        config = self._config
        makers = {source: self._maker(source) for source in config.sources}
        queue = self._queue(role, birth.slot.beat, REPLY_TIMEOUT_S, wake=birth.wish.fileno())
        store = self._store(birth.slot.beat)
        subscriber = Subscriber(
            name,
            queue,
            store,
            makers,
            self._maker,
            birth.slot,
            birth.wish,
            lease_bytes_max=config.store.lease_bytes_max,
            checkpoint=self._checkpoint,
            chance=random.random,
        )
        try:
            yield subscriber
        finally:
            store.close()
            queue.close()

    def _recover(self, birth: Birth, also: Collection[str] = ()) -> Exit:
        self._close_stdin()
        queue = self._queue("recovery", birth.slot.beat, REPLY_TIMEOUT_S)
        gone = {*stock.sources(self._instance.spool)} - {*self._config.sources, *also}
        with self._leftovers("recovery", birth, sorted(gone), queue) as leftovers:
            recovery = Recovery(
                queue,
                birth.slot,
                birth.wish,
                deaths=self._deaths.newest,
                leftovers=leftovers,
                chance=random.random,
            )
            recovery.run()
        orphaned = birth.wish.orphaned
        if orphaned:
            self._wait_for_siblings(birth)
        try:
            recovery.last_sweep()
        except Unavailable:
            pass  # the next start sweeps first
        queue.close()
        if orphaned and self._server:
            self._server.shutdown(REPLY_TIMEOUT_S)
        return Exit.OK

    def _wait_for_siblings(self, birth: Birth) -> None:
        """The parent is dead: wait until the others, who share its lock, have handed over."""
        deadline = time.monotonic() + self._config.drain_s + ORPHAN_SPARE_S / 2
        birth.wish.allow(self._config.drain_s + ORPHAN_SPARE_S)
        while process.holders(self._instance.lock) - {os.getpid()}:
            if time.monotonic() > deadline:
                return
            birth.slot.beat()
            birth.wish.wait(ORPHAN_LOOK_S)

    def _close_stdin(self) -> None:
        """In a child that doesn't read it: who feeds us shall see when its reader is gone."""
        if self._stdin_fd >= 0:
            os.close(self._stdin_fd)

    # ── concrete classes ────────────────────────────────────────────────────────────────

    def _source(self, name: str, config: AnySource, birth: Birth) -> Source:
        if isinstance(config, SocketSource):
            return self._held_source(name, config, birth)
        if isinstance(config, FileSource):
            return file_source.FileSource(
                config.path,
                config.start,
                config.follow,
                config.record_bytes_max,
                config.frame_bytes_max,
                boot=self._boot,
                wake=birth.wish.fileno(),
                beat=birth.slot.beat,
            )
        return stdin.StdinSource(
            config.record_bytes_max,
            config.frame_bytes_max,
            fd=self._stdin_fd,
            wake=birth.wish.fileno(),
            beat=birth.slot.beat,
        )

    def _held_source(self, name: str, config: SocketSource, birth: Birth) -> held.HeldSource:
        assert birth.wire
        holding = self._kernels.get(type_of(config))
        kernel = holding or PlainKernel()
        make: Callable[..., held.HeldSource] = (
            partial(held.HeldSource, kernel, birth.wire)
            if config.connect is None
            else partial(
                dialled.DialledSource,
                kernel,
                self._dialler(config, birth),
                absence=Absence(self._instance.absence(name), replace_file),
            )
        )
        return make(
            birth.wish,
            held.Limits(config.record_bytes_max, config.frame_bytes_max, config.close_wait_s),
            Beginnings(
                self._instance.beginnings(name), self._boot, time.monotonic_ns, self._disk.is_low
            ),
            birth.connections,
            fleeting=holding is None,
            checkpoint=self._checkpoint,
            worked=birth.slot.worked,
        )

    def _dialler(self, config: SocketSource, birth: Birth) -> dialled.Dialler:
        assert birth.wire
        assert config.connect is not None
        return dialled.Dialler(
            config.connect,
            partial(find, config, birth.slot),
            tcp.prepare_dialled if isinstance(config, TcpSource) else unix.prepare,
            birth.wire,
            birth.connections,
            chance=random.random,
            checkpoint=self._checkpoint,
        )

    def _spool(self, source: str, birth: Birth) -> DiskSpool:
        return DiskSpool(
            self._instance.spool_of(source),
            self._config.spool.bytes_max,
            disk_is_low=self._spool_disk.is_low,
            beat=birth.slot.beat,
        )

    @contextmanager
    def _leftovers(
        self, role: str, birth: Birth, sources: Sequence[str], queue: Queue | None = None
    ) -> Iterator[Leftovers]:
        """The spools of these sources, which no collector replays."""
        log = logging.getLogger(role)
        spools = {source: self._spool(source, birth) for source in sources}
        own = queue or self._queue(f"{role}-spool", birth.slot.beat, REPLY_TIMEOUT_S)
        leftovers = Leftovers(spools, own, lambda text: log.error("%s", text))
        try:
            yield leftovers
        finally:
            leftovers.close()
            if queue is None:
                own.close()

    def _queue(
        self,
        role: str,
        beat: Beat,
        reply_timeout_s: float,
        instance: str = "",
        wake: int | None = None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> RedisQueue:
        return RedisQueue(
            self._queue_address,
            self._secrets["queue.password"],
            self._config.name,
            role,
            self._queue_bytes_max(),
            reply_timeout_s,
            instance=instance,
            disk_is_low=self._disk.is_low if self._server else lambda: False,
            token=lambda: secrets.token_hex(8),
            beat=beat,
            wake=wake,
            meanwhile=meanwhile,
        )

    def _queue_bytes_max(self) -> int:
        return self._config.queue.bytes_max or min(QUEUE_BYTES_MAX, process.memory_bytes() // 4)

    def _store(self, beat: Beat = no_beat, io_s: float = mysql.IO_S) -> AnyStore:
        config, name = self._config.store, self._config.name
        if config.url.startswith("mysql:"):
            return mysql.MySQLStore(
                address.parse_url(config.url),
                self._secrets["store.password"],
                name,
                config.table,
                config.columns,
                max(source.record_bytes_max for source in self._config.sources.values()),
                beat=beat,
                on_duplicate=config.on_duplicate,
                io_s=max(io_s, mysql.IO_S),
            )
        if config.url == "embedded":
            path = str(self._instance.directory / f"{name}.db")
        else:
            path = sqlite.parse_url(config.url)
        return sqlite.SQLiteStore(
            path,
            name,
            config.table,
            config.columns,
            beat=beat,
            on_duplicate=config.on_duplicate,
        )

    def _maker(self, source: str) -> RowMaker:
        """Row maker of a source; one that is no longer configured is stored as text.

        One that was removed while we run is stored as it was said last.
        """
        config = self._config.sources.get(source) or self._former.get(source)
        columns = self._config.store.columns
        if config is None:
            return RowMaker(columns, "text", (), source)
        return RowMaker(columns, config.format, config.include, source, config.exclude)

    def _embedded_server(self) -> EmbeddedServer:
        binary = find_server(os.environ, sys.prefix, getattr(sys, "_MEIPASS", None))
        if binary is None:
            raise ConfigError(
                "queue.url is embedded, but no valkey-server or redis-server is found",
                "install one (apt-get install redis-server), or set queue.url",
            )
        return EmbeddedServer(
            self._instance.queue,
            binary,
            self._queue_bytes_max(),
            disk_is_low=self._disk.is_low,
            holders=process.holders,
            end=process.kill_and_wait,
        )

    def _address(self) -> RedisAddress:
        if self._server:
            return RedisAddress.parse(f"unix://{self._server.socket_path}")
        return RedisAddress.parse(self._config.queue.url)


def _inode(one: socket.socket) -> int:
    return os.fstat(one.fileno()).st_ino


def _look_at_log(log: LogConfig) -> list[Remark]:
    logs.check(log)
    return [Remark("it can be written")]


def _kill_keeper(pid: int) -> None:
    text = "the keeper (pid %d) of the instance before doesn't answer: killing it, senders are cut"
    logging.getLogger("parent").error(text, pid)
    process.kill_and_wait(pid, signal.SIGKILL, KEEPER_KILL_S)


def _references(config: Config) -> dict[str, SecretRef | None]:
    return {"queue.password": config.queue.password, "store.password": config.store.password}


def _new_run(after: str) -> str:
    return later_run(after, time.time_ns() // 1_000_000, secrets.randbits(74))
