"""TCP as a held source: what the shared contract suite can't ask of every kind.

Many connections in one frame, an end that comes between note and discard, resets, urgent bytes,
waiting without spinning, fairness, and connections that died with the parent. Real sockets on
the loopback; a successor is a new HeldSource over the parent's duplicates.
"""

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from appliance import link
from appliance.contracts import Chunk
from appliance.errors import AddressError
from appliance.frame import Gap
from appliance.sources import held, tcp

LIMITS = held.Limits(record_bytes_max=100, frame_bytes_max=300, close_wait_s=0.2)
NOT_AT_ONCE_S = 0.3


class Signal:
    """What a signal would make readable."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0)

    def fileno(self) -> int:
        return self._fd

    def clear(self) -> None:
        """Nothing comes."""

    def close(self) -> None:
        os.close(self._fd)


class Place:
    """The parent's side: accepted connections, and one collector's source after the other."""

    def __init__(self) -> None:
        self.listener = tcp.listen("127.0.0.1:0")[0]
        self.kept: list[socket.socket] = []
        self._signal = Signal()
        self._opened: list[Any] = [self.listener, self._signal]
        self.source = self.born()

    def connect(self) -> socket.socket:
        """A new sender, handed down as the parent does."""
        sender = socket.create_connection(self.listener.getsockname())
        self.listener.setblocking(True)
        connection, _address = self.listener.accept()
        tcp.prepare(connection)
        self.kept.append(connection)
        self.parent.send(connection)
        self._opened += [sender, connection]
        return sender

    def born(self, limits: held.Limits = LIMITS) -> held.HeldSource:
        """A new collector's source; the one before is dead."""
        if self.kept or hasattr(self, "source"):
            self.source.close()
        self.parent, child = link.pair()
        self._opened += [self.parent, child]
        inherited = [(link.cookie_of(one), one.dup()) for one in self.kept]
        self.source = held.HeldSource(tcp.TcpKernel(), child, self._signal, limits, inherited)
        return self.source

    def peek(self) -> Chunk:
        """The next chunk; what was sent is there, loopback needs no waiting."""
        for _ in range(3):  # the first one may only take in a connection
            chunk = self.source.peek()
            if chunk:
                return chunk
        raise AssertionError("nothing to peek")

    def collect(self) -> bytes:
        """Turns until nothing is shown."""
        collected = b""
        for _ in range(50):
            chunk = self.source.peek()
            if chunk:
                collected += bytes(chunk.body)
                self.source.discard(chunk)
                self.source.settle()
        return collected

    def close(self) -> None:
        self.source.close()
        for thing in self._opened:
            thing.close()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


def reset(sender: socket.socket) -> None:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sender.close()


# ── a frame in doubt ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["fin", "reset", "more", "half-closed, then fin"])
def test_an_end_behind_the_note_is_no_sign_of_a_discard(place: Place, how: str) -> None:
    sender = place.connect()
    sender.sendall(b"a\nrest")
    noted = place.peek()
    body = bytes(noted.body)
    if how == "half-closed, then fin":
        place.kept[0].shutdown(socket.SHUT_WR)
    if how == "more":
        sender.sendall(b" more\n")
    elif how == "reset":
        reset(sender)
    else:
        sender.shutdown(socket.SHUT_WR)
    time.sleep(0.05)  # the kernel's own business; nothing tells when it is done
    again = place.born().again(noted.claim)
    assert again is not None
    assert bytes(again.body) == body == b"a\n"


@pytest.mark.parametrize("how", ["open", "fin", "reset"])
def test_a_discarded_frame_is_known_as_such(place: Place, how: str) -> None:
    sender = place.connect()
    sender.sendall(b"a\n")
    noted = place.peek()
    place.source.discard(noted)
    if how == "fin":
        sender.shutdown(socket.SHUT_WR)
    elif how == "reset":
        reset(sender)
    assert place.born().again(noted.claim) is None


def test_a_last_byte_behind_a_fin_is_one_frame_and_known(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"x")
    sender.shutdown(socket.SHUT_WR)
    noted = place.peek()
    assert bytes(noted.body) == b"x\n"
    again = place.born().again(noted.claim)
    assert again is not None
    assert bytes(again.body) == b"x\n"
    place.source.discard(again)
    assert place.born().again(noted.claim) is None


def test_the_rest_of_a_half_discarded_frame_is_discarded(place: Place) -> None:
    first, second = place.connect(), place.connect()
    first.sendall(b"one\n")
    second.sendall(b"two\n")
    noted = place.peek()
    assert len(noted.claim["parts"]) == 2
    cookie = noted.claim["parts"][0][0]
    done = next(one for one in place.kept if link.cookie_of(one) == cookie)
    tcp.TcpKernel().discard(done, 4, memoryview(bytearray(9)))  # killed between the two calls
    source = place.born()
    assert source.again(noted.claim) is None
    first.sendall(b"three\n")
    second.sendall(b"four\n")
    assert sorted(place.collect().split()) == [b"four", b"three"]


