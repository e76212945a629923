"""Weather on the way to a server: what a judge (tests/proxy.py) does to pieces while it lasts.

    delay      every piece comes late
    throttle   only so many bytes a second pass
    freeze     nothing passes, nothing is lost; goes on afterwards
    withhold   what is asked is done, nobody hears of it; at the end the connections are cut
    lose       now and then one answer is lost, and its connection is cut at once
    halve      now and then half an answer comes, and its connection is cut
    unheard    a COMMIT is done, and from then on nobody hears anything
    late       a COMMIT, and what comes behind it, is held up and arrives afterwards

`calm` is none of it. A connection through frozen weather stays open for the server although its
client is long dead: such is a client on another machine that vanishes.
"""

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.proxy import Verdict

CALM = "calm"
DELAY_S = 0.15
THROTTLE_BYTES_PER_S = 200_000.0
LOST_SHARE = 0.2  # of the answers
COMMIT = b"COMMIT"
COMMAND_AT = 5  # MySQL's protocol: length, number, and the word for a query


class Weather:
    """A judge whose mind can be changed. `dice` decide which answers are lost.

    Attributes:
        struck: it has come down on a COMMIT since it began.
    """

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._kind = CALM
        self.struck = threading.Event()
        self._changed = threading.Condition()

    @contextmanager
    def lasting(self, kind: str) -> Iterator[None]:
        """This weather, then calm."""
        self._set(kind)
        try:
            yield
        finally:
            self._set(CALM)

    def question(self, piece: bytes) -> Verdict:
        """It comes late, if at all before the weather changes."""
        if self._kind in ("unheard", "late") and piece[COMMAND_AT:].upper() == COMMIT:
            self.struck.set()
            if self._kind == "late":
                self._wait_for_another(threading.TIMEOUT_MAX)
        self._hold_up(piece)
        return piece, True

    def answer(self, piece: bytes) -> Verdict:
        """The same, or it is lost."""
        self._hold_up(piece)
        if self._kind == "withhold" or (self._kind == "unheard" and self.struck.is_set()):
            return b"", True
        if self._kind in ("lose", "halve") and self._dice.random() < LOST_SHARE:
            return piece[: len(piece) // 2] if self._kind == "halve" else b"", False
        return piece, True

    def _set(self, kind: str) -> None:
        with self._changed:
            self._kind = kind
            self.struck.clear()
            self._changed.notify_all()

    def _hold_up(self, piece: bytes) -> None:
        """Wait as long as this weather holds up such a piece; its end ends that too."""
        limits = {
            "delay": DELAY_S,
            "throttle": len(piece) / THROTTLE_BYTES_PER_S,
            "freeze": threading.TIMEOUT_MAX,
        }
        if self._kind in limits:
            self._wait_for_another(limits[self._kind])

    def _wait_for_another(self, limit_s: float) -> None:
        kind = self._kind
        with self._changed:
            self._changed.wait_for(lambda: self._kind != kind, limit_s)
