"""Starting this very program once more, frozen or not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance import program
from appliance.program import command, environment


def test_it_is_this_very_program() -> None:
    assert command("/usr/bin/python3", frozen=False) == ["/usr/bin/python3", "-m", "appliance"]
    assert command("/opt/stream-daemon", frozen=True) == ["/opt/stream-daemon"]


def test_a_frozen_file_starts_itself_with_a_clean_environment() -> None:
    given = {"PATH": "/bin", "LD_LIBRARY_PATH": "/tmp/_MEI1"}
    fresh = {"PATH": "/bin", "PYINSTALLER_RESET_ENVIRONMENT": "1"}
    assert environment(given, frozen=False) == given
    assert environment(given, frozen=True) == fresh
    assert environment(given | {"LD_LIBRARY_PATH_ORIG": "/opt/lib"}, frozen=True) == fresh | {
        "LD_LIBRARY_PATH": "/opt/lib",
        "LD_LIBRARY_PATH_ORIG": "/opt/lib",
    }


def test_it_runs_in_a_session_of_its_own_and_says_all_to_the_file(tmp_path: Path) -> None:
    with (tmp_path / "said").open("wb") as output:
        started = program.start(["frobnicate"], output)
    assert started.wait(30) == 64
    assert "invalid choice: 'frobnicate'" in (tmp_path / "said").read_text()


@pytest.mark.parametrize("frozen", [False, True])
def test_what_is_started(frozen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **how: seen.append((argv, how)))
    monkeypatch.setattr(sys, "executable", "/opt/it")
    monkeypatch.setattr(sys, "frozen", frozen, raising=False)
    with (tmp_path / "said").open("wb") as output:
        program.start(["-c", "file", "collect"], output)
    [(argv, how)] = seen
    assert argv == ["/opt/it", *([] if frozen else ["-m", "appliance"]), "-c", "file", "collect"]
    assert how["stdin"] == subprocess.DEVNULL
    assert how["stdout"] is how["stderr"] is output
    assert how["start_new_session"]
    assert ("PYINSTALLER_RESET_ENVIRONMENT" in how["env"]) is frozen
    assert how["env"]["PATH"] == os.environ["PATH"]
