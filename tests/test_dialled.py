"""A source that dials, over real sockets and a clock that stands still: who is dialled when, what
the parent has at each moment, and what becomes of a server's last bytes.

`Place` is parent and collectors, one after the other; a kill is an exception at a checkpoint, and
the kernel closes what the dead one had open.
"""

import errno
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance import backoff
from appliance.acceptor import Acceptor
from appliance.contracts import no_checkpoint
from appliance.errors import Unavailable
from appliance.frame import Gap
from appliance.framing import CUT
from appliance.link import cookie_of
from appliance.note import replace_file
from appliance.sources import held, tcp, unix
from appliance.sources.absence import ABSENT_S_MIN, SERVER_AWAY, STOPPED, Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.dialled import CONNECT_S, DialledSource, Dialler, Target
from tests.fake_role import FakeClock

LIMITS = held.Limits(record_bytes_max=100, frame_bytes_max=300, close_wait_s=0.2)
STEPS = ("shared", "connecting", "connected")
NAME = "example.net:5170"
ALMOST_ONE = 0.999999
SOON_S = 5.0


class Killed(Exception):
    """The collector was killed here."""


class Server:
    """A server that somebody dials, on an address of its own; a backlog of 0 has room for one."""

    def __init__(self, *, backlog: int = 8) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=backlog)
        self.listener.settimeout(SOON_S)
        self.address = self.listener.getsockname()
        self.name = f"127.0.0.1:{self.address[1]}"
        self.target = Target(socket.AF_INET, self.address, self.name)
        self._opened: list[socket.socket] = [self.listener]

    def accept(self) -> socket.socket:
        connection, _address = self.listener.accept()
        connection.settimeout(SOON_S)
        self._opened.append(connection)
        return connection

    def waiting(self) -> int:
        """How many have connected and were not accepted; now they are."""
        self.listener.setblocking(False)
        count = 0
        try:
            while True:
                self._opened.append(self.listener.accept()[0])
                count += 1
        except BlockingIOError:
            return count
        finally:
            self.listener.settimeout(SOON_S)

    def fill(self) -> None:
        """From here on nobody's attempt to connect is answered."""
        self._opened.append(socket.create_connection(self.address, SOON_S))

    def close(self) -> None:
        for one in self._opened:
            one.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Place:
    """The parent, and its collectors one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.beginnings = Beginnings(folder / "beginnings", "boot", time.monotonic_ns)
        self.clock = FakeClock()
        self.acceptor = Acceptor("feed", list, tcp.prepare, 1, self.clock)
        self.wake = os.eventfd(0)
        self.targets: list[Target] = []
        self.find_error: Unavailable | None = None
        self.prepare: Callable[[socket.socket], None] = tcp.prepare_dialled
        self.checkpoint: Callable[[str], None] = no_checkpoint
        self.finds = 0
        self.gaps: list[Gap] = []
        self.chance = 0.0
        self._servers: list[Server] = []
        self.source, self.dialler = self.born()

    def server(self, *, known: bool = True, backlog: int = 8) -> Server:
        made = Server(backlog=backlog)
        self._servers.append(made)
        if known:
            self.targets.append(made.target)
        return made

    def born(self) -> tuple[DialledSource, Dialler]:
        """A new collector's source; the one before is dead and buried."""
        if hasattr(self, "source"):
            self.die()
        self.wire = self.acceptor.birth()
        self.dialler = Dialler(
            NAME,
            self._find,
            lambda connection: self.prepare(connection),
            self.wire,
            [(cookie, one.dup()) for cookie, one in self.acceptor.connections],
            chance=lambda: self.chance,
            monotonic=self.clock,
            checkpoint=lambda step: self.checkpoint(step),
        )
        self.source = DialledSource(
            tcp.TcpKernel(),
            self.dialler,
            Wake(self.wake),
            LIMITS,
            self.beginnings,
            absence=self.absence(),
            checkpoint=lambda step: self.checkpoint(step),
            monotonic=self.clock,
        )
        return self.source, self.dialler

    def absence(self) -> Absence:
        """What a collector knows of the server's absence; a file outlives it."""
        wall = self.clock  # one that shows the same
        return Absence(self.folder / "absence", replace_file, clock=wall, monotonic=self.clock)

    def die(self) -> None:
        self.source.close()
        self.wire.close()
        self.acceptor.bury()

    def _find(self) -> list[Target]:
        self.finds += 1
        if self.find_error:
            raise self.find_error
        return list(self.targets)

    def turn(self, turns: int = 6) -> bytes:
        """Wait and peek as a collector does, while the clock stands; what was collected."""
        collected = b""
        for _ in range(turns):
            self.source.wait(0.01)
            chunk = self.source.peek()
            if chunk:
                collected += bytes(chunk.body)
                self.rejected = chunk.rejected
                self.gaps += chunk.gaps
                self.source.discard(chunk)
                self.source.settle()
            self.acceptor.hear()
        return collected

    def dial(self, server: Server) -> socket.socket:
        """Turn until this server has the connection; its end of it."""
        self.turn()
        assert self.source.connections == 1
        assert self.source.waiting_for == ""
        return server.accept()

    def later(self, delay_s: float) -> bytes:
        self.clock.now += delay_s
        return self.turn()

    def kept(self) -> int:
        """How many sockets the parent holds."""
        return len(self.acceptor.connections)

    def close(self) -> None:
        self.die()
        self.acceptor.close_in_child()
        os.close(self.wake)
        for server in self._servers:
            server.close()


