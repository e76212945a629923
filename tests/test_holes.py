"""Which holes are given up: those that were there before, and of which no frame is queued."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import Hole
from appliance.frame import Header, encode_header
from appliance.holes import SAID_MAX, not_queued, sentences, still_open

RUNS = [bytes([n]) * 16 for n in (1, 2)]
NUMBERS = range(1, 21)


@st.composite
def holes(draw: st.DrawFn) -> list[Hole]:
    """As a fold reports them: of each run in their order, never next to each other."""
    found = []
    for run in draw(st.permutations(RUNS)):
        edges = sorted(draw(st.sets(st.sampled_from(NUMBERS), max_size=8)))
        for first, last in zip(edges[::2], edges[1::2], strict=False):
            found.append(Hole(run, "tweets", first, last, "queue lost", 1, 10))
    return found


def names(found: list[Hole]) -> set[tuple[bytes, int]]:
    return {(hole.run, number) for hole in found for number in range(hole.first, hole.last + 1)}


@given(holes(), holes())
def test_only_what_was_missing_before_is_still_open(now: list[Hole], before: list[Hole]) -> None:
    found = still_open(now, before)
    assert names(found) <= names(before)
    one_by_one = [
        any(
            hole.run == other.run and other.first <= hole.first and hole.last <= other.last
            for other in before
        )
        for hole in now
    ]
    assert found == [hole for hole, is_open in zip(now, one_by_one, strict=True) if is_open]


@given(holes(), st.lists(st.tuples(st.sampled_from(RUNS), st.sampled_from(NUMBERS)), max_size=6))
def test_what_is_queued_is_not_given_up(found: list[Hole], queued: list[tuple[bytes, int]]) -> None:
    lines = [line_of(run, number) for run, number in queued] + [b"", b"not ours", b"{}"]
    gone = not_queued(found, lines)
    assert gone == [hole for hole in found if not names([hole]) & {*queued}]


def line_of(run: bytes, number: int) -> bytes:
    """A header line as the queue shows it."""
    return encode_header(Header(run.hex(), number, "tweets", 0, 0, 0, 0, 0, 1.0, 2.0)).strip()


def test_many_holes_are_not_said_one_by_one() -> None:
    many = [Hole(RUNS[0], "tweets", n, n, "queue lost", 3, 30) for n in range(1, 1001, 2)]
    said = list(sentences(many))
    assert len(said) == SAID_MAX + 1
    assert "frame 1 of run 0101" in said[0]
    assert said[-1] == f"the same of {500 - SAID_MAX} more stretches: 1485 records"


def test_a_size_that_nobody_knows_is_said_to_be_unknown() -> None:
    [said] = sentences([Hole(RUNS[0], "tweets", 3, 9, "why")])
    assert said.startswith("an unknown number of records of source tweets")
    assert said.endswith("frames 3 to 9 of run 01010101010101010101010101010101 (why)")