def test_what_died_with_the_parent_is_a_gap_in_the_frame(place: Place) -> None:
    for number in range(2):
        place.connect().sendall(b"from %d\nand\n" % number)
    noted = place.peek()
    lost = place.kept.pop(0)
    again = place.born().again(noted.claim)
    assert again is not None
    assert bytes(again.body) == b"from 1\nand\n"
    assert again.gaps == (Gap("connection lost", 2, 11),)
    lost.close()


def test_made_again_from_the_noted_bytes_whatever_the_limits_are_now(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"x" * 150 + b"\nshort\n")
    noted = place.peek()
    assert noted.rejected == {0: "too long"}
    wider = held.Limits(record_bytes_max=1000, frame_bytes_max=1000, close_wait_s=0.2)
    again = place.born(wider).again(noted.claim)
    assert again is not None
    assert bytes(again.body) == bytes(noted.body)
    assert again.rejected == noted.rejected


# ── reading ─────────────────────────────────────────────────────────────────────────────


def test_a_lone_newline_gets_no_frame_and_is_gone(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"\n")
    assert place.collect() == b""
    assert tcp.TcpKernel().observe(place.kept[0]).available == 0
    sender.sendall(b"\nx\n")
    assert place.collect() == b"\nx\n"


def test_a_record_that_was_reset_in_its_middle_is_cut(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nhal")
    assert place.collect() == b"whole\n"
    reset(sender)
    chunk = place.peek()
    assert bytes(chunk.body) == b"hal\n"
    assert chunk.rejected == {0: "cut"}


def test_the_unfinished_last_line_is_a_record_when_the_sender_closes(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nhalf")
    sender.close()
    chunk = place.peek()
    assert bytes(chunk.body) == b"whole\nhalf\n"
    assert chunk.rejected == {}
    place.source.discard(chunk)
    place.source.settle()
    assert [*place.parent.news()] == [link.News(link.cookie_of(place.kept[0]), True, None)]
    assert place.source.connections == 0


def test_an_urgent_byte_cuts_a_record_and_stalls_nothing(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nbe")
    sender.send(b"f", socket.MSG_OOB)
    sender.sendall(b"ore\nbehind\n")
    chunk = place.peek()
    assert bytes(chunk.body) == b"whole\nbe\n"
    assert chunk.rejected == {1: "cut"}
    assert place.born().again(chunk.claim) is not None
    place.source.discard(chunk)
    assert place.collect() == b"fore\nbehind\n"


def test_a_flood_does_not_starve_the_others(place: Place) -> None:
    flood, other = place.connect(), place.connect()
    for _ in range(20):
        flood.sendall((b"f" * 50 + b"\n") * 10)
    other.sendall(b"o" * 90 + b"\n")
    collected = b""
    for _ in range(4):
        chunk = place.peek()
        collected += bytes(chunk.body)
        place.source.discard(chunk)
    assert b"o" * 90 in collected


def test_waiting_for_the_rest_of_a_record_does_not_spin(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nunfinished")
    place.collect()
    began = time.monotonic()
    place.source.wait(NOT_AT_ONCE_S)
    assert time.monotonic() - began >= NOT_AT_ONCE_S * 0.9
    sender.sendall(b" no more\n")
    place.source.wait(60)
    assert place.collect() == b"unfinished no more\n"


def test_many_connections_share_a_frame(place: Place) -> None:
    senders = [place.connect() for _ in range(20)]
    for number, sender in enumerate(senders):
        sender.sendall(b"%d\n" % number)
    chunk = place.peek()
    assert sorted(map(int, bytes(chunk.body).split())) == list(range(20))
    assert chunk.records == 20


def test_an_over_long_record_is_skipped_by_the_successor_too(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"L" * 500)
    chunk = place.peek()
    place.source.discard(chunk)
    assert chunk.rejected == {0: "too long"}
    sender.sendall(b"L" * 50 + b"\nnext\n")
    source = place.born()
    source.resume(None, chunk.claim)
    assert place.collect() == b"next\n"


def test_a_connection_that_comes_twice_is_one(place: Place) -> None:
    place.connect().sendall(b"x\n")
    place.parent.send(place.kept[0])
    assert place.collect() == b"x\n"
    assert place.source.connections == 1


def test_a_record_that_the_kernel_cannot_hold_is_given_up_and_nothing_spins(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "STALL_S", 0.5)
    wide = held.Limits(record_bytes_max=8 << 20, frame_bytes_max=8 << 20, close_wait_s=0.2)
    place.born(wide)
    sender, other = place.connect(), place.connect()
    place.collect()
    place.kept[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    sender.sendall(b"before\n")
    sender.setblocking(False)
    sent = 0
    while True:  # until the kernel takes no more
        try:
            sent += sender.send(b"L" * 65536)
        except BlockingIOError:
            if not select.select([], [sender], [], 0.2)[1]:
                break
    chunk, collected, looks = place.peek(), b"", 0
    deadline = time.monotonic() + 30
    while not chunk.rejected and time.monotonic() < deadline:
        collected += bytes(chunk.body)
        place.source.discard(chunk)
        other.sendall(b"other\n")
        while not (shown := place.source.peek()):
            looks += 1
            place.source.wait(5)
            assert time.monotonic() < deadline
        chunk = shown
        time.sleep(0.05)  # a turn takes its time
    assert chunk.rejected == {0: "too long"}
    again = place.born(wide).again(chunk.claim)
    assert again is not None
    assert (bytes(again.body), again.rejected) == (bytes(chunk.body), chunk.rejected)
    assert looks < 200, "it doesn't spin"
    assert b"before\n" in collected
    assert b"other\n" in collected


# ── stopping ────────────────────────────────────────────────────────────────────────────


def test_a_quick_stop_takes_what_is_there_and_no_more(place: Place) -> None:
    sender = place.connect()
    assert place.collect() == b""  # takes the connection in
    sender.sendall(b"one\ntwo\nunfin")
    place.source.stop(quick=True)
    sender.sendall(b"ished\nlater\n")
    chunk = place.peek()
    assert bytes(chunk.body) == b"one\ntwo\nunfin\n"
    assert chunk.rejected == {2: "cut"}
    place.source.discard(chunk)
    place.source.settle()
    place.source.peek()
    assert place.source.ended


def test_a_graceful_stop_lets_the_sender_finish(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"one\n")
    place.collect()
    place.source.stop(quick=False)
    assert sender.recv(1) == b"", "the sender sees that we close"
    sender.sendall(b"last words\n")
    sender.close()
    assert place.collect() == b"last words\n"
    assert place.source.ended


def test_a_graceful_stop_does_not_wait_when_the_last_sender_has_closed(place: Place) -> None:
    """Its end is seen by a look that shows no chunk, behind which a collector waits."""
    patient = held.Limits(record_bytes_max=100, frame_bytes_max=300, close_wait_s=60)
    place.born(patient)
    sender = place.connect()
    place.collect()
    place.source.stop(quick=False)
    sender.close()
    began = time.monotonic()
    place.source.wait(60)
    assert place.source.peek() is None
    place.source.wait(60)
    assert place.source.ended
    assert time.monotonic() - began < 30


def test_a_graceful_stop_waits_no_longer_than_it_may(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"one\n")
    place.collect()
    place.source.stop(quick=False)
    began = time.monotonic()
    while not place.source.ended:
        place.source.wait(60)
        place.collect()
        assert time.monotonic() - began < 30
    assert time.monotonic() - began >= LIMITS.close_wait_s * 0.9


def test_a_flood_does_not_put_the_end_of_a_graceful_stop_off(place: Place) -> None:
    sender = place.connect()
    sender.setblocking(False)
    place.source.stop(quick=False)
    began = time.monotonic()
    while not place.source.ended:
        fill(sender)
        chunk = place.source.peek()
        if chunk:
            place.source.discard(chunk)
            place.source.settle()
        assert time.monotonic() - began < 30
    assert time.monotonic() - began >= LIMITS.close_wait_s * 0.9


def fill(sender: socket.socket) -> None:
    """Send as much as goes, so that there always is something to read."""
    try:
        while True:
            sender.send(b"a line\n" * 1000)
    except OSError:  # full, or refused at last
        pass


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_takes_in_what_was_handed_down_before(place: Place, quick: bool) -> None:
    sender = place.connect()
    sender.sendall(b"said and gone\n")
    sender.close()
    place.source.stop(quick)
    assert place.collect() == b"said and gone\n"
    assert place.source.ended


def test_a_quick_stop_of_very_many_connections_makes_frames_that_fit_a_note(place: Place) -> None:
    place.born(held.Limits(record_bytes_max=100, frame_bytes_max=10_000, close_wait_s=0.2))
    for _ in range(held.EVENTS_MAX + 10):
        place.connect().sendall(b"a\n")
    place.source.stop(quick=True)
    for records in (held.EVENTS_MAX, 10):
        chunk = place.peek()
        assert len(chunk.claim["parts"]) == chunk.records == records
        place.source.discard(chunk)
        place.source.settle()
    place.source.peek()
    assert place.source.ended


def test_an_address_that_is_taken_is_a_clear_error(place: Place) -> None:
    port = place.listener.getsockname()[1]
    with pytest.raises(AddressError, match=f"127.0.0.1:{port}"):
        tcp.listen(f"127.0.0.1:{port}")
