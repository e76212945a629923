"""The log of a whole instance in a file: of all its processes, whoever renames or removes it."""

import json
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import find_service
from tests.ports import free_port
from tests.system import cron
from tests.system.daemon import STOP_S, Daemon, send_and_close, unstarted, until
from tests.system.stores import Sqlite, until_rows

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "systemd" / "stream-daemon.logrotate"
NOBODY_LISTENS = '[store]\nurl = "mysql://u@127.0.0.1:1/d"\n'
SAID_S = 20.0


def configured(daemon: Daemon, more: str = "", format: str = "json") -> Path:
    """Where its log is from its next start on."""
    directory = daemon.directory / "logs"
    directory.mkdir(exist_ok=True)
    path = directory / "stream.log"
    log = f'[log]\nto = "{path}"\nformat = "{format}"\n'
    daemon.file.write_text(daemon.file.read_text() + more + log)
    return path


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(port: int) -> Iterator[Daemon]:
    with unstarted(f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n') as daemon:
        yield daemon
        cron.run(daemon, "stop")


def lines(*paths: Path) -> list[dict[str, Any]]:
    """All lines, whichever of them isn't there."""
    return [
        json.loads(line)
        for path in paths
        if path.exists()
        for line in path.read_text().splitlines()
    ]


def speakers(path: Path) -> set[str]:
    """Which processes have said something."""
    return {f"{line['process']} {line.get('subscriber', '')}".strip() for line in lines(path)}


def has(path: Path, words: str) -> bool:
    """Whether that was said."""
    return any(words in line["message"] for line in lines(path))


def test_all_processes_log_there_and_follow_a_rename(daemon: Daemon) -> None:
    path = configured(daemon, NOBODY_LISTENS)
    daemon.file.write_text("subscribers = 1\n" + daemon.file.read_text())
    daemon.start()
    until(lambda: {"parent", "subscriber 1"} <= speakers(path), SAID_S, "both")
    assert daemon.said() == "", "nothing is said elsewhere"
    old = path.with_name("old")
    path.rename(old)
    daemon.signal(signal.SIGUSR1)
    until(path.exists, SAID_S, "a new file")
    before = old.read_bytes()
    daemon.signal(signal.SIGTTIN)
    until(lambda: {"parent", "subscriber 2"} <= speakers(path), SAID_S, "both")
    assert old.read_bytes() == before, "nothing more goes there"
    [usr1] = [line for line in lines(path) if "USR1" in line["message"]]
    assert usr1["message"] == f"the log goes to {path} (USR1)"
    assert {line["instance"] for line in lines(old, path)} == {"stream"}
    pids = {line["pid"] for line in lines(path) if line["process"] == "parent"}
    assert pids == {daemon.status()["pid"]}


@pytest.mark.parametrize("way", ["the example", "copytruncate"])
def test_logrotate_loses_no_line(way: str, daemon: Daemon) -> None:
    path = configured(daemon)
    daemon.start()
    config = daemon.directory / "logrotate"
    text = EXAMPLE.read_text().replace("/var/log/stream-daemon", str(path.parent))
    text = text.replace("stream-daemon running", f"{cron.PROGRAM} -c {daemon.file} running")
    assert str(path.parent) in text
    assert f"{daemon.file} running" in text
    if way == "copytruncate":
        text = text.replace("nocreate", "copytruncate")
    config.write_text(text)
    config.chmod(0o644)
    state = daemon.directory / "logrotate.state"
    for count in range(1, 4):
        done = subprocess.run(
            [find_service("logrotate"), "-f", "-s", str(state), str(config)],
            capture_output=True,
            text=True,
            timeout=STOP_S,
        )
        assert (done.returncode, done.stdout + done.stderr) == (0, ""), done
        daemon.signal(signal.SIGTTOU if count % 2 else signal.SIGTTIN)
        until(
            partial(has, path, f"one subscriber {'fewer' if count % 2 else 'more'}"), SAID_S, "it"
        )
    assert cron.run(daemon, "stop") == (0, "")
    assert has(path, "ended with exit code 0")
    assert len(list(path.parent.iterdir())) == 4


def test_without_a_place_for_its_log_it_works_on_and_says_so(daemon: Daemon, port: int) -> None:
    path = configured(daemon, format="text")
    daemon.start()
    away = path.parent.rename(daemon.directory / "away")
    daemon.signal(signal.SIGTTIN)
    status = until(lambda: lost(daemon), SAID_S, "a lost line")
    assert status["last_error"] == f"lines of the log are lost: {path}: No such file or directory"
    assert f"lines are lost: {path}: No such file" in daemon.run("status").stdout
    send_and_close(port, [b"a\n"])
    until_rows(Sqlite(), daemon, 1)
    away.rename(path.parent)
    daemon.signal(signal.SIGTTOU)
    until(lambda: "lines are missing here" in path.read_text(), SAID_S, "what is missing")
    assert "one subscriber fewer" in path.read_text()
    assert daemon.status()["log"]["error"] == ""
    assert daemon.stop() == 0


def lost(daemon: Daemon) -> dict[str, Any] | None:
    status = daemon.try_status()
    return status if status and status["log"]["lost"] else None


# ── in the background ───────────────────────────────────────────────────────────────────


def test_in_the_background_too(daemon: Daemon) -> None:
    path = configured(daemon)
    line = f"{cron.PROGRAM} -c {daemon.file} collect --detach"
    done: Any = daemon.run_in_shell(f"script -qec '{line}' /dev/null")
    assert done.returncode == 0, done.stdout
    assert done.stdout.strip().endswith(f"its log is {path}")
    assert has(path, "stream started")
    assert (daemon.directory / "state" / "stream" / "log").read_bytes() == b""


def test_why_a_start_in_the_background_failed_is_said_from_there(daemon: Daemon) -> None:
    path = configured(daemon, NOBODY_LISTENS, "text")
    text = daemon.file.read_text()
    daemon.file.write_text(f"require_healthy = true\nready_s = 1\n{text}")
    path.write_text("of yesterday\n")
    code, said = cron.run(daemon, "collect", "--detach")
    assert code == 69
    assert said.count("require_healthy: still waiting for the store") == 1, said
    assert "yesterday" not in said
    assert path.read_text().startswith("of yesterday\n")


@pytest.mark.parametrize("words", [("collect", "--detach"), ("check",)])
def test_a_log_that_cannot_be_is_refused_and_nothing_is_made(
    words: tuple[str, ...], daemon: Daemon
) -> None:
    path = configured(daemon)
    path.parent.rmdir()
    code, said = cron.run(daemon, *words)
    assert code == 78
    assert f"log.to: {path.parent}: No such file or directory" in said
    assert "\n  → make a directory" in said
    assert not (daemon.directory / "state").exists()
