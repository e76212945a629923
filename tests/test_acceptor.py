"""The acceptor over real sockets: what it keeps, whom it lets wait, and births in between.

A `Collector` here is the other end of the wire, as a forked one would hold it.
"""

import errno
import logging
import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from appliance import link
from appliance.acceptor import ACCEPTS_MAX, PAUSE_S, SAY_AGAIN_S, Acceptor
from appliance.link import ChildEnd, ParentEnd, cookie_of
from appliance.sources import tcp
from tests.fake_role import FakeClock

READ_S = 5.0


def _peeked(connection: socket.socket) -> bytes:
    return connection.recv(100, socket.MSG_PEEK)


class Collector:
    """The collector's end of a wire: what was inherited and what came down."""

    def __init__(self, wire: ChildEnd, inherited: list[tuple[int, socket.socket]]) -> None:
        self.wire = wire
        self.connections = {cookie: connection.dup() for cookie, connection in inherited}

    def look(self) -> dict[int, socket.socket]:
        """Take what came; all that it has."""
        for cookie, connection in self.wire.arrivals():
            self.connections[cookie] = connection
        return self.connections

    def read(self) -> list[bytes]:
        """What its connections hold, sorted; nothing is discarded."""
        return sorted(_peeked(connection) for connection in self.look().values())

    def cookie_of(self, data: bytes) -> int:
        """The connection that holds just this."""
        (cookie,) = (c for c, held in self.look().items() if _peeked(held) == data)
        return cookie

    def finish(self, cookie: int) -> None:
        connection = self.connections.pop(cookie)
        connection.recv(100)  # closed with something unread, it would be reset
        connection.close()
        self.wire.report_finished(cookie)

    def die(self) -> None:
        """The kernel closes what a killed process had open."""
        self.wire.close()
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()


class Place:
    """One acceptor, its clients, and its collectors one after the other."""

    def __init__(self, connections_max: int = 100) -> None:
        self.clock = FakeClock()
        self.acceptor = Acceptor(
            "tweets", lambda: tcp.listen("127.0.0.1:0"), tcp.prepare, connections_max, self.clock
        )
        (self.listener,) = self.acceptor.listeners
        self.address = self.listener.getsockname()
        self.senders: list[socket.socket] = []
        self.collectors: list[Collector] = []

    def born(self) -> Collector:
        wire = self.acceptor.birth()
        self.collectors.append(Collector(wire, self.acceptor.connections))
        return self.collectors[-1]

    def send(self, data: bytes) -> socket.socket:
        """A client that connects and sends; it is in the backlog when this returns."""
        self.senders.append(socket.create_connection(self.address, READ_S))
        self.senders[-1].sendall(data)
        assert select.select([self.listener], [], [], READ_S)[0]
        return self.senders[-1]

    def accept(self) -> None:
        self.acceptor.accept(self.listener)

    def waiting(self) -> bool:
        """Whether somebody is in the backlog."""
        return bool(select.select([self.listener], [], [], 0)[0])

    def kept(self) -> list[bytes]:
        """What the connections hold that the parent keeps."""
        return sorted(_peeked(connection) for _cookie, connection in self.acceptor.connections)

    def close(self) -> None:
        for collector in self.collectors:
            collector.die()
        self.acceptor.close_in_child()
        for sender in self.senders:
            sender.close()


