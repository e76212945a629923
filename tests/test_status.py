"""`status`: what is said about an instance, from what the parent knows of its children."""

from dataclasses import replace
from typing import Any

import pytest

from appliance import signals
from appliance.counters import Board
from appliance.errors import Exit
from appliance.status import ChildState, Log, awaited, counters_of, exit_code, reached, screen
from appliance.status import report as full_report

IDENTITY = {"name": "nfl", "version": "1.2", "pid": 7, "since": "2026-01-02T03:04:05+00:00"}

NOW = 1_767_323_045.0
PER_S = {"source tweets": 12.34, "source log": 0.0, "stored": 7.0}


def report(
    identity: dict[str, Any], children: list[ChildState], stopping: bool, paused: bool
) -> dict[str, Any]:
    return full_report(identity, children, stopping, paused, lambda name: PER_S.get(name, 0.0), NOW)


class Children:
    """The children of an instance, as the parent describes them."""

    def __init__(self) -> None:
        self._board = Board()
        self.all: list[ChildState] = []

    def add(self, kind: str, name: str, numbers: dict[str, int], **more: Any) -> "Children":
        slot = self._board.slot(f"{kind} {name}")
        for word, number in numbers.items():
            slot.set(word, number)
        given: dict[str, Any] = {"type": "", "pid": 10 + len(self.all), "restarts": 0} | more
        texts = {"waiting_for": "", "last_error": "", "refusing": ""} | more
        self.all.append(ChildState(kind=kind, name=name, gauge=slot, **(texts | given)))
        return self


def two_of_each(**more: Any) -> Children:
    recovery = {"queue_frames": 3, "queue_busy": 1, "queue_bytes": 4096}
    tweets = {"connections": 2, "records": 100, "bytes": 5000}
    tweets |= {"at_risk_records": 4, "at_risk_bytes": 40}
    one = {"records": 60, "stored": 60, "filtered": 20, "dead": 2, "lost": 1}
    one |= {"in_hand_ms": int(NOW * 1000) - 5300}
    other = {"records": 10, "stored": 10, "filtered": 5, "dead": 1, "lost": 2}
    return (
        Children()
        .add("recovery", "", recovery, restarts=1)
        .add("collector", "tweets", tweets, type="tcp", restarts=3)
        .add("collector", "log", {"records": 7, "bytes": 70}, type="stdin", held=False)
        .add("subscriber", "1", one)
        .add("subscriber", "2", other, **more)
    )


def test_the_whole_of_it() -> None:
    assert report(IDENTITY, two_of_each().all, stopping=False, paused=False) == {
        **IDENTITY,
        "state": "healthy",
        "ready": False,
        "paused": False,
        "sources": {
            "tweets": {
                "type": "tcp",
                "pid": 11,
                "restarts": 3,
                "connections": 2,
                "records": 100,
                "bytes": 5000,
                "per_s": 12.3,
                "held": True,
                "at_risk": {"records": 4, "bytes": 40},
                "spool": {"bytes": 0},
                "dropped": 0,
                "waiting_for": "",
            },
            "log": {
                "type": "stdin",
                "pid": 12,
                "restarts": 0,
                "connections": 0,
                "records": 7,
                "bytes": 70,
                "per_s": 0.0,
                "held": False,
                "at_risk": {"records": 0, "bytes": 0},
                "spool": {"bytes": 0},
                "dropped": 0,
                "waiting_for": "",
            },
        },
        "subscribers": [
            {"n": 1, "pid": 13, "restarts": 0, "records": 60, "waiting_for": "", "alone": ""},
            {"n": 2, "pid": 14, "restarts": 0, "records": 10, "waiting_for": "", "alone": ""},
        ],
        "recovery": {"pid": 10, "restarts": 1, "spool": {"bytes": 0}},
        "keeper": None,
        "queue": {"frames": 3, "bytes": 4096, "busy": 1, "waiting_for": ""},
        "store": {
            "stored": 70,
            "filtered": 25,
            "dead": 3,
            "lost": 3,
            "per_s": 7.0,
            "lag_s": 5.3,
            "waiting_for": "",
            "refusing": "",
        },
        "log": {"lost": 0, "error": ""},
        "last_error": "",
        "last_error_at": None,
    }


