"""Damage in a spool: found, set aside, the rest replayed; brought back bit for bit, or said."""

import errno
import random
from contextlib import suppress

import pytest

from appliance import repair, salvage
from appliance import spool as spool_module
from appliance.segments import HEAD_BYTES, head_of, parse_head
from appliance.shelf import LOOK_S
from tests.fake_disk import FakeFiles, Killed, all_kept, all_lost, fail, kill
from tests.spooling import RUN, SOURCE, Life, frame, item

FRAMES_A_SEGMENT = 3
ENTRY = HEAD_BYTES + len(item(99))


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", FRAMES_A_SEGMENT * ENTRY)


def name(number: int, kind: str = "seg") -> str:
    return f"{number:020d}.{kind}"


def entry(number: int) -> bytes:
    return head_of(*frame(number)) + item(number)


def damaged(content: bytes) -> Life:
    """A spool of nine frames whose second segment has this content."""
    life = Life().open()
    life.append(*range(1, 10))
    life.files.put(SOURCE / name(2), content)
    return Life(life.disk).open()


UNSEEN_BITS = [115736, 15814, 199092]  # of 40,000 bytes: no CRC-32 sees all three turned
SEGMENT = entry(4) + entry(5) + entry(6)
BITS = range(8 * len(SEGMENT))


def turned(data: bytes, *bits: int) -> bytes:
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# ── every single bit ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("behind", [[7], []], ids=["in the middle", "newest"])
def test_every_bit_of_a_segment_turned_once(behind: list[int]) -> None:
    """First, middle and last frame of it, head and item; the newest isn't taken for unfinished."""
    for bit in BITS:
        life = Life()
        life.files.make(SOURCE)
        for number, content in enumerate([entry(1), turned(SEGMENT, bit), *map(entry, behind)], 1):
            life.files.put(SOURCE / name(number), content)
        replayed = life.open().replay()
        assert [number for number in replayed if number not in (4, 5, 6)] == [1, *behind], bit
        assert life.names() == [name(2, "bad")], bit
        assert "damaged" in life.notices[0]
        assert "spool repair" in life.notices[0]
        if behind:
            (done,) = repair.repair(SOURCE, life.files)
            assert (done.frames, done.bits_turned, done.lost) == (3, 1, ()), bit
            assert bytes(life.files.content(SOURCE / name(2, "repaired.seg"))) == SEGMENT, bit


def test_any_two_bits_are_found_and_never_made_into_something_else() -> None:
    chance = random.Random(7)
    for _ in range(1000):
        bits = chance.sample(BITS, 2)
        life = damaged(turned(SEGMENT, *bits))
        assert {*life.replay()} >= {1, 2, 3, 7, 8, 9}
        assert life.names() == [name(2, "bad")], bits
        (done,) = repair.repair(SOURCE, life.files)
        life.clock.now += LOOK_S
        back = life.replay()  # which compares each frame with what was appended
        assert len(back) == done.frames == 3 - len(done.lost), bits
        assert done.frames >= 2 or any(bit % (8 * ENTRY) < 8 * HEAD_BYTES for bit in bits)


def test_a_guess_that_satisfies_the_crc_alone_is_not_believed() -> None:
    """Three wrong bits that a CRC-32 can't see: with two of them, it names the third."""
    body = bytes(40_000)
    bits = UNSEEN_BITS
    head = parse_head(head_of(body))
    assert head is not None
    assert salvage.crc32(turned(body, *bits)) == head.crc
    assert not head.fits(turned(body, *bits))
    assert salvage._corrected(head, turned(body, *bits[:2])) is None
    assert salvage._corrected(head, turned(body, bits[0])) == body


@pytest.mark.parametrize("length", [1, 2, 3, 7, 64, 1000, 100_000, 1024**2])
def test_the_wrong_bit_of_any_length_is_named(length: int) -> None:
    chance = random.Random(length)
    data = chance.randbytes(length)
    right = salvage.crc32(data)
    last = 8 * length - 1
    for bit in {0, 7, last - 7, last, *(chance.randrange(8 * length) for _ in range(5))}:
        assert salvage.wrong_bit(salvage.crc32(turned(data, bit)) ^ right, length) == bit
    assert salvage.wrong_bit(0, length) is None


# ── unfinished ──────────────────────────────────────────────────────────────────────────


