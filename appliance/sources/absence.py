"""A server's absence: from the end of one connection to the next, known whatever dies meanwhile.

What a server sends while nobody is connected never reaches us, and nobody can say how much it was.
So the stretch is a gap in the next frame. Until that frame was handed over it is kept in one small
file beside the source's note, which is replaced as a whole:

    in the file             means                                        comes next
    ─────────────────────   ──────────────────────────────────────────   ───────────────────
    no file                 there was no connection yet                  `found`
    nothing                 connected; the file's time says until when   `lost`, or a birth
                            we have known that                           without a connection
    began, cause            not connected since then                     `found`
    began, cause, ended     connected again; not handed over yet         `told`, or `lost`

A stretch that ends and begins again before it was handed over is one: also where the server takes
connections and ends them without a record. One that is shorter than ABSENT_S_MIN and began with the
server's own clean close is none: a feed may be made of many short connections, and each would be
a row for ever.

A disk that takes no file is no reason to stop: the absence is then forgotten at a kill.
"""

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from appliance.frame import Gap

ABSENT_S_MIN = 1.0  # shorter and begun in good order: no gap
STAMP_S = 5.0  # so exact is the beginning where nobody lived to see it

SERVER_AWAY = "source down"  # the server ended the connection, or it broke
STOPPED = "stopped"  # we ended it, or weren't there any more


@dataclass(frozen=True, slots=True)
class _State:
    """What the file says. Times are seconds since the epoch."""

    began: float | None = None
    cause: str = ""
    clean: bool = False
    ended: float | None = None


class Absence:
    """What is known of a server's absences, in memory and in the file at `path`.

    `write` puts a file in place whole, and for good.
    """

    def __init__(
        self,
        path: Path,
        write: Callable[[Path, bytes], None],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._write = write
        self._clock = clock
        self._monotonic = monotonic
        self._stamp_at = 0.0
        self._found_at = monotonic()
        self._state, self._known_at = _read(path)  # None: there was no connection yet

    @property
    def gap(self) -> Gap | None:
        """The stretch that the next frame has to tell of."""
        state = self._state
        if state is None or state.ended is None:
            return None
        return Gap(state.cause, began=state.began, ended=state.ended)

    @property
    def is_over(self) -> bool:
        """Whether the server is back for good, as far as we can tell without a record of it."""
        return self._monotonic() >= self._found_at + ABSENT_S_MIN

    def born(self, connected: bool, told: Iterable[Gap]) -> None:
        """At a collector's birth. `told`: the gaps of the newest noted frame."""
        if self.gap in tuple(told):
            self.told()
        if not connected:
            self._begin(self._known_at, STOPPED, clean=False)

    def found(self) -> None:
        """There is a connection (again)."""
        state, self._found_at = self._state, self._monotonic()
        if state is None:
            self._keep(_State())
        elif state.began is not None and state.ended is None:
            ended = max(self._clock(), state.began)
            short = state.clean and ended - state.began < ABSENT_S_MIN
            self._keep(_State() if short else replace(state, ended=ended))

    def lost(self, cause: str, clean: bool) -> None:
        """The connection is over. Said before anybody lets go of it, so no kill comes between."""
        self._begin(self._clock(), cause, clean)

    def told(self) -> None:
        """A frame with the gap was handed over."""
        self._keep(_State())

    def still_there(self) -> None:
        """The connection lives, now."""
        if self._monotonic() >= self._stamp_at and self._state == _State():
            with suppress(OSError):
                self._stamp()

    def _stamp(self) -> None:
        self._stamp_at = self._monotonic() + STAMP_S
        os.utime(self._path, (self._clock(), self._clock()))

    def _begin(self, at: float, cause: str, clean: bool) -> None:
        """Not connected from now on; what wasn't told yet goes on."""
        state = self._state
        if state is None:
            return
        if state.began is None:
            self._keep(_State(at, cause, clean))
        elif state.ended is not None:
            self._keep(replace(state, ended=None, clean=False))

    def _keep(self, state: _State) -> None:
        self._state = state
        with suppress(OSError):
            self._write(self._path, json.dumps(asdict(state)).encode())
            self._stamp()


def _read(path: Path) -> tuple[_State | None, float]:
    """What the file says, and when it was last known; None if there is none that can be read."""
    try:
        return _State(**json.loads(path.read_bytes())), path.stat().st_mtime
    except (OSError, ValueError, TypeError):
        return None, 0.0
