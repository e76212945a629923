"""`collect --detach`: returns when the instance is ready, or says what keeps it from being so."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import process
from tests.ports import free_port
from tests.system import cron
from tests.system.daemon import STOP_S, Daemon, send_and_close, unstarted, until
from tests.system.stores import MariaDB, Sqlite, until_rows

NOBODY_LISTENS = '[store]\nurl = "mysql://u@127.0.0.1:1/d"\n'
NO_REDIS = '[queue]\nurl = "redis://127.0.0.1:1"\n'
SILENT = (0, "")
READY_S = 2.5


def tcp(port: int) -> str:
    return f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(port: int) -> Iterator[Daemon]:
    """An instance that doesn't run yet; what runs in the background is ended with it."""
    with unstarted(tcp(port)) as daemon:
        yield daemon
        cron.run(daemon, "stop")


def instance(daemon: Daemon) -> Path:
    return daemon.directory / "state" / "stream"


def log(daemon: Daemon) -> str:
    return (instance(daemon) / "log").read_text()


def parent(daemon: Daemon) -> int | None:
    return process.lock_owner(instance(daemon) / "lock")


# ── ready ───────────────────────────────────────────────────────────────────────────────


def test_it_returns_when_it_is_ready_and_goes_on(daemon: Daemon, port: int) -> None:
    assert cron.run(daemon, "collect", "--detach") == SILENT
    status = daemon.status()
    assert (status["state"], status["ready"], status["pid"]) == ("healthy", True, parent(daemon))
    send_and_close(port, [b"a\nb\n"])  # who starts it may send at once
    until_rows(Sqlite(), daemon, 2)
    assert cron.run(daemon, "stop") == SILENT
    assert "parent: stream ended with exit code 0" in log(daemon)
    assert parent(daemon) is None
    assert cron.run(daemon, "collect", "--detach") == SILENT
    assert log(daemon).count("parent: stream started") == 2, "appended"


def test_nothing_of_its_starter_is_left_to_it(daemon: Daemon) -> None:
    assert cron.run(daemon, "collect", "--detach") == SILENT
    pid = daemon.status()["pid"]
    assert os.getsid(pid) != os.getsid(0)
    said = str(instance(daemon) / "log")
    opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
    assert opened == ["/dev/null", said, said]
    assert os.stat(said).st_mode & 0o777 == 0o600
    ours = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if alive(fd)}
    theirs = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert not {link for link in ours & theirs if link.startswith("pipe:")}
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert fields[4] == "0", "no terminal"