def test_what_becomes_of_the_log() -> None:
    lost = Log(lost=3, error="/a/log: no room", last_error="lost", last_error_at=int(NOW))
    children = two_of_each(last_error="away", last_error_at=int(NOW) - 1).all
    found = full_report(IDENTITY, children, False, False, lambda _: 0.0, NOW, lost)
    assert found["log"] == {"lost": 3, "error": "/a/log: no room"}
    assert found["last_error"] == "lost", "the parent's is newer"
    assert (found["state"], exit_code(found)) == ("healthy", Exit.OK), "no record is in danger"
    assert "log: 3 lines are lost: /a/log: no room\n" in screen(found)
    again = full_report(IDENTITY, children, False, False, lambda _: 0.0, NOW, Log(lost=3))
    assert "log: 3 lines are lost, it is written again\n" in screen(again)
    assert again["last_error"] == "away"


@pytest.mark.parametrize("kind", ["collector", "recovery"])
def test_what_waits_in_a_spool_is_awaited_and_said(kind: str) -> None:
    numbers = {"collector": {}, "recovery": {}} | {kind: {"spool_bytes": 4711}}
    children = Children().add("recovery", "", numbers["recovery"])
    children.add("collector", "s", numbers["collector"], type="tcp")
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert (found["state"], exit_code(found)) == ("degraded", Exit.DEGRADED)
    place = found["recovery"] if kind == "recovery" else found["sources"]["s"]
    assert place["spool"] == {"bytes": 4711}
    assert "  4711 bytes" in screen(found)
    assert "wait in the spool" in screen(found)


def test_what_was_dropped_is_said() -> None:
    children = Children().add("recovery", "", {}).add("collector", "s", {"dropped": 12})
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert found["sources"]["s"]["dropped"] == 12
    assert "12 records found no room anywhere and are lost" in screen(found)


AWAITED = "the store: no answer → start it"


@pytest.mark.parametrize(
    ("more", "stopping", "state", "code"),
    [
        ({}, False, "healthy", Exit.OK),
        ({"last_error": "long ago"}, False, "healthy", Exit.OK),
        ({"restarts": 5}, False, "healthy", Exit.OK),
        ({"waiting_for": AWAITED}, False, "degraded", Exit.DEGRADED),
        ({"refusing": "1000 records in a row"}, False, "degraded", Exit.DEGRADED),
        ({"pid": None}, False, "degraded", Exit.DEGRADED),
        ({}, True, "stopping", Exit.DEGRADED),
        ({"pid": None, "waiting_for": AWAITED}, True, "stopping", Exit.DEGRADED),
        ({"pid": None, "retired": True, "waiting_for": AWAITED}, False, "healthy", Exit.OK),
        ({"retired": True, "waiting_for": AWAITED}, False, "degraded", Exit.DEGRADED),
    ],
)
def test_states(more: dict[str, Any], stopping: bool, state: str, code: Exit) -> None:
    found = report(IDENTITY, two_of_each(**more).all, stopping, paused=False)
    assert (found["state"], exit_code(found)) == (state, code)
    first, second, *_ = screen(found).splitlines()
    assert first.startswith("nfl ")
    assert first.endswith("(pid 7, since 2026-01-02T03:04:05+00:00).")
    assert second == ""


def test_the_sentence_says_the_state() -> None:
    sentences = {
        "healthy": ({}, False, "nfl collects and stores ("),
        "degraded": ({"waiting_for": AWAITED}, False, "nfl runs, but something is awaited ("),
        "refusing": ({"refusing": "all of it"}, False, "nfl collects, but all that comes becomes"),
        "stopping": ({}, True, "nfl is stopping ("),
    }
    for more, stopping, words in sentences.values():
        assert screen(report(IDENTITY, two_of_each(**more).all, stopping, paused=False)).startswith(
            words
        )


def test_what_is_refused_is_on_the_screen() -> None:
    found = report(IDENTITY, two_of_each(refusing="column x").all, stopping=False, paused=False)
    assert found["store"]["refusing"] == "column x"
    assert "  column x" in screen(found).splitlines()


