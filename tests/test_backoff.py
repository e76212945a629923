"""Backoff: the delays that a user waits for, as tables and as bounds that always hold."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.backoff import (
    HEALTHY_S,
    RESTART_S_MAX,
    RESTART_S_MIN,
    RETRY_S_MAX,
    RETRY_S_MIN,
    RestartBackoff,
    full_jitter,
)

Life = tuple[float, bool]  # seconds lived, whether it had finished a piece of work

SICK = (0.5, False)
HISTORIES: list[tuple[list[Life], list[float]]] = [
    ([SICK], [0.1]),
    ([SICK] * 12, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]),
    ([SICK, SICK, (59.9, False)], [0.1, 0.2, 0.4]),
    ([SICK, SICK, (60.0, False), SICK], [0.1, 0.2, 0.1, 0.2]),
    ([SICK, SICK, (0.01, True), SICK], [0.1, 0.2, 0.1, 0.2]),
    ([(0.01, True)] * 4, [0.1] * 4),
]


def test_restarts() -> None:
    for lives, delays in HISTORIES:
        backoff = RestartBackoff()
        assert [round(backoff.after_death(*life), 6) for life in lives] == delays


@given(st.lists(st.tuples(st.floats(0, 100), st.booleans())))
def test_restarts_stay_within_bounds_and_never_shrink_without_reason(lives: list[Life]) -> None:
    backoff, before = RestartBackoff(), 0.0
    for lived_s, worked in lives:
        delay_s = backoff.after_death(lived_s, worked)
        assert RESTART_S_MIN <= delay_s <= RESTART_S_MAX
        if worked or lived_s >= HEALTHY_S:
            assert delay_s == RESTART_S_MIN
        else:
            assert delay_s >= before
        before = delay_s


def test_two_children_have_a_backoff_each() -> None:
    one, other = RestartBackoff(), RestartBackoff()
    one.after_death(0.0, False)
    assert one.after_death(0.0, False) == 0.2
    assert other.after_death(0.0, False) == 0.1


def test_jitter_doubles_up_to_its_bound() -> None:
    spans = [full_jitter(attempt, 1.0) - full_jitter(attempt, 0.0) for attempt in range(9)]
    assert [round(span, 6) for span in spans] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_jitter_is_never_nothing_and_never_long(attempt: int, chance: float) -> None:
    delay_s = full_jitter(attempt, chance)
    assert RETRY_S_MIN <= delay_s <= RETRY_S_MIN + RETRY_S_MAX


@given(st.integers(0, 100), st.floats(0, 1), st.floats(0, 1))
def test_jitter_spreads_evenly(attempt: int, one: float, other: float) -> None:
    """Full jitter: the chance decides over all of the span, not over a part of it."""
    low, high = full_jitter(attempt, 0.0), full_jitter(attempt, 1.0)
    assert low == RETRY_S_MIN
    for chance in (one, other):
        assert abs(full_jitter(attempt, chance) - (low + chance * (high - low))) < 1e-9
