"""An outage is said once when it lasts and once when it is over; `status` knows at once."""

import io
import logging
import sys

import pytest

from appliance import logs
from appliance.errors import Unavailable
from appliance.logs import Outage
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
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where a log goes that was set up for warnings."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    logs.set_up("warning")
    return sys.stderr  # type: ignore[return-value]


def test_a_line_has_its_time_in_utc(stderr: io.StringIO) -> None:
    root = logging.getLogger()
    record = logging.makeLogRecord(
        {"name": "parent", "levelname": "WARNING", "msg": "%d frames", "args": (3,)}
        | {"created": 1700000000.25, "msecs": 250.0}
    )
    root.handlers[0].handle(record)
    logging.getLogger("parent").info("below the level")
    assert stderr.getvalue() == "2023-11-14T22:13:20.250Z WARNING parent: 3 frames\n"


def test_a_record_in_an_error_is_escaped_and_cut(stderr: io.StringIO) -> None:
    """Who sends records doesn't write our log, nor to the terminal of who reads it."""
    hostile = "x\n2023-11-14T22:13:20.250Z INFO    parent: all is well\x1b]0;title\x07\r\x85\u2028"
    logging.getLogger("a").warning("refused: %s", hostile)
    logging.getLogger("b").warning("refused: %s", "é" + "y" * 10**6)
    first, second = stderr.getvalue().splitlines()
    assert first.endswith(r"all is well\x1b]0;title\x07\r\x85\u2028")
    assert len(second) < logs.LINE_CHARS_MAX + 100
    assert second.endswith("y… (1000010 characters)")


def test_what_is_our_own_is_not_cut(stderr: io.StringIO) -> None:
    logging.getLogger("a").warning("y" * 10**6, extra=logs.WHOLE)
    assert stderr.getvalue().endswith("y" * 10**6 + "\n")


def test_a_traceback_keeps_its_lines(stderr: io.StringIO) -> None:
    try:
        raise ValueError
    except ValueError:
        logging.getLogger("a").exception("failed")
    assert len(stderr.getvalue().splitlines()) > 2
