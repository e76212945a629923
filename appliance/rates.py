"""Rates: how fast counters have grown lately. Pure: the caller brings the clock.

The parent takes a sample in each turn of its loop; what is said is the growth over the last
RATE_WINDOW_S, so that one frame a second reads as a steady rate and an end is seen soon.
"""

from collections import deque
from collections.abc import Mapping

RATE_WINDOW_S = 10.0
SAMPLE_INTERVAL_S = 0.5  # a loop that turns more often than this isn't sampled each time


class Rates:
    """Growth per second of named counters, over the last RATE_WINDOW_S."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, Mapping[str, int]]] = deque()

    def sample(self, now: float, counters: Mapping[str, int]) -> None:
        """Remember the counters as they are now (monotonic seconds)."""
        if self._samples and now - self._samples[-1][0] < SAMPLE_INTERVAL_S:
            return
        self._samples.append((now, counters))
        while now - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:
            self._samples.popleft()

    def per_s(self, name: str) -> float:
        """How much the counter has grown a second; 0.0 as long as nobody can know.

        A counter that came later than the oldest sample began at 0.
        """
        if len(self._samples) < 2:
            return 0.0
        (began, before), (ended, after) = self._samples[0], self._samples[-1]
        return (after.get(name, 0) - before.get(name, 0)) / (ended - began)
