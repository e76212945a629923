"""Free space: a threshold that doesn't flap, and a disk that isn't asked too often."""

import os
from pathlib import Path

from appliance.disk import LOOK_S, DiskSpace

BLOCK = 4096
MIN = 16 * BLOCK
PATH = Path("/queue")


class Disk:
    """A disk with so many free blocks; counts how often it is asked."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.asked = 0
        self.now = 5.0
        self.gone = False

    def statvfs(self, path: Path) -> os.statvfs_result:
        assert path == PATH
        self.asked += 1
        if self.gone:
            raise FileNotFoundError(2, "No such file or directory")
        return os.statvfs_result((BLOCK, BLOCK, 100, self.free + 50, self.free, 0, 0, 0, 0, 255))

    def space(self, free_min: int = MIN) -> DiskSpace:
        return DiskSpace(PATH, free_min, statvfs=self.statvfs, monotonic=lambda: self.now)


def test_it_is_low_below_the_limit_and_until_a_sixteenth_more_is_free() -> None:
    disk = Disk(free=16)
    space = disk.space()
    seen = []
    for free in (16, 15, 16, 17, 16, 0, 16, 40, 15):
        disk.free = free
        disk.now += LOOK_S
        seen.append(space.is_low())
    assert seen == [False, True, True, False, False, True, True, False, True]


def test_a_look_is_true_for_a_second() -> None:
    disk = Disk(free=100)
    space = disk.space()
    assert not any(space.is_low() for _ in range(1000))
    assert disk.asked == 1
    disk.free = 0
    disk.now += LOOK_S / 2
    assert not space.is_low()
    disk.now += LOOK_S / 2
    assert space.is_low()
    assert disk.asked == 2


def test_no_limit_is_never_reached_and_a_disk_that_cannot_be_asked_is_not_low() -> None:
    disk = Disk(free=0)
    assert not disk.space(free_min=0).is_low()
    disk.gone = True
    space = disk.space()
    assert not space.is_low()
    disk.gone = False
    disk.now += LOOK_S
    assert space.is_low()
    disk.gone = True
    disk.now += LOOK_S
    assert not space.is_low()


def test_a_real_disk(tmp_path: Path) -> None:
    assert not DiskSpace(tmp_path, 1).is_low()
    assert DiskSpace(tmp_path, 2**60).is_low()
