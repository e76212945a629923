"""The parent: forks the children, restarts the dead, ends them in order. And accepts.

It has no threads and never speaks to Redis or the store, so nothing of theirs can hold it
up. One loop: compare what is wanted with what is there and close the gap, then wait for a
signal (signalfd), a connection, a control request or the next deadline.

A child is wanted until it has exited with 0, which it does when its source ended or when it
was told to stop. Stopping goes through PHASES one after the other: collectors hand over,
subscribers finish their lease, recovery sweeps, the server goes last. The parent never
calls waitpid(-1), which would make `is_alive` lie: it asks each process.
"""

import logging
import multiprocessing
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing.context import ForkProcess
from signal import Signals
from typing import Any, Protocol

from appliance import process, signals, status
from appliance.acceptor import Acceptor
from appliance.backoff import RestartBackoff
from appliance.control import Client, ControlServer
from appliance.counters import Board, Slot
from appliance.errors import Exit, StreamDaemonError, Unavailable
from appliance.link import ChildEnd

PHASES = ("collector", "subscriber", "recovery", "server")
HEARTBEAT_S = {"collector": 30.0, "subscriber": 120.0, "recovery": 30.0}
ABORT_TO_KILL_S = 5.0
TICK_S_MAX = 1.0
LATE_S = 5.0  # a loop this late was stopped itself: heartbeats start anew
PHASE_GRACE_S = 5.0  # what a phase gets at least, also when drain_s is used up

_fork = multiprocessing.get_context("fork")


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

    `type` is the source's type, `may_lose` whether killing it before it handed over can lose
    records.
    """

    kind: str
    name: str
    title: str
    run: Callable[[Birth], Exit]
    type: str = ""
    may_lose: bool = False
    acceptor: Acceptor | None = None


class Server(Protocol):
    """The embedded server (see redis_server.EmbeddedServer)."""

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it; returns at once."""


@dataclass(slots=True)
class Child:
    """A wanted process and what became of it."""

    spec: ChildSpec
    slot: Slot
    process: ForkProcess | None = None
    backoff: RestartBackoff = field(default_factory=RestartBackoff)
    born: float = 0.0
    works_at_birth: int = 0
    start_at: float = 0.0
    restarts: int = 0
    done: bool = False
    told: Signals | None = None
    aborted_at: float | None = None

    @property
    def pid(self) -> int | None:
        """Its pid while it lives."""
        return self.process.pid if self.process else None


