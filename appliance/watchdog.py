"""The parent: forks the children, restarts the dead, ends them in order. And accepts.

It has no threads and never speaks to Redis or the store, so nothing of theirs can hold it
up. One loop: compare what is wanted with what is there and close the gap, then wait for a
signal (signalfd), a connection, a control request or the next deadline.

A child is wanted until it has exited with 0, which it does when its source ended or when it
was told to stop. Stopping goes through PHASES one after the other: collectors hand over,
subscribers finish their lease, recovery sweeps, the server goes last. One subscriber more or
fewer, or none that stores for a while, is wanted by signal (see signals.py). The parent never
calls waitpid(-1), which would make `is_alive` lie: it asks each process.
"""

import json
import logging
import os
import select
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cached_property, partial
from signal import Signals
from typing import Any

from appliance import logs, process, signals, status
from appliance.acceptor import Acceptor
from appliance.child import Child, ChildSpec, Server, Startable
from appliance.contracts import NO_RECORD, Holder, NoHolder, NoManager, ServiceManager
from appliance.control import CLIENTS_MAX, Client, ControlServer
from appliance.counters import SLOTS_MAX, Board, Slot
from appliance.deaths import Deaths
from appliance.errors import ConfigError, Exit
from appliance.herald import Herald
from appliance.keeping import Keeping
from appliance.rates import Rates
from appliance.reloading import STOPPING, Candidate, Reloading
from appliance.settings import SUBSCRIBERS_LIMIT

SEVERITY = (Exit.OK, Exit.TIMED_OUT, Exit.MAY_BE_LOST, Exit.TAKEN)
PHASES = ("collector", "subscriber", "recovery", "server")
TICK_S_MAX = 1.0
START_TICK_S_MAX = 0.05  # nothing wakes us when a child has done its first step
START_S = 5.0  # and for so long it is looked for so often
ASK_TO_LOOK_S = 1.0  # between two looks at the queue: each goes through all keys of its server
LATE_S = 5.0  # a loop this late was stopped itself: heartbeats start anew
ADMIT_S = 5.0  # so long senders wait for the queue to say that nobody else collects a source
STOP_CLIENTS_MAX = 256  # who wait for the end; the oldest of more is told nothing
PHASE_GRACE_S = 5.0  # what a phase gets at least, also when drain_s is used up


