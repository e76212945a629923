"""What all tests of crashes share: processes die here, and the kernel keeps what they wrote."""

import os

import pytest


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of lives are played, and no disk has to be waited for."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
