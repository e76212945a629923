"""What whoever started us has said isn't told to those whom we start."""

import subprocess
import sys

from appliance import systemd
from appliance.verbs import collect

LOOKS = """
import os, subprocess, sys
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
from appliance.verbs.surroundings import look
around = look(1.0)
assert around.holder.holds, "it was heard"
sys.stdout.write(subprocess.run(["env"], capture_output=True, text=True).stdout)
sys.stdout.write(open("/proc/self/environ").read())
"""
SAID = dict.fromkeys(systemd.VARIABLES, "7") | {"NOTIFY_SOCKET": "@nobody", "LISTEN_FDS": "0"}


def test_what_systemd_says_is_for_us_alone() -> None:
    """Who had NOTIFY_SOCKET could end our watchdog, or empty the store."""
    done = subprocess.run(
        [sys.executable, "-c", LOOKS],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), **SAID},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "PATH=" in done.stdout
    assert "@nobody" not in done.stdout
    assert not [name for name in systemd.VARIABLES if f"{name}=7" in done.stdout]


def test_nor_for_an_instance_in_the_background() -> None:
    assert collect._for_second_start({**SAID, "HOME": "/root"}) == {"HOME": "/root"}
