"""The keeper in a process of its own, over real sockets: what it holds, for whom, and until when.

`Place` plays the parent; a dead parent is one that has closed its end of the wire, which is all
that the kernel does for a killed one.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import keeper_wire, keeping, process
from appliance.fdnames import Inherited, connection_name, listener_name
from appliance.keeper import CALLERS_MAX, Keeper
from appliance.keeper_wire import Legacy
from appliance.keeping import ASK_S, HANGS_S, SILENT_S, Keeping
from appliance.sources import tcp, unix
from appliance.sources.listening import close_unused

WAIT_S = 20.0
FLOOD = 400  # more sockets than a wire takes
SOON_S = 0.3


class Place:
    """A parent and its keeper."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "keeper.sock"
        self.keep_s = WAIT_S
        self.late_s = 0.0  # what the parent's clock is ahead
        self.changes: list[bool] = []
        self._opened: list[Any] = []
        self.legacy = Legacy()
        self.keeping = self.made()

    def made(self) -> Keeping:
        """A parent that has nothing yet."""
        self.keeping = Keeping(
            "stream-daemon nfl keeper",
            lambda kept, wire, legacy: Keeper(
                kept, wire, self.path, close_unused, legacy, self.keep_s
            ).run(),
            remove=lambda: self.path.unlink(missing_ok=True),
            monotonic=lambda: time.monotonic() + self.late_s,
        )
        self.keeping.changed = self.changes.append
        return self.keeping

    def own(self, thing: Any) -> Any:
        self._opened.append(thing)
        return thing

    def turn(self) -> None:
        self.keeping.turn(time.monotonic() + self.late_s, lambda: None)

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            self.turn()
            select.select([self.keeping.wire] if self.keeping.wire else [], [], [], 0.02)

    def holds(self) -> int:
        """Wait until it holds; the keeper's pid. It is there once there is something to hold."""
        if not self.keeping.size:
            self.connect("z.0")
            self.turn()
            self.keeping.release("z.0")
        self.until(lambda: self.keeping.holds)
        assert self.keeping.pid
        return self.keeping.pid

    def connect(self, name: str) -> socket.socket:
        """A new connection that is kept; its sender."""
        ours, sender = map(self.own, socket.socketpair())
        self.keeping.keep(name, ours)
        return sender  # type: ignore[no-any-return]

    def die(self) -> None:
        """The parent is killed: nobody but the keeper holds anything."""
        for thing in self.keeping._kept.values():
            thing.close()
        self.keeping.close_in_child()

    def take(self, timeout_s: float = WAIT_S) -> tuple[Inherited, Legacy]:
        """A successor asks."""
        inherited = Inherited()
        legacy = keeper_wire.take_over(self.path, inherited, kill, timeout_s)
        self.own(inherited)
        return inherited, self.own(legacy)

    def names(self) -> list[str]:
        """What a successor would get."""
        inherited, legacy = self.take()
        legacy.close()
        inherited.close()
        return sorted(
            f"{source}.{cookie}"
            for source, connections in inherited.connections.items()
            for cookie in connections
        )

    def close(self) -> None:
        self.die()
        if self.keeping.pid:
            kill(self.keeping.pid)
        for thing in self._opened:
            thing.close()


def kill(pid: int) -> None:
    process.kill_and_wait(pid, signal.SIGKILL, WAIT_S)


