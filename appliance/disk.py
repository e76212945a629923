"""Free space on a disk: is there enough of it to go on?

A disk that runs full ends the embedded server (which won't answer for what it can't write), and
everything else that keeps its data there. So reading stops before, at `disk_free_min`. Once it
was too little, it stays so until a sixteenth more than that is free: a disk that breathes
around the limit is one event, not a hundred.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

LOOK_S = 1.0  # a look is true for so long


class DiskSpace:
    """The disk that holds `path`, looked at when asked, at most once in LOOK_S."""

    def __init__(
        self,
        path: Path,
        free_min: int,
        *,
        statvfs: Callable[[Path], os.statvfs_result] = os.statvfs,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._free_min = free_min
        self._statvfs = statvfs
        self._monotonic = monotonic
        self._look_at = 0.0
        self._is_low = False

    def require(self, free_min: int) -> None:
        """Ask for so many bytes from now on."""
        self._free_min = free_min
        self._look_at = 0.0

    def is_low(self) -> bool:
        """Whether less is free than has to be; no, where the disk can't be asked."""
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            wanted = self._free_min + (self._free_min // 16 if self._is_low else 0)
            self._is_low = self._free(wanted) < wanted
        return self._is_low

    def _free(self, otherwise: int) -> int:
        try:
            disk = self._statvfs(self._path)
        except OSError:  # who writes there says what is wrong with it
            return otherwise
        return disk.f_bavail * disk.f_frsize
