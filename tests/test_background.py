"""An instance in the background, seen by who started it: whose state it takes for its own."""

import os
from pathlib import Path
from typing import Any

import pytest

from appliance import control
from appliance.config import parse
from appliance.instance import Instance
from appliance.verbs import background

INPUT = '[source.s]\ntype = "file"\npath = "in"\n'
ENDS = [(0, 0, ""), (69, 69, "in use\n"), (75, 75, "in use\n"), (-9, 70, "in use\n")]


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Exception) -> None:
    def ask(*_: object) -> dict[str, Any]:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(control, "ask", ask)


def test_only_what_it_has_started_itself_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another instance may still answer there, or answer already."""
    report = {"pid": os.getpid(), "ready": True}
    answering(monkeypatch, report)
    instance = Instance(Path("/nowhere"))
    assert background._report(instance, os.getpid()) == report
    assert background._report(instance, os.getpid() + 1) is None


@pytest.mark.parametrize("error", [control.NotRunning("no"), TimeoutError()])
def test_who_does_not_answer_yet_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answering(monkeypatch, error)
    assert background._report(Instance(Path("/nowhere")), os.getsid(0)) is None


@pytest.mark.parametrize(("code", "exit_code", "said"), ENDS)
def test_an_end_before_it_was_ready(
    code: int, exit_code: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    log.write_text("of yesterday\n")
    before = background.Said.so_far(log, parse(INPUT, "x.toml"))
    with log.open("a") as now:
        now.write("in use\n")
    assert background._ended(code, before) == exit_code
    assert capsys.readouterr() == ("", said)


def test_what_it_said_into_a_log_of_its_own_is_said_too(tmp_path: Path) -> None:
    """Its reason may be there, and its last words on stderr."""
    log, stderr = tmp_path / "log", tmp_path / "stderr"
    log.write_text("of yesterday\n")
    config = parse(f'{INPUT}[log]\nto = "{log}"\n', "x.toml")
    said = background.Said.so_far(stderr, config)
    assert said.log == log
    assert said.since() == ""
    with log.open("a") as now:
        now.write("waited in vain\n")
    stderr.write_text("refused\n")
    assert said.since() == "waited in vain\nrefused\n"
    log.unlink()
    assert said.since() == "refused\n"
