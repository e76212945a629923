"""One wanted process: forked, told to end, found dead, started again after its backoff.

`Child` is a process of ours (multiprocessing, start method fork, asked for by name), `Server`
the embedded one. Neither decides whether it is wanted: watchdog.py does.
"""

import logging
import multiprocessing
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from signal import Signals
from typing import Any, Protocol

from appliance import logs, process, signals
from appliance.acceptor import Acceptor
from appliance.backoff import RestartBackoff
from appliance.contracts import NO_RECORD, Death
from appliance.counters import Slot
from appliance.errors import Exit, Occupied, StreamDaemonError
from appliance.link import ChildEnd

HEARTBEAT_S = {"collector": 30.0, "subscriber": 120.0, "recovery": 30.0}
SLOW_CALL_S = 120.0  # instead, around what a child says may take long
ABORT_TO_KILL_S = 5.0
DISK_SPACE = (
    "disk space: less than disk_free_min is free"
    " → make room on the disk of state_dir, or lower disk_free_min"
)
CLEAN = (Exit.OK, Exit.MAY_BE_LOST, Exit.TIMED_OUT)  # it said how it ended; others died

_fork = multiprocessing.get_context("fork")
_log = logging.getLogger("parent")


@dataclass(frozen=True, slots=True)
class Birth:
    """What a new child is given: how it is steered, its numbers, its connections."""

    wish: process.Wish
    slot: Slot
    wire: ChildEnd | None = None
    connections: list[tuple[int, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process that is wanted. `run` is called in the child and returns its exit code.

    `type` is the source's type, `held` whether its bytes outlive the process, `may_lose`
    whether killing it before it handed over can lose records.
    """

    kind: str
    name: str
    title: str
    run: Callable[[Birth], Exit]
    type: str = ""
    held: bool = True
    may_lose: bool = False
    acceptor: Acceptor | None = None


class Child:
    """A wanted process and what became of it.

    Attributes:
        start_at: not started before this moment (monotonic).
        done: it has ended as it should and isn't wanted any more; `exit` says how.
        retired: it was one too many: however it ends, it isn't started again.
        began: it was started, or at least tried, once.
        parting: how it is asked to end, also while the instance goes on; None: it isn't.
        death: the newest death, if it died of itself with work in hand.
    """

    def __init__(self, spec: ChildSpec, slot: Slot) -> None:
        self.spec = spec
        self.slot = slot
        self.start_at = 0.0
        self.restarts = 0
        self.done = False
        self.retired = False
        self.began = False
        self.parting: Signals | None = None
        self.exit = Exit.OK
        self.death: Death | None = None
        self._process: ForkProcess | None = None
        self._backoff = RestartBackoff()
        self._born = 0.0
        self._works_at_birth = 0
        self._inherited: set[int] = set()
        self._told: Signals | None = None
        self._aborted_at: float | None = None
        self._successor: ChildSpec | None = None

    @property
    def pid(self) -> int | None:
        """Its pid while it lives (or is dead and not buried yet)."""
        return self._process.pid if self._process else None

    @property
    def gone(self) -> bool:
        """Whether it was one too many and has ended."""
        return self.retired and not self.pid

    def start(self, now: float, drain_s: float, close_inherited: Callable[["Child"], None]) -> None:
        """Fork it, or try again after its backoff where the kernel has no room for it."""
        self.began = True
        try:
            self._start(now, drain_s, close_inherited)
        except OSError as error:
            if self.spec.acceptor:
                self.spec.acceptor.bury()
            self._process = None
            delay_s = self._backoff.after_death(0.0, worked=False)
            self.start_at = now + delay_s
            self.restarts += 1
            text = "%s can't be started: %s; tried again in %.1f s"
            _log.error(text, self.spec.title, error.strerror, delay_s)

    def _start(
        self, now: float, drain_s: float, close_inherited: Callable[["Child"], None]
    ) -> None:
        """Fork it. Its heartbeat begins before it can write one itself."""
        wire = self.spec.acceptor.birth() if self.spec.acceptor else None
        self.slot.beat()
        self.slot.waiting_for("")  # a predecessor may have died while it waited
        self.slot.set("slow", 0)
        self.slot.put_down()  # or with work in hand
        self.slot.refusing("")
        self._born, self._told, self._aborted_at = now, None, None
        self._works_at_birth = self.slot.get("works")
        self._inherited = self._cookies()
        parent = os.getpid()
        self._process = _fork.Process(
            target=self._live, args=(wire, parent, drain_s, close_inherited), daemon=False
        )
        self._process.start()
        if wire:
            wire.close()
        _log.debug("%s started (pid %s)", self.spec.title, self.pid)

    def _live(
        self,
        wire: ChildEnd | None,
        parent: int,
        drain_s: float,
        close_inherited: Callable[["Child"], None],
    ) -> None:
        """The child's whole life, from fork to exit code."""
        close_inherited(self)
        wish = process.born(self.spec.title, parent, drain_s, lambda: self.slot.get("kept") > 0)
        logs.speaks_as(self.spec.kind, self.spec.name, self.slot)
        acceptor = self.spec.acceptor
        connections = acceptor.connections if acceptor else []
        try:
            code = self.spec.run(Birth(wish, self.slot, wire, connections))
        except (StreamDaemonError, OSError) as error:
            said = error.line if isinstance(error, StreamDaemonError) else str(error)
            logging.getLogger(self.spec.title).error("%s", said)
            self.slot.error(said)
            code = Exit.TAKEN if isinstance(error, Occupied) else Exit.INTERNAL
        raise SystemExit(int(code))

    def reap(self, now: float) -> bool:
        """Whether it has died since the last look; then it is done, or waits for its restart."""
        code = self._process.exitcode if self._process else None
        if self._process is None or code is None:
            return False
        if self.spec.acceptor:
            self.spec.acceptor.bury()
        self._process.close()
        self._process = None
        self.death = self._death_with_work(code)
        if self._successor:  # it goes on with whatever this one has left
            self._succeed()
        elif code == Exit.TAKEN:  # another instance does its work
            self.give_up(Exit.TAKEN)
        elif self._was_to_end() and code in CLEAN and not self._missed_some():
            self.give_up(Exit(code))
            _log.debug("%s ended", self.spec.title)
        elif self.retired and not self.done:
            self.give_up(Exit.OK)  # recovery gives back what it held
        elif not self.done:
            self._restart_later(code, now)
        return True

    def _death_with_work(self, code: int) -> Death | None:
        """What it had in hand when it died of itself; None if we ended it, or its hands were empty.

        One that was told to end may have been killed because it took too long.
        """
        held = self.slot.held()
        if held is None or self._told is not None or self._aborted_at is not None:
            return None
        owner, frame, record = held
        in_hand = None if record == NO_RECORD else record
        return Death(owner, frame, in_hand, _cause(code).replace(" ", "-"))

    def _was_to_end(self) -> bool:
        """Whether it ended because it should, and not because somebody else said so."""
        return self._told is not None or self.slot.get("ended") > 0

    def _missed_some(self) -> bool:
        """Whether it ended before connections that were on their way had reached it.

        One that has left them to a successor misses none.
        """
        return self._told != signals.LEAVE and not self._cookies() <= self._inherited

    def _cookies(self) -> set[int]:
        acceptor = self.spec.acceptor
        return {cookie for cookie, _ in acceptor.connections} if acceptor else set()

    def _restart_later(self, code: int, now: float) -> None:
        worked = self.slot.get("works") > self._works_at_birth
        delay_s = self._backoff.after_death(now - self._born, worked)
        self.start_at = now + delay_s
        self.restarts += 1
        _say_restart(self.spec.title, code, delay_s)

    def give_up(self, code: Exit) -> None:
        """It isn't wanted any more; this is how it ended."""
        self.done, self.exit = True, code

    def want_again(self, spec: ChildSpec) -> None:
        """One that was retired, and has ended, is wanted after all; its backoff still counts."""
        assert self.gone
        self.spec = spec
        self.retired = self.done = False

    def replace(self, spec: ChildSpec, how: Signals) -> None:
        """Go on as this: at once, or as soon as the living one has ended, which it is asked to."""
        self._successor = spec
        if self.pid:
            self.parting = how
        else:
            self._succeed()

    def remove(self) -> None:
        """Its source isn't configured any more: it ends as in a stop, however often it dies."""
        self.parting = signals.DRAIN
        if not self.began:
            self.give_up(Exit.OK)

    def end_parting(self) -> None:
        """It was asked for long enough."""
        self.kill()
        if not self._successor:
            self.give_up(Exit.MAY_BE_LOST if self.spec.may_lose else Exit.TIMED_OUT)

    def _succeed(self) -> None:
        """However its predecessor has ended: nothing of that is the new one's fault."""
        assert self._successor
        self.spec, self._successor, self.parting = self._successor, None, None
        self.done, self.exit, self.start_at = False, Exit.OK, 0.0
        self.slot.set("ended", 0)
        self._backoff = RestartBackoff()

    def ask(self, wish: Signals) -> None:
        """Ask it to end, once for each kind of asking."""
        if self.pid and self._told != wish:
            os.kill(self.pid, wish)
            self._told = wish

    def nudge(self) -> None:
        """Have it look at once whether there is something to do."""
        if self.pid:
            os.kill(self.pid, signals.NUDGE)

    def check_heartbeat(self, now: float) -> None:
        """End it if its work loop is silent for too long: ABRT, then KILL."""
        assert self.pid
        silent_s = now - self.slot.get("heartbeat_ns") / 1e9
        if self._aborted_at is not None:
            if now - self._aborted_at > ABORT_TO_KILL_S:
                os.kill(self.pid, Signals.SIGKILL)
        elif silent_s > (SLOW_CALL_S if self.slot.get("slow") else HEARTBEAT_S[self.spec.kind]):
            _log.error("%s is silent for %.0f s: ending it", self.spec.title, silent_s)
            self._aborted_at = now
            os.kill(self.pid, Signals.SIGABRT)

    def kill(self) -> None:
        """kill -9, without waiting."""
        if self._process:
            self._process.kill()

    def join(self) -> None:
        """Wait for its end."""
        if self._process:
            self._process.join()


class Startable(Protocol):
    """The embedded server (see redis_server.EmbeddedServer)."""

    def lacks_room(self) -> bool:
        """Whether the disk under it is too full for it to live."""

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it; returns at once."""

    def ask_to_end(self) -> None:
        """Ask it to end; returns at once. It notices a signal up to a second later."""


class Server:
    """The embedded server's process, kept alive until it is told to end."""

    def __init__(self, startable: Startable) -> None:
        self._startable = startable
        self._process: subprocess.Popen[bytes] | None = None
        self._backoff = RestartBackoff()
        self._born = self.start_at = 0.0
        self._works = self._works_at_birth = 0
        self._ended_itself = False
        self.waiting_for = ""  # in words, what keeps it from being started

    @property
    def lives(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def keep(self, now: float, works: int) -> None:
        """Start it, or start it again after its backoff; `works` counts what was done with it."""
        self._works = works
        if self._process and not self.lives:
            delay_s = self._backoff.after_death(now - self._born, works > self._works_at_birth)
            _say_restart("valkey-server", self._process.returncode, delay_s)
            self._ended_itself = self._process.returncode > 0
            self._process = None
            self.start_at = now + delay_s
        if not self._process and now >= self.start_at and not self._waits_for_room():
            self._start(now)

    def _waits_for_room(self) -> bool:
        """Whether a full disk has ended it: it would only die again.

        One that was killed is started also on a disk that is low: what it holds may be stored,
        and makes room.
        """
        waits = self._ended_itself and self._startable.lacks_room()
        if waits and not self.waiting_for:
            _log.error("valkey-server is not started again: waiting for %s", DISK_SPACE)
        elif self.waiting_for and not waits:
            _log.info("there is disk space again")
        self.waiting_for = DISK_SPACE if waits else ""
        return waits

    def _start(self, now: float) -> None:
        self._born = now
        self._works_at_birth = self._works
        try:
            self._process = self._startable.start()
        except StreamDaemonError as error:
            delay_s = self._backoff.after_death(0.0, worked=False)
            _log.error("%s; tried again in %.1f s", error.message, delay_s)
            self.start_at = now + delay_s

    def terminate(self) -> None:
        """Ask it to end in good order."""
        if self._process:
            self._process.terminate()
            self._startable.ask_to_end()

    def kill(self) -> None:
        """kill -9, without waiting."""
        if self._process:
            self._process.kill()

    def join(self) -> None:
        """Wait for its end."""
        if self._process:
            self._process.wait()


def _say_restart(title: str, code: int, delay_s: float) -> None:
    _log.warning("%s died (%s); it is started again in %.1f s", title, _cause(code), delay_s)


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
