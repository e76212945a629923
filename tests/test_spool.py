"""The spool: what append has taken is there after every death, in order, or said to be damaged."""

import errno
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import spool as spool_module
from appliance.errors import Corrupt
from appliance.frame import decode_header
from appliance.segments import HEAD_BYTES, Reader
from appliance.spool import RETRY_S
from tests.fake_disk import (
    FakeFiles,
    Fault,
    Killed,
    Unsynced,
    all_kept,
    all_lost,
    fail,
    kill,
    short,
    torn,
    zeros,
)
from tests.spooling import SOURCE, Life, Story, frame, item

FRAMES_A_SEGMENT = 3
ENTRY = HEAD_BYTES + len(item(99))

# Every way that matters: several segments, a half-replayed one, an emptied spool, new lives.
SCRIPT = "aaaah|aaahhhhhhha|ahhaaaahh|ah"
SHORT_SCRIPT = "aaaah|ahha"


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", FRAMES_A_SEGMENT * ENTRY)


def calls_of(script: str) -> list[str]:
    """The calls that a story makes when nothing goes wrong."""
    story = Story(script)
    story.tell()
    calls = list(story.life.files.calls)
    assert not story.refusals
    story.end()
    assert story.life.notices == []
    return calls


# ── in order, and each once ─────────────────────────────────────────────────────────────


def test_frames_come_back_in_order_over_several_segments() -> None:
    life = Life().open()
    life.append(*range(1, 12))
    assert life.names() == [f"{number:020d}.seg" for number in (1, 2, 3, 4)]
    newest = life.spool.newest
    assert newest is not None
    assert newest.number == 11
    assert life.replay() == [*range(1, 12)]
    assert life.names() == []


def test_the_newest_frame_again_changes_nothing_in_this_life_and_the_next() -> None:
    life = Life().open()
    life.append(1, 2)
    size, calls = life.spool.size, len(life.files.calls)
    life.append(2)
    assert (life.spool.size, len(life.files.calls)) == (size, calls)
    heir = Life(life.disk).open()
    heir.append(2, 2, 3)
    assert heir.replay() == [1, 2, 3]


def test_what_waits_is_shown_until_it_is_forgotten() -> None:
    life = Life().open()
    life.append(1, 2)
    first = life.spool.oldest()
    assert first is not None
    assert life.spool.oldest() is first
    assert not first.repaired
    life.spool.forget(first)
    assert life.replay() == [2]


def test_a_segment_goes_when_all_of_it_was_handed_over_and_no_sooner() -> None:
    life = Life().open()
    life.append(*range(1, 5))
    sizes = []
    for _ in range(4):
        sizes.append((len(life.names()), life.spool.size > 0))
        life.hand_over()
    assert sizes == [(2, True), (2, True), (2, True), (1, True)]
    assert (life.names(), life.spool.size) == ([], 0)
    life.append(5)
    assert life.replay() == [5]


def test_a_half_replayed_segment_is_replayed_from_its_start() -> None:
    life = Life().open()
    life.append(1, 2, 3, 4)
    life.hand_over()
    assert Life(life.disk).open().replay() == [1, 2, 3, 4]


def test_a_frame_larger_than_a_segment_has_one_of_its_own() -> None:
    life = Life().open()
    life.append(1)
    life.spool.append(*frame(2, b"x" * 5 * ENTRY + b"\n"))
    life.append(3)
    assert len(life.names()) == 3
    sizes = []
    while shown := life.spool.oldest():
        sizes.append(len(shown.body))
        life.spool.forget(shown)
    assert sizes == [len(frame(1)[1]), 5 * ENTRY + 1, len(frame(3)[1])]


def test_dropping_forgets_everything_newest_first() -> None:
    life = Life().open()
    life.append(*range(1, 8))
    life.hand_over()
    before = len(life.files.calls)
    life.spool.drop()
    assert life.files.calls[before:].count("unlink") == 3
    assert (life.names(), life.spool.size, life.spool.newest) == ([], 0, None)
    assert life.spool.oldest() is None
    life.append(9)
    assert life.replay() == [9]


def test_killed_while_it_drops_the_oldest_are_left() -> None:
    for kept in range(4):
        life = Life().open()
        life.append(*range(1, 10))
        unlinks = 0

        def die(files: FakeFiles, call: str, kept: int = kept) -> None:
            nonlocal unlinks
            unlinks += call == "unlink"
            if unlinks == kept + 1:
                kill(files, call)

        life.files.faults = dict.fromkeys(range(1000), die)
        with pytest.raises(Killed) if kept < 3 else nullcontext():
            life.spool.drop()
        assert Life(life.disk).open().replay() == [*range(1, 10 - 3 * kept)]


def test_nothing_is_made_before_the_first_frame() -> None:
    life = Life().open()
    assert (life.spool.size, life.spool.oldest(), life.spool.newest) == (0, None, None)
    assert "make" not in life.files.calls
    assert life.names() == []


steps = st.text("aaahhh|", max_size=40)


@given(steps)
def test_whatever_is_done_in_whatever_order(script: str) -> None:
    story = Story(script)
    story.tell()
    story.next_life()
    story.end()


