"""The look ahead of a held source: what was got ready is what a look would show, or it isn't used.

Real TCP connections; the collector's turn is played by hand, its push by a call of `look_ahead`.
"""

import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.contracts import Chunk
from appliance.frame import checksum
from appliance.sources import held, tcp
from appliance.sources.kernel import AT_REST, SO_PEEK_OFF
from tests.socket_place import LIMITS, PEEKS_BEHIND, UNIX, HurriedTcp, Kind, Place

FRAME = LIMITS.frame_bytes_max
LINES = b"".join(b"line %d of a flood\n" % number for number in range(100))
TWO_FRAMES = LINES[: 2 * FRAME - 20].rpartition(b"\n")[0] + b"\n"  # almost
LONG = b"L" * 150

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not PEEKS_BEHIND, reason="a kernel without SO_PEEK_OFF for TCP"),
]


class Watched(tcp.TcpKernel):
    """Counts what is peeked, at the front and behind it."""

    def __init__(self) -> None:
        self.fronts = self.behinds = 0

    def peek(self, connection: socket.socket, view: memoryview) -> int:
        self.fronts += 1
        return super().peek(connection, view)

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        self.behinds += 1
        self.fronts -= 1
        return super().peek_behind(connection, length, view)


@pytest.fixture
def kernel() -> Watched:
    made = Watched()
    assert made.peeks_behind
    made.fronts = made.behinds = 0
    return made


@pytest.fixture
def place(kernel: Watched, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, Kind(kernel, tcp.connected))
    yield made
    made.close()


def flood(place: Place, data: bytes = LINES) -> tuple[socket.socket, Chunk]:
    """A sender whose first frame is in hand, and the next one got ready."""
    sender = place.connect()
    sender.sendall(data)
    chunk = place.peek()
    place.source.look_ahead()
    return sender, chunk


def hand_over(place: Place, chunk: Chunk) -> bytes:
    body = bytes(chunk.body)
    place.source.discard(chunk)
    place.source.settle()
    return body


