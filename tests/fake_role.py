"""What a role is given, in one process and without time: a clock, wishes, numbers.

Time passes only where the role waits. What shall happen meanwhile is planned at the clock
(`clock.at`), and ends the wait in which it falls, as a signal does.
"""

from collections import Counter
from collections.abc import Callable

from appliance.contracts import NO_RECORD

WAITS_MAX = 2000  # a role that waits more often is in a loop that nothing ends


class FakeClock:
    """A monotonic clock that stands still until somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._plan: list[tuple[float, Callable[[], None]]] = []
        self._waits = 0

    def __call__(self) -> float:
        return self.now

    def at(self, delay_s: float, act: Callable[[], None]) -> None:
        """Do this so many seconds from now."""
        self._plan.append((self.now + delay_s, act))
        self._plan.sort(key=lambda planned: planned[0])

    def sleep(self, timeout_s: float) -> None:
        """Wait; what is planned within the timeout happens and ends the wait."""
        self._waits += 1
        assert self._waits < WAITS_MAX, "it waits and waits"
        until = self.now + max(0.0, timeout_s)
        if self._plan and self._plan[0][0] <= until:
            self.now, act = self._plan.pop(0)
            act()
        else:
            self.now = until


class FakeWish:
    """What the parent asks (contract: contracts.Wish); `waits` are the timeouts asked for."""

    def __init__(self, clock: FakeClock) -> None:
        self.drain = self.quick = self.leave = False
        self.waits: list[float] = []
        self._clock = clock

    @property
    def stop(self) -> bool:
        return self.drain or self.quick or self.leave

    def ask_to_drain(self) -> None:
        self.drain = True

    def ask_to_be_quick(self) -> None:
        self.quick = True

    def clear(self) -> None:
        """A signal ends the wait in which it comes, and no other."""

    def wait(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        self._clock.sleep(timeout_s)


class FakeGauge:
    """A child's numbers (contract: contracts.Gauge); texts with all that they have been."""

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.waits: list[str] = []
        self.refusals: list[str] = []
        self.errors: list[str] = []
        self.log_errors: list[str] = []
        self.beats = 0
        self.holding: tuple[str, str] | None = None

    def beat(self) -> None:
        self.beats += 1

    def worked(self) -> None:
        self.add("works", 1)

    def add(self, name: str, amount: int) -> None:
        self.numbers[name] += amount

    def set(self, name: str, value: int) -> None:
        self.numbers[name] = value

    def get(self, name: str) -> int:
        return self.numbers[name]

    def in_hand(self, owner: str, frame: str) -> None:
        self.holding = (owner, frame)
        self.set("position", NO_RECORD)

    def put_down(self) -> None:
        self.holding = None

    def held(self) -> tuple[str, str, int] | None:
        return (*self.holding, self.get("position")) if self.holding else None

    def waiting_for(self, text: str) -> None:
        self.waits.append(text)

    def refusing(self, text: str) -> None:
        self.refusals.append(text)

    def error(self, text: str) -> None:
        self.errors.append(text)

    def log_error(self, text: str) -> None:
        self.log_errors.append(text)
