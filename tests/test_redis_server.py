"""The embedded server: durable, private, ended or taken over whoever started it."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from appliance.errors import ConfigError, InstanceError, Unavailable
from appliance.process import holders, kill_and_wait
from appliance.redis_server import ENVIRONMENT, LOG_BYTES_MAX, EmbeddedServer, find_server
from tests.redis_servers import find_valkey

MIB = 1024**2
READY_S = 20.0


class Servers:
    """Servers in one directory; whatever still runs at the end is killed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.binary = find_valkey()
        self.started: list[subprocess.Popen[bytes]] = []

    def make(self, **more: object) -> EmbeddedServer:
        known = {"holders": holders, "end": kill_and_wait, "bytes_max": 10 * MIB}
        known |= {"disk_is_low": lambda: False} | more
        return EmbeddedServer(self.directory, self.binary, **known)  # type: ignore[arg-type]

    def start(self, server: EmbeddedServer | None = None) -> "subprocess.Popen[bytes]":
        server = server or self.make()
        self.started.append(server.start())
        wait_ready(server)
        return self.started[-1]

    def start_and_lose_parent(self) -> int:
        """Start a server from another process, kill that one with -9; the server's pid."""
        program = (
            "import os, signal, sys; from pathlib import Path\n"
            "from appliance.redis_server import EmbeddedServer\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})\n"
            "directory, binary = sys.argv[1:]\n"
            "known = dict(disk_is_low=bool, holders=set, end=set)\n"
            f"server = EmbeddedServer(Path(directory), binary, {10 * MIB}, **known)\n"
            "print(server.start().pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        parent = subprocess.run(
            [sys.executable, "-c", program, str(self.directory), self.binary],
            stdout=subprocess.PIPE,
            check=False,
        )
        assert parent.returncode == -signal.SIGKILL
        wait_ready(self.make())
        return int(parent.stdout)

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.make().socket_path))

    def close(self) -> None:
        for pid in holders(self.directory / "valkey.lock") - {os.getpid()}:
            kill_and_wait(pid, signal.SIGKILL, 5)
        for process in self.started:
            process.kill()
            process.wait(5)


def wait_ready(server: EmbeddedServer) -> None:
    deadline = time.monotonic() + READY_S
    while not server.is_ready(1.0):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def servers(short_dir: Path) -> Iterator[Servers]:
    servers = Servers(short_dir)
    yield servers
    servers.close()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def files_of(pid: int) -> set[str]:
    """What a process has open (its connections come and go while we look)."""
    found = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(path))
    return found


def test_it_is_durable_private_and_limited(servers: Servers) -> None:
    servers.start()
    with servers.client() as client:
        told = client.config_get("*")
    assert told["port"] == "0"
    assert told["appendonly"] == "yes"
    assert told["appendfsync"] == "always"
    assert told["save"] == ""
    assert told["maxmemory-policy"] == "noeviction"
    assert told["maxmemory"] == str(15 * MIB + 64 * MIB)
    assert (servers.directory / "valkey.sock").stat().st_mode & 0o777 == 0o700
    files = [path for path in servers.directory.rglob("*") if path.is_file()]
    assert any(path.suffix == ".aof" for path in files)
    assert not [path for path in files if path.stat().st_mode & 0o077]


def test_it_inherits_nothing_but_its_lock(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "xx_YY.nonsense")  # in which it would refuse to start
    read, write = os.pipe()
    os.set_inheritable(write, True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD})
    try:
        process = servers.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    open_files = files_of(process.pid)
    pipe = os.readlink(f"/proc/self/fd/{write}")
    os.close(read)
    os.close(write)
    assert pipe not in open_files
    assert str(servers.directory / "valkey.lock") in open_files
    assert int(status_of(process.pid)["SigBlk"], 16) == 0
    assert os.getsid(process.pid) == process.pid
    assert os.getpid() not in holders(servers.directory / "valkey.lock")


def test_it_sees_nothing_of_our_environment(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/nowhere")
    monkeypatch.setenv("SECRET", "secret")
    program, seen = servers.directory / "program", servers.directory / "seen"
    program.write_text(f"#!/bin/sh\nexec cat /proc/self/environ > {seen}\n")
    program.chmod(0o755)
    servers.binary = str(program)
    assert servers.make().start().wait(5) == 0
    text = seen.read_text().replace("\0glibc", ":glibc")  # the loader takes it apart in place
    words = (word.split("=", 1) for word in text.split("\0") if word)
    assert {name: value for name, value in words if name != "PWD"} == ENVIRONMENT


def test_what_its_memory_is_told_is_understood(servers: Servers) -> None:
    """glibc ignores in silence what it doesn't know; its loader lists what it has taken."""
    [loader] = re.findall(rb"/lib\S*/ld-linux\S+?\.so\.\d", Path(servers.binary).read_bytes())
    done = subprocess.run([loader, "--list-tunables"], env=ENVIRONMENT, capture_output=True)
    for tunable in ENVIRONMENT["GLIBC_TUNABLES"].split(":"):
        name, value = tunable.split("=")
        assert f"{name}: {int(value):#x} " in done.stdout.decode()


def test_what_it_answered_outlives_kill_9_and_a_cut_tail(servers: Servers) -> None:
    process = servers.start()
    with servers.client() as client:
        client.rpush("list", *range(100))
    process.kill()
    process.wait()
    newest = max(servers.directory.rglob("*.incr.aof"), key=lambda path: path.stat().st_mtime)
    with newest.open("ab") as file:
        file.write(b"*3\r\n$5\r\nRPUSH\r\n$4\r\nlist\r\n$1000\r\nhalf a wri")
    servers.start()
    with servers.client() as client:
        assert client.lrange("list", 0, -1) == [b"%d" % n for n in range(100)]


def test_shutdown_ends_it_in_good_order(servers: Servers) -> None:
    server = servers.make()
    assert server.shutdown(1.0)  # nothing there is fine
    process = servers.start(server)
    assert server.shutdown(10.0)
    assert process.wait(10) == 0
    assert not server.is_ready(1.0)
    assert server.shutdown(1.0)


def test_shutdown_of_a_hanging_server_says_so(servers: Servers) -> None:
    process = servers.start()
    process.send_signal(signal.SIGSTOP)
    assert not servers.make().shutdown(0.1)
    assert not servers.make().is_ready(0.1)
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) == 0  # it gets the request when it goes on


