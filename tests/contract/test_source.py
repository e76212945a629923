"""What every source promises (contracts.Source), over every kind that there is.

A kind joins by a harness: how its sender feeds and ends, how a source object is made, and
what becomes of it at `kill -9`. The suite plays the collector: it notes, pushes, discards and
settles in the order of the real one, dies at any step, and counts what the queue has.
"""

import itertools
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from appliance import framing, link, note
from appliance.acceptor import Acceptor
from appliance.contracts import Chunk, Source
from appliance.frame import Gap
from appliance.framing import TOO_LONG, Ending
from appliance.sources import held, tcp, unix
from appliance.sources.absence import Absence
from appliance.sources.beginnings import Beginnings
from appliance.sources.dialled import DialledSource, Dialler, Target
from appliance.sources.file import FileSource
from appliance.sources.kernel import Kernel, PlainKernel
from appliance.sources.stdin import StdinSource
from tests.socket_place import HurriedTcp

RECORD_BYTES_MAX = 200
FRAME_BYTES_MAX = 300
Connected = Callable[[], tuple[socket.socket, socket.socket]]
STEPS = ("peek", "note", "push", "discard", "handed over", "settle")

# ── one harness a kind ──────────────────────────────────────────────────────────────────


class Harness:
    """A sender, and what of a source outlives its process.

    Attributes:
        survives: a successor finds the bytes of a frame in doubt; fleeting sources don't.
        at_risk_bytes_max: what nobody but a fleeting source's memory may hold.
        drops_lone_newlines: an empty line that comes alone is dropped without a frame, and a
            record's newline that comes alone may count as one.
        has_cursor: chunks say where they begin and end.
        new_source_at_end: the end of input is a setting of the source, not an event.
    """

    survives = True
    at_risk_bytes_max = 0
    drops_lone_newlines = False
    has_cursor = False
    new_source_at_end = False

    def feed(self, data: bytes) -> None:
        """The sender sends these bytes."""
        raise NotImplementedError

    def end(self) -> None:
        """The sender has sent everything (end of file, FIN)."""
        raise NotImplementedError

    def make_source(self, wake: int | None = None) -> Source:
        """The source object of a new process, which knows nothing yet."""
        raise NotImplementedError

    def kill(self, source: Source) -> None:
        """The process of this source dies at once; only what the kernel holds remains."""
        source.close()

    def finished(self, source: Source) -> bool:
        """Whether everything that was fed before `end` has been discarded."""
        return source.ended

    def close(self) -> None:
        """Leave nothing open."""


class FileHarness(Harness):
    """A file that grows while it is followed."""

    has_cursor = True
    new_source_at_end = True

    def __init__(self, folder: Path) -> None:
        self.path = folder / "input.log"
        self.path.touch()
        self.follow = True

    def feed(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def end(self) -> None:
        self.follow = False

    def make_source(self, wake: int | None = None) -> Source:
        return FileSource(
            str(self.path), "beginning", self.follow, RECORD_BYTES_MAX, FRAME_BYTES_MAX, wake=wake
        )


class StdinHarness(Harness):
    """A pipe whose other end the test holds."""

    survives = False
    at_risk_bytes_max = FRAME_BYTES_MAX

    def __init__(self, _folder: Path) -> None:
        self.fd, self.sender = os.pipe()

    def feed(self, data: bytes) -> None:
        assert os.write(self.sender, data) == len(data)

    def end(self) -> None:
        os.close(self.sender)
        self.sender = -1

    def make_source(self, wake: int | None = None) -> Source:
        return StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=self.fd, wake=wake)

    def close(self) -> None:
        for fd in (self.fd, self.sender):
            if fd >= 0:
                os.close(fd)


