"""The parent's side of the keeper: forks it, tells it what to hold, sees that it is there.

A dead keeper is replaced at once, by a fork that inherits all that is to be held. One that hangs
holds nothing that anybody could have: then `holds` says so, and after a while it is ended. The
parent never waits for it.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from appliance import process
from appliance.backoff import RestartBackoff
from appliance.keeper_wire import ALIVE, KEEP, RELEASE, Legacy, Wire, pair

ASK_S = 5.0  # it is asked for a sign of life so often
SILENT_S = 5.0  # without an answer for so long it doesn't count
HANGS_S = 30.0  # and for so long it is ended, as any child
UNSENT_MAX = 65_536  # messages to one that doesn't read; it is ended then
ENDED_AT_ONCE_S = 1.0  # who dies so soon is started again with a delay

Run = Callable[[dict[str, Any], Wire, Legacy], None]
"""What runs in the keeper: with all that is held by name, the wire, and what an older one gave."""

_log = logging.getLogger("parent")


class Keeping:
    """A keeper, wanted at once, or from the first socket on, until `end` (contract: Holder).

    Attributes:
        changed: called with the new value whenever `holds` may have changed.
        start_at: no keeper is started before this moment (monotonic).
    """

    def __init__(
        self,
        title: str,
        run: Run,
        remove: Callable[[], None],
        monotonic: Callable[[], float] = time.monotonic,
        *,
        wanted: bool = True,
    ) -> None:
        self._title = title
        self._run = run
        self._remove = remove
        self._monotonic = monotonic
        self._kept: dict[str, Any] = {}
        self._legacy = Legacy()
        self._wire: Wire | None = None
        self._backoff = RestartBackoff()
        self._born = 0.0
        self._asked_at: float | None = None  # of what wasn't answered yet
        self._answered_at: float | None = None
        self._aborted = False
        self._renewed = False
        self.changed: Callable[[bool], None] = lambda _holds: None
        self.start_at = 0.0
        self.restarts = 0
        self.pid: int | None = None
        self.wanted = wanted
        self._over = False

    @property
    def holds(self) -> bool:
        """Whether a keeper lives and has been sent everything."""
        if not self._wire or self._answered_at is None or self._wire.has_unsent:
            return False
        return self._asked_at is None or self._monotonic() - self._asked_at < SILENT_S

    @property
    def wire(self) -> Wire | None:
        """The wire to the living keeper, to poll."""
        return self._wire

    @property
    def size(self) -> int:
        """How many sockets are to be held."""
        return len(self._kept)

    def inherit(self, legacy: Legacy) -> None:
        """An older keeper has given us what it holds: it may end when our own can be found."""
        self._legacy = legacy
        if not self.wanted:
            legacy.taken()

    def keep(self, name: str, thing: Any) -> None:
        """Hold a duplicate of a socket (contract: Holder)."""
        self._kept[name] = thing
        self.wanted = not self._over
        self._say(KEEP, name, thing)

    def release(self, name: str) -> None:
        """Let go of it."""
        if self._kept.pop(name, None):
            self._say(RELEASE, name)

    def settle(self) -> None:
        """Nothing to wait for: a new keeper has only what it was given; an older one holds all that
        it held until this start has succeeded.
        """

    def _say(self, word: int, name: str, thing: Any = None) -> None:
        if not self._wire:
            self.changed(False)  # until there is a keeper, who inherits it
        else:
            self._wire.say(word, name, thing)
            if self._wire.has_unsent:
                self.changed(False)
            if self._wire.unsent > UNSENT_MAX:
                self._kill()

    # ── its life ────────────────────────────────────────────────────────────────────────

    def turn(self, now: float, close_inherited: Callable[[], None]) -> None:
        """Bury a dead keeper, start a new one, ask the living one for a sign of life."""
        self.hear()
        self._reap(now)
        if self.pid is None and self.wanted and now >= self.start_at:
            self._start(now, close_inherited)
        if self._wire:
            self._ask(self._wire, now)
        self.changed(self.holds)

    def hear(self) -> None:
        """Hear what the keeper says, and send what is waiting."""
        if self._wire is None:
            return
        for heard in self._wire.hear():
            if heard.word == ALIVE:
                self._asked_at, self._answered_at = None, self._monotonic()
                self._legacy.close()  # our own keeper has said it
        self._wire.flush()
        if self._wire.ended:
            self._cut()
        self.changed(self.holds)

    def _cut(self) -> None:
        if self._wire:
            self._wire.close()
            self._wire = None

    def _ask(self, wire: Wire, now: float) -> None:
        last = self._answered_at or 0.0
        if self._asked_at is None and now - last >= ASK_S:
            self._asked_at = now
            wire.say(ALIVE)
        elif self._asked_at is not None and now - self._asked_at > HANGS_S and not self._aborted:
            _log.error("%s is silent for %.0f s: killing it", self._title, HANGS_S)
            self._aborted = True
            self._kill()

    def _reap(self, now: float) -> None:
        if self.pid is None or os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG) is None:
            return
        self.pid = None
        self._cut()
        if self._renewed:
            self._renewed = False
            return
        lived_s = now - self._born
        delay_s = 0.0
        if lived_s < ENDED_AT_ONCE_S:
            delay_s = self._backoff.after_death(lived_s, worked=False)
        self.start_at = now + delay_s
        self.restarts += 1
        if self.wanted:
            _log.warning("%s died; it is started again in %.1f s", self._title, delay_s)

    def _start(self, now: float, close_inherited: Callable[[], None]) -> None:
        ours, theirs = pair()
        self._born = now
        self._asked_at = self._answered_at = None
        self._aborted = False
        try:
            pid = os.fork()  # multiprocessing would wait for it at our end
        except OSError as error:
            ours.close()
            theirs.close()
            delay_s = self._backoff.after_death(0.0, worked=False)
            self.start_at = now + delay_s
            text = "%s can't be started: %s; tried again in %.1f s"
            _log.error(text, self._title, error.strerror, delay_s)
            return
        if pid == 0:
            ours.close()
            self._live(theirs, close_inherited)
        theirs.close()
        self._wire, self.pid = ours, pid

    def _live(self, wire: Wire, close_inherited: Callable[[], None]) -> None:
        """The keeper's whole life; it returns to nobody."""
        code = 1
        try:
            close_inherited()
            process.born_to_outlive(self._title)
            self._run(self._kept, wire, self._legacy)
            code = 0
        except OSError as error:
            logging.getLogger("keeper").error("%s", error)
        except Exception:
            logging.getLogger("keeper").exception("an error of ours")
        finally:
            os._exit(code)

    def renew(self) -> None:
        """Replace the living keeper by a fork of this process, whose log goes elsewhere now."""
        if self.pid is not None:
            self._renewed = True
            self._kill()
            self._cut()
            self.changed(False)

    def close_in_child(self) -> None:
        """In another child: drop what is the parent's own."""
        self._cut()
        self._legacy.close()

    def end(self) -> None:
        """There is nothing to hold any more: kill the keeper, which has nothing to finish."""
        if self._over:
            return
        self._over, self.wanted = True, False
        self._legacy.taken()  # by nobody; but nobody will come for it, either
        self._kill()
        if self.pid is not None:
            os.waitid(os.P_PID, self.pid, os.WEXITED)
            self.pid = None
        self._cut()
        self._remove()
        self.changed(False)

    def _kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
