"""The spool's contract: the same for the one on a disk and for the tests' own in memory."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from appliance import repair
from appliance import spool as spool_module
from appliance.contracts import Spool, Spooled
from appliance.errors import Unavailable
from appliance.segments import HEAD_BYTES
from appliance.shelf import LOOK_S
from appliance.spool import DiskSpool
from tests.fake_spool import MemoryDisk, MemorySpool
from tests.spooling import PLENTY, Clock, frame, item

FRAMES_A_SEGMENT = 3
ENTRY = HEAD_BYTES + len(item(99))


class World(Protocol):
    """A disk, and processes that spool on it one after the other."""

    def begin(self, bytes_max: int = PLENTY) -> Spool:
        """A new process's spool, opened; the one before is gone."""

    def damage(self, segment: int) -> None:
        """The frames of a segment can't be read any more, the first of them begins it."""

    def repair(self, segment: int) -> None:
        """Those of them that were damaged are there again."""


class RealFiles:
    """Segments in a directory of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "spool" / "tweets"
        self._clock = Clock()

    def begin(self, bytes_max: int = PLENTY) -> Spool:
        spool = DiskSpool(self._directory, bytes_max, monotonic=self._clock)
        spool.open()
        return spool

    def damage(self, segment: int) -> None:
        path = self._directory / f"{segment + 1:020d}.seg"
        data = bytearray(path.read_bytes())
        data[HEAD_BYTES + 5] ^= 4
        path.write_bytes(data)

    def repair(self, segment: int) -> None:
        assert [done.frames for done in repair.repair(self._directory)] == [FRAMES_A_SEGMENT]
        self._clock.now += LOOK_S


class Memory:
    """Lists."""

    def __init__(self) -> None:
        self._disk = MemoryDisk(segment_frames=FRAMES_A_SEGMENT)
        self._damaged: list[Spooled] = []

    def begin(self, bytes_max: int = PLENTY) -> Spool:
        self._disk.bytes_max = bytes_max
        spool = MemorySpool(self._disk)
        spool.open()
        return spool

    def damage(self, segment: int) -> None:
        self._damaged = self._disk.segments[segment]
        self._disk.damage(segment)

    def repair(self, segment: int) -> None:
        self._disk.repair(*self._damaged)


@pytest.fixture(params=["real files", "memory"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return RealFiles(tmp_path) if request.param == "real files" else Memory()


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", FRAMES_A_SEGMENT * ENTRY)


def append(spool: Spool, *numbers: int) -> None:
    for number in numbers:
        spool.append(*frame(number))


def frames(spool: Spool) -> Iterator[Spooled]:
    """Hand over what waits, each compared with what was appended."""
    while shown := spool.oldest():
        assert spool.size > 0
        assert shown.line + bytes(shown.body) == item(shown.header.number)
        yield shown
        spool.forget(shown)


def replay(spool: Spool) -> list[int]:
    return [shown.header.number for shown in frames(spool)]


def newest(spool: Spool) -> int | None:
    header = spool.newest
    return header.number if header else None


def test_an_empty_one(world: World) -> None:
    spool = world.begin()
    assert (spool.size, spool.oldest(), spool.newest, spool.set_aside) == (0, None, None, 0)
    assert spool.notices() == []
    spool.drop()
    spool.close()
    spool.close()


def test_frames_come_in_order_and_each_once(world: World) -> None:
    spool = world.begin()
    sizes = []
    for number in range(1, 8):
        append(spool, number)
        sizes.append(spool.size)
        assert newest(spool) == number
    assert sizes == sorted({*sizes})
    assert replay(spool) == [*range(1, 8)]
    assert (spool.size, spool.newest) == (0, None)
    append(spool, 8)
    assert replay(spool) == [8]


def test_frames_behind_those_that_are_replayed(world: World) -> None:
    spool = world.begin()
    append(spool, 1, 2)
    seen = []
    for shown in frames(spool):
        seen.append(shown.header.number)
        if len(seen) < 6:
            append(spool, 2 + len(seen))
    assert seen == [*range(1, 8)]


def test_the_newest_frame_again_changes_nothing(world: World) -> None:
    spool = world.begin()
    append(spool, 1, 2, 2)
    size = spool.size
    spool = world.begin()
    append(spool, 2)
    assert spool.size == size
    append(spool, 3)
    assert replay(spool) == [1, 2, 3]


def test_it_is_shown_until_it_is_forgotten(world: World) -> None:
    spool = world.begin()
    append(spool, 1, 2)
    shown = [spool.oldest(), spool.oldest()]
    assert [one.header.number for one in shown if one] == [1, 1]
    assert replay(spool) == [1, 2]


def test_a_successor_has_all_that_was_not_forgotten_and_maybe_more_before_it(world: World) -> None:
    spool = world.begin()
    append(spool, *range(1, 8))
    for shown in frames(spool):
        if shown.header.number == 5:
            break
    spool = world.begin()
    assert newest(spool) == 7
    again = replay(spool)
    assert again[-3:] == [5, 6, 7]
    assert again == [*range(again[0], 8)]
    assert replay(world.begin()) == []


def test_drop_forgets_everything_for_good(world: World) -> None:
    spool = world.begin()
    append(spool, *range(1, 6))
    spool.oldest()
    spool.drop()
    assert (spool.size, spool.oldest(), spool.newest) == (0, None, None)
    assert world.begin().size == 0
    append(spool, 9)
    assert replay(spool) == [9]


def test_a_full_one_refuses_and_goes_on_when_there_is_room(world: World) -> None:
    spool = world.begin(bytes_max=3 * ENTRY)
    append(spool, 1, 2)
    refuse = _refused(lambda: append(spool, 3, 4))
    assert refuse.loud
    assert "spool.bytes_max" in refuse.hint
    assert newest(spool) == 3
    assert replay(spool) == [1, 2, 3]
    append(spool, 4)
    assert replay(spool) == [4]


def _refused(act: Callable[[], None]) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        act()
    return refused.value


@pytest.mark.parametrize("segment", [0, 1])
def test_a_damaged_segment_is_set_aside_and_comes_late_when_it_is_repaired(
    world: World, segment: int
) -> None:
    append(world.begin(), *range(1, 8))
    world.damage(segment)
    spool = world.begin()
    gone = range(segment * FRAMES_A_SEGMENT + 1, (segment + 1) * FRAMES_A_SEGMENT + 1)
    assert replay(spool) == [number for number in range(1, 8) if number not in gone]
    assert (spool.set_aside, len(spool.notices()), spool.notices()) == (1, 1, [])
    world.repair(segment)
    assert spool.size > 0
    late = [(shown.header.number, shown.repaired) for shown in frames(spool)]
    assert late == [(number, True) for number in gone]
    assert spool.size == 0


def test_the_line_is_shown_as_it_was_appended(world: World) -> None:
    line, body = frame(1)
    odd = line.replace(b",", b" , ")
    spool = world.begin()
    spool.append(odd, memoryview(body))
    shown = spool.oldest()
    assert shown is not None
    assert (shown.line, bytes(shown.body), shown.repaired) == (odd, body, False)
