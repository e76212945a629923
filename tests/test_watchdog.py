"""The parent: births, deaths, heartbeats, stops, over tiny forked children.

See tests/watched.py: the parent runs in a process of its own, everybody writes into one
diary, and a test reads there what happened in which order.
"""

import dataclasses
import errno
import json
import multiprocessing
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from appliance import control, signals
from appliance.acceptor import Acceptor
from appliance.child import Birth, ChildSpec
from appliance.contracts import Death, Holder
from appliance.errors import Exit, Occupied, StreamDaemonError, Unavailable
from appliance.keeper_wire import ALIVE, Legacy, Wire
from appliance.keeping import Keeping
from appliance.link import cookie_of
from appliance.process import restore_signal_mask
from appliance.sources import tcp
from tests.watched import (
    WAIT_S,
    Cast,
    Diary,
    Parent,
    Start,
    beat_until_told,
    descriptors,
    gaps_s,
    parents,
    said_delays,
    state_of,
)

FAST_STOP = {"PHASE_GRACE_S": 0.3}


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def cast(diary: Diary) -> Cast:
    return Cast(diary)


@pytest.fixture
def start(short_dir: Path, diary: Diary) -> Iterator[Start]:
    with parents(short_dir, diary) as start:
        yield start


def born(diary: Diary, who: str) -> int:
    """Wait for the next birth of this child; its pid."""
    return int(diary.wait_for(rf"{who} born (\d+)")[1])


def order_of(lines: list[str], *patterns: str) -> list[str]:
    """Those of the lines that match, without pids and times."""
    plain = [re.sub(r"(?<=born) \d+( at \d+)?$", "", line) for line in lines]
    return [line for line in plain if any(re.search(pattern, line) for pattern in patterns)]


# ── collectors with connections ─────────────────────────────────────────────────────────


class Reader:
    """A collector that says what its connections hold, and finishes them when it is told."""

    def __init__(self, diary: Diary, name: str, birth: Birth) -> None:
        assert birth.wire
        self._diary, self._name, self._wire, self._wish = diary, name, birth.wire, birth.wish
        self._connections: dict[int, socket.socket] = {}
        for cookie, connection in birth.connections:
            self._show("inherited", cookie, connection)

    def read(self) -> None:
        """Whatever comes until it is told to end."""
        while not self._wish.stop:
            select.select([self._wire.fileno(), self._wish.fileno()], [], [], 0.1)
            self.take()

    def take(self) -> None:
        for cookie, connection in self._wire.arrivals():
            self._show("got", cookie, connection)

    def _show(self, how: str, cookie: int, connection: socket.socket) -> None:
        assert cookie not in self._connections
        assert cookie == cookie_of(connection)
        self._connections[cookie] = connection
        select.select([connection], [], [], 5)
        self._diary.say(self._name, how, connection.recv(100, socket.MSG_PEEK).decode())

    def finish(self) -> None:
        for cookie, connection in self._connections.items():
            self._diary.say(self._name, "finishes", connection.recv(100).decode())
            connection.shutdown(socket.SHUT_RDWR)
            self._wire.report_finished(cookie)


def reading(cast: Cast, name: str, acceptor: Acceptor) -> ChildSpec:
    def body(birth: Birth) -> Exit:
        reader = Reader(cast.diary, name, birth)
        reader.read()
        reader.take()
        reader.finish()
        return Exit.OK

    return cast.spec("collector", name, body, acceptor=acceptor)


class Listener:
    """An acceptor made in the test; its address, and clients that are closed at the end."""

    def __init__(self, name: str, holder: Holder | None = None) -> None:
        self.acceptor = Acceptor(
            name, lambda: tcp.listen("127.0.0.1:0"), tcp.prepare, 100, holder=holder
        )
        self.address = self.acceptor.listeners[0].getsockname()
        self.inode = os.readlink(f"/proc/self/fd/{self.acceptor.listeners[0].fileno()}")
        self.clients: list[socket.socket] = []

    def send(self, text: str) -> None:
        self.clients.append(socket.create_connection(self.address, 5))
        self.clients[-1].sendall(text.encode())

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def listeners() -> Iterator[dict[str, Listener]]:
    made = {name: Listener(name) for name in "ab"}
    yield made
    for listener in made.values():
        listener.close()


# ── deaths and births ───────────────────────────────────────────────────────────────────


def dying(cast: Cast, kind: str, name: str, deaths: list[str], **more: Any) -> ChildSpec:
    """Dies in these ways, one a life ("worked, " before it counts as work); then it obeys."""

    def body(birth: Birth) -> Exit:
        lives = birth.slot.get("lost")  # a number that only this test uses
        birth.slot.set("lost", lives + 1)
        if lives >= len(deaths):
            beat_until_told(birth)
            return Exit.OK
        return die(birth, deaths[lives])

    return cast.spec(kind, name, body, **more)


def die(birth: Birth, how: str) -> Exit:
    if how.startswith("worked, "):
        birth.slot.worked()
        how = how.removeprefix("worked, ")
    if how.startswith("SIG"):
        os.kill(os.getpid(), Signals[how])
    if how == "error":
        raise StreamDaemonError("it can't", "help it")
    return Exit(int(how))


def test_a_dead_child_is_started_again_with_a_growing_delay(
    start: Start, diary: Diary, cast: Cast
) -> None:
    deaths = ["70", "SIGKILL", "error", "0", "74"]
    parent = start([cast.recovery(), dying(cast, "collector", "a", deaths)])
    for _ in range(len(deaths) + 1):
        born(diary, "collector a")
    status = parent.status()["sources"]["a"]
    assert status["restarts"] == len(deaths)
    assert parent.status()["recovery"]["restarts"] == 0
    assert parent.stop() == Exit.OK
    delays = said_delays(diary.lines, "stream-daemon nfl collector a")
    causes = ["exit code 70", "SIGKILL", "exit code 70", "exit code 0", "exit code 74"]
    assert delays == list(zip(causes, [0.1, 0.2, 0.4, 0.8, 1.6], strict=True))
    gaps = gaps_s(diary.lines, "collector a")
    for gap, (_cause, delay) in zip(gaps, delays, strict=True):
        assert delay <= gap < delay + 0.5
    assert "log ERROR it can't → help it" in diary.lines


def test_work_lets_the_delay_begin_anew(start: Start, diary: Diary, cast: Cast) -> None:
    deaths = ["70", "70", "worked, SIGKILL", "70", "worked, 70"]
    parent = start([cast.recovery(), dying(cast, "collector", "a", deaths)])
    for _ in range(len(deaths) + 1):
        born(diary, "collector a")
    assert parent.stop() == Exit.OK
    delays = said_delays(diary.lines, "stream-daemon nfl collector a")
    assert [delay for _, delay in delays] == [0.1, 0.2, 0.1, 0.2, 0.1]


def test_each_child_has_a_delay_of_its_own(start: Start, diary: Diary, cast: Cast) -> None:
    twice = ["70", "70"]
    parent = start(
        [
            cast.recovery(),
            dying(cast, "collector", "a", twice),
            dying(cast, "subscriber", "1", twice),
        ]
    )
    for _ in range(3):
        born(diary, "collector a")
    for _ in range(3):
        born(diary, "subscriber 1")
    assert parent.stop() == Exit.OK
    for title in ("collector a", "subscriber 1"):
        delays = said_delays(diary.lines, f"stream-daemon nfl {title}")
        assert [delay for _, delay in delays] == [0.1, 0.2]


def test_a_child_that_somebody_killed_leaves_no_zombie(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), cast.obedient("subscriber", "1")])
    recovery = born(diary, "recovery")
    first = born(diary, "subscriber 1")
    os.kill(first, signal.SIGKILL)
    diary.wait_for("recovery nudged")
    second = born(diary, "subscriber 1")
    assert state_of(first) == ""
    assert set(parent.children()) == {recovery, second}
    (subscriber,) = parent.status()["subscribers"]
    assert (subscriber["pid"], subscriber["restarts"]) == (second, 1)
    assert parent.stop() == Exit.OK
    assert said_delays(diary.lines, "stream-daemon nfl subscriber 1") == [("SIGKILL", 0.1)]


