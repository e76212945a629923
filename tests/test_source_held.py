"""Held sources, TCP and Unix: what the shared contract suite can't ask of every kind.

Many connections in one frame, waiting without spinning, fairness, connections that died with
the parent, stopping, and records that the kernel can't hold until their end has come.
"""

import errno
import itertools
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import link
from appliance.contracts import Chunk
from appliance.frame import Gap
from appliance.sources import held, parts, tcp
from appliance.sources.kernel import SO_PEEK_OFF, PlainKernel
from tests.socket_place import LIMITS, PEEKS_BEHIND, TCP, UNIX, HurriedTcp, Kind, Place

NOT_AT_ONCE_S = 0.3
NEVER = 1000

pytestmark = pytest.mark.timeout(60)  # a stream that stalls would hang its test


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


def test_who_cannot_tell_begins_at_the_front_of_what_a_held_one_has_left(place: Place) -> None:
    """Whether the kernel holds is tried anew at each start and reload, and may come to nothing."""
    data = b"".join(b"line %d\n" % number for number in range(100))
    sender = place.connect()
    sender.sendall(data)
    noted = place.peek()
    if place.kind is UNIX or PEEKS_BEHIND:  # as at a kill
        place.kept[0].setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, len(noted.body))
    place.kind = Kind(PlainKernel(), place.kind.connected)
    place.born(fleeting=True)
    sender.close()
    assert place.collect() == data
    assert not place.source.connections


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
    assert [*place.parent.news()] == [link.News(link.cookie_of(place.kept[0]), True, None)]
    assert place.source.connections == 0


def test_unfinished_last_lines_of_several_are_not_one_record(place: Place) -> None:
    senders = [place.connect() for _ in range(3)]
    for sender in senders:
        sender.sendall(b"half")
        sender.close()
    assert place.collect() == b"half\n" * 3


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


def waits(place: Place) -> int:
    """How often it waits, and finds nothing, in a time in which nobody sends."""
    count, until = 0, time.monotonic() + NOT_AT_ONCE_S
    while (left_s := until - time.monotonic()) > 0:
        place.source.wait(left_s)
        assert place.source.peek() is None
        count += 1
    return count


def test_waiting_for_the_rest_of_a_record_does_not_spin(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"whole\nunfinished")
    place.collect()
    assert waits(place) <= 3, "one look may be for the record's beginning, to put it away"
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
    assert isinstance(chunk.body, memoryview), "it was copied"