def ended(pid: int) -> bool:
    """Wait for a child's end."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(WAIT_S * 1000))
    finally:
        os.close(pidfd)


def is_cut(sender: socket.socket) -> bool:
    """Wait until the sender sees the end."""
    sender.settimeout(WAIT_S)
    try:
        return sender.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.fixture
def place(short_dir: Path) -> Iterator[Place]:
    made = Place(short_dir)
    yield made
    made.close()


# ── a dead parent ───────────────────────────────────────────────────────────────────────


def test_a_connection_outlives_the_parent_with_all_that_it_held(place: Place) -> None:
    place.holds()
    sender = place.connect(connection_name("tweets", 7))
    place.connect(connection_name("log", 8))
    sender.sendall(b"before ")
    place.die()
    sender.sendall(b"after")
    inherited, _legacy = place.take()
    assert inherited.size == 2
    assert inherited.connections["tweets"][7].recv(100) == b"before after"
    assert [*inherited.connections["log"]] == [8]
    assert inherited.listeners == inherited.others == []


def test_what_was_said_at_the_last_moment_is_heard(place: Place) -> None:
    """The kernel holds what is on its way."""
    keeper = place.holds()
    place.connect("a.1")
    os.kill(keeper, signal.SIGSTOP)
    for number in range(2, 50):
        place.connect(f"a.{number}")
    place.keeping.release("a.1")
    place.die()
    os.kill(keeper, signal.SIGCONT)
    assert place.names() == sorted(f"a.{number}" for number in range(2, 50))


def test_what_was_released_is_closed(place: Place) -> None:
    place.holds()
    sender = place.connect("a.1")
    place.connect("a.2")
    ours = place.keeping._kept["a.1"]
    place.keeping.release("a.1")
    place.keeping.release("a.3")  # never heard of
    ours.close()
    assert is_cut(sender)
    place.die()
    assert place.names() == ["a.2"]


def test_a_name_that_is_used_again_is_the_newer_one(place: Place) -> None:
    place.holds()
    first, second = place.connect("a.1"), None
    ours = place.keeping._kept["a.1"]
    second = place.connect("a.1")
    ours.close()
    assert is_cut(first)
    place.die()
    second.sendall(b"x")
    inherited, _ = place.take()
    assert inherited.connections["a"][1].recv(1) == b"x"


def test_more_than_a_wire_takes(place: Place) -> None:
    keeper = place.holds()
    os.kill(keeper, signal.SIGSTOP)
    place.changes.clear()
    for number in range(FLOOD):
        place.connect(f"a.{number}")
    assert not place.keeping.holds
    assert place.changes
    assert not any(place.changes), "said at once: nobody may rely on it any more"
    os.kill(keeper, signal.SIGCONT)
    place.holds()
    assert place.changes[-1]
    place.die()
    assert len(place.names()) == FLOOD


def test_what_waits_for_one_that_doesnt_read_is_limited(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "UNSENT_MAX", 50)
    keeper = place.holds()
    os.kill(keeper, signal.SIGSTOP)
    for number in range(FLOOD):
        place.connect(f"a.{number}")
    assert ended(keeper)
    place.until(lambda: place.keeping.restarts == 1)
    place.holds()
    place.die()
    assert len(place.names()) == FLOOD


def test_one_that_waits_unsent_and_is_closed_isnt_missed(place: Place) -> None:
    keeper = place.holds()
    os.kill(keeper, signal.SIGSTOP)
    for number in range(FLOOD):
        place.connect(f"a.{number}")
    last = place.keeping._kept[f"a.{FLOOD - 1}"]
    place.keeping.release(f"a.{FLOOD - 1}")
    last.close()
    os.kill(keeper, signal.SIGCONT)
    place.holds()
    place.die()
    assert len(place.names()) == FLOOD - 1


# ── a dead keeper, and one that hangs ───────────────────────────────────────────────────


def test_a_killed_keeper_has_a_successor_that_inherits_everything(place: Place) -> None:
    first = place.holds()
    place.connect("a.1")
    kill(first)
    place.until(lambda: place.keeping.restarts == 1)
    assert place.holds() != first
    place.connect("a.2")
    place.die()
    assert place.names() == ["a.1", "a.2"]


def test_one_that_is_renewed_hands_on_everything_and_nobody_has_died(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    first = place.holds()
    place.connect("a.1")
    place.keeping.renew()
    assert not place.keeping.holds
    place.connect("a.2")
    assert place.holds() != first
    assert (place.keeping.restarts, caplog.messages) == (0, [])
    place.die()
    assert place.names() == ["a.1", "a.2"]


def test_it_doesnt_count_before_it_has_answered(place: Place) -> None:
    assert not place.keeping.holds
    place.connect("a.1")
    place.keeping.turn(time.monotonic(), lambda: os.kill(os.getpid(), signal.SIGSTOP))
    pid = place.keeping.pid
    assert pid
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    assert not place.keeping.holds
    os.kill(pid, signal.SIGCONT)
    assert place.holds() == pid


def test_one_that_hangs_counts_no_more_and_is_replaced(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    hanging = place.holds()
    place.connect("a.1")
    os.kill(hanging, signal.SIGSTOP)
    place.late_s += ASK_S + 0.1
    place.turn()  # asks
    assert place.keeping.holds
    place.late_s += SILENT_S
    assert not place.keeping.holds
    place.turn()
    assert not place.changes[-1]
    assert place.keeping.pid == hanging
    place.late_s += HANGS_S
    place.until(lambda: place.keeping.restarts == 1)
    assert "stream-daemon nfl keeper is silent for 30 s: killing it" in caplog.messages
    place.holds()
    place.die()
    assert place.names() == ["a.1"]


def test_a_successor_ends_one_that_hangs(place: Place) -> None:
    keeper = place.holds()
    place.connect("a.1")
    os.kill(keeper, signal.SIGSTOP)
    place.die()
    assert place.take(timeout_s=0.1)[0].size == 0
    assert ended(keeper)


def test_one_that_cant_be_reached_is_tried_again_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.path = place.path.parent / "nowhere" / "keeper.sock"
    place.connect("a.1")
    place.until(lambda: place.keeping.restarts >= 2)
    assert not place.keeping.holds
    delays = [record.args[1] for record in caplog.records if "started again" in record.message]  # type: ignore[index]
    assert delays[:2] == [0.1, 0.2]


# ── a successor ─────────────────────────────────────────────────────────────────────────


def test_it_goes_on_holding_until_somebody_else_does(place: Place) -> None:
    keeper = place.holds()
    sender = place.connect("a.1")
    place.die()
    for _ in range(3):  # each dies before it has said that it holds
        inherited, legacy = place.take()
        inherited.close()
        legacy.close()
    inherited, legacy = place.take()
    legacy.taken()
    legacy.taken()
    assert ended(keeper)
    sender.sendall(b"x")
    assert inherited.connections["a"][1].recv(1) == b"x"


def test_the_next_keeper_says_it_once_it_can_be_found(place: Place) -> None:
    first = place.holds()
    sender = place.connect("a.1")
    place.die()
    inherited, legacy = place.take()
    second_parent = place.made()
    for cookie, connection in inherited.connections["a"].items():
        second_parent.keep(f"a.{cookie}", connection)
    second_parent.inherit(legacy)
    second = place.holds()
    assert ended(first)
    os.waitid(os.P_PID, first, os.WEXITED)
    place.die()
    assert place.names() == ["a.1"], "asked of the second one, at the same place"
    sender.sendall(b"x")
    assert second != first


def test_nobody_comes(place: Place, short_dir: Path) -> None:
    place.keep_s = SOON_S
    keeper = place.holds()
    sender = place.connect("a.1")
    [listener] = unix.listen(str(short_dir / "s"), "0600", None)
    place.keeping.keep(listener_name("a", 0), place.own(listener))
    place.die()
    assert is_cut(sender)
    assert ended(keeper)
    assert not os.listdir(short_dir)
    assert place.take()[0].size == 0


def test_who_comes_has_the_time_anew(place: Place) -> None:
    """A successor that has died doesn't take the time of the next one."""
    place.keep_s = SOON_S
    keeper = place.holds()
    sender = place.connect("a.1")
    place.die()
    inherited, legacy = place.take()
    inherited.close()
    time.sleep(2 * SOON_S)  # what it is about is time
    assert place.take()[0].size == 1, "it waits as long as a successor is at work"
    legacy.close()
    for thing in place._opened:
        if isinstance(thing, (Inherited, Legacy)):
            thing.close()
    assert is_cut(sender)
    assert ended(keeper)