def test_recovery_is_started_again_too(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    os.kill(born(diary, "recovery"), signal.SIGKILL)
    second = born(diary, "recovery")
    recovery = parent.status()["recovery"]
    assert (recovery["pid"], recovery["restarts"]) == (second, 1)
    assert parent.stop() == Exit.OK


def test_a_child_that_was_told_to_end_by_a_stranger_is_wanted_still(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    os.kill(born(diary, "collector a"), signal.SIGTERM)
    diary.wait_for("collector a told drain")
    born(diary, "collector a")
    assert parent.stop() == Exit.OK


def test_subscribers_wait_for_the_first_sweep(start: Start, diary: Diary, cast: Cast) -> None:
    may_sweep, let_sweep = os.pipe()

    def recovery(birth: Birth) -> Exit:
        select.select([may_sweep], [], [])
        diary.say("recovery sweeps")
        birth.slot.add("swept", 1)
        beat_until_told(birth)
        return Exit.OK

    parent = start(
        [
            cast.spec("recovery", "", recovery),
            cast.obedient("collector", "a"),
            cast.obedient("subscriber", "1"),
        ]
    )
    born(diary, "collector a")
    assert not diary.hears("subscriber", within_s=0.4)
    os.write(let_sweep, b"!")
    born(diary, "subscriber 1")
    os.close(may_sweep)
    os.close(let_sweep)
    assert parent.stop() == Exit.OK
    assert order_of(diary.lines, "sweeps", "subscriber 1 born") == [
        "recovery sweeps",
        "subscriber 1 born",
    ]


class FullKernel:
    """A multiprocessing context that has no room for so many processes."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self._real = multiprocessing.get_context("fork")

    def Process(self, **how: Any) -> Any:
        self.failures -= 1
        if self.failures >= 0:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._real.Process(**how)


def test_a_kernel_without_room_for_a_process_is_tried_again(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    a = listeners["a"]
    parent = start(
        [reading(cast, "a", a.acceptor), cast.recovery()], limits={"_fork": FullKernel(3)}
    )
    a.send("hello")
    born(diary, "collector a")
    born(diary, "recovery")
    diary.wait_for("a (got|inherited) hello")
    assert parent.stop() == Exit.OK
    failed = [line for line in diary.lines if "can't be started" in line]
    delays = [line.rpartition("tried again in ")[2] for line in failed]
    assert sorted(delays) == ["0.1 s", "0.1 s", "0.2 s"]


def test_a_child_dies_with_the_parent(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    born(diary, "collector a")
    parent.send(signal.SIGKILL)
    assert parent.wait() == -signal.SIGKILL
    assert "collector a told drain" in diary.lines
    assert "recovery told drain" in diary.lines


def test_a_child_has_its_title_and_its_own_signals(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    pid = born(diary, "collector a")
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == (
        b"stream-daemon nfl collector a"
    )
    fields = dict(
        line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    assert int(fields["SigBlk"], 16) == 0
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGHUP):
        assert int(fields["SigIgn"], 16) >> (number - 1) & 1
        os.kill(pid, number)  # the terminal's reach all; only the parent listens
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert not diary.hears("told", within_s=0.2)
    assert parent.stop() == Exit.OK


# ── heartbeats ──────────────────────────────────────────────────────────────────────────

IMPATIENT = {
    "HEARTBEAT_S": {"collector": 0.5, "subscriber": 0.5, "recovery": 5.0},
    "ABORT_TO_KILL_S": 0.3,
}


def silent(cast: Cast, ignores_abort: bool) -> ChildSpec:
    """Falls silent in its first life."""

    def body(birth: Birth) -> Exit:
        if not birth.slot.get("lost"):
            birth.slot.set("lost", 1)
            if ignores_abort:
                signal.signal(signal.SIGABRT, lambda *_: cast.diary.say("aborted"))
            while True:
                signal.pause()
        beat_until_told(birth)
        return Exit.OK

    return cast.spec("collector", "a", body)


@pytest.mark.parametrize("ignores_abort", [False, True])
def test_a_silent_child_is_ended(
    start: Start, diary: Diary, cast: Cast, ignores_abort: bool
) -> None:
    started_at = time.monotonic()
    parent = start([cast.recovery(), silent(cast, ignores_abort)], limits=IMPATIENT)
    born(diary, "collector a")
    diary.wait_for("log ERROR stream-daemon nfl collector a is silent for")
    assert time.monotonic() - started_at >= IMPATIENT["HEARTBEAT_S"]["collector"]  # type: ignore[index]
    born(diary, "collector a")
    assert not diary.hears("is silent", within_s=0.7)
    assert parent.stop() == Exit.OK
    cause = "SIGKILL" if ignores_abort else "SIGABRT"
    assert said_delays(diary.lines, "stream-daemon nfl collector a") == [(cause, 0.1)]
    assert diary.lines.count("aborted") == int(ignores_abort)


def test_a_child_that_only_works_slowly_is_left_alone(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.slot.beat()
            birth.wish.wait(0.4)
        return Exit.OK

    parent = start([cast.recovery(), cast.spec("collector", "a", body)], limits=IMPATIENT)
    born(diary, "collector a")
    assert not diary.hears("silent|died", within_s=1.5)
    assert parent.stop() == Exit.OK


def test_a_slow_call_has_a_limit_of_its_own_which_ends_with_its_caller(
    start: Start, diary: Diary, cast: Cast
) -> None:
    """Resolving a name may block for long, not for ever."""

    def body(birth: Birth) -> Exit:
        lives = birth.slot.get("lost")
        birth.slot.set("lost", lives + 1)
        if lives == 0:
            with birth.slot.slow_call():
                time.sleep(60)
        elif lives == 1:
            time.sleep(60)
        beat_until_told(birth)
        return Exit.OK

    limits = IMPATIENT | {"SLOW_CALL_S": 1.5}
    parent = start([cast.recovery(), cast.spec("collector", "a", body)], limits=limits)
    for _ in range(3):
        born(diary, "collector a")
    assert parent.stop() == Exit.OK
    slow, usual = (gap - 0.1 for gap in gaps_s(diary.lines, "collector a"))  # and the restart's
    assert slow >= 1.5
    assert 0.5 <= usual < 1.4


@pytest.mark.parametrize("idle", [False, True], ids=["in a turn's work", "in its wait"])
def test_after_the_parent_itself_was_stopped_heartbeats_start_anew(
    start: Start, diary: Diary, cast: Cast, idle: bool
) -> None:
    """All of it is stopped for a while (a paused machine); the parent wakes up first."""
    limits = IMPATIENT | {"LATE_S": 0.3}
    parent = start([cast.recovery(), cast.obedient("collector", "a")], limits=limits)
    pid = born(diary, "collector a")  # the parent is still at it
    assert not idle or not diary.hears("log", within_s=0.3)
    parent.send(signal.SIGSTOP)
    os.kill(pid, signal.SIGSTOP)
    assert not diary.hears("log", within_s=1.2)
    parent.send(signal.SIGCONT)
    diary.wait_for("heartbeats start anew")
    os.kill(pid, signal.SIGCONT)
    assert not diary.hears("silent|died", within_s=0.8)
    assert parent.status()["sources"]["a"]["pid"] == pid
    assert parent.stop() == Exit.OK
    assert len([line for line in diary.lines if "heartbeats start anew" in line]) == 1


# ── deaths with work in hand ────────────────────────────────────────────────────────────


def holding(cast: Cast, deaths: list[str], frames: list[str]) -> ChildSpec:
    """A subscriber that dies in these ways, one a life, each time with one of the frames in hand.

    "NAME@5" is a frame with its record 5 in hand; "" is all of a lease, "-" nothing.
    """
    mortal = dying(cast, "subscriber", "1", deaths)

    def run(birth: Birth) -> Exit:
        life = birth.slot.get("lost")
        if life < len(frames) and frames[life] != "-":
            frame, _, record = frames[life].partition("@")
            birth.slot.in_hand(f"owner-{life}", frame)
            if record:
                birth.slot.set("position", int(record))
        return mortal.run(birth)

    return dataclasses.replace(mortal, run=run)


def test_what_a_subscriber_died_of_and_with_is_there_when_recovery_is_nudged(
    start: Start, diary: Diary, cast: Cast
) -> None:
    deaths = ["SIGSEGV", "SIGKILL", "1", "error", "SIGSEGV", "worked, SIGKILL"]
    frames = ["0a:7@5", "0a:7", "", "0b:1@0", "-", "0c:2"]
    parent = start([cast.recovery(), holding(cast, deaths, frames)])
    expected = [
        Death("owner-0", "0a:7", 5, "SIGSEGV"),
        Death("owner-1", "0a:7", None, "SIGKILL"),
        Death("owner-2", "", None, "exit-code-1"),
        Death("owner-3", "0b:1", 0, "exit-code-70"),
        None,
        Death("owner-5", "0c:2", None, "SIGKILL"),
    ]
    for number in range(1, len(deaths) + 1):
        diary.wait_for("recovery nudged")
        assert parent.deaths.newest() == [death for death in expected[:number] if death]
    born(diary, "subscriber 1")
    assert parent.stop() == Exit.OK
    had = [line for line in diary.lines if "in hand" in line]
    said = ["0a:7", "0a:7", "several frames", "0b:1", "0c:2"]
    start_of_line = "log WARNING stream-daemon nfl subscriber 1 had"
    assert had == [f"{start_of_line} {frame} in hand" for frame in said]


def test_a_successor_holds_nothing_of_what_its_predecessor_held(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), holding(cast, ["SIGSEGV", "SIGSEGV"], ["0a:7@5", "-"])])
    for _ in range(3):
        born(diary, "subscriber 1")
    assert parent.deaths.newest() == [Death("owner-0", "0a:7", 5, "SIGSEGV")]
    assert parent.stop() == Exit.OK


def hanging(cast: Cast, name: str) -> ChildSpec:
    """A subscriber with a frame in hand that says what it is told, and goes on hanging."""

    def body(birth: Birth) -> Exit:
        birth.slot.in_hand("owner", "0a:7")
        told = False
        while True:
            birth.wish.wait(30)
            if birth.wish.stop and not told:
                told = True
                cast.diary.say("subscriber", name, "is told")

    return cast.spec("subscriber", name, body)


def test_who_is_ended_for_its_silence_died_of_no_frame(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), hanging(cast, "1")], limits=FAST_STOP | IMPATIENT)
    diary.wait_for("log WARNING .* died .SIGABRT")
    diary.wait_for("recovery nudged")
    assert parent.deaths.newest() == []


def test_who_was_told_to_end_died_of_no_frame(start: Start, diary: Diary, cast: Cast) -> None:
    """One that is one too many and is killed; one that a stop kills in the end."""
    subscribers = [hanging(cast, name) for name in ("1", "2")]
    parent = start([cast.recovery(), *subscribers], drain_s=0.3, limits=FAST_STOP)
    pid = born(diary, "subscriber 2")
    parent.send(Signals.SIGTTOU)
    diary.wait_for("subscriber 2 is told")
    os.kill(pid, signal.SIGKILL)
    diary.wait_for("recovery nudged")
    assert parent.stop() == Exit.TIMED_OUT
    assert "subscriber 1 is told" in diary.lines
    assert parent.deaths.newest() == []


def test_status_names_a_frame_that_goes_alone(start: Start, diary: Diary, cast: Cast) -> None:
    def store(birth: Birth) -> Exit:
        birth.slot.in_hand("owner", "0a:7")
        for line in ("together", "alone"):
            diary.say(line)
            birth.wish.wait(30)
            birth.slot.set("position", 3)
        return Exit.OK

    parent = start([cast.recovery(), cast.spec("subscriber", "1", store)])
    pid = born(diary, "subscriber 1")
    diary.wait_for("together")
    assert parent.status()["subscribers"][0]["alone"] == ""
    os.kill(pid, signals.NUDGE)
    diary.wait_for("alone")
    assert parent.status()["subscribers"][0]["alone"] == "0a:7"
    assert parent.stop() == Exit.OK


# ── stopping ────────────────────────────────────────────────────────────────────────────

SAY_WHEN_TOLD = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.write(int(sys.argv[1]), b"server born %d\\n" % os.getpid())
if sys.argv[2] == "obeys":
    signal.sigwait({signal.SIGTERM})
    os.write(int(sys.argv[1]), b"server told\\n")
else:
    signal.sigwait({signal.SIGHUP})
"""


class FakeServer:
    """A server's process that says what happens to it; fails to start at first."""

    def __init__(self, diary: Diary, failures: int = 0, manner: str = "obeys") -> None:
        self._diary = diary
        self._failures = failures
        self._manner = manner

    def lacks_room(self) -> bool:
        return False

    def ask_to_end(self) -> None:
        """A signal is enough."""

    def start(self) -> "subprocess.Popen[bytes]":
        if self._failures:
            self._failures -= 1
            raise Unavailable("another server still holds the lock")
        return subprocess.Popen(
            [sys.executable, "-ISc", SAY_WHEN_TOLD, str(self._diary.fd), self._manner],
            pass_fds=[self._diary.fd],
            preexec_fn=restore_signal_mask,
        )


def test_a_stop_goes_through_its_phases_in_order(start: Start, diary: Diary, cast: Cast) -> None:
    specs = [
        cast.recovery(),
        *(cast.obedient("collector", name, lingers_s=0.15) for name in "ab"),
        *(cast.obedient("subscriber", name, lingers_s=0.15) for name in "12"),
    ]
    parent = start(specs, server=FakeServer(diary))
    for who in ("recovery", "collector a", "collector b", "subscriber 1", "subscriber 2"):
        born(diary, who)
    server = born(diary, "server")
    assert parent.stop() == Exit.OK
    lines = order_of(diary.lines, "told", "ends")
    steps = [sorted(lines[at : at + 2]) for at in range(0, 8, 2)]
    assert [*steps, lines[8:]] == [
        ["collector a told drain", "collector b told drain"],
        ["collector a ends 0", "collector b ends 0"],
        ["subscriber 1 told drain", "subscriber 2 told drain"],
        ["subscriber 1 ends 0", "subscriber 2 ends 0"],
        ["recovery told drain", "recovery ends 0", "server told"],
    ]
    assert "log INFO nfl ended with exit code 0" in diary.lines
    assert state_of(server) == ""
    assert not parent.control.exists()


def stubborn(cast: Cast, kind: str, name: str, **more: Any) -> ChildSpec:
    """Doesn't end when it is told to drain, only when it is told to be quick."""

    def body(birth: Birth) -> Exit:
        said = False
        while not birth.wish.quick:
            birth.slot.beat()
            birth.wish.wait(0.1)
            if birth.wish.drain and not said:
                cast.diary.say(kind, name, "told drain")
                said = True
        cast.diary.say(kind, name, "told quick")
        return Exit.OK

    return cast.spec(kind, name, body, **more)


def test_one_that_is_born_again_in_a_stop_knows_it_at_birth(
    start: Start, diary: Diary, cast: Cast
) -> None:
    """It shall not dial anybody before it hears of the stop, however lazy the parent is then."""

    def body(birth: Birth) -> Exit:
        if not birth.slot.get("lost"):
            birth.slot.set("lost", 1)
            beat_until_told(birth)
            return die(birth, "SIGKILL")
        birth.wish.wait(0.1)  # the parent goes on at the same moment as we
        cast.diary.say("collector a", "told" if birth.wish.drain else "not told")
        return Exit.OK

    limits = {"TICK_S_MAX": 5.0}
    parent = start([cast.recovery(), cast.spec("collector", "a", body)], limits=limits)
    born(diary, "collector a")
    assert parent.stop() == Exit.OK
    assert order_of(diary.lines, "collector a.*told") == ["collector a told"]


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGINT])
def test_a_second_term_is_quick(start: Start, diary: Diary, cast: Cast, number: Signals) -> None:
    parent = start(
        [cast.recovery(), stubborn(cast, "collector", "a"), cast.obedient("subscriber", "1")]
    )
    born(diary, "subscriber 1")
    parent.send(number)
    diary.wait_for("collector a told drain")
    assert not diary.hears("told", within_s=0.3)
    assert parent.status()["state"] == "stopping"
    parent.send(number)
    assert parent.wait() == Exit.OK
    assert order_of(diary.lines, "told") == [
        "collector a told drain",
        "collector a told quick",
        "subscriber 1 told quick",
        "recovery told quick",
    ]


