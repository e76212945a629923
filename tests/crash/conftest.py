"""What all tests of crashes share: processes die here, and the kernel keeps what they wrote.

Thousands of lives are played, so nothing is waited for that takes the kernel time.
"""

import os
from types import SimpleNamespace

import pytest

from appliance.sources import inotify


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk, and no end of a watch that nobody needs: a file is looked at again and again."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(inotify, "_libc", SimpleNamespace(inotify_init1=lambda _flags: -1))
