"""The wiring: which processes a configuration asks for, and that their parts fit together.

Bodies of children are called here, in the test's process, over the fake queue and the real
note files, sources and SQLite.
"""

import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance import app, link, process, stock, systemd
from appliance.app import ORPHAN_LOOK_S, ORPHAN_SPARE_S, QUEUE_BYTES_MAX, SERVER_LOOK_S, App
from appliance.child import Birth, ChildSpec
from appliance.config import parse
from appliance.counters import Board
from appliance.errors import AddressError, ConfigError, Exit, Unavailable
from appliance.fdnames import Inherited
from appliance.frame import checksum, decode, encode_header
from appliance.instance import Instance
from appliance.link import cookie_of
from appliance.settings import Config, TcpSource
from appliance.sources import tcp
from appliance.sources.kernel import PlainKernel
from appliance.spool import DiskSpool
from tests.fake_queue import MemoryQueue, MemoryRedis
from tests.ports import free_port
from tests.test_replay import header

MIB = 1024**2


class Wish:
    """What the parent asks; whoever waits too often is told to end."""

    def __init__(self) -> None:
        self.drain = self.quick = self.leave = self.orphaned = False
        self.allowed: list[float] = []
        self.waits: list[float] = []
        self._fd = os.eventfd(0)

    @property
    def stop(self) -> bool:
        return self.drain or self.quick

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Nothing ever comes."""

    def allow(self, time_s: float) -> None:
        self.allowed.append(time_s)

    def wait(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        assert len(self.waits) < 1000, "it waits and waits"

    def close(self) -> None:
        os.close(self._fd)


class Place:
    """An instance's directory, a Redis, and what a test calls of the app."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.instance = Instance(directory / "nfl")
        self.instance.make()
        self.redis = MemoryRedis()
        self.queues: list[tuple[Any, ...]] = []
        self.wish = Wish()
        self.directory = directory
        monkeypatch.setattr(app, "RedisQueue", self._queue)

    def _queue(self, *given: Any, **more: Any) -> MemoryQueue:
        self.queues.append(given)
        assert more.keys() == {"instance", "disk_is_low", "token", "beat", "wake", "meanwhile"}
        self.meanwhile = more["meanwhile"]
        return MemoryQueue(self.redis, given[3], given[4], instance=more["instance"])

    def app(self, sources: str, rest: str = "", **how: Any) -> App:
        return App(self.config(sources, rest), self.instance, **how)

    def config(self, sources: str, rest: str = "") -> Config:
        queue = "" if "[queue]" in rest else '[queue]\nurl = "redis://localhost:6379"\n'
        return parse(f'name = "nfl"\n{rest}\n{queue}{sources}', "test.toml")

    def birth(self, **more: Any) -> Birth:
        return Birth(self.wish, Board().slot("child"), **more)  # type: ignore[arg-type]

    def rows(self) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(self.instance.directory / "nfl.db")) as database:
            return database.execute("SELECT source, raw FROM records ORDER BY seq").fetchall()