def test_a_tail_torn_at_every_length_is_cut_off() -> None:
    life = Life().open()
    life.append(1, 2)
    path, whole = SOURCE / name(1), entry(1)
    content = bytes(life.files.content(path))
    for length in range(1, len(entry(2))):
        for rest in (entry(2)[:length], bytes(length)):
            life.files.put(path, whole + rest)
            heir = Life(life.disk).open()
            assert bytes(heir.files.content(path)) == whole
            (notice,) = heir.spool.notices()
            assert f"{length} bytes" in notice
            newest = heir.spool.newest
            assert newest is not None
            assert newest.number == 1
            heir.append(2)
            assert heir.replay() == [1, 2]
            assert heir.names() == []
            life.files.put(path, content)


def test_a_segment_that_holds_nothing_whole_is_removed() -> None:
    life = Life().open()
    life.append(1)
    for content in (b"", entry(2)[:-1], bytes(5000)):
        life.files.put(SOURCE / name(2), content)
        heir = Life(life.disk).open()
        assert heir.names() == [name(1)]
        assert heir.spool.size == len(entry(1))


def test_what_is_no_end_is_damage() -> None:
    """Shorter than an entry, but not its beginning; zeros, but not only; older segments."""
    for rest in (b"\0" * 30 + b"x", b"x" * HEAD_BYTES, entry(3)[1:]):
        life = Life().open()
        life.append(1, 2)
        life.files.content(SOURCE / name(1)).extend(rest)
        heir = Life(life.disk).open()
        assert heir.names() == [name(1, "bad")]
    life = damaged(SEGMENT[:-1])
    assert life.replay() == [1, 2, 3, 4, 5, 7, 8, 9]
    assert life.names() == [name(2, "bad")]


# ── damage of other kinds ───────────────────────────────────────────────────────────────


def test_what_can_not_be_brought_back_is_said_and_kept() -> None:
    wrong = turned(SEGMENT, 8 * ENTRY + 8 * HEAD_BYTES, 8 * ENTRY + 8 * HEAD_BYTES + 9)
    life = damaged(wrong)
    life.replay()
    (done,) = repair.repair(SOURCE, life.files)
    (lost,) = done.lost
    assert (done.frames, lost.at, lost.length) == (2, len(entry(4)), len(entry(5)))
    assert lost.why == "more than one of its bits is wrong"
    assert str(done.kept) == name(2, "lost")
    assert bytes(life.files.content(SOURCE / name(2, "lost"))) == wrong
    life.clock.now += LOOK_S
    assert life.replay() == [4, 6]
    assert life.names() == [name(2, "lost")]


def test_a_lost_head_costs_its_frame_alone() -> None:
    life = damaged(b"x" * ENTRY + SEGMENT)
    life.replay()
    (done,) = repair.repair(SOURCE, life.files)
    assert (done.frames, [lost.length for lost in done.lost]) == (3, [ENTRY])


def test_a_frame_of_a_newer_version_is_set_aside_and_kept() -> None:
    newer = item(5).replace(b'"format":1', b'"format":9')
    life = damaged(entry(4) + head_of(newer) + newer + entry(6))
    assert life.replay() == [1, 2, 3, 4, 7, 8, 9]
    (done,) = repair.repair(SOURCE, life.files)
    assert (done.frames, len(done.lost)) == (2, 1)
    assert "format 9 can't be read by this version" in done.lost[0].why


def test_only_the_newest_may_be_unfinished() -> None:
    """Also when the newest is damaged itself, or nothing of it is whole."""
    for newest in (b"x" * ENTRY, entry(7)[:-1]):
        life = damaged(SEGMENT[:-1])
        life.files.put(SOURCE / name(3), newest)
        heir = Life(life.disk).open()
        assert name(2, "bad") in heir.names()
        assert heir.replay() == [1, 2, 3]


def test_random_bytes_are_survived() -> None:
    chance = random.Random(11)
    for _ in range(200):
        content = bytearray(SEGMENT)
        for _ in range(chance.randrange(1, 4)):
            at = chance.randrange(len(content))
            content[at : at + chance.randrange(60)] = chance.randbytes(chance.randrange(60))
        life = damaged(bytes(content))
        assert {*life.replay()} >= {1, 2, 3, 7, 8, 9}
        for done in repair.repair(SOURCE, life.files):
            assert done.frames + len(done.lost) > 0
        life.clock.now += LOOK_S
        life.replay()


def test_repaired_frames_say_so_and_are_noticed_within_a_second() -> None:
    life = damaged(turned(SEGMENT, 100))
    assert life.replay() == [1, 2, 3, 7, 8, 9]
    list(repair.repair(SOURCE, life.files))
    assert life.spool.oldest() is None
    life.clock.now += LOOK_S
    assert life.spool.size == len(SEGMENT)
    assert life.spool.newest is None, "it says nothing of where the source stands"
    shown = life.spool.oldest()
    assert shown is not None
    assert shown.repaired
    life.append(10)
    assert life.replay() == [4, 5, 6, 10]


