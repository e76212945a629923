"""Hostile senders: whatever one of them does, a well-behaved one beside it loses nothing and waits
for nobody.

One instance takes all of it. Each test has a sender `Beside` on the same source, which sends small
records all the time; before the hostile one is gone, each of them has to be a row, once.
"""

import fcntl
import json
import os
import resource
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.daemon import STOP_S, Daemon, connect, send_and_close, until
from tests.system.stores import Sqlite
from tests.system.window import Window

MIB = 1024**2
IN_TIME_S = 15.0  # for the machine's sake; alone, all of it takes one or two
RECORD_BYTES_MAX = 1 * MIB
CONNECTIONS_MAX = 1000
CROWD = 10_000
ENDLESS_BYTES = 200 * MIB
GROWTH_BYTES_MAX = 12 * MIB  # of a process over which an endless record goes
KEPT_BYTES = 64 * 1024  # of an over-long record
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time: close() resets
SOURCES = ("text", "json")

tags = count(1)


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {source: free_port() for source in SOURCES}


@pytest.fixture(scope="module")
def daemon(ports: dict[str, int]) -> Iterator[Daemon]:
    """A running instance with defaults, and one who sends a byte a second to it all the time."""
    sections = [
        f'[source.{source}]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "{source}"\n'
        for source, port in ports.items()
    ]
    with Daemon("".join(sections)) as running:
        send_and_close(ports["text"], [b"the first makes the tables\n"])
        running.until_stored(1)
        with byte_a_second(ports["text"]) as slow:
            yield running
            slow.sendall(b"\n")
        sql = "SELECT raw FROM records WHERE raw LIKE 'slow%'"
        [(raw,)] = until(lambda: Sqlite().rows(running, sql), IN_TIME_S, "the slow one's record")
        assert raw.strip("s") == "low"
        assert running.stop() == 0, running.said()
        assert "restart" not in running.said()
        assert " died " not in running.said()


@contextmanager
def byte_a_second(port: int) -> Iterator[socket.socket]:
    """A record that takes as long as this module."""
    over = threading.Event()
    with connect(port) as connection:
        connection.sendall(b"slow")

        def send() -> None:
            while not over.wait(1.0):
                connection.sendall(b"s")

        thread = threading.Thread(target=send)
        thread.start()
        try:
            yield connection
        finally:
            over.set()
            thread.join()


@pytest.fixture
def window(daemon: Daemon) -> Window:
    """What this test alone has stored."""
    return Window(daemon, Sqlite())


class Beside:
    """A well-behaved sender: fifty records a second over one connection."""

    def __init__(self, daemon: Daemon, port: int) -> None:
        self._daemon = daemon
        self._tag = f"beside {next(tags)}"
        self._connection = connect(port)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def __enter__(self) -> "Beside":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            record = {"beside": self._tag, "n": self.sent}
            self._connection.sendall(json.dumps(record).encode() + b"\n")
            self.sent += 1

    def check(self) -> None:
        """Of what was sent so far, and of a little more, each record is stored once, in time."""
        enough = self.sent + 5
        until(lambda: self.sent >= enough, IN_TIME_S, "it to be let in")
        self._over.set()
        self._thread.join()
        until(lambda: len(self._stored()) >= self.sent, IN_TIME_S, f"{self.sent} records beside")
        assert self._stored() == list(range(self.sent))

    def _stored(self) -> list[int]:
        like = f'{{"beside": "{self._tag}"%'
        sql = f"SELECT raw FROM records WHERE raw LIKE '{like}' ORDER BY seq"
        return [json.loads(raw)["n"] for (raw,) in Sqlite().rows(self._daemon, sql)]


@pytest.fixture(params=["text"])
def port(request: pytest.FixtureRequest, ports: dict[str, int]) -> int:
    return ports[request.param]


@pytest.fixture
def beside(daemon: Daemon, port: int) -> Iterator[Beside]:
    with Beside(daemon, port) as sender:
        yield sender


