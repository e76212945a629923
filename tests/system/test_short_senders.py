"""Senders that connect, say all they have and leave, around the stop of an instance.

Nobody holds their records but our kernel, and nobody is there to send them again.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.daemon import Daemon, until
from tests.system.stores import Sqlite

CONNECTIONS_MAX = 2000
WAIT_S = 30.0
STOPS = [signal.SIGTERM, signal.SIGQUIT]

LISTEN = "0A"  # in the column "st" of /proc/net/tcp


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that doesn't run for a while."""
    os.kill(pid, signal.SIGSTOP)
    yield
    os.kill(pid, signal.SIGCONT)


@contextmanager
def instance(port: int) -> Iterator[Daemon]:
    """An instance that stores already."""
    source = f'type = "tcp"\nlisten = "127.0.0.1:{port}"\nconnections_max = {CONNECTIONS_MAX}\n'
    with Daemon(f"[source.s]\n{source}close_wait_s = 1\n") as daemon:
        say(port, b"first")
        until(daemon.stored, WAIT_S, "rows")
        yield daemon


def say(port: int, record: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(record + b"\n")


def stored_by_the_next(daemon: Daemon, records: int) -> list[bytes]:
    """All that is there when the next start has stored what was left in the queue."""
    daemon.start()
    store = Sqlite()
    until(lambda: len(list(store.raws(daemon))) >= records, WAIT_S, f"{records} records")
    daemon.stop()
    return sorted(store.raws(daemon))


@pytest.mark.parametrize("number", STOPS)
def test_who_waits_in_the_backlog_when_the_stop_comes(number: signal.Signals) -> None:
    port = free_port()
    with instance(port) as daemon:
        assert daemon.process
        with stopped(daemon.process.pid):
            daemon.signal(number)
            say(port, b"waiting")
        assert daemon.wait() == 0, daemon.said()
        assert "can't accept" not in daemon.said()
        assert stored_by_the_next(daemon, 2) == [b"first", b"waiting"]


@pytest.mark.parametrize("number", STOPS)
def test_who_is_on_the_way_to_the_collector_when_the_stop_comes(number: signal.Signals) -> None:
    port = free_port()
    with instance(port) as daemon:
        assert daemon.process
        collector = daemon.status()["sources"]["s"]["pid"]
        with stopped(collector):
            say(port, b"on the way")
            until(lambda: open_sockets(daemon) > 0, WAIT_S, "its acceptance")
            daemon.signal(number)
            until(lambda: daemon.status()["state"] == "stopping", WAIT_S, "the stop")
        assert daemon.wait() == 0, daemon.said()
        assert stored_by_the_next(daemon, 2) == [b"first", b"on the way"]


@pytest.mark.parametrize("number", STOPS)
def test_more_are_on_the_way_than_the_wire_takes(number: signal.Signals) -> None:
    """The collector has none of them when it is told to stop; a part waits in the parent."""
    port, many = free_port(), CONNECTIONS_MAX // 2
    with instance(port) as daemon:
        collector = daemon.status()["sources"]["s"]["pid"]
        with stopped(collector):
            for one in range(many):
                say(port, b"number %04d" % one)
            until(lambda: open_sockets(daemon) >= many, WAIT_S, "their acceptance")
            daemon.signal(number)
            until(lambda: daemon.status()["state"] == "stopping", WAIT_S, "the stop")
        assert daemon.wait() == 0, daemon.said()
        wanted = [b"first", *(b"number %04d" % one for one in range(many))]
        assert stored_by_the_next(daemon, many + 1) == wanted


def open_sockets(daemon: Daemon) -> int:
    """How many connections from senders the parent holds: its TCP sockets that don't listen."""
    assert daemon.process
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    accepted = {line.split()[9] for line in lines if line.split()[3] != LISTEN}
    fds = Path(f"/proc/{daemon.process.pid}/fd").iterdir()
    return sum(os.readlink(fd).removeprefix("socket:").strip("[]") in accepted for fd in fds)
