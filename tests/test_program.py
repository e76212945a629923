"""This very program: where it came from, and starting it once more, frozen or not."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance import program
from appliance.program import command


def test_it_is_this_very_program() -> None:
    assert command("/usr/bin/python3", frozen=False) == ["/usr/bin/python3", "-m", "appliance"]
    assert command("/opt/stream-daemon", frozen=True) == ["/opt/stream-daemon"]


def test_only_a_frozen_program_came_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"STREAM_DAEMON_FILE": "/usr/local/bin/stream-daemon"}
    assert program.file(environ) is None
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert program.file(environ) == Path("/usr/local/bin/stream-daemon")
    assert program.file({}) is None


def test_it_runs_in_a_session_of_its_own_and_says_all_to_the_file(tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as output:
        started = program.start(["frobnicate"], output)
    assert started.wait(30) == 64
    assert "invalid choice: 'frobnicate'" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_started(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **how: seen.append((argv, how)))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "it"))
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    with (tmp_path / "said").open("wb") as output:
        program.start(["-c", "file", "collect"], output)
    [(argv, how)] = seen
    it = str(tmp_path / "it")
    assert argv == [it, *([] if frozen else ["-m", "appliance"]), "-c", "file", "collect"]
    assert how["stdin"] == subprocess.DEVNULL
    assert how["stdout"] is how["stderr"] is output
    assert how["start_new_session"]
    assert how["env"]["PATH"] == os.environ["PATH"]
    assert len(how["pass_fds"]) == frozen


def test_what_a_frozen_program_starts_holds_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = tmp_path / "it"
    it.write_text("#!/bin/sh\necho up; exec sleep 60\n")
    it.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(it))
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    folder = os.open(tmp_path, os.O_RDONLY)
    with (tmp_path / "said").open("wb") as output:
        started = program.start([], output)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        started.kill()
        started.wait()
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
