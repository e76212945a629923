"""Whose code a Python process runs: py-spy looks at its stack some hundred times a second.

The process is looked at from outside (ptrace) and knows nothing of it; what is measured doesn't
change for that, it only becomes slower. So samples give shares, and never times.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

RATE = 250  # looks a second
END_S = 60.0
ROOT = " → it takes root to look into other processes: sudo make profile"

OURS, PYMYSQL, REDIS, JSON, REST = "our code", "PyMySQL", "redis-py", "JSON", "rest of Python"
OWNERS = (OURS, PYMYSQL, REDIS, JSON, REST)
PACKAGES = {  # how the file of a frame begins
    "appliance/": OURS,
    "pymysql/": PYMYSQL,
    "redis/": REDIS,
    "hiredis/": REDIS,
    "orjson/": JSON,
    "msgspec/": JSON,
}
# A sample with one of these at its end is the kernel's time, which /proc tells better.
SYSTEM_CALLS = {
    *("accept", "bind", "close", "connect", "fdatasync", "fsync", "ioctl", "madvise", "mmap"),
    *("munmap", "open", "poll", "pread", "pwrite", "read", "recv", "recvfrom", "recvmsg", "select"),
    *("send", "sendmsg", "sendto", "setsockopt", "getsockopt", "write", "writev", "epoll_wait"),
}

Shares = Mapping[str, float]


class NoSamplesError(Exception):
    """py-spy isn't there, or may not look into the processes: the message says what to do."""


def find_sampler() -> str:
    """Where py-spy is.

    Raises:
        NoSamplesError: it isn't installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if not found:
        raise NoSamplesError("py-spy is not installed: pip install -e '.[profile]'")
    return found


@contextmanager
def sampled(names: Mapping[int, str]) -> Iterator[dict[str, Shares]]:
    """Look at these processes ({pid: name}); at the end {name: {owner: share}} is filled in.

    Raises:
        NoSamplesError: as `find_sampler`, or this user may not look into them.
    """
    binary = find_sampler()
    found: dict[str, Shares] = {}
    with tempfile.TemporaryDirectory(prefix="profile-") as folder:
        watchers = [_Watcher(binary, pid, Path(folder, f"{pid}")) for pid in names]
        try:
            yield found
        finally:
            texts: dict[str, str] = {}
            for watcher in watchers:
                name = names[watcher.pid]
                texts[name] = texts.get(name, "") + watcher.end()
    found |= {name: shares(count(text)) for name, text in texts.items()}


class _Watcher:
    """A py-spy that looks until it is told to end; made when it does, or has given up."""

    def __init__(self, binary: str, pid: int, file: Path) -> None:
        self.pid = pid
        self._file = file
        words = ("--native", "--format", "raw", "--rate", str(RATE), "--pid", str(pid))
        self._process = subprocess.Popen(
            [binary, "record", *words, "--output", str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._process.stdout
        self._said = self._process.stdout.readline()  # that it samples, or what is wrong

    def end(self) -> str:
        """What it has seen.

        Raises:
            NoSamplesError: it might not look.
        """
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=END_S)
        if self._process.returncode:
            raise NoSamplesError(f"py-spy: {self._said.strip()}{'' if os.geteuid() == 0 else ROOT}")
        return self._file.read_text()


# ── whose ───────────────────────────────────────────────────────────────────────────────


def count(text: str) -> Counter[str]:
    """Samples by whose they are, of py-spy's raw format: frames from the root, a number."""
    found: Counter[str] = Counter()
    for line in text.splitlines():
        stack, _, number = line.rpartition(" ")
        owner = owner_of(stack.split(";"))
        if owner:
            found[owner] += int(number)
    return found


def owner_of(frames: Iterable[str]) -> str | None:
    """Whose a stack is: the innermost frame that is Python's or a package's decides.

    None: the kernel's.
    """
    frames = list(frames)
    if frames[-1].partition(" ")[0].lstrip("_").removeprefix("libc_") in SYSTEM_CALLS:
        return None
    for frame in reversed(frames):
        file = frame.rpartition("(")[2].rpartition(":")[0] or frame.rpartition("(")[2]
        for prefix, owner in PACKAGES.items():
            if file.startswith(prefix):
                return owner
        if file.endswith(".py"):
            return REST
    return REST


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Each owner's part of the whole."""
    total = sum(counts.values()) or 1
    return {owner: counts.get(owner, 0) / total for owner in OWNERS}