def alive(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_beside_one_that_runs(daemon: Daemon) -> None:
    assert cron.run(daemon, "collect", "--detach") == SILENT
    pid, before = parent(daemon), log(daemon)
    code, said = cron.run(daemon, "collect", "--detach")
    assert code == 73
    assert f"it already runs (pid {pid})" in said
    assert cron.run(daemon, "collect", "--detach", "--if-needed") == SILENT
    assert log(daemon) == before
    assert daemon.status()["pid"] == pid


def test_a_source_that_has_ended_already() -> None:
    with unstarted("") as daemon:
        path = daemon.directory / "in"
        path.write_bytes(b"a\nb\nc\n")
        source = f'[source.s]\ntype = "file"\npath = "{path}"\nfollow = false\n'
        daemon.file.write_text(f'state_dir = "{daemon.directory}/state"\n{source}')
        assert cron.run(daemon, "collect", "--detach") == SILENT
        until_rows(Sqlite(), daemon, 3)
        until(lambda: parent(daemon) is None, STOP_S, "its end")
        assert "every source has ended and everything is stored" in log(daemon)


def test_relative_paths_mean_what_they_mean_in_the_foreground(daemon: Daemon) -> None:
    daemon.file.write_text('state_dir = "state"\n[source.f]\ntype = "file"\npath = "in"\n')
    (daemon.directory / "in").write_bytes(b"x\n")
    line = f"cd {daemon.directory} && {cron.PROGRAM} -c {daemon.file.name} collect --detach"
    done = daemon.run_in_shell(line)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    until_rows(Sqlite(), daemon, 1)


# ── not ready ───────────────────────────────────────────────────────────────────────────


def test_an_address_in_use_is_said_here(daemon: Daemon, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        code, said = cron.run(daemon, "collect", "--detach")
    assert code == 69
    assert said.startswith(f"stream-daemon: can't listen on 127.0.0.1:{port}")
    assert "in use" in said
    assert "\n  → " in said
    assert cron.run(daemon, "collect", "--detach") == SILENT


REFUSED = {
    "stdin": ('[source.s]\ntype = "stdin"\n', "reads standard input", "without --detach"),
    "broken": ("[[", "not TOML", ""),
    "unknown": ('[source.s]\ntype = "file"\npath = "x"\nfollows = true\n', "unknown key", "follow"),
    "secret": (
        '[source.s]\ntype = "file"\npath = "x"\n[store]\nurl = "mysql://u@h/d"\n'
        'password = { file = "/nowhere" }\n',
        "/nowhere",
        "",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_refused_here_and_nothing_is_made(what: str) -> None:
    text, message, hint = REFUSED[what]
    with unstarted(text) as daemon:
        code, said = cron.run(daemon, "collect", "--detach")
        assert code == 78, said
        assert message in said
        assert hint in said.partition("→")[2]
        assert not (daemon.directory / "state").exists()


AWAY = {
    "store": (NOBODY_LISTENS, "the store: "),
    "queue": (NO_REDIS, "the queue: "),
}


@pytest.mark.parametrize("what", AWAY)
def test_it_returns_after_ready_s_and_says_what_is_awaited(what: str, port: int) -> None:
    more, awaited = AWAY[what]
    with unstarted(f"ready_s = {READY_S}\n{tcp(port)}{more}") as daemon:
        began = time.monotonic()
        code, said = cron.run(daemon, "collect", "--detach")
        took_s = time.monotonic() - began
        assert code == 0
        assert said.startswith(f"stream runs, but isn't ready after 2.5 s: waiting for {awaited}")
        assert "\n  → it goes on by itself" in said
        assert took_s > READY_S
        status = daemon.status()
        assert (status["state"], status["ready"]) == ("degraded", False)
        assert cron.run(daemon, "collect", "--detach", "--if-needed") == SILENT
        assert cron.run(daemon, "stop") == SILENT


HERE_AND_THERE = [("store", ("collect", "--detach")), ("queue", ("collect",))]


@pytest.mark.parametrize(("what", "words"), HERE_AND_THERE)
def test_require_healthy_ends_it_instead(what: str, words: tuple[str, ...], port: int) -> None:
    more, awaited = AWAY[what]
    with unstarted(f"require_healthy = true\nready_s = {READY_S}\n{tcp(port)}{more}") as daemon:
        code, said = cron.run(daemon, *words)
        assert code == 69
        assert f"require_healthy: still waiting for {awaited}" in said
        assert "refused" in said
        assert parent(daemon) is None


def test_require_healthy_where_all_is_well(daemon: Daemon, port: int) -> None:
    daemon.file.write_text("require_healthy = true\n" + daemon.file.read_text())
    assert cron.run(daemon, "collect", "--detach") == SILENT
    send_and_close(port, [b"a\n"])
    until_rows(Sqlite(), daemon, 1)


def test_on_a_terminal_it_says_where_the_log_is(daemon: Daemon) -> None:
    line = f"{cron.PROGRAM} -c {daemon.file} collect --detach"
    done: Any = daemon.run_in_shell(f"script -qec '{line}' /dev/null")
    assert done.returncode == 0, done.stdout
    found = re.fullmatch(r"stream runs \(pid (\d+)\); its log is (\S+)", done.stdout.strip())
    assert found, done.stdout
    assert int(found[1]) == parent(daemon)
    assert Path(found[2]) == instance(daemon) / "log"


def test_a_password_in_the_environment_reaches_it(mariadb_store: MariaDB, port: int) -> None:
    """Who starts it takes the password out of its own environment before it starts anything."""
    with unstarted(tcp(port) + mariadb_store.section()) as daemon:
        done = daemon.run("collect", "--detach")
        assert done.returncode == 0, done.stderr
        send_and_close(port, [b"a\n"])
        until_rows(mariadb_store, daemon, 1)
        assert daemon.run("stop").returncode == 0
