"""Carries out the plan: one thread for each lane, each fault at its time.

A fault comes late where the one before it took longer than planned (a database needs its time to
start), or where its target isn't there: a child that was just killed is waited for. What was
done when is written into the diary.
"""

import os
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tests.torture.plan import Fault
from tests.torture.weather import Weather
from tests.torture.world import World, since

OUTAGE_S = 30.0
ABSENT_S = 30.0  # a child that isn't there for so long is missed: restarts back off up to that
HELD_S = 30.0  # a successor takes over, or it has nothing to take over any more
DEAD_S = 10.0  # a process that was killed is gone by then, whatever the load
LOOK_S = 0.01
BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Outage:
    """A fault that has lasted long. began_s, over_s: in the world's time."""

    fault: Fault
    began_s: float
    over_s: float


class Executor:
    """Carries out faults until all are done, or as many kills as are wanted.

    Attributes:
        done: how often each ("kill", "redis") was done.
        missed: the same, for those whose target never came.
        outages: those that have lasted OUTAGE_S.
    """

    def __init__(self, world: World, diary: Path, kills: int = 0) -> None:
        self.done: Counter[tuple[str, str]] = Counter()
        self.missed: Counter[tuple[str, str]] = Counter()
        self.outages: list[Outage] = []
        self._world = world
        self._kills = kills
        self._diary: TextIO = diary.open("w", buffering=1)
        self._threads: list[threading.Thread] = []
        self._start = time.monotonic()
        self._lock = threading.Lock()
        self._holders = threading.Lock()  # of parent and keeper only one is struck at a time
        self._enough = threading.Event()
        self._does: dict[str, Callable[[Fault], bool]] = {
            "children": self._strike_child,
            "parent": self._strike_parent,
            "keeper": self._strike_keeper,
            "redis": self._strike_server,
            "mariadb": self._strike_server,
            "way to redis": self._change_weather,
            "way to mariadb": self._change_weather,
            "far": self._vanish,
            "disk": self._fill_disk,
            "senders": self._change_mood,
        }

    @property
    def kills(self) -> int:
        """Processes that were killed."""
        return sum(count for (kind, _), count in self.done.items() if kind == "kill")

    @property
    def running(self) -> bool:
        """Whether a lane isn't at its end."""
        return any(thread.is_alive() for thread in self._threads)

    def start(self, faults: dict[str, Iterable[Fault]]) -> None:
        """Begin; {lane: its faults}."""
        self._start = time.monotonic()
        self._threads = [
            threading.Thread(target=self._follow, args=[lane, those], name=lane)
            for lane, those in faults.items()
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Begin no other fault, and let those that last be over."""
        self._enough.set()
        for thread in self._threads:
            thread.join()
        self._diary.close()

    # ── one lane ────────────────────────────────────────────────────────────────────────

    def _follow(self, lane: str, faults: Iterable[Fault]) -> None:
        late_s = 0.0
        for fault in faults:
            if self._enough.wait(max(0.0, fault.at_s + late_s - since(self._start))):
                return
            self._note(fault, "begins")
            began_s = since(self._world.born_at)
            try:
                done = self._does[lane](fault)
            except (OSError, AssertionError) as error:
                self._world.problems.append(f"fault {fault}: {error!r}")
                done = False
            self._note(fault, "done" if done else "missed")
            self._count(fault, done)
            over_s = since(self._world.born_at)
            if over_s - began_s > OUTAGE_S:
                self.outages.append(Outage(fault, began_s, over_s))
            late_s = max(0.0, since(self._start) - fault.at_s - fault.lasts_s)

    def _note(self, fault: Fault, what: str) -> None:
        if not self._diary.closed:
            self._diary.write(f"{since(self._start):9.3f} {what:7}{fault}\n")

    def _count(self, fault: Fault, done: bool) -> None:
        with self._lock:
            (self.done if done else self.missed)[fault.kind, fault.target] += 1
            if self._kills and self.kills >= self._kills:
                self._enough.set()

    def _last(self, fault: Fault) -> None:
        self._enough.wait(fault.lasts_s)

    # ── processes ───────────────────────────────────────────────────────────────────────

    def _strike_child(self, fault: Fault) -> bool:
        pid = self._child(fault.target)
        return pid is not None and self._strike(pid, fault)

    def _strike_parent(self, fault: Fault) -> bool:
        while self._world.daemon.ended():  # it is started again in a moment
            if self._enough.wait(LOOK_S):
                return False
        if fault.kind == "pause":
            return self._strike(self._world.parent, fault)
        with self._holders:
            return self._kill_parent(fault)

    def _kill_parent(self, fault: Fault) -> bool:
        """Only where its keeper dies, too, or doesn't hold, may it cost somebody his connection."""
        began = time.monotonic()
        spares_keeper = fault.kind != "massacre" and self._world.keeper_holds()
        children = list(self._world.children().values())
        done = self._strike(self._world.parent, fault)
        if fault.kind == "massacre":  # until the keeper's turn comes, senders are let in
            self._kill_orphans(children, fault)
        if not spares_keeper:
            self._world.parent_kills.append((began, time.monotonic()))
        self._await_keeper()
        return done

    def _strike_keeper(self, fault: Fault) -> bool:
        with self._holders:
            self._await_keeper()
            return self._strike_child(fault)

    def _await_keeper(self) -> None:
        """Wait until connections are held again; for good on a full disk, or without one."""
        deadline = time.monotonic() + HELD_S
        while time.monotonic() < deadline and not self._world.keeper_holds():
            if self._enough.wait(LOOK_S):
                return

    def _kill_orphans(self, children: list[int], fault: Fault) -> None:
        """Kill them in some order, as long as the fault lasts."""
        random.Random(f"{self._world.seed} {fault}").shuffle(children)
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has handed over
                pass
            self._enough.wait(fault.lasts_s / len(children))

    def _child(self, title: str) -> int | None:
        """Its pid, as soon as it lives."""
        deadline = time.monotonic() + ABSENT_S
        while title not in (children := self._world.children()):
            if time.monotonic() > deadline or self._enough.wait(LOOK_S):
                return None
        return children[title]

    def _strike(self, pid: int, fault: Fault) -> bool:
        """Kill it, or let it stand still for a while."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if fault.kind != "pause":
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                return bool(select.select([pidfd], [], [], DEAD_S)[0])
            signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
            self._last(fault)
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
        except ProcessLookupError:  # somebody else has killed it
            return fault.kind == "pause"
        finally:
            os.close(pidfd)
        return True

    def _strike_server(self, fault: Fault) -> bool:
        server = self._world.servers[fault.target]
        if fault.kind == "kill":
            server.kill()
            self._last(fault)
            server.start()
        elif fault.kind == "refuse":
            with self._world.full_redis():
                self._last(fault)
        else:
            server.pause()
            self._last(fault)
            server.resume()
        return True

    # ── everything else ─────────────────────────────────────────────────────────────────

    def _change_weather(self, fault: Fault) -> bool:
        way = self._world.ways[fault.target]
        if fault.kind != "cut":
            with self._world.weather[fault.target].lasting(fault.kind):
                self._last(fault)
        if fault.kind in ("cut", "withhold", "unheard"):
            way.cut()
        return True

    def _vanish(self, fault: Fault) -> bool:
        """A subscriber elsewhere is stuck in a COMMIT, dies, and both servers think that it lives.

        Whether that COMMIT was done or comes when its frames may be somebody else's, and which
        server notices first, are the fault's own dice.
        """
        dice = random.Random(f"{self._world.seed} {fault}")
        world = self._world
        to_redis, to_mariadb = world.ways["far redis"], world.ways["far mariadb"]
        weather = world.weather["far mariadb"]
        with weather.lasting(dice.choice(["unheard", "late"])), world.far_instance():
            if not self._is_struck(weather):
                return False
            with world.weather["far redis"].lasting("freeze"):
                world.kill_far_instance()
                self._last(fault)
                if dice.random() < 0.5:  # Redis first: its frames are somebody else's
                    to_redis.cut()
                    self._last(fault)
        to_redis.cut()
        to_mariadb.cut()
        return True

    def _is_struck(self, weather: Weather) -> bool:
        deadline = time.monotonic() + ABSENT_S
        while not weather.struck.wait(LOOK_S):
            if time.monotonic() > deadline or self._enough.is_set():
                return False
        return True

    def _fill_disk(self, fault: Fault) -> bool:
        if self._world.unmounted:
            return False
        ballast = self._world.state / "ballast"
        with self._world.full_disk():
            try:
                fill_up(ballast)
                self._last(fault)
            finally:
                ballast.unlink()
        return True

    def _change_mood(self, fault: Fault) -> bool:
        sender = self._world.senders[fault.target]
        sender.mood(fault.kind)
        if fault.kind in ("slow", "freeze"):
            self._last(fault)
            sender.mood("normal")
        return True


def fill_up(file: Path) -> None:
    """Make this file so large that nothing is left on its disk."""
    with file.open("wb", buffering=0) as ballast:
        for size in (BLOCK_BYTES, 1024, 1):
            try:
                while True:
                    ballast.write(bytes(size))
            except OSError:  # full for pieces of this size
                pass
