"""The units in systemd/: what they promise the program, and each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parent.parent / "systemd"
ONE, MANY = UNITS / "stream-daemon.service", UNITS / "stream-daemon@.service"
SCORE_MAX = 15  # tenths of what `systemd-analyze security` says
NAMES = {  # in the one: in the template
    "stream-daemon/stream-daemon.toml": "stream-daemon/%i.toml",
    "StateDirectory=stream-daemon": "StateDirectory=stream-daemon/%i",
    "RuntimeDirectory=stream-daemon": "RuntimeDirectory=stream-daemon/%i",
    "Collect a stream and": "Collect stream %i and",
}


def settings(unit: Path) -> list[str]:
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def value(key: str) -> str:
    [line] = [line for line in settings(ONE) if line.startswith(f"{key}=")]
    return line.partition("=")[2]


def test_the_template_differs_in_names_only() -> None:
    text = "\n".join(settings(ONE))
    for one, many in NAMES.items():
        assert one in text
        text = text.replace(one, many)
    assert text == "\n".join(settings(MANY))


def test_the_program_is_told_what_the_store_keeps() -> None:
    room = value("FileDescriptorStoreMax")
    assert f"Environment=STREAM_DAEMON_FDSTORE={room}" in settings(ONE)
    assert int(room) >= 4 * 1000, "connections_max of four sources, by default"
    assert "FileDescriptorStorePreserve" not in "\n".join(settings(ONE))


def test_one_process_speaks_and_its_exit_codes_are_understood() -> None:
    assert (value("Type"), value("NotifyAccess"), value("KillMode")) == ("notify", "main", "mixed")
    assert value("Restart") == "on-failure", "a stop that was asked for stays one"
    assert value("RestartPreventExitStatus") == "64 78"
    assert value("SuccessExitStatus") == "75"
    assert value("StartLimitIntervalSec") == "0"


def test_a_restart_is_announced_by_the_signal_that_the_program_knows() -> None:
    assert re.search(r'" %n \*restart ".*kill -URG \$MAINPID', value("ExecStop"))
    assert value("ExecStop").startswith("-+"), "as root; a failure of it is no failure of the stop"


@pytest.fixture(scope="module")
def analyze() -> str:
    """systemd-analyze; it is no part of this machine's set-up, so CI does without it, too."""
    found = shutil.which("systemd-analyze")
    if not found:
        pytest.skip("no systemd-analyze: apt-get install systemd, to look at the units with it")
    return found


@pytest.mark.parametrize("unit", [ONE, MANY], ids=["one", "template"])
def test_its_exposure_is_low(analyze: str, unit: Path) -> None:
    words = [analyze, "security", "--offline=true", f"--threshold={SCORE_MAX}", "--no-pager"]
    done = subprocess.run([*words, str(unit)], capture_output=True, text=True)
    if "unrecognized option" in done.stderr:  # before systemd 250
        pytest.skip(f"this systemd-analyze can't: {done.stderr}")
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout[-300:]


def test_systemd_understands_each_line(analyze: str, tmp_path: Path) -> None:
    """With the program named by something that is there."""
    for unit in (ONE, UNITS / "stream-daemon.socket"):
        text = unit.read_text(encoding="utf-8").replace("/usr/local/bin/stream-daemon", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    text = MANY.read_text(encoding="utf-8").replace("/usr/local/bin/stream-daemon", "/bin/true")
    (tmp_path / "stream-daemon@nfl.service").write_text(text)
    files = [str(file) for file in tmp_path.iterdir()]
    done = subprocess.run([analyze, "verify", "--man=no", *files], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if "stream-daemon" in line]
    assert ours == [], done.stderr
