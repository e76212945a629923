"""Kills from outside, at any instant, and the settings for kills from inside."""

import random
from collections.abc import Callable
from typing import Any

from tests.system.daemon import Daemon, until

KILLS_S = 60.0
CHANCE = 0.1  # for each child, each time we look

Pick = Callable[[dict[str, Any]], list[dict[str, Any]]]


def self_kills(steps: dict[str, float], kills_max: int, seed: int) -> dict[str, str]:
    """The environment for `crashing`: the chance of each step, kills in all."""
    return {
        "CRASH_STEPS": ",".join(f"{step}={chance}" for step, chance in steps.items()),
        "CRASH_MAX": str(kills_max),
        "CRASH_SEED": str(seed),
    }


def kill_until(daemon: Daemon, pick: Pick, restarts: int, dice: random.Random) -> int:
    """Kill some of the picked children of `status` now and then, until they were restarted so
    often, by us or by themselves; returns how often it was us.
    """
    killed = 0

    def enough() -> bool:
        nonlocal killed
        status = daemon.try_status()
        children = pick(status) if status else []
        for child in children:
            if child["pid"] and dice.random() < CHANCE:
                killed += daemon.kill_child(child["pid"])
        return sum(int(child["restarts"]) for child in children) >= restarts

    until(enough, KILLS_S, f"{restarts} restarts")
    assert killed, "none was killed from outside"
    return killed
