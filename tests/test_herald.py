"""What the service manager is told, and when."""

from typing import Any

import pytest

from appliance.herald import STATUS_EVERY_S, TIME_EVERY_S, TIME_S, Herald


class Manager:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *what: self.told.append(" ".join([name, *map(str, what)]))

    def since(self) -> list[str]:
        told, self.told = [one for one in self.told if one != "alive"], []
        return told


@pytest.fixture
def manager() -> Manager:
    return Manager()


@pytest.fixture
def herald(manager: Manager) -> Herald:
    return Herald(manager)


def report(ready: bool = True, state: str = "healthy", waiting_for: str = "", **more: int) -> Any:
    source = {
        "connections": more.get("connections", 0),
        "per_s": more.get("per_s", 0),
        "spool": {"bytes": more.get("spool", 0)},
        "waiting_for": "",
    }
    return {
        "ready": ready,
        "state": state,
        "sources": {"s": source},
        "queue": {"frames": more.get("frames", 0), "busy": 0, "waiting_for": ""},
        "store": {"waiting_for": waiting_for, "refusing": ""},
    }


IDLE = "0 connections, 0 records/s, 0 frames waiting"


def test_ready_is_said_once_it_is_true(herald: Herald, manager: Manager) -> None:
    away = report(False, "degraded", "the store: no")
    herald.turned(1000.0, False, lambda: away)
    text = f"starting: waiting for the store: no, {IDLE}"
    assert manager.since() == [f"starting {TIME_S}", f"status {text}"]
    herald.turned(1000.1, False, lambda: away)
    assert manager.since() == []
    herald.turned(1000.0 + TIME_EVERY_S, False, lambda: away)
    assert manager.since() == [f"starting {TIME_S}"], "the text is the same"
    herald.turned(1006.0, False, report)
    assert manager.since() == [f"ready healthy: {IDLE}"]
    herald.turned(1100.0, False, lambda: away)
    herald.turned(1200.0, False, report)
    again = [f"status degraded: waiting for the store: no, {IDLE}", f"status healthy: {IDLE}"]
    assert manager.since() == again, "no time is asked for, and ready isn't said again"


def test_the_status_is_said_now_and_then_if_it_changes(herald: Herald, manager: Manager) -> None:
    herald.turned(0.0, False, report)
    manager.since()
    busy = report(connections=3, per_s=1234, frames=1)
    herald.turned(STATUS_EVERY_S - 0.1, False, lambda: busy)
    assert manager.since() == []
    herald.turned(STATUS_EVERY_S, False, lambda: busy)
    text = "healthy: 3 connections, 1,234 records/s, 1 frame waiting"
    assert manager.since() == [f"status {text}"]
    herald.turned(2 * STATUS_EVERY_S, False, lambda: report(spool=5000, connections=1))
    text = "healthy: 5,000 bytes in the spool, 1 connection, 0 records/s, 0 frames waiting"
    assert manager.since() == [f"status {text}"]


def test_each_turn_is_a_sign_of_life(herald: Herald, manager: Manager) -> None:
    for turn in range(5):
        herald.turned(turn / 10, turn > 2, report)
    assert manager.told.count("alive") == 5


def test_a_stop_asks_for_time_until_it_is_over(herald: Herald, manager: Manager) -> None:
    herald.turned(100.0, False, report)
    herald.stops()
    manager.since()
    ending = report(state="stopping")
    herald.turned(100.1, True, lambda: ending)
    assert manager.since() == [f"stopping {TIME_S}", f"status stopping: {IDLE}"]
    herald.turned(100.0 + TIME_EVERY_S, True, lambda: ending)
    assert manager.since() == []
    herald.turned(100.1 + TIME_EVERY_S, True, lambda: ending)
    assert manager.since() == [f"stopping {TIME_S}"]


def test_who_never_was_ready_isnt_in_a_stop_either(herald: Herald, manager: Manager) -> None:
    herald.turned(0.0, True, report)
    assert not [one for one in manager.since() if one.startswith("ready")]


@pytest.mark.parametrize("ready", [True, False])
def test_after_a_reload_ready_is_said_again(herald: Herald, manager: Manager, ready: bool) -> None:
    herald.turned(0.0, False, lambda: report(ready))
    manager.since()
    herald.reloading()
    herald.ready("refused: line 3")
    word = "ready" if ready else "status"
    assert manager.since() == ["reloading", f"{word} refused: line 3"]
