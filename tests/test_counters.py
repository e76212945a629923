"""Shared numbers: each in its own place, whole, and seen by the parent across a fork."""

import os
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import NO_RECORD
from appliance.counters import SLOTS_MAX, TEXT_BYTES_MAX, TEXTS, WORDS, Board, Slot
from appliance.texts import printable

SAID = tuple(name for name in TEXTS if name != "in_hand")
OWNERS = ("collector a", "collector b", "subscriber 1", "recovery ")


def in_child(act: Callable[[], None]) -> None:
    """Run it in a forked child and wait for its end."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


writes = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(WORDS), st.integers(-(2**63), 2**63 - 1)),
        st.tuples(st.just("add"), st.sampled_from(WORDS), st.integers(-(2**40), 2**40)),
        st.tuples(st.just("text"), st.sampled_from(SAID), st.text(max_size=80)),
    ).flatmap(lambda write: st.tuples(st.sampled_from(OWNERS), st.just(write)))
)


NOW = 1_700_000_000


@given(writes)
def test_each_write_changes_its_own_place_only(
    history: list[tuple[str, tuple[str, str, int | str]]],
) -> None:
    board = Board(wall_clock=lambda: NOW + 0.9)
    numbers: dict[tuple[str, str], int] = {}
    texts: dict[tuple[str, str], str] = {}
    for owner, (how, name, value) in history:
        slot = board.slot(owner)
        if isinstance(value, str):
            write_text(slot, name, value)
            texts[owner, name] = value
            if name == "last_error":
                numbers[owner, "error_s"] = NOW
        elif how == "set":
            slot.set(name, value)
            numbers[owner, name] = value
        elif abs(numbers.get((owner, name), 0) + value) < 2**62:
            slot.add(name, value)
            numbers[owner, name] = numbers.get((owner, name), 0) + value
    for owner in OWNERS:
        slot = board.slot(owner)
        assert {name: slot.get(name) for name in WORDS} == {
            name: numbers.get((owner, name), 0) for name in WORDS
        }
        assert slot.held() is None
        for name in SAID:
            assert slot.text(name) == kept(texts.get((owner, name), ""))


def write_text(slot: Slot, name: str, text: str) -> None:
    write = {"waiting_for": slot.waiting_for, "refusing": slot.refusing, "last_error": slot.error}
    write |= {"log_error": slot.log_error}
    write[name](text)


def kept(text: str) -> str:
    """What fits, whatever character that ends in."""
    return printable(text).encode()[:TEXT_BYTES_MAX].decode(errors="replace")


def test_a_text_that_is_too_long_is_cut() -> None:
    slot = Board().slot("a")
    slot.waiting_for("ä" * TEXT_BYTES_MAX)
    assert slot.text("waiting_for") == "ä" * (TEXT_BYTES_MAX // 2)
    slot.error("e" * 2 * TEXT_BYTES_MAX)  # its neighbour
    slot.waiting_for("w" * TEXT_BYTES_MAX)
    assert slot.text("waiting_for") == "w" * TEXT_BYTES_MAX
    assert slot.text("last_error") == "e" * TEXT_BYTES_MAX
    slot.error("")
    slot.waiting_for("short")
    assert slot.text("waiting_for") == "short"
    assert slot.text("last_error") == ""
    slot.waiting_for("")
    assert slot.text("waiting_for") == ""


def test_a_text_that_others_wrote_does_nothing_to_a_terminal() -> None:
    slot = Board().slot("a")
    slot.error("Duplicate entry '\x1b[2Jgone\n\0' for key")
    assert slot.text("last_error") == r"Duplicate entry '\x1b[2Jgone\n\x00' for key"


def test_a_text_that_is_no_unicode_is_said_all_the_same() -> None:
    """A path may hold any bytes; Python has them as lone surrogates."""
    slot = Board().slot("a")
    slot.error(os.fsdecode(b"/tmp/caf\xe9"))
    assert slot.text("last_error").startswith("/tmp/caf")


def test_the_parent_sees_what_a_child_writes_and_keeps_it_when_it_dies() -> None:
    board = Board()
    slot = board.slot("collector s")
    slot.add("records", 5)

    def child() -> None:
        slot.add("records", 2)
        slot.error("it is away")

    in_child(child)
    assert (slot.get("records"), slot.text("last_error")) == (7, "it is away")
    in_child(child)  # its successor goes on counting
    assert slot.get("records") == 9


def test_beats_and_works() -> None:
    now = [111]
    slot = Board(clock_ns=lambda: now[0]).slot("a")
    assert (slot.get("heartbeat_ns"), slot.get("works")) == (0, 0)
    slot.beat()
    assert (slot.get("heartbeat_ns"), slot.get("works")) == (111, 0)
    now[0] = 222
    slot.worked()
    assert (slot.get("heartbeat_ns"), slot.get("works")) == (222, 1)


def test_a_slow_call_is_marked_and_its_end_is_a_beat_first() -> None:
    """The parent looks at any moment: an old beat must never stand beside a cleared mark."""
    now, seen = [0], []

    def clock() -> int:
        now[0] += 1
        seen.append((slot.get("slow"), slot.get("heartbeat_ns")))
        return now[0]

    slot = Board(clock_ns=clock).slot("a")
    with suppress(OSError), slot.slow_call():
        assert (slot.get("slow"), slot.get("heartbeat_ns")) == (1, 1)
        raise OSError
    assert (slot.get("slow"), slot.get("heartbeat_ns")) == (0, 2)
    assert seen == [(1, 0), (1, 1)]


def test_what_is_in_hand_outlives_whoever_held_it() -> None:
    slot = Board().slot("subscriber 1")
    assert slot.held() is None

    def child() -> None:
        slot.in_hand("nfl-subscriber-1", "0a:7")
        slot.set("position", 3)

    in_child(child)
    assert slot.held() == ("nfl-subscriber-1", "0a:7", 3)
    slot.in_hand("nfl-subscriber-2", "")
    assert slot.held() == ("nfl-subscriber-2", "", NO_RECORD)
    slot.error("w" * TEXT_BYTES_MAX)  # its neighbour
    assert slot.held() == ("nfl-subscriber-2", "", NO_RECORD)
    slot.put_down()
    assert slot.held() is None


def test_a_slot_belongs_to_its_owner() -> None:
    board = Board()
    assert board.slot("a") is board.slot("a")
    assert board.slot("a") is not board.slot("b")


def test_there_are_slots_for_so_many_and_no_more() -> None:
    board = Board()
    slots = [board.slot(f"subscriber {n}") for n in range(SLOTS_MAX)]
    for n, slot in enumerate(slots):
        slot.set("records", n)
        slot.error(f"{n}" * 100)
    assert [slot.get("records") for slot in slots] == [*range(SLOTS_MAX)]
    with pytest.raises(ValueError, match=str(SLOTS_MAX)):
        board.slot("one more")
    board.free("subscriber 7")
    again = board.slot("one more")
    assert (again.get("records"), again.text("last_error")) == (0, ""), "nothing of who had it"
    assert slots[8].get("records") == 8
    with pytest.raises(ValueError, match=str(SLOTS_MAX)):
        board.slot("and one more")


@pytest.mark.parametrize("name", ["", "record", "Records"])
def test_a_name_that_is_none(name: str) -> None:
    slot = Board().slot("a")
    for act in (lambda: slot.get(name), lambda: slot.add(name, 1), lambda: slot.set(name, 1)):
        with pytest.raises(KeyError):
            act()
