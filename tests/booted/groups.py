"""A control group for each machine: else two of them, booted at once, share those of their units.

nspawn takes the group in which it is started for the root of the machine's groups. Both layouts
are met: one hierarchy (version 2), or systemd's own beside the controllers' (version 1).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.daemon import until

MOUNTS = [Path("/sys/fs/cgroup") / name for name in ("", "systemd", "unified")]
EMPTY_S = 30.0


@contextmanager
def group(name: str) -> Iterator[list[Path]]:
    """The group in each hierarchy that systemd uses; removed at the end, with all below it."""
    made = [mount / name for mount in MOUNTS if (mount / "cgroup.procs").exists()]
    for folder in made:
        folder.mkdir()
    try:
        yield made
    finally:
        for folder in made:
            until(lambda one=folder: _is_removed(one), EMPTY_S, f"{folder} to be empty")


def join(groups: list[Path]) -> None:
    """Move this process there."""
    for folder in groups:
        (folder / "cgroup.procs").write_text(str(os.getpid()))


def _is_removed(folder: Path) -> bool:
    """Whether it could be removed: the kernel takes a moment to bury who was killed."""
    try:
        for place, _folders, _files in os.walk(folder, topdown=False):
            os.rmdir(place)
    except OSError:
        return False
    return True
