"""The spool: what append has taken is there after every death, in order, or said to be damaged."""

import errno
import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import spool as spool_module
from appliance.errors import Corrupt, Unavailable
from appliance.frame import decode_header
from appliance.segments import HEAD_BYTES, Reader
from appliance.shelf import LOOK_S
from appliance.spool import DiskSpool, usage
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
from tests.spooling import PLENTY, SOURCE, Life, Story, frame, item

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


# ── what makes an append safe ───────────────────────────────────────────────────────────


def test_an_append_syncs_the_data_then_the_name_before_it_returns() -> None:
    life = Life().open()
    life.append(1)
    made = life.files.calls
    assert made[made.index("pwritev") :] == ["pwritev", "fsync", "open", "fsync directory"]
    assert made[: made.index("pwritev")].count("fsync directory") == 3, "where it lies, too"
    before = len(made)
    life.append(2)
    assert made[before:] == ["pwritev", "fsync"], "one write and one sync for each frame"


def test_a_frame_that_a_predecessor_may_not_have_synced_is_written_again() -> None:
    life = Life(faults={}).open()
    life.append(1)
    life.files.faults = {len(life.files.calls) + 1: kill}  # after the write, before its sync
    with pytest.raises(Killed):
        life.append(2)
    heir = Life(life.disk).open()
    heir.append(2)  # nothing to do
    heir.disk.crash(all_lost, names_too=True)
    assert Life(life.disk).open().replay() == [1, 2]


def test_what_a_failed_sync_forgot_is_not_relied_on() -> None:
    """The system takes it for written, and so would a successor that only reads it."""
    life = Life().open()
    life.append(1)
    sync = len(life.files.calls) + 1
    life.files.faults = {sync: fail(errno.EIO), sync + 1: kill}  # before it is taken back
    with pytest.raises(Killed):
        life.append(2)
    heir = Life(life.disk).open()
    heir.append(2)
    heir.append(3)
    heir.disk.crash(all_lost, names_too=True)
    assert Life(life.disk).open().replay() == [1, 2, 3]


def test_a_segment_whose_sync_failed_takes_nothing_more() -> None:
    life = Life().open()
    life.append(1)
    sync = len(life.files.calls) + 1
    life.files.faults = {sync: fail(errno.EIO), sync + 1: fail(errno.EIO)}
    with pytest.raises(Unavailable):
        life.append(2)
    life.append(2, 3)
    assert len(life.names()) == 2
    life.disk.crash(all_lost, names_too=True)
    assert Life(life.disk).open().replay() == [1, 2, 3]


def test_a_frame_that_can_not_be_synced_again_is_appended_again() -> None:
    life = Life().open()
    life.append(1, 2)
    heir = Life(life.disk, {_nth(life, "pwritev"): fail(errno.EIO)}).open()
    assert "Input/output error" in heir.spool.notices()[0]
    size = heir.spool.size
    heir.append(2)
    assert heir.spool.size > size
    assert heir.replay() == [1, 2, 2]


def _nth(life: Life, call: str) -> int:
    """The first such call of a next life."""
    next_life = Life(life.disk).open()
    return next_life.files.calls.index(call)


# ── no room ─────────────────────────────────────────────────────────────────────────────


def test_full() -> None:
    life = Life(bytes_max=5 * ENTRY).open()
    life.append(1, 2, 3, 4)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"is full: it has \d+ of \d+ bytes") as refused:
            life.append(5, 6)
        assert refused.value.loud
        assert "raise spool.bytes_max" in refused.value.hint
    newest = life.spool.newest
    assert newest is not None
    assert newest.number == 5
    assert life.replay() == [1, 2, 3, 4, 5]
    life.append(6)
    assert life.replay() == [6]


def test_what_other_sources_and_damaged_segments_have_counts() -> None:
    other = Life(directory=SOURCE.parent / "other").open()
    other.append(1, 2)
    life = Life(other.disk, bytes_max=4 * ENTRY).open()
    life.append(1)
    life.files.put(SOURCE / f"{7:020d}.bad", bytes(ENTRY))
    life.append(2)  # the last look is true for a second
    life.clock.now += LOOK_S
    with pytest.raises(Unavailable, match="is full"):
        life.append(3)
    assert usage(SOURCE.parent, life.files) == other.spool.size + life.spool.size + ENTRY
    assert usage(SOURCE.parent / "missing", life.files) == 0


def test_a_disk_that_is_low() -> None:
    low = True
    spool = DiskSpool(SOURCE, PLENTY, files=Life().files, disk_is_low=lambda: low)
    spool.open()
    with pytest.raises(Unavailable, match="less than disk_free_min is free") as refused:
        spool.append(*frame(1))
    assert "make room" in refused.value.hint
    low = False
    spool.append(*frame(1))
    assert spool.size > 0


