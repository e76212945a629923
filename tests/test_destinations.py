"""Where the log goes: each line whole, whoever writes and renames, and lost ones are known."""

import json
import logging
import os
import re
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from resource import RLIM_INFINITY, RLIMIT_FSIZE, getrlimit, setrlimit

import pytest

from appliance import logs
from appliance.destinations import Destination, File, Stderr
from appliance.errors import ConfigError
from appliance.loglines import Speaker, as_json, text
from appliance.settings import LogConfig
from tests.fake_role import FakeGauge

WRITERS, LINES = 4, 300
SPEAKER = Speaker("nfl")


def said(level: int, message: str, name: str = "a") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 0, message, (), None)


def messages(path: Path) -> list[str]:
    """What is in a log, without times."""
    return [line.partition(" ")[2] for line in path.read_text().splitlines()]


@pytest.fixture
def file(tmp_path: Path) -> File:
    made = File(str(tmp_path / "log"), text, SPEAKER)
    made.gauge = FakeGauge()
    return made


@contextmanager
def no_room(behind: int) -> Iterator[None]:
    """Files end behind so many bytes, as if the disk were full there."""
    before = getrlimit(RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    setrlimit(RLIMIT_FSIZE, (behind, RLIM_INFINITY))
    try:
        yield
    finally:
        setrlimit(RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# ── a file ──────────────────────────────────────────────────────────────────────────────


def test_what_is_there_stays_and_nobody_else_reads_it(file: File) -> None:
    path = Path(file.where)
    path.write_text("of yesterday\n")
    path.chmod(0o640)
    file.handle(said(logging.INFO, "one"))
    assert path.read_text().startswith("of yesterday\n")
    path.unlink()
    file.handle(said(logging.INFO, "two"))
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    assert messages(path) == ["INFO    a: two"]


def test_a_renamed_file_is_followed_at_the_next_line(file: File, tmp_path: Path) -> None:
    """Nobody has to tell us; who is told (USR1) makes the file at once."""
    path, old = Path(file.where), tmp_path / "log.1"
    file.handle(said(logging.INFO, "one"))
    path.rename(old)
    file.handle(said(logging.INFO, "two"))
    assert (messages(old), messages(path)) == (["INFO    a: one"], ["INFO    a: two"])
    path.rename(old)
    file.reopen()
    assert path.read_bytes() == b""


def test_a_file_that_is_cut_goes_on_at_its_beginning(file: File) -> None:
    path = Path(file.where)
    file.handle(said(logging.INFO, "one"))
    os.truncate(path, 0)
    file.handle(said(logging.INFO, "two"))
    assert messages(path) == ["INFO    a: two"]


def test_lines_of_several_processes_never_mix(tmp_path: Path) -> None:
    """Also while the file is renamed under them."""
    path = tmp_path / "log"
    children = []
    for number in range(WRITERS):
        pid = os.fork()
        if not pid:
            file = File(str(path), as_json, Speaker("nfl", "subscriber", f"{number}"))
            for count in range(LINES):
                file.handle(said(logging.INFO, f"{number}:{count}:" + "x" * 5000))
            os._exit(0)
        children.append(pid)
    renamed = 0
    while children:
        if path.exists():
            renamed += 1
            path.rename(tmp_path / f"log.{renamed}")
        children = [pid for pid in children if not os.waitpid(pid, os.WNOHANG)[0]]
    found = [
        json.loads(line)["message"].rpartition(":")[0]
        for each in tmp_path.iterdir()
        for line in each.read_text().splitlines()
    ]
    wanted = [f"{number}:{count}" for number in range(WRITERS) for count in range(LINES)]
    assert sorted(found) == sorted(wanted)


# ── lines that can't be written ─────────────────────────────────────────────────────────


def test_a_full_disk_stops_nobody_and_is_counted_and_said(file: File) -> None:
    gauge, path = file.gauge, Path(file.where)
    assert isinstance(gauge, FakeGauge)
    file.handle(said(logging.INFO, "before"))
    room = path.stat().st_size + 10  # of the next line a part finds room
    with no_room(room):
        for _ in range(3):
            file.handle(said(logging.WARNING, "lost"))
        assert path.stat().st_size == room
        assert gauge.numbers["log_lost"] == 3
        assert gauge.log_errors[-1] == f"{path}: File too large"
        assert gauge.errors == [f"lines of the log are lost: {path}: File too large"], "once"
    file.handle(said(logging.INFO, "after"))
    first, cut, missing, last = path.read_text().splitlines()
    assert first.endswith("a: before")
    assert len(cut) == 10
    assert missing.endswith(f"WARNING log: 3 lines are missing here: {path}: File too large")
    assert last.endswith("a: after")
    assert gauge.log_errors[-1] == ""
    file.handle(said(logging.INFO, "more"))
    assert len(path.read_text().splitlines()) == 5, "said once"


def test_a_directory_that_is_gone_and_comes_back(file: File) -> None:
    path = Path(file.where)
    file = File(str(path.parent / "d" / "log"), text, SPEAKER)
    file.handle(said(logging.INFO, "lost"))
    file.reopen()
    Path(file.where).parent.mkdir()
    file.handle(said(logging.INFO, "after"))
    lines = messages(Path(file.where))
    assert lines[0].startswith("WARNING log: 2 lines are missing here: ")
    assert lines[1:] == ["INFO    a: after"]


def test_a_terminal_that_is_gone_stops_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    stderr = Stderr(text, SPEAKER, write)
    stderr.gauge = gauge = FakeGauge()
    stderr.handle(said(logging.INFO, "lost"))
    os.close(write)
    assert gauge.numbers["log_lost"] == 1
    assert gauge.log_errors == ["stderr: Broken pipe"]


def test_a_slow_reader_gets_the_line_whole() -> None:
    read, write = os.pipe()
    got = bytearray()

    def reader() -> None:
        while chunk := os.read(read, 1000):
            got.extend(chunk)

    thread = threading.Thread(target=reader)
    thread.start()
    record = said(logging.INFO, "y" * 10**6)
    record.whole = True
    Stderr(text, SPEAKER, write).handle(record)
    os.close(write)
    thread.join()
    os.close(read)
    assert len(got) > 10**6
    assert got.endswith(b"y\n")


def test_a_birth_forgets_why_a_predecessor_lost_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    file, gauge = File("/nowhere/log", text, SPEAKER), FakeGauge()
    monkeypatch.setattr(logging.getLogger(), "handlers", [file])
    gauge.log_errors = ["no room"]
    logs.speaks_as("collector", "tweets", gauge)
    assert gauge.log_errors[-1] == ""
    assert file.speaker == Speaker("nfl", "collector", "tweets")
    assert logs.reopen() == "/nowhere/log"


def test_lines_are_counted_after_a_reload_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [File("/nowhere/log", text, SPEAKER)])
    monkeypatch.setattr(root, "level", root.level)
    gauge = FakeGauge()
    logs.speaks_as("parent", "", gauge)
    path = tmp_path / "d" / "log"
    path.parent.mkdir()
    logs.set_up(LogConfig(to=str(path)), "nfl")
    path.unlink()
    path.parent.rmdir()
    logging.getLogger("parent").warning("lost")
    assert gauge.numbers["log_lost"] == 1


# ── what is refused at the start ────────────────────────────────────────────────────────

Prepare = Callable[[Path], object]
REFUSED: dict[str, tuple[Prepare, str]] = {
    "no directory": (lambda log: log.parent.rmdir(), "No such file or directory"),
    "a file in its place": (
        lambda log: (log.parent.rmdir(), log.parent.touch()),
        "Not a directory",
    ),
    "everybody may write there": (lambda log: log.parent.chmod(0o777), "everybody may write"),
    "a link": (lambda log: log.symlink_to("/etc/passwd"), "is no plain file"),
    "a pipe": (lambda log: os.mkfifo(log), "is no plain file"),
    "a directory": (lambda log: log.mkdir(), "is no plain file"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_place_that_will_not_do_is_refused_and_nothing_is_made(what: str, tmp_path: Path) -> None:
    prepare, message = REFUSED[what]
    log = tmp_path / "d" / "log"
    log.parent.mkdir()
    prepare(log)
    before = sorted(tmp_path.rglob("*"))
    for act in (logs.check, lambda config: logs.set_up(config, "nfl")):
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            act(LogConfig(to=str(log)))
        assert str(caught.value).startswith("log.to: ")
        assert caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's directory: root")
def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, -1)
    with pytest.raises(ConfigError, match="who could put any file in the log's place"):
        logs.check(LogConfig(to=str(tmp_path / "log")))


def test_a_good_place_is_only_looked_at(tmp_path: Path) -> None:
    logs.check(LogConfig(to=str(tmp_path / "log")))
    assert list(tmp_path.iterdir()) == []


def test_every_destination_says_where_it_is() -> None:
    assert issubclass(File, Destination)
    assert File("/a/log", text, SPEAKER).where == "/a/log"
    assert Stderr(text, SPEAKER).where == "stderr"
