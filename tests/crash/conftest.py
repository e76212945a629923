"""What all tests of crashes share: processes die here, and the kernel keeps what they wrote."""

import os

import pytest

from appliance.sources import inotify


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of lives are played, and neither a disk nor the end of a watch is waited for."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    monkeypatch.setattr(inotify._libc, "inotify_init1", lambda _flags: -1)