class SocketHarness(Harness):
    """One connection that the parent accepted and keeps a duplicate of."""

    kernel: Kernel
    how: ClassVar[dict[str, Any]] = {}

    def __init__(self, folder: Path, connected: Connected) -> None:
        self.kept, self.sender = connected()
        self.numbers = itertools.count(1)
        self.beginnings = Beginnings(folder / "beginnings", "boot", lambda: next(self.numbers))
        self.quiet = os.eventfd(0)
        self.finished_cookies: list[int] = []

    def feed(self, data: bytes) -> None:
        self.sender.sendall(data)

    def end(self) -> None:
        self.sender.shutdown(socket.SHUT_WR)

    def make_source(self, wake: int | None = None) -> Source:
        limits = held.Limits(RECORD_BYTES_MAX, FRAME_BYTES_MAX, close_wait_s=0.2)
        parent, child = link.pair()
        inherited = [(link.cookie_of(self.kept), self.kept.dup())]
        source = held.HeldSource(
            self.kernel,
            child,
            WakeFd(self.quiet if wake is None else wake),
            limits,
            self.beginnings,
            inherited,
            **self.how,
        )
        self.wires = (parent, child)
        return source

    def kill(self, source: Source) -> None:
        source.close()
        for wire in self.wires:
            wire.close()

    def finished(self, source: Source) -> bool:
        """The connection's end is reported when it is empty; a listening source never ends."""
        self.finished_cookies += [news.cookie for news in self.wires[0].news()]
        return link.cookie_of(self.kept) in self.finished_cookies

    def close(self) -> None:
        for thing in (self.sender, self.kept, *self.wires):
            thing.close()
        os.close(self.quiet)


class DialledHarness(Harness):
    """A server that takes one connection, which the source makes and the parent keeps."""

    kernel: Kernel
    listener: socket.socket
    address: str

    def find(self) -> list[Target]:
        """Where the server is."""
        raise NotImplementedError

    def __init__(self, folder: Path) -> None:
        self.beginnings = Beginnings(folder / "beginnings", "boot", time.monotonic_ns)
        self.absence = folder / "absence"
        self.acceptor = Acceptor("dialled", list, unix.prepare, 1)
        self.quiet = os.eventfd(0)
        self.sender: socket.socket | None = None
        self.unsent = b""
        self.wire: link.ChildEnd | None = None
        self.cookie = 0

    def feed(self, data: bytes) -> None:
        """What is sent before anybody has come is sent when somebody does."""
        if self.sender:
            self.sender.sendall(data)
        else:
            self.unsent += data

    def end(self) -> None:
        assert self.sender
        self.sender.shutdown(socket.SHUT_WR)

    def make_source(self, wake: int | None = None) -> Source:
        limits = held.Limits(RECORD_BYTES_MAX, FRAME_BYTES_MAX, close_wait_s=0.2)
        self.wire = self.acceptor.birth()
        dialler = Dialler(
            self.address,
            self.find,
            unix.prepare,
            self.wire,
            [(cookie, one.dup()) for cookie, one in self.acceptor.connections],
            chance=lambda: 0.0,
        )
        source = DialledSource(
            self.kernel,
            dialler,
            WakeFd(self.quiet if wake is None else wake),
            limits,
            self.beginnings,
            absence=Absence(self.absence, note.replace_file),
        )
        if not self.sender:
            self.sender = self.take(source)
            self.sender.sendall(self.unsent)
        return source

    def take(self, source: Source) -> socket.socket:
        """The one connection; from here on nobody else is taken."""
        for _ in ("resolve", "connect"):
            source.wait(0)
        assert source.peek() is None
        assert source.connections == 1
        self.acceptor.hear()
        ((self.cookie, _connection),) = self.acceptor.connections
        with self.listener:
            return self.listener.accept()[0]

    def kill(self, source: Source) -> None:
        source.close()
        assert self.wire
        self.wire.close()

    def finished(self, source: Source) -> bool:
        """The parent has let go of the connection; the source itself never ends."""
        self.acceptor.hear()
        return self.cookie not in dict(self.acceptor.connections)

    def close(self) -> None:
        self.listener.close()
        self.acceptor.close_in_child()
        if self.sender:
            self.sender.close()
        if self.wire:
            self.wire.close()
        os.close(self.quiet)


class DialledTcpHarness(DialledHarness):
    """The same over TCP."""

    kernel = tcp.TcpKernel()
    drops_lone_newlines = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "{}:{}".format(*self.listener.getsockname())

    def find(self) -> list[Target]:
        return tcp.find(self.address)


class DialledUnixHarness(DialledHarness):
    """The same over a Unix socket."""

    kernel = unix.UnixKernel()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.address = str(folder / "feed.sock")
        self.listener.bind(self.address)
        self.listener.listen()

    def find(self) -> list[Target]:
        return unix.find(self.address)