def test_a_connection_that_goes_on_as_usual_is_not_asked_how_it_stands(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders = [place.connect() for _ in range(3)]
    for sender in senders:
        sender.sendall(b"first\n")
    assert place.collect() == b"first\n" * 3
    asked: list[int] = []
    observe = place.kind.kernel.observe

    def counting(connection: socket.socket) -> Any:
        asked.append(connection.fileno())
        return observe(connection)

    monkeypatch.setattr(type(place.kind.kernel), "observe", lambda _, one: counting(one))
    for number in range(5):
        for sender in senders:
            sender.sendall(b"%d\n" % number)
        assert place.turn() == b"%d\n" % number * 3
    assert asked == []
    senders[0].sendall(b"last\n")
    senders[0].close()
    assert place.collect() == b"last\n"
    assert place.source.connections == 2
    assert 1 <= len(asked) <= 3, "and the others' ends are not asked for"


def test_an_over_long_record_behind_usual_ones_is_skipped_to_its_end(place: Place) -> None:
    sender = place.connect()
    for _ in range(2):
        sender.sendall(b"usual\n")
        assert place.collect() == b"usual\n"
    sender.sendall(b"L" * 250)
    assert place.collect() == b"L" * 99 + b"\n"
    sender.sendall(b"its end\nnext\n")
    assert place.collect() == b"next\n"


@pytest.mark.parametrize("discarded", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_where_it_stands_is_known_to_the_successor_without_asking(
    place: Place, discarded: bool, ends: bool
) -> None:
    sender = place.connect()
    for number in range(3):
        sender.sendall(b"%d\nunfin" % number)
        assert place.collect() == b"%d\n" % number
        sender.sendall(b"ished\n")
        assert place.collect() == b"unfinished\n"
    sender.sendall(b"as usual\n")
    assert place.turn() == b"as usual\n"
    sender.sendall(b"in doubt\n")
    noted = place.peek()
    if discarded:
        place.source.discard(noted)
    if ends:
        sender.close()
    again = place.born().again(noted.claim)
    assert (again is None) == discarded
    assert again is None or bytes(again.body) == b"in doubt\n"


def test_the_more_connections_are_ready_the_longer_they_may_rest(tmp_path: Path) -> None:
    place = Place(tmp_path, TCP)
    now = 100.0
    source = place.born(monotonic=lambda: now)
    senders = [place.connect() for _ in range(20)]
    senders[0].sendall(b"a\n")
    rested = place.peek()
    assert 0 < rested.rest_s <= held.VISIT_REST_S * 2
    source.discard(rested)
    for sender in senders:
        sender.sendall(b"b\n")
    now += 1.0
    rested = place.peek()
    assert rested.rest_s == pytest.approx(held.VISIT_REST_S * 20)
    source.discard(rested)
    for sender in senders:
        sender.sendall(b"c" * 50 + b"\n")
    rested = place.peek()
    assert rested.rest_s == 0, "a full frame puts it off"
    place.close()


def test_nobody_rests_longer_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "VISIT_REST_S", 0.1)
    place = Place(tmp_path, TCP)
    for sender in [place.connect() for _ in range(20)]:
        sender.sendall(b"a\n")
    assert 0.2 < place.peek().rest_s <= held.REST_S_MAX
    place.close()


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


def test_too_many_over_long_records_at_once_wait_for_each_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each note names all connections inside one, and holds only so many of them."""
    monkeypatch.setattr(held, "SKIPPING_MAX", 2)
    senders = [place.connect() for _ in range(6)]
    for number, sender in enumerate(senders):
        sender.sendall(b"%d" % number * 500)
    other = place.connect()
    begun = place.collect()
    assert len(begun.split()) == 2
    other.sendall(b"not held up\n")
    assert place.collect() == b"not held up\n"
    assert waits(place) <= 2, "who waits doesn't make us spin"
    senders[5].close()  # one of those that wait, or not
    for number, sender in enumerate(senders[:5]):
        sender.sendall(b"%d" % number * 500 + b"\nnext %d\n" % number)
    collected = begun.split() + place.collect().split(b"\n")[:-1]
    assert sorted(line for line in collected if line.startswith(b"next")) == [
        b"next %d" % number for number in range(5)
    ]
    assert sorted(line[:1] for line in collected if not line.startswith(b"next")) == [
        b"%d" % number for number in range(6)
    ], "each over-long record is a dead letter, once"


def test_at_a_stop_those_who_wait_for_each_other_end_too(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "SKIPPING_MAX", 1)
    for sender in [place.connect() for _ in range(4)]:
        sender.sendall(b"x" * 500)
    place.collect()
    place.source.stop(quick=True)
    for _ in range(50):
        place.turn(0.01)
    assert place.source.ended


def test_a_connection_that_comes_twice_is_one(place: Place) -> None:
    place.connect().sendall(b"x\n")
    place.parent.send(place.kept[0])
    assert place.collect() == b"x\n"
    assert place.source.connections == 1


# ── records that the kernel can't hold ──────────────────────────────────────────────────

MIB = 1024**2
WIDE = held.Limits(record_bytes_max=4 * MIB, frame_bytes_max=4 * MIB, close_wait_s=0.2)
SMALL_BUFFER_BYTES = 1 << 16
PUMP_S = 0.02  # nobody sends while a test waits
LOOKS_MAX = 2000


class Pump:
    """A sender whose kernel takes little at once; one of its many writes at each look."""

    def __init__(self, place: Place, data: bytes) -> None:
        self.socket = place.connect()
        place.source.peek()  # takes it in
        place.kept[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER_BYTES)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER_BYTES)
        self.socket.setblocking(False)
        self.data = memoryview(data)

    def send(self) -> bool:
        """Send what goes now; whether anything did."""
        try:
            sent = self.socket.send(self.data)
        except BlockingIOError:
            return False
        self.data = self.data[sent:]
        return sent > 0


def pump_all(place: Place, pump: Pump) -> bytes:
    """Send everything; what comes out, up to "behind"."""
    collected = b""
    while not collected.endswith(b"behind\n"):
        pump.send()
        collected += place.turn(PUMP_S)
    return collected


def fill_up(pump: Pump) -> None:
    """Send until the kernel takes no more."""
    while pump.send() or select.select([], [pump.socket], [], PUMP_S)[1]:
        pass


def test_a_record_that_the_kernel_cannot_hold_comes_whole_and_nothing_spins(place: Place) -> None:
    place.born(WIDE)
    record = bytes(range(32, 127)) * 30_000 + b"\n"
    pump, other = Pump(place, b"before\n" + record + b"behind\n"), place.connect()
    collected, looks = b"", 0
    while b"behind\n" not in collected:
        pump.send()
        if looks % 5 == 0:
            other.sendall(b"other\n")
        collected += place.turn(PUMP_S)
        looks += 1
        assert len(place.files()) <= 1
    lines = collected.split(b"\n")
    assert lines.count(b"other") > 3, "nobody waits for the long record"
    assert [line for line in lines if line != b"other"] == [b"before", record[:-1], b"behind", b""]
    assert place.files() == []
    assert looks < LOOKS_MAX


def test_an_over_long_record_that_the_kernel_cannot_hold_is_one_dead_letter(place: Place) -> None:
    place.born(held.Limits(record_bytes_max=MIB, frame_bytes_max=MIB, close_wait_s=0.2))
    pump = Pump(place, b"L" * 5 * MIB + b"\nbehind\n")
    collected, rejected, skipped = b"", [], 0
    while not collected.endswith(b"behind\n"):
        pump.send()
        chunk = place.source.peek()
        if chunk is None:
            place.source.wait(PUMP_S)
            continue
        collected += bytes(chunk.body)
        rejected += list(chunk.rejected.values())
        skipped += chunk.skipped_bytes
        place.source.discard(chunk)
        place.source.settle()
    assert rejected == ["too long"]
    assert len(collected) + skipped == len(b"L" * 5 * MIB + b"\nbehind\n")
    assert place.files() == []


def begun(place: Place, record: bytes = b"r" * 3 * MIB, **how: Any) -> Pump:
    """A sender whose record has a beginning in a file, and more of it in the kernel."""
    place.born(WIDE, **how)
    pump = Pump(place, record)
    while not place.files():
        fill_up(pump)
        place.turn(PUMP_S)
    fill_up(pump)
    return pump


def test_a_lone_byte_behind_a_beginning_waits_for_the_next_and_does_not_spin(
    tmp_path: Path,
) -> None:
    """TCP couldn't tell whether a single byte was discarded, so it stays in the kernel."""
    place = Place(tmp_path, Kind(HurriedTcp(), tcp.connected))
    place.born(monotonic=itertools.count().__next__)  # time flies: at the second look it moves
    sender = place.connect()
    sender.sendall(b"beginn")
    while not place.files():
        assert place.source.peek() is None
    sender.sendall(b"i")
    assert waits(place) <= 2
    sender.sendall(b"ng\nnext\n")
    assert place.collect_slowly(b"next\n") == b"beginning\nnext\n"
    place.close()


def test_a_beginning_is_kept_for_the_successor(place: Place) -> None:
    pump = begun(place)
    place.born(WIDE).resume(None, None)
    pump.data = memoryview(bytes(pump.data) + b"\nbehind\n")
    collected = pump_all(place, pump)
    assert collected == b"r" * 3 * MIB + b"\nbehind\n"


def whole_from_a_file(place: Place) -> Chunk:
    pump = begun(place)
    pump.data = memoryview(bytes(pump.data) + b"\n")
    while (chunk := place.source.peek()) is None:
        pump.send()
        place.source.wait(PUMP_S)
    assert len(chunk.body) == 3 * MIB + 1
    return chunk


def test_a_frame_from_a_file_is_made_again_until_it_was_handed_over(place: Place) -> None:
    noted = whole_from_a_file(place)
    body = bytes(noted.body)
    for _ in range(2):
        source = place.born(WIDE)
        source.resume(None, noted.claim)
        again = source.again(noted.claim)
        assert again is not None
        assert bytes(again.body) == body
        assert again.gaps == ()
        source.discard(again)  # killed behind it
    source.settle()
    assert place.files() == []
    assert place.collect() == b""


def test_a_beginning_that_was_handed_over_is_not_handed_over_again(place: Place) -> None:
    noted = whole_from_a_file(place)
    source = place.born(WIDE)
    source.resume(None, noted.claim)  # W was even: nobody asks `again`
    assert place.collect() == b""
    assert place.files() == []


def test_a_new_beginning_is_not_taken_for_the_one_that_was_handed_over(place: Place) -> None:
    pump = begun(place, b"r" * 3 * MIB + b"\n" + b"s" * 3 * MIB)
    while (noted := place.source.peek()) is None:
        pump.send()
        place.source.wait(PUMP_S)
    assert bytes(noted.body[:2]) == b"rr"
    place.source.discard(noted)
    place.source.settle()
    while not place.files():
        fill_up(pump)
        assert place.turn(PUMP_S) == b""
    place.born(WIDE).resume(None, noted.claim)  # the newest note is of the record before
    pump.data = memoryview(bytes(pump.data) + b"\nbehind\n")
    assert pump_all(place, pump) == b"s" * 3 * MIB + b"\nbehind\n"


def test_a_frame_from_a_file_outlives_its_connection(place: Place) -> None:
    noted = whole_from_a_file(place)
    body = bytes(noted.body)
    place.kept.pop().close()
    source = place.born(WIDE)
    source.resume(None, noted.claim)
    again = source.again(noted.claim)
    assert again is not None
    assert (bytes(again.body), again.gaps) == (body, ())


def test_a_file_that_is_gone_is_a_gap(place: Place) -> None:
    noted = whole_from_a_file(place)
    (file,) = place.folder.glob("*")
    file.unlink()
    source = place.born(WIDE)
    source.resume(None, noted.claim)
    again = source.again(noted.claim)
    assert again is not None
    assert (bytes(again.body), again.gaps) == (b"", (Gap("connection lost", 1, 3 * MIB + 1),))


@pytest.mark.parametrize("whose", ["a dead connection", "another boot"])
def test_what_nobody_asks_for_is_removed(place: Place, whose: str) -> None:
    begun(place)
    if whose == "a dead connection":
        place.kept.pop().close()
    else:
        (file,) = place.folder.glob("*")
        file.rename(file.with_name(file.name.replace("b", "c")))
    place.born(WIDE).resume(None, None)
    assert place.files() == []


def test_an_unfinished_beginning_is_a_record_when_the_sender_closes(place: Place) -> None:
    pump = begun(place)
    collected = b""
    while pump.data:
        pump.send()
        collected += place.turn(PUMP_S)
    pump.socket.close()
    assert place.collect_slowly(b"\n", collected) == b"r" * 3 * MIB + b"\n"
    assert place.source.connections == 0
    assert place.files() == []


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("kind", [Kind(HurriedTcp(), tcp.connected), UNIX], ids=["tcp", "unix"])
@pytest.mark.parametrize("lines", [8, 10, 15], ids=["some room", "little room", "no room"])
def test_a_move_that_was_interrupted_waits_until_there_is_room_to_end_it(
    tmp_path: Path, kind: Kind, lines: int
) -> None:
    """Another connection fills the frame first; nobody spins or dies of it."""

    def die(step: str) -> None:
        if step == "written":
            raise Killed

    place = Place(tmp_path, kind)
    flood, slow = place.connect(), place.connect()
    place.born(monotonic=itertools.count().__next__)
    slow.sendall(b"r" * 60)
    place.steps = die
    with pytest.raises(Killed):
        place.collect()
    place.steps = lambda _step: None
    flood.sendall(b"f" * 19 + b"\n")
    flood.sendall((b"f" * 19 + b"\n") * (lines - 1))
    slow.sendall(b" end\n")
    place.born(monotonic=itertools.count().__next__).resume(None, None)
    stored = place.collect().splitlines()
    assert sorted(stored) == [b"f" * 19] * lines + [b"r" * 60 + b" end"]
    place.close()


def test_a_quick_stop_cuts_a_beginning_behind_what_was_there(place: Place) -> None:
    pump = begun(place)
    place.source.stop(quick=True)
    pump.send()
    chunk = place.peek()
    assert chunk.rejected == {0: "cut"}
    assert len(chunk.body) == 3 * MIB - len(pump.data) + 1 or pump.data
    place.source.discard(chunk)
    place.source.settle()
    while not place.source.ended:
        assert place.source.peek() is None
    assert place.files() == []


@pytest.mark.parametrize("fails_at", [0, 1, 2, NEVER], ids=["data", "note", "keep", "low"])
def test_while_the_disk_is_full_a_record_waits_and_others_go_on(
    place: Place, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or low: what is kept free isn't for senders whose records never end."""
    monkeypatch.setattr(held, "STUCK_LOOK_S", 0.05)
    place.born(WIDE)
    pump, other = Pump(place, b"r" * 3 * MIB + b"\nbehind\n"), place.connect()
    full = FullDisk(fails_at)
    monkeypatch.setattr(os, "pwrite", full)
    place.disk_is_low = fails_at == NEVER
    collected, looks = b"", 0
    until = time.monotonic() + NOT_AT_ONCE_S
    while time.monotonic() < until:
        pump.send()
        collected += place.turn(PUMP_S)
        looks += 1
    assert full.failed or place.disk_is_low
    awaited = "disk_free_min" if place.disk_is_low else "No space left"
    assert awaited in place.source.waiting_for
    assert not (place.disk_is_low and place.files())
    assert looks < LOOKS_MAX
    other.sendall(b"other\n")
    assert place.collect_slowly(b"other\n", collected) == b"other\n"
    full.is_full = place.disk_is_low = False
    collected += pump_all(place, pump)
    assert collected == b"r" * 3 * MIB + b"\nbehind\n"
    assert place.source.waiting_for == ""
    assert place.files() == []


class FullDisk:
    """os.pwrite, where every so-manieth write and all behind it find no room."""

    def __init__(self, fails_at: int) -> None:
        self.is_full, self.failed = True, 0
        self._left = fails_at
        self._write = os.pwrite

    def __call__(self, fd: int, data: Any, at: int) -> int:
        if self.is_full and not self._left:
            self.failed += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._left -= self.is_full
        return self._write(fd, data, at)


def test_where_the_kernel_cannot_tell_a_kill_costs_the_record_and_no_other(place: Place) -> None:
    pump = begun(place)
    pump.data = memoryview(bytes(pump.data) + b"\nbehind\n")
    source = place.born(WIDE, fleeting=True)
    source.resume(None, None)
    assert source.fleeting
    collected = pump_all(place, pump)
    assert collected == b"behind\n"
    assert place.files() == []


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


@pytest.mark.parametrize("quick", [False, True])
def test_a_stop_does_not_wait_when_the_last_sender_has_closed(place: Place, quick: bool) -> None:
    """Its end is seen by a look that shows no chunk, behind which a collector waits."""
    patient = held.Limits(record_bytes_max=100, frame_bytes_max=300, close_wait_s=60)
    place.born(patient)
    sender = place.connect()
    place.collect()
    place.source.stop(quick)
    sender.close()
    began = time.monotonic()
    if not quick:
        place.source.wait(60)
    assert place.source.peek() is None
    place.source.wait(60)
    assert place.source.ended
    assert time.monotonic() - began < 30


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


def test_a_quick_stop_of_very_many_connections_makes_frames_that_fit_a_note(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PARTS_MAX", 25)
    place.born(held.Limits(record_bytes_max=100, frame_bytes_max=10_000, close_wait_s=0.2))
    for _ in range(35):
        place.connect().sendall(b"a\n")
    place.source.stop(quick=True)
    for records in (25, 10):
        chunk = place.peek()
        assert len(chunk.claim["parts"]) == chunk.records == records
        place.source.discard(chunk)
        place.source.settle()
    place.source.peek()
    assert place.source.ended
