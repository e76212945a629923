"""How long to wait before the next try: pure arithmetic, the caller waits.

Two kinds: a child that died is restarted after `RestartBackoff`, doubling; a Redis or a
database that is away is asked again after `full_jitter`, so that many askers spread.
"""

from dataclasses import dataclass

RESTART_S_MIN = 0.1
RESTART_S_MAX = 30.0
HEALTHY_S = 60.0

RETRY_S_MIN = 0.05
RETRY_S_MAX = 5.0


@dataclass(slots=True)
class RestartBackoff:
    """The delay before each restart of one child: 0.1 s, doubling up to 30 s.

    It starts anew when the child had been healthy for 60 s or had finished a piece of work.
    """

    _next_s: float = RESTART_S_MIN

    def after_death(self, lived_s: float, worked: bool) -> float:
        """Seconds to wait before the restart of a child that lived so long."""
        if worked or lived_s >= HEALTHY_S:
            self._next_s = RESTART_S_MIN
        delay_s = self._next_s
        self._next_s = min(self._next_s * 2, RESTART_S_MAX)
        return delay_s


def full_jitter(attempt: int, chance: float) -> float:
    """Seconds before try number `attempt` (from 0); `chance` is uniform in [0, 1).

    The "full jitter" of Amazon's "Exponential Backoff And Jitter": anything up to a bound
    that doubles, here with a floor so that a refused connection isn't asked in a tight loop.
    """
    bound_s = min(RETRY_S_MAX, RETRY_S_MIN * float(2 ** min(attempt, 16)))
    return RETRY_S_MIN + chance * bound_s