class Hurried(SocketHarness):
    """Time flies: the beginning of a record moves into its file at the first look."""

    how: ClassVar[dict[str, Any]] = {"monotonic": itertools.count().__next__}


class TcpHarness(SocketHarness):
    """TCP, whose lone bytes can't be told from a FIN."""

    kernel = tcp.TcpKernel()
    drops_lone_newlines = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, tcp.connected)


class UnixHarness(SocketHarness):
    """A Unix socket."""

    kernel = unix.UnixKernel()

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, unix.connected)


class HurriedTcpHarness(Hurried, TcpHarness):
    """TCP that doesn't tell when it will hold no more, so that the source looks at the clock."""

    kernel = HurriedTcp()


class HurriedUnixHarness(Hurried, UnixHarness):
    """A Unix socket in a hurry."""


class FleetingHarness(SocketHarness):
    """A Unix socket, where the kernel can't say what was read for good."""

    kernel = PlainKernel()
    how: ClassVar[dict[str, Any]] = {"fleeting": True}
    survives = False
    at_risk_bytes_max = FRAME_BYTES_MAX + RECORD_BYTES_MAX

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, unix.connected)


@dataclass
class WakeFd:
    """What a signal makes readable; the test writes to it."""

    fd: int

    def fileno(self) -> int:
        return self.fd

    def clear(self) -> None:
        """The test's own business."""


class HurriedFleetingHarness(Hurried, FleetingHarness):
    """The same in a hurry: what it moves into a file is no use to a successor either."""

    how: ClassVar[dict[str, Any]] = FleetingHarness.how | Hurried.how


HARNESSES: list[Callable[[Path], Harness]] = [
    FileHarness,
    StdinHarness,
    TcpHarness,
    DialledTcpHarness,
    DialledUnixHarness,
    HurriedTcpHarness,
    UnixHarness,
    HurriedUnixHarness,
    FleetingHarness,
    HurriedFleetingHarness,
]


@pytest.fixture(params=HARNESSES, ids=lambda kind: kind.__name__.removesuffix("Harness").lower())
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    made: Harness = request.param(tmp_path)
    yield made
    made.close()


# ── the collector, as far as a source sees it ───────────────────────────────────────────


class Died(Exception):
    """The process was killed here."""


@dataclass
class Pushed:
    """A frame as the queue has it."""

    body: bytes
    records: int
    rejected: dict[int, str]
    gaps: tuple[Gap, ...]
    skipped_bytes: int
    cursor_before: str | None
    cursor_after: str | None


