"""The wire between the parent and a collector, over real sockets."""

import os
import resource
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.link import ChildEnd, News, ParentEnd, cookie_of, pair

FLOOD = 400  # more connections than a wire's buffer takes


@pytest.fixture
def wire() -> Iterator[tuple[ParentEnd, ChildEnd]]:
    parent, child = pair()
    yield parent, child
    parent.close()
    child.close()


class Connections:
    """Real sockets, whose other ends can tell which is which."""

    def __init__(self) -> None:
        self._open: list[socket.socket] = []

    def make(self) -> tuple[socket.socket, socket.socket]:
        both = socket.socketpair()
        self._open += both
        return both

    def keep(self, connection: socket.socket) -> socket.socket:
        self._open.append(connection)
        return connection

    def close(self) -> None:
        for connection in self._open:
            connection.close()


def finished(parent: ParentEnd) -> list[int]:
    """What the collector has finished since the last look; there is no other news."""
    heard = [*parent.news()]
    assert all(news.finished and news.connection is None for news in heard)
    return [news.cookie for news in heard]


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections()
    yield made
    made.close()


def test_a_connection_arrives_with_its_name(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    parent, child = wire
    ours, sender = connections.make()
    parent.send(ours)
    [(cookie, theirs)] = child.arrivals()
    connections.keep(theirs)
    assert cookie == cookie_of(ours) == cookie_of(theirs)
    assert theirs.fileno() != ours.fileno()
    sender.sendall(b"hello")
    assert theirs.recv(5) == b"hello"
    assert not [*child.arrivals()]


def test_the_parents_descriptor_stays_open(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    parent, child = wire
    ours, sender = connections.make()
    parent.send(ours)
    for _, theirs in child.arrivals():
        theirs.close()
    sender.sendall(b"still here")
    assert ours.recv(10) == b"still here"


def test_a_name_is_the_same_through_dup_and_different_for_each(connections: Connections) -> None:
    one, other = connections.make()
    copy = connections.keep(one.dup())
    assert cookie_of(one) == cookie_of(copy) != cookie_of(other)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_what_is_finished_is_heard_in_order(cookies: list[int]) -> None:
    parent, child = pair()
    for cookie in cookies:
        child.report_finished(cookie)
    assert finished(parent) == cookies
    assert not finished(parent)
    parent.close()
    child.close()


def test_what_was_said_before_its_death_is_heard(wire: tuple[ParentEnd, ChildEnd]) -> None:
    parent, child = wire
    child.report_finished(1)
    child.report_finished(2)
    child.close()
    assert finished(parent) == [1, 2]
    assert not finished(parent)


def test_a_connection_of_the_collectors_own_comes_up_with_its_name(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    """Also when it is dead already, and what it said before and behind keeps its order."""
    parent, child = wire
    ours, server = connections.make()
    child.report_finished(1)
    cookie = child.hand_up(ours)
    child.report_finished(2)
    child.close()
    ours.close()
    before, handed_up, behind = parent.news()
    assert (before, behind) == (News(1, True, None), News(2, True, None))
    assert handed_up.connection
    kept = connections.keep(handed_up.connection)
    assert (handed_up.cookie, handed_up.finished) == (cookie, False)
    assert cookie_of(kept) == cookie
    assert not os.get_inheritable(kept.fileno())
    server.sendall(b"hello")
    assert kept.recv(5) == b"hello"


def test_a_connection_that_finds_no_descriptor_is_news_without_it(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    """It must not pass for one that is finished."""
    parent, child = wire
    cookie = child.hand_up(connections.make()[0])
    child.report_finished(cookie)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        heard = [*parent.news()]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert heard == [News(cookie, False, None), News(cookie, True, None)]


def test_without_a_parent_nothing_is_handed_up(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    parent, child = wire
    parent.close()
    with pytest.raises(OSError):
        child.hand_up(connections.make()[0])
    assert not [*child.arrivals()]  # would hang, did the wire block now


def test_sending_never_blocks_and_keeps_the_order(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    parent, child = wire
    made = [connections.make()[0] for _ in range(FLOOD)]
    for connection in made:
        parent.send(connection)
    assert parent.has_unsent  # so this test is about what it says
    arrived: list[int] = []
    while len(arrived) < FLOOD:
        before = len(arrived)
        for cookie, theirs in child.arrivals():
            arrived.append(cookie)
            theirs.close()
        parent.flush()
        assert len(arrived) > before
    assert arrived == [cookie_of(connection) for connection in made]


def test_what_a_dead_collector_did_not_take_is_forgotten(
    wire: tuple[ParentEnd, ChildEnd], connections: Connections
) -> None:
    """Its successor inherits every connection at fork."""
    parent, child = wire
    child.close()
    parent.send(connections.make()[0])
    assert not parent.has_unsent
    assert not finished(parent)


def test_a_collector_without_parent_goes_on(wire: tuple[ParentEnd, ChildEnd]) -> None:
    parent, child = wire
    parent.close()
    child.report_finished(1)
    child.report_finished(2)
    assert not [*child.arrivals()]


def test_a_report_waits_for_room_and_then_the_wire_does_not_block(
    wire: tuple[ParentEnd, ChildEnd],
) -> None:
    """A finished connection must be told; what the parent has not read yet may take a while."""
    parent, child = wire
    count = 5000
    pid = os.fork()
    if pid == 0:
        for cookie in range(count):
            child.report_finished(cookie)
        os._exit(0)
    heard: list[int] = []
    while len(heard) < count:
        heard += finished(parent)
    assert heard == [*range(count)]
    assert os.waitpid(pid, 0)[1] == 0
    child.report_finished(7)
    assert not [*child.arrivals()]  # would hang, did the wire block now
    assert finished(parent) == [7]