def test_what_is_said_of_a_disk_that_takes_nothing() -> None:
    for error, hint in (
        (errno.ENOSPC, "make room"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "the disk fails"),
        (errno.EACCES, "must be able to write"),
    ):
        life = Life().open()
        life.append(1)
        life.files.faults = dict.fromkeys(range(1000), fail(error))
        with pytest.raises(Unavailable) as refused:
            life.append(2)
        assert os.strerror(error) in refused.value.message
        assert hint in refused.value.hint


# ── what can't be read now ──────────────────────────────────────────────────────────────


def test_a_directory_that_can_not_be_listed_keeps_everything_waiting() -> None:
    """Otherwise newer frames went first, and the older ones would be taken for known."""
    life = Life().open()
    life.append(1, 2)
    heir = Life(life.disk, dict.fromkeys(range(1000), fail(errno.EACCES))).open()
    assert heir.spool.size > 0
    for act in (heir.spool.oldest, lambda: heir.append(3)):
        with pytest.raises(Unavailable, match="can't be listed: Permission denied") as refused:
            act()
        assert refused.value.loud
    assert len(heir.spool.notices()) == 1
    heir.files.faults = {}
    heir.append(3)
    assert heir.replay() == [1, 2, 3]


def test_a_segment_that_can_not_be_opened_is_waited_for() -> None:
    life = Life().open()
    life.append(*range(1, 8))
    heir = Life(life.disk).open()
    heir.hand_over()
    heir = Life(life.disk).open()
    opens = len(heir.files.calls)
    heir.files.faults = dict.fromkeys(range(opens, opens + 3), fail(errno.EACCES))
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"1\.seg: Permission denied"):
            heir.spool.oldest()
    assert heir.replay() == [*range(1, 8)]


def test_damage_that_can_not_be_set_aside_is_waited_for() -> None:
    life = Life().open()
    life.append(*range(1, 5))
    life.files.content(SOURCE / f"{1:020d}.seg")[HEAD_BYTES] ^= 1

    def rename_fails(files: FakeFiles, call: str) -> None:
        if call == "rename":
            fail(errno.EROFS)(files, call)

    heir = Life(life.disk).open()
    heir.files.faults = dict.fromkeys(range(1000), rename_fails)
    for _ in range(2):
        with pytest.raises(Unavailable, match="can't be set aside: Read-only"):
            heir.spool.oldest()
    assert heir.spool.set_aside == 0
    heir.files.faults = {}
    assert heir.replay() == [4]
    assert heir.spool.set_aside == 1


def test_foreign_things_in_the_directory_are_left_alone() -> None:
    life = Life().open()
    life.append(1)
    for name in ("README", "1.seg", f"{9:020d}.seg.bak", f"{9:020d}.new", f"{8:020d}.lost"):
        life.files.put(SOURCE / name, b"something")
    life.files.make(SOURCE / f"{5:020d}.seg")
    heir = Life(life.disk).open()
    assert f"{5:020d}.seg is left where it is: it is no file" in heir.spool.notices()[0]
    heir.append(2)
    assert f"{10:020d}.seg" in heir.names(), "no number is used again"
    assert heir.replay() == [1, 2]
    assert len(heir.names()) == 6


def test_a_segment_out_of_a_backup_comes_late() -> None:
    life = Life().open()
    life.append(*range(1, 7))
    backup = bytes(life.files.content(SOURCE / f"{1:020d}.seg"))
    assert life.replay() == [*range(1, 7)]
    life.files.put(SOURCE / f"{1:020d}.seg", backup)
    assert life.spool.size == 0
    life.clock.now += LOOK_S
    assert life.spool.size == len(backup)
    assert [life.spool.oldest().repaired] == [True]  # type: ignore[union-attr]
    assert life.replay() == [1, 2, 3]


def test_a_segment_that_somebody_removed_is_said() -> None:
    life = Life().open()
    life.append(*range(1, 7))
    life.files.unlink(SOURCE / f"{1:020d}.seg")
    assert life.replay() == [4, 5, 6]
    assert "is gone, and with it what was in it" in life.notices[0]
    assert life.spool.set_aside == 1


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
def test_a_call_fails_and_then_the_machine_dies(error: int) -> None:
    for number in range(len(calls_of(SCRIPT))):
        story = Story(SCRIPT, {number: fail(error)})
        story.tell()
        story.disk.crash(all_lost, names_too=True)
        story.next_life()
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
    _replay(story.life)
    set_aside = {*_set_aside(story.life)}
    there = story.life.queue | set_aside
    assert {*story.kept} <= there <= {*story.kept}, "nothing lost or made up"
    assert not set_aside or "damaged" in " ".join(story.life.notices)
    assert story.life.files.descriptors == 0


def _replay(life: Life) -> None:
    """Hand over until nothing is left; a fault that is planned may still come."""
    for _ in range(3):
        life.clock.now += LOOK_S
        try:
            life.replay()
        except Unavailable:
            continue


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
