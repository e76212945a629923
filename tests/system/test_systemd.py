"""Under systemd (an imitation, tests/fake_systemd.py): nobody is cut by a kill, nor by a restart.

One TCP and one Unix connection send without pause; the parent is killed with -9, alone or with all
that it has started, and restarted as `systemctl restart` does it. The sender counts.
"""

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fake_systemd import FakeSystemd
from tests.ports import free_port
from tests.system.daemon import STOP_S, Daemon, connect, title_of, unstarted, until
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import Sqlite

CONFIG = """
drain_s = 10
[source.t]
type = "tcp"
listen = "127.0.0.1:{port}"
close_wait_s = 5
[source.u]
type = "unix"
listen = "{path}"
close_wait_s = 5
"""
ENDS = ("restart", "kill", "kill all", "restart")
GONE_S = 15.0


class Unit:
    """An instance whose systemd is the test."""

    def __init__(self, systemd: FakeSystemd, daemon: Daemon) -> None:
        self.systemd, self.daemon = systemd, daemon
        self._starts = 0

    def start(self, **given: int) -> None:
        """Start it with what is kept, and wait until it is ready."""
        with self.daemon.log.open("ab") as log:
            self.daemon.process = self.systemd.start(
                [sys.executable, "-m", "appliance", "-c", str(self.daemon.file), "collect"],
                given=given,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._starts += 1
        self.systemd.wait_for_ready(self._starts)

    def restart(self) -> None:
        """As the unit's ExecStop= and systemd do it."""
        self.daemon.signal(signal.SIGURG)
        assert self.daemon.stop() == 0

    def kill(self, everybody: bool) -> None:
        """Kill -9, by chance together with all that it has started."""
        children = self.daemon.child_pids()
        self.daemon.kill_parent()
        for pid in children if everybody else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        until(lambda: not any(map(title_of, children)), GONE_S, "the children to be gone")


@pytest.fixture
def systemd() -> Iterator[FakeSystemd]:
    with FakeSystemd() as one:
        yield one


@pytest.fixture
def unit(systemd: FakeSystemd) -> Iterator[Unit]:
    with unit_of(systemd) as one:
        yield one


@contextmanager
def unit_of(systemd: FakeSystemd) -> Iterator[Unit]:
    """A unit that isn't started; its log is shown, for a test that fails."""
    with unstarted("") as daemon:
        yield Unit(systemd, daemon)
        print(daemon.said())


def configure(unit: Unit, port: int) -> Path:
    """Both sources; the Unix socket's path."""
    path = unit.daemon.directory / "lines.sock"
    with unit.daemon.file.open("a") as file:
        file.write(CONFIG.format(port=port, path=path))
    return path


def test_connections_live_through_kills_and_restarts(unit: Unit, seed: int) -> None:
    dice, port = random.Random(seed), free_port()
    path = configure(unit, port)
    unit.start()
    records = {"t": Records(seed, 400), "u": Records(seed + 1, 400)}
    with ExitStack() as stack:
        senders = [
            stack.enter_context(Sender(where, records[name], bytes_per_s=3e5))
            for name, where in (("t", port), ("u", str(path)))
        ]
        for end in ENDS:
            sent = [one.sent for one in records.values()]
            more = dice.randrange(1, 2000)
            until(lambda: progressed(records, sent, more), STOP_S, "senders to go on")  # noqa: B023
            if end == "restart":
                unit.restart()
            else:
                unit.kill(everybody=end == "kill all")
            assert not any(sender.refused for sender in senders), end
            unit.start()
        for sender in senders:
            sender.finish()
            assert not sender.refused
        total = sum(one.sent for one in records.values())
        until(lambda: rows(unit) >= total, STOP_S, f"{total} rows")
        for name, one in records.items():
            one.check(Sqlite().raws(unit.daemon, name), one.sent)
        unit.systemd.wait_for(lambda: len(unit.systemd.store) == 2, "listening sockets only")
    assert unit.daemon.stop() == 0
    assert unit.systemd.store == {}, "a stop lets go of everything"


def progressed(records: dict[str, Records], sent: list[int], more: int) -> bool:
    return all(one.sent > was + more for one, was in zip(records.values(), sent, strict=True))


def rows(unit: Unit) -> int:
    [(found,)] = Sqlite().rows(unit.daemon, "SELECT COUNT(*) FROM records")
    return int(found)


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return True
    return False


def test_a_stop_is_said_to_senders_who_then_find_nobody(unit: Unit, seed: int) -> None:
    port = free_port()
    configure(unit, port)
    unit.start()
    records = Records(seed)
    with connect(port) as sender:
        sender.sendall(records.block())
        unit.daemon.signal(signal.SIGTERM)
        assert sender.recv(1) == b"", "half-closed: there is time to finish"
        sender.sendall(records.block())
        until(lambda: is_refused(port), GONE_S, "all who hold the address to let it go")
        sender.shutdown(socket.SHUT_WR)
        assert unit.daemon.wait() == 0
    assert unit.systemd.said("STOPPING")
    unit.systemd.wait_for(lambda: not unit.systemd.store, "an empty store")
    unit.systemd.empty()
    unit.start()
    unit.daemon.until_stored(0)
    records.check(Sqlite().raws(unit.daemon), records.sent)


def test_what_is_said_at_start_and_end(systemd: FakeSystemd) -> None:
    """And nobody whom we start is told where to say something."""
    systemd.watchdog_s = 2.0
    with unit_of(systemd) as unit:
        configure(unit, free_port())
        unit.start()
        alive = len(systemd.said("WATCHDOG"))
        systemd.wait_for(lambda: len(systemd.said("WATCHDOG")) > alive + 1, "signs of life")
        status = systemd.said("STATUS")[-1]
        assert status.startswith("healthy: 0 connections, 0 records/s, 0 frames waiting"), status
        for pid in unit.daemon.child_pids():
            assert b"=" + systemd.address.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
        assert unit.daemon.stop() == 0
        first = systemd.heard[0]
        assert int(first["EXTEND_TIMEOUT_USEC"]) > 10e6, "before anything that may take long"
        assert systemd.said("STOPPING")


def test_ready_waits_for_the_store_and_asks_for_time(systemd: FakeSystemd) -> None:
    with unit_of(systemd) as unit:
        configure(unit, free_port())
        with unit.daemon.file.open("a") as file:
            file.write(f'[store]\nurl = "mysql://nobody@127.0.0.1:{free_port()}/nothing"\n')
        with unit.daemon.log.open("ab") as log:
            unit.daemon.process = systemd.start(
                [sys.executable, "-m", "appliance", "-c", str(unit.daemon.file), "collect"],
                stdout=log,
                stderr=log,
            )
        awaited = "starting: waiting for the store"
        systemd.wait_for(lambda: any(awaited in s for s in systemd.said("STATUS")), awaited)
        asked = len(systemd.said("EXTEND_TIMEOUT_USEC"))
        systemd.wait_for(lambda: len(systemd.said("EXTEND_TIMEOUT_USEC")) > asked, "more time")
        assert not systemd.said("READY")
        assert unit.daemon.stop() == 0


# ── sockets of .socket units ────────────────────────────────────────────────────────────


def listening(address: tuple[str, int]) -> socket.socket:
    return socket.create_server(address)


@pytest.mark.parametrize("name", ["t", "any.socket"])
def test_a_socket_units_listener_is_used_and_left_to_it(unit: Unit, name: str, seed: int) -> None:
    """By its name at whatever address, or by its address; the store needn't keep it."""
    port = free_port()
    configure(unit, port if name != "t" else free_port())
    records = Records(seed)
    with listening(("127.0.0.1", port)) as listener:
        with socket.create_connection(("127.0.0.1", port)) as early:
            early.sendall(records.block())
            unit.start(**{name: listener.fileno()})
            early.sendall(records.block())
        assert [one[0] for one in unit.systemd.store if ".listen." in one] == ["u"]
        until(lambda: rows(unit) >= records.sent, STOP_S, "rows")
        assert unit.daemon.stop() == 0
        with socket.create_connection(("127.0.0.1", port)):
            pass  # it waits for the next activation
    records.check(Sqlite().raws(unit.daemon), records.sent)


def test_a_socket_that_no_source_listens_on_is_named(unit: Unit) -> None:
    configure(unit, free_port())
    with listening(("127.0.0.1", 0)) as listener:
        words = [sys.executable, "-m", "appliance", "-c", str(unit.daemon.file), "collect"]
        with unit.daemon.log.open("ab") as log:
            process = unit.systemd.start(
                words, given={"odd.socket": listener.fileno()}, stdout=log, stderr=log
            )
        assert process.wait(STOP_S) == 78
        port = listener.getsockname()[1]
    assert f"127.0.0.1:{port}" in unit.daemon.said()
    assert "odd.socket" in unit.daemon.said()


def test_what_is_no_longer_configured_is_closed_and_said(unit: Unit) -> None:
    port = free_port()
    configure(unit, port)
    unit.start()
    with connect(port) as sender:
        sender.sendall(b"one\n")
        until(lambda: rows(unit) == 1, STOP_S, "a row")
        unit.restart()
        text = unit.daemon.file.read_text()
        unit.daemon.file.write_text(text.replace("source.t]", "source.v]"))
        unit.start()
        sender.settimeout(STOP_S)
        assert reaches_its_end(sender)
    assert unit.daemon.said().count("no source goes on with it") == 1, "the connection"
    names = {name.split(".")[0] for name in unit.systemd.store}
    assert names == {"u", "v"}
    with connect(port) as sender:  # the address is the other source's now
        sender.sendall(b"two\n")
        until(lambda: rows(unit) == 2, STOP_S, "another row")
    assert unit.daemon.stop() == 0


def reaches_its_end(sender: socket.socket) -> bool:
    try:
        return sender.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_waits_at_an_address_that_is_given_up_is_let_in(unit: Unit) -> None:
    """As where a Unix socket's directory is made anew, or another port is configured."""
    port = free_port()
    path = configure(unit, port)
    unit.start()
    unit.restart()
    for where in (port, str(path)):
        with connect(where) as sender:
            sender.sendall(b"early, and gone\n")
    path.unlink()
    text = unit.daemon.file.read_text()
    unit.daemon.file.write_text(text.replace(f":{port}", f":{free_port()}"))
    unit.start()
    until(lambda: rows(unit) == 2, STOP_S, "what they had sent")
    with connect(str(path)) as sender:
        sender.sendall(b"late\n")
    until(lambda: rows(unit) == 3, STOP_S, "what comes by the new socket")
    assert unit.daemon.stop() == 0