@dataclass
class Collector:
    """A process that may die and be born again; `queue` and the note outlive it."""

    harness: Harness
    wake: int | None = None
    queue: dict[int, Pushed] = field(default_factory=dict)
    number: int = 0  # of the last frame handed over
    note: str | None = None  # of the frame in doubt: its claim, as text
    cursor: str | None = None
    claim: Any = None  # of the newest note
    die_at: str | None = None
    source: Source = field(init=False)

    def __post_init__(self) -> None:
        self.source = self.harness.make_source(self.wake)
        self.source.resume(None, None)

    def kill(self) -> None:
        """Die, be reaped, and have a successor that knows the note."""
        self.die_at = None
        self.harness.kill(self.source)
        self.source = self.harness.make_source(self.wake)
        self.source.resume(self.cursor, self.claim)
        if self.note is None:
            return
        chunk = self.source.again(json.loads(self.note))
        if chunk is None:
            self.number += 1  # handed over, or lost with its number
            self.note = None
        else:
            self._hand_over(chunk)

    def turn(self) -> bool:
        """One turn; False if there was nothing to show."""
        chunk = self.source.peek()
        if chunk is None:
            return False
        self._step("peek")
        self.note = json.dumps(chunk.claim)
        self.claim = json.loads(self.note)
        self._step("note")
        self._hand_over(chunk)
        return True

    def _hand_over(self, chunk: Chunk) -> None:
        self._push(chunk)
        self._step("push")
        self.source.discard(chunk)
        self._step("discard")
        self.number, self.note, self.cursor = self.number + 1, None, chunk.cursor_after
        self._step("handed over")
        self.source.settle()
        self._step("settle")

    def _push(self, chunk: Chunk) -> None:
        pushed = Pushed(
            bytes(chunk.body),
            chunk.records,
            chunk.rejected,
            chunk.gaps,
            chunk.skipped_bytes,
            chunk.cursor_before,
            chunk.cursor_after,
        )
        had = self.queue.setdefault(self.number + 1, pushed)
        assert had == pushed, "the same number must bring the same frame"
        assert pushed.records == pushed.body.count(b"\n")
        assert pushed.body.endswith(b"\n") or not pushed.body

    def _step(self, step: str) -> None:
        if step == self.die_at:
            raise Died(step)

    def turn_or_die(self, step: str) -> None:
        """One turn with a kill behind this step, if the turn gets there."""
        self.die_at = step
        try:
            self.turn()
        except Died:
            self.kill()
        self.die_at = None

    def end(self) -> None:
        self.harness.end()
        if self.harness.new_source_at_end:
            self.kill()

    def finish(self) -> None:
        """Turn until everything is handed over."""
        deadline = time.monotonic() + 10
        while not self.harness.finished(self.source):
            assert time.monotonic() < deadline, "the source doesn't come to its end"
            if not self.turn():
                self.source.wait(0.2)

    @property
    def got(self) -> tuple[bytes, dict[int, str], int]:
        """All frames as one: body, rejected by index, bytes skipped."""
        body, skipped, records = b"", 0, 0
        rejected: dict[int, str] = {}
        for _, frame in sorted(self.queue.items()):
            body += frame.body
            rejected |= {records + index: code for index, code in frame.rejected.items()}
            records += frame.records
            skipped += frame.skipped_bytes
        return body, rejected, skipped


def framed(data: bytes) -> tuple[bytes, dict[int, str], int]:
    """What must come out of these bytes (test_framing.py proves `cut` itself)."""
    buffer = bytearray(data)
    cut = framing.cut(
        buffer, 0, len(buffer), record_bytes_max=RECORD_BYTES_MAX, ending=Ending.CLEAN
    )
    return bytes(cut.body(buffer)), cut.rejected, cut.skipped_bytes


Framed = tuple[bytes, dict[int, str], int]


def without_empty_lines(framed: Framed) -> Framed:
    """The same without empty lines, which are keep-alives."""
    body, rejected, skipped = framed
    kept = [(at, line) for at, line in enumerate(body.split(b"\n")[:-1]) if line]
    moved = {new: rejected[old] for new, (old, _) in enumerate(kept) if old in rejected}
    return b"".join(line + b"\n" for _, line in kept), moved, skipped


def same_lines(harness: Harness, got: Framed, wanted: Framed) -> bool:
    """Whether both are the same, as far as this kind of source keeps empty lines."""
    if harness.drops_lone_newlines:
        got, wanted = without_empty_lines(got), without_empty_lines(wanted)
    assert got == wanted
    return True