# ── every death ─────────────────────────────────────────────────────────────────────────


def test_killed_at_every_call() -> None:
    calls = calls_of(SCRIPT)
    assert len(calls) > 80
    for number in range(len(calls)):
        _die(number, {number: kill}).end()


def test_killed_in_the_middle_of_every_write() -> None:
    for number in (n for n, call in enumerate(calls_of(SCRIPT)) if call == "pwritev"):
        for length in (0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, ENTRY - 9):
            story = _die(number, {number: short(length), number + 1: kill})
            story.end()
            assert not any(name.endswith(".bad") for name in story.life.names())


def test_killed_again_at_every_call_of_the_life_after() -> None:
    for number in range(len(calls_of(SHORT_SCRIPT))):
        for again in range(10_000):
            story = _die(number, {number: kill}, born=False, script=SHORT_SCRIPT)
            try:
                story.next_life({again: kill})
                story.end()
            except Killed:
                story.next_life()
                story.end()
            else:
                break  # the second life needs no more calls than that


LEFT_BY_A_CRASH: tuple[Unsynced, ...] = (
    all_lost,
    all_kept,
    zeros,
    *(torn(length) for length in (1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 5)),
)


@pytest.mark.parametrize("names_too", [False, True])
@pytest.mark.parametrize("unsynced", LEFT_BY_A_CRASH)
def test_the_machine_dies_at_every_call(unsynced: Unsynced, names_too: bool) -> None:
    for number in range(len(calls_of(SCRIPT))):
        story = _die(number, {number: kill}, born=False)
        story.disk.crash(unsynced, names_too)
        story.next_life()
        story.end()
        assert not any("damaged" in notice for notice in story.life.notices)


def _die(number: int, faults: dict[int, Fault], born: bool = True, script: str = SCRIPT) -> Story:
    """A story that ends at this call, and (born) goes on with a second life."""
    story = Story(script, faults)
    with pytest.raises(Killed):
        story.tell()
    if born:
        story.next_life()
    return story


def test_an_emptied_spool_stays_empty_when_the_machine_dies() -> None:
    life = Life().open()
    life.append(*range(1, 6))
    assert life.replay() == [*range(1, 6)]
    life.disk.crash(all_lost, names_too=True)
    heir = Life(life.disk).open()
    assert (heir.spool.newest, heir.spool.size, heir.names()) == (None, 0, [])


# ── every fault of the disk ─────────────────────────────────────────────────────────────

ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EIO,
    errno.EROFS,
    errno.EACCES,
    errno.EMFILE,
)


@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
def test_every_call_fails_once(error: int) -> None:
    refused = 0
    for number in range(len(calls_of(SCRIPT))):
        story = Story(SCRIPT, {number: fail(error)})
        story.tell()
        refused += len(story.refusals)
        assert all(one.loud and one.hint for one in story.refusals)
        _ends_well(story)
    assert refused > 20, "appends that failed"


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_every_write_takes_only_a_part_and_fails(error: int) -> None:
    for number in (n for n, call in enumerate(calls_of(SCRIPT)) if call == "pwritev"):
        for length in (0, 1, HEAD_BYTES, ENTRY - 9):
            for then in (fail(error), short(0)):
                story = Story(SCRIPT, {number: short(length), number + 1: then})
                story.tell()
                _ends_well(story)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_two_calls_fail_in_a_row_and_the_next_life_has_a_third(error: int) -> None:
    """The second hits what the first one made necessary: taking back, removing, setting aside."""
    for number in range(len(calls_of(SCRIPT))):
        for third in (3, 7):
            story = Story(SCRIPT, {number: fail(error), number + 1: fail(error)})
            story.tell()
            story.life.spool.close()
            story.next_life({third: fail(error)})
            _ends_well(story)


def _ends_well(story: Story) -> None:
    """All that was kept is handed over, or stands in a segment that was set aside and said."""
    story.handed |= {*story.life.pushed}
    replayed = [*_replayed(story.life)]
    set_aside = {*_set_aside(story.life)}
    there = story.handed | {*replayed} | set_aside
    assert {*story.kept} <= there <= {*story.kept}, "nothing lost or made up"
    assert not set_aside or "damaged" in " ".join(story.life.notices)
    assert story.life.files.descriptors == 0


def _replayed(life: Life) -> Iterator[int]:
    """What is handed over until nothing is left, also of what is left out for a while."""
    in_time = []
    for _ in range(3):
        life.clock.now += RETRY_S
        while shown := life.hand_over():
            if not shown.repaired:
                in_time.append(shown.header.number)
            yield shown.header.number
    assert in_time == sorted({*in_time}), "in order, nothing twice"


def _set_aside(life: Life) -> Iterator[int]:
    """The frames in damaged segments that are whole."""
    for name in life.names():
        if name.endswith(".bad"):
            reader = Reader(FakeFiles(life.disk), SOURCE / name)
            try:
                for at, _head in reader.heads(reader.size):
                    yield decode_header(reader.entry(at, reader.size).line).number
            except Corrupt:
                pass