class Watchdog:
    """Runs an instance from start to end."""

    def __init__(
        self,
        name: str,
        version: str,
        specs: list[ChildSpec],
        board: Board,
        control: ControlServer,
        server: Server | None,
        drain_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._children = [Child(spec, board.slot(f"{spec.kind} {spec.name}")) for spec in specs]
        self._acceptors = [spec.acceptor for spec in specs if spec.acceptor]
        self._control = control
        self._server = server
        self._server_process: subprocess.Popen[bytes] | None = None
        self._server_backoff = RestartBackoff()
        self._server_born = self._server_start_at = 0.0
        self._drain_s = drain_s
        self._monotonic = monotonic
        self._clients: list[Client] = []
        self._stop_clients: list[Client] = []
        self._phase: int | None = None
        self._phase_began = 0.0
        self._quick = False
        self._drain_by = 0.0
        self._exit = Exit.OK
        self._looks = 0
        self._parent = os.getpid()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._identity = {"name": name, "version": version, "pid": self._parent, "since": since}
        self._log = logging.getLogger("parent")

    def run(self) -> Exit:
        """Run until stopped, or until every source has ended and all is stored."""
        wanted = {*signals.PARENT, *signals.CHILD, *signals.LATER}
        self._signals = process.SignalFd(wanted)
        self._log.info("%s started (pid %d)", self._name, self._parent)
        try:
            self._reconcile()
            while not self._finished():
                self._wait()
                self._reconcile()
        finally:
            self._kill_all()
        self._log.info("%s ended with exit code %d", self._name, self._exit)
        return self._exit

    def answer_stops(self) -> None:
        """Tell those who wait for the end; the last thing before the lock is released."""
        for client in self._stop_clients:
            client.answer({"exit": int(self._exit)})

    # ── reconcile: wanted against actual ────────────────────────────────────────────────

    def _reconcile(self) -> None:
        now = self._monotonic()
        self._reap(now)
        self._advance(now)
        self._keep_server(now)
        for child in self._children:
            if child.process:
                self._tell(child)
                self._check_heartbeat(child, now)
            elif self._is_wanted(child) and now >= child.start_at:
                self._start(child, now)

    def _is_wanted(self, child: Child) -> bool:
        if child.done:
            return False
        if self._phase is not None and PHASES.index(child.spec.kind) < self._phase:
            return False
        if child.spec.kind == "subscriber":
            # Orphans are given back once before anybody takes.
            return self._phase is None and self._recovery.slot.get("swept") > 0
        return child.spec.kind == "recovery" or self._phase is None or child.restarts > 0

    @property
    def _recovery(self) -> Child:
        return next(child for child in self._children if child.spec.kind == "recovery")

    def _of(self, kind: str) -> list[Child]:
        return [child for child in self._children if child.spec.kind == kind]

    # ── birth and death ─────────────────────────────────────────────────────────────────

    def _start(self, child: Child, now: float) -> None:
        wire = child.spec.acceptor.birth() if child.spec.acceptor else None
        child.slot.beat()
        child.born, child.told, child.aborted_at = now, None, None
        child.works_at_birth = child.slot.get("works")
        child.process = _fork.Process(target=self._in_child, args=(child, wire), daemon=False)
        child.process.start()
        if wire:
            wire.close()
        self._log.debug("%s started (pid %s)", child.spec.title, child.pid)

    def _in_child(self, child: Child, wire: ChildEnd | None) -> None:
        """The child's whole life, from fork to exit code."""
        self._close_inherited(child)
        wish = process.born(child.spec.title, self._parent, self._drain_s)
        acceptor = child.spec.acceptor
        connections = acceptor.connections if acceptor else []
        try:
            code = child.spec.run(Birth(wish, child.slot, wire, connections))
        except (StreamDaemonError, OSError) as error:
            logging.getLogger(child.spec.title).error("%s", error)
            child.slot.error(str(error))
            code = Exit.INTERNAL
        raise SystemExit(int(code))

    def _close_inherited(self, child: Child) -> None:
        """Close what is the parent's own, each by name. The lock stays, on purpose."""
        self._signals.close()
        self._control.close(unlink=False)
        for client in (*self._clients, *self._stop_clients):
            client.close()
        for acceptor in self._acceptors:
            if acceptor is child.spec.acceptor:
                acceptor.close_for_collector()
            else:
                acceptor.close_in_child()

    def _reap(self, now: float) -> None:
        died = False
        for child in self._children:
            if child.process and child.process.exitcode is not None:
                self._bury(child, child.process.exitcode, now)
                died = True
        if died:
            self._nudge_recovery()

    def _bury(self, child: Child, code: int, now: float) -> None:
        """The dead child is done, or will be started again after its backoff."""
        if child.spec.acceptor:
            child.spec.acceptor.bury()
        assert child.process
        child.process.close()
        child.process = None
        if self._was_to_end(child) and code in (Exit.OK, Exit.MAY_BE_LOST, Exit.TIMED_OUT):
            child.done = True
            self._note_exit(Exit(code))
            self._log.debug("%s ended", child.spec.title)
            return
        worked = child.slot.get("works") > child.works_at_birth
        delay_s = child.backoff.after_death(now - child.born, worked)
        child.start_at = now + delay_s
        child.restarts += 1
        self._log.warning(
            "%s died (%s); it is started again in %.1f s", child.spec.title, _cause(code), delay_s
        )

    def _was_to_end(self, child: Child) -> bool:
        """Whether it ended because it should, and not because somebody else said so."""
        return child.told is not None or child.slot.get("ended") > 0

    def _nudge_recovery(self) -> None:
        if self._recovery.pid and self._phase is None:
            os.kill(self._recovery.pid, signals.NUDGE)

    def _check_heartbeat(self, child: Child, now: float) -> None:
        assert child.pid
        silent_s = now - child.slot.get("heartbeat_ns") / 1e9
        if child.aborted_at is not None:
            if now - child.aborted_at > ABORT_TO_KILL_S:
                os.kill(child.pid, Signals.SIGKILL)
        elif silent_s > HEARTBEAT_S[child.spec.kind]:
            self._log.error("%s is silent for %.0f s: ending it", child.spec.title, silent_s)
            child.aborted_at = now
            os.kill(child.pid, Signals.SIGABRT)

    def _kill_all(self) -> None:
        """Nothing outlives the parent's own end."""
        for child in self._children:
            if child.process:
                child.process.kill()
                child.process.join()
        if self._server_process and self._server_process.poll() is None:
            self._server_process.terminate()
            self._server_process.wait()

    # ── the embedded server ─────────────────────────────────────────────────────────────

    def _keep_server(self, now: float) -> None:
        if not self._server or self._is_past("recovery"):
            return
        if self._server_process and self._server_process.poll() is not None:
            code = self._server_process.returncode
            delay_s = self._server_backoff.after_death(now - self._server_born, worked=False)
            self._log.warning(
                "valkey-server died (%s); it is started again in %.1f s", _cause(code), delay_s
            )
            self._server_process = None
            self._server_start_at = now + delay_s
        if not self._server_process and now >= self._server_start_at:
            self._start_server(now)

    def _start_server(self, now: float) -> None:
        assert self._server
        self._server_born = now
        try:
            self._server_process = self._server.start()
        except Unavailable as error:
            delay_s = self._server_backoff.after_death(0.0, worked=False)
            self._log.error("%s; tried again in %.1f s", error.message, delay_s)
            self._server_start_at = now + delay_s

    def _server_lives(self) -> bool:
        return bool(self._server_process) and self._server_process.poll() is None  # type: ignore[union-attr]

    # ── ending ──────────────────────────────────────────────────────────────────────────

    def stop(self, quick: bool) -> None:
        """Begin to stop; a second call, or quick, gives leases back instead of finishing."""
        if self._phase is not None or quick:
            self._quick = True
        if self._phase is None:
            self._log.info("stopping%s", " at once" if quick else "")
            self._drain_by = self._monotonic() + self._drain_s
            for acceptor in self._acceptors:
                acceptor.stop_listening()
            self._enter(0)

    def _enter(self, phase: int) -> None:
        self._phase = phase
        self._phase_began = self._monotonic()
        if PHASES[phase:] == ("server",) and self._server_process:
            self._server_process.terminate()

    def _is_past(self, kind: str) -> bool:
        return self._phase is not None and self._phase > PHASES.index(kind)

    def _advance(self, now: float) -> None:
        """Go to the next phase when nobody of this one is left; end what takes too long."""
        if self._phase is None:
            self._end_when_sources_have()
            return
        if self._phase >= len(PHASES):
            return
        kind = PHASES[self._phase]
        if self._left(kind):
            self._press(kind, now)
        else:
            self._enter(self._phase + 1)
            self._advance(now)

    def _left(self, kind: str) -> bool:
        if kind == "server":
            return self._server_lives()
        return any(c.process or (self._is_wanted(c) and c.restarts) for c in self._of(kind))

    def _press(self, kind: str, now: float) -> None:
        """Deadlines of the phase: quick when the time is over, KILL when that didn't help."""
        over_s = now - max(self._drain_by, self._phase_began + PHASE_GRACE_S)
        if over_s < 0:
            return
        self._quick = True
        if over_s < PHASE_GRACE_S:
            return
        for child in self._of(kind):
            if child.process:
                self._log.error("%s does not end: killing it", child.spec.title)
                child.process.kill()
            child.done = True
            self._note_exit(Exit.MAY_BE_LOST if child.spec.may_lose else Exit.TIMED_OUT)
        if kind == "server" and self._server_process:
            self._server_process.kill()

    def _note_exit(self, code: Exit) -> None:
        """The worst that happened is what we exit with."""
        severity = (Exit.OK, Exit.TIMED_OUT, Exit.MAY_BE_LOST)
        self._exit = max(self._exit, code, key=severity.index)

    def _tell(self, child: Child) -> None:
        """Ask a child of the current phase to end, once for each kind of asking."""
        if self._phase is None or PHASES.index(child.spec.kind) != self._phase:
            return
        wish = signals.QUICK if self._quick else signals.DRAIN
        if child.told != wish and child.pid:
            os.kill(child.pid, wish)
            child.told = wish

    def _finished(self) -> bool:
        return self._phase is not None and self._phase >= len(PHASES)

    def _end_when_sources_have(self) -> None:
        """Every source ended by itself: store what is queued, then stop."""
        collectors = self._of("collector")
        if not collectors or not all(child.done for child in collectors):
            return
        waiting = self._recovery.slot.get("queue_frames")
        if not self._of("subscriber"):
            self._log.info("every source has ended; %d frames wait in the queue", waiting)
            self.stop(quick=False)
        elif self._queue_seen_empty():
            self._log.info("every source has ended and everything is stored")
            self.stop(quick=False)

    def _queue_seen_empty(self) -> bool:
        """Ask recovery for a look at the queue, again and again; whether it saw it empty.

        The bytes count, too: they include a lease that was taken behind the look at the lists.
        """
        slot = self._recovery.slot
        if slot.get("looked") < self._looks:
            return False
        left = [slot.get(name) for name in ("queue_frames", "queue_busy", "queue_bytes")]
        seen_empty = self._looks > 0 and not any(left)
        self._looks += 1
        slot.set("look", self._looks)
        return seen_empty

    # ── the loop's wait ─────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        """Wait for something to do, then do it."""
        poller = select.poll()
        acts = {}
        for thing, events, act in self._interesting():
            poller.register(thing, events)
            acts[thing.fileno()] = act
        timeout_s = self._timeout_s()
        slept_at = self._monotonic()
        for fd, _events in poller.poll(timeout_s * 1000):
            acts[fd]()
        if self._monotonic() - slept_at > timeout_s + LATE_S:
            self._log.warning("the parent was stopped for a while: heartbeats start anew")
            for child in self._children:
                child.slot.beat()

    def _interesting(self) -> Iterator[tuple[Any, int, Callable[[], None]]]:
        yield self._signals, select.POLLIN, self._read_signals
        yield self._control, select.POLLIN, self._accept_client
        for client in self._clients:
            yield client, select.POLLIN, partial(self._serve, client)
        for acceptor in self._acceptors:
            yield from self._interesting_of(acceptor)

    def _interesting_of(self, acceptor: Acceptor) -> Iterator[tuple[Any, int, Callable[[], None]]]:
        if acceptor.has_room:
            for listener in acceptor.listeners:
                yield listener, select.POLLIN, partial(acceptor.accept, listener)
        wire = acceptor.wire
        if wire:
            writable = select.POLLOUT if wire.has_unsent else 0
            yield wire, select.POLLIN | writable, partial(self._use_wire, acceptor)

    def _use_wire(self, acceptor: Acceptor) -> None:
        acceptor.release_finished()
        if acceptor.wire:
            acceptor.wire.flush()

    def _timeout_s(self) -> float:
        now = self._monotonic()
        starts = [c.start_at - now for c in self._children if not c.process and not c.done]
        due = min((at for at in starts if at > 0), default=TICK_S_MAX)
        return max(0.0, min(due, TICK_S_MAX))

    def _read_signals(self) -> None:
        for received in self._signals.read():
            match signals.PARENT.get(received.signal):
                case "drain":
                    self.stop(quick=False)
                case "quick":
                    self.stop(quick=True)
                case "reap":
                    pass  # reconcile asks each process
                case None:
                    name = received.signal.name
                    self._log.warning("%s means nothing in this version: ignored", name)

    # ── control ─────────────────────────────────────────────────────────────────────────

    def _accept_client(self) -> None:
        client = self._control.accept()
        if client:
            self._clients.append(client)

    def _serve(self, client: Client) -> None:
        request = client.request()
        if request is None and not client.closed:
            return
        self._clients.remove(client)
        match (request or {}).get("verb"):
            case "status":
                client.answer(self.report())
            case "stop":
                self._stop_clients.append(client)
                self.stop(quick=bool(request and request.get("now")))
            case _:
                client.answer({"error": "unknown verb; this version knows status and stop"})

    def report(self) -> dict[str, Any]:
        """What `status --json` says."""
        states = [
            status.ChildState(
                kind=child.spec.kind,
                name=child.spec.name,
                type=child.spec.type,
                pid=child.pid,
                restarts=child.restarts,
                gauge=child.slot,
                waiting_for=child.slot.text("waiting_for"),
                last_error=child.slot.text("last_error"),
            )
            for child in self._children
        ]
        return status.report(self._identity, states, stopping=self._phase is not None)


def _cause(code: int) -> str:
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