def lines(rng: random.Random, count: int) -> bytes:
    """Numbered lines of many kinds: short, blank, CRLF, NUL, exactly full, over-long."""
    kinds = ["", "\0", "\r", "x" * 30, "x" * 150, "y" * 700, "é😀"]
    out = b""
    for number in range(count):
        line = f"<{number:04}>{rng.choice(kinds)}".encode()
        out += rng.choice([line, line, line.ljust(RECORD_BYTES_MAX - 1, b"="), b""]) + b"\n"
    return out


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The data in pieces of any size, cut anywhere."""
    while data:
        size = rng.choice([1, 5, 60, 200, 900])
        yield data[:size]
        data = data[size:]


# ── promises ────────────────────────────────────────────────────────────────────────────


def test_everything_comes_as_it_was_and_an_unfinished_last_line_is_a_record(
    harness: Harness,
) -> None:
    data = lines(random.Random(1), 60) + b"no newline behind this"
    harness.feed(data)
    collector = Collector(harness)
    collector.end()
    collector.finish()
    assert collector.got == framed(data)
    assert all(len(frame.body) <= FRAME_BYTES_MAX for frame in collector.queue.values())


@pytest.mark.parametrize("seed", range(8))
def test_any_splitting_by_the_sender_gives_the_same(harness: Harness, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    data = lines(rng, 40) + b"end"
    collector = Collector(harness)
    for piece in pieces(rng, data):
        harness.feed(piece)
        for _ in range(rng.randrange(4)):
            collector.turn()
    collector.end()
    collector.finish()
    assert same_lines(harness, collector.got, framed(data))


def test_what_is_shown_stays_until_it_is_discarded(harness: Harness) -> None:
    harness.feed(b"one\ntwo\nunfin")
    source = Collector(harness).source
    chunk = source.peek()
    assert chunk is not None
    harness.feed(b"ished\nmore\n")
    assert source.peek() is chunk
    assert (bytes(chunk.body), chunk.records) == (b"one\ntwo\n", 2)
    assert json.loads(json.dumps(chunk.claim)) == chunk.claim
    assert 0 < time.time() - chunk.first_received < 10
    assert chunk.first_received <= chunk.last_received
    source.discard(chunk)
    chunk = source.peek()
    assert chunk is not None
    assert bytes(chunk.body) == b"unfinished\nmore\n"
    source.close()


def test_an_unfinished_line_waits(harness: Harness) -> None:
    harness.feed(b"unfin")
    source = Collector(harness).source
    assert source.peek() is None
    harness.feed(b"ished\n")
    chunk = source.peek()
    assert chunk is not None
    assert bytes(chunk.body) == b"unfinished\n"
    source.close()


def test_an_over_long_record_is_one_dead_letter(harness: Harness) -> None:
    collector = Collector(harness)
    harness.feed(b"before\n" + b"L" * 1000)
    for _ in range(10):
        collector.turn()
    assert collector.got[1] == {1: TOO_LONG}, "it doesn't wait for the end"
    harness.feed(b"L" * 1000 + b"\nafter\n")
    collector.end()
    collector.finish()
    kept = RECORD_BYTES_MAX - 1
    assert collector.got == (
        b"before\n" + b"L" * kept + b"\nafter\n",
        {1: TOO_LONG},
        2000 - kept,
    )


@pytest.mark.parametrize("step", ["not at all", "push", "discard"])
def test_a_frame_has_a_limited_number_of_records(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    data = b"a\n\nb\n" * 20 + b"L" * 700 + b"\n" + b"c\n" * 20 + b"last"
    expected = framed(data)
    monkeypatch.setattr(framing, "RECORDS_MAX", 5)
    harness.feed(data)
    collector = Collector(harness)
    collector.turn_or_die(step)
    collector.turn_or_die(step)
    collector.end()
    collector.finish()
    assert max(frame.records for frame in collector.queue.values()) <= 5 + 1
    if harness.survives or step == "not at all":
        assert same_lines(harness, collector.got, expected)


def test_wait_ends_by_time_by_bytes_and_by_the_wake_descriptor(harness: Harness) -> None:
    wake, waker = os.pipe()
    source = Collector(harness, wake).source
    assert source.peek() is None
    assert 0.04 < seconds(lambda: source.wait(0.05)) < 0.5
    later = threading.Timer(0.05, harness.feed, [b"here\n"])
    later.start()
    assert seconds(lambda: source.wait(30)) < 0.9
    assert source.peek() is not None
    assert seconds(lambda: source.wait(30)) < 0.5, "there is something to show"
    discarded = source.peek()
    assert discarded is not None
    source.discard(discarded)
    assert source.peek() is None
    os.write(waker, b"!")
    assert seconds(lambda: source.wait(30)) < 0.5
    later.join()
    source.close()
    os.close(wake)
    os.close(waker)


def seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def test_stop_keeps_what_is_shown_and_then_ends(harness: Harness) -> None:
    harness.feed(b"one\n")
    collector = Collector(harness)
    assert collector.source.peek() is not None
    collector.source.stop(quick=True)
    assert not collector.source.ended, "a chunk is still shown"
    harness.feed(b"too late\n")
    collector.finish()
    assert collector.got[0] == b"one\n"
    collector.source.stop(quick=True)
    collector.source.close()
    collector.source.close()


def test_a_cursor_source_says_where_each_chunk_begins_and_ends(harness: Harness) -> None:
    harness.feed(lines(random.Random(2), 30))
    collector = Collector(harness)
    collector.end()
    collector.finish()
    frames = [frame for _, frame in sorted(collector.queue.items())]
    assert len(frames) > 3
    if not harness.has_cursor:
        assert all(f.cursor_before is f.cursor_after is None for f in frames)
        return
    assert frames[0].cursor_before is None
    for one, next_one in itertools.pairwise(frames):
        assert one.cursor_after == next_one.cursor_before != one.cursor_before


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("turn", range(4))
def test_killed_behind_any_step_each_record_comes_once(
    harness: Harness, step: str, turn: int
) -> None:
    data = lines(random.Random(turn), 12) + b"L" * 900 + b"\nlast"
    harness.feed(data)
    collector = Collector(harness)
    for _ in range(turn):
        collector.turn()
    collector.turn_or_die(step)
    collector.end()
    collector.finish()
    check(harness, collector, data)


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_random_each_record_comes_once(harness: Harness, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    data = lines(rng, 50)
    collector = Collector(harness)
    for piece in pieces(rng, data):
        harness.feed(piece)
        for _ in range(rng.randrange(3)):
            collector.turn_or_die(rng.choice([*STEPS, "not at all", "not at all"]))
    collector.end()
    collector.finish()
    check(harness, collector, data)


def check(harness: Harness, collector: Collector, data: bytes) -> None:
    """Everything once; of a fleeting source nothing twice, and nothing out of order."""
    if harness.survives:
        assert same_lines(harness, collector.got, framed(data))
        assert not any(frame.gaps for frame in collector.queue.values())
        return
    at = 0
    for line in collector.got[0].split(b"\n"):
        found = data.find(line, at)
        assert found >= 0, f"{line!r} came twice, or out of order, or from nowhere"
        at = found + len(line)


# ── what a kill would cost ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(4))
def test_what_is_at_risk_is_what_a_kill_costs(harness: Harness, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    collector = Collector(harness)
    fed = 0
    for _ in range(rng.randrange(1, 8)):
        count = rng.randrange(12)
        harness.feed(b"".join(b"%d\n" % number for number in range(fed, fed + count)))
        fed += count
        rng.choice([collector.source.peek, collector.turn])()
    for part in (b"the last, un", b"finished", *([b", whole after all\n"] if seed % 2 else [])):
        harness.feed(part)
        if seed > 1 and not part.endswith(b"\n"):
            collector.turn()
        for _ in range(3):  # it may move into a file, where there is one for it
            collector.source.peek()
    at_risk = collector.source.at_risk
    assert at_risk.bytes <= harness.at_risk_bytes_max
    assert (at_risk.records > 0) == (at_risk.bytes > 0)
    collector.kill()
    collector.end()
    collector.finish()
    assert sum(frame.records for frame in collector.queue.values()) == fed + 1 - at_risk.records


def test_a_flood_that_nobody_takes_puts_no_more_at_risk_than_it_may(harness: Harness) -> None:
    source = Collector(harness).source
    seen = []
    for number in range(50):
        harness.feed(b"%d %s\nunfinished" % (number, b"x" * (37 * number % 250)))
        source.peek()
        seen.append(source.at_risk.bytes)
    assert max(seen) <= harness.at_risk_bytes_max
    assert any(seen) == (not harness.survives)
    source.close()


def test_who_leaves_is_gone_on_with_and_no_sender_notices(harness: Harness) -> None:
    data = lines(random.Random(5), 20) + b"unfin"
    harness.feed(data)
    collector = Collector(harness)
    collector.turn()
    collector.source.leave()
    while not collector.source.ended:
        collector.turn()
    collector.source.leave()
    if not harness.survives:  # nobody else holds what it had: it was handed over
        check(harness, collector, data)
        return
    collector.source.wait(10.0)  # doesn't: there is nothing to wait for
    handed_over = len(collector.queue)
    collector.kill()
    sender = getattr(harness, "sender", None)
    if isinstance(sender, socket.socket):
        sender.setblocking(False)
        with pytest.raises(BlockingIOError):  # no end is to be seen
            sender.recv(1)
    harness.feed(b"ished\n")
    collector.end()
    collector.finish()
    assert len(collector.queue) > handed_over
    check(harness, collector, data + b"ished\n")
