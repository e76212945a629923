"""systemd: what it tells us, what we tell it, and its store."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import systemd
from appliance.fdnames import Inherited
from appliance.systemd import Channel, Given, Manager, Store
from tests.fake_systemd import FakeSystemd

ME = 4711
NOTIFY = {"NOTIFY_SOCKET": "/run/systemd/notify"}


@pytest.fixture(params=[False, True], ids=["path", "abstract"])
def host(request: pytest.FixtureRequest) -> Iterator[FakeSystemd]:
    with FakeSystemd(abstract=request.param) as one:
        yield one


@pytest.fixture
def channel(host: FakeSystemd) -> Channel:
    return Channel(host.address)


@pytest.fixture
def things() -> Iterator[list[socket.socket]]:
    made = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    yield made
    for one in made:
        one.close()


class Clock:
    now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


# ── what it tells ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, Given("/run/systemd/notify")),
        ({"WATCHDOG_USEC": "30000000"}, Given("/run/systemd/notify", 30.0)),
        (
            {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4711"},
            Given("/run/systemd/notify", 30.0),
        ),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "4712"}, Given("/run/systemd/notify")),
        ({"WATCHDOG_USEC": "x"}, Given("/run/systemd/notify")),
        ({"FDSTORE": "7", "STREAM_DAEMON_FDSTORE": "9"}, Given("/run/systemd/notify", 0.0, 7)),
        ({"STREAM_DAEMON_FDSTORE": "9"}, Given("/run/systemd/notify", 0.0, 9)),
        (
            {"SYSTEMD_EXEC_PID": "4711", "FDSTORE": "7"},
            Given("/run/systemd/notify", 0.0, 7),
        ),
        ({"SYSTEMD_EXEC_PID": "1", "FDSTORE": "7", "WATCHDOG_USEC": "1"}, Given()),
        ({"NOTIFY_SOCKET": "vsock:2:9999"}, Given()),
        ({"NOTIFY_SOCKET": ""}, Given()),
    ],
)
def test_what_is_meant_for_us_is_taken(more: dict[str, str], expected: Given) -> None:
    assert systemd.given(NOTIFY | more, ME) == expected


def test_without_systemd_there_is_nothing() -> None:
    assert systemd.given({}, ME) == Given()
    assert systemd.inherited({}, ME) == (Inherited(), {})


LOOK = """
import os, sys
from appliance import systemd
came, held = systemd.inherited(os.environ, os.getpid() + int(sys.argv[1]))
listeners = [one.getsockname() for one in came.listeners]
connections = {name: sorted(some) for name, some in came.connections.items()}
others = [name for name, _ in came.others]
is_open = any(one.get_inheritable() for one in came.listeners)
print(listeners, connections, others, sorted(held.values()), is_open)
"""


def looked(host: FakeSystemd, given: dict[str, int], pid_off: str = "0") -> str:
    started = host.start(
        [sys.executable, "-c", LOOK, pid_off],
        given=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = started.communicate(timeout=60)
    return said.decode().strip()


def test_what_was_handed_over_is_sorted_by_its_names(tmp_path: Path) -> None:
    with (
        FakeSystemd() as host,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as connection,
        (tmp_path / "file").open("w") as file,
    ):
        given = {
            "t.listen.5": listener.fileno(),
            "t.77": connection.fileno(),
            "my.socket": connection.fileno(),
            "file": file.fileno(),
        }
        address = listener.getsockname()
        said = looked(host, given)
        assert said.startswith("systemd has handed over file, which is no socket: closed")
        listed = f"[{address}] {{'t': [77]}} ['my.socket'] ['', 't.listen.5'] False"
        assert said.endswith(listed)
        assert looked(host, given, "1") == "[] {} [] [] False", "meant for another process"


# ── what we tell it ─────────────────────────────────────────────────────────────────────


def test_messages_are_those_of_sd_notify(host: FakeSystemd, channel: Channel) -> None:
    clock = Clock()
    manager = Manager(channel, 0.0, lambda: "", clock)
    manager.starting(2.5)
    manager.ready("all\nis\twell \x1b[31m")
    manager.reloading()
    manager.status("x" * 9000)
    manager.stopping(30)
    host.wait_for(lambda: len(host.heard) == 5, "five messages")
    assert host.heard == [
        {"EXTEND_TIMEOUT_USEC": "2500000"},
        {"READY": "1", "STATUS": r"all\nis\twell \x1b[31m"},
        {"RELOADING": "1", "MONOTONIC_USEC": "1000000000"},
        {"STATUS": "x" * systemd.STATUS_CHARS_MAX},
        {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "30000000"},
    ]


def test_a_sign_of_life_comes_twice_in_its_time(host: FakeSystemd, channel: Channel) -> None:
    clock = Clock()
    manager = Manager(channel, 10.0, lambda: "", clock)
    for _ in range(21):
        manager.alive()
        clock.now_ns += 10**9
    host.wait_for(lambda: len(host.heard) >= 5, "signs of life")
    assert host.said("WATCHDOG") == ["1"] * 5
    Manager(channel, 0.0, lambda: "", clock).alive()
    manager.status("end")
    host.wait_for(lambda: host.said("STATUS"), "the end")
    assert len(host.heard) == 6, "nobody wants to hear it"


def test_what_isnt_taken_waits_the_newest_of_each_kind(
    tmp_path: Path, things: list[socket.socket]
) -> None:
    path = str(tmp_path / "n")
    channel = Channel(path)
    store = Store(channel, 9)
    manager = Manager(channel, 0.0, lambda: "")
    store.keep("a.1", things[0])
    store.keep("a.2", things[1])
    store.release("a.1")
    things[0].close()
    for text in ("one", "two", "three"):
        manager.status(text)
    assert channel.unsent == 3
    assert not store.holds
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as late:
        late.bind(path)
        late.settimeout(5)
        assert store.holds, "it is said when somebody asks"
        assert channel.unsent == 0
        heard = [late.recv(999).decode() for _ in range(3)]
    assert heard == [
        "FDSTORE=1\nFDNAME=a.2\nFDPOLL=0",
        "FDSTOREREMOVE=1\nFDNAME=a.1",
        "STATUS=three",
    ]


def test_a_busy_systemd_holds_nobody_up(tmp_path: Path, things: list[socket.socket]) -> None:
    path = str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as busy:
        busy.bind(path)
        channel = Channel(path)
        store = Store(channel, 10_000)
        for number in range(2000):
            store.keep(f"a.{number}", things[0])
        assert channel.unsent > 0
        assert not channel.barrier(5.0), "it isn't waited for"
        busy.setblocking(False)
        heard = 0
        while heard < 2000:
            heard += len(busy.recv(999)) > 0
            channel.flush()
        assert channel.unsent == 0


def test_the_barrier_is_behind_what_was_said(host: FakeSystemd, channel: Channel) -> None:
    channel.say("status", "STATUS=x")
    assert channel.barrier(10.0)
    assert host.said("STATUS") == ["x"]


# ── its store ───────────────────────────────────────────────────────────────────────────


def test_what_is_kept_is_our_socket(
    host: FakeSystemd, channel: Channel, things: list[socket.socket]
) -> None:
    store = Store(channel, 9)
    assert store.holds
    store.keep("a.1", things[0])
    store.keep("a.1", things[0])
    store.keep("a.2", things[1])
    store.settle()
    assert {name: os.fstat(fd).st_ino for name, fd in host.store.items()} == {
        f"a.{number}": os.fstat(things[number - 1].fileno()).st_ino for number in (1, 2)
    }
    store.release("a.1")
    store.settle()
    assert host.store.keys() == {"a.2"}


def test_without_room_nothing_is_said(host: FakeSystemd, channel: Channel) -> None:
    store = Store(channel, 0)
    with socket.socket(socket.AF_UNIX) as thing:
        store.keep("a.1", thing)
        store.release("a.1")
        store.settle()
    channel.barrier(10.0)
    assert not store.holds
    assert [message.keys() for message in host.heard] == [{"BARRIER"}]


def test_more_than_it_takes_is_said_once_and_kept_when_there_is_room(
    host: FakeSystemd,
    channel: Channel,
    things: list[socket.socket],
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store(channel, 2)
    for number, thing in enumerate(things):
        store.keep(f"a.{number}", thing)
    assert [record.message.count("systemd keeps 2 sockets") for record in caplog.records] == [1]
    assert not store.holds, "who left now would lose what is in the others"
    store.release("a.2")  # it wasn't kept
    store.release("a.0")
    assert store.holds
    store.settle()
    assert host.store.keys() == {"a.1", "a.3"}
    store.release("a.1")
    store.release("a.3")
    store.settle()
    assert host.store == {}


def test_what_a_socket_unit_keeps_isnt_kept_twice(
    host: FakeSystemd, channel: Channel, things: list[socket.socket]
) -> None:
    store = Store(channel, 9, {os.fstat(things[0].fileno()).st_ino: ""})
    store.keep("a.1", things[0])
    store.keep("a.2", things[1])
    store.settle()
    assert host.store.keys() == {"a.2"}


def test_a_socket_that_was_held_by_another_name_gets_its_new_one(
    host: FakeSystemd, channel: Channel, things: list[socket.socket]
) -> None:
    """A source was renamed: what has its address is the other one's now."""
    Store(channel, 9).keep("a.listen.1", things[0])
    successor = Store(channel, 9, {os.fstat(things[0].fileno()).st_ino: "a.listen.1"})
    successor.keep("b.listen.1", things[0])
    successor.settle()
    assert host.store.keys() == {"b.listen.1"}
    successor.release("b.listen.1")
    successor.settle()
    assert host.store == {}


