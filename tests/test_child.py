"""A child that is really forked: births that fail, and ends that came too early."""

import errno
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from appliance.acceptor import Acceptor
from appliance.backoff import RESTART_S_MIN
from appliance.child import Birth, Child, ChildSpec, Server
from appliance.counters import Board
from appliance.errors import Exit
from appliance.sources import tcp

WAIT_S = 10.0


@pytest.fixture
def acceptor() -> Iterator[Acceptor]:
    made = Acceptor("tweets", lambda: tcp.listen("127.0.0.1:0"), tcp.prepare, 10)
    yield made
    made.close_in_child()


def child_of(acceptor: Acceptor, run: Callable[[Birth], Exit]) -> Child:
    spec = ChildSpec("collector", "tweets", "collector tweets", run, acceptor=acceptor)
    return Child(spec, Board().slot("collector tweets"))


def ends_when_asked(birth: Birth) -> Exit:
    """A collector that looks at no connection."""
    birth.slot.worked()  # from here on it hears signals
    birth.wish.wait(WAIT_S)
    return Exit.OK


def ask_and_reap(child: Child, meanwhile: Callable[[], object] = lambda: None) -> None:
    works = child.slot.get("works")
    child.start(0.0, 1.0, lambda _child: None)
    until(lambda: child.slot.get("works") > works)
    meanwhile()
    child.ask(signal.SIGTERM)
    until(lambda: child.reap(1.0))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_it_is_done_when_it_ended_as_it_was_asked_to(acceptor: Acceptor) -> None:
    child = child_of(acceptor, ends_when_asked)
    ask_and_reap(child)
    assert child.done
    assert child.restarts == 0


def test_it_is_born_again_for_a_connection_that_had_not_reached_it(acceptor: Acceptor) -> None:
    child = child_of(acceptor, ends_when_asked)
    (listener,) = acceptor.listeners
    with socket.create_connection(listener.getsockname()):
        ask_and_reap(child, meanwhile=acceptor.stop_listening)
    assert not child.done
    assert child.restarts == 1
    assert child.start_at == 1.0 + RESTART_S_MIN
    ask_and_reap(child)
    assert child.done, "it had inherited it: whatever it did, nothing else is to come"


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_where_the_kernel_has_no_room_it_is_tried_again(
    acceptor: Acceptor, call: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(errno.EAGAIN, "no more of these")

    child = child_of(acceptor, ends_when_asked)
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        child.start(5.0, 1.0, lambda _child: None)
    assert child.pid is None
    assert child.start_at == 5.0 + RESTART_S_MIN
    assert "collector tweets can't be started: no more of these" in caplog.text
    assert acceptor.wire is None
    ask_and_reap(child)
    assert child.done


class FullDisk:
    """A server (protocol: child.Startable) that ends in this way; and the disk under it."""

    def __init__(self) -> None:
        self.low = True
        self.starts = 0
        self.manner = "exit 1"

    def lacks_room(self) -> bool:
        return self.low

    def ask_to_end(self) -> None:
        """A signal is enough."""

    def start(self) -> "subprocess.Popen[bytes]":
        self.starts += 1
        process = subprocess.Popen(["/bin/sh", "-c", self.manner])
        process.wait()
        return process


def test_a_server_that_a_full_disk_ended_waits_for_room(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    disk = FullDisk()
    server = Server(disk)
    server.keep(0.0, 0)  # also on a disk that is low: what it holds may be stored
    assert disk.starts == 1
    for now in range(1, 100):
        server.keep(float(now), 0)
    assert disk.starts == 1
    assert "disk_free_min" in server.waiting_for
    assert caplog.text.count("make room on the disk") == 1
    disk.low, disk.manner = False, "kill -9 $$"
    server.keep(100.0, 0)
    assert disk.starts == 2
    assert server.waiting_for == ""
    assert "there is disk space again" in caplog.text
    disk.low = True
    server.keep(101.0, 0)
    server.keep(200.0, 0)
    assert disk.starts == 3, "the disk didn't end it"


def test_a_server_that_ends_on_a_disk_with_room_is_started_again() -> None:
    disk = FullDisk()
    disk.low = False
    server = Server(disk)
    for now in range(0, 300, 100):
        server.keep(float(now), 0)
        server.keep(now + 50.0, 0)
    assert disk.starts > 2


def test_it_does_not_hold_the_standard_input_of_its_parent(acceptor: Acceptor) -> None:
    def looks(birth: Birth) -> Exit:
        birth.slot.set("bytes", os.readlink("/proc/self/fd/0") == os.devnull)
        return ends_when_asked(birth)

    child = child_of(acceptor, looks)
    ours, (reading, writing) = os.dup(0), os.pipe()
    os.dup2(reading, 0)
    try:
        ask_and_reap(child)
    finally:
        os.dup2(ours, 0)
        for fd in (ours, reading, writing):
            os.close(fd)
    assert child.slot.get("bytes") == 1


# ── replaced ────────────────────────────────────────────────────────────────────────────


def test_a_dead_one_is_replaced_without_waiting_for_its_restart(acceptor: Acceptor) -> None:
    child = child_of(acceptor, lambda _birth: Exit.INTERNAL)
    child.start(0.0, 1.0, lambda _child: None)
    until(lambda: child.reap(1.0))
    assert child.start_at > 1.0
    other = child_of(acceptor, ends_when_asked).spec
    child.replace(other, signal.SIGTERM)
    assert (child.spec, child.start_at, child.parting) == (other, 0.0, None)
    ask_and_reap(child)
    assert child.done


def test_a_living_one_is_replaced_however_it_ends(acceptor: Acceptor) -> None:
    child = child_of(acceptor, ends_when_asked)
    for end in (signal.SIGTERM, signal.SIGKILL):
        works = child.slot.get("works")
        child.start(0.0, 1.0, lambda _child: None)
        until(lambda works=works: child.slot.get("works") > works)
        other = child_of(acceptor, ends_when_asked).spec
        child.replace(other, end)
        assert (child.spec is other, child.parting) == (False, end)
        child.ask(end)
        until(lambda: child.reap(1.0))
        assert (child.spec is other, child.parting, child.done) == (True, None, False)
        assert (child.start_at, child.restarts) == (0.0, 0)


def test_one_that_never_began_is_gone_at_once(acceptor: Acceptor) -> None:
    child = child_of(acceptor, ends_when_asked)
    child.remove()
    assert (child.done, child.pid) == (True, None)