class Wake:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Nothing comes."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


# ── dialling ────────────────────────────────────────────────────────────────────────────


def test_it_waits_until_there_is_a_connection(place: Place) -> None:
    assert place.source.waiting_for == f"a connection to {NAME}: no answer yet"
    assert place.source.connections == 0
    server = place.server()
    end = place.dial(server)
    end.sendall(b"one\ntwo\n")
    assert place.turn() == b"one\ntwo\n"
    assert not place.source.ended


def test_the_parent_has_the_socket_before_the_server_knows_of_us(place: Place) -> None:
    server = place.server()
    seen: list[tuple[str, int, int]] = []

    def look(step: str) -> None:
        place.acceptor.hear()
        seen.append((step, place.kept(), server.waiting()))

    place.checkpoint = look
    place.turn()
    assert seen == [("shared", 1, 0), ("connecting", 1, 1), ("connected", 1, 0)]


@pytest.mark.parametrize("step", STEPS)
def test_a_server_is_never_cut_nor_dialled_twice_whenever_we_are_killed(
    place: Place, step: str
) -> None:
    server = place.server()

    def kill(done: str) -> None:
        if done == step:
            raise Killed

    place.checkpoint = kill
    with pytest.raises(Killed):
        place.turn()
    place.checkpoint = no_checkpoint
    if step == "shared":  # it was never connected
        place.born()
        place.turn()
        place.later(backoff.RETRY_S_MIN)
    end = server.accept()
    end.sendall(b"sent at once\n")
    if step != "shared":
        place.born()
    assert place.turn() == b"sent at once\n"
    assert (server.waiting(), place.kept()) == (0, 1)
    end.sendall(b"more\n")
    assert place.turn() == b"more\n"


def test_a_successor_goes_on_with_a_living_connection(place: Place) -> None:
    server = place.server()
    end = place.dial(server)
    end.sendall(b"one\ntw")
    assert place.turn() == b"one\n"
    place.born()
    assert place.source.waiting_for == ""
    end.sendall(b"o\n")
    assert place.later(60.0) == b"two\n"
    assert (server.waiting(), place.kept()) == (0, 1)


def test_a_successor_goes_on_with_one_that_is_connecting(place: Place) -> None:
    full = place.server(backlog=0)
    full.fill()
    place.turn()
    ((cookie, _socket),) = place.acceptor.connections
    place.born()
    assert place.source.waiting_for == f"a connection to {NAME}: no answer yet"
    place.turn()
    assert place.finds == 1
    ((inherited, _socket),) = place.acceptor.connections
    assert cookie == inherited
    full.accept()
    until(lambda: not place.turn(1) and place.source.connections == 1)  # the kernel asks again
    full.accept().sendall(b"at last\n")
    assert place.turn() == b"at last\n"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline


