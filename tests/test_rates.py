"""Rates: the growth of counters over the last seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.rates import RATE_WINDOW_S, Rates


def rates_of(history: list[tuple[float, int]]) -> Rates:
    rates = Rates()
    for at, count in history:
        rates.sample(at, {"records": count})
    return rates


@pytest.mark.parametrize(
    ("history", "per_s"),
    [
        ([], 0.0),
        ([(0, 500)], 0.0),  # one look tells no speed
        ([(0, 500), (1, 600)], 100.0),
        ([(0, 0), (1, 100), (2, 400)], 200.0),  # the mean of the window
        ([(0, 0), (1, 100), (1.2, 900)], 100.0),  # too soon for a sample
        ([(float(at), 100 * at) for at in range(60)], 100.0),
        ([(0, 0), *((float(at), 1000) for at in range(1, 30))], 0.0),  # it ended long ago
        ([(0, 0), (600, 6000)], 10.0),  # the loop stood still meanwhile
    ],
)
def test_the_growth_a_second(history: list[tuple[float, int]], per_s: float) -> None:
    assert rates_of(history).per_s("records") == pytest.approx(per_s)


def test_a_counter_that_came_later_began_at_zero() -> None:
    rates = Rates()
    rates.sample(0, {})
    rates.sample(2, {"records": 10})
    assert rates.per_s("records") == 5.0
    assert rates.per_s("nobody's") == 0.0


@given(st.lists(st.floats(0.01, 3.0), min_size=2, max_size=200), st.integers(0, 1000))
def test_a_steady_growth_is_its_own_rate_whenever_one_looks(gaps: list[float], per_s: int) -> None:
    now, rates = 0.0, Rates()
    for gap in [0.0, 0.5, *gaps]:
        now += gap
        rates.sample(now, {"records": round(now * per_s * 1000)})
    assert rates.per_s("records") == pytest.approx(per_s * 1000, abs=3)
    assert len(rates._samples) <= RATE_WINDOW_S / 0.5 + 2, "memory is bounded"
