"""A reload: the way of a running instance from one configuration to another, step by step.

    read     the file again, and what has changed: the parent, which never waits
    look     only where the queue or the store is addressed otherwise: a child of LOOK_S at most
             asks whether they will serve; who is away is waited for, as at a start
    open     new listening sockets
    ── until here whatever fails keeps the old configuration, and nothing has been touched ──
    store    subscribers are replaced behind their leases, and recovery leaves new spools alone
    collect  addresses change, collectors are replaced, new ones begin, those that are gone drain
    spools   recovery takes over the spools of those that are gone

Subscribers go first, so that nobody stores a new source's records by old rules. A collector ends
before its successor is forked, which inherits its connections: no sender notices. What a stage
asks for and doesn't get within drain_s is ended as in a stop. One reload at a time: those that
are asked for meanwhile are one more afterwards. A stop ends it where it stands.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from appliance import process, signals
from appliance.child import Child, ChildSpec
from appliance.control import Client
from appliance.counters import SLOTS_MAX, Slot
from appliance.errors import ConfigError, Exit, StreamDaemonError
from appliance.herald import Herald
from appliance.reload import Plan
from appliance.texts import printable

LOOK_S = 10.0
STAGE_GRACE_S = 5.0  # behind drain_s, for who was told to be quick then
CLIENTS_MAX = 256  # who wait for the outcome; the oldest of more is told nothing
VERDICT_BYTES_MAX = 4096  # what a pipe takes at once (pipe(7), PIPE_BUF)
STOPPING = "it is stopping: nothing was reloaded"

_fork = multiprocessing.get_context("fork")
_log = logging.getLogger("parent")


class Candidate(Protocol):
    """A configuration that was read and is valid, and what its children are made of."""

    plan: Plan
    drain_s: float

    def look(self) -> None:
        """In a process of its own: raise what keeps queue or store from ever serving."""

    def open(self) -> None:
        """Open new listening sockets, all or (it raises) none."""

    def close(self) -> None:
        """Close what was opened and isn't used."""

    def close_in_child(self) -> None:
        """The same for the copies of a child that was forked meanwhile."""

    def take_over(self) -> None:
        """It is the configuration from now on."""

    def relisten(self, removed: list[Child]) -> None:
        """Listen where it says; those who wait at the old addresses are taken."""

    def collector(self, name: str) -> ChildSpec:
        """The collector of a source."""

    def subscriber(self, number: str) -> ChildSpec:
        """The subscriber with this number."""

    @property
    def subscribers(self) -> int:
        """How many are wanted."""

    def recovery(self, last: bool) -> ChildSpec:
        """Recovery, while collectors of removed sources may live, and afterwards (`last`)."""


class Home(Protocol):
    """What a reload asks of the watchdog."""

    def of(self, kind: str) -> list[Child]:
        """The children of this kind."""

    def adopt(self, spec: ChildSpec) -> Child:
        """Want one child more."""

    def dismiss(self, child: Child) -> None:
        """One has ended for good: nothing of it stays."""

    def work_by(self, candidate: Candidate) -> None:
        """What the watchdog itself goes by."""

    def close_in_look(self) -> None:
        """In a child that only looks: close all that is the parent's own."""


class Look:
    """A child that looks whether a configuration's queue and store will serve."""

    def __init__(
        self, title: str, look: Callable[[], None], close_inherited: Callable[[], None], now: float
    ) -> None:
        self._read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._ends_at = now + LOOK_S
        target = (title, os.getpid(), look, close_inherited, write)
        self._process = _fork.Process(target=_look, args=target)
        try:
            self._process.start()
        except OSError:
            os.close(self._read)
            raise
        finally:
            os.close(write)

    def verdict(self, now: float) -> str | None:
        """Why it will not serve, empty if nothing is known against it; None while it looks."""
        code = self._process.exitcode
        if code is None and now < self._ends_at:
            return None
        if code is None:
            _log.warning("queue or store say nothing within %g s: they are waited for", LOOK_S)
            self.end()
            return ""
        said = os.read(self._read, VERDICT_BYTES_MAX).decode(errors="replace") if code else ""
        self.end()
        return said or ("" if code == 0 else f"the look at queue and store died ({code})")

    def end(self) -> None:
        """End it; nobody wants to know any more."""
        self._process.kill()
        self._process.join()
        self._process.close()
        os.close(self._read)

    def close_in_child(self) -> None:
        """Another child has nothing to do with it."""
        os.close(self._read)


def _look(
    title: str,
    parent: int,
    look: Callable[[], None],
    close_inherited: Callable[[], None],
    write: int,
) -> None:
    close_inherited()
    process.born_to_look(title, parent)
    try:
        look()
    except StreamDaemonError as error:
        said = "\n".join(map(printable, str(error).split("\n")))  # a server's words may be in it
        os.write(write, said.encode()[:VERDICT_BYTES_MAX])
        raise SystemExit(int(Exit.CONFIG)) from None


