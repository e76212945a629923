"""A server to break: a bare Debian tree, booted by systemd-nspawn; what it writes is thrown away.

The tree itself is only read; what the machine writes goes into an overlay, which lives through
its reboots and power cuts and is gone with the test. The machine has a network of its own, with
nothing in it but lo, so ports can't clash; a socket is brought out of it by a thread that looks
in for as long as it takes to make one (setns(2) moves one thread).

nspawn registers with nobody and stays in the control group that it is given, so that it needs
neither a systemd nor a D-Bus out here: one has to be root, and may be so in a container.
"""

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import TypeVar

from tests.booted.groups import group, join
from tests.system.daemon import READY_S, connect, until

BOOT_S = 60.0
SHUT_DOWN_S = 120.0
COMMAND_S = 150.0
LOG_SHOWN_CHARS = 20_000
CLONE_NEWNET = 0x40000000  # sched.h
HOST_NAME = "server"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LIBC = ctypes.CDLL(None, use_errno=True)

DISKS = Path(__file__).parents[2] / ".build" / "booted"

Made = TypeVar("Made")
Done = subprocess.CompletedProcess[str]


class Machine:
    """One Debian, switched off.

    `directory` takes its disk and is on no tmpfs; `groups` are its control groups.
    """

    def __init__(self, tree: Path, directory: Path, groups: list[Path]) -> None:
        self._groups = groups
        self._console = directory / "console"
        self.disk = directory / "disk"
        self._nspawn: subprocess.Popen[bytes] | None = None
        parts = {name: directory / name for name in ("upper", "work")}
        for part in (self.disk, *parts.values()):
            part.mkdir()
        options = f"lowerdir={tree},upperdir={parts['upper']},workdir={parts['work']}"
        _tool("mount", "-t", "overlay", "overlay", "-o", options, str(self.disk))

    def close(self) -> None:
        """Cut the power, and take the disk out."""
        if self._nspawn:
            self.cut_power()
        _tool("umount", "--lazy", str(self.disk))

    # ── power ───────────────────────────────────────────────────────────────────────────

    def start(self) -> "Machine":
        """Switch it on, and wait for nothing more than its systemd."""
        options = ["--quiet", f"--directory={self.disk}", f"--hostname={HOST_NAME}"]
        options += [f"--machine={self._groups[0].name}", "--private-network"]
        options += ["--register=no", "--keep-unit", "--console=pipe", "--boot"]
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                ["systemd-nspawn", *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                preexec_fn=partial(join, self._groups),
            )
        until(lambda: not self.is_on() or self.try_init(), BOOT_S, "systemd-nspawn's systemd")
        assert self.is_on(), self.said()
        return self

    def boot(self) -> "Machine":
        """Switch it on, and wait until everything that starts by itself was started."""
        self.start()
        until(self._answers, BOOT_S, f"systemctl to answer\n{self.said()}")
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        assert state == "running", (state, self.run("systemctl", "--failed").stdout, self.said())
        return self

    def shut_down(self) -> None:
        """Power off in good order: each service is stopped as its unit says."""
        assert self._nspawn
        self.run("systemctl", "--no-block", "poweroff")
        self._nspawn.wait(SHUT_DOWN_S)
        self._nspawn = None

    def cut_power(self) -> None:
        """Kill everything that runs in it, at one blow: the kernel ends all with their init."""
        assert self._nspawn
        if init := self.try_init():
            os.kill(init, signal.SIGKILL)
        try:
            self._nspawn.wait(SHUT_DOWN_S)
        finally:
            if self._nspawn.poll() is None:
                self._nspawn.kill()
            self._nspawn = None

    def try_init(self) -> int | None:
        """The pid, out here, of the systemd in there."""
        assert self._nspawn
        pid = self._nspawn.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            found = [int(child) for child in children if _name(int(child)) == "systemd"]
        except (FileNotFoundError, ProcessLookupError):
            return None
        return found[0] if found else None

    def is_on(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def _answers(self) -> bool:
        return self.run("systemctl", "show", "--property=Version", check=False).returncode == 0

    # ── commands and files ──────────────────────────────────────────────────────────────

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout_s: float = COMMAND_S,
        input: str | None = None,
    ) -> Done:
        """Run a command in there as root, with as little around it as a fresh login has."""
        done = subprocess.run(
            [*self._entering(), *command],
            input="" if input is None else input,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert not check or done.returncode == 0, (command, done, self.said())
        return done

    def shell(self, script: str, *, check: bool = True, timeout_s: float = COMMAND_S) -> Done:
        """Run lines of shell in there, as somebody would type them."""
        return self.run("sh", "-euc", script, check=check, timeout_s=timeout_s)

    def spawn(self, *command: str) -> "subprocess.Popen[bytes]":
        """Begin a command in there and don't wait; nothing of what it says is kept."""
        return subprocess.Popen(
            [*self._entering(), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _entering(self) -> list[str]:
        inside = ["env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", "HOME=/root"]
        return ["nsenter", f"--target={self.init}", "--all", *inside]

    @property
    def init(self) -> int:
        """The pid, out here, of the systemd in there."""
        init = self.try_init()
        assert init, f"the machine is off\n{self.said()}"
        return init

    def path(self, inside: str) -> Path:
        """Where a file of the running machine is found from out here, its /run too."""
        return Path(f"/proc/{self.init}/root{inside}")

    def said(self) -> str:
        """The end of its console."""
        if not self._console.exists():
            return ""
        return self._console.read_text(errors="replace")[-LOG_SHOWN_CHARS:]

    # ── senders ─────────────────────────────────────────────────────────────────────────

    def connect(self, where: int | str, timeout_s: float = READY_S) -> socket.socket:
        """A connection to a TCP port or a Unix socket in there, for use out here."""
        if isinstance(where, str):
            # Shorter than /proc/…, which has to fit into sun_path as well.
            return connect(str(self.path(where)), timeout_s)
        return self._inside(lambda: connect(where, timeout_s))

    def _inside(self, make: Callable[[], Made]) -> Made:
        """What `make` makes in the machine's network."""
        made: list[Made] = []
        wrong: list[BaseException] = []

        def look_in() -> None:
            try:
                _enter(self.init)
                made.append(make())
            except (OSError, AssertionError) as error:
                wrong.append(error)

        thread = threading.Thread(target=look_in)
        thread.start()
        thread.join()
        if wrong:
            raise wrong[0]
        return made[0]


@contextmanager
def booted(tree: Path, prepare: Callable[[Machine], None] = lambda _: None) -> Iterator[Machine]:
    """A machine that runs, prepared while it was off; gone at the end with all that it wrote."""
    DISKS.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="m", dir=DISKS))
    with ExitStack() as stack:
        stack.callback(rmtree, directory, ignore_errors=True)
        name = f"try-{directory.name}".replace("_", "x")  # a name that nspawn takes
        machine = Machine(tree, directory, stack.enter_context(group(name)))
        stack.callback(machine.close)
        prepare(machine)
        yield machine.boot()


def _enter(init: int) -> None:
    """Move this thread into the network of that process, for good."""
    with open(f"/proc/{init}/ns/net") as network:
        if LIBC.setns(network.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns(2) into the machine's network")


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _tool(*command: str) -> None:
    subprocess.run(command, check=True)