def test_the_screen() -> None:
    more = {"pid": None, "restarts": 2, "waiting_for": AWAITED, "last_error": "no answer"}
    more |= {"last_error_at": int(NOW) - 60}
    lines = screen(
        report(IDENTITY, two_of_each(**more).all, stopping=False, paused=False)
    ).splitlines()
    assert lines[2:] == [
        "source tweets (tcp): 100 records (12.3/s), 2 connections, pid 11, 3 restarts",
        "source log (stdin): 7 records (0/s), 0 connections, pid 12, 0 restarts",
        "  not held: what it has in hand is lost if its process is killed",
        "queue: 3 frames wait, 1 in hand, 4096 bytes",
        "store: 70 stored (7/s), 25 filtered, 3 dead letters, 3 lost, 5.3 s behind",
        f"  waiting for {AWAITED}",
        "subscriber 1: 60 rows, pid 13, 0 restarts",
        "subscriber 2: 10 rows, not running now, 2 restarts",
        "recovery: pid 10, 1 restarts",
        "last error (2026-01-02T03:03:05+00:00): no answer",
    ]


def test_a_frame_that_goes_alone_is_named() -> None:
    found = report(IDENTITY, two_of_each(alone="0a:7").all, stopping=False, paused=False)
    assert [one["alone"] for one in found["subscribers"]] == ["", "0a:7"]
    assert found["state"] == "healthy"
    lines = screen(found).splitlines()
    at = lines.index("subscriber 2: 10 rows, pid 14, 0 restarts")
    assert lines[at + 1] == "  goes through frame 0a:7 record by record"


def test_what_is_awaited_stands_with_who_waits() -> None:
    children = (
        Children()
        .add("recovery", "", {}, waiting_for="the queue")
        .add("collector", "s", {}, type="tcp", waiting_for="room in the queue")
    )
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert found["sources"]["s"]["waiting_for"] == "room in the queue"
    assert found["queue"]["waiting_for"] == "the queue"
    assert found["store"]["waiting_for"] == ""
    lines = screen(found).splitlines()
    for who, what in (("source s", "room in the queue"), ("queue:", "the queue")):
        [at] = [number for number, line in enumerate(lines) if line.startswith(who)]
        assert lines[at + 1] == f"  waiting for {what}"


def test_paused_is_degraded_until_it_stops_whether_or_not_subscribers_rest_already() -> None:
    for more in ({}, {"waiting_for": signals.PAUSED}):
        found = report(IDENTITY, two_of_each(**more).all, stopping=False, paused=True)
        assert (found["state"], found["paused"], exit_code(found)) == ("degraded", True, 2)
        first, *lines = screen(found).splitlines()
        assert first.startswith("nfl collects, but storing is paused (TSTP); resume with CONT (pid")
        assert lines.count(f"  {signals.PAUSED}") == len(more)
        waits = [one["waiting_for"] for one in found["subscribers"]]
        assert waits == ["", more.get("waiting_for", "")]
        assert found["store"]["waiting_for"] == more.get("waiting_for", "")
    found = report(IDENTITY, two_of_each().all, stopping=True, paused=True)
    assert (found["state"], found["paused"]) == ("stopping", True)
    assert screen(found).startswith("nfl is stopping (")


def test_what_a_retired_subscriber_has_stored_still_counts() -> None:
    """It is listed until it has gone; what it waited for is nobody's business then."""
    gone = {"retired": True, "pid": None, "waiting_for": AWAITED}
    found = report(IDENTITY, two_of_each(**gone).all, stopping=False, paused=False)
    assert [one["n"] for one in found["subscribers"]] == [1]
    assert (found["store"]["stored"], found["store"]["lost"]) == (70, 3)
    assert found["store"]["waiting_for"] == ""
    going = report(IDENTITY, two_of_each(retired=True).all, stopping=False, paused=False)
    assert [one["n"] for one in going["subscribers"]] == [1, 2]


def test_subscribers_are_listed_by_number_whoever_came_first() -> None:
    children = Children().add("recovery", "", {})
    for number in ("10", "2", "1"):
        children.add("subscriber", number, {})
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert [one["n"] for one in found["subscribers"]] == [1, 2, 10]