def rss(pid: int) -> int:
    """Memory of a process that is in use, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def rest_of(window: Window) -> list[bytes]:
    """The new rows but those of well-behaved senders."""
    return [raw for raw in window.raws() if b'"beside"' not in raw]


# ── endless, broken, cut ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("filling", [b"x", b"\r"], ids=["no newline", "carriage returns"])
def test_a_record_without_end_takes_no_memory(
    daemon: Daemon, window: Window, port: int, beside: Beside, filling: bytes
) -> None:
    before = {title: rss(pid) for title, pid in daemon.children().items()}
    with connect(port) as hostile:
        block = memoryview(filling * MIB)
        for _ in range(ENDLESS_BYTES // MIB):
            hostile.sendall(block)
        beside.check()
        grown = {title: rss(pid) - before[title] for title, pid in daemon.children().items()}
        assert max(grown.values()) < GROWTH_BYTES_MAX, grown
        hostile.sendall(b"\nits next record\n")
    until(lambda: rest_of(window) == [b"its next record"], IN_TIME_S, "its next record")
    [(_, raw, code, _)] = window.dead()
    assert code == "too long"
    assert raw in (filling * KEPT_BYTES, filling * (KEPT_BYTES - 1)), "without a line's end"


def test_a_reset_and_an_end_in_the_middle_of_a_record(
    window: Window, port: int, beside: Beside
) -> None:
    for number in range(20):
        with connect(port) as hostile:
            hostile.sendall(b"whole %d\nhalf %d" % (number, number))
            hostile.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    send_and_close(port, [b"an end\nwithout a newline"])
    beside.check()
    until(lambda: len(rest_of(window)) == 22, IN_TIME_S, "22 whole ones")
    ends = [b"an end", b"without a newline"]
    assert sorted(rest_of(window)) == sorted([*ends, *(b"whole %d" % n for n in range(20))])
    until(lambda: len(window.dead()) == 20, IN_TIME_S, "20 halves")
    assert sorted(row[1:3] for row in window.dead()) == sorted(
        (b"half %d" % number, "cut") for number in range(20)
    )


def test_urgent_bytes(window: Window, port: int, beside: Beside) -> None:
    with connect(port) as hostile:
        for _ in range(50):
            hostile.send(b"urg", socket.MSG_OOB)
            hostile.sendall(b"ent\nand")
            hostile.send(b" no", socket.MSG_OOB)
            hostile.sendall(b"t\n")
        beside.check()
        until(lambda: len(rest_of(window)) >= 100, IN_TIME_S, "all of them")
        assert rest_of(window) == [b"urgent", b"and not"] * 50
        assert not window.dead()


# ── floods ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("port", ["json"], indirect=True)
def test_huge_and_deep_json(window: Window, port: int, beside: Beside) -> None:
    huge = [
        json.dumps({"text": "v" * 900_000}).encode(),
        json.dumps({"k" * 900_000: 1}).encode(),
        json.dumps({str(n): n for n in range(60_000)}).encode(),
        json.dumps([[]] * 200_000).encode(),
        b'{"n":' + b"9" * 900_000 + b"}",  # JSON sets numbers no limit, and nobody asks for it
    ]
    refused = [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"broken": "' + b"\\" * 900_001,
        b'{"not": "utf-8 \xff\xfe"}',
        b"\0" * 1000,
        b'"' + b"\0" * 1000 + b'"',
    ]
    with connect(port) as hostile:
        for _ in range(3):
            for record in (*huge, *refused):
                hostile.sendall(record + b"\n")
        beside.check()
        until(lambda: len(window.dead()) == 3 * len(refused), IN_TIME_S, "all dead letters")
        until(lambda: len(rest_of(window)) == 3 * len(huge), IN_TIME_S, "all rows")
    assert rest_of(window) == huge * 3
    assert {code for _, _, code, _ in window.dead()} == {"json", "utf8"}
    for _, raw, _, reason in window.dead():
        assert any(record.startswith(raw) for record in refused)
        assert len(reason) < 1000


def test_a_flood_of_empty_lines(window: Window, port: int, beside: Beside) -> None:
    lines = 4_000_000
    with connect(port) as hostile:
        hostile.sendall(b"\n" * (lines // 2) + b"\r\n" * (lines // 2))
        beside.check()
        until(lambda: window.blank() == lines, IN_TIME_S, "all of them to be counted")
    assert rest_of(window) == []


@pytest.mark.parametrize("port", SOURCES, indirect=True)
def test_a_flood_of_one_byte_records(
    daemon: Daemon, window: Window, port: int, ports: dict[str, int], beside: Beside
) -> None:
    """Rows, or dead letters under JSON, which need far more memory than bytes on the wire."""
    records = 150_000 if port == ports["text"] else 50_000
    with connect(port) as hostile:
        hostile.sendall(b"x\n" * records)
        beside.check()
        window.until_settled(records)
    assert len(rest_of(window)) == (records if port == ports["text"] else 0)
    assert max(rss(pid) for pid in daemon.child_pids()) < 200 * MIB


# ── many ────────────────────────────────────────────────────────────────────────────────


def test_ten_thousand_connections(daemon: Daemon, window: Window, port: int) -> None:
    """A thousand are taken in and say nothing; those that wait are served when these leave."""
    room_for_descriptors(2 * CROWD)
    with ExitStack() as stack, Beside(daemon, port) as beside:
        until(lambda: connections(daemon) >= 2, IN_TIME_S, "the others to be taken in")
        silent = [stack.enter_context(connecting(port)) for _ in range(CONNECTIONS_MAX)]
        until(lambda: connections(daemon) == CONNECTIONS_MAX, IN_TIME_S, "no more room")
        crowd = [Visitor(port, number) for number in range(CROWD - CONNECTIONS_MAX)]
        for visitor in crowd:
            visitor.come()
        assert connections(daemon) == CONNECTIONS_MAX
        beside.check()
        for connection in silent:
            connection.close()
        until(lambda: served(crowd) == len(crowd), STOP_S, "all to be served")
    until(lambda: len(rest_of(window)) >= len(crowd), IN_TIME_S, "all of their records")
    assert sorted(rest_of(window)) == sorted(b"one of %d" % n for n in range(len(crowd)))
    assert daemon.said().count("connections: the next ones wait") == 1


class Visitor:
    """Sends one record and leaves when the other kernel has it.

    Beyond its backlog a kernel forgets who wants to connect, or cuts him: he comes again.
    """

    def __init__(self, port: int, number: int) -> None:
        self._port, self._record = port, b"one of %d\n" % number
        self._connection: socket.socket | None = None
        self._sent = self._served = False

    def come(self) -> None:
        """Begin to connect."""
        self._connection, self._sent = connecting(self._port), False

    def is_served(self) -> bool:
        """Take the next step, if there is one now."""
        if self._served:
            return True
        assert self._connection
        try:
            self._sent = self._sent or self._connection.send(self._record) > 0
            self._served = unacknowledged(self._connection) == 0
        except BlockingIOError:
            return False
        except OSError:
            self._connection.close()
            self.come()
        if self._served:
            self._connection.close()
        return self._served


def served(crowd: list[Visitor]) -> int:
    """How many of them have left, after a step of each."""
    return sum(visitor.is_served() for visitor in crowd)


def unacknowledged(connection: socket.socket) -> int:
    """Bytes that the other kernel may not have; an error if there is no connection any more."""
    connection.getpeername()
    waiting = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(waiting, sys.byteorder)


def room_for_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} descriptors are needed, the hard limit is {hard}")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def connections(daemon: Daemon) -> int:
    status = daemon.try_status()
    return int(status["sources"]["text"]["connections"]) if status else 0


def connecting(port: int) -> socket.socket:
    """One who doesn't wait until he is let in."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", port))
    return connection


# ── gone without a word ─────────────────────────────────────────────────────────────────


def test_a_sender_that_vanishes_is_given_up_and_its_half_record_told_of() -> None:
    """In a network of its own, whose one wire is cut; with shorter times than the real ones."""
    if os.geteuid() != 0:
        pytest.skip("only root may make a network namespace")
    command = ["unshare", "--net", sys.executable, "-m", "tests.system.vanished"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_S)
    if "unshare failed" in done.stderr:
        pytest.skip(f"this root may not make a network namespace: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["whole", "half", "cut", "gone"]
