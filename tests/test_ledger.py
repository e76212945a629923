"""The ledger's pure rules: what a fold may call accounted for, and what is left of a gap."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.stores.folding import pieces, reach
from appliance.stores.tables import Span

NUMBERS = range(1, 31)


def covered(holes: list[Span], number: int) -> bool:
    return any(first <= number <= last for first, last in holes)


@st.composite
def ledgers(draw: st.DrawFn) -> tuple[int, list[int], list[Span]]:
    """up_to, frames rows and gap rows as storing, declaring and folding may leave them."""
    up_to = draw(st.integers(0, 15))
    edges = sorted(draw(st.sets(st.sampled_from(NUMBERS), max_size=6)))
    holes = list(zip(edges[::2], edges[1::2], strict=False))
    numbers = draw(st.sets(st.sampled_from(NUMBERS)))
    frames = sorted(n for n in numbers if n > up_to or covered(holes, n))
    return up_to, frames, holes


@given(ledgers())
def test_a_fold_changes_nothing_about_which_frames_are_stored(
    ledger: tuple[int, list[int], list[Span]],
) -> None:
    up_to, frames, holes = ledger

    def stored(up_to: int, frames: list[int], holes: list[Span]) -> set[int]:
        return {n for n in NUMBERS if n in frames or (n <= up_to and not covered(holes, n))}

    reached, folded = reach(up_to, frames, holes)
    rest = frames[len(folded) :]
    left = [
        piece
        for first, last in holes
        for piece in pieces(first, last, [n for n in folded if first <= n <= last])
    ]
    assert folded == frames[: len(folded)]
    assert stored(reached, rest, left) == stored(up_to, frames, holes)
    assert reached >= up_to
    assert not folded or folded[-1] <= reached


@given(ledgers())
def test_a_fold_goes_as_far_as_it_can(ledger: tuple[int, list[int], list[Span]]) -> None:
    up_to, frames, holes = ledger
    reached, folded = reach(up_to, frames, holes)
    assert reached + 1 not in frames
    assert not covered(holes, reached + 1)
    assert all(number > reached for number in frames[len(folded) :])


@given(st.integers(1, 20), st.integers(0, 10), st.data())
def test_pieces_are_what_is_left(first: int, more: int, data: st.DataObject) -> None:
    last = first + more
    filled = sorted(data.draw(st.sets(st.integers(first, last))))
    left = list(pieces(first, last, filled))
    assert {n for lo, hi in left for n in range(lo, hi + 1)} == {*range(first, last + 1)} - {
        *filled
    }
    assert all(lo <= hi for lo, hi in left)
