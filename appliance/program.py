"""This very program: the file that it came in, and starting it once more as a user would.

The frozen program is one file that unpacks itself into a folder, once, and becomes what lies
there (build/stub/stub.c): `sys.executable` is the unpacked program. A shared lock on that folder
says that somebody lives on it; a process that we fork holds it with us, one that we start has to
be given it.
"""

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

FILE = "STREAM_DAEMON_FILE"  # set by the stub: where the one file was when it was started


def file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The one file that this program came in; None where it isn't frozen.

    Another file, or none, may be there by now.
    """
    name = environ.get(FILE)
    return Path(name) if name and _frozen() else None


def command(executable: str, frozen: bool) -> list[str]:
    """How this program is started, as it is now, whatever has become of its one file."""
    return [executable] if frozen else [executable, "-m", "appliance"]


def start(
    words: Sequence[str], output: BinaryIO, environ: Mapping[str, str] = os.environ
) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own, with these words; what it says goes to `output`.

    No terminal is left to it: Ctrl-C there is not for it, and there is nothing to read.
    """
    held = _hold(Path(sys.executable).parent) if _frozen() else []
    try:
        return subprocess.Popen(
            [*command(sys.executable, _frozen()), *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            pass_fds=held,
            start_new_session=True,
        )
    finally:
        for fd in held:
            os.close(fd)


def _frozen() -> bool:
    return bool(getattr(sys, "frozen", False))


def _hold(folder: Path) -> list[int]:
    """A descriptor with which another process lives on our files, too."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return [fd]
