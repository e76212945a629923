"""Another machine, as a folder: what install and uninstall are tried on, and killed on."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import cli, program
from appliance.installer import TRAILER_BYTES
from appliance.verbs import install, uninstall

VERBS = (install, uninstall)  # loaded here, so that no child has to

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.chown")
WRITING = os.O_WRONLY | os.O_RDWR
Tree = dict[str, tuple[str, bytes]]


def make(root: Path, *, systemd: bool = True) -> Path:
    """A machine with next to nothing on it."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\nsd:x:{os.getuid()}:{os.getgid()}:somebody:/:/bin/sh\n"
    )
    if systemd:
        (root / "usr/lib/systemd").mkdir(parents=True)
        (root / "usr/lib/systemd/systemd").touch()
    return root


def one_file(path: Path, version: str) -> Path:
    """What stands for the frozen file: it ends as that does, and nobody runs it."""
    trailer = "stream-daemon-archive packed=0".ljust(TRAILER_BYTES - 1)
    path.write_text(f"#!/bin/sh\nexit 1  # version {version}\n{trailer}\n")
    path.chmod(0o755)
    return path


def tree(root: Path) -> Tree:
    """Everything below a folder: its kind and mode, and its bytes."""
    return {
        str(path.relative_to(root)): (
            f"{path.lstat().st_mode:o}",
            path.read_bytes() if path.is_file() and not path.is_symlink() else b"",
        )
        for path in root.rglob("*")
    }


def run(file: Path, words: list[str], output: Path | None = None, kill_at: int = 0) -> int:
    """A verb of that one file in a process of its own; its exit code, negative for a signal.

    `kill_at` n: SIGKILL just before the n-th change that it makes to a file or a directory.
    """
    child = os.fork()
    if child == 0:
        _become(file, words, output, kill_at)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _become(file: Path, words: list[str], output: Path | None, kill_at: int) -> None:
    code = 70
    try:
        fd = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(fd), "w")
        os.fsync = lambda _fd: None  # what a process's death leaves doesn't depend on it
        program.file = lambda *_: file  # type: ignore[assignment]
        if kill_at:
            sys.addaudithook(_killer(kill_at))
        code = cli.main(words)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _killer(kill_at: int) -> Callable[[str, tuple[Any, ...]], None]:
    changes = 0

    def look(event: str, args: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in CHANGES or (event == "open" and args[2] & WRITING):
            changes += 1
            if changes == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return look
