"""Nothing runs in circles: an instance that has nothing to do uses no processor."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.system.daemon import Daemon, connect, title_of, until

LOOK_S = 1.0
BUSY_SHARE = 0.3  # of one processor; who runs in circles uses all of it
WAIT_S = 30.0
CONNECTIONS_MAX = 3

TICKS_S = os.sysconf("SC_CLK_TCK")


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[tuple[Daemon, int]]:
    """An instance with a file that waits for its last line, and a TCP source."""
    (tmp_path / "log").write_text("whole\nunfinished")
    port = free_port()
    config = f"""
        [source.file]
        type = "file"
        path = "{tmp_path}/log"
        [source.tcp]
        type = "tcp"
        listen = "127.0.0.1:{port}"
        connections_max = {CONNECTIONS_MAX}
        close_wait_s = 0
    """
    with Daemon(config) as daemon:
        until(daemon.stored, WAIT_S, "rows")
        yield daemon, port
        assert daemon.stop() == 0


def test_waiting_with_connections_that_are_full_and_unfinished(idle: tuple[Daemon, int]) -> None:
    daemon, port = idle
    senders = [connect(port) for _ in range(CONNECTIONS_MAX + 1)]
    for sender in senders:
        sender.sendall(b"whole\nunfinished")
    until(lambda: daemon.stored() > CONNECTIONS_MAX, WAIT_S, "rows")
    assert not busy(daemon)
    for sender in senders:
        sender.close()


def test_behind_signals_that_want_nothing(idle: tuple[Daemon, int]) -> None:
    daemon, _port = idle
    for pid in daemon.child_pids():
        if title_of(pid).startswith("stream-daemon"):
            os.kill(pid, signal.SIGUSR1)
    assert not busy(daemon)


def test_with_more_control_clients_than_anybody_needs(idle: tuple[Daemon, int]) -> None:
    """They say nothing and stay; the instance neither ends nor spins, and hears the others."""
    daemon, _port = idle
    path = str(daemon.directory / "state/stream/control.sock")
    clients = []
    for _ in range(300):
        client = socket.socket(socket.AF_UNIX)
        until(lambda client=client: client.connect_ex(path) == 0, WAIT_S, "a place in the backlog")
        clients.append(client)
    assert not busy(daemon)
    assert daemon.status()["state"] == "healthy"
    assert daemon.process
    assert len(os.listdir(f"/proc/{daemon.process.pid}/fd")) < len(clients)
    for client in clients:
        client.close()


def busy(daemon: Daemon) -> dict[str, float]:
    """The processes that used more than BUSY_SHARE of a processor during a look."""
    assert daemon.process
    pids = [daemon.process.pid, *daemon.child_pids()]
    before = {pid: used_s(pid) for pid in pids}
    time.sleep(LOOK_S)
    shares = {title_of(pid): (used_s(pid) - before[pid]) / LOOK_S for pid in pids}
    return {title: share for title, share in shares.items() if share > BUSY_SHARE}


def used_s(pid: int) -> float:
    """Processor time of a process (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S