class Watchdog:
    """Runs an instance from start to end."""

    def __init__(
        self,
        name: str,
        version: str,
        specs: list[ChildSpec],
        board: Board,
        control: ControlServer,
        server: Startable | None,
        drain_s: float,
        subscriber: Callable[[str], ChildSpec],
        deaths: Deaths,
        monotonic: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        healthy_s: float | None = None,
        *,
        holder: Holder | None = None,
        manager: ServiceManager | None = None,
        keeping: Keeping | None = None,
        read: Callable[[], Candidate] | None = None,
        took_over: bool = False,
    ) -> None:
        self._name = name
        self._took_over = took_over  # sockets of a predecessor, with all who are connected
        self._holder = holder or keeping or NoHolder()
        self._keeping = keeping
        self._manager = manager or NoManager()
        self._herald = Herald(self._manager)
        self._board = board
        self._slot = board.slot("parent")  # its own numbers
        self._children = [self._child(spec) for spec in specs]
        self._exits = [Exit.OK]  # of children that are gone for good
        self._control = control
        self._server = Server(server) if server else None
        self._drain_s = drain_s
        self._subscriber = subscriber  # makes one with this number
        self._deaths = deaths
        self._paused = False
        # Until when queue and store have to be reached; None once they are, or may be away.
        self._healthy_by = None if healthy_s is None else monotonic() + healthy_s
        self._reached = False
        self._began = monotonic()
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._rates = Rates()
        self._clients: list[Client] = []
        self._stop_clients: list[Client] = []
        self._phase: int | None = None
        self._phase_began = 0.0
        self._quick = False
        self._leaving = False
        self._refused = False
        self._drain_by = 0.0
        self._works = 0  # pieces of work that were finished when a look was last asked for
        self._look_at = 0.0  # before that none is asked for again
        self._looks = 0
        self._last_look = 0  # the newest that was asked for since every source has ended
        self._turned_at = monotonic()
        self._parent = os.getpid()
        self._reloading = Reloading(
            f"stream-daemon {name} reload",
            read or _nothing_to_read,
            self,
            self._slot,
            self._herald,
        )
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._identity = {"name": name, "version": version, "pid": self._parent, "since": since}
        self._log = logging.getLogger("parent")
        if keeping:
            keeping.changed = self._say_kept

    def run(self) -> Exit:
        """Run until stopped, or until every source has ended and all is stored."""
        logs.speaks_as("parent", "", self._slot)
        wanted = {*signals.PARENT, *signals.CHILD}
        self._signals = process.SignalFd(wanted)
        self._log.info("%s started (pid %d)", self._name, self._parent)
        try:
            self._reconcile()
            while not self._finished():
                self._wait()
                self._reconcile()
        finally:
            self._kill_all()
        self._log.info("%s ended with exit code %d", self._name, self.exit)
        return self.exit

    @property
    def exit(self) -> Exit:
        """How it ended so far: the worst that happened to a child."""
        exits = [*self._exits, *(child.exit for child in self._children)]
        worst = max(exits, key=SEVERITY.index)
        return Exit.UNREACHABLE if worst is Exit.OK and self._refused else worst

    def answer_stops(self) -> None:
        """Tell those who wait for the end; the last thing before the lock is released."""
        for client in self._stop_clients:
            client.answer({"exit": int(self.exit)})

    # ── reconcile: wanted against actual ────────────────────────────────────────────────

    def _reconcile(self) -> None:
        now = self._monotonic()
        self._forgive_silence(now)
        self._rates.sample(now, status.counters_of(self._states()))
        self._look_at_health(now)
        died = [child for child in self._children if child.reap(now)]
        if died and self._phase is None:
            self._report_deaths(died)
            self._recovery.slot.add("died", len(died))
            self._recovery.nudge()
            self._end_when_refused(died)
        if self._phase is None:
            self._reloading.step(now)
        self._advance(now)
        works = sum(child.slot.get("works") for child in self._children)
        if self._server and not self._is_past("recovery"):
            self._server.keep(now, works)
        if works != self._works and now >= self._look_at:  # many senders may wake us all the time
            self._works, self._look_at = works, now + ASK_TO_LOOK_S
            self._ask_for_look()
        if self._keeping and not self._finished():
            self._keeping.turn(now, self._close_in_keeper)
        self._say_kept(self._holder.holds)
        for child in self._children:
            if child.pid:
                self._ask(child)
                child.check_heartbeat(now)
            elif self._is_wanted(child) and now >= child.start_at:
                child.start(now, self._drain_s, self._close_inherited)
                self._ask(child)  # in a stop, too, it shall not begin with anything new
        self._herald.turned(now, self._phase is not None, self.report)

    def _forgive_silence(self, now: float) -> None:
        """Who didn't beat while this loop itself was stopped is not to blame."""
        if now - self._turned_at > TICK_S_MAX + LATE_S:
            self._log.warning("the parent was stopped for a while: heartbeats start anew")
            for child in self._children:
                child.slot.beat()
        self._turned_at = now

    def _look_at_health(self, now: float) -> None:
        """Note that queue and store were reached; or, with `require_healthy`, end without them."""
        if self._reached or self._phase is not None:
            return
        self._reached = status.reached(self._states())
        if self._reached:
            self._healthy_by = None
        elif self._healthy_by is not None and now >= self._healthy_by:
            awaited = status.awaited(self.report()) or ["an answer"]
            self._log.error("require_healthy: still waiting for %s", "; ".join(awaited))
            self._refused = True
            self.stop(quick=True, leave=self._took_over)

    def _is_wanted(self, child: Child) -> bool:
        if child.done or child.retired:
            return False
        if self._phase is not None and PHASES.index(child.spec.kind) < self._phase:
            return False
        if child.spec.kind == "subscriber":
            return self._phase is None and self._may_take
        if child.spec.kind == "collector" and self._healthy_by is not None:
            return False  # nothing is taken in before it is known that all of it is there
        return child.spec.kind == "recovery" or self._phase is None or child.began

    @property
    def _may_take(self) -> bool:
        """Whether subscribers may begin.

        Orphans are given back once before anybody takes. And an instance that is going to be
        refused leaves no trace in the queue, so each collector has been the only one of its
        source (or has died of something else, which is no reason to store nothing); only where
        collectors wait until queue and store were reached, subscribers come first.
        """
        if self._recovery.slot.get("swept") == 0:
            return False
        came = (c.slot.get("attached") or c.restarts or c.done for c in self._of("collector"))
        return self._healthy_by is not None or all(came)

    @property
    def _recovery(self) -> Child:
        return next(child for child in self._children if child.spec.kind == "recovery")

    def _child(self, spec: ChildSpec) -> Child:
        return Child(spec, self._board.slot(_owner(spec)))

    def _of(self, kind: str) -> list[Child]:
        return [child for child in self._children if child.spec.kind == kind]

    def _report_deaths(self, died: list[Child]) -> None:
        """For recovery: of what those died that had work in hand. Before it gives that back."""
        for child in died:
            if child.death:
                self._deaths.report(child.death)
                frame = child.death.frame or "several frames"
                self._log.warning("%s had %s in hand", child.spec.title, frame)

    def _close_inherited(self, own: Child | None) -> None:
        """In a new child: close what is the parent's own, by name. The lock stays, on purpose."""
        self._signals.close()
        self._control.close(unlink=False)
        if self._keeping:
            self._keeping.close_in_child()
        for client in (*self._clients, *self._stop_clients):
            client.close()
        self._reloading.close_in_child()
        for child in self._children:
            if child.spec.acceptor and child is own:
                child.spec.acceptor.close_for_collector()
            elif child.spec.acceptor:
                child.spec.acceptor.close_in_child()

    def _close_in_keeper(self) -> None:
        """In the keeper: close what is the parent's own, by name, but for what is to be held."""
        logs.speaks_as("keeper", "", self._slot)
        self._signals.close()
        self._control.close(unlink=False)
        for client in (*self._clients, *self._stop_clients):
            client.close()
        self._reloading.close_in_child()
        for child in self._children:
            if child.spec.acceptor:
                child.spec.acceptor.close_in_keeper()

    def _say_kept(self, holds: bool) -> None:
        """Tell the collectors whether their connections would outlive us, for somebody to go on.

        In a stop that ends them nobody will: it is finished also when we are killed in it.
        """
        ends = self._phase is not None and not self._leaving
        for child in self._children:
            child.slot.set("kept", holds and not ends and _may_leave(child))

    def _kill_all(self) -> None:
        """Nothing outlives the parent's own end."""
        for child in self._children:
            child.kill()
            child.join()
        if self._server and self._server.lives:
            self._server.terminate()
            self._server.join()

    # ── how many subscribers store, and whether ─────────────────────────────────────────

    @property
    def _subscribers(self) -> list[Child]:
        """Those that are wanted, the newest last."""
        return [child for child in self._of("subscriber") if not child.retired]

    def _one_more(self) -> bool:
        """Want one subscriber more, under the lowest number that nobody has (any more)."""
        known = {child.spec.name: child for child in self._of("subscriber")}
        numbers = map(str, range(1, SUBSCRIBERS_LIMIT + 1))
        number = next((n for n in numbers if n not in known or known[n].gone), None)
        if number is None or (number not in known and len(self._children) + 1 >= SLOTS_MAX):
            self._log.warning("no room for one subscriber more")
            return False
        child = known.get(number)
        if child:
            child.want_again(self._subscriber(number))
            self._children.remove(child)
        else:
            child = self._child(self._subscriber(number))
        child.slot.set("paused", self._paused)
        self._children.append(child)
        self._log.info("one subscriber more: %d", len(self._subscribers))
        return True

    def _one_fewer(self) -> None:
        """The newest subscriber finishes its lease and isn't wanted any more."""
        if not self._subscribers:
            self._log.warning("there is no subscriber left to end")
            return
        self._subscribers[-1].retired = True
        self._log.info("one subscriber fewer: %d", len(self._subscribers))

    def _pause(self, paused: bool) -> None:
        """Ask the subscribers to take nothing, or to go on; collectors never notice."""
        if paused != self._paused:
            self._log.info("storing %s", "is paused; CONT resumes it" if paused else "goes on")
        self._paused = paused
        for child in self._of("subscriber"):
            child.slot.set("paused", paused)
            child.nudge()

    # ── another configuration (protocol: reloading.Home) ────────────────────────────────

    def of(self, kind: str) -> list[Child]:
        """The children of this kind."""
        return self._of(kind)

    def adopt(self, spec: ChildSpec) -> Child:
        """Want one child more.

        Another instance that collects its source already is waited for: no reason to end this one.
        """
        child = self._child(spec)
        child.slot.set("attached", 1)
        self._children.append(child)
        return child

    def dismiss(self, child: Child) -> None:
        """One has ended for good: nothing of it stays."""
        self._exits.append(child.exit)
        self._children.remove(child)
        if child.spec.acceptor:
            child.spec.acceptor.close()
        self._board.free(_owner(child.spec))

    def work_by(self, candidate: Candidate) -> None:
        """What the watchdog itself goes by; the number of subscribers, where that has changed."""
        logs.speaks_as("parent", "", self._slot)  # the log may go elsewhere now
        self._drain_s, self._subscriber = candidate.drain_s, candidate.subscriber
        if self._keeping and candidate.plan.relogged:
            self._keeping.renew()
        if not candidate.plan.resized:
            return
        while len(self._subscribers) > candidate.subscribers:
            self._one_fewer()
        while len(self._subscribers) < candidate.subscribers and self._one_more():
            pass

    def close_in_look(self) -> None:
        """In a child that only looks: close all that is the parent's own."""
        self._close_inherited(None)

    # ── ending ──────────────────────────────────────────────────────────────────────────

    def stop(self, quick: bool, leave: bool = False) -> None:
        """Begin to stop; a second call, or quick, gives leases back instead of finishing.

        `leave`: whoever holds our sockets keeps them for the next start, and no sender notices.
        """
        if self._phase is not None or quick:
            self._quick = True
        if self._phase is None:
            self._reloading.abort()
            self._leaving = leave and self._holder.holds
            for_next = ", connections are left to the next start" if self._leaving else ""
            self._log.info("stopping%s%s", " at once" if quick else "", for_next)
            self._drain_by = self._monotonic() + self._drain_s
            self._herald.stops()
            if not self._leaving:
                self._stop_listening()
            self._enter(0)

    def _stop_listening(self) -> None:
        for child in self._of("collector"):
            if child.spec.acceptor:
                is_ours = child.began and child.exit is not Exit.TAKEN
                child.spec.acceptor.stop_listening(take=is_ours)

    def _end_when_refused(self, died: list[Child]) -> None:
        """Another instance collects what one of ours was to collect: this one isn't to run."""
        if any(child.exit is Exit.TAKEN for child in died):
            self.stop(quick=True)

    def _enter(self, phase: int) -> None:
        self._phase = phase
        self._phase_began = self._monotonic()
        if self._keeping and self._is_past("collector") and not self._leaving:
            self._keeping.end()  # nobody shall go on with what is left of connections
        if PHASES[phase:] == ("server",) and self._server:
            self._server.terminate()

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
            return self._server is not None and self._server.lives
        return any(c.pid or (self._is_wanted(c) and c.began) for c in self._of(kind))

    def _press(self, kind: str, now: float) -> None:
        """Deadlines of the phase: quick when the time is over, KILL when that didn't help."""
        over_s = now - max(self._drain_by, self._phase_began + PHASE_GRACE_S)
        if over_s < 0:
            return
        self._quick = True
        if over_s < PHASE_GRACE_S:
            return
        for child in self._of(kind):
            if child.done and not child.pid:
                continue
            if child.pid and not child.done:
                self._log.error("%s does not end: killing it", child.spec.title)
                child.kill()
            loses = child.spec.may_lose and self._request_to(child) is not signals.LEAVE
            child.give_up(Exit.MAY_BE_LOST if loses else Exit.TIMED_OUT)
        if kind == "server" and self._server:
            self._server.kill()

    def _ask(self, child: Child) -> None:
        """Ask a child of the current phase to end, or one that isn't wanted as it is."""
        if self._phase is not None and PHASES.index(child.spec.kind) == self._phase:
            child.ask(self._request_to(child))
        elif child.parting:
            child.ask(child.parting)
        elif child.retired:
            child.ask(self._request_to(child))

    def _request_to(self, child: Child) -> Signals:
        """How it is to end."""
        if self._leaving and _may_leave(child):
            return signals.LEAVE
        return signals.QUICK if self._quick else signals.DRAIN

    def _finished(self) -> bool:
        return self._phase is not None and self._phase >= len(PHASES)

    def _end_when_sources_have(self) -> None:
        """Every source ended by itself: store what is queued, then stop."""
        collectors = self._of("collector")
        if not collectors or not all(child.done for child in collectors):
            self._last_look = 0
            return
        waiting = self._recovery.slot.get("queue_frames")
        if not self._subscribers:
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
        if slot.get("looked") < self._last_look:
            return False
        left = [slot.get(name) for name in ("queue_frames", "queue_busy", "queue_bytes")]
        seen_empty = self._last_look > 0 and not any(left)
        self._last_look = self._ask_for_look()
        return seen_empty

    def _ask_for_look(self) -> int:
        """Have recovery look at the queue now; the number under which it will have done so."""
        self._looks += 1
        self._recovery.slot.set("look", self._looks)
        self._recovery.nudge()
        return self._looks

    # ── the loop's wait ─────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        """Wait for something to do, then do it."""
        poller = select.poll()
        acts = {}
        for thing, events, act in self._interesting():
            poller.register(thing, events)
            acts[thing.fileno()] = act
        for fd, _events in poller.poll(self._timeout_s() * 1000):
            acts[fd]()

    def _interesting(self) -> Iterator[tuple[Any, int, Callable[[], None]]]:
        yield self._signals, select.POLLIN, self._read_signals
        yield self._control, select.POLLIN, self._accept_client
        for client in self._clients:
            yield client, select.POLLIN, partial(self._serve, client)
        if self._keeping and self._keeping.wire:
            yield self._keeping.wire, self._keeping.wire.events, self._keeping.hear
        for child in self._of("collector"):
            if child.spec.acceptor:
                yield from self._interesting_of(child.spec.acceptor, self._admits(child))

    def _interesting_of(
        self, acceptor: Acceptor, admits: bool
    ) -> Iterator[tuple[Any, int, Callable[[], None]]]:
        if admits and acceptor.has_room and not self._leaving:
            for listener in acceptor.listeners:
                yield listener, select.POLLIN, partial(acceptor.accept, listener)
        wire = acceptor.wire
        if wire:
            writable = select.POLLOUT if wire.has_unsent else 0
            yield wire, select.POLLIN | writable, partial(self._use_wire, acceptor)

    def _admits(self, collector: Child) -> bool:
        """Whether senders are let in: where another instance collects, they would be sent away.

        A queue that is away says nothing; then they are let in.
        """
        if self._healthy_by is not None or collector.exit is Exit.TAKEN:
            return False
        known = collector.slot.get("attached") > 0
        return known or self._monotonic() >= self._began + ADMIT_S

    def _use_wire(self, acceptor: Acceptor) -> None:
        acceptor.hear()
        if acceptor.wire:
            acceptor.wire.flush()

    def _timeout_s(self) -> float:
        now = self._monotonic()
        starts = [c.start_at - now for c in self._children if not c.pid and not c.done]
        if self._keeping and self._keeping.pid is None and self._keeping.wanted:
            starts.append(self._keeping.start_at - now)
        due = min((at for at in starts if at > 0), default=TICK_S_MAX)
        is_known = self._reached and all(map(self._admits, self._of("collector")))
        is_starting = not is_known and now < self._began + START_S
        return max(0.0, min(due, START_TICK_S_MAX if is_starting else TICK_S_MAX))

    def _read_signals(self) -> None:
        # The kernel gives the lower number first, and what an announcement is about is TERM.
        for received in sorted(self._signals.read(), key=lambda one: one.signal != signals.URGENT):
            if received.code <= 0 or received.signal not in signals.PROCESS_ONLY:
                self._obey(received.signal)

    def _obey(self, number: Signals) -> None:
        act = self._acts.get(signals.PARENT.get(number, ""))
        if act:
            act()
        else:
            self._log.warning("%s means nothing to the parent: ignored", number.name)

    @cached_property
    def _acts(self) -> dict[str, Callable[[], object]]:
        """What the words of signals.PARENT stand for."""
        return {
            "drain": lambda: self.stop(quick=False, leave=self._manager.comes_back()),
            "quick": lambda: self.stop(quick=True),
            "more": self._one_more,
            "fewer": self._one_fewer,
            "pause": lambda: self._pause(True),
            "resume": lambda: self._pause(False),
            "report": self._log_report,
            "reopen": lambda: self._log.info("the log goes to %s (USR1)", logs.reopen()),
            "reload": self._reload,
            "restart follows": self._manager.restart_follows,
            "reap": lambda: None,  # reconcile asks each process
        }

    def _reload(self) -> None:
        if self._phase is None:
            self._reloading.ask()
        else:
            self._log.warning("%s", STOPPING)

    # ── control ─────────────────────────────────────────────────────────────────────────

    def _accept_client(self) -> None:
        client = self._control.accept()
        if client:
            self._clients.append(client)
        if len(self._clients) > CLIENTS_MAX:  # the oldest has said nothing for longest
            self._clients.pop(0).close()

    def _serve(self, client: Client) -> None:
        if client.closed:  # a moment ago, to make room
            return
        request = client.request()
        if request is None and not client.closed:
            return
        self._clients.remove(client)
        match (request or {}).get("verb"):
            case "status":
                client.answer(self.report())
            case "stop":
                now = bool(request and request.get("now"))
                leave = bool(request and request.get("leave"))
                if leave and self._phase is None and self._would_cut:
                    client.answer({"error": "its keeper doesn't hold its connections now"})
                    return
                self._stop_clients.append(client)
                if len(self._stop_clients) > STOP_CLIENTS_MAX:
                    self._stop_clients.pop(0).close()
                if now or self._phase is None:  # who only waits, too, doesn't hasten it
                    self.stop(now, leave)
            case "reload" if self._phase is None:
                self._reloading.ask(client)
            case "reload":
                client.answer({"error": STOPPING, "exit": int(Exit.NOT_RUNNING)})
            case _:
                client.answer({"error": "unknown verb; this version knows status, stop, reload"})

    def report(self) -> dict[str, Any]:
        """What `status --json` says."""
        return status.report(
            self._identity,
            self._states(),
            stopping=self._phase is not None,
            paused=self._paused,
            per_s=self._rates.per_s,
            now=self._wall_clock(),
            log=self._log_state(),
            keeper=self._keeper_report(),
        )

    def _log_state(self) -> status.Log:
        slots = [self._slot, *(child.slot for child in self._children)]
        return status.Log(
            lost=sum(slot.get("log_lost") for slot in slots),
            error=next(filter(None, (slot.text("log_error") for slot in slots)), ""),
            last_error=self._slot.text("last_error"),
            last_error_at=self._slot.get("error_s"),
        )

    @property
    def _would_cut(self) -> bool:
        """Whether there are sockets that our keeper doesn't hold now."""
        return bool(self._keeping and self._keeping.size and not self._keeping.holds)

    def _keeper_report(self) -> dict[str, Any] | None:
        keeping = self._keeping
        if keeping is None:
            return None
        return {
            "pid": keeping.pid,
            "restarts": keeping.restarts,
            "sockets": keeping.size,
            "holds": keeping.holds,
        }

    def _states(self) -> list[status.ChildState]:
        return [
            status.ChildState(
                kind=child.spec.kind,
                name=child.spec.name,
                type=child.spec.type,
                pid=child.pid,
                restarts=child.restarts,
                gauge=child.slot,
                waiting_for=self._awaited_by(child),
                refusing=child.slot.text("refusing"),
                last_error=child.slot.text("last_error"),
                last_error_at=child.slot.get("error_s"),
                held=child.spec.held,
                retired=child.retired,
                alone=_alone(child.slot),
            )
            for child in self._children
        ]

    def _awaited_by(self, child: Child) -> str:
        """What it waits for; while the server isn't started, recovery can't know why."""
        server_waits_for = self._server.waiting_for if self._server else ""
        said = child.slot.text("waiting_for")
        return (server_waits_for or said) if child.spec.kind == "recovery" else said

    def _log_report(self) -> None:
        """Log the report as one line of JSON. Whoever asks for it gets it, at any log level."""
        text = json.dumps(self.report())
        self._log.handle(
            self._log.makeRecord(
                self._log.name, logging.INFO, __file__, 0, text, (), None, extra=logs.WHOLE
            )
        )


def _owner(spec: ChildSpec) -> str:
    """Whose slot it is."""
    return f"{spec.kind} {spec.name}"


def _may_leave(child: Child) -> bool:
    """Whether a successor could go on with what it reads: the kernel holds it, and neither its
    source is gone nor the server that was dialled another one by now.
    """
    is_held = child.spec.acceptor is not None and child.spec.held
    return is_held and child.parting is not signals.DRAIN


def _nothing_to_read() -> Candidate:
    raise ConfigError("no configuration file to read again", "stop and start the instance")


def _alone(slot: Slot) -> str:
    """The name of the frame that this child goes through record by record; empty if none."""
    held = slot.held()
    return held[1] if held and held[2] != NO_RECORD else ""
