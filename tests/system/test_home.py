"""An ordinary user, without root: everything stays in the home directory, and is said."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance import process
from tests.ports import free_port
from tests.system.daemon import READY_S, STOP_S, send_and_close, until
from tests.system.records import Records

USER = 61_107  # nobody has this number, so all that has it is of this test
PUBLIC = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock")  # where anybody may write
RECORDS = 500
PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 4, 8  # prctl(2)
CAP_DAC_READ_SEARCH, CAPABILITY_VERSION = 2, 0x20080522  # capabilities(7), capset(2)
AS_USER = f"""
import ctypes, os, struct, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None)
    libc.prctl({PR_SET_KEEPCAPS}, 1, 0, 0, 0)
    os.setgroups([]); os.setgid({USER}); os.setuid({USER})
    # The Python that runs this may be in root's home: reading stays allowed, writing doesn't.
    header, bits = struct.pack("Ii", {CAPABILITY_VERSION}, 0), 1 << {CAP_DAC_READ_SEARCH}
    libc.capset(header, struct.pack("6I", bits, bits, 0, 0, 0, 0))
    libc.prctl({PR_SET_DUMPABLE}, 1, 0, 0, 0)
from appliance import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a user who owns nothing else. Not below pytest's own, which is closed to him."""
    with tempfile.TemporaryDirectory(prefix="sd-", dir="/tmp") as name:
        home = Path(name)
        (home / ".config/stream-daemon").mkdir(parents=True)
        if os.geteuid() == 0:
            for path in (home, *home.rglob("*")):
                os.chown(path, USER, USER)
        yield home
        for lock in home.glob("**/*lock"):
            for pid in process.holders(lock):
                process.kill_and_wait(pid, signal.SIGKILL, STOP_S)


def start(home: Path, *words: str) -> "subprocess.Popen[str]":
    """Start a verb with the environment that ssh gives, and not much else."""
    kept = {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
    return subprocess.Popen(
        [sys.executable, "-c", AS_USER, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"} | kept,
    )


def run(home: Path, *words: str) -> tuple[int, str]:
    """A verb's exit code, and all that it has said."""
    started = start(home, *words)
    said, _ = started.communicate(timeout=STOP_S)
    return started.returncode, said


def written(pid: int) -> Iterator[str]:
    """The files that a process and its children have open to write to."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        flags = int(
            Path(f"/proc/{pid}/fdinfo/{fd.name}").read_text().split("flags:")[1].split()[0], 8
        )
        if flags & (os.O_WRONLY | os.O_RDWR) and (target := os.readlink(fd)).startswith("/"):
            yield target
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from written(int(child))


def belongings() -> set[str]:
    """What the user owns where anybody may write."""
    places = (place for place in PUBLIC if os.path.isdir(place))
    entries = (entry for place in places for entry in os.scandir(place))
    return {entry.path for entry in entries if entry.stat(follow_symlinks=False).st_uid == USER}


def test_all_of_it_is_in_the_home_directory(home: Path) -> None:
    port, records = free_port(), Records(seed=3, length_max=200)
    file = home / ".config/stream-daemon/stream-daemon.toml"
    file.write_text(f'[source.lines]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n')
    directory = home / ".local/state/stream-daemon/stream"
    instance = start(home, "collect")
    try:
        until(lambda: run(home, "running", "-q")[0] == 0, READY_S, "the instance")
        send_and_close(port, [records.block(RECORDS)])
        until(lambda: f"store: {RECORDS} stored" in run(home, "status")[1], READY_S, "all of it")
        assert f"files: {directory}\n" in run(home, "status")[1] + "\n"
        outside = {path for path in written(instance.pid) if not path.startswith(f"{home}/")}
        assert outside <= {"/dev/null", "/dev/zero (deleted)"}
        if os.geteuid() == 0:
            assert belongings() == {str(home)}
    finally:
        code, stopped = run(home, "stop")
        said, _ = instance.communicate(timeout=STOP_S)
    assert (code, stopped) == (0, ""), said
    assert f"configuration {file}, all files of this instance in {directory}" in said
    with closing(sqlite3.connect(directory / "stream.db")) as database:
        stored = [raw.encode() for (raw,) in database.execute("SELECT raw FROM records")]
    assert Counter(stored) == Counter(map(records.line, range(RECORDS)))


def test_install_says_how_to_become_root_and_what_goes_without(home: Path) -> None:
    if os.geteuid() == 0:
        code, said = run(home, "install", "--user", "sd")
        assert code == 73
        assert "sudo stream-daemon install --user sd\n" in said
        assert "crontab -e: * * * * *  stream-daemon collect --detach" in said
    assert "make binary" in run(home, "install", "--dry-run")[1]
    assert [path.name for path in home.iterdir()] == [".config"]
