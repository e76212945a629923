"""An instance that a verb of ours runs, to show something or to try it: this very program.

It is a real process with a configuration file of its own, started as a user would start it, so
everything that is seen went through the real thing. It is spoken to in the ways that anybody
can: its sockets, its control socket, its signals. Only children that it has named itself are
killed, by pidfd, after a look at whose children they are.

The instance is in a session of its own: Ctrl-C at the terminal reaches the verb alone, which
then stops the instance in order. What it says goes into its log.
"""

import os
import select
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance import control, program
from appliance.errors import StreamDaemonError

STATUS_S_MAX = 1.0
STOP_S_MAX = 15.0
KILL_S_MAX = 5.0
LOG_LINES_SHOWN = 20


class InstanceFailed(StreamDaemonError):
    """The instance ended, or didn't do what is waited for."""


class Staged:
    """One instance. Use `end` whatever happens; it leaves no process.

    `who` names it in messages, `keep` says how to see more of it; `stop_s_max` is what a stop in
    order may take.
    """

    def __init__(
        self,
        who: str,
        file: Path,
        log: Path,
        control_socket: Path,
        *,
        keep: str,
        stop_s_max: float = STOP_S_MAX,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._who = who
        self._file = file
        self._log = log
        self._socket = control_socket
        self._keep = keep
        self._stop_s_max = stop_s_max
        self._environ = environ
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1

    def start(self) -> None:
        """Start the process; returns at once."""
        with self._log.open("ab") as log:
            self._process = program.start(["-c", str(self._file), "collect"], log, self._environ)
        self._pidfd = os.pidfd_open(self._process.pid)

    def pause(self, timeout_s: float) -> None:
        """Wait for a while, and notice at once if the instance ends meanwhile.

        Raises:
            InstanceFailed: it has ended.
        """
        if self.has_ended(timeout_s):
            raise InstanceFailed(
                f"{self._who} ended by itself (exit code {self._exit_code()})",
                f"its last words are above; {self._keep}",
            )

    def report(self) -> dict[str, Any] | None:
        """What `status --json` says; None if it doesn't answer now."""
        try:
            return control.ask(self._socket, {"verb": "status"}, STATUS_S_MAX)
        except (control.NotRunning, TimeoutError):
            return None

    def ask_to_stop(self) -> None:
        """Tell it to stop in order, as `kill PID` would; returns at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Stop it in order; returns its exit code."""
        self.ask_to_stop()
        return self.stopped(self._stop_s_max)

    def stopped(self, timeout_s: float) -> int:
        """Its exit code, once it has ended.

        Raises:
            InstanceFailed: it takes longer than this.
        """
        if not self.has_ended(timeout_s):
            raise InstanceFailed(f"{self._who} didn't stop within {self._stop_s_max:.0f} s")
        code = self._exit_code()
        self._forget()
        return code

    def has_ended(self, timeout_s: float) -> bool:
        """Whether it has ended; waits for that."""
        return bool(select.select([self._pidfd], [], [], timeout_s)[0])

    def end(self) -> None:
        """Make sure that nothing runs any more: in order if possible, else by force."""
        if self._process is None:
            return
        if self._process.returncode is None and not self.has_ended(0):
            self._process.send_signal(signal.SIGTERM)
            if not self.has_ended(self._stop_s_max):
                os.killpg(self._process.pid, signal.SIGKILL)  # the session that `start` made
                self.has_ended(KILL_S_MAX)
        self._exit_code()
        self._forget()

    def last_words(self) -> list[str]:
        """The last lines of its log."""
        if not self._log.exists():
            return []
        return self._log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]

    def _forget(self) -> None:
        os.close(self._pidfd)
        self._process = None

    def _exit_code(self) -> int:
        assert self._process is not None
        return self._process.wait(KILL_S_MAX)


def kill_child(child: int, parent: int) -> bool:
    """Kill a child of this parent with SIGKILL; False if it is gone, or is none.

    The descriptor is opened before the look at the parent: a pid that was given to somebody
    else meanwhile is not killed.
    """
    try:
        pidfd = os.pidfd_open(child)
    except ProcessLookupError:
        return False
    try:
        if parent_of(child) != parent:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


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


def free_port() -> int:
    """A TCP port of this machine that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