def test_the_next_chunk_is_what_was_got_ready(place: Place, kernel: Watched) -> None:
    data = LINES[: FRAME * 7 // 2].rpartition(b"\n")[0] + b"\n"
    sender = place.connect()
    sender.sendall(data)
    chunk = place.peek()
    collected = b""
    for was_ready in (True, True, False):  # a whole frame waits behind the first and the second
        place.source.look_ahead()
        kernel.fronts = 0
        collected += hand_over(place, chunk)
        chunk = place.peek()
        assert (kernel.fronts == 0) == was_ready
        assert chunk.crc == (checksum(chunk.body) if was_ready else None)
        assert isinstance(chunk.body, memoryview), "it was copied"
        assert chunk.records == bytes(chunk.body).count(b"\n")
    assert collected + hand_over(place, chunk) == data


def test_nothing_is_peeked_twice(place: Place, kernel: Watched) -> None:
    _sender, chunk = flood(place)
    place.source.look_ahead()
    assert kernel.behinds == 1
    assert place.source.peek() is chunk
    place.source.look_ahead()
    assert kernel.behinds == 1


def test_where_less_than_a_frame_waits_nobody_looks_ahead(place: Place, kernel: Watched) -> None:
    _sender, chunk = flood(place, TWO_FRAMES)
    assert kernel.behinds == 0
    assert hand_over(place, chunk) + place.collect() == TWO_FRAMES


@pytest.mark.parametrize("data", [LINES, TWO_FRAMES])
def test_the_frame_in_hand_stays_as_it_was(place: Place, data: bytes) -> None:
    sender = place.connect()
    sender.sendall(data)
    chunk = place.peek()
    before = bytes(chunk.body), chunk.records, dict(chunk.claim)
    place.source.look_ahead()
    assert (bytes(chunk.body), chunk.records, chunk.claim) == before


def another_is_ready(_place: Place, _sender: socket.socket, other: socket.socket) -> None:
    other.sendall(b"another\n")


def it_closed(_place: Place, sender: socket.socket, _other: socket.socket) -> None:
    sender.close()


def it_was_reset(_place: Place, sender: socket.socket, _other: socket.socket) -> None:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sender.close()


def a_quick_stop(place: Place, _sender: socket.socket, _other: socket.socket) -> None:
    place.source.stop(quick=True)


@pytest.mark.parametrize(
    "event", [another_is_ready, it_closed, it_was_reset, a_quick_stop], ids=lambda one: one.__name__
)
def test_it_is_thrown_away_where_a_look_would_show_something_else(
    place: Place, kernel: Watched, event: Callable[[Place, socket.socket, socket.socket], None]
) -> None:
    other = place.connect()
    sender, chunk = flood(place)
    event(place, sender, other)
    kernel.fronts = 0
    collected = hand_over(place, chunk)
    collected += hand_over(place, place.peek())
    assert kernel.fronts > 0, "it looked"
    collected += place.collect()
    assert sorted(collected.splitlines()) == sorted(
        (LINES + (b"another\n" if event is another_is_ready else b"")).splitlines()
    )


def test_of_two_floods_nobody_looks_ahead(place: Place, kernel: Watched) -> None:
    """The other one's turn is next."""
    other = place.connect()
    other.sendall(LINES)
    _sender, chunk = flood(place)
    for _ in range(2):
        kernel.behinds = 0
        hand_over(place, chunk)
        chunk = place.peek()
        place.source.look_ahead()
    assert kernel.behinds == 0


def test_of_a_flood_that_has_ended_nobody_looks_ahead(place: Place, kernel: Watched) -> None:
    sender, chunk = flood(place)
    sender.close()
    hand_over(place, chunk)
    kernel.behinds = 0
    place.peek()
    place.source.look_ahead()
    assert kernel.behinds == 0


def test_a_graceful_stop_changes_nothing(place: Place, kernel: Watched) -> None:
    sender, chunk = flood(place)
    place.source.stop(quick=False)
    sender.close()
    assert hand_over(place, chunk) + place.collect() == LINES
    assert place.source.ended


def test_who_leaves_leaves_all_of_it(place: Place) -> None:
    _sender, chunk = flood(place)
    place.source.leave()
    assert hand_over(place, chunk) + (place.born(), place.collect())[1] == LINES


@pytest.mark.parametrize("discarded", [False, True])
def test_a_successor_finds_what_a_killed_one_had_not_handed_over(
    place: Place, discarded: bool
) -> None:
    _sender, chunk = flood(place)
    body = bytes(chunk.body)
    if discarded:
        place.source.discard(chunk)
    again = place.born().again(chunk.claim)
    assert (again is None) == discarded
    if again:
        assert bytes(again.body) == body
        place.source.look_ahead()
        place.source.discard(again)
    assert body + place.collect() == LINES


def test_one_that_was_killed_amid_a_peek_leaves_nothing_behind(place: Place) -> None:
    """The offset is the socket's, and the socket outlives its reader."""
    _sender, chunk = flood(place)
    body = bytes(chunk.body)
    place.kept[0].setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, len(body))
    again = place.born().again(chunk.claim)
    assert again
    assert bytes(again.body) == body
    place.source.discard(again)
    assert body + place.collect() == LINES
    assert place.kept[0].getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) == AT_REST


def test_a_discard_that_was_not_done_as_planned(place: Place) -> None:
    """Of a chunk that is shown still, nothing behind it is shown."""
    _sender, chunk = flood(place)
    for _ in range(3):  # the queue is full, stands elsewhere, is away
        place.source.look_ahead()
        assert place.source.peek() is chunk
    assert hand_over(place, chunk) + place.collect() == LINES


def test_an_over_long_record_is_no_business_of_it(place: Place) -> None:
    data = LINES[:500] + LONG + LINES[500:]
    sender = place.connect()
    sender.sendall(data)
    collected, rejected = b"", 0
    for _ in range(20):
        if chunk := place.source.peek():
            place.source.look_ahead()
            rejected += len(chunk.rejected)
            collected += hand_over(place, chunk)
    assert rejected == 1
    line = LINES[:500].rpartition(b"\n")[2]
    cut = data[: 500 - len(line)] + (line + LONG)[:99] + b"\n"
    assert collected == cut + LINES[500:].partition(b"\n")[2]


def test_behind_a_record_from_a_file_nobody_looks_ahead(tmp_path: Path) -> None:
    """Its bytes aren't the kernel's any more, so nothing lies behind them there."""
    place = Place(tmp_path, Kind(HurriedTcp(), tcp.connected))
    now = 0.0
    place.born(held.Limits(FRAME, FRAME, 0.2), monotonic=lambda: now)
    record, sender = b"R" * (FRAME - 20), place.connect()
    sender.sendall(record)
    for _ in range(4):
        assert place.source.peek() is None
        now += 1.0
    assert place.files(), "its beginning"
    sender.sendall(b"\n" + LINES)
    collected = b""
    while not collected.endswith(LINES[-100:]):
        chunk = place.peek()
        place.source.look_ahead()
        collected += hand_over(place, chunk)
    assert collected.replace(b"\n\n", b"\n") == record + b"\n" + LINES  # an empty line is none
    place.close()