def test_a_successor_lets_go_of_one_that_was_refused_and_dials(place: Place) -> None:
    gone = place.server()
    gone.close()

    def kill(step: str) -> None:
        if step == "connecting":
            raise Killed

    place.checkpoint = kill
    with pytest.raises(Killed):
        place.turn()
    place.checkpoint = no_checkpoint
    place.born()
    assert place.kept() == 1
    place.targets.clear()
    server = place.server()
    place.turn()
    assert place.kept() == 0
    place.later(backoff.RETRY_S_MIN)
    server.accept()
    assert place.kept() == 1


# ── what comes to nothing ───────────────────────────────────────────────────────────────


def test_refused_is_said_and_tried_again_with_growing_pauses(place: Place) -> None:
    gone = place.server()
    gone.close()
    place.chance = ALMOST_ONE
    pauses = []
    for _ in range(10):
        place.turn()
        assert place.kept() == 0, "the parent lets go, too"
        refused = os.strerror(errno.ECONNREFUSED)
        assert place.source.waiting_for == f"a connection to {NAME}: {refused} ({gone.name})"
        pauses.append(place.dialler.due_in_s)
        finds = place.finds
        place.later(pauses[-1] - 0.001)
        assert place.finds == finds
        place.later(0.001)
        assert place.finds == finds + 1, "resolved anew each time"
    expected = [backoff.full_jitter(attempt, ALMOST_ONE) for attempt in range(10)]
    assert pauses == pytest.approx(expected)
    assert pauses[-1] == pytest.approx(backoff.RETRY_S_MAX + backoff.RETRY_S_MIN, abs=0.01)


def test_the_pauses_start_anew_only_when_data_came(place: Place) -> None:
    server = place.server()
    place.chance = ALMOST_ONE
    for pause in range(5):
        place.dial(server).close()  # it takes us, and sends nothing
        place.turn()
        assert place.source.waiting_for == f"a connection to {NAME}: the server ended it"
        assert place.dialler.due_in_s == pytest.approx(backoff.full_jitter(pause, ALMOST_ONE))
        place.clock.now += place.dialler.due_in_s
    end = place.dial(server)
    end.sendall(b"well again\n")
    end.close()
    place.turn()
    assert place.dialler.due_in_s == pytest.approx(backoff.full_jitter(0, ALMOST_ONE))


def test_all_addresses_are_tried_in_order_without_a_pause(place: Place) -> None:
    gone, first, second = place.server(), place.server(), place.server()
    gone.close()
    end = place.dial(first)
    assert (place.finds, second.waiting()) == (1, 0)
    first.listener.close()
    end.close()
    place.turn()
    place.later(place.dialler.due_in_s)
    assert (place.finds, second.waiting()) == (2, 1)


def test_a_name_that_is_not_found_is_said_and_tried_again(place: Place) -> None:
    server = place.server()
    place.find_error = Unavailable("Name or service not known")
    place.turn()
    assert place.source.waiting_for == f"a connection to {NAME}: Name or service not known"
    assert (place.finds, place.kept()) == (1, 0)
    place.find_error = None
    place.clock.now += place.dialler.due_in_s
    place.dial(server)


def test_no_answer_is_given_up_in_time_and_the_next_address_tried(place: Place) -> None:
    full, other = place.server(backlog=0), place.server()
    full.fill()
    place.turn()
    place.later(CONNECT_S - 0.1)
    assert (place.source.connections, place.kept(), other.waiting()) == (0, 1, 0)
    place.later(0.1)
    place.turn()
    assert (place.source.connections, place.kept(), other.waiting()) == (1, 1, 1)
    full.accept()
    assert full.waiting() == 0, "what was given up doesn't come about later"


def test_no_answer_from_anybody_is_said(place: Place) -> None:
    full = place.server(backlog=0)
    full.fill()
    place.turn()
    place.later(CONNECT_S)
    said = f"a connection to {NAME}: no answer within 10 s ({full.name})"
    assert (place.source.waiting_for, place.kept()) == (said, 0)