@pytest.fixture
def place(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    made = Place(short_dir, monkeypatch)
    yield made
    made.wish.close()


TCP = '[source.tweets]\ntype = "tcp"\nlisten = "127.0.0.1:{}"\n'
STDIN = '[source.pipe]\ntype = "stdin"\n'


def file_source(path: Path, follow: bool = False, name: str = "log") -> str:
    follows = str(follow).lower()
    return f'[source.{name}]\ntype = "file"\npath = "{path}"\nfollow = {follows}\n'


def test_secrets_are_not_left_in_the_environment(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("QUEUE_SECRET", "STORE_SECRET", "OTHER"):
        monkeypatch.setenv(name, name)
    rest = (
        '[queue]\nurl = "redis://localhost:6379"\npassword = { env = "QUEUE_SECRET" }\n'
        '[store]\nurl = "mysql://u@h/d"\npassword = { env = "STORE_SECRET" }\n'
    )
    place.app(STDIN, rest)
    assert [name for name in os.environ if name.endswith("_SECRET") or name == "OTHER"] == ["OTHER"]


# ── which processes ─────────────────────────────────────────────────────────────────────


def test_the_processes_of_a_configuration(place: Place) -> None:
    sources = TCP.format(free_port()) + file_source(Path("/var/log/x")) + STDIN
    specs = place.app(sources, "subscribers = 2")._specs()
    told = [(s.kind, s.name, s.type, s.may_lose, bool(s.acceptor)) for s in specs]
    assert told == [
        ("recovery", "", "", False, False),
        ("collector", "tweets", "tcp", True, True),
        ("collector", "log", "file", False, False),
        ("collector", "pipe", "stdin", True, False),
        ("subscriber", "1", "", False, False),
        ("subscriber", "2", "", False, False),
    ]
    assert [spec.title for spec in specs] == [
        "stream-daemon nfl recovery",
        "stream-daemon nfl collector tweets",
        "stream-daemon nfl collector log",
        "stream-daemon nfl collector pipe",
        "stream-daemon nfl subscriber 1",
        "stream-daemon nfl subscriber 2",
    ]
    close(specs)


def test_where_the_kernel_cannot_tell_a_source_is_fleeting_and_says_so(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    unix = f'[source.local]\ntype = "unix"\nlisten = "{place.directory}/s"\n'
    for kernels, held in (({}, True), ({"kernels": {"unix": PlainKernel()}}, False)):
        caplog.clear()
        made = place.app(unix + STDIN, **kernels)
        specs = {spec.name: spec for spec in made._specs()}
        assert (specs["local"].held, specs["pipe"].held) == (held, False)
        said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(said) == (not held), "standard input is no surprise"
        source = made._source("local", made._config.sources["local"], place.birth(**connected(b"")))
        assert source.fleeting is not held
        source.close()
        close(list(specs.values()))


def close(specs: list[ChildSpec]) -> None:
    for spec in specs:
        if spec.acceptor:
            spec.acceptor.stop_listening()


MYSQL = '[store]\nurl = "mysql://user@db/records"\n'
COUNTS: list[tuple[str, int | None, int]] = [  # configuration, cores, subscribers
    ("", 8, 1),  # SQLite has one writer
    ("subscribers = 3", 8, 3),
    ("subscribers = 0", 8, 0),
    (MYSQL, 1, 1),
    (MYSQL, 3, 3),
    (MYSQL, 64, 4),
    (MYSQL, None, 1),
    ("subscribers = 7\n" + MYSQL, 2, 7),
]


@pytest.mark.parametrize(("rest", "cores", "subscribers"), COUNTS)
def test_how_many_subscribers(
    place: Place, monkeypatch: pytest.MonkeyPatch, rest: str, cores: int | None, subscribers: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    specs = place.app(STDIN, rest)._specs()
    assert len([spec for spec in specs if spec.kind == "subscriber"]) == subscribers


def test_an_address_that_is_taken_is_said_before_anything_is_started(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}"):
            place.app(TCP.format(port)).run()


def test_a_source_takes_no_more_connections_than_configured(place: Place) -> None:
    port = free_port()
    specs = place.app(TCP.format(port) + "connections_max = 1\n")._specs()
    acceptor = specs[1].acceptor
    assert acceptor
    with (
        socket.create_connection(("127.0.0.1", port), 5),
        socket.create_connection(("127.0.0.1", port), 5),
    ):
        acceptor.accept(acceptor.listeners[0])
        assert len(acceptor.connections) == 1
        assert not acceptor.has_room
    close(specs)
    acceptor.close_in_child()


def test_the_embedded_server_needs_a_program(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(place.directory))
    monkeypatch.setattr(sys, "prefix", str(place.directory))
    with pytest.raises(ConfigError, match="valkey-server or redis-server") as raised:
        place.app(STDIN, '[queue]\nurl = "embedded"')
    assert "queue.url" in raised.value.hint


def test_standard_input_is_kept_for_the_source_that_reads_it(place: Place) -> None:
    reads = place.app(STDIN)
    assert os.path.sameopenfile(reads._stdin_fd, 0)
    os.close(reads._stdin_fd)
    assert place.app(TCP.format(1))._stdin_fd == -1


SIZES = [  # configured, RAM, bytes_max
    ('bytes_max = "3GiB"', 10**12, 3 * 1024**3),
    ("", 10**12, QUEUE_BYTES_MAX),
    ("", 1024**3, 1024**3 // 4),
]


@pytest.mark.parametrize(("line", "memory", "bytes_max"), SIZES)
def test_what_the_queue_may_hold(
    place: Place, monkeypatch: pytest.MonkeyPatch, line: str, memory: int, bytes_max: int
) -> None:
    monkeypatch.setattr(process, "memory_bytes", lambda: memory)
    made = place.app(STDIN, f'[queue]\nurl = "redis://localhost"\npush_s = 7\n{line}')
    made._queue("subscriber", place.birth(), 7)
    (address, password, name, role, size, timeout_s) = place.queues[0]
    assert (password, name, role, size, timeout_s) == (None, "nfl", "subscriber", bytes_max, 7)
    assert address == made._queue_address


# ── children's bodies ───────────────────────────────────────────────────────────────────


def test_a_file_goes_into_the_queue_and_into_the_database(place: Place) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\ntwo\nthree")
    wish = place.wish
    made = place.app(
        file_source(path),
        checkpoint=lambda step: setattr(wish, "drain", True) if step == "confirmed" else None,
    )
    birth = place.birth()
    assert made._collect("log", made._config.sources["log"], birth) is Exit.OK
    assert birth.slot.get("ended") == 1
    assert birth.slot.get("records") == 3
    bodies = [decode(item).body for item in place.redis.working]
    assert b"".join(bodies) == b"one\ntwo\nthree\n"
    assert made._subscribe("1", place.birth()) is Exit.OK
    assert place.rows() == [("log", "one"), ("log", "two"), ("log", "three")]
    assert not place.redis.working
    assert not place.redis.busy
    identity = place.instance.identity(process.machine_id())
    assert place.redis.clients == {
        f"collector-log-{identity}-1"
    }  # the collector ends without a goodbye
    roles = [(queue[3], queue[5]) for queue in place.queues]
    assert roles == [("collector-log", 2.0), ("subscriber", app.REPLY_TIMEOUT_S)]


def test_what_is_collected_goes_on_where_the_last_process_stopped(place: Place) -> None:
    path = place.directory / "app.log"
    runs = []
    for text in (b"one\n", b"two\n", b"three\n"):
        with path.open("ab") as file:
            file.write(text)
        made = place.app(file_source(path))
        assert made._collect("log", made._config.sources["log"], place.birth()) is Exit.OK
        header = decode(place.redis.working[-1]).header
        runs.append((header.run, header.number, header.records_before))
    assert [decode(item).body for item in place.redis.working] == [b"one\n", b"two\n", b"three\n"]
    run = runs[0][0]
    assert runs == [(run, 1, 0), (run, 2, 1), (run, 3, 2)]


def test_another_boot_is_another_run_at_the_same_place(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\n")
    for boot, text in (("a" * 32, b""), ("b" * 32, b""), ("b" * 32, b"two\n")):
        monkeypatch.setenv("STREAM_DAEMON_BOOT_ID", boot)
        with path.open("ab") as file:
            file.write(text)
        made = place.app(file_source(path))
        made._collect("log", made._config.sources["log"], place.birth())
        place.redis.sources.clear()  # Redis has lost everything with the machine
    frames = [decode(item) for item in place.redis.working]
    assert [frame.body for frame in frames] == [b"one\n", b"", b"two\n"]
    first, second, third = (frame.header for frame in frames)
    assert third.run == second.run > first.run
    assert second.previous
    assert (second.previous.run, second.previous.records) == (first.run, 1)
    assert second.hole == third.hole == "queue forgot"


QUICK_EXITS = [("file", Exit.TIMED_OUT), ("tcp", Exit.MAY_BE_LOST), ("stdin", Exit.MAY_BE_LOST)]


@pytest.mark.parametrize("has_spool", [False, True])
@pytest.mark.parametrize(("kind", "code"), QUICK_EXITS)
def test_a_frame_in_hand_at_a_quick_stop_may_be_lost_or_is_safe(
    place: Place, monkeypatch: pytest.MonkeyPatch, kind: str, code: Exit, has_spool: bool
) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\n")
    sources = {"file": file_source(path), "tcp": TCP.format(1), "stdin": STDIN}[kind]
    if kind == "stdin":
        monkeypatch.setattr(os, "dup", lambda _fd: os.open(path, os.O_RDONLY))
    wish = place.wish
    made = place.app(
        sources,
        "disk_free_min = 0" if has_spool else "[spool]\nbytes_max = 0",
        checkpoint=lambda step: setattr(wish, "quick", True) if step == "noted" else None,
    )
    place.redis.away = True
    ((name, source),) = made._config.sources.items()
    wires = connected(b"one\n") if kind == "tcp" else {}
    assert made._collect(name, source, place.birth(**wires)) is (Exit.OK if has_spool else code)
    assert stock.sources(place.instance.spool) == ([name] if has_spool else [])


def connected(data: bytes) -> dict[str, Any]:
    """A wire, and one connection that was accepted before the birth."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        connection, _address = listener.accept()
    tcp.prepare(connection)
    sender.sendall(data)
    _parent, wire = link.pair()
    return {"wire": wire, "connections": [(link.cookie_of(connection), connection)]}


def test_a_tcp_source_reads_the_connections_that_it_inherits(place: Place) -> None:
    made = place.app(TCP.format(1))
    source = made._config.sources["tweets"]
    assert isinstance(source, TcpSource)
    source = msgspec.structs.replace(source, close_wait_s=0.0)
    wish = place.wish
    made._checkpoint = lambda step: setattr(wish, "drain", True) if step == "pushed" else None
    assert made._collect("tweets", source, place.birth(**connected(b"one\ntwo\n"))) is Exit.OK
    assert [decode(item).body for item in place.redis.working] == [b"one\ntwo\n"]
    assert place.meanwhile.__name__ == "look_ahead", "while the queue takes a frame"


class Shelf:
    """A holder that tells what it was told."""

    holds = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def keep(self, name: str, _thing: Any) -> None:
        self.said.append(f"keep {name}")

    def release(self, name: str) -> None:
        self.said.append(f"release {name}")

    def settle(self) -> None:
        self.said.append("settle")


def test_an_address_that_goes_to_another_source_is_held_under_its_name(place: Place) -> None:
    """Who holds it knows a socket once: the old name is given back first."""
    [listener] = tcp.listen("127.0.0.1:0")
    inherited, shelf = Inherited(), Shelf()
    inherited.add("former.listen.1", listener)
    config = TCP.format(listener.getsockname()[1])
    instance = place.app(config, inherited=inherited, holder=shelf)
    instance._let_go()
    assert shelf.said == ["release former.listen.1"]
    [spec] = [one for one in instance._specs() if one.acceptor]
    assert spec.acceptor
    assert spec.acceptor.listeners == [listener]
    assert shelf.said[1:] == [f"keep tweets.listen.{cookie_of(listener)}"]
    listener.close()


@pytest.mark.parametrize("boot", ["b" * 32, None])
def test_a_connection_goes_on_only_where_the_boot_is_known(
    place: Place, monkeypatch: pytest.MonkeyPatch, boot: str | None
) -> None:
    """Else nobody knows whether the frame in hand was of this connection."""
    monkeypatch.setattr(app.process, "boot_id", lambda _environ: boot)
    ours, theirs = tcp.connected()
    inherited, shelf = Inherited(), Shelf()
    inherited.add("tweets.7", ours)
    instance = place.app(TCP.format(free_port()), inherited=inherited, holder=shelf)
    instance._let_go()
    assert inherited.connections == {"tweets": {7: ours} if boot else {}}
    assert (ours.fileno() == -1, shelf.said) == (
        not boot,
        [] if boot else ["release tweets.7", "settle"],
    )
    for one in (ours, theirs):
        one.close()


def test_a_keeper_is_for_an_instance_that_nobody_manages(place: Place, tmp_path: Path) -> None:
    """Who restarts a unit kills all of it, so nothing may be left to a keeper."""
    channel = systemd.Channel(str(tmp_path / "nobody"))
    config = TCP.format(free_port())
    manager = systemd.Manager(channel, 0.0, lambda: "restart")
    assert not place.app(config, manager=manager)._wants_keeper
    assert place.app(config)._wants_keeper


def test_before_another_is_replaced_the_owner_of_what_goes_on_is_looked_at(
    place: Place, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = f'[source.u]\ntype = "unix"\nlisten = "{short_dir}/s"\nowner = "no-such-user"\n'
    instance = place.app(config)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{short_dir}/s")
        left.listen()

        def give(_path: Path, running: Inherited, **_how: object) -> app.keeper_wire.Legacy:
            running.add("u.listen.1", left.dup())
            return app.keeper_wire.Legacy()

        monkeypatch.setattr(app.keeper_wire, "take_over", give)
        with pytest.raises(ConfigError, match="no-such-user"):
            instance.look_ahead()


def test_who_waits_with_a_keeper_is_let_in_when_the_start_has_succeeded(
    place: Place, short_dir: Path
) -> None:
    """At another port, and at a path whose file was removed; the new file there stays."""
    path = short_dir / "s"
    config = TCP.format(free_port()) + f'[source.u]\ntype = "unix"\nlisten = "{path}"\n'
    with tcp.listen("127.0.0.1:0")[0] as one, socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inherited = Inherited()
        for name, listener in (("tweets.listen.1", one), ("u.listen.2", other)):
            inherited.add(name, listener.dup())
        senders = [socket.create_connection(one.getsockname()), socket.socket(socket.AF_UNIX)]
        senders[1].connect(str(path))
        path.unlink()
        instance = place.app(config, inherited=inherited, holder=Shelf())
        aside = instance._put_aside()
        acceptors = [spec.acceptor for spec in instance._specs() if spec.acceptor]
        assert [len(acceptor.connections) for acceptor in acceptors] == [0, 0]
        instance._give_up(aside)
    assert [len(acceptor.connections) for acceptor in acceptors] == [1, 1]
    assert [thing.fileno() for _name, thing in aside] == [-1, -1]
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(path))
    for thing in (*acceptors, *senders):
        thing.close()


def test_a_source_that_is_gone_from_the_configuration_is_stored_as_text(place: Place) -> None:
    json = '[source.pipe]\ntype = "stdin"\nformat = "json"\n'
    made = place.app(json)
    assert made._maker("pipe")._reader._is_json
    assert not made._maker("gone")._reader._is_json
    assert made._maker("gone")._source == "gone"


# ── drain ───────────────────────────────────────────────────────────────────────────────


class OwnServer:
    """An embedded server that says what is done with it."""

    def __init__(self, said: list[str]) -> None:
        self._said = said
        self.looks_to_wait = 2

    def is_ready(self, _timeout_s: float) -> bool:
        self.looks_to_wait -= 1
        return self.looks_to_wait < 0

    def take_over(self) -> None:
        self._said.append("taken over")

    def start(self) -> "subprocess.Popen[bytes]":
        self._said.append("started")
        return subprocess.Popen(["true"])


def drain(made: App, place: Place, said: list[str], alone: bool) -> tuple[bool, str]:
    slot = Board().slot("drain")

    def tell(done: int, frames: int) -> None:
        said.append(f"{done} of {frames}")

    return made.drain(place.wish, slot, alone, tell), slot.text("waiting_for")  # type: ignore[arg-type]


@pytest.mark.parametrize("alone", [True, False])
def test_a_drain_brings_the_server_only_where_nobody_else_has_one(
    place: Place, alone: bool
) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\ntwo\n")
    made = place.app(file_source(path), "subscribers = 0")
    made._collect("log", made._config.sources["log"], place.birth())
    said: list[str] = []
    made._server = OwnServer(said)  # type: ignore[assignment]
    assert drain(made, place, said, alone) == (True, "")
    work = ["0 of 1", "1 of 1"]
    assert said == (["taken over", "started", *work, "taken over"] if alone else work)
    assert place.rows() == [("log", "one"), ("log", "two")]
    assert place.queues[-1][3] == "drain", "under a name of its own"
    assert not any(owner.startswith("drain") for owner in place.redis.clients), "and it has left"


def test_a_drain_that_is_interrupted_says_whom_it_had_asked(place: Place) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\n")

    def interrupt(at: str) -> None:
        if at == "stored":
            raise process.Overdue

    made = place.app(file_source(path), checkpoint=interrupt)
    made._collect("log", made._config.sources["log"], place.birth())
    said: list[str] = []
    made._server = OwnServer(said)  # type: ignore[assignment]
    assert drain(made, place, said, alone=True) == (False, "the store, which doesn't answer")
    assert said[-1] == "taken over", "its server goes all the same"
    [orphaned] = place.redis.busy
    assert orphaned not in place.redis.clients


# ── audit ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("alone", [True, False])
def test_an_auditor_looks_at_all_of_it_and_changes_nothing(place: Place, alone: bool) -> None:
    path = place.directory / "app.log"
    path.write_bytes(b"one\ntwo\n")
    made = place.app(file_source(path), "subscribers = 0")
    made._collect("log", made._config.sources["log"], place.birth())
    said: list[str] = []
    made._server = server = OwnServer(said)  # type: ignore[assignment]
    queued = [*place.redis.working]
    with made.auditor(place.wish, Board().slot("audit"), alone, 60.0) as auditor:  # type: ignore[arg-type]
        found = auditor.look(recount=True)
        said.append("looked")
    assert found.differences == []
    assert (found.total.received, found.total.queued) == (2, 2)
    if alone:
        assert said == ["taken over", "started", "looked", "taken over"]
        assert place.wish.waits[-2:] == [SERVER_LOOK_S] * 2, "until its data are loaded"
    else:
        assert said == ["looked"]
        assert server.looks_to_wait == 2
    assert place.queues[-1][3] == "audit", "under a name of its own"
    assert [*place.redis.working] == queued
    assert not (place.instance.directory / "nfl.db").exists()


def test_an_auditor_whose_server_never_loads_says_so(place: Place) -> None:
    made = place.app(STDIN)
    said: list[str] = []
    made._server = server = OwnServer(said)  # type: ignore[assignment]
    server.looks_to_wait = 10**6
    place.wish.drain = True
    place.redis.away = True
    with (
        pytest.raises(Unavailable, match="the queue is away"),
        made.auditor(place.wish, Board().slot("audit"), True, 60.0) as auditor,  # type: ignore[arg-type]
    ):
        auditor.look(recount=False)
    assert said[-1] == "taken over"


def spool(place: Place, source: str, *bodies: bytes) -> None:
    """Frames that a collector has left in its spool."""
    kept = DiskSpool(place.instance.spool_of(source), 2**30)
    kept.open()
    for number, body in enumerate(bodies, start=1):
        run = source.encode().hex().ljust(32, "0")
        made = header(number, run=run, source=source, body_bytes=len(body), crc=checksum(body))
        kept.append(encode_header(made), body)
    kept.close()


@pytest.mark.parametrize("alone", [True, False])
def test_a_drain_alone_stores_what_waits_in_spools(place: Place, alone: bool) -> None:
    """Also of sources that are gone; beside an instance that is its collectors' business."""
    spool(place, "pipe", b"one\n", b"two\n")
    spool(place, "gone", b"three\n")
    said: list[str] = []
    assert drain(place.app(STDIN), place, said, alone) == (True, "")
    rows = [("gone", "three"), ("pipe", "one"), ("pipe", "two")]
    if alone:
        assert place.rows() == rows
    assert stock.sources(place.instance.spool) == ([] if alone else ["gone", "pipe"])


def test_a_drain_goes_on_with_the_spool_when_it_has_made_room(place: Place) -> None:
    spool(place, "pipe", *[b"%d\n" % n for n in range(200)])
    made = place.app(STDIN, "[queue]\nurl = 'redis://localhost:6379'\nbytes_max = 10000")
    assert drain(made, place, [], alone=True) == (True, "")
    assert [raw for _, raw in place.rows()] == [f"{n}" for n in range(200)]


def test_a_drain_says_what_stays_in_a_spool(place: Place) -> None:
    spool(place, "pipe", b"one\n")
    made = place.app(STDIN)
    place.redis.away = True
    place.wish.drain = True
    done, said = drain(made, place, [], alone=True)
    assert not done
    assert said == "the queue: the queue is away"
    place.redis.away = place.wish.drain = False
    assert drain(made, place, [], alone=True) == (True, "")


# ── recovery, and its last duty ─────────────────────────────────────────────────────────


class FakeServer:
    """Says when it is shut down."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def shutdown(self, _timeout_s: float) -> bool:
        self._said.append("server ended")
        return True


def orphan(place: Place) -> None:
    place.redis.busy["subscriber-gone"] = [b"frame"]


def test_recovery_sweeps_once_more_when_it_is_told_to_end(place: Place) -> None:
    said: list[str] = []
    made = place.app(STDIN)
    made._server = FakeServer(said)  # type: ignore[assignment]
    place.wish.drain = True
    orphan(place)
    assert made._recover(place.birth()) is Exit.OK
    assert list(place.redis.working) == [b"frame"]
    assert said == []  # the parent ends the server


def test_recovery_ends_well_while_the_queue_is_away(place: Place) -> None:
    place.wish.drain = True
    place.redis.away = True
    assert place.app(STDIN)._recover(place.birth()) is Exit.OK


def test_recovery_hands_over_what_nobody_else_would(place: Place) -> None:
    spool(place, "gone", b"one\n")
    spool(place, "pipe", b"two\n")
    made = place.app(STDIN)
    wish = place.wish
    wish.wait = lambda _timeout_s: setattr(wish, "drain", True)  # type: ignore[method-assign]
    assert made._recover(place.birth()) is Exit.OK
    assert [decode(item).body for item in place.redis.working] == [b"one\n"]
    assert stock.sources(place.instance.spool) == ["pipe"]


def test_an_orphaned_recovery_waits_for_its_siblings_and_ends_the_server(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    looks = count()

    def holders(path: Path) -> set[int]:
        assert path == place.instance.lock
        living = {1, 2} if next(looks) < 5 else set()
        if not living:
            said.append("siblings gone")
            orphan(place)
        return living | {os.getpid()}

    monkeypatch.setattr(process, "holders", holders)
    made = place.app(STDIN, "drain_s = 9")
    made._server = FakeServer(said)  # type: ignore[assignment]
    place.wish.drain = place.wish.orphaned = True
    assert made._recover(place.birth()) is Exit.OK
    assert said == ["siblings gone", "server ended"]
    assert list(place.redis.working) == [b"frame"]
    assert place.wish.waits == [ORPHAN_LOOK_S] * 5
    assert place.wish.allowed == [9 + ORPHAN_SPARE_S]


def test_an_orphaned_recovery_waits_no_longer_than_its_siblings_may_live(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    now = 1000.0

    def monotonic() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr(process, "holders", lambda _path: {1, os.getpid()})
    monkeypatch.setattr(time, "monotonic", monotonic)
    made = place.app(STDIN, "drain_s = 9")
    made._server = FakeServer(said)  # type: ignore[assignment]
    place.wish.drain = place.wish.orphaned = True
    made._recover(place.birth())
    assert said == ["server ended"]
    assert 8 <= len(place.wish.waits) <= 9 + ORPHAN_SPARE_S


def test_runs_are_later_than_the_ones_before() -> None:
    run = app._new_run("")
    assert len(run) == 32
    assert app._new_run(run) > run
    assert app._new_run("f" + run[1:]) > "f" + run[1:]