@pytest.mark.parametrize("at", [400, 1000])
def test_an_urgent_byte_stays_where_it_was_sent(place: Place, at: int) -> None:
    """A peek ends before it, so a look ahead shows less than there is."""
    sender = place.connect()
    sender.sendall(LINES[:at])
    sender.send(LINES[at : at + 1], socket.MSG_OOB)
    sender.sendall(LINES[at + 1 :])
    collected = b""
    for _ in range(20):
        if chunk := place.source.peek():
            place.source.look_ahead()
            collected += hand_over(place, chunk)
    assert collected == LINES


def test_frames_that_are_too_long_to_be_held_twice(
    place: Place, kernel: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "AHEAD_BYTES_MAX", FRAME - 1)
    _sender, chunk = flood(place)
    assert kernel.behinds == 0
    assert hand_over(place, chunk) + place.collect() == LINES


def test_a_fleeting_source_does_not_look_ahead(place: Place, kernel: Watched) -> None:
    place.born(fleeting=True)
    _sender, chunk = flood(place)
    assert kernel.behinds == 0
    assert hand_over(place, chunk) + place.collect() == LINES


def test_a_unix_socket_is_not_looked_ahead_of(tmp_path: Path) -> None:
    place = Place(tmp_path, UNIX)
    _sender, chunk = flood(place)
    assert place.kept[0].getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) == len(chunk.body), "its mark"
    assert hand_over(place, chunk) + place.collect() == LINES
    place.close()


class Refusing(Watched):
    """A kernel without the option: it says so at the connection."""

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        self.behinds += 1
        return 0


def test_where_the_kernel_refuses_everything_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path, Kind(Refusing(), tcp.connected))
    Refusing.peeks_behind = True  # type: ignore[assignment]
    _sender, chunk = flood(place)
    assert hand_over(place, chunk) + place.collect() == LINES
    place.close()


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_when_each_byte_comes_once(place: Place, seed: int) -> None:
    """Several senders, looks ahead or none, successors in the middle of a turn."""
    dice = random.Random(seed)
    senders = [place.connect() for _ in range(dice.randint(1, 3))]
    left = {index: b"%d " % index + LINES.replace(b"\n", b"\n%d " % index) for index in range(3)}
    sent = dict.fromkeys(range(len(senders)), b"")
    got: list[bytes] = []
    for _ in range(60):
        index = dice.randrange(len(senders))
        size = dice.choice([1, 50, 700, 1500])
        piece, left[index] = left[index][:size], left[index][size:]
        senders[index].sendall(piece)
        sent[index] += piece
        chunk = place.source.peek()
        if chunk is None:
            continue
        body, claim = bytes(chunk.body), chunk.claim
        if dice.random() < 0.7:
            place.source.look_ahead()
        assert chunk.crc in (None, checksum(body))
        if dice.random() < 0.1:
            again = place.born().again(claim)
            assert again
            assert bytes(again.body) == body
            chunk = again
        got += hand_over(place, chunk).splitlines()
    for sender in senders:
        sender.close()
    got += place.collect().splitlines()
    assert sorted(got) == sorted(line for data in sent.values() for line in data.splitlines())


# ── the kernel ──────────────────────────────────────────────────────────────────────────


class Ignoring(tcp.TcpKernel):
    """It takes the option, and shows the front all the same."""

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        return self.peek(connection, view)


class Sticking(tcp.TcpKernel):
    """The option stays."""

    def peek_behind(self, connection: socket.socket, length: int, view: memoryview) -> int:
        connection.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, length)
        return self.peek(connection, view)


@pytest.mark.parametrize("kernel", [Ignoring(), Sticking()], ids=lambda one: type(one).__name__)
def test_a_kernel_that_shows_something_else_is_not_asked(kernel: tcp.TcpKernel) -> None:
    assert not kernel.peeks_behind


def test_what_cannot_be_tried_is_not_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def connected() -> tuple[socket.socket, socket.socket]:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(tcp, "connected", connected)
    assert not tcp.TcpKernel().peeks_behind


def test_a_socket_without_the_option_shows_nothing_behind() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        ours.close()
        assert tcp.TcpKernel().peek_behind(ours, 2, memoryview(bytearray(4))) == 0


def test_the_offset_rests_when_nothing_lies_behind(kernel: Watched) -> None:
    ours, theirs = tcp.connected()
    with ours, theirs:
        theirs.sendall(b"ab")
        assert kernel.peek_behind(ours, 2, memoryview(bytearray(4))) == 0
        assert ours.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF) == AT_REST