def test_one_that_comes_about_when_it_is_given_up_is_read_to_its_end(place: Place) -> None:
    server = place.server()
    place.source.wait(0)  # resolves
    place.source.wait(0)  # connects, and nobody looks
    end = server.accept()
    end.sendall(b"in the last moment\n")
    place.clock.now += CONNECT_S
    assert place.turn() == b"in the last moment\n"
    assert end.recv(1) == b""
    end.close()
    place.turn()
    assert place.kept() == 0


def test_a_connection_with_ourselves_is_none(place: Place) -> None:
    """Which happens, sooner or later, to who dials a local port again and again."""
    gone = place.server()
    gone.close()

    def bind_to_its_port(connection: socket.socket) -> None:
        tcp.prepare_dialled(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(gone.address)

    place.prepare = bind_to_its_port
    place.turn()
    assert "Connection refused" in place.source.waiting_for
    assert (place.source.connections, place.kept()) == (0, 0)


def test_an_error_of_the_socket_itself_is_said_and_tried_again(place: Place) -> None:
    server = place.server()

    def no_room(_connection: socket.socket) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))

    place.prepare = no_room
    place.turn()
    assert os.strerror(errno.ENOBUFS) in place.source.waiting_for
    place.prepare = tcp.prepare_dialled
    place.clock.now += place.dialler.due_in_s
    place.dial(server)


def test_an_address_that_the_kernel_refuses_at_once_is_said(place: Place) -> None:
    place.targets.append(Target(socket.AF_INET, ("255.255.255.255", 9), "broadcast"))
    place.turn()
    assert place.source.waiting_for.startswith(f"a connection to {NAME}: ")
    assert place.source.waiting_for.endswith(" (broadcast)")
    assert place.kept() == 0


def test_without_a_parent_nobody_is_dialled(place: Place) -> None:
    server = place.server()
    assert place.acceptor.wire
    place.acceptor.wire.close()
    place.source.wait(0)
    place.source.wait(0)
    assert os.strerror(errno.EPIPE) in place.source.waiting_for
    assert server.waiting() == 0
    place.acceptor._wire = None


# ── how connections end ─────────────────────────────────────────────────────────────────


def test_a_clean_end_makes_a_record_of_the_last_line_and_is_dialled_again(place: Place) -> None:
    server = place.server()
    end = place.dial(server)
    end.sendall(b"one\nunfinished")
    end.close()
    assert place.turn() == b"one\nunfinished\n"
    assert place.rejected == {}
    assert place.kept() == 0
    assert not place.source.ended
    place.clock.now += place.dialler.due_in_s
    place.dial(server).sendall(b"again\n")
    assert place.turn() == b"again\n"


def test_after_a_reset_the_unfinished_line_is_cut_and_it_is_dialled_again(place: Place) -> None:
    server = place.server()
    end = place.dial(server)
    end.sendall(b"one\nunfin")
    assert place.turn() == b"one\n"
    reset(end)
    assert place.turn() == b"unfin\n"
    assert place.rejected == {0: "cut"}
    place.clock.now += place.dialler.due_in_s
    place.dial(server)


def test_half_a_record_and_a_reset_before_anybody_looked_is_cut_too(place: Place) -> None:
    """Asking whether the connection has come about must not take the error away."""
    server = place.server()
    place.source.wait(0)
    place.source.wait(0)
    end = server.accept()
    end.sendall(b"one\nhalf")
    reset(end)
    assert place.turn() == b"one\nhalf\n"
    assert place.rejected == {1: "cut"}


def test_a_server_that_is_gone_is_noticed_by_probes(place: Place) -> None:
    place.dial(place.server())
    ((_cookie, connection),) = place.acceptor.connections
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    probes = [
        connection.getsockopt(socket.IPPROTO_TCP, option)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    ]
    assert tcp.Keepalive(*probes).gone_s == 90
    assert not connection.getblocking()
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > tcp.RECEIVE_BUFFER_BYTES


# ── waiting and stopping ────────────────────────────────────────────────────────────────


