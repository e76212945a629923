"""The program as cron starts it: hardly any environment, and whatever it prints is mailed."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

from tests.database_server import PASSWORD
from tests.system.daemon import PASSWORD_VARIABLE, STOP_S, Daemon

ROOT = Path(__file__).parent.parent.parent  # where `python -m appliance` finds it
PROGRAM = f"env PYTHONPATH={ROOT} {sys.executable} -m appliance"  # for a line of shell


def environment(home: Path) -> dict[str, str]:
    """What cron gives, and the password, which a crontab has to set where the file names it."""
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "LOGNAME": pwd.getpwuid(os.geteuid()).pw_name,
        "SHELL": "/bin/sh",
        PASSWORD_VARIABLE: PASSWORD,
    }


def spawn(daemon: Daemon, *words: str) -> "subprocess.Popen[str]":
    """Start a verb for this instance as cron does."""
    return subprocess.Popen(
        [sys.executable, "-m", "appliance", "-c", str(daemon.file), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(daemon.directory),
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Its exit code, and what cron would mail of it."""
    out, err = process.communicate(timeout=STOP_S)
    assert "Traceback" not in err, err
    return process.returncode, out + err


def run(daemon: Daemon, *words: str) -> tuple[int, str]:
    """Run a verb to its end: its exit code, and what cron would mail."""
    return ended(spawn(daemon, *words))