# ── a restart, or a stop ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("job", "restarts"),
    [("restart", True), ("try-restart", True), ("stop", False), ("", False), (None, False)],
)
def test_the_job_says_whether_we_come_back(job: str | None, restarts: bool) -> None:
    assert Manager(Channel("/nowhere"), 0.0, lambda: job).comes_back() is restarts


def test_an_announced_restart_needs_no_question() -> None:
    clock = Clock()
    manager = Manager(Channel("/nowhere"), 0.0, lambda: None, clock)
    manager.restart_follows()
    clock.now_ns += int(systemd.ANNOUNCED_S * 1e9) - 1
    assert manager.comes_back()
    clock.now_ns += 1
    assert not manager.comes_back(), "that one was called off"


@pytest.mark.parametrize(
    ("cgroup", "unit", "is_users"),
    [
        ("0::/system.slice/stream-daemon.service\n", "stream-daemon.service", False),
        (
            "12:pids:/x\n1:name=systemd:/system.slice/system-sd.slice/sd@nfl.service\n",
            "sd@nfl.service",
            False,
        ),
        ("0::/a.slice/sd@nfl.service/payload\n", "sd@nfl.service", False),
        (
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/sd.service\n",
            "sd.service",
            True,
        ),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", "", False),
        ("0::/\n", "", False),
        ("", "", False),
    ],
)
def test_the_control_group_names_the_unit(cgroup: str, unit: str, is_users: bool) -> None:
    assert systemd.unit_in(cgroup) == (unit, is_users)