def test_who_waits_for_something_else_first_is_waited_for(place: Place) -> None:
    place.keep_s = SOON_S
    place.holds()
    place.connect("a.1")
    with keeper_wire.waited_for(place.path):
        place.die()
        time.sleep(2 * SOON_S)  # what it is about is time
    assert place.names() == ["a.1"]
    with keeper_wire.waited_for(place.path.parent / "nowhere"):
        pass


def test_a_successor_finds_the_files_of_what_it_took_over(place: Place, short_dir: Path) -> None:
    keeper = place.holds()
    [listener] = unix.listen(str(short_dir / "s"), "0600", None)
    place.keeping.keep(listener_name("a", 0), place.own(listener))
    place.die()
    _inherited, legacy = place.take()
    legacy.taken()
    assert ended(keeper)
    assert (short_dir / "s").exists()


def test_there_is_no_keeper(short_dir: Path) -> None:
    inherited = Inherited()
    keeper_wire.take_over(short_dir / "keeper.sock", inherited, kill).taken()
    assert inherited.size == 0
    assert not keeper_wire.end(short_dir / "keeper.sock", kill)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(short_dir / "keeper.sock"))
    assert not keeper_wire.end(short_dir / "keeper.sock", kill)


# ── told to end ─────────────────────────────────────────────────────────────────────────


