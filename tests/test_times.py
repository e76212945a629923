"""Times as people type them."""

import argparse

import pytest

from appliance.verbs.times import moment

NOW = 1_700_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", NOW),
        ("90s", NOW - 90),
        ("5m", NOW - 300),
        ("2h", NOW - 7200),
        ("7d", NOW - 604_800),
        ("1w", NOW - 604_800),
        ("2023-11-14", 1_699_920_000.0),
        ("2023-11-14 22:13:20", NOW),
        ("2023-11-14T22:13:20.25", NOW + 0.25),
        ("2023-11-14T22:13:20Z", NOW),
        ("2023-11-14T23:13:20+01:00", NOW),
    ],
)
def test_moments(text: str, expected: float) -> None:
    assert moment(text, lambda: NOW) == expected


@pytest.mark.parametrize(
    "text", ["", "7", "h", "-2h", "2.5h", "2 h", "2H", "1e3s", "yesterday", "2023-13-01", "٣h"]
)
def test_what_is_no_moment_is_said_with_examples(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 2h, 7d"):
        moment(text, lambda: NOW)