def test_one_that_is_asked_to_end_does_so_though_nobody_waits_for_its_answer(
    servers: Servers,
) -> None:
    server = servers.make()
    server.ask_to_end()  # nothing there is fine
    process = servers.start(server)
    server.ask_to_end()
    assert process.wait(10) == 0


def test_only_one_server_at_a_time(servers: Servers) -> None:
    process = servers.start()
    with pytest.raises(Unavailable, match="lock"):
        servers.make().start()
    assert process.poll() is None
    assert servers.make().is_ready(1.0)


def test_a_server_whose_parent_died_holds_its_lock_and_is_taken_over(servers: Servers) -> None:
    orphan = servers.start_and_lose_parent()
    assert holders(servers.directory / "valkey.lock") == {orphan}
    assert int(status_of(orphan)["SigBlk"], 16) == 0
    with servers.client() as client:
        client.set("key", "kept")
    server = servers.make()
    with pytest.raises(Unavailable):
        server.start()
    server.take_over()
    assert not holders(servers.directory / "valkey.lock")
    assert servers.start(server).pid != orphan
    with servers.client() as client:
        assert client.get("key") == b"kept"
    servers.started[-1].terminate()


def test_a_hanging_orphan_is_killed_in_time(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.redis_server.TAKE_OVER_S", 0.3)
    orphan = servers.start_and_lose_parent()
    os.kill(orphan, signal.SIGSTOP)
    servers.make().take_over()
    assert not holders(servers.directory / "valkey.lock")
    servers.start()


def test_an_orphan_without_its_socket_is_found_by_its_lock(servers: Servers) -> None:
    servers.start_and_lose_parent()
    (servers.directory / "valkey.sock").unlink()
    servers.make().take_over()
    assert not holders(servers.directory / "valkey.lock")


def test_an_orphan_that_nobody_can_end_is_an_error(servers: Servers) -> None:
    servers.start_and_lose_parent()
    (servers.directory / "valkey.sock").unlink()
    asked: list[int] = []

    def end(_pid: int, number: signal.Signals, _timeout_s: float) -> bool:
        asked.append(number)
        return False

    with pytest.raises(InstanceError, match="earlier run"):
        servers.make(end=end).take_over()
    assert asked == [signal.SIGTERM, signal.SIGKILL]


def test_nothing_to_take_over_is_quick(servers: Servers) -> None:
    servers.make(end=pytest.fail).take_over()


def test_a_long_log_is_put_aside(servers: Servers) -> None:
    log = servers.directory / "valkey.log"
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    servers.start()
    assert (servers.directory / "valkey.log.old").stat().st_size == LOG_BYTES_MAX + 1
    assert log.stat().st_size < LOG_BYTES_MAX


def test_a_server_that_cant_run_is_unavailable_and_lets_go_of_the_lock(servers: Servers) -> None:
    servers.binary = str(servers.directory / "none")
    with pytest.raises(Unavailable, match="No such file") as error:
        servers.make().start()
    assert error.value.loud
    servers.binary = find_valkey()
    servers.start()


def test_a_directory_that_is_too_deep_or_missing_is_explained(servers: Servers) -> None:
    servers.directory /= "d" * 90
    with pytest.raises(ConfigError, match="state_dir"):
        servers.make()
    servers.directory = servers.directory.parent / "missing"
    with pytest.raises(InstanceError, match="No such file"):
        servers.make().start()


def test_our_own_server_goes_before_installed_ones(tmp_path: Path) -> None:
    def program(*parts: str) -> str:
        path = tmp_path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
        return str(path)

    environ = {"PATH": f"{tmp_path / 'bin'}:{tmp_path / 'sbin'}"}
    prefix, bundle = str(tmp_path / "venv"), str(tmp_path / "bundle")
    assert find_server(environ, prefix, bundle) is None
    expected = [
        program("bin", "redis-server"),
        program("sbin", "valkey-server"),
        program("venv", "libexec", "stream-daemon", "valkey-server"),
        program("bundle", "valkey-server"),
    ]
    for path in reversed(expected):
        assert find_server(environ, prefix, bundle) == path
        Path(path).unlink()
    Path(program("bundle", "valkey-server")).chmod(0o644)
    assert find_server(environ, prefix, bundle) is None