def test_a_repaired_segment_waits_its_turn_while_another_is_replayed() -> None:
    life = damaged(turned(SEGMENT, 100))
    while (shown := life.hand_over()) and shown.header.number < 7:
        pass
    list(repair.repair(SOURCE, life.files))
    life.clock.now += LOOK_S
    assert life.replay() == [8, 9, 4, 5, 6]


def test_a_repaired_segment_that_is_damaged_again_can_be_repaired_again() -> None:
    life = damaged(turned(SEGMENT, 100))
    life.replay()
    list(repair.repair(SOURCE, life.files))
    life.files.put(SOURCE / name(2, "repaired.seg"), turned(SEGMENT, 2000))
    life.files.put(SOURCE / name(2, "bad"), turned(SEGMENT, 3000))  # its repair was killed
    life.files.put(SOURCE / name(2, "repaired.bad"), b"x")
    life.clock.now += LOOK_S
    life.replay()
    assert name(2, "repaired.repaired.bad") in life.names()
    assert [done.frames for done in repair.repair(SOURCE, life.files)] == [3, 0, 3]


def test_damage_in_the_segment_that_is_appended_to() -> None:
    life = Life().open()
    life.append(1, 2)
    life.files.content(SOURCE / name(1))[HEAD_BYTES + 5] ^= 1
    assert life.spool.oldest() is None
    assert (life.spool.size, life.spool.newest) == (0, None)
    life.append(3)
    assert life.replay() == [3]
    assert life.names() == [name(1, "bad")]


@pytest.mark.parametrize("crash", ["none", "names kept", "names synced", "unlinks first"])
def test_a_repair_that_dies_anywhere_loses_nothing(crash: str) -> None:
    """One segment comes back whole, of the other one a frame is lost."""
    two_bits = turned(SEGMENT, 8 * ENTRY, 8 * ENTRY + 9)
    for number in range(1000):
        life = damaged(turned(SEGMENT, 100))
        life.files.put(SOURCE / name(1), two_bits)
        life.replay()
        life.disk.crash(all_kept, names_too=False)
        files = FakeFiles(life.disk, {number: kill})
        with suppress(Killed):
            list(repair.repair(SOURCE, files))
        if crash != "none":
            life.disk.crash(all_lost, crash != "names kept", crash == "unlinks first")
        heir = Life(life.disk).open()
        list(repair.repair(SOURCE, heir.files))
        assert {*heir.replay(), *_late(heir)} == {4, 5, 6}
        assert [one for one in heir.names() if "lost" in one] == [name(1, "lost")]
        assert not [one for one in heir.names() if "bad" in one]
        if not files.is_dead:
            break
    assert number > 20


def _late(life: Life) -> list[int]:
    life.clock.now += LOOK_S
    return life.replay()


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_repair_that_fails_anywhere_can_be_done_again(error: int) -> None:
    for number in range(1000):
        life = damaged(turned(SEGMENT, 100))
        life.replay()
        files = FakeFiles(life.disk, {number: fail(error)})
        with suppress(OSError):
            list(repair.repair(SOURCE, files))
        assert files.descriptors == 0
        list(repair.repair(SOURCE, life.files))
        assert {*_late(life)} == {4, 5, 6}
        assert life.names() == []
        if number >= len(files.calls):
            break
    assert number > 10


def test_a_block_that_the_disk_can_not_read_costs_its_frames_alone() -> None:
    big = [frame(number, b"x" * 3 * repair.BLOCK_BYTES + b"\n") for number in (4, 5, 6)]
    life = damaged(b"".join(head_of(*one) + b"".join(one) for one in big))
    bad_at = 4 * repair.BLOCK_BYTES  # in the second frame's body

    class Failing(FakeFiles):
        def pread(self, fd: int, length: int, at: int) -> bytes:
            if at <= bad_at < at + length:
                fail(errno.EIO)(self, "pread")
            return super().pread(fd, length, at)

    life.files.rename(SOURCE / name(2), SOURCE / name(2, "bad"))
    (done,) = repair.repair(SOURCE, Failing(life.disk))
    assert (done.frames, done.unreadable_bytes) == (2, repair.BLOCK_BYTES)
    assert [lost.frame for lost in done.lost] == [f"{RUN}:5"]
    assert str(done.kept) == name(2, "lost")
