"""The instance that `demo` runs: this very program, started as a user would start it.

It is a real process with a configuration file of its own, so everything that the demo shows
went through the real thing. The demo speaks to it in the ways that anybody can: its TCP
port, its control socket, its signals. It kills only children that the instance named in
`status`, by pidfd, after a look at whose children they are.

The instance is in a session of its own: Ctrl-C at the terminal reaches the demo alone, which
then stops the instance in order. What it says goes into the file `log`.
"""

import json
import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import control, program
from appliance.errors import StreamDaemonError
from appliance.verbs.demo.account import Database

NAME = "demo"
SOURCE = "tweets"
TABLE = "records"

STATUS_S_MAX = 1.0
STOP_S_MAX = 15.0
KILL_S_MAX = 5.0
LOG_LINES_SHOWN = 20

CONFIGURATION = """\
# What `stream-daemon demo` ran with.
name = {name}
state_dir = {state_dir}
drain_s = 10

[source.{source}]
type = "tcp"
listen = {listen}
format = "json"
include = {{ path = "text", any = {teams} }}

[queue]
url = "embedded"

[store]
url = "embedded"
table = {table}

[store.columns]
id          = {{ path = "id", type = "BIGINT" }}
created_at  = {{ path = "created_at", type = "VARCHAR(32)" }}
screen_name = {{ path = "user.screen_name", type = "VARCHAR(64)" }}
text        = {{ path = "text", type = "TEXT" }}
lang        = {{ path = "lang", type = "VARCHAR(8)" }}
retweet_of  = {{ path = "retweeted_status.id", type = "BIGINT" }}
raw         = {{ path = "", type = "LONGTEXT" }}
received_at = {{ meta = "received_at", type = "DATETIME(6)" }}
"""


class InstanceFailed(StreamDaemonError):
    """The demo's instance ended, or didn't do what the demo waits for."""


@dataclass(frozen=True, slots=True)
class Status:
    """What the demo reads from `status --json`; a child that doesn't run has pid None."""

    pid: int
    collector: int | None
    subscriber: int | None
    stored: int
    filtered: int
    queued: int


def configuration(directory: Path, port: int, teams: Sequence[str]) -> str:
    """The text of the instance's configuration file."""
    # JSON's strings and lists of strings are TOML's, too.
    values = {
        "name": NAME,
        "state_dir": str(directory),
        "listen": f"127.0.0.1:{port}",
        "teams": list(teams),
        "table": TABLE,
    }
    return CONFIGURATION.format(
        source=SOURCE,
        **{key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
    )


class Instance:
    """One instance in one directory. Use `end` whatever happens; it leaves no process."""

    def __init__(self, directory: Path, teams: Sequence[str]) -> None:
        self.directory = directory
        self.port = _free_port()
        self.database = Database(directory / NAME / f"{NAME}.db", NAME, TABLE)
        self._file = directory / "demo.toml"
        self._log = directory / "log"
        self._socket = directory / NAME / "control.sock"
        self._file.write_text(configuration(directory, self.port, teams), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Start the process; returns at once."""
        with self._log.open("wb") as log:
            self._process = program.start(["-c", str(self._file), "collect"], log)
        self._pidfd = os.pidfd_open(self._process.pid)

    def pause(self, timeout_s: float) -> None:
        """Wait for a while, and notice at once if the instance ends meanwhile.

        Raises:
            InstanceFailed: it has ended.
        """
        if self._ended(timeout_s):
            raise InstanceFailed(
                f"the demo's instance ended by itself (exit code {self._exit_code()})",
                f"its last words are above; `demo --keep DIR` keeps all of {self._log.name}",
            )

    def status(self) -> Status | None:
        """What the instance says of itself; None if it doesn't answer now."""
        try:
            answer = control.ask(self._socket, {"verb": "status"}, STATUS_S_MAX)
        except control.NotRunning:
            return None
        return read_status(answer)

    def kill(self, child: int, status: Status) -> bool:
        """Kill a child that the instance has named, with SIGKILL; False if it is gone.

        The descriptor is opened before the look at the parent: a pid that was given to
        somebody else meanwhile is not killed.
        """
        try:
            pidfd = os.pidfd_open(child)
        except ProcessLookupError:
            return False
        try:
            if parent_of(child) != status.pid:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return False
        finally:
            os.close(pidfd)
        return True

    def stop(self) -> int:
        """Stop it in order, as `kill PID` would; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        if not self._ended(STOP_S_MAX):
            raise InstanceFailed(f"the demo's instance didn't stop within {STOP_S_MAX:.0f} s")
        return self._exit_code()

    def end(self) -> None:
        """Make sure that nothing runs any more: in order if possible, else by force."""
        if self._process is None:
            return
        if self._process.returncode is None and not self._ended(0):
            self._process.send_signal(signal.SIGTERM)
            if not self._ended(STOP_S_MAX):
                os.killpg(self._process.pid, signal.SIGKILL)  # the session that `start` made
                self._ended(KILL_S_MAX)
        self._exit_code()
        os.close(self._pidfd)
        self._process = None

    def last_words(self) -> list[str]:
        """The last lines of its log."""
        if not self._log.exists():
            return []
        return self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]

    def _ended(self, timeout_s: float) -> bool:
        return bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def _exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait(KILL_S_MAX)


def read_status(answer: dict[str, Any]) -> Status:
    """Pick what the demo needs from the answer of the control socket."""
    subscribers = answer["subscribers"]
    queue, store = answer["queue"], answer["store"]
    return Status(
        pid=answer["pid"],
        collector=answer["sources"][SOURCE]["pid"] or None,
        subscriber=(subscribers[0]["pid"] or None) if subscribers else None,
        stored=store["stored"],
        filtered=store["filtered"],
        queued=queue["frames"] + queue["busy"],
    )


def parent_of(pid: int) -> int:
    """The parent of a process.

    Raises:
        ProcessLookupError: there is no such process.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    return int(line.rpartition(")")[2].split()[1])  # the name before may hold anything


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
