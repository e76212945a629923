"""Redis servers of our own: on a Unix socket in a private folder, durable, killable.

A pytest plugin (fixtures `redis_server` and `valkey_server`), and a class for whoever needs
a server outside of pytest.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from appliance.queues.address import RedisAddress
from appliance.redis_server import find_server
from tests.conftest import find_service
from tests.ports import free_port

READY_S = 20.0
STOP_S = 20.0


class PrivateRedis:
    """A server that only this test knows; its data outlives stop, kill and start.

    `tcp`: listen on a private port of 127.0.0.1 too. `options` are the server's own, `environ` is
    all of its environment.
    """

    def __init__(
        self,
        binary: str,
        *,
        tcp: bool = False,
        options: Mapping[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary
        self.environ = environ or {"LC_ALL": "C"}
        self.directory = Path(tempfile.mkdtemp(prefix="redis-", dir="/tmp"))  # short paths
        self.port = free_port() if tcp else 0
        self.options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": str(self.directory / "redis.sock"),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "daemonize": "no",
            **(options or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> RedisAddress:
        """Where it is: the Unix socket."""
        return RedisAddress(path=self.options["unixsocket"])

    @property
    def tcp_address(self) -> RedisAddress:
        """Where it is: the port (needs tcp=True)."""
        assert self.port, "made without tcp=True"
        return RedisAddress(host="127.0.0.1", port=self.port)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> "PrivateRedis":
        """Start it and wait until it answers."""
        self.spawn()
        deadline = time.monotonic() + READY_S
        while not self._answers():
            log = (self.directory / "log").read_text(errors="replace")
            assert self.process is not None
            assert self.process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.01)  # nothing tells us when it listens
        return self

    def spawn(self) -> None:
        """Start it, and don't wait."""
        assert self.process is None, "runs already"
        options = [word for key, value in self.options.items() for word in (f"--{key}", value)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environ),
                start_new_session=True,
            )

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with kill -9."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            process.wait(STOP_S)

    def restart(self) -> None:
        """Stop it and start it again, with the same data at the same address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let it hang (SIGSTOP): the kernel still accepts connections, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def client(self, **options: Any) -> "redis.Redis":
        """A plain client, for looking and meddling."""
        return redis.Redis(unix_socket_path=self.options["unixsocket"], **options)

    def remove(self) -> None:
        """Stop it and forget its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> "PrivateRedis":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.remove()


def find_redis() -> str:
    """The machine's redis-server; without it the test is skipped (in CI: fails)."""
    return find_service("redis-server")


def find_valkey() -> str:
    """The embedded valkey-server; without it the test is skipped (in CI: fails)."""
    found = find_server(os.environ, sys.prefix, None)
    return found if found and found.endswith("valkey-server") else find_service("valkey-server")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[PrivateRedis]:
    """Debian's redis-server, one for the whole run: use an instance name of your own."""
    with PrivateRedis(find_redis(), tcp=True) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[PrivateRedis]:
    """The embedded valkey-server, one for the whole run: use an instance name of your own."""
    with PrivateRedis(find_valkey(), tcp=True) as server:
        yield server