def test_waiting_ends_when_it_is_time_to_dial_or_the_server_answers(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.clock.now = 0.0
    place.dialler._monotonic = time.monotonic
    server = place.server()
    place.find_error = Unavailable("not yet")
    began = time.monotonic()
    place.source.wait(60)
    assert place.finds == 1
    place.find_error = None
    place.source.wait(60)
    assert 0 < time.monotonic() - began < SOON_S
    place.dial(server)
    began = time.monotonic()
    place.source.wait(0.1)
    assert time.monotonic() - began > 0.09, "it doesn't spin"
    place.close()


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_before_and_between_attempts_ends_it_and_nobody_is_dialled(
    place: Place, quick: bool
) -> None:
    server = place.server()
    place.find_error = Unavailable("not yet")
    place.turn()
    place.find_error = None
    place.source.stop(quick)
    assert place.source.ended
    assert place.source.waiting_for == ""
    place.later(60.0)
    assert (place.finds, server.waiting()) == (1, 0)


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_between_resolving_and_connecting_dials_nobody(place: Place, quick: bool) -> None:
    server = place.server()
    place.source.wait(0)
    assert place.finds == 1
    place.source.stop(quick)
    place.later(60.0)
    assert place.source.ended
    assert server.waiting() == 0


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_ends_an_attempt_at_once(place: Place, quick: bool) -> None:
    full = place.server(backlog=0)
    full.fill()
    place.turn()
    assert place.kept() == 1
    place.source.stop(quick)
    place.turn()
    assert place.source.ended
    assert place.kept() == 0
    full.accept()
    assert full.waiting() == 0


def test_a_stop_reads_a_connection_that_nobody_has_looked_at_to_its_end(place: Place) -> None:
    server = place.server()
    place.source.wait(0)
    place.source.wait(0)
    end = server.accept()
    end.sendall(b"acknowledged\n")
    place.source.stop(quick=False)
    assert end.recv(1) == b"", "the server sees that we close"
    end.sendall(b"last words")
    end.close()
    assert place.turn() == b"acknowledged\nlast words\n"
    assert place.source.ended
    place.later(60.0)
    assert (place.kept(), place.finds, server.waiting()) == (0, 1, 0)


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_quick_stop_takes_what_is_there_and_closes(place: Place, looked_at: bool) -> None:
    server = place.server()
    if looked_at:
        end = place.dial(server)
    else:
        place.source.wait(0)
        place.source.wait(0)
        end = server.accept()
    end.sendall(b"there\nunfin")
    place.source.stop(quick=True)
    assert place.turn() == b"there\nunfin\n"
    assert place.rejected == {1: "cut"}
    assert place.source.ended
    assert (end.recv(1), place.kept()) == (b"", 0)


def test_a_graceful_stop_waits_no_longer_than_it_may(place: Place) -> None:
    server = place.server()
    end = place.dial(server)
    place.source.stop(quick=False)
    assert end.recv(1) == b""
    place.later(LIMITS.close_wait_s - 0.01)
    assert not place.source.ended
    place.later(0.02)
    assert place.source.ended
    assert server.waiting() == 0


def test_closing_twice_is_no_harm(place: Place) -> None:
    full = place.server(backlog=0)
    full.fill()
    place.turn()
    place.source.close()
    place.source.close()


# ── the server's absence ────────────────────────────────────────────────────────────────


def away(place: Place, server: Server, away_s: float, how: Callable[[socket.socket], None]) -> None:
    """The server has a connection, ends it in this way, and takes the next one so much later."""
    end = place.dial(server)
    end.sendall(b"before\n")
    place.turn()
    how(end)
    place.turn()
    place.clock.now += away_s
    place.turn()


def close(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("how", [close, reset])
def test_an_absence_is_a_gap_in_the_next_frame(
    place: Place, how: Callable[[socket.socket], None]
) -> None:
    server = place.server()
    began = place.clock.now
    away(place, server, 60.0, how)
    server.accept().sendall(b"after\n")
    assert place.turn() == b"after\n"
    assert place.gaps == [Gap(SERVER_AWAY, began=began, ended=began + 60.0)]
    place.later(60.0)
    place.born()
    assert len(place.gaps) == 1, "once"


def test_a_server_that_is_silent_then_is_told_of_in_a_frame_without_records(place: Place) -> None:
    server, place.chance = place.server(), ALMOST_ONE
    began = place.clock.now
    away(place, server, 60.0, close)
    end = server.accept()
    assert place.gaps == []
    assert place.later(ABSENT_S_MIN) == b""
    assert place.gaps == [Gap(SERVER_AWAY, began=began, ended=began + 60.0)]
    end.close()
    place.turn()
    second = backoff.full_jitter(1, ALMOST_ONE)
    assert place.dialler.due_in_s == pytest.approx(second), "no record came: it isn't well"


def test_a_server_that_takes_connections_and_ends_them_is_away_once(place: Place) -> None:
    server = place.server()
    away(place, server, 60.0, reset)
    for _ in range(5):
        reset(server.accept())
        place.turn()
        place.later(backoff.RETRY_S_MAX)
    assert place.gaps == []
    server.accept().sendall(b"well again\n")
    place.turn()
    assert len(place.gaps) == 1


def test_an_end_in_good_order_and_a_server_that_is_there_at_once_is_none(place: Place) -> None:
    server = place.server()
    for _ in range(3):
        away(place, server, backoff.RETRY_S_MIN, close)
    assert place.gaps == []
    away(place, server, backoff.RETRY_S_MIN, reset)
    place.later(ABSENT_S_MIN)
    assert len(place.gaps) == 1, "after a reset nobody knows what is missing"


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("step", ["shared", "connecting"])
def test_an_attempt_that_a_killed_collector_made_ends_no_absence(
    place: Place, step: str, known: bool
) -> None:
    server = place.server()
    began = place.clock.now
    if known:
        reset(place.dial(server))
        place.turn()
        place.clock.now += place.dialler.due_in_s
    port = server.address
    server.listener.close()
    place.checkpoint = kill_at(step)
    with pytest.raises(Killed):
        place.turn()
    place.checkpoint = no_checkpoint
    place.born()
    place.source.resume(None, None)
    place.later(60.0)
    place.later(60.0)
    again = place.server(known=False)
    again.listener.close()
    again.listener = socket.create_server(port, backlog=8)
    place.targets[:] = [server.target]
    ended = place.clock.now + 60.0
    place.later(60.0)
    again.accept().sendall(b"one\n")
    assert place.turn() == b"one\n"
    assert place.gaps == ([Gap(SERVER_AWAY, began=began, ended=ended)] if known else [])


def test_a_stop_is_told_of_by_the_next_start(place: Place) -> None:
    server = place.server()
    place.dial(server).sendall(b"one\n")
    place.turn()
    began = place.clock.now
    place.source.stop(quick=True)
    place.turn()
    place.clock.now += 3600
    place.born()
    place.dial(server)
    place.later(ABSENT_S_MIN)
    assert place.gaps == [Gap(STOPPED, began=began, ended=began + 3600)]


def kill_at(step: str) -> Callable[[str], None]:
    def kill(done: str) -> None:
        if done == step:
            raise Killed

    return kill


@pytest.mark.parametrize("records", [b"", b"after\n"])
@pytest.mark.parametrize("step", ["peeked", "noted", "pushed", "discarded"])
def test_killed_in_the_frame_that_tells_of_it(place: Place, step: str, records: bytes) -> None:
    """A successor makes the same frame again, or knows that it was handed over."""
    server = place.server()
    began = place.clock.now
    away(place, server, 60.0, reset)
    server.accept().sendall(records)
    place.clock.now += ABSENT_S_MIN
    place.source.wait(0)
    chunk = place.source.peek()
    assert chunk
    gap = Gap(SERVER_AWAY, began=began, ended=began + 60.0)
    assert (bytes(chunk.body), chunk.gaps) == (records, (gap,))
    claim = json.loads(json.dumps(chunk.claim))
    if step == "discarded" and records:
        place.checkpoint = kill_at("emptied")
        with pytest.raises(Killed):
            place.source.discard(chunk)
        place.checkpoint = no_checkpoint
    place.born()
    place.source.resume(None, claim if step != "peeked" else None)
    if step == "peeked":
        assert place.later(ABSENT_S_MIN) == records
        assert place.gaps == [gap]
        return
    again = place.source.again(claim)
    if step == "discarded" and records:
        assert again is None
    else:
        assert again
        assert (bytes(again.body), again.gaps) == (records, (gap,))
        place.source.discard(again)
        place.source.settle()
    place.later(ABSENT_S_MIN)
    assert place.gaps == [], "it was told"


def test_half_a_record_is_a_dead_letter_and_its_rest_a_gap_also_after_a_kill(place: Place) -> None:
    server = place.server()
    end = place.dial(server)
    end.sendall(b"whole\nhal")
    assert place.turn() == b"whole\n"
    place.born()
    place.source.resume(None, None)
    reset(end)
    chunk = place.source.peek()
    assert chunk
    assert (bytes(chunk.body), chunk.rejected) == (b"hal\n", {0: CUT})
    assert chunk.gaps == (Gap(CUT),)
    claim = json.loads(json.dumps(chunk.claim))
    place.born()
    place.source.resume(None, claim)
    again = place.source.again(claim)
    assert again
    assert (again.rejected, again.gaps) == ({0: CUT}, (Gap(CUT),))


# ── other kinds of sockets ──────────────────────────────────────────────────────────────


def test_a_unix_socket_is_dialled_the_same_way(tmp_path: Path) -> None:
    """Not there, then full, then taken: only the address and the preparation are its own."""
    path, clock = str(tmp_path / "s"), FakeClock()
    acceptor = Acceptor("feed", list, tcp.prepare, 1, clock)
    wire = acceptor.birth()

    dialler = Dialler(
        path,
        lambda: unix.find(path),
        unix.prepare,
        wire,
        [],
        chance=lambda: 0.0,
        monotonic=clock,
    )

    def turn() -> None:
        clock.now += backoff.RETRY_S_MAX
        dialler.turn()  # finds
        dialler.turn()  # connects
        acceptor.hear()

    turn()
    assert dialler.waiting_for == f"a connection to {path}: No such file or directory"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(path)
        listener.listen(0)
        other.connect(path)
        turn()
        full = os.strerror(errno.EAGAIN)
        assert dialler.waiting_for == f"a connection to {path}: {full}"
        assert acceptor.connections == []
        listener.accept()[0].close()
        turn()
        ((cookie, connection),) = dialler.arrivals()
        assert dialler.waiting_for == ""
        assert [cookie] == [one for one, _ in acceptor.connections]
        server, _address = listener.accept()
        server.sendall(b"hello")
        assert connection.recv(5) == b"hello"
        for one in (server, connection):
            one.close()
    dialler.close()
    wire.close()
    acceptor.bury()
    acceptor.close_in_child()


# ── addresses ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("address", "family", "where"),
    [
        ("127.0.0.1:5170", socket.AF_INET, ("127.0.0.1", 5170)),
        ("[::1]:5170", socket.AF_INET6, ("::1", 5170, 0, 0)),
    ],
)
def test_an_address_is_found_as_it_is(address: str, family: int, where: tuple[object, ...]) -> None:
    assert tcp.find(address) == [Target(family, where, address)]


def test_a_name_is_found_with_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = (socket.SOCK_STREAM, 6, "")
    answers = [
        (socket.AF_INET6, *stream, ("2001:db8::1", 7, 0, 0)),
        (socket.AF_INET, *stream, ("192.0.2.1", 7)),
        (socket.AF_INET, *stream, ("192.0.2.1", 7)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert [target.name for target in tcp.find("host:7")] == ["[2001:db8::1]:7", "192.0.2.1:7"]


def test_a_name_that_nobody_knows_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unavailable, match="Name or service not known"):
        tcp.find("host:7")


def test_cookies_are_the_kernels(place: Place) -> None:
    place.dial(place.server())
    ((cookie, connection),) = place.acceptor.connections
    assert cookie == cookie_of(connection)
