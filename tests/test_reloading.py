"""A reload step by step, over tiny forked children (see tests/watched.py)."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.child import Birth, Child, ChildSpec
from appliance.contracts import NoHolder, NoManager
from appliance.errors import ConfigError, Exit
from appliance.reload import Plan
from appliance.reloading import STOPPING
from tests.test_watchdog import Listener
from tests.watched import WAIT_S, Cast, Diary, Parent, Start, beat_until_told, parents

ALL = Plan(
    changes=("everything",),
    collectors=frozenset("ab"),
    redialled=frozenset("b"),
    added=("new",),
    removed=("old",),
    subscribers=True,
    recovery=True,
)


@pytest.fixture
def diary() -> Diary:
    return Diary()


@pytest.fixture
def cast(diary: Diary) -> Cast:
    return Cast(diary)


@pytest.fixture
def start(short_dir: Path, diary: Diary) -> Iterator[Start]:
    with parents(short_dir, diary) as start:
        yield start


def hearing(cast: Cast, kind: str, name: str, lingers_s: float = 0.0, **more: Any) -> ChildSpec:
    """Says how it was told to end, and ends when it has lingered."""

    def body(birth: Birth) -> Exit:
        if kind == "recovery":
            birth.slot.add("swept", 1)
        birth.slot.worked()
        beat_until_told(birth)
        wish = birth.wish
        how = "leave" if wish.leave else "quick" if wish.quick else "drain"
        cast.diary.say(f"{kind} {name}".strip(), "told", how)
        time.sleep(lingers_s)
        return Exit.OK

    return cast.spec(kind, name, body, **more)


class Fake:
    """A candidate whose children say that they are of its generation."""

    def __init__(self, cast: Cast, plan: Plan, generation: int = 2, **how: Any) -> None:
        self.plan = plan
        self.drain_s = how.get("drain_s", 30.0)
        self.subscribers = how.get("subscribers", 1)
        self._look = how.get("look", lambda: None)
        self._open = how.get("open", lambda: None)
        self._cast = cast
        self._generation = generation

    def look(self) -> None:
        self._look()

    def open(self) -> None:
        self._open()
        self._cast.diary.say("opens")

    def close(self) -> None:
        self._cast.diary.say("closes")

    def close_in_child(self) -> None:
        """Nothing was opened."""

    def take_over(self) -> None:
        self._cast.diary.say("takes over")

    def relisten(self, removed: list[Child]) -> None:
        self._cast.diary.say("relistens without", *(child.spec.name for child in removed))

    def collector(self, name: str) -> ChildSpec:
        return hearing(self._cast, "collector", name, type=f"g{self._generation}")

    def subscriber(self, number: str) -> ChildSpec:
        return hearing(self._cast, "subscriber", number, type=f"g{self._generation}")

    def recovery(self, last: bool) -> ChildSpec:
        return hearing(self._cast, "recovery", "", type="last" if last else "")


class SayingManager(NoManager):
    """A service manager that writes down what it is told."""

    def __init__(self, diary: Diary) -> None:
        self._diary = diary

    def reloading(self) -> None:
        self._diary.say("manager reloading")

    def status(self, text: str) -> None:
        """These children never say that they are ready."""
        if not text.startswith("starting"):
            self._diary.say("manager hears", text)


def family(cast: Cast, **more: Any) -> list[ChildSpec]:
    return [
        hearing(cast, "recovery", ""),
        *(hearing(cast, "collector", name) for name in ("a", "b", "c", "old")),
        hearing(cast, "subscriber", "1", **more),
    ]


def all_born(diary: Diary, *who: str) -> None:
    names = who or (
        "recovery",
        *(f"collector {n}" for n in ("a", "b", "c", "old")),
        "subscriber 1",
    )
    for name in names:
        diary.wait_for(f"{name} born")


def plain(lines: list[str]) -> list[str]:
    """What happened, without pids and times, and without what the log says."""
    words = [line.split(" born ")[0] + " born" if " born " in line else line for line in lines]
    return [line for line in words if not line.startswith("log ") and " ends 0" not in line]


# ── the way through ─────────────────────────────────────────────────────────────────────


def test_its_stages_in_their_order(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(family(cast), read=lambda: Fake(cast, ALL), manager=SayingManager(diary))
    all_born(diary)
    pid = parent.status()["sources"]["c"]["pid"]
    began = len(diary.lines)
    answer = parent.ask(verb="reload")
    assert answer == {"said": "reloaded", "changed": ["everything"], "exit": 0}
    status = parent.status()
    assert status["sources"]["c"]["pid"] == pid
    assert {n: s["type"] for n, s in status["sources"].items()} == {
        "a": "g2",
        "b": "g2",
        "c": "",
        "new": "g2",
    }
    assert [s["restarts"] for s in status["sources"].values()] == [0] * 4
    assert parent.stop() == Exit.OK
    lines = plain(diary.lines[began:])
    assert lines[:3] == ["manager reloading", "opens", "takes over"]
    told = lines[: lines.index("manager hears reloaded: everything")]
    told = [line for line in told if "told" in line or "relistens" in line]
    assert [sorted(told[:2]), told[2], sorted(told[3:6]), told[6:]] == [
        ["recovery told drain", "subscriber 1 told drain"],
        "relistens without old",
        ["collector a told leave", "collector b told drain", "collector old told drain"],
        ["recovery told drain"],
    ], "who stores goes first; a hands its connections on, b's server is another one"
    assert lines.index("collector new born") > lines.index("relistens without old")


def test_nothing_new_is_nothing_done(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(family(cast), read=lambda: Fake(cast, Plan(())))
    all_born(diary)
    assert parent.ask(verb="reload") == {"said": "nothing has changed", "changed": [], "exit": 0}
    parent.send(signal.SIGHUP)
    diary.wait_for("log INFO nothing has changed")
    diary.wait_for("log INFO nothing has changed")
    assert parent.stop() == Exit.OK
    assert "opens" not in diary.lines


def test_reloads_that_come_during_one_are_one_more_behind_it(
    start: Start, diary: Diary, cast: Cast
) -> None:
    plan = Plan(("x",), subscribers=True)

    def read() -> Fake:
        diary.say("reads")
        return Fake(cast, plan)

    parent = start(family(cast, lingers_s=1.0), read=read)
    all_born(diary)
    parent.send(signal.SIGHUP)
    diary.wait_for("takes over")
    with parent.connect() as one, parent.connect() as two:
        for client in (one, two):
            client.sendall(b'{"verb": "reload"}\n')
        parent.status()  # both were read by now
        for client in (one, two):
            assert b'"reloaded"' in client.recv(1000)
    assert parent.stop() == Exit.OK
    assert diary.lines.count("reads") == 2


def test_one_that_waits_for_its_restart_is_replaced_too(
    start: Start, diary: Diary, cast: Cast
) -> None:
    dies = cast.spec("collector", "a", lambda _birth: Exit.INTERNAL)
    specs = [hearing(cast, "recovery", ""), dies, hearing(cast, "subscriber", "1")]
    plan = Plan(("x",), collectors=frozenset("a"))
    parent = start(specs, read=lambda: Fake(cast, plan))
    diary.wait_for(r"collector a died .* again in 0.4 s")
    assert parent.ask(verb="reload")["exit"] == 0
    deadline = time.monotonic() + WAIT_S
    while (source := parent.status()["sources"]["a"])["pid"] is None:
        assert time.monotonic() < deadline
    assert (source["type"], source["restarts"]) == ("g2", 3)
    assert parent.stop() == Exit.OK


def test_one_that_had_ended_by_itself_begins_anew(start: Start, diary: Diary, cast: Cast) -> None:
    def ends(birth: Birth) -> Exit:
        birth.slot.set("ended", 1)
        return Exit.OK

    specs = [
        hearing(cast, "recovery", ""),
        cast.spec("collector", "a", ends),
        hearing(cast, "collector", "b"),
    ]
    plan = Plan(("x",), collectors=frozenset("a"))
    parent = start(specs, read=lambda: Fake(cast, plan))
    diary.wait_for("collector a ends")
    assert parent.ask(verb="reload")["exit"] == 0
    first = born(diary, "collector a", 2)
    os.kill(first, signal.SIGTERM)  # by somebody: it isn't taken for one that has ended
    diary.wait_for(r"collector a died \(exit code 0\)")
    assert parent.stop() == Exit.OK


def born(diary: Diary, who: str, times: int = 1) -> int:
    """The pid of the so-manieth birth."""
    for _ in range(times):
        found = diary.wait_for(rf"{who} born (\d+)")
    return int(found[1])


def test_one_that_is_gone_drains_even_when_it_is_killed_meanwhile(
    start: Start, diary: Diary, cast: Cast
) -> None:
    specs = family(cast)
    specs[4] = hearing(cast, "collector", "old", lingers_s=1.0)
    plan = Plan(("x",), removed=("old",), recovery=True)
    parent = start(specs, read=lambda: Fake(cast, plan))
    all_born(diary)
    first = parent.status()["sources"]["old"]["pid"]
    with parent.connect() as client:
        client.sendall(b'{"verb": "reload"}\n')
        diary.wait_for("collector old told drain")
        os.kill(first, signal.SIGKILL)
        diary.wait_for("collector old told drain")
        assert b'"reloaded"' in client.recv(1000)
    assert "old" not in parent.status()["sources"]
    assert parent.stop() == Exit.OK


class Everything(NoHolder):
    """A holder of all that it is told to hold."""

    holds = True


def test_nobody_goes_on_with_a_source_that_is_gone(start: Start, diary: Diary, cast: Cast) -> None:
    """It is drained to its end, also when the parent is killed meanwhile."""

    def body(birth: Birth) -> Exit:
        while not birth.wish.stop:
            birth.slot.beat()
            birth.wish.wait(0.05)
        diary.say("collector old kept", birth.slot.get("kept"))
        while not birth.wish.orphaned:
            birth.wish.wait(0.05)
        diary.say("collector old leaves", birth.wish.leave)
        return Exit.OK

    listener = Listener("old", Everything())
    specs = family(cast)
    specs[4] = cast.spec("collector", "old", body, acceptor=listener.acceptor)
    plan = Plan(("x",), removed=("old",), recovery=True)
    parent = start(specs, read=lambda: Fake(cast, plan), holder=Everything())
    all_born(diary)
    parent.send(signal.SIGHUP)
    diary.wait_for("collector old kept 0")
    parent.send(signal.SIGKILL)
    diary.wait_for("collector old leaves False")
    parent.wait()
    listener.close()


def test_who_takes_too_long_is_told_to_be_quick_then_killed(
    start: Start, diary: Diary, cast: Cast
) -> None:
    def deaf(birth: Birth) -> Exit:
        while True:
            birth.slot.beat()
            birth.wish.wait(0.05)
            if birth.wish.quick:
                diary.say("subscriber 1 hears quick")
                time.sleep(30)

    specs = family(cast)
    specs[-1] = cast.spec("subscriber", "1", deaf)
    plan = Plan(("x",), subscribers=True)
    limits = {"STAGE_GRACE_S": 0.3}
    parent = start(specs, read=lambda: Fake(cast, plan, drain_s=0.2), limits=limits)
    all_born(diary)
    assert parent.ask(verb="reload")["exit"] == 0
    diary.wait_for("subscriber 1 hears quick")
    diary.wait_for("log ERROR stream-daemon nfl subscriber 1 does not end: killing it")
    assert parent.status()["subscribers"][0]["restarts"] == 0
    assert parent.stop() == Exit.OK


def test_a_source_that_is_gone_and_hangs_ends_as_in_a_stop(
    start: Start, diary: Diary, cast: Cast
) -> None:
    specs = family(cast)
    specs[4] = hearing(cast, "collector", "old", lingers_s=30.0, may_lose=True)
    plan = Plan(("x",), removed=("old",), recovery=True)
    limits = {"STAGE_GRACE_S": 0.3}
    parent = start(specs, read=lambda: Fake(cast, plan, drain_s=0.2), limits=limits)
    all_born(diary)
    assert parent.ask(verb="reload")["exit"] == 0
    assert "old" not in parent.status()["sources"]
    assert parent.stop() == Exit.MAY_BE_LOST, "it isn't forgotten that some may be lost"


# ── kept as it was ──────────────────────────────────────────────────────────────────────


def fails() -> None:
    raise ConfigError("it can't be", "mend it")


def dies() -> None:
    os._exit(9)


KEPT: list[tuple[str, dict[str, Any], str]] = [
    ("read", {}, "it can't be\n  → mend it"),
    ("open", {}, "it can't be\n  → mend it"),
    ("look", {"asks_store": True}, "it can't be\n  → mend it"),
    ("dies", {"asks_queue": True}, "the look at queue and store died (9)"),
]


@pytest.mark.parametrize(("what", "more", "said"), KEPT, ids=[row[0] for row in KEPT])
def test_what_keeps_the_old_configuration(
    start: Start, diary: Diary, cast: Cast, what: str, more: dict[str, Any], said: str
) -> None:
    how = {"open": fails} if what == "open" else {"look": dies if what == "dies" else fails}

    def read() -> Fake:
        if what == "read":
            fails()
        return Fake(cast, Plan(("x",), subscribers=True, collectors=frozenset("a"), **more), **how)

    parent = start(family(cast), read=read, manager=SayingManager(diary))
    all_born(diary)
    before = parent.children()
    assert parent.ask(verb="reload") == {"error": said, "exit": 78}
    status = parent.status()
    line = f"the old configuration is kept: {said}".replace("\n  → ", " → ")
    assert (status["last_error"], status["state"]) == (line, "healthy")
    assert parent.children().keys() == before.keys()
    diary.wait_for(f"manager hears the old configuration is kept: {said[:10]}")
    assert parent.stop() == Exit.OK
    assert f"log ERROR {line}" in diary.lines
    assert "takes over" not in diary.lines


def test_who_says_nothing_is_away_and_waited_for(start: Start, diary: Diary, cast: Cast) -> None:
    def hangs() -> None:
        diary.say("looks", os.getpid())
        time.sleep(30)

    plan = Plan(("x",), asks_store=True)
    parent = start(family(cast), read=lambda: Fake(cast, plan, look=hangs), limits={"LOOK_S": 0.5})
    all_born(diary)
    assert parent.ask(verb="reload")["exit"] == 0
    looked = int(diary.wait_for(r"looks (\d+)")[1])
    assert looked not in parent.children()
    diary.wait_for("they are waited for")
    assert parent.stop() == Exit.OK


def test_a_look_dies_with_its_parent(start: Start, diary: Diary, cast: Cast) -> None:
    def hangs() -> None:
        diary.say("looks", os.getpid())
        time.sleep(30)

    plan = Plan(("x",), asks_store=True)
    parent = start(family(cast), read=lambda: Fake(cast, plan, look=hangs))
    all_born(diary)
    parent.send(signal.SIGHUP)
    diary.wait_for(r"looks (\d+)")
    parent.send(signal.SIGKILL)
    diary.read_all()  # it had the diary open, too


# ── and a stop ──────────────────────────────────────────────────────────────────────────


def test_a_stop_ends_a_reload_that_looks(start: Start, diary: Diary, cast: Cast) -> None:
    plan = Plan(("x",), asks_store=True, subscribers=True)
    look = {"look": lambda: time.sleep(30)}
    parent = start(family(cast), read=lambda: Fake(cast, plan, **look))
    all_born(diary)
    with parent.connect() as client:
        client.sendall(b'{"verb": "reload"}\n')
        parent.status()
        assert parent.stop() == Exit.OK
        assert STOPPING.encode() in client.recv(1000)
    assert "opens" not in diary.lines


def test_a_collector_that_left_when_the_stop_came_gets_a_successor_that_drains(
    start: Start, diary: Diary, cast: Cast
) -> None:
    """Nobody would read what its connections hold."""
    specs = [hearing(cast, "recovery", ""), hearing(cast, "collector", "a", lingers_s=1.0)]
    plan = Plan(("x",), collectors=frozenset("a"))
    parent = start(specs, read=lambda: Fake(cast, plan))
    all_born(diary, "recovery", "collector a")
    parent.send(signal.SIGHUP)
    diary.wait_for("collector a told leave")
    assert parent.stop() == Exit.OK
    told = [line for line in plain(diary.lines) if line.startswith("collector a")]
    assert told == [
        "collector a born",
        "collector a told leave",
        "collector a born",
        "collector a told drain",
    ]


def test_a_reload_that_comes_into_a_stop_is_refused(start: Start, diary: Diary, cast: Cast) -> None:
    parent = start(family(cast, lingers_s=1.0), read=lambda: Fake(cast, ALL))
    all_born(diary)
    parent.send(signal.SIGTERM)
    diary.wait_for("subscriber 1 told drain")
    parent.send(signal.SIGHUP)
    assert parent.ask(verb="reload") == {"error": STOPPING, "exit": Exit.NOT_RUNNING}
    assert parent.wait() == Exit.OK
    assert f"log WARNING {STOPPING}" in diary.lines
    assert "takes over" not in diary.lines


# ── how many store ──────────────────────────────────────────────────────────────────────


def until_numbers(parent: Parent, numbers: list[int]) -> None:
    """Wait until exactly these subscribers are wanted or still there."""
    deadline = time.monotonic() + WAIT_S
    while (found := [s["n"] for s in parent.status()["subscribers"]]) != numbers:
        assert time.monotonic() < deadline, found


@pytest.mark.parametrize(("resized", "left"), [(False, 2), (True, 3)])
def test_what_was_changed_by_signal_holds_until_the_key_itself_changes(
    start: Start, diary: Diary, cast: Cast, resized: bool, left: int
) -> None:
    plan = Plan(("x",), subscribers=True, resized=resized)
    parent = start(
        family(cast),
        read=lambda: Fake(cast, plan, subscribers=3),
        subscriber=lambda number: hearing(cast, "subscriber", number),
    )
    all_born(diary)
    parent.send(signal.SIGTTIN)
    diary.wait_for("subscriber 2 born")
    assert parent.ask(verb="reload")["exit"] == 0
    until_numbers(parent, list(range(1, left + 1)))
    assert parent.stop() == Exit.OK


def test_one_that_comes_back_later_is_of_the_new_configuration(
    start: Start, diary: Diary, cast: Cast
) -> None:
    class Noted(Fake):
        def subscriber(self, number: str) -> ChildSpec:
            diary.say("new subscriber", number)
            return super().subscriber(number)

    parent = start(
        family(cast),
        read=lambda: Noted(cast, Plan(("x",), subscribers=True)),
        subscriber=lambda number: hearing(cast, "subscriber", number),
    )
    all_born(diary)
    parent.send(signal.SIGTTIN)
    diary.wait_for("subscriber 2 born")
    parent.send(signal.SIGTTOU)
    diary.wait_for("subscriber 2 ends")
    until_numbers(parent, [1])
    assert parent.ask(verb="reload")["exit"] == 0
    parent.send(signal.SIGTTIN)
    diary.wait_for("new subscriber 2")
    diary.wait_for("subscriber 2 born")
    assert parent.stop() == Exit.OK