SYSTEMCTL = """#!/bin/sh
echo "$@ ${NOTIFY_SOCKET-unset} ${XDG_RUNTIME_DIR-unset}" > "$0.asked"
printf '%s\\n' ' 12 other.service stop running' '  4 sd.service restart running'
exit CODE
"""
OWN = "0::/system.slice/sd.service\n"


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "systemctl"
    path.write_text(SYSTEMCTL.replace("CODE", "0"))
    path.chmod(0o755)
    monkeypatch.setattr(systemd, "PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    return path


def test_systemctl_is_asked_for_the_units_job(systemctl: Path) -> None:
    assert systemd.job_of(OWN, {}) == "restart"
    asked = Path(f"{systemctl}.asked").read_text().split()
    assert asked == ["--no-pager", "--no-legend", "--plain", "list-jobs", "unset", "unset"]
    assert systemd.job_of("0::/other.service", {}) == "stop"
    assert systemd.job_of("0::/nothing.service", {}) == ""
    of_user = "0::/user@7.service/sd.service"
    assert systemd.job_of(of_user, {"XDG_RUNTIME_DIR": "/run/user/7"}) == "restart"
    asked = Path(f"{systemctl}.asked").read_text().split()
    assert (asked[0], asked[-1]) == ("--user", "/run/user/7")


def test_nobody_to_ask_is_no_answer(systemctl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert systemd.job_of("0::/", {}) is None
    systemctl.write_text(SYSTEMCTL.replace("CODE", "1"))
    assert systemd.job_of(OWN, {}) is None
    systemctl.write_text("#!/bin/sh\nexec sleep 100\n")
    monkeypatch.setattr(systemd, "JOB_S", 0.2)
    assert systemd.job_of(OWN, {}) is None
    monkeypatch.setattr(systemd, "PATH", "/nowhere")
    assert systemd.job_of(OWN, {}) is None
