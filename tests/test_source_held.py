"""Held sources, TCP and Unix: what the shared contract suite can't ask of every kind.

Many connections in one frame, waiting without spinning, fairness, connections that died with
the parent, stopping, and records that the kernel can't hold until their end has come.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import link
from appliance.frame import Gap
from appliance.sources import held
from tests.socket_place import LIMITS, TCP, UNIX, Place

NOT_AT_ONCE_S = 0.3


@pytest.fixture(params=[TCP, UNIX], ids=["tcp", "unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, request.param)
    yield made
    made.close()


# ── a frame in doubt ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["open", "fin", "close"])
def test_a_discarded_frame_is_known_as_such(place: Place, how: str) -> None:
    sender = place.connect()
    sender.sendall(b"a\n")
    noted = place.peek()
    place.source.discard(noted)
    if how == "fin":
        sender.shutdown(socket.SHUT_WR)
    elif how == "close":
        sender.close()
    assert place.born().again(noted.claim) is None


def test_the_rest_of_a_half_discarded_frame_is_discarded(place: Place) -> None:
    first, second = place.connect(), place.connect()
    first.sendall(b"one\n")
    second.sendall(b"two\n")
    noted = place.peek()
    assert len(noted.claim["parts"]) == 2
    cookie = noted.claim["parts"][0][0]
    done = next(one for one in place.kept if link.cookie_of(one) == cookie)
    place.kind.kernel.discard(done, 4, memoryview(bytearray(9)))  # killed between the two calls
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


def test_the_unfinished_last_line_is_a_record_when_the_sender_closes(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nhalf")
    sender.close()
    chunk = place.peek()
    assert bytes(chunk.body) == b"whole\nhalf\n"
    assert chunk.rejected == {}
    place.source.discard(chunk)
    place.source.settle()
    assert list(place.parent.finished()) == [link.cookie_of(place.kept[0])]
    assert place.source.connections == 0


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
    waits, until = 0, time.monotonic() + NOT_AT_ONCE_S
    while (left_s := until - time.monotonic()) > 0:
        place.source.wait(left_s)
        assert place.source.peek() is None
        waits += 1
    assert waits <= 3, "one look may be for the record's beginning, to put it away"
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
