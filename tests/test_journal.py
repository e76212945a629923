"""The journal gets messages with fields, in its own protocol, and never holds us up."""

import array
import fcntl
import logging
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from appliance import journal, logs
from appliance.destinations import Stderr, ToJournal
from appliance.journal import Journal
from appliance.loglines import Speaker
from appliance.settings import LogConfig
from tests.fake_role import FakeGauge

FAR_TOO_LONG = 10**6  # for a datagram
LEVELS = {"debug": "7", "info": "6", "warning": "4", "error": "3", "critical": "2"}


class FakeJournal:
    """The other end: takes datagrams, and descriptors, as systemd-journald does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setblocking(False)

    def raw(self) -> bytes:
        """The next message's bytes."""
        message, ancillary, _flags, _address = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return message
        assert message == b""
        [(_level, kind, data)] = ancillary
        assert kind == socket.SCM_RIGHTS
        [fd] = array.array("i", data)
        with open(fd, "rb") as file:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE, "else it is not taken"
            with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as view:
                assert file.tell() == len(view), "it is read from its beginning"
                return bytes(view)

    def next(self) -> dict[str, str]:
        """The next message, taken apart as the protocol says."""
        left, fields = self.raw(), {}
        while left:
            line, _, left = left.partition(b"\n")
            key, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", left)
                value, end, left = (
                    left[8 : 8 + length],
                    left[8 + length : 9 + length],
                    left[9 + length :],
                )
                assert end == b"\n"
            fields[key.decode()] = value.decode()
        return fields

    def empty(self) -> int:
        """Throw away what came; how much that was."""
        count = 0
        while True:
            try:
                self.raw()
            except BlockingIOError:
                return count
            count += 1


@pytest.fixture
def daemon(short_dir: Path) -> Iterator[FakeJournal]:
    made = FakeJournal(short_dir / "journal.sock")
    yield made
    made.socket.close()


@pytest.fixture
def log(daemon: FakeJournal) -> logging.Logger:
    """A logger whose lines go to that journal."""
    logger = logging.Logger("subscriber 2", "DEBUG")
    logger.addHandler(ToJournal(Journal(daemon.path), Speaker("nfl", "subscriber", "2")))
    return logger


@pytest.mark.parametrize("level", LEVELS)
def test_a_message_has_its_priority_and_our_fields(
    level: str, daemon: FakeJournal, log: logging.Logger
) -> None:
    getattr(log, level)("%d frames: %s", 3, "é\x1b")
    assert daemon.next() == {
        "MESSAGE": r"subscriber 2: 3 frames: é\x1b",  # no time: the journal has its own
        "PRIORITY": LEVELS[level],
        "SYSLOG_IDENTIFIER": "stream-daemon",
        "SYSLOG_FACILITY": "3",
        "STREAM_DAEMON_INSTANCE": "nfl",
        "STREAM_DAEMON_PROCESS": "subscriber",
        "STREAM_DAEMON_SUBSCRIBER": "2",
    }


def test_a_traceback_is_one_message(daemon: FakeJournal, log: logging.Logger) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    message = daemon.next()["MESSAGE"]
    assert message.startswith("subscriber 2: failed\nTraceback")
    assert message.endswith("\nValueError: no")


def test_a_line_break_opens_no_field(daemon: FakeJournal) -> None:
    fields = {"MESSAGE": "a\nPRIORITY=0\n", "PRIORITY": "6"}
    Journal(daemon.path).send(fields)
    assert daemon.next() == fields


def test_what_is_too_long_for_a_datagram_arrives(daemon: FakeJournal, log: logging.Logger) -> None:
    log.info("x" * FAR_TOO_LONG, extra=logs.WHOLE)
    fields = daemon.next()
    assert fields["MESSAGE"] == "subscriber 2: " + "x" * FAR_TOO_LONG
    assert fields["STREAM_DAEMON_INSTANCE"] == "nfl"


def test_a_journal_without_room_is_waited_for_once(
    daemon: FakeJournal, log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then lines are lost, and counted, and it is said when there is room again."""
    [handler] = log.handlers
    assert isinstance(handler, ToJournal)
    handler.gauge = gauge = FakeGauge()
    sent = 0
    while not gauge.numbers["log_lost"]:
        log.info("filling")
        sent += 1
        assert sent < 10_000, "it never had no room"
    waited, send = [], Journal.send

    def sent_with(self: Journal, fields: Mapping[str, str], *, wait: bool = True) -> None:
        waited.append(wait)
        send(self, fields, wait=wait)

    monkeypatch.setattr(Journal, "send", sent_with)
    for _ in range(10):
        log.info("lost")
    assert waited == [False] * 10
    assert gauge.numbers["log_lost"] == 11
    assert gauge.log_errors[-1].startswith("the journal: ")
    assert daemon.empty() == sent - 1
    log.info("after")
    missing = daemon.next()
    assert missing["MESSAGE"].startswith("log: 11 lines are missing here: the journal: ")
    assert missing["PRIORITY"] == "4"
    assert daemon.next()["MESSAGE"] == "subscriber 2: after"
    assert gauge.log_errors[-1] == ""


def test_another_journal_in_its_place_is_found(daemon: FakeJournal, log: logging.Logger) -> None:
    log.info("one")
    daemon.socket.close()
    os.unlink(daemon.path)
    log.info("lost")
    other = FakeJournal(Path(daemon.path))
    log.info("two")
    said = [other.next()["MESSAGE"] for _ in range(2)]
    other.socket.close()
    assert said[0].startswith("log: 1 lines are missing here")
    assert said[1] == "subscriber 2: two"


# ── whether it is used ──────────────────────────────────────────────────────────────────


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    return root


def behind(fd: int) -> dict[str, str]:
    """The environment of somebody whose descriptor `fd` is the journal's."""
    found = os.fstat(fd)
    return {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}


def test_it_is_used_where_stderr_is_the_journals(
    daemon: FakeJournal, root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", behind(2)["JOURNAL_STREAM"])
    monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (daemon.path,))
    logs.set_up(LogConfig(format="json"), "nfl")
    logging.getLogger("parent").info("started")
    assert daemon.next()["MESSAGE"] == "parent: started", "fields, whatever the format"


def test_without_its_socket_stderr_tells_it_the_priority(
    root: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    short_dir: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", behind(2)["JOURNAL_STREAM"])
    monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (str(short_dir / "none"),))
    logs.set_up(LogConfig(), "nfl")
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("parent").exception("failed")
    logging.getLogger("parent").info("started")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "<3>parent: failed"
    assert lines[1].startswith("<3>Traceback")
    assert lines[-1] == "<6>parent: started"


NOT_ITS: dict[str, dict[str, str]] = {
    "no variable": {},
    "empty": {"JOURNAL_STREAM": ""},
    "nonsense": {"JOURNAL_STREAM": "1"},
    "another file": {"JOURNAL_STREAM": "1:2"},  # inherited, and stderr redirected since
}


@pytest.mark.parametrize("what", NOT_ITS)
def test_it_is_not_used_where_stderr_is_another_file(
    what: str, daemon: FakeJournal, root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal.Journal.__init__, "__defaults__", (daemon.path,))
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    for key, value in NOT_ITS[what].items():
        monkeypatch.setenv(key, value)
    logs.set_up(LogConfig(), "nfl")
    assert isinstance(root.handlers[0], Stderr)


def test_a_closed_descriptor_is_nobodys() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)
    environ = behind(fd)
    assert journal.is_behind(fd, environ)
    os.close(fd)
    assert not journal.is_behind(fd, environ)
