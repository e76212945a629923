"""An outage is said once when it lasts and once when it is over; `status` knows at once."""

import json
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance import loglines, logs
from appliance.errors import Unavailable
from appliance.logs import Outage
from appliance.settings import LogConfig
from tests.fake_role import FakeClock, FakeGauge

DOWN = Unavailable("it is down", "start it")
WRONG = Unavailable("wrong password", "mend it", loud=True)
LOCKED = Unavailable("account locked", "unlock it", loud=True)
OVER = None

Event = tuple[float, Unavailable | None]
Line = tuple[float, str, str]

HISTORIES: dict[
    str, tuple[list[Event], list[Line]]
] = {  # name: [(seconds, what happens)], the lines said (seconds, level, text)
    "nothing was away": ([(0, OVER)], []),
    "a server that is just starting": ([(0, DOWN), (0.5, DOWN), (0.9, DOWN), (0.99, OVER)], []),
    "it lasts": (
        [(0, DOWN), (0.9, DOWN), (1.0, DOWN), (1.1, DOWN), (60, DOWN), (61, OVER), (62, OVER)],
        [
            (1.0, "WARNING", "waiting for the queue: it is down → start it"),
            (61, "INFO", "no longer waiting for the queue: it is down"),
        ],
    ),
    "two outages count apart": (
        [(0, DOWN), (0.6, OVER), (0.7, DOWN), (1.5, DOWN), (1.7, DOWN), (2, OVER)],
        [
            (1.7, "WARNING", "waiting for the queue: it is down → start it"),
            (2, "INFO", "no longer waiting for the queue: it is down"),
        ],
    ),
    "an operator has to mend it": (
        [(0, WRONG), (0.1, WRONG), (5, WRONG), (6, OVER)],
        [
            (0, "ERROR", "waiting for the queue: wrong password → mend it"),
            (6, "INFO", "no longer waiting for the queue: wrong password"),
        ],
    ),
    "mended into the next one": (
        [(0, WRONG), (0.1, LOCKED), (0.2, LOCKED), (0.3, OVER)],
        [
            (0, "ERROR", "waiting for the queue: wrong password → mend it"),
            (0.1, "ERROR", "waiting for the queue: account locked → unlock it"),
            (0.3, "INFO", "no longer waiting for the queue: account locked"),
        ],
    ),
    "down, then up with a wrong password": (
        [(0, DOWN), (2, DOWN), (3, WRONG), (4, DOWN), (5, OVER)],
        [
            (2, "WARNING", "waiting for the queue: it is down → start it"),
            (3, "ERROR", "waiting for the queue: wrong password → mend it"),
            (5, "INFO", "no longer waiting for the queue: wrong password"),
        ],
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_an_outage_is_said_when_it_lasts_and_when_it_is_over(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events, lines = HISTORIES[name]
    clock, gauge, said = FakeClock(), FakeGauge(), []
    began = clock.now
    outage = Outage(logging.getLogger("test"), gauge, clock)
    awaited = ""
    for at, event in events:
        clock.now = began + at
        caplog.clear()
        if event is OVER:
            outage.is_over()
            awaited = ""
        else:
            outage.goes_on("the queue", event)
            awaited = f"the queue: {event.message} → {event.hint}"
        said += [(at, record.levelname, record.getMessage()) for record in caplog.records]
        assert (gauge.waits or [""])[-1] == awaited
    assert said == lines
    errors = [text for _, level, text in said if level != "INFO"]
    assert [f"waiting for {error}" for error in gauge.errors] == [
        text.partition(" →")[0] for text in errors
    ]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """The root of all loggers, which gets its own back."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    return root


@pytest.fixture
def stderr(log: logging.Logger, capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was said on stderr, in a log that was set up for warnings."""
    logs.set_up(LogConfig(level="warning"), "nfl")
    return lambda: capfd.readouterr().err


def test_a_line_has_its_time_in_utc(log: logging.Logger, stderr: Callable[[], str]) -> None:
    record = logging.makeLogRecord(
        {"name": "parent", "levelname": "WARNING", "msg": "%d frames", "args": (3,)}
        | {"created": 1700000000.25, "msecs": 250.0}
    )
    log.handlers[0].handle(record)
    logging.getLogger("parent").info("below the level")
    assert stderr() == "2023-11-14T22:13:20.250Z WARNING parent: 3 frames\n"


def test_a_record_in_an_error_is_escaped_and_cut(stderr: Callable[[], str]) -> None:
    """Who sends records doesn't write our log, nor to the terminal of who reads it."""
    hostile = "x\n2023-11-14T22:13:20.250Z INFO    parent: all is well\x1b]0;title\x07\r\x85\u2028"
    logging.getLogger("a").warning("refused: %s", hostile)
    logging.getLogger("b").warning("refused: %s", "é" + "y" * 10**6)
    first, second = stderr().splitlines()
    assert first.endswith(r"all is well\x1b]0;title\x07\r\x85\u2028")
    assert len(second) < loglines.LINE_CHARS_MAX + 100
    assert second.endswith("y… (1000010 characters)")


def test_what_is_our_own_is_not_cut(stderr: Callable[[], str]) -> None:
    logging.getLogger("a").warning("y" * 10**6, extra=logs.WHOLE)
    assert stderr().endswith("y" * 10**6 + "\n")


def test_a_traceback_keeps_its_lines(stderr: Callable[[], str]) -> None:
    try:
        raise ValueError
    except ValueError:
        logging.getLogger("a").exception("failed")
    assert len(stderr().splitlines()) > 2


def test_a_mistake_in_a_line_ends_nobody(stderr: Callable[[], str]) -> None:
    record = logging.makeLogRecord({"msg": "%d records", "args": ("many",), "levelno": 40})
    logging.getLogger().handlers[0].handle(record)
    assert "Logging error" in stderr(), "and is seen"


# ── as JSON ─────────────────────────────────────────────────────────────────────────────

PROCESSES = {  # who speaks: what of it is said
    ("parent", ""): {},
    ("recovery", ""): {},
    ("collector", "tweets"): {"source": "tweets"},
    ("subscriber", "2"): {"subscriber": "2"},
}


@pytest.mark.parametrize("who", PROCESSES)
def test_json_is_one_object_a_line(
    who: tuple[str, str], log: logging.Logger, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    logs.set_up(LogConfig(to=str(path), format="json", level="debug"), "nfl")
    logs.speaks_as(*who, FakeGauge())
    try:
        raise ValueError("no")
    except ValueError:
        logging.getLogger("x").exception("failed: %s", 'é"\n\x1b\ud800')
    logging.getLogger("y").debug("fine")
    first, second = map(json.loads, path.read_text().splitlines())
    traceback = first.pop("traceback")
    assert traceback.startswith("Traceback")
    assert "\n" in traceback
    assert traceback.endswith("ValueError: no")
    assert datetime.fromisoformat(first.pop("time")) <= datetime.now(UTC)
    common = {"instance": "nfl", "process": who[0], "pid": os.getpid(), **PROCESSES[who]}
    said = {"level": "error", "logger": "x", "message": r'failed: é"\n\x1b\ud800'}
    assert first == {**said, **common}
    assert re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{3}Z", second.pop("time"))
    assert second == {"level": "debug", "logger": "y", "message": "fine", **common}
