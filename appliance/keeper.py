"""The keeper: holds duplicates of our sockets, so that a killed parent cuts no sender.

It reads nothing, decides nothing and has nothing to do while all goes well. The parent tells it
of each listening socket and each connection (keeper_wire.py), so there are two holders, of which
any one may be killed: a new keeper inherits everything from the parent at fork, a new parent gets
everything from the keeper. When the parent is gone, killed or because it has left, the keeper
waits KEEP_S for the next `collect`, then lets go of everything and ends.

It holds neither the instance's lock nor any other file, and survives what ends a whole group of
processes: it is in a session of its own.
"""

import logging
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.fdnames import Inherited
from appliance.keeper_wire import (
    ALIVE,
    ALL,
    END,
    GIVE,
    KEEP,
    MINE,
    RELEASE,
    Door,
    Heard,
    Legacy,
    Wire,
)

KEEP_S = 60.0  # cron's `collect --if-needed` comes once a minute
CALLERS_MAX = 16  # one successor, and who waits; the oldest of more is cut
RETRY_S = 0.1  # until what a successor's wire didn't take is sent again

Forget = Callable[[list[Any]], None]
"""Closes listening sockets for good, with their files."""


class Keeper:
    """Holds what it is told to hold, until somebody else does or nobody has come for KEEP_S.

    `kept` is what it inherits from the parent, by name. `legacy` is what the parent itself was
    given by an older keeper, which may end as soon as this one can be found.
    """

    def __init__(
        self,
        kept: dict[str, Any],
        parent: Wire,
        path: Path,
        forget: Forget,
        legacy: Legacy,
        keep_s: float = KEEP_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kept = kept
        self._parent = parent
        self._forget = forget
        self._keep_s = keep_s
        self._monotonic = monotonic
        self._callers: list[Wire] = []
        self._over = False
        self._ends_asked = False
        self._until = 0.0  # counts once the parent is gone
        self._log = logging.getLogger("keeper")
        self._door = Door(path)
        legacy.taken()

    def run(self) -> None:
        """Hold, until it is over."""
        while not self._over:
            self._wait()
            self._hear_parent()  # before anybody who asks: what it said last counts, too
            self._let_in()
            for caller in list(self._callers):
                self._serve(caller)
            self._look_at_end()

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._door, select.POLLIN)
        for wire in (self._parent, *self._callers):
            if not wire.ended:
                poller.register(wire, wire.events)
        poller.poll(self._timeout_ms())

    def _timeout_ms(self) -> float | None:
        """When there is something to do that nothing wakes us for."""
        if any(wire.choked for wire in (self._parent, *self._callers)):
            return RETRY_S * 1000
        if not self._parent.ended or self._callers:
            return None
        return max(0.0, self._until - self._monotonic()) * 1000

    # ── the parent ──────────────────────────────────────────────────────────────────────

    def _hear_parent(self) -> None:
        was_there = not self._parent.ended
        for heard in self._parent.hear():
            self._obey(heard)
        self._parent.flush()
        if was_there and self._parent.ended:
            self._log.info(
                "the parent is gone: holding its %d sockets for the next `collect` for %.0f s",
                len(self._kept),
                self._keep_s,
            )
            self._until = self._monotonic() + self._keep_s

    def _obey(self, heard: Heard) -> None:
        match heard.word:
            case x if x == KEEP and heard.thing:
                self._release(heard.name)
                self._kept[heard.name] = heard.thing
            case x if x == KEEP:  # no descriptor was left for it: the next one inherits it
                self._log.error("can't hold %s: no descriptor is left for it", heard.name)
                self._over = True
            case x if x == RELEASE:
                self._release(heard.name)
            case x if x == ALIVE:
                self._parent.say(ALIVE)

    def _release(self, name: str) -> None:
        thing = self._kept.pop(name, None)
        if thing:
            thing.close()

    # ── who comes for what we hold ──────────────────────────────────────────────────────

    def _let_in(self) -> None:
        caller = self._door.let_in()
        if caller:
            self._callers.append(caller)
        if len(self._callers) > CALLERS_MAX:
            self._callers.pop(0).close()

    def _serve(self, caller: Wire) -> None:
        for heard in caller.hear():
            match heard.word:
                case x if x == GIVE:
                    self._give(caller)
                case x if x == MINE:
                    self._over = True
                case x if x == END:
                    self._ends_asked = True
        caller.flush()
        if caller.ended:
            caller.close()
            self._callers.remove(caller)
            self._until = self._monotonic() + self._keep_s  # the next one has as long

    def _give(self, caller: Wire) -> None:
        for name, thing in self._kept.items():
            caller.say(KEEP, name, thing)
        caller.say(ALL)

    # ── the end ─────────────────────────────────────────────────────────────────────────

    def _look_at_end(self) -> None:
        """A `stop` may ask a moment before we see that the parent is gone."""
        if not self._parent.ended or self._over:
            return
        if self._ends_asked:
            self._log.info("ending: the senders of a killed instance are cut")
            self._let_go()
        elif not self._callers and self._monotonic() >= self._until:
            self._log.warning("nobody has come for %.0f s: the senders are cut", self._keep_s)
            self._let_go()

    def _let_go(self) -> None:
        """Nobody goes on with what we hold: it ends, and leaves no file."""
        self._over = True
        self._door.remove()
        held = Inherited()
        for name, thing in self._kept.items():
            held.add(name, thing)
        self._forget(held.listeners)
