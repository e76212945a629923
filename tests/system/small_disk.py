"""A disk that is small enough to be filled, and what fills it."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BLOCK_BYTES = 64 * 1024


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of this size, for as long as it is needed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    folder.mkdir()
    options = f"size={size_bytes},mode=0700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:  # no service that could be installed: the sandbox says so
        pytest.skip(f"this root may not mount: {done.stderr}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path, leave_bytes: int) -> None:
    """Make this file so large that so much is left on its disk."""
    disk = os.statvfs(file.parent)
    with file.open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, disk.f_bavail * disk.f_frsize - leave_bytes)


def fill_up(file: Path) -> None:
    """Make this file so large that nothing is left on its disk, whoever writes there too."""
    block = bytes(BLOCK_BYTES)
    with file.open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
        all(map(ballast.write, itertools.repeat(block)))