@pytest.mark.parametrize(
    ("queue", "hands", "stored", "lag_s"),
    [
        ((0, 0), (), (), 0.0),  # nothing waits: nothing is late
        ((0, 0), (), (900,), 0.0),
        ((5, 0), (), (), None),  # nobody has looked at one yet
        ((5, 0), (), (60, 30), 30.0),  # what waits came behind what was stored last
        ((0, 3), (), (60,), 60.0),  # an orphan's
        ((5, 2), (20, 10), (60, 30), 20.0),
        ((0, 0), (3,), (), 3.0),  # recovery's sample is older than the lease
        ((0, 0), (-2,), (), 0.0),  # a clock that was set back
    ],
)
def test_the_lag_is_the_age_of_the_oldest_record_that_is_not_stored(
    queue: tuple[int, int], hands: tuple[int, ...], stored: tuple[int, ...], lag_s: float | None
) -> None:
    frames, busy = queue
    children = Children().add("recovery", "", {"queue_frames": frames, "queue_busy": busy})
    for number in range(2):
        words = {}
        for word, ages_s in (("in_hand_ms", hands), ("stored_ms", stored)):
            if number < len(ages_s):
                words[word] = int((NOW - ages_s[number]) * 1000)
        children.add("subscriber", f"{number + 1}", words)
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert found["store"]["lag_s"] == lag_s
    words = "nothing stored yet" if lag_s is None else f"{lag_s:g} s behind"
    assert words in screen(found)


def test_the_newest_error_is_the_last_one() -> None:
    children = (
        Children()
        .add("recovery", "", {}, last_error="old", last_error_at=100)
        .add("subscriber", "1", {}, last_error="new", last_error_at=300)
        .add("subscriber", "2", {}, last_error="middle", last_error_at=200)
    )
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert (found["last_error"], found["last_error_at"]) == ("new", "1970-01-01T00:05:00+00:00")


def test_rates_are_asked_for_by_the_names_under_which_they_are_counted() -> None:
    children = two_of_each().all
    assert counters_of(children) == {"source tweets": 100, "source log": 7, "stored": 70}
    asked: set[str] = set()

    def per_s(name: str) -> float:
        asked.add(name)
        return 0.0

    full_report(IDENTITY, children, False, False, per_s, NOW)
    assert asked == counters_of(children).keys()


# ── ready ───────────────────────────────────────────────────────────────────────────────

READY: list[tuple[int, list[int], list[int], bool, bool]] = [
    # swept, collectors attached, subscribers prepared → reached, ready
    (1, [1], [1], True, True),
    (0, [1], [1], False, False),
    (3, [1], [0], False, False),
    (1, [1], [0, 1], True, True),
    (1, [1, 0], [1], True, False),
    (1, [1], [], True, True),  # nobody stores
    (0, [1], [], False, False),
]


@pytest.mark.parametrize(("swept", "attached", "prepared", "is_reached", "ready"), READY)
def test_ready(
    swept: int, attached: list[int], prepared: list[int], is_reached: bool, ready: bool
) -> None:
    children = Children().add("recovery", "", {"swept": swept})
    for at, number in enumerate(attached):
        children.add("collector", f"{at}", {"attached": number})
    for at, number in enumerate(prepared):
        children.add("subscriber", f"{at}", {"prepared": number})
    assert reached(children.all) is is_reached
    assert report(IDENTITY, children.all, stopping=False, paused=False)["ready"] is ready


def test_one_that_was_one_too_many_prepares_nothing_any_more() -> None:
    children = Children().add("recovery", "", {"swept": 1})
    children.add("subscriber", "1", {}).add("subscriber", "2", {"prepared": 1}, retired=True)
    assert reached(children.all)
    children.all[-1] = replace(children.all[-1], pid=None)
    assert not reached(children.all)


def test_what_is_awaited_is_said_once() -> None:
    children = two_of_each(waiting_for=AWAITED)
    no_file = "the file: no such file"
    for at, text in ((3, AWAITED), (1, no_file), (2, no_file)):
        children.all[at] = replace(children.all[at], waiting_for=text)
    found = report(IDENTITY, children.all, stopping=False, paused=False)
    assert awaited(found) == [AWAITED, no_file]
    assert awaited(report(IDENTITY, two_of_each().all, stopping=False, paused=False)) == []
