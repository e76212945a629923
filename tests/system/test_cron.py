"""The crontab lines of docs/cron.md, taken from the page and run as cron runs them."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from appliance import keeper_wire, process
from tests.ports import free_port
from tests.system.cron import ROOT, environment
from tests.system.daemon import STOP_S, send_and_close
from tests.system.records import Records

PAGE = (ROOT / "docs" / "cron.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```cron\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINE = re.compile(r"((?:[\d*/,-]+ +){5})(.+)")
INSTALLED = "/usr/local/bin"


class Crontab:
    """A crontab of the page, and a machine on which the program is installed."""

    def __init__(self, text: str, home: Path) -> None:
        self.jobs: list[str] = []
        self._settings: dict[str, str] = {}
        self._home = home
        for line in filter(None, map(str.strip, text.splitlines())):
            if found := LINE.fullmatch(line):
                self.jobs.append(found[2])
            elif not line.startswith("#"):
                name, equals, value = line.partition("=")
                assert equals, f"neither a job nor a setting: {line}"
                self._settings[name] = value
        bin = home / "bin"
        bin.mkdir(exist_ok=True)
        (bin / "stream-daemon").write_text(
            f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m appliance "$@"\n'
        )
        (bin / "stream-daemon").chmod(0o755)

    def run(self, job: str) -> tuple[int, str]:
        """A job's exit code and what would be mailed."""
        settings = environment(self._home) | self._settings
        settings["PATH"] = settings["PATH"].replace(INSTALLED, f"{self._home}/bin")
        done = subprocess.run(
            ["/bin/sh", "-c", job],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._home,
            env=settings,
            timeout=STOP_S,
        )
        return done.returncode, done.stdout


@pytest.fixture
def home(short_dir: Path) -> Iterator[Path]:
    """A user's home; what runs in it at the end is ended."""
    yield short_dir
    for lock in short_dir.glob("state/**/*lock"):
        for pid in process.holders(lock):
            process.kill_and_wait(pid, signal.SIGKILL, STOP_S)
    for path in short_dir.glob("state/*/keeper.sock"):
        keeper_wire.end(path, lambda pid: os.kill(pid, signal.SIGKILL))


def configure(home: Path, port: int) -> None:
    """Where the page says that the configuration lies."""
    place = "~/.config/stream-daemon/stream-daemon.toml"
    assert place in PAGE
    file = home / place.removeprefix("~/")
    file.parent.mkdir(parents=True)
    [toml] = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    source = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
    file.write_text(f'state_dir = "{home}/state"\n{toml}{source}')


@pytest.mark.parametrize("block", BLOCKS, ids=lambda text: f"{text.count('stream-daemon')} lines")
def test_the_page_runs_in_silence_whatever_runs_already(block: str, home: Path, seed: int) -> None:
    port, records = free_port(), Records(seed)
    configure(home, port)
    crontab = Crontab(block, home)
    assert crontab.jobs
    pids = []
    for minute in range(3):
        for job in crontab.jobs:
            assert crontab.run(job) == (0, ""), job
        pids.append(process.lock_owner(home / "state" / "stream" / "lock"))
        send_and_close(port, [records.block(100)])
        if minute == 1:  # it crashes: the next minute starts it again
            assert pids[1]
            os.kill(pids[1], signal.SIGKILL)
    assert pids[0] == pids[1] != pids[2]
    for job in crontab.jobs:
        assert crontab.run(job) == (0, "")
        if " drain" in job:
            assert crontab.run(f"{job} -v") == (0, "nothing is queued\n")
    assert crontab.run("stream-daemon stop") == (0, "")
    assert crontab.run("stream-daemon drain") == (0, ""), "what is left, without an instance"
    with closing(sqlite3.connect(home / "state" / "stream" / "stream.db")) as database:
        stored = database.execute("SELECT raw FROM records").fetchall()
    records.check((raw.encode() for (raw,) in stored), records.sent)


def test_the_page_has_what_it_is_for() -> None:
    jobs = [job for block in BLOCKS for job in re.findall(r"stream-daemon .*", block)]
    assert any("collect" in job and "--if-needed" in job for job in jobs)
    assert any("drain" in job for job in jobs)
    assert all(LINE.search(block) for block in BLOCKS)
    assert "subscribers = 0" in PAGE