class Reloading:
    """At most one reload at a time; `step` brings it on, at each turn of the parent's loop."""

    def __init__(
        self,
        title: str,
        read: Callable[[], Candidate],
        home: Home,
        slot: Slot,
        herald: Herald,
    ) -> None:
        self._title = title
        self._read = read
        self._home = home
        self._slot = slot
        self._herald = herald
        self._asked = False
        self._clients: list[Client] = []  # of this reload
        self._next_clients: list[Client] = []
        self._new: Candidate | None = None
        self._look: Look | None = None
        self._stages: Iterator[list[Child]] = iter(())
        self._awaited: list[Child] = []
        self._stage_began = 0.0

    def ask(self, client: Client | None = None) -> None:
        """Reload, or once more when what is under way is over."""
        self._asked = True
        if client:
            self._next_clients.append(client)
        if len(self._next_clients) > CLIENTS_MAX:
            self._next_clients.pop(0).close()

    def step(self, now: float) -> None:
        """Do what can be done now."""
        if self._new is None and self._asked:
            self._begin(now)
        if self._look and (verdict := self._look.verdict(now)) is not None:
            self._look = None
            if verdict:
                self._keep(verdict)
            else:
                self._go(now)
        if self._new and not self._look:
            self._advance(now)

    def abort(self) -> None:
        """A stop goes first: children that are being replaced still get their successors."""
        if self._look:
            self._look.end()
        if self._new:
            self._new.close()
            _log.warning("a reload was under way: it ends here")
        self._asked, self._new, self._look = False, None, None
        for client in (*self._clients, *self._next_clients):
            client.answer({"error": STOPPING, "exit": int(Exit.NOT_RUNNING)})
        self._clients, self._next_clients = [], []

    def close_in_child(self) -> None:
        """In a new child: close what is a reload's own."""
        for client in (*self._clients, *self._next_clients):
            client.close()
        if self._look:
            self._look.close_in_child()
        if self._new:
            self._new.close_in_child()

    # ── read, look, open ────────────────────────────────────────────────────────────────

    def _begin(self, now: float) -> None:
        self._asked = False
        self._clients, self._next_clients = self._next_clients, []
        self._herald.reloading()
        try:
            self._new = new = self._read()
            plan = new.plan
            if len(self._all()) + len(plan.added) >= SLOTS_MAX:
                text = f"{len(plan.added)} sources are too many at once beside those that there are"
                raise ConfigError(text, "reload twice: first without those that are to go")
            if not plan.changes:
                self._end("nothing has changed", ())
            elif plan.asks_queue or plan.asks_store:
                self._look = Look(self._title, new.look, self._home.close_in_look, now)
            else:
                self._go(now)
        except StreamDaemonError as error:
            self._keep(str(error))
        except OSError as error:
            self._keep(f"no process to look at queue and store: {error.strerror}")

    def _go(self, now: float) -> None:
        """From here on there is no way back."""
        assert self._new
        try:
            self._new.open()
        except StreamDaemonError as error:
            self._keep(str(error))
            return
        self._new.take_over()
        self._home.work_by(self._new)
        self._stages, self._awaited = self._swap(self._new), []
        self._advance(now)

    def _keep(self, why: str) -> None:
        """Nothing has changed; said to all who may want to know."""
        self._new = None
        line = why.replace("\n  → ", " → ")
        text = f"the old configuration is kept: {line}"
        _log.error("%s", text)
        self._slot.error(text)
        self._herald.ready(text)
        self._answer({"error": why, "exit": int(Exit.CONFIG)})

    def _end(self, said: str, changes: tuple[str, ...]) -> None:
        self._new = None
        text = f"{said}: {', '.join(changes)}" if changes else said
        _log.info("%s", text)
        self._herald.ready(text)
        self._answer({"said": said, "changed": list(changes), "exit": int(Exit.OK)})

    def _answer(self, answer: dict[str, object]) -> None:
        for client in self._clients:
            client.answer(answer)
        self._clients = []

    # ── children ────────────────────────────────────────────────────────────────────────

    def _all(self) -> list[Child]:
        return [c for kind in ("recovery", "collector", "subscriber") for c in self._home.of(kind)]

    def _advance(self, now: float) -> None:
        assert self._new
        while all(map(_is_settled, self._awaited)):
            awaited = next(self._stages, None)
            if awaited is None:
                self._end("reloaded", self._new.plan.changes)
                return
            self._awaited, self._stage_began = awaited, now
        self._press(now - self._stage_began - self._new.drain_s)

    def _swap(self, new: Candidate) -> Iterator[list[Child]]:
        """Stage by stage, whom to wait for."""
        storing = self._replace_who_store(new) if new.plan.subscribers else []
        recovery = self._replace_recovery(new, False) if new.plan.recovery else []
        yield [*storing, *recovery]
        removed = [c for c in self._home.of("collector") if c.spec.name in new.plan.removed]
        new.relisten(removed)
        yield self._replace_who_collect(new, removed)
        for child in removed:
            self._home.dismiss(child)
        if removed:
            yield self._replace_recovery(new, True)

    def _replace_who_store(self, new: Candidate) -> list[Child]:
        living = [child for child in self._home.of("subscriber") if not child.retired]
        for child in living:
            child.replace(new.subscriber(child.spec.name), signals.DRAIN)
        return living

    def _replace_recovery(self, new: Candidate, last: bool) -> list[Child]:
        recovery = self._home.of("recovery")
        for child in recovery:
            child.replace(new.recovery(last), signals.DRAIN)
        return recovery

    def _replace_who_collect(self, new: Candidate, removed: list[Child]) -> list[Child]:
        collectors = self._home.of("collector")
        changed = [child for child in collectors if child.spec.name in new.plan.collectors]
        for child in changed:
            is_redialled = child.spec.name in new.plan.redialled
            how = signals.DRAIN if is_redialled else signals.LEAVE
            child.replace(new.collector(child.spec.name), how)
        for child in removed:
            child.remove()
        for name in new.plan.added:
            self._home.adopt(new.collector(name))
        return [*changed, *removed]

    def _press(self, over_s: float) -> None:
        """What takes too long is told to be quick, and killed when that didn't help."""
        if over_s < 0:
            return
        for child in self._awaited:
            if _is_settled(child):
                continue
            child.parting = signals.QUICK
            if over_s >= STAGE_GRACE_S:
                _log.error("%s does not end: killing it", child.spec.title)
                child.end_parting()


def _is_settled(child: Child) -> bool:
    return child.parting is None or (child.done and not child.pid)