@pytest.fixture
def place(caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    caplog.set_level(logging.DEBUG)
    made = Place()
    yield made
    made.close()


@pytest.fixture
def narrow(caplog: pytest.LogCaptureFixture) -> Iterator[Place]:
    """A place with room for two."""
    caplog.set_level(logging.DEBUG)
    made = Place(connections_max=2)
    yield made
    made.close()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def open_sockets() -> set[str]:
    """Our own open sockets, by inode."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:  # the one that the listing itself had
            continue
    return {link for link in links if link.startswith("socket:")}


# ── keep first, then hand down ──────────────────────────────────────────────────────────


def test_a_connection_is_kept_before_it_is_handed_down(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = place.born()
    kept_at_send: list[bool] = []
    send = ParentEnd.send

    def spy(wire: ParentEnd, connection: socket.socket) -> None:
        kept_at_send.append((cookie_of(connection), connection) in place.acceptor.connections)
        send(wire, connection)

    monkeypatch.setattr(ParentEnd, "send", spy)
    place.send(b"one")
    place.accept()
    assert kept_at_send == [True]
    assert collector.read() == place.kept() == [b"one"]
    assert collector.look().keys() == dict(place.acceptor.connections).keys()


def test_accepted_connections_are_prepared_and_do_not_block(place: Place) -> None:
    place.send(b"one")
    place.accept()
    ((_cookie, connection),) = place.acceptor.connections
    assert not connection.getblocking()
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probed = [
        connection.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    ]
    assert tcp.Keepalive(*probed).gone_s == 1200, "later than its own TCP would give up"
    assert not os.get_inheritable(connection.fileno())


def test_the_parent_keeps_what_a_killed_collector_had(place: Place) -> None:
    collector = place.born()
    place.send(b"one")
    place.accept()
    collector.look()
    collector.die()
    place.acceptor.bury()
    place.send(b"two")  # while nobody is there
    place.accept()
    successor = place.born()
    assert successor.read() == [b"one", b"two"]
    assert list(successor.wire.arrivals()) == []  # inherited, and not sent a second time


def test_many_are_taken_at_one_go_but_not_all(place: Place) -> None:
    assert ACCEPTS_MAX < 100
    for n in range(ACCEPTS_MAX + 3):
        place.send(b"%d" % n)
    place.accept()
    assert len(place.acceptor.connections) == ACCEPTS_MAX
    place.accept()
    assert len(place.acceptor.connections) == ACCEPTS_MAX + 3
    assert not place.waiting()
    place.accept()  # nobody is there: no harm


def test_a_wire_that_is_full_takes_the_rest_later(place: Place) -> None:
    """The parent never blocks on a collector that doesn't look."""
    collector = place.born()
    wire = place.acceptor.wire
    assert wire
    connections = 0
    while not wire.has_unsent:
        for _ in range(50):
            place.send(b"%d" % connections)
            connections += 1
            place.accept()
            place.acceptor._connections_max += 1
    sent = [*collector.look()]
    assert 0 < len(sent) < connections
    wire.flush()
    assert not wire.has_unsent
    assert collector.read() == sorted(b"%d" % n for n in range(connections))


# ── limits ──────────────────────────────────────────────────────────────────────────────


def test_over_the_limit_the_backlog_waits_and_goes_on_when_one_finished(
    narrow: Place, caplog: pytest.LogCaptureFixture
) -> None:
    collector = narrow.born()
    for data in (b"one", b"two", b"three"):
        narrow.send(data)
    narrow.accept()
    assert collector.read() == [b"one", b"two"]
    assert not narrow.acceptor.has_room
    assert narrow.waiting()
    narrow.accept()
    assert narrow.waiting()
    assert warnings(caplog) == ["2 connections: the next ones wait"]
    first = next(iter(collector.look()))
    collector.finish(first)
    narrow.acceptor.hear()
    assert narrow.acceptor.has_room
    narrow.accept()
    assert not narrow.waiting()
    assert sorted(collector.read()) == sorted(narrow.kept())
    assert b"three" in collector.read()
    assert not narrow.acceptor.has_room


def test_being_full_is_said_again_only_after_it_was_not_and_now_and_then(
    narrow: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """Senders that come and go make no lines at will."""
    collector = narrow.born()
    for round_ in range(6):
        narrow.clock.now += SAY_AGAIN_S / 2
        narrow.send(b"%d" % round_)
        narrow.send(b"%d" % round_)
        narrow.accept()
        narrow.accept()
        for cookie in [*collector.look()]:
            collector.finish(cookie)
        narrow.acceptor.hear()
    assert warnings(caplog) == ["2 connections: the next ones wait"] * 3


def test_a_finished_connection_is_closed_by_the_parent_too(place: Place) -> None:
    collector = place.born()
    sender = place.send(b"one")
    place.send(b"two")
    place.accept()
    collector.finish(collector.cookie_of(b"one"))
    assert len(place.acceptor.connections) == 2
    place.acceptor.hear()
    assert place.kept() == [b"two"]
    sender.settimeout(READ_S)
    assert sender.recv(1) == b""  # nobody holds it any more
    place.acceptor.hear()  # said once
    assert place.kept() == [b"two"]


def test_a_finished_connection_that_nobody_knows_is_no_harm(place: Place) -> None:
    collector = place.born()
    place.send(b"one")
    place.accept()
    collector.wire.report_finished(12345)
    place.acceptor.hear()
    assert place.kept() == [b"one"]


class FailingListener:
    """A listening socket whose accept fails with these numbers, then has nobody."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.calls = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.calls += 1
        if self.numbers:
            number = self.numbers.pop(0)
            raise OSError(number, os.strerror(number))
        raise BlockingIOError

    def getsockopt(self, *_: int) -> bytes:
        """Its cookie."""
        return bytes(8)

    def close(self) -> None:
        """It was never open."""


def failing(*numbers: int) -> tuple[Acceptor, FailingListener, FakeClock]:
    listener, clock = FailingListener(*numbers), FakeClock()
    listeners = cast(list[socket.socket], [listener])
    return Acceptor("tweets", lambda: listeners, tcp.prepare, 10, clock), listener, clock


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_without_descriptors_it_pauses_instead_of_spinning(
    caplog: pytest.LogCaptureFixture, number: int
) -> None:
    acceptor, listener, clock = failing(number, number)
    for round_ in (1, 2):
        assert acceptor.has_room
        acceptor.accept(cast(socket.socket, listener))
        assert listener.calls == round_
        assert not acceptor.has_room
        clock.now += PAUSE_S - 0.01
        assert not acceptor.has_room
        clock.now += 0.01
    assert acceptor.has_room
    acceptor.accept(cast(socket.socket, listener))
    assert acceptor.has_room
    said = f"can't accept: {os.strerror(number)}; the next ones wait"
    assert warnings(caplog) == [said], "said once, not each time"
    clock.now += SAY_AGAIN_S
    listener.numbers = [number]
    acceptor.accept(cast(socket.socket, listener))
    assert warnings(caplog) == [said] * 2


def test_a_connection_that_was_reset_in_the_backlog_is_passed_over() -> None:
    acceptor, listener, _clock = failing(errno.ECONNABORTED)
    acceptor.accept(cast(socket.socket, listener))
    assert acceptor.has_room
    assert acceptor.connections == []


# ── births and deaths ───────────────────────────────────────────────────────────────────


def test_each_birth_has_a_fresh_wire_and_inherits_all(place: Place) -> None:
    first = place.born()
    place.send(b"one")
    place.send(b"two")
    place.accept()  # on the wire, and never looked at
    first.die()
    second = place.born()
    assert [*second.wire.arrivals()] == []
    assert second.read() == [b"one", b"two"]
    place.send(b"three")
    place.accept()
    assert second.read() == [b"one", b"three", b"two"]


@pytest.mark.parametrize("unread", [False, True], ids=["all taken", "one on its way to it"])
def test_the_last_words_of_a_dead_collector_are_heard(place: Place, unread: bool) -> None:
    collector = place.born()
    place.send(b"one")
    place.send(b"two")
    place.accept()
    collector.finish(collector.cookie_of(b"one"))
    if unread:
        place.send(b"three")
        place.accept()
    collector.die()
    place.acceptor.bury()
    assert place.kept() == ([b"three", b"two"] if unread else [b"two"])
    assert place.acceptor.wire is None
    place.acceptor.bury()  # twice is no harm


# ── connections that the collector makes ────────────────────────────────────────────────


def dialling(monotonic: FakeClock) -> Acceptor:
    """The acceptor of a source that dials: nobody can come to it."""
    return Acceptor("feed", list, tcp.prepare, 1, monotonic)


def hand_up(collector: Collector, server: socket.socket) -> socket.socket:
    """Dial, as a collector does: the server's end of it."""
    ours = socket.create_connection(server.getsockname(), READ_S)
    cookie = collector.wire.hand_up(ours)
    collector.connections[cookie] = ours
    return server.accept()[0]


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.mark.parametrize("heard_at", ["once", "the burial", "the next birth"])
def test_what_a_collector_handed_up_outlives_it(server: socket.socket, heard_at: str) -> None:
    """Also when the parent had not looked before it died."""
    acceptor = dialling(FakeClock())
    collector = Collector(acceptor.birth(), acceptor.connections)
    end = hand_up(collector, server)
    end.sendall(b"one")
    if heard_at == "once":
        acceptor.hear()
        assert len(acceptor.connections) == 1
    collector.die()
    if heard_at == "the burial":
        acceptor.bury()
        assert len(acceptor.connections) == 1
    successor = Collector(acceptor.birth(), acceptor.connections)
    end.sendall(b" and two")
    assert successor.read() == [b"one and two"]
    successor.finish(successor.cookie_of(b"one and two"))
    acceptor.hear()
    assert acceptor.connections == []
    end.settimeout(READ_S)
    assert end.recv(1) == b""  # nobody holds it any more
    successor.die()
    acceptor.bury()
    end.close()


def test_one_that_came_to_nothing_is_let_go(server: socket.socket) -> None:
    """Handed up and finished before the parent looks, a last one that is not."""
    acceptor = dialling(FakeClock())
    collector = Collector(acceptor.birth(), acceptor.connections)
    before = len(open_sockets())
    for _ in range(3):
        end = hand_up(collector, server)
        end.close()
        ((cookie, ours),) = collector.connections.items()
        ours.close()
        collector.connections.clear()
        collector.wire.report_finished(cookie)
    end = hand_up(collector, server)
    acceptor.hear()
    assert [cookie for cookie, _ in acceptor.connections] == [*collector.connections]
    assert len(open_sockets()) == before + 2  # its both ends
    collector.die()
    acceptor.close_in_child()
    end.close()


def test_one_that_finds_no_descriptor_is_said(caplog: pytest.LogCaptureFixture) -> None:
    acceptor = dialling(FakeClock())
    wire = acceptor.birth()
    ours, theirs = socket.socketpair()
    wire.hand_up(ours)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        acceptor.hear()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert acceptor.connections == []
    assert warnings(caplog) == ["can't keep a connection: no descriptor is left for it"]
    for one in (wire, ours, theirs):
        one.close()
    acceptor.close_in_child()


def test_connections_on_their_way_outlive_the_parent(place: Place) -> None:
    """It died with something unread: the child still finds what had been handed down."""
    collector = place.born()
    place.send(b"one")
    place.send(b"two")
    place.accept()
    collector.wire.report_finished(12345)
    place.acceptor.close_in_child()  # as the kernel does with all that it had open
    assert collector.read() == [b"one", b"two"]


def test_without_a_collector_nothing_is_sent_and_nothing_forgotten(place: Place) -> None:
    place.send(b"one")
    place.accept()
    assert place.kept() == [b"one"]
    place.acceptor.hear()
    assert place.born().read() == [b"one"]


def test_after_a_stop_nobody_is_let_in(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.send(b"one")
    place.acceptor.stop_listening()
    assert place.acceptor.listeners == []
    assert place.kept() == [b"one"]  # it was in the backlog: acknowledged is acknowledged
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place.address, READ_S)
    place.accept()  # the poll that saw the stop had seen the listener, too
    assert warnings(caplog) == []
    place.acceptor.stop_listening()


def test_a_stop_takes_no_more_than_the_limit(narrow: Place) -> None:
    for data in (b"one", b"two", b"three"):
        narrow.send(data)
    narrow.acceptor.stop_listening()
    assert narrow.kept() == [b"one", b"two"]


def test_children_of_others_close_everything(place: Place) -> None:
    before = open_sockets()
    place.born().die()
    place.send(b"one")
    place.accept()
    place.acceptor.close_in_child()
    (sender,) = place.senders
    sender.close()
    listening = {f"socket:[{inode}]" for inode in listening_inodes()}
    assert open_sockets() <= before - listening


def test_a_collector_keeps_only_its_connections(place: Place) -> None:
    place.born()
    place.send(b"one")
    place.accept()
    assert place.acceptor.wire
    wire, listener = place.acceptor.wire.fileno(), place.listener.fileno()
    gone = {os.readlink(f"/proc/self/fd/{fd}") for fd in (wire, listener)}
    kept = {os.readlink(f"/proc/self/fd/{c.fileno()}") for _, c in place.acceptor.connections}
    place.acceptor.close_for_collector()
    assert not gone & open_sockets()
    assert kept <= open_sockets()


def listening_inodes() -> set[str]:
    """Inodes of sockets of this machine that listen on TCP over IPv4 (proc_net_tcp)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {row[9] for row in rows if row[3] == "0A"}


def test_the_wire_is_one_of_packets() -> None:
    ours, theirs = link.pair()
    theirs.report_finished(1)
    theirs.report_finished(2)
    assert [news.cookie for news in ours.news()] == [1, 2]
    ours.close()
    theirs.report_finished(3)  # no parent any more: said to nobody
    assert list(theirs.arrivals()) == []
    theirs.close()


# ── an address that is a file ───────────────────────────────────────────────────────────


def test_the_parent_forgets_the_address_before_it_takes_the_last_and_nobody_else_does() -> None:
    listeners = tcp.listen("127.0.0.1:0")
    told: list[int] = []
    acceptor = Acceptor(
        "s",
        lambda: listeners,
        tcp.prepare,
        9,
        forget=lambda: told.append(len(acceptor.connections)),
    )
    with socket.create_connection(listeners[0].getsockname(), READ_S):
        assert select.select(listeners, [], [], READ_S)[0]
        for child in (acceptor.close_for_collector, acceptor.close_in_child):
            pid = os.fork()
            if not pid:
                child()
                os._exit(len(told))
            assert os.waitpid(pid, 0)[1] == 0
        acceptor.stop_listening()
    assert told == [0]
    assert len(acceptor.connections) == 1
    acceptor.close_in_child()


# ── who holds duplicates ────────────────────────────────────────────────────────────────


class RecordingHolder:
    """Says in which order things were kept and released."""

    holds = True

    def __init__(self) -> None:
        self.said: list[str] = []
        self.kept: dict[str, Any] = {}

    def keep(self, name: str, thing: Any) -> None:
        assert thing.fileno() >= 0
        self.said.append(f"keep {name}")
        self.kept[name] = thing

    def release(self, name: str) -> None:
        self.said.append(f"release {name}")
        assert self.kept.pop(name).fileno() >= 0, "released before it is closed"


def held(holder: RecordingHolder, **how: Any) -> Acceptor:
    return Acceptor(
        "tweets", lambda: tcp.listen("127.0.0.1:0"), tcp.prepare, 100, holder=holder, **how
    )


def test_everything_is_held_from_the_first_moment_until_it_is_finished() -> None:
    holder = RecordingHolder()
    acceptor = held(holder)
    [listener] = acceptor.listeners
    name = f"tweets.listen.{cookie_of(listener)}"
    collector = Collector(acceptor.birth(), acceptor.connections)
    with socket.create_connection(listener.getsockname(), READ_S) as sender:
        sender.sendall(b"x")
        assert select.select([listener], [], [], READ_S)[0]
        acceptor.accept(listener)
        cookie = collector.cookie_of(b"x")
        assert holder.said == [f"keep {name}", f"keep tweets.{cookie}"]
        collector.finish(cookie)
        acceptor.hear()
        assert holder.said[2:] == [f"release tweets.{cookie}"]
    acceptor.stop_listening()
    assert holder.said[3:] == [f"release {name}"]
    assert not holder.kept
    collector.die()
    acceptor.close_in_child()


def test_it_is_held_before_the_collector_has_it() -> None:
    holder = RecordingHolder()
    acceptor = held(holder)
    [listener] = acceptor.listeners
    collector = Collector(acceptor.birth(), acceptor.connections)
    seen: list[int] = []
    keep = holder.keep
    holder.keep = lambda name, thing: (seen.append(len(collector.look())), keep(name, thing))  # type: ignore[assignment,func-returns-value]
    with socket.create_connection(listener.getsockname(), READ_S):
        assert select.select([listener], [], [], READ_S)[0]
        acceptor.accept(listener)
    assert seen == [0]
    assert len(collector.look()) == 1
    collector.die()
    acceptor.close_in_child()


def test_what_was_inherited_is_held_and_given_to_the_first_collector() -> None:
    holder = RecordingHolder()
    ours, sender = tcp.connected()
    acceptor = held(holder, inherited={cookie_of(ours): ours})
    assert holder.said[1:] == [f"keep tweets.{cookie_of(ours)}"]
    sender.sendall(b"x")
    collector = Collector(acceptor.birth(), acceptor.connections)
    assert collector.read() == [b"x"]
    collector.die()
    acceptor.close_in_child()
    sender.close()
