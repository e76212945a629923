"""A whole instance under test: started as a user starts it, looked at as a user looks."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

from appliance import control, keeper_wire
from appliance import process as processes
from tests.database_server import PASSWORD

PASSWORD_VARIABLE = "TEST_MARIADB_PASSWORD"
READY_S = 30.0
STOP_S = 90.0
LOOK_S = 0.05
LOG_SHOWN_CHARS = 20_000  # of an instance whose test has failed


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Wait until the condition is true; its value. Fails, naming what was awaited."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(LOOK_S)


class Daemon:
    """One instance in a private directory. `config` lacks only state_dir.

    `environ` is added to the environment that it is started in.
    """

    def __init__(
        self,
        config: str,
        *,
        crash: dict[str, str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))  # short, for sockets
        self.file = self.directory / "stream-daemon.toml"
        self.file.write_text(f'state_dir = "{self.directory}/state"\n{config}')
        self.log = self.directory / "log"
        self.crash_log = self.directory / "crashes"
        self._crash = crash
        self._environ = dict(environ or {})
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Daemon":
        return self.start()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind:
            print(self.said()[-LOG_SHOWN_CHARS:])
        if self.process and self.process.poll() is None:
            self.stop()
        self._end_leftovers()
        rmtree(self.directory, ignore_errors=True)

    def _end_leftovers(self) -> None:
        """What a killed parent has left, should the test have failed before it ended."""
        for lock in (self.directory / "state").glob("**/*lock"):
            for pid in processes.holders(lock):
                processes.kill_and_wait(pid, signal.SIGKILL, STOP_S)
        for path in (self.directory / "state").glob("*/keeper.sock"):
            keeper_wire.end(path, lambda pid: os.kill(pid, signal.SIGKILL))

    # ── life ────────────────────────────────────────────────────────────────────────────

    def spawn(self, *options: str, stdin: Any = subprocess.DEVNULL) -> "Daemon":
        """Start it, and don't wait."""
        module = "tests.system.crashing" if self._crash else "appliance"
        own = {"CRASH_LOG": str(self.crash_log), PASSWORD_VARIABLE: PASSWORD}
        environment = os.environ | own | self._environ | (self._crash or {})
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, "-c", str(self.file), "collect", *options],
                stdin=stdin,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        return self

    def start(self) -> "Daemon":
        """Start it and wait until it answers."""
        self.spawn()
        until(lambda: self.ended() or self.try_status(), READY_S, "the control socket")
        assert not self.ended(), self.said()
        return self

    def ended(self) -> bool:
        assert self.process
        return self.process.poll() is not None

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Wait for its own end; the exit code."""
        assert self.process
        return self.process.wait(timeout_s)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the parent and wait; the exit code."""
        self.signal(number)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Signal the parent, and don't wait."""
        assert self.process
        self.process.send_signal(number)

    def kill_child(self, pid: int) -> bool:
        """Kill -9 exactly this child; False if it was gone already."""
        if pid not in self.child_pids():
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def kill_parent(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def kill_both_holders(self) -> None:
        """The parent and the keeper at once: nobody is left who holds the connections."""
        keeper = self.keeper()["pid"]
        assert self.process
        self.signal(signal.SIGSTOP)
        processes.kill_and_wait(keeper, signal.SIGKILL, STOP_S)
        self.kill_parent()

    def keeper(self) -> dict[str, Any]:
        """What `status` says of the keeper, once it holds."""

        def holding() -> dict[str, Any] | None:
            keeper: dict[str, Any] = (self.try_status() or {}).get("keeper") or {}
            return keeper if keeper.get("holds") else None

        found: dict[str, Any] = until(holding, READY_S, "a keeper that holds")
        return found

    # ── looking ─────────────────────────────────────────────────────────────────────────

    def run(self, *verb: str) -> "subprocess.CompletedProcess[str]":
        """Run another verb against this configuration."""
        return subprocess.run(
            [sys.executable, "-m", "appliance", "-c", str(self.file), *verb],
            capture_output=True,
            text=True,
            timeout=STOP_S,
            env=os.environ | {PASSWORD_VARIABLE: PASSWORD},
        )

    def run_in_shell(self, line: str, **words: object) -> "subprocess.CompletedProcess[str]":
        """Run a line of shell in which {collect} is this instance, until its end."""
        collect = f"{sys.executable} -m appliance -c {self.file} collect"
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line.format(collect=collect, **words)],
            capture_output=True,
            text=True,
            timeout=STOP_S,
        )

    def try_status(self) -> dict[str, Any] | None:
        """What `status --json` would say, or None; without a process for each look."""
        sockets = list((self.directory / "state").glob("*/control.sock"))
        try:
            return control.ask(sockets[0], {"verb": "status"}) if sockets else None
        except (control.NotRunning, TimeoutError):
            return None

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        done = self.run("status", "--json")
        assert done.stdout, self.said()
        status: dict[str, Any] = json.loads(done.stdout)
        return status

    def said(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace")

    def crashes(self) -> list[str]:
        """The steps at which children killed themselves."""
        return self.crash_log.read_text().split() if self.crash_log.exists() else []

    def stored(self) -> int:
        """Rows stored since its start, as `status` counts them; 0 while it doesn't answer."""
        status = self.try_status()
        return int(status["store"]["stored"]) if status else 0

    def until_stored(self, records: int, timeout_s: float = 120.0) -> None:
        """Wait until so many records are rows (or dead or filtered), and nothing is queued."""

        def all_stored() -> bool:
            status = self.try_status() or {"store": {}, "queue": {}}
            store = status["store"]
            settled = sum(store.get(key, 0) for key in ("stored", "filtered", "dead"))
            queue = status["queue"]
            return settled >= records and queue.get("frames") == queue.get("busy") == 0

        until(all_stored, timeout_s, f"{records} records to be stored\n{self.said()}")

    def children(self) -> dict[str, int]:
        """Pids by title, as ps shows them, of this instance's children."""
        return {title_of(pid): pid for pid in self.child_pids()}

    def child_pids(self) -> list[int]:
        """Pids of all processes that the parent has started, the server's too."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]


@contextmanager
def unstarted(config: str) -> Iterator[Daemon]:
    """An instance that the test starts itself, or fails to."""
    daemon = Daemon(config)
    daemon.log.touch()
    with ExitStack() as stack:
        stack.push(daemon)
        yield daemon


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or behind that
        return ""


Where = int | str  # a TCP port of this machine, or the path of a Unix socket


def connect(where: Where, timeout_s: float = READY_S) -> socket.socket:
    """A connection to an instance that may be starting still."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return _connected(where, timeout_s)
        except (ConnectionRefusedError, FileNotFoundError):
            assert time.monotonic() < deadline, f"nobody listens on {where}"
            time.sleep(LOOK_S)


def _connected(where: Where, timeout_s: float) -> socket.socket:
    if isinstance(where, int):
        return socket.create_connection(("127.0.0.1", where), timeout_s)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(where)
    except OSError:
        connection.close()
        raise
    return connection


def send_and_close(where: Where, pieces: Iterable[bytes]) -> None:
    """Send everything, close our side, and see that the other side closes without a reset."""
    with connect(where) as connection:
        for piece in pieces:
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(STOP_S)
        assert connection.recv(1) == b"", "the daemon sends nothing"
