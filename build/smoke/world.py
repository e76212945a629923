"""A private place for one case: folders, an environment that is all but empty, what was started."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RUN_S_MAX = 120.0
WAIT_S_MAX = 30.0
LOOK_EVERY_S = 0.005
TRAILER_BYTES = 128  # of the one file, see build/pack.py
TREE = re.compile(r"unpacked\.[0-9a-f]{32}")

Done = subprocess.CompletedProcess[str]


class SmokeError(Exception):
    """The frozen file doesn't do what it should; the text says what it did."""


class Skipped(Exception):
    """This machine, or this user, can't try it; the text says why."""


def expect(truth: object, text: str) -> None:
    """Fail the case with this text unless it is so."""
    if not truth:
        raise SmokeError(text)


def wait_until(what: str, look: Callable[[], object], limit_s: float = WAIT_S_MAX) -> None:
    """Look again and again at what has no descriptor to wait for."""
    deadline = time.monotonic() + limit_s
    while not look():
        expect(time.monotonic() < deadline, f"not within {limit_s:g} s: {what}")
        time.sleep(LOOK_EVERY_S)


class World:
    """The program, and folders of its own for one case: `folder`, `folder/cache`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.cache = folder / "cache"
        self._started: list[subprocess.Popen[bytes]] = []
        self._files: set[str] = {"cache"}

    def environ(self, **more: str) -> dict[str, str]:
        """Nothing but a PATH of the system's own folders and what is private to the case."""
        return {
            "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "STREAM_DAEMON_CACHE": str(self.cache),
        } | more

    def run(
        self,
        *words: str,
        program: Path | None = None,
        environ: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> Done:
        """Run the program (by `before`, another one) to its end."""
        return subprocess.run(
            [*before, str(program or self.program), *words],
            env=self.environ() if environ is None else environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=RUN_S_MAX,
            text=True,
        )

    def must(self, *words: str, program: Path | None = None) -> str:
        """The program's stdout; anything but exit 0 is an error."""
        done = self.run(*words, program=program)
        said = f"stdout:\n{done.stdout}\nstderr:\n{done.stderr}"
        expect(done.returncode == 0, f"`{' '.join(words)}` ended with {done.returncode}; {said}")
        return done.stdout

    def start(
        self,
        *words: str,
        program: Path | None = None,
        environ: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> "subprocess.Popen[bytes]":
        """Start the program; what it says goes into the file `said`."""
        with self.file("said").open("ab") as said:
            started = subprocess.Popen(
                [str(program or self.program), *words],
                env=self.environ() if environ is None else environ,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                pass_fds=pass_fds,
            )
        self._started.append(started)
        return started

    def file(self, name: str, text: str | None = None) -> Path:
        """A file (or folder) of the case's own, which may stay."""
        self._files.add(name)
        path = self.folder / name
        if text is not None:
            path.write_text(text)
        return path

    def trees(self) -> set[str]:
        """What is in the cache."""
        return {path.name for path in self.cache.iterdir()} if self.cache.exists() else set()

    def another_version(self) -> Path:
        """A file that differs in the name of its tree and in nothing else."""
        content = self.program.read_bytes()
        trailer = content[-TRAILER_BYTES:]
        name = trailer.partition(b"hash=")[2][:32]
        path = self.file("another")
        changed = trailer.replace(name, name[::-1])
        path.write_bytes(content[:-TRAILER_BYTES] + changed)
        path.chmod(0o755)
        return path

    def check_nothing_left(self) -> None:
        """No file but the case's own ones, and in the cache one tree."""
        left = {path.name for path in self.folder.iterdir()} - self._files
        expect(not left, f"left behind: {', '.join(sorted(left))}")
        trees = self.trees()
        sound = len(trees) <= 1 and all(TREE.fullmatch(name) for name in trees)
        expect(sound, f"left in the cache: {', '.join(sorted(trees))}")

    def end(self) -> None:
        """End what still runs of this case, with everything that it started."""
        for started in self._started:
            started.kill()
            started.wait()
        inside = os.fsencode(self.folder)
        wait_until("all processes end", lambda: not _kill_those_with(inside))


def _kill_those_with(text: bytes) -> list[int]:
    """Kill the processes whose environment or command names this (private) folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if text in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
                found.append(int(process.name))
        except (OSError, ProcessLookupError):
            pass  # another user's, or gone
    return [pid for pid in found if not is_gone(pid)]


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid: int) -> dict[int, str]:
    """Its children, and what they are called (/proc/PID/cmdline, which is their title)."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    titles = {int(one): _title(int(one)) for one in pids}
    return {one: title for one, title in titles.items() if title}


def _title(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def free_listener() -> socket.socket:
    """A listening socket on a free port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(WAIT_S_MAX)
    return listener


def copy(program: Path, to: Path) -> Path:
    """The one file at another place."""
    shutil.copy(program, to)
    return to
