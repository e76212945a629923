"""How large leases become on databases of different speeds, and what never happens."""

import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import LEASE_RECORDS_MAX
from appliance.pace import (
    FIXED_SHARE,
    LEASE_BYTES_MIN,
    LEASE_BYTES_START,
    LEASE_S_MIN,
    STEP,
    Pace,
)
from appliance.stores.ledger import AT_ONCE_BYTES_MAX

MIB = 1024 * 1024
BYTES_MAX = 4 * MIB
SETTLED = 40  # transactions
HEADER_BYTES = 400  # of a frame, beside its records


@dataclass
class Database:
    """What a transaction takes there, give or take `noise` of it."""

    fixed_s: float
    mib_s: float
    noise: float = 0.0

    def teach(self, pace: Pace, size: int, records: int = 1, dice: float = 0.5) -> float:
        """One transaction of so many bytes; how long it took."""
        factor = 1 + self.noise * (2 * dice - 1)
        rows_s = factor * self.mib_s * size / MIB
        seconds = rows_s + factor * self.fixed_s
        pace.learn(size, records, seconds, rows_s)
        return seconds


def settled(database: Database, frame_bytes: int = 1, bytes_max: int = BYTES_MAX) -> Pace:
    """A flood of such frames, so many transactions of it; a lease has those that have room."""
    pace = Pace(bytes_max)
    dice = random.Random(1)
    for _ in range(SETTLED):
        frames = max(1, pace.bytes // (frame_bytes + HEADER_BYTES if frame_bytes > 1 else 1))
        database.teach(pace, frames * frame_bytes, dice=dice.random())
    return pace


@pytest.mark.parametrize(
    ("what", "database", "mib"),
    [
        ("a fast one", Database(0.004, 0.01), 1.6),
        ("a fast one with a noisy machine", Database(0.004, 0.01, noise=0.9), 1.6),
        ("one whose commits cost nothing", Database(0, 0.01), 2),
        ("one that costs next to nothing", Database(0, 1e-9), 4),
        ("one whose disk is slow", Database(0.02, 0.05), 1.6),
        ("a slow one", Database(0.004, 0.1), 0.16),
        ("a very slow one", Database(0.004, 100), LEASE_BYTES_MIN / MIB),
        ("a distant one", Database(0.5, 0.05), 4),
        ("a distant one behind a thin line", Database(0.5, 1), 2),
    ],
)
def test_where_it_settles(what: str, database: Database, mib: float) -> None:
    assert settled(database).bytes / MIB == pytest.approx(mib, rel=0.01 + database.noise / 2)


@pytest.mark.parametrize("frame_bytes", [1, 1000, 100_000])
@pytest.mark.parametrize("mib_s", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("fixed_s", [0.0, 0.003, 0.02, 0.1])
def test_a_transaction_takes_its_time_and_no_more(
    fixed_s: float, mib_s: float, frame_bytes: int
) -> None:
    pace = settled(Database(fixed_s, mib_s, noise=0.3), frame_bytes)
    seconds = fixed_s + mib_s * pace.bytes / MIB
    good_s = max(LEASE_S_MIN, fixed_s / FIXED_SHARE)
    assert pace.bytes in (LEASE_BYTES_MIN, BYTES_MAX) or 0.7 * good_s < seconds < 1.3 * good_s


def test_full_frames_teach_also_where_two_have_no_room() -> None:
    """Two of them and their headers are a little more than the 2 MiB that doubling leads to."""
    assert settled(Database(0.5, 0.05), MIB - 100).bytes == BYTES_MAX


def test_of_what_is_stored_at_once_nothing_is_learned() -> None:
    pace = Pace(BYTES_MAX)
    for _ in range(SETTLED):
        pace.learn(pace.bytes, 100, 3.0, 0.0)
    assert pace.bytes == LEASE_BYTES_START
    assert 2 * (AT_ONCE_BYTES_MAX + HEADER_BYTES) < LEASE_BYTES_MIN, "a lone frame is no such one"


def test_the_first_transactions_are_small_and_grow() -> None:
    pace = Pace(BYTES_MAX)
    sizes = [pace.bytes]
    for _ in range(5):
        Database(0.02, 0.01).teach(pace, pace.bytes)
        sizes.append(pace.bytes)
    assert sizes == [LEASE_BYTES_START, MIB // 2, MIB, 2 * MIB, 4 * MIB, 4 * MIB]


def test_lone_records_say_nothing_about_what_bytes_cost() -> None:
    pace = settled(Database(0.02, 0.01))
    for _ in range(1000):
        pace.learn(400, 1, 3.0, 2.9)  # a row that waits for somebody's lock
    assert pace.bytes == BYTES_MAX


def test_many_small_records_are_a_full_transaction() -> None:
    pace = settled(Database(0.02, 0.01))
    for _ in range(SETTLED):
        size = min(pace.bytes, MIB)
        Database(0.02, 10).teach(pace, size, size * LEASE_RECORDS_MAX // MIB)
    assert pace.bytes == LEASE_BYTES_MIN


def test_a_single_slow_one_is_forgotten() -> None:
    pace = settled(Database(0.02, 0.01))
    Database(0.02, 10).teach(pace, pace.bytes)
    assert pace.bytes >= BYTES_MAX / STEP
    for _ in range(SETTLED):
        Database(0.02, 0.01).teach(pace, pace.bytes)
    assert pace.bytes == BYTES_MAX


@pytest.mark.parametrize("bytes_max", [1, 1000, LEASE_BYTES_MIN, LEASE_BYTES_START + 1])
def test_a_small_limit_of_the_configuration_is_the_limit(bytes_max: int) -> None:
    assert settled(Database(0.02, 0.01), bytes_max=bytes_max).bytes == bytes_max
    slow = settled(Database(0.02, 10_000), bytes_max=bytes_max)
    assert slow.bytes == min(bytes_max, LEASE_BYTES_MIN)


def test_frames_without_a_byte_are_no_problem() -> None:
    pace = Pace(BYTES_MAX)
    pace.learn(0, LEASE_RECORDS_MAX, 0.0, 0.0)
    assert pace.bytes > 0


@given(
    bytes_max=st.integers(1, 256 * MIB),
    transactions=st.lists(
        st.tuples(
            st.integers(0, 512 * MIB),
            st.integers(0, 2 * LEASE_RECORDS_MAX),
            st.floats(0, 1e6),
            st.floats(0, 1),
        )
    ),
)
def test_it_stays_between_its_limits_and_goes_step_by_step(
    bytes_max: int, transactions: list[tuple[int, int, float, float]]
) -> None:
    pace = Pace(bytes_max)
    for size, records, seconds, share in transactions:
        before = pace.bytes
        pace.learn(size, records, seconds, share * seconds)
        assert min(LEASE_BYTES_MIN, bytes_max) <= pace.bytes <= bytes_max
        assert before // STEP <= pace.bytes <= before * STEP
