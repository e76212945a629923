"""This very program, started once more as a user would start it.

A frozen file is the program itself, and unpacks itself anew for each start: what it unpacked
goes with the process that did it, so nothing that outlives us may live on ours.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO


def command(executable: str, frozen: bool) -> list[str]:
    """How this program is started: the frozen file is the program itself."""
    return [executable] if frozen else [executable, "-m", "appliance"]


def environment(environ: Mapping[str, str], frozen: bool) -> dict[str, str]:
    """A new process's environment: ours, without what a frozen file leaves for its own process."""
    if not frozen:
        return dict(environ)
    ours = {key: value for key, value in environ.items() if key != "LD_LIBRARY_PATH"}
    if "LD_LIBRARY_PATH_ORIG" in environ:
        ours["LD_LIBRARY_PATH"] = environ["LD_LIBRARY_PATH_ORIG"]
    return ours | {"PYINSTALLER_RESET_ENVIRONMENT": "1"}


def file(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The one file that this program is, None where it runs from a checkout or a package."""
    if not getattr(sys, "frozen", False):
        return None
    return Path(environ.get("STREAM_DAEMON_FILE") or sys.executable)


def start(
    words: Sequence[str], output: BinaryIO, environ: Mapping[str, str] = os.environ
) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own, with these words; what it says goes to `output`.

    No terminal is left to it: Ctrl-C there is not for it, and there is nothing to read.
    """
    frozen = bool(getattr(sys, "frozen", False))
    return subprocess.Popen(
        [*command(sys.executable, frozen), *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment(environ, frozen),
        start_new_session=True,
    )