def test_quit_is_quick_from_the_start(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [cast.recovery(), stubborn(cast, "collector", "a"), cast.obedient("subscriber", "1")]
    )
    born(diary, "subscriber 1")
    parent.send(signal.SIGQUIT)
    assert parent.wait() == Exit.OK
    told = order_of(diary.lines, "told")
    assert told == [f"{who} told quick" for who in ("collector a", "subscriber 1", "recovery")]
    assert "log INFO stopping at once" in diary.lines


def immovable(cast: Cast, kind: str, name: str, **more: Any) -> ChildSpec:
    """Works on, whatever it is told."""

    def body(birth: Birth) -> Exit:
        while True:
            birth.slot.beat()
            birth.wish.wait(0.1)
            if birth.wish.quick:
                cast.diary.say(kind, name, "told quick")

    return cast.spec(kind, name, body, **more)


MIXTURES: dict[str, tuple[dict[str, bool], Exit]] = {  # hangs, may lose → exit
    "a TCP source hangs": ({"a": True}, Exit.MAY_BE_LOST),
    "a file hangs": ({"b": False}, Exit.TIMED_OUT),
    "both hang": ({"a": True, "b": False}, Exit.MAY_BE_LOST),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_who_does_not_end_in_time_is_killed_and_the_exit_code_says_it(
    start: Start, diary: Diary, cast: Cast, name: str
) -> None:
    hanging, code = MIXTURES[name]
    specs = [
        (immovable if source in hanging else Cast.obedient)(
            cast, "collector", source, may_lose=source == "a"
        )
        for source in "ab"
    ]
    parent = start(
        [cast.recovery(), *specs, cast.obedient("subscriber", "1")], drain_s=0.3, limits=FAST_STOP
    )
    born(diary, "subscriber 1")
    stopped_at = time.monotonic()
    assert parent.stop() == code
    assert 0.6 <= time.monotonic() - stopped_at < 3
    for source in hanging:
        assert f"collector {source} told quick" in diary.lines
        assert f"log ERROR stream-daemon nfl collector {source} does not end: killing it" in (
            diary.lines
        )
    assert "subscriber 1 told quick" in diary.lines
    assert "recovery told quick" in diary.lines
    assert not any("started again" in line for line in diary.lines)
    assert f"log INFO nfl ended with exit code {int(code)}" in diary.lines


def test_a_subscriber_that_hangs_leaves_the_rest_queued(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start(
        [
            cast.recovery(),
            cast.obedient("collector", "a", may_lose=True),
            immovable(cast, "subscriber", "1"),
        ],
        drain_s=0.3,
        limits=FAST_STOP,
    )
    born(diary, "subscriber 1")
    assert parent.stop() == Exit.TIMED_OUT
    assert "collector a told drain" in diary.lines


def test_a_server_that_does_not_end_is_killed(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [cast.recovery(), cast.obedient("collector", "a")],
        server=FakeServer(diary, manner="hangs"),
        drain_s=0.3,
        limits=FAST_STOP,
    )
    server = born(diary, "server")
    assert parent.stop() == Exit.OK
    assert state_of(server) == ""


def test_what_children_say_of_their_end_becomes_the_exit_code(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def ends_with(code: Exit) -> Callable[[Birth], Exit]:
        def body(birth: Birth) -> Exit:
            beat_until_told(birth)
            return code

        return body

    parent = start(
        [
            cast.recovery(),
            cast.spec("collector", "a", ends_with(Exit.MAY_BE_LOST)),
            cast.spec("collector", "b", ends_with(Exit.TIMED_OUT)),
            cast.spec("subscriber", "1", ends_with(Exit.TIMED_OUT)),
        ]
    )
    born(diary, "subscriber 1")
    assert parent.stop() == Exit.MAY_BE_LOST


@pytest.mark.parametrize("how", ["attaches", "dies", "is refused"])
def test_nobody_takes_before_each_collector_is_the_only_one_of_its_source(
    start: Start, diary: Diary, cast: Cast, how: str
) -> None:
    """A refused instance must not be the first to say which store the queue belongs to."""

    def collector(birth: Birth) -> Exit:
        birth.wish.wait(0.5)
        diary.say("collector b", how)
        birth.slot.add("records", 1)
        if how == "dies" and birth.slot.get("records") == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "is refused":
            raise Occupied("another instance collects this source")
        birth.slot.set("attached", 1)
        beat_until_told(birth)
        return Exit.OK

    specs = [
        cast.recovery(),
        cast.obedient("collector", "a"),
        cast.spec("collector", "b", collector, attaches=False),
        cast.obedient("subscriber", "1"),
    ]
    parent = start(specs)
    if how == "is refused":
        assert parent.wait() == Exit.TAKEN
        assert not any("subscriber 1 born" in line for line in diary.lines)
        return
    born(diary, "subscriber 1")
    assert order_of(diary.lines, "subscriber 1", f"b {how}")[0] == f"collector b {how}"
    parent.stop()


def test_where_another_instance_collects_this_one_ends(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def refused(_birth: Birth) -> Exit:
        raise Occupied("another instance collects this source", "stop that one")

    specs = [
        cast.recovery(),
        cast.spec("collector", "a", refused),
        cast.obedient("collector", "b"),
        cast.obedient("subscriber", "1"),
    ]
    parent = start(specs)
    assert parent.wait() == Exit.TAKEN
    assert len([line for line in diary.lines if line.startswith("collector a born")]) == 1
    assert "collector b told quick" in diary.lines
    assert "recovery told quick" in diary.lines
    said = [line for line in diary.lines if "another instance collects this source" in line]
    assert len(said) == 1
    assert "stop that one" in said[0]


def test_another_instance_decides_the_exit_code_also_in_a_stop(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def refused(birth: Birth) -> Exit:
        beat_until_told(birth)
        raise Occupied("another instance collects this source")

    parent = start([cast.recovery(), cast.spec("collector", "a", refused)])
    born(diary, "collector a")
    assert parent.stop() == Exit.TAKEN


def test_a_collector_that_dies_while_it_stops_is_started_to_hand_over(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        beat_until_told(birth)
        if not birth.slot.get("lost"):
            birth.slot.set("lost", 1)
            os.kill(os.getpid(), signal.SIGKILL)
        diary.say("collector a handed over")
        return Exit.OK

    parent = start(
        [cast.recovery(), cast.spec("collector", "a", body), cast.obedient("subscriber", "1")]
    )
    born(diary, "collector a")
    assert parent.stop() == Exit.OK
    assert order_of(diary.lines, "handed over", "recovery told") == [
        "collector a handed over",
        "recovery told drain",
    ]


def test_a_subscriber_that_dies_while_it_stops_is_not_started_again(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        beat_until_told(birth)
        os.kill(os.getpid(), signal.SIGKILL)
        return Exit.OK

    parent = start([cast.recovery(), cast.spec("subscriber", "1", body)])
    born(diary, "subscriber 1")
    assert parent.stop() == Exit.OK
    assert len(order_of(diary.lines, "subscriber 1 born")) == 1
    assert diary.lines.index("recovery told drain")


# ── the end of all sources ──────────────────────────────────────────────────────────────


def ending(cast: Cast, name: str) -> ChildSpec:
    """A source that ends by itself."""

    def body(birth: Birth) -> Exit:
        birth.slot.set("ended", 1)
        return Exit.OK

    return cast.spec("collector", name, body)


def looking(cast: Cast, depths: list[tuple[int, int, int]]) -> ChildSpec:
    """A recovery whose looks at the queue find these frames, busy frames and bytes."""

    def body(birth: Birth) -> Exit:
        birth.slot.add("swept", 1)
        while not birth.wish.stop:
            birth.slot.beat()
            look = birth.slot.get("look")
            if look > birth.slot.get("looked"):
                depth = depths[min(look, len(depths)) - 1]
                cast.diary.say("look", look, *depth)
                for word, value in zip(("frames", "busy", "bytes"), depth, strict=True):
                    birth.slot.set(f"queue_{word}", value)
                birth.slot.set("looked", look)
            birth.wish.wait(0.05)
        return Exit.OK

    return cast.spec("recovery", "", body)


def saying_looks(cast: Cast, diary: Diary) -> ChildSpec:
    """A recovery that says each time what it is asked for."""

    def look(birth: Birth) -> Exit:
        birth.slot.set("swept", 1)
        while not birth.wish.stop:
            diary.say("look", birth.slot.get("look"))
            birth.wish.wait(30)  # ended by the parent's nudge
        return Exit.OK

    return cast.spec("recovery", "", look)


def test_a_look_at_the_queue_is_asked_for_when_somebody_has_worked(
    start: Start, diary: Diary, cast: Cast
) -> None:
    """So what `status` says of the queue is no older than that; and nobody looks for nothing."""

    def work(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.wish.wait(30)
            birth.slot.worked()
        return Exit.OK

    parent = start([saying_looks(cast, diary), cast.spec("collector", "a", work)])
    pid = born(diary, "collector a")
    diary.wait_for("look 0")
    assert not diary.hears("look", within_s=0.5)
    os.kill(pid, signals.NUDGE)
    diary.wait_for("look 1")
    assert not diary.hears("look", within_s=0.5)
    assert parent.stop() == Exit.OK


def test_a_parent_that_is_woken_all_the_time_asks_for_no_more_looks(
    start: Start, diary: Diary, cast: Cast
) -> None:
    """A look goes through all keys of the server, those of others too."""

    def work(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.wish.wait(0.01)
            birth.slot.worked()
        return Exit.OK

    parent = start([saying_looks(cast, diary), cast.spec("collector", "a", work)])
    diary.wait_for("look 1")
    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        parent.status()
        time.sleep(0.02)
    diary.hears("look", within_s=0.0)
    asked = order_of(diary.lines, "^look")
    assert 2 <= len(asked) <= 4, asked  # at birth, for the first work, and each second
    assert parent.stop() == Exit.OK


def test_when_all_sources_have_ended_the_queue_is_looked_at_until_it_is_empty(
    start: Start, diary: Diary, cast: Cast
) -> None:
    depths = [(3, 0, 90), (0, 1, 30), (0, 0, 30), (0, 0, 0)]
    parent = start(
        [
            looking(cast, depths),
            ending(cast, "a"),
            ending(cast, "b"),
            cast.obedient("subscriber", "1"),
        ]
    )
    assert parent.wait() == Exit.OK
    lines = order_of(diary.lines, "^look", "everything is stored", "subscriber 1 told")
    assert [line for line in lines if line != "look 5 0 0 0"] == [
        "look 1 3 0 90",
        "look 2 0 1 30",
        "look 3 0 0 30",
        "look 4 0 0 0",
        "log INFO every source has ended and everything is stored",
        "subscriber 1 told drain",
    ]
    assert len(order_of(diary.lines, "collector . born")) == 2


def test_one_source_that_goes_on_keeps_all_running(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [
            looking(cast, [(0, 0, 0)]),
            ending(cast, "a"),
            cast.obedient("collector", "b"),
            cast.obedient("subscriber", "1"),
        ]
    )
    diary.wait_for("collector a ends")
    assert not diary.hears("look|told", within_s=0.5)
    assert parent.status()["sources"]["a"]["pid"] is None
    assert parent.stop() == Exit.OK


def test_without_subscribers_the_end_of_the_sources_is_the_end(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def recovery(birth: Birth) -> Exit:
        birth.slot.set("queue_frames", 7)
        diary.say("sampled")
        beat_until_told(birth)
        return Exit.OK

    def collector(birth: Birth) -> Exit:
        diary_said.wait()
        birth.slot.set("ended", 1)
        return Exit.OK

    class Once:
        """An event that the test sets."""

        read, write = os.pipe()

        def wait(self) -> None:
            select.select([self.read], [], [], 10)

    diary_said = Once()
    parent = start([cast.spec("recovery", "", recovery), cast.spec("collector", "a", collector)])
    diary.wait_for("sampled")
    os.write(diary_said.write, b"!")
    assert parent.wait() == Exit.OK
    os.close(diary_said.read)
    os.close(diary_said.write)
    assert "log INFO every source has ended; 7 frames wait in the queue" in diary.lines


def test_a_collector_that_dies_at_its_end_is_started_to_end_properly(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        first = not birth.slot.get("ended")
        birth.slot.set("ended", 1)
        if first:
            os.kill(os.getpid(), signal.SIGKILL)
        return Exit.OK

    parent = start(
        [
            looking(cast, [(0, 0, 0)]),
            cast.spec("collector", "a", body),
            cast.obedient("subscriber", "1"),
        ]
    )
    assert parent.wait() == Exit.OK
    assert len(order_of(diary.lines, "collector a born")) == 2


# ── signals and the control socket ──────────────────────────────────────────────────────


def test_usr1_is_for_the_log_and_for_nobody_else(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    pid = born(diary, "collector a")
    parent.send(Signals.SIGUSR1)
    diary.wait_for("log INFO the log goes to ")
    status = parent.status()
    assert (status["state"], status["sources"]["a"]["pid"]) == ("healthy", pid)
    assert parent.stop() == Exit.OK


def numbers(parent: Parent) -> list[int]:
    return [one["n"] for one in parent.status()["subscribers"]]


def until_numbers(parent: Parent, wanted: list[int]) -> None:
    deadline = time.monotonic() + 5
    while numbers(parent) != wanted:
        assert time.monotonic() < deadline, numbers(parent)
        time.sleep(0.02)


def storing(cast: Cast, name: str, **more: Any) -> ChildSpec:
    """A subscriber that stores one record in each life."""

    def body(birth: Birth) -> Exit:
        birth.slot.add("stored", 1)
        cast.diary.say("subscriber", name, "stored")
        beat_until_told(birth)
        cast.diary.say("subscriber", name, "told", "quick" if birth.wish.quick else "drain")
        time.sleep(more.get("lingers_s", 0.0))
        return Exit.OK

    return cast.spec("subscriber", name, body)


def test_one_subscriber_more_and_one_fewer(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [cast.recovery(), cast.obedient("collector", "a"), storing(cast, "1")],
        subscriber=lambda number: storing(cast, number),
    )
    born(diary, "subscriber 1")
    for number in (2, 3):
        parent.send(Signals.SIGTTIN)
        diary.wait_for(f"subscriber {number} stored")
    assert numbers(parent) == [1, 2, 3]
    for number in (3, 2):
        parent.send(Signals.SIGTTOU)
        diary.wait_for(f"subscriber {number} told drain")
        until_numbers(parent, [*range(1, number)])
    status = parent.status()
    assert (status["state"], status["store"]["stored"]) == ("healthy", 3)
    assert not diary.hears("subscriber . born", within_s=0.4)
    parent.send(Signals.SIGTTIN)
    diary.wait_for("subscriber 2 stored")
    assert parent.status()["store"]["stored"] == 4, "its number's counts go on"
    assert parent.stop() == Exit.OK
    assert not said_delays(diary.lines, r"stream-daemon nfl subscriber \d")
    said = [line for line in diary.lines if "one subscriber" in line]
    counts = ["more: 2", "more: 3", "fewer: 2", "fewer: 1", "more: 2"]
    assert said == [f"log INFO one subscriber {count}" for count in counts]


def test_the_newest_goes_first_and_a_number_is_free_when_its_process_has_gone(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start(
        [cast.recovery(), *(cast.obedient("subscriber", n) for n in "12")],
        subscriber=lambda n: cast.obedient("subscriber", n, lingers_s=0.5 if n == "3" else 0),
    )
    parent.send(Signals.SIGTTIN)
    born(diary, "subscriber 3")
    parent.send(Signals.SIGTTOU)
    diary.wait_for("subscriber 3 told")
    parent.send(Signals.SIGTTIN)
    born(diary, "subscriber 4")  # 3 is still finishing its lease
    until_numbers(parent, [1, 2, 4])
    parent.send(Signals.SIGTTIN)
    born(diary, "subscriber 3")
    assert numbers(parent) == [1, 2, 3, 4]
    for number in (3, 4, 2):
        parent.send(Signals.SIGTTOU)
        diary.wait_for(f"subscriber {number} told")
    until_numbers(parent, [1])
    assert parent.stop() == Exit.OK


def test_never_fewer_than_none_and_never_more_than_the_limit(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start(
        [cast.recovery(), cast.obedient("collector", "a"), cast.obedient("subscriber", "1")],
        subscriber=lambda number: cast.obedient("subscriber", number),
        limits={"SUBSCRIBERS_LIMIT": 2},
    )
    born(diary, "subscriber 1")
    parent.send(Signals.SIGTTIN)
    born(diary, "subscriber 2")
    parent.send(Signals.SIGTTIN)
    diary.wait_for("log WARNING no room for one subscriber more")
    assert numbers(parent) == [1, 2]
    for number in (2, 1):
        parent.send(Signals.SIGTTOU)
        diary.wait_for(f"subscriber {number} told drain")
    parent.send(Signals.SIGTTOU)
    diary.wait_for("log WARNING there is no subscriber left to end")
    until_numbers(parent, [])
    assert parent.stop() == Exit.OK


def test_one_too_many_that_is_killed_is_not_started_again(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start(
        [
            cast.recovery(),
            cast.obedient("subscriber", "1"),
            cast.obedient("subscriber", "2", lingers_s=30),
        ]
    )
    pid = born(diary, "subscriber 2")
    parent.send(Signals.SIGTTOU)
    diary.wait_for("subscriber 2 told drain")
    os.kill(pid, signal.SIGKILL)
    diary.wait_for("recovery nudged")
    until_numbers(parent, [1])
    assert not diary.hears("subscriber 2 born|started again", within_s=0.4)
    assert parent.status()["state"] == "healthy"
    assert parent.stop() == Exit.OK


def test_one_too_many_that_is_dead_is_not_started_again_until_it_is_wanted(
    start: Start, diary: Diary, cast: Cast
) -> None:
    second = dying(cast, "subscriber", "2", ["70"] * 4)
    parent = start(
        [cast.recovery(), cast.obedient("subscriber", "1"), second],
        subscriber=lambda _number: second,
    )
    diary.wait_for("subscriber 2 died .* again in 0.8 s")
    parent.send(Signals.SIGTTOU)
    until_numbers(parent, [1])
    assert parent.status()["state"] == "healthy"
    assert not diary.hears("subscriber 2 born", within_s=1.0)
    parent.send(Signals.SIGTTIN)
    born(diary, "subscriber 2")
    until_numbers(parent, [1, 2])
    assert parent.stop() == Exit.OK


def test_one_too_many_that_hangs_holds_no_stop_up(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [cast.recovery(), cast.obedient("subscriber", "1", lingers_s=30)],
        drain_s=0.3,
        limits=FAST_STOP,
    )
    born(diary, "subscriber 1")
    parent.send(Signals.SIGTTOU)
    diary.wait_for("subscriber 1 told drain")
    assert parent.stop() == Exit.TIMED_OUT
    assert "log ERROR stream-daemon nfl subscriber 1 does not end: killing it" in diary.lines


def watching_pause(cast: Cast, name: str) -> ChildSpec:
    """Says whether it is asked to pause, at birth and at each change. Only a signal wakes it."""

    def body(birth: Birth) -> Exit:
        said = None
        while not birth.wish.stop:
            birth.slot.beat()
            paused = birth.slot.get("paused")
            if paused != said:
                cast.diary.say(f"subscriber {name} paused={paused}")
                said = paused
            birth.wish.wait(30)
        return Exit.OK

    return cast.spec("subscriber", name, body)


def test_pause_and_resume_reach_every_subscriber_also_later_ones(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start(
        [
            cast.recovery(),
            cast.obedient("collector", "a"),
            *(watching_pause(cast, n) for n in "12"),
        ],
        subscriber=lambda number: watching_pause(cast, number),
    )
    first = born(diary, "subscriber 1")
    diary.wait_for("subscriber 1 paused=0")
    diary.wait_for("subscriber 2 paused=0")
    parent.send(Signals.SIGTSTP)
    diary.wait_for("subscriber 1 paused=1")
    diary.wait_for("subscriber 2 paused=1")
    status = parent.status()
    assert (status["state"], status["paused"]) == ("degraded", True)
    os.kill(first, signal.SIGKILL)
    diary.wait_for("subscriber 1 paused=1")  # its successor
    parent.send(Signals.SIGTTIN)
    diary.wait_for("subscriber 3 paused=1")
    parent.send(Signals.SIGTTOU)
    until_numbers(parent, [1, 2])
    parent.send(Signals.SIGCONT)
    for number in (1, 2):
        diary.wait_for(f"subscriber {number} paused=0")
    parent.send(Signals.SIGTTIN)
    diary.wait_for("subscriber 3 paused=0")
    status = parent.status()
    assert (status["state"], status["paused"]) == ("healthy", False)
    parent.send(Signals.SIGCONT)  # as `fg` does: nothing to say
    assert parent.status()["paused"] is False
    assert parent.stop() == Exit.OK
    assert [line for line in diary.lines if "log INFO storing" in line] == [
        "log INFO storing is paused; CONT resumes it",
        "log INFO storing goes on",
    ]


def test_a_stop_while_paused_ends_normally(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), watching_pause(cast, "1")])
    diary.wait_for("subscriber 1 paused=0")
    parent.send(Signals.SIGTSTP)
    diary.wait_for("subscriber 1 paused=1")
    assert parent.stop() == Exit.OK


def test_cont_resumes_also_a_parent_that_was_stopped(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), watching_pause(cast, "1")])
    diary.wait_for("subscriber 1 paused=0")
    parent.send(Signals.SIGTSTP)
    diary.wait_for("subscriber 1 paused=1")
    assert state_of(parent.pid) in "SR", "TSTP itself stops nobody"
    parent.send(Signals.SIGSTOP)
    parent.send(Signals.SIGCONT)
    diary.wait_for("subscriber 1 paused=0")
    assert parent.stop() == Exit.OK


def test_what_a_terminal_sends_changes_nothing(start: Start, diary: Diary, cast: Cast) -> None:
    keyboard, terminal = os.openpty()
    parent = start([cast.recovery(), watching_pause(cast, "1")], terminal=terminal)
    diary.wait_for("subscriber 1 paused=0")
    os.write(keyboard, b"\x1a")  # Ctrl-Z
    assert not diary.hears("log|paused", within_s=0.4)
    assert state_of(parent.pid) in "SR"
    assert (parent.status()["paused"], parent.status()["state"]) == (False, "healthy")
    os.write(keyboard, b"\x03")  # Ctrl-C: it does hear this terminal
    assert parent.wait() == Exit.OK
    os.close(keyboard)
    os.close(terminal)


def test_usr2_logs_the_state_as_one_line(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a"), storing(cast, "1")])
    diary.wait_for("subscriber 1 stored")
    born(diary, "collector a")
    parent.send(Signals.SIGUSR2)
    logged = json.loads(diary.wait_for(r"log INFO (\{.*\})")[1])
    assert logged == parent.status()
    assert logged["store"]["stored"] == 1
    assert parent.stop() == Exit.OK


def test_a_text_of_a_dead_child_is_not_its_successors(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        if not birth.slot.get("lost"):
            birth.slot.set("lost", 1)
            birth.slot.waiting_for("the store")
            os.kill(os.getpid(), signal.SIGKILL)
        diary.say("second life")
        beat_until_told(birth)
        return Exit.OK

    parent = start([cast.recovery(), cast.spec("subscriber", "1", body)])
    diary.wait_for("second life")
    assert parent.status()["state"] == "healthy"
    assert parent.stop() == Exit.OK


def test_status_says_how_fast_it_goes(start: Start, cast: Cast) -> None:
    def collector(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.slot.add("records", 10)
            birth.slot.beat()
            birth.wish.wait(0.01)
        return Exit.OK

    parent = start([cast.recovery(), cast.spec("collector", "a", collector, type="tcp")])
    deadline = time.monotonic() + 10
    while parent.status()["sources"]["a"]["per_s"] <= 10:
        assert time.monotonic() < deadline, parent.status()
        time.sleep(0.05)
    assert parent.status()["store"]["per_s"] == 0
    assert parent.stop() == Exit.OK


def test_status_while_it_runs(start: Start, diary: Diary, cast: Cast) -> None:
    def collector(birth: Birth) -> Exit:
        for name, value in {"records": 12, "bytes": 345, "connections": 2}.items():
            birth.slot.set(name, value)
        birth.slot.set("at_risk_records", 4)
        birth.slot.set("at_risk_bytes", 56)
        beat_until_told(birth)
        return Exit.OK

    def subscriber(birth: Birth) -> Exit:
        for name, value in {"records": 9, "stored": 9, "filtered": 2, "dead": 1, "lost": 5}.items():
            birth.slot.set(name, value)
        birth.slot.waiting_for("the store: it is down → start it")
        birth.slot.error("the store: it is down")
        diary.say("numbers are set")
        beat_until_told(birth)
        return Exit.OK

    parent = start(
        [
            cast.recovery(),
            cast.spec("collector", "a", collector, type="tcp"),
            cast.spec("subscriber", "1", subscriber),
        ]
    )
    pids = {who: born(diary, who) for who in ("recovery", "collector a", "subscriber 1")}
    diary.wait_for("numbers are set")
    status = parent.status()
    for moment in ("since", "last_error_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", status.pop(moment))
    assert isinstance(status["sources"]["a"].pop("per_s"), float)
    assert isinstance(status["store"].pop("per_s"), float)
    assert status == {
        "name": "nfl",
        "version": "1.2.3",
        "pid": parent.pid,
        "state": "degraded",
        "ready": False,
        "paused": False,
        "sources": {
            "a": {
                "type": "tcp",
                "pid": pids["collector a"],
                "restarts": 0,
                "connections": 2,
                "records": 12,
                "bytes": 345,
                "held": True,
                "at_risk": {"records": 4, "bytes": 56},
                "spool": {"bytes": 0},
                "dropped": 0,
                "waiting_for": "",
            }
        },
        "subscribers": [
            {
                "n": 1,
                "pid": pids["subscriber 1"],
                "restarts": 0,
                "records": 9,
                "waiting_for": "the store: it is down → start it",
                "alone": "",
            }
        ],
        "recovery": {"pid": pids["recovery"], "restarts": 0, "spool": {"bytes": 0}},
        "keeper": None,
        "queue": {"frames": 0, "bytes": 0, "busy": 0, "waiting_for": ""},
        "store": {
            "stored": 9,
            "filtered": 2,
            "dead": 1,
            "lost": 5,
            "refusing": "",
            "lag_s": 0.0,
            "waiting_for": "the store: it is down → start it",
        },
        "log": {"lost": 0, "error": ""},
        "last_error": "the store: it is down",
    }
    assert parent.stop() == Exit.OK


@pytest.mark.parametrize("now", [False, True])
def test_a_stop_by_request_is_answered_at_the_end_with_the_exit_code(
    start: Start, diary: Diary, cast: Cast, now: bool
) -> None:
    def body(birth: Birth) -> Exit:
        beat_until_told(birth)
        diary.say("told", "quick" if birth.wish.quick else "drain")
        return Exit.TIMED_OUT

    parent = start([cast.recovery(), cast.spec("collector", "a", body)])
    born(diary, "collector a")
    with parent.connect() as first, parent.connect() as second:
        for client in (first, second):
            answer = control.converse(client, {"verb": "status"})
            assert answer["state"] == "healthy"
    assert parent.ask(verb="stop", now=now) == {"exit": 75}
    assert "told quick" in diary.lines or not now or diary.wait_for("told quick")
    assert parent.wait() == Exit.TIMED_OUT
    assert order_of(diary.lines, "^told") == [f"told {'quick' if now else 'drain'}"]


def test_of_those_who_wait_for_the_end_only_so_many_are_kept(
    start: Start, diary: Diary, cast: Cast
) -> None:
    specs = [cast.recovery(), cast.obedient("collector", "a", lingers_s=1.0)]
    parent = start(specs, limits={"STOP_CLIENTS_MAX": 3})
    born(diary, "collector a")
    clients = [parent.connect() for _ in range(5)]
    for client in clients:
        client.sendall(b'{"verb": "stop"}\n')
        parent.status()
    assert parent.wait() == Exit.OK
    answers = [client.recv(100) for client in clients]
    assert answers == [b"", b"", *[b'{"exit": 0}\n'] * 3]
    for client in clients:
        client.close()


def test_clients_that_say_nothing_or_nonsense_hold_nobody_up(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    born(diary, "collector a")
    with parent.connect() as silent_one, parent.connect() as gone, parent.connect() as wrong:
        gone.sendall(b'{"verb": "sta')
        gone.close()
        wrong.sendall(b"\xff\xfe\n")
        assert b"unknown verb" in wrong.recv(1000)
        assert parent.status()["pid"] == parent.pid
        assert parent.stop() == Exit.OK
        assert silent_one.recv(1) == b""


def test_more_silent_clients_than_it_keeps_hold_nobody_up(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), cast.obedient("collector", "a")])
    born(diary, "collector a")
    clients = []
    for number in range(2 * control.CLIENTS_MAX):
        clients.append(parent.connect())
        if number % 10 == 0:  # let it take those in who came
            assert parent.status()["pid"] == parent.pid
    assert clients[0].recv(1) == b""  # the oldest made room
    for client in clients:
        client.close()
    assert parent.status()["pid"] == parent.pid
    assert parent.stop() == Exit.OK


# ── the server ──────────────────────────────────────────────────────────────────────────


def test_the_server_is_started_again(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(
        [cast.recovery(), cast.obedient("collector", "a")], server=FakeServer(diary, failures=2)
    )
    first = born(diary, "server")
    os.kill(first, signal.SIGKILL)
    second = born(diary, "server")
    assert state_of(first) == ""
    assert second in parent.children()
    assert parent.stop() == Exit.OK
    tried = [line for line in diary.lines if "another server still holds the lock" in line]
    assert [line.rpartition("tried again in ")[2] for line in tried] == ["0.1 s", "0.2 s"]
    assert said_delays(diary.lines, "valkey-server") == [("SIGKILL", 0.4)]


@pytest.mark.parametrize(("works", "delays"), [(False, [0.1, 0.2, 0.4]), (True, [0.1] * 3)])
def test_work_lets_the_servers_delay_begin_anew(
    start: Start, diary: Diary, cast: Cast, works: bool, delays: list[float]
) -> None:
    def collector(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.slot.beat()
            if works:
                birth.slot.worked()
            birth.wish.wait(0.01)
        return Exit.OK

    parent = start(
        [cast.recovery(), cast.spec("collector", "a", collector)], server=FakeServer(diary)
    )
    for _ in delays:
        server = born(diary, "server")
        assert not diary.hears("died", within_s=0.1)
        os.kill(server, signal.SIGKILL)
    born(diary, "server")
    assert parent.stop() == Exit.OK
    assert [delay for _cause, delay in said_delays(diary.lines, "valkey-server")] == delays


def test_the_server_lives_until_recovery_has_ended(start: Start, diary: Diary, cast: Cast) -> None:
    """Killed in the middle of a stop it comes back: collectors have frames to hand over."""
    parent = start([cast.recovery(), stubborn(cast, "collector", "a")], server=FakeServer(diary))
    server = born(diary, "server")
    parent.send(signal.SIGTERM)
    diary.wait_for("collector a told drain")
    os.kill(server, signal.SIGKILL)
    born(diary, "server")
    parent.send(signal.SIGTERM)
    assert parent.wait() == Exit.OK
    assert order_of(diary.lines, "told", "recovery ends")[-3:] == [
        "recovery told quick",
        "recovery ends 0",
        "server told",
    ]


# ── connections and descriptors ─────────────────────────────────────────────────────────


def test_a_collector_inherits_what_its_predecessor_had(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    a = listeners["a"]
    parent = start([cast.recovery(), reading(cast, "a", a.acceptor)])
    first = born(diary, "collector a")
    a.send("one")
    diary.wait_for("a got one")
    os.kill(first, signal.SIGKILL)
    a.send("two")
    second = born(diary, "collector a")
    diary.wait_for("a inherited one")
    a.send("three")
    diary.wait_for("a got three")
    seen = [line for line in diary.lines if line.endswith("two")]
    assert len(seen) == 1  # inherited or sent, never both
    assert second != first
    assert parent.stop() == Exit.OK
    assert sorted(order_of(diary.lines, "finishes")) == [
        "a finishes one",
        "a finishes three",
        "a finishes two",
    ]


def at_once_with_the_stop(parent: Parent, listener: Listener, text: str) -> None:
    """A sender connects, and both are there when the parent looks."""
    parent.send(signal.SIGSTOP)
    while state_of(parent.pid) != "T":
        os.sched_yield()
    listener.send(text)
    parent.send(signal.SIGTERM)
    parent.send(signal.SIGCONT)


def test_a_connection_that_came_with_the_stop_is_handed_down(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    """The kernel has acknowledged what is in the backlog, and the stop closes it."""
    a = listeners["a"]
    parent = start([cast.recovery(), reading(cast, "a", a.acceptor)])
    born(diary, "collector a")
    at_once_with_the_stop(parent, a, "late")
    assert parent.wait() == Exit.OK
    assert order_of(diary.lines, "late", "ends") == [
        "a got late",
        "a finishes late",
        "collector a ends 0",
        "recovery ends 0",
    ]
    assert a.clients[0].recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(a.address, 5)


@pytest.mark.parametrize("how", ["attaches", "is refused", "queue away"])
def test_nobody_is_let_in_before_it_is_known_that_we_collect(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener], how: str
) -> None:
    """A queue that is away says nothing, so it isn't waited for for ever."""

    def body(birth: Birth) -> Exit:
        reader = Reader(diary, "a", birth)
        for _ in range(5):
            birth.wish.wait(0.1)
            reader.take()
        diary.say("collector a", how)
        if how == "is refused":
            raise Occupied("another instance collects this source")
        birth.slot.set("attached", how == "attaches")
        reader.read()
        reader.finish()
        return Exit.OK

    a = listeners["a"]
    a.send("early")
    if how == "is refused":
        a.send("")
    spec = cast.spec("collector", "a", body, attaches=False, acceptor=a.acceptor)
    parent = start([cast.recovery(), spec], limits={"ADMIT_S": 1.0})
    if how == "is refused":
        assert parent.wait() == Exit.TAKEN
        assert not any("early" in line for line in diary.lines), "never ours"
        for client in a.clients:  # who was accepted would see a clean end, if it has sent nothing
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        return
    diary.wait_for("a got early")
    assert order_of(diary.lines, "early", how) == [f"collector a {how}", "a got early"]
    assert parent.stop() == Exit.OK


def test_a_collector_that_ended_before_its_connections_is_started_again(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    """It ends at the first word, without a look at what was handed down before."""

    def body(birth: Birth) -> Exit:
        reader = Reader(diary, "a", birth)
        beat_until_told(birth)
        reader.finish()
        return Exit.OK

    a = listeners["a"]
    spec = cast.spec("collector", "a", body, acceptor=a.acceptor)
    parent = start([cast.recovery(), spec])
    born(diary, "collector a")
    at_once_with_the_stop(parent, a, "late")
    assert parent.wait() == Exit.OK
    assert order_of(diary.lines, "late", "collector a ends", "told") == [
        "collector a ends 0",
        "a inherited late",
        "a finishes late",
        "collector a ends 0",
        "recovery told drain",
    ]


def test_a_child_holds_only_what_is_its_own(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    collectors = [reading(cast, name, one.acceptor) for name, one in listeners.items()]
    parent = start([cast.recovery(), *collectors, cast.obedient("subscriber", "1")])
    everybody = ("recovery", "collector a", "collector b", "subscriber 1")
    first = [born(diary, who) for who in everybody]
    for name, listener in listeners.items():
        listener.send("hello")
        diary.wait_for(f"{name} got hello")
    with parent.connect(), parent.connect():  # two clients who have said nothing
        assert parent.status()["pid"] == parent.pid
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        pids = {who: born(diary, who) for who in everybody}
        held = {who: descriptors(pid) for who, pid in pids.items()}
        assert parent.status()["pid"] == parent.pid  # it is through with the births
        parents = descriptors(parent.pid)
        for name, listener in listeners.items():
            diary.wait_for(f"{name} inherited hello")
            assert listener.inode in parents
        from_the_test = descriptors(os.getpid())
        own_to_parent = sockets_of(parents - from_the_test) | {"anon_inode:[signalfd]"}
        connections = {name: accepted(listener) for name, listener in listeners.items()}
        for who, links in held.items():
            name = who.removeprefix("collector ")
            mine = {connections[name]} if name in connections else set()
            assert links & own_to_parent == mine, who
    assert parent.stop() == Exit.OK


def sockets_of(links: set[str]) -> set[str]:
    return {link for link in links if link.startswith("socket:")}


def accepted(listener: Listener) -> str:
    """The other end of the listener's only client, as /proc says it (proc_net_tcp)."""
    (client,) = listener.clients
    ports = [f"{name[1]:04X}" for name in (listener.address, client.getsockname())]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [end.partition(":")[2] for end in fields[1:3]] == ports:
            return f"socket:[{fields[9]}]"
    raise AssertionError("no such connection")


# ── require_healthy ─────────────────────────────────────────────────────────────────────


def preparing(cast: Cast, waiting_for: str = "") -> ChildSpec:
    """A subscriber that has prepared the store, or says what it waits for."""

    def body(birth: Birth) -> Exit:
        birth.slot.set("prepared", int(not waiting_for))
        birth.slot.waiting_for(waiting_for)
        beat_until_told(birth)
        return Exit.OK

    return cast.spec("subscriber", "1", body)


def attaching(cast: Cast, **more: Any) -> ChildSpec:
    def body(birth: Birth) -> Exit:
        birth.slot.set("attached", 1)
        beat_until_told(birth)
        return Exit.OK

    return cast.spec("collector", "a", body, **more)


def backlog(port: int) -> int:
    """Connections that nobody has accepted (proc(5): a listener's rx_queue)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if state == "0A" and int(local.partition(":")[2], 16) == port:
            return int(queues.partition(":")[2], 16)
    raise AssertionError(f"nobody listens on {port}")


def test_nothing_is_read_before_queue_and_store_are_reached(
    start: Start, diary: Diary, cast: Cast
) -> None:
    parent = start([cast.recovery(), attaching(cast), preparing(cast)], healthy_s=WAIT_S)
    born(diary, "collector a")
    order = order_of(diary.lines, "born")
    assert order.index("subscriber 1 born") < order.index("collector a born")
    deadline = time.monotonic() + WAIT_S
    while not parent.status()["ready"]:
        assert time.monotonic() < deadline
    assert parent.stop() == Exit.OK


def test_a_store_that_is_not_reached_in_time_ends_it(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    a = listeners["a"]
    awaited = "the store: it is down → start it"
    specs = [cast.recovery(), attaching(cast, acceptor=a.acceptor), preparing(cast, awaited)]
    parent = start(specs, healthy_s=0.5, limits=FAST_STOP)
    born(diary, "subscriber 1")
    a.send("not taken in")
    assert not parent.status()["ready"]
    assert not parent.status()["ready"], "it has looked at its listeners meanwhile"
    assert backlog(a.address[1]) == 1
    assert parent.wait() == Exit.UNREACHABLE
    assert not order_of(diary.lines, "collector a born")
    assert f"log ERROR require_healthy: still waiting for {awaited}" in diary.lines


@pytest.mark.parametrize("took_over", [True, False])
def test_one_that_gives_up_leaves_what_it_has_taken_over(
    start: Start, diary: Diary, cast: Cast, held_one: Listener, took_over: bool
) -> None:
    """Its senders were connected before; those of a first start find nobody, and see it."""
    specs = [
        cast.recovery(),
        attaching(cast, acceptor=held_one.acceptor),
        preparing(cast, "the store: it is down"),
    ]
    holder = SayingHolder(diary)
    parent = start(specs, healthy_s=0.3, limits=FAST_STOP, holder=holder, took_over=took_over)
    assert parent.wait() == Exit.UNREACHABLE
    assert len(order_of(diary.lines, r"released a\.listen\.\d+")) == (not took_over)


def test_a_queue_that_is_not_reached_in_time_ends_it(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def body(birth: Birth) -> Exit:
        birth.slot.waiting_for("the queue: no answer")
        beat_until_told(birth)
        return Exit.OK

    specs = [cast.spec("recovery", "", body), attaching(cast)]  # nobody stores
    parent = start(specs, healthy_s=0.5, limits=FAST_STOP)
    assert parent.wait() == Exit.UNREACHABLE
    assert "log ERROR require_healthy: still waiting for the queue: no answer" in diary.lines


def test_what_goes_away_later_is_waited_for(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start([cast.recovery(), attaching(cast), preparing(cast)], healthy_s=0.5)
    os.kill(born(diary, "subscriber 1"), signal.SIGKILL)
    born(diary, "collector a")
    time.sleep(0.7)  # the limit passes, and nothing may happen
    assert parent.status()["state"] == "healthy"
    assert parent.stop() == Exit.OK


def test_a_stop_before_it_is_known_is_a_stop(start: Start, diary: Diary, cast: Cast) -> None:
    specs = [cast.recovery(), attaching(cast), preparing(cast, "the store")]
    parent = start(specs, healthy_s=WAIT_S)
    born(diary, "subscriber 1")
    assert parent.stop() == Exit.OK


# ── sockets that outlive the parent ─────────────────────────────────────────────────────


class SayingHolder:
    """A holder that says in the diary what it is told (contract: contracts.Holder)."""

    holds = True

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def keep(self, name: str, thing: object) -> None:
        self._diary.say("kept", name)

    def release(self, name: str) -> None:
        self._diary.say("released", name)


@pytest.fixture
def held_one(diary: Diary) -> Iterator[Listener]:
    made = Listener("a", SayingHolder(diary))
    yield made
    made.close()


def leaving(cast: Cast, kind: str, name: str, **more: Any) -> ChildSpec:
    """Says how it is told to end, and whether its connections were said to be kept."""

    def body(birth: Birth) -> Exit:
        beat_until_told(birth)
        wish = birth.wish
        told = "leave" if wish.leave else "quick" if wish.quick else "drain"
        cast.diary.say(kind, name, "told", told, "kept", birth.slot.get("kept"))
        return Exit.OK

    return cast.spec(kind, name, body, **more)


@pytest.mark.parametrize("leave", [True, False])
def test_a_stop_that_leaves_tells_only_those_whose_connections_are_held(
    start: Start, diary: Diary, cast: Cast, held_one: Listener, leave: bool
) -> None:
    holder = SayingHolder(diary)
    specs = [
        cast.recovery(),
        leaving(cast, "collector", "a", acceptor=held_one.acceptor),
        leaving(cast, "collector", "f", type="file"),
        leaving(cast, "subscriber", "1"),
    ]
    parent = start(specs, holder=holder)
    for who in ("collector a", "collector f", "subscriber 1"):
        born(diary, who)
    held_one.send("hello")
    diary.wait_for(r"kept a\.\d+")
    parent.ask(verb="stop", leave=leave)
    parent.wait()
    # What nobody shall go on with is finished also when the parent is killed meanwhile.
    first = "leave kept 1" if leave else "drain kept 0"
    *told, last = order_of(diary.lines, "collector . told", "subscriber 1 told")
    assert {*told} == {f"collector a told {first}", "collector f told drain kept 0"}
    assert last == "subscriber 1 told drain kept 0"
    assert len(order_of(diary.lines, r"released a\.listen\.\d+")) == (not leave)
    if leave:
        assert not order_of(diary.lines, "collector a died"), "it missed nothing"


def test_where_nobody_holds_them_nothing_is_left(
    start: Start, diary: Diary, cast: Cast, listeners: dict[str, Listener]
) -> None:
    spec = leaving(cast, "collector", "a", acceptor=listeners["a"].acceptor)
    parent = start([cast.recovery(), spec])
    born(diary, "collector a")
    assert parent.ask(verb="stop", leave=True) == {"exit": 0}
    parent.wait()
    assert order_of(diary.lines, "collector a told") == ["collector a told drain kept 0"]


class Kept:
    """A source whose sockets a keeper of a test holds; the keeper says what it has."""

    def __init__(self, diary: Diary, answers: bool = True) -> None:
        self.keeping = Keeping("stream-daemon nfl keeper", self._run, remove=lambda: None)
        self.listener = Listener("a", self.keeping)
        self._diary = diary
        self._answers = answers

    def _run(self, kept: dict[str, Any], wire: Wire, _legacy: Legacy) -> None:
        self._diary.say("keeper born", os.getpid(), "with", *sorted(kept))
        while not wire.ended:
            select.select([wire], [], [])
            for heard in wire.hear():
                if heard.word == ALIVE and self._answers:
                    wire.say(ALIVE)
                elif heard.word != ALIVE:
                    self._diary.say("keeper hears", heard.name)
        self._diary.say("keeper sees the parent's end")


def test_a_keeper_lives_as_long_as_there_is_something_to_hold(
    start: Start, diary: Diary, cast: Cast
) -> None:
    kept = Kept(diary)
    spec = leaving(cast, "collector", "a", acceptor=kept.listener.acceptor)
    parent = start([cast.recovery(), spec], keeping=kept.keeping)
    first = int(diary.wait_for(r"keeper born (\d+) with a\.listen\.\d+")[1])
    born(diary, "collector a")
    kept.listener.send("hello")
    name = diary.wait_for(r"keeper hears (a.\d+)")[1]
    os.kill(first, signal.SIGKILL)
    second = int(diary.wait_for(rf"keeper born (\d+) with {re.escape(name)} a\.listen\.\d+")[1])
    until_holding(parent)
    report = parent.status()["keeper"]
    assert (report["pid"], report["restarts"], report["sockets"]) == (second, 1, 2)
    assert parent.stop() == Exit.OK
    told = order_of(diary.lines, "collector a told")
    assert {*told} == {"collector a told drain kept 0"}
    assert not order_of(diary.lines, "keeper sees"), "it was ended before"
    kept.listener.close()


def test_a_keeper_outlives_a_parent_that_is_killed(start: Start, diary: Diary, cast: Cast) -> None:
    kept = Kept(diary)
    spec = leaving(cast, "collector", "a", acceptor=kept.listener.acceptor)
    parent = start([cast.recovery(), spec], keeping=kept.keeping)
    diary.wait_for("keeper born")
    born(diary, "collector a")
    until_holding(parent)
    parent.send(Signals.SIGKILL)
    diary.wait_for("collector a told leave kept 1")
    diary.wait_for("keeper sees the parent's end")
    parent.wait()
    kept.listener.close()


def test_a_keeper_that_doesnt_answer_doesnt_count(start: Start, diary: Diary, cast: Cast) -> None:
    kept = Kept(diary, answers=False)
    spec = leaving(cast, "collector", "a", acceptor=kept.listener.acceptor)
    parent = start([cast.recovery(), spec], keeping=kept.keeping)
    diary.wait_for("keeper born")
    born(diary, "collector a")
    answer = parent.ask(verb="stop", leave=True)
    assert answer == {"error": "its keeper doesn't hold its connections now"}
    assert parent.status()["state"] == "healthy", "it goes on"
    assert parent.stop() == Exit.OK
    assert order_of(diary.lines, "collector a told") == ["collector a told drain kept 0"]
    kept.listener.close()


def test_keeper_and_children_have_only_what_is_theirs(
    start: Start, diary: Diary, cast: Cast
) -> None:
    kept = Kept(diary)
    spec = cast.obedient("collector", "a", acceptor=kept.listener.acceptor)
    parent = start([cast.recovery(), spec], keeping=kept.keeping)
    collector = born(diary, "collector a")
    first = int(diary.wait_for(r"keeper born (\d+)")[1])
    until_holding(parent)
    with parent.connect(), parent.connect():
        assert parent.status()["pid"] == parent.pid
        for pid in (first, collector):
            os.kill(pid, signal.SIGKILL)
        keeper = int(diary.wait_for(r"keeper born (\d+)")[1])
        collector = born(diary, "collector a")
        until_holding(parent)
        own_to_parent = sockets_of(descriptors(parent.pid) - descriptors(os.getpid()))
        own_to_parent |= {"anon_inode:[signalfd]"}
        assert descriptors(keeper) & own_to_parent == {kept.listener.inode}
        assert not descriptors(collector) & own_to_parent
    assert parent.stop() == Exit.OK
    kept.listener.close()


def until_holding(parent: Parent) -> None:
    deadline = time.monotonic() + WAIT_S
    while not parent.status()["keeper"]["holds"]:
        assert time.monotonic() < deadline
