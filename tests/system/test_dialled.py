"""A server that we dial: away, there, away again, with half a record, with a reset.

The server counts: what it has sent and seen acknowledged is stored, each record once, and nobody
but itself ever ends a connection, however often the collector is killed.
"""

import fcntl
import os
import random
import signal
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.sources import tcp
from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, until
from tests.system.killer import self_kills
from tests.system.records import Records
from tests.system.stores import MariaDB, StoreUnderTest, until_rows

WAIT_S = 30.0
KILLS = 20
OUTSIDE_KILL_EACH = 20  # pieces
STREAM_BYTES = 6 * 1024**2
STEPS = {
    **dict.fromkeys(("shared", "connecting", "connected"), 0.2),
    **dict.fromkeys(("peeked", "noted", "pushed", "discarded", "done"), 0.12),
}
MISSED = "WARNING collector s: waiting for a connection to 127.0.0.1"
FOUND = "INFO    collector s: no longer waiting for a connection to 127.0.0.1"
HALF = b"half of a record, and then"


class Feed:
    """A server that sends to whoever connects; here or away."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener: socket.socket | None = None
        self._connection: socket.socket | None = None

    def come(self) -> None:
        """Listen, and take the one who connects."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self.take()

    def take(self) -> None:
        """Take the next one who connects."""
        assert self._listener
        self._listener.settimeout(WAIT_S)
        self._connection, _address = self._listener.accept()
        self._connection.settimeout(WAIT_S)

    def send(self, data: bytes) -> None:
        """Send, and see that nobody has cut us."""
        assert self._connection
        self._connection.sendall(data)

    def until_acknowledged(self) -> None:
        until(self._is_acknowledged, WAIT_S, "the daemon's kernel to have it all")

    def _is_acknowledged(self) -> bool:
        assert self._connection
        waiting = fcntl.ioctl(self._connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        return struct.unpack("i", waiting) == (0,)

    def until_closed(self) -> None:
        """Wait until the other side has said that it closes; it sends nothing before."""
        assert self._connection
        assert self._connection.recv(1) == b""

    def close(self) -> None:
        """End the connection cleanly."""
        assert self._connection
        self._connection.close()

    def reset(self) -> None:
        assert self._connection
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()

    def go(self) -> None:
        """Be away; nobody has connected but those that were taken."""
        assert self._listener
        self._listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            self._listener.accept()
        self._listener.close()
        self._listener = None

    def leave(self) -> None:
        for one in (self._listener, self._connection):
            if one:
                one.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def feed(port: int) -> Iterator[Feed]:
    made = Feed(port)
    yield made
    made.leave()


def config(port: int, more: str) -> str:
    return (
        f'[source.s]\ntype = "tcp"\nconnect = "127.0.0.1:{port}"\n'
        f'frame_bytes_max = "64KiB"\nrecord_bytes_max = "8KiB"\n{more}'
    )


def waiting(daemon: Daemon) -> bool:
    status = daemon.try_status()
    return bool(status) and "Connection refused" in status["sources"]["s"]["waiting_for"]


def kill_collector(daemon: Daemon) -> None:
    """Kill it, if it isn't dead anyway, and wait for its successor."""
    killed = collector(daemon)
    if killed:
        daemon.kill_child(killed)
    until(lambda: collector(daemon) not in (None, killed), WAIT_S, "its successor")


def collector(daemon: Daemon) -> int | None:
    status = daemon.try_status()
    return status["sources"]["s"]["pid"] if status else None


def test_it_goes_away_comes_back_and_resets_while_the_collector_is_killed(
    redis_server: PrivateRedis, mariadb_store: MariaDB, port: int, feed: Feed, seed: int
) -> None:
    records, dice = Records(seed), random.Random(seed)
    queue = f'[queue]\nurl = "{redis_server.address}"\n'
    text = f'name = "dialled{seed}"\n{config(port, queue + mariadb_store.section())}'
    with Daemon(text, crash=self_kills(STEPS, KILLS, seed)) as daemon:
        until(lambda: waiting(daemon), WAIT_S, "the server to be missed")
        assert daemon.run("status").returncode == 2
        feed.come()
        for at, piece in enumerate(records.pieces(STREAM_BYTES)):
            feed.send(piece)
            if at % OUTSIDE_KILL_EACH == dice.randrange(OUTSIDE_KILL_EACH):
                kill_collector(daemon)
        number, records.sent = records.sent, records.sent + 1
        feed.send(records.line(number))  # its end is the connection's
        feed.go()
        feed.close()
        until_rows(mariadb_store, daemon, records.sent)
        until(lambda: waiting(daemon), WAIT_S, "the server to be missed again")
        before = len(daemon.said())
        until(lambda: MISSED in daemon.said()[before:], WAIT_S, "a line that says so")
        feed.come()
        until(lambda: FOUND in daemon.said()[before:], WAIT_S, "a line that says so")
        assert probed_in_s(port) <= tcp.SERVER.idle_s
        feed.send(records.block() + HALF)
        feed.until_acknowledged()
        kill_collector(daemon)
        feed.reset()
        feed.take()
        feed.send(records.block())
        until_rows(mariadb_store, daemon, records.sent)
        kill_collector(daemon)
        feed.send(records.block())
        feed.go()
        daemon.signal(signal.SIGTERM)
        feed.until_closed()
        feed.send(records.block())
        feed.close()
        assert daemon.wait() == 0, daemon.said()
        said = daemon.said()[before:]
        assert (said.count(MISSED), said.count(FOUND)) == (1, 1), "one outage, two lines"
        crashes = daemon.crashes()
        assert len(crashes) == KILLS, crashes
        daemon.start()  # a stop leaves queued what isn't stored yet
        feed.come()
        feed.send(records.block())
        until_rows(mariadb_store, daemon, records.sent)
        check(daemon, mariadb_store, records, f"dialled{seed}")


def probed_in_s(port: int) -> float:
    """When the kernel asks the server next whether it is there (proc_net_tcp: timer 2)."""
    established, keepalive = "01", "02"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _slot, _local, remote, state, _queues, timer, *_ = line.split()
        kind, _, due = timer.partition(":")
        if (remote.endswith(f":{port:04X}"), state, kind) == (True, established, keepalive):
            return int(due, 16) / os.sysconf("SC_CLK_TCK")
    raise AssertionError("the server isn't probed at all")


def check(daemon: Daemon, store: StoreUnderTest, records: Records, name: str) -> None:
    """All that was sent is stored once, half a record is a dead letter, each absence a gap."""
    records.check(store.raws(daemon), records.sent)
    dead = store.rows(daemon, f"SELECT code, raw FROM {name}_dead")
    assert [tuple(row) for row in dead] == [("cut", HALF)]
    gaps = store.rows(daemon, f"SELECT cause, records FROM {name}_gaps ORDER BY began_at")
    print(
        [
            tuple(r)
            for r in store.rows(
                daemon, f"SELECT cause, began_at, ended_at FROM {name}_gaps ORDER BY gap"
            )
        ]
    )
    assert [tuple(row) for row in gaps] == [
        ("source down", None),  # it went away, for as long as it was missed
        ("cut", None),
        ("source down", None),  # it reset
        ("stopped", None),
    ]