def test_the_parent_ends_it(place: Place) -> None:
    keeper = place.holds()
    os.kill(keeper, signal.SIGSTOP)  # whatever it does
    place.keeping.end()
    place.keeping.end()
    assert not os.path.exists(f"/proc/{keeper}")
    assert not place.path.exists()
    assert not place.keeping.holds
    place.turn()
    assert place.keeping.pid is None


def test_a_parent_that_ends_at_once_lets_the_older_one_end_too(place: Place) -> None:
    first = place.holds()
    place.die()
    _, legacy = place.take()
    second_parent = place.made()
    second_parent.inherit(legacy)
    second_parent.end()
    assert ended(first)


def test_stop_ends_one_without_a_parent_and_no_other(place: Place) -> None:
    keeper = place.holds()
    sender = place.connect("a.1")
    asked = keeper_wire._connect(place.path)
    assert asked
    place.own(asked).say(keeper_wire.END)
    assert place.names() == ["a.1"], "its parent lives"
    place.die()
    assert is_cut(sender)
    assert ended(keeper)
    assert not place.path.exists()


def test_stop_ends_one_that_hangs(place: Place) -> None:
    keeper = place.holds()
    place.die()
    os.kill(keeper, signal.SIGSTOP)
    assert keeper_wire.end(place.path, kill, timeout_s=0.1)
    assert ended(keeper)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_else_is_given_anything(place: Place) -> None:
    place.holds()
    place.connect("a.1")
    place.path.parent.chmod(0o755)
    for folder in place.path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o011)
    place.path.chmod(0o777)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            os._exit(place.take()[0].size)
        except OSError:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert place.names() == ["a.1"]


def test_who_talks_nonsense_or_nothing_does_no_harm(place: Place) -> None:
    place.holds()
    place.connect("a.1")
    talkers = [keeper_wire._connect(place.path) for _ in range(CALLERS_MAX + 5)]
    assert all(map(place.own, talkers))
    silent, talker = keeper_wire._connect(place.path), keeper_wire._connect(place.path)
    assert silent
    assert talker
    place.own(silent)
    place.own(talker).say(ord("?"), "what")
    assert place.names() == ["a.1"]
    place.turn()
    assert place.keeping.holds


def test_it_is_in_a_session_of_its_own_and_holds_no_standard_input(place: Place) -> None:
    keeper = place.holds()
    assert os.getsid(keeper) == keeper
    assert os.readlink(f"/proc/{keeper}/fd/0") == "/dev/null"
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(keeper, number)
    place.late_s += ASK_S + 0.1
    place.turn()
    assert place.holds() == keeper


def test_listening_sockets_are_taken_over_with_who_waits_there(place: Place) -> None:
    place.holds()
    [listener] = tcp.listen("127.0.0.1:0")
    address = listener.getsockname()
    place.keeping.keep(listener_name("a", 0), place.own(listener))
    sender = place.own(socket.create_connection(address, WAIT_S))
    sender.sendall(b"hello")
    place.die()
    inherited, _ = place.take()
    left = inherited.listeners
    [again] = tcp.listen(f"127.0.0.1:{address[1]}", left)
    assert left == []
    connection, _ = place.own(again).accept()
    assert place.own(connection).recv(5) == b"hello"
