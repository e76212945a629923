"""TCP as a held source: what only TCP does.

An end that comes between note and discard and may count as a byte, lone bytes, resets, urgent
bytes. What all held sources do is in test_source_held.py.
"""

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import AddressError
from appliance.sources import held, tcp
from tests.socket_place import TCP, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, TCP)
    yield made
    made.close()


def reset(sender: socket.socket) -> None:
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sender.close()


# ── a frame in doubt ────────────────────────────────────────────────────────────────────


def test_bytes_that_arrive_while_it_is_looked_at_move_no_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was read for good is the difference of two numbers, which are read one by one."""
    ours, theirs = tcp.connected()
    readable = tcp.readable
    late = [b"de"]

    def arriving(connection: socket.socket) -> int:
        if late:
            theirs.sendall(late.pop())
            wait_for(5)
        return readable(connection)

    def wait_for(available: int) -> None:
        while readable(ours) < available:
            time.sleep(0.001)

    with ours, theirs:
        theirs.sendall(b"abc")
        wait_for(3)
        monkeypatch.setattr(tcp, "readable", arriving)
        seen = tcp.TcpKernel().observe(ours)
        assert (seen.available, seen.position) == (5, 0)


class Calls(socket.socket):
    """Counts what is read of it."""

    count = 0

    def recv_into(self, *how: Any) -> int:
        self.count += 1
        return super().recv_into(*how)


def test_a_frame_is_discarded_in_one_call_whatever_the_limits_are_now(place: Place) -> None:
    """Killed between two calls, it would count as discarded, and its rest be shown once more."""
    place.connect().sendall(b"12345678\n" * 20)
    noted = place.peek()
    narrower = held.Limits(record_bytes_max=50, frame_bytes_max=50, close_wait_s=0.2)
    source = place.born(narrower)
    (connection,) = source._connections.values()
    calls = connection.socket = Calls(fileno=connection.socket.detach())
    again = source.again(noted.claim)
    assert again is not None
    calls.count = 0
    source.discard(again)
    assert calls.count == 1
    assert source.peek() is None


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


def test_a_discarded_frame_is_known_as_such_behind_a_reset(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"a\n")
    noted = place.peek()
    place.source.discard(noted)
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


# ── reading ─────────────────────────────────────────────────────────────────────────────


def test_a_lone_newline_behind_usual_records_gets_no_frame_either(place: Place) -> None:
    sender = place.connect()
    for _ in range(2):
        sender.sendall(b"usual\n")
        assert place.collect() == b"usual\n"
    sender.sendall(b"\n")
    assert place.collect() == b""
    sender.sendall(b"next\n")
    assert place.collect().endswith(b"next\n")


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


@pytest.mark.parametrize("before", [b"whole\n", b"whole\nbe", b"be", b"x" * 90])
@pytest.mark.parametrize("killed", [False, True])
def test_an_urgent_byte_is_a_byte(place: Place, before: bytes, killed: bool) -> None:
    """A peek ends before it, so the record's beginning moves into a file."""
    sender = place.connect()
    sender.sendall(before)
    sender.send(b"f", socket.MSG_OOB)
    sender.sendall(b"ore\nbeh")
    collected = b""
    for _ in range(4):
        collected += place.turn(0.01)
        if killed:
            place.born().resume(None, None)
    sender.send(b"in", socket.MSG_OOB)
    sender.sendall(b"d\n")
    collected = place.collect_slowly(b"behind\n", collected)
    assert collected == before + b"fore\nbehind\n"
    assert place.files() == []


@pytest.mark.parametrize("before", [b"", b"whole\n"])
def test_a_lone_byte_before_an_urgent_one_is_given_up_and_stalls_nothing(
    place: Place, before: bytes
) -> None:
    """Nobody could tell whether it was moved."""
    sender = place.connect()
    sender.sendall(before + b"b")
    sender.send(b"e", socket.MSG_OOB)
    sender.sendall(b"fore\nbehind\n")
    collected = place.collect_slowly(b"behind\n")
    assert collected in (before + b"efore\nbehind\n", before + b"b\nefore\nbehind\n")


def test_an_address_that_is_taken_is_a_clear_error() -> None:
    with tcp.listen("127.0.0.1:0")[0] as listener:
        port = listener.getsockname()[1]
        with pytest.raises(AddressError, match=f"127.0.0.1:{port}"):
            tcp.listen(f"127.0.0.1:{port}")
