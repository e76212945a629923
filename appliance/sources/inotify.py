"""Waking up when a file or a directory changes: the kernel's inotify, through libc.

What the file source needs of it and no more: watch, be pollable, drain. Events are never
read for what they say: each means "look again". Where inotify can't be had (no more
instances, a network file system) a `Watcher` watches nothing and `fd` is None; the caller looks
again after a while in any case.
"""

import ctypes
import os

_IN_NONBLOCK, _IN_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_IN_MODIFY, _IN_ATTRIB = 0x2, 0x4
_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CREATE, _IN_DELETE = 0x40, 0x80, 0x100, 0x200

GROWTH = _IN_MODIFY | _IN_ATTRIB
NAMES = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_ATTRIB

_EVENTS_BYTES = 16 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class Watcher:
    """An inotify instance: `fd` becomes readable when something that is watched changes."""

    def __init__(self) -> None:
        fd = _libc.inotify_init1(_IN_NONBLOCK | _IN_CLOEXEC)
        self.fd: int | None = fd if fd >= 0 else None

    def watch(self, path: str, events: int) -> int:
        """Watch a path for these events (GROWTH or NAMES); a name for `forget`, -1 if it can't be.

        Watching what is watched already changes nothing.
        """
        if self.fd is None:
            return -1
        return int(_libc.inotify_add_watch(self.fd, os.fsencode(path), events))

    def forget(self, watched: int) -> None:
        """Watch it no longer; a file that is gone has been forgotten by the kernel already."""
        if self.fd is not None:
            _libc.inotify_rm_watch(self.fd, watched)

    def drain(self) -> None:
        """Take all events that are there, so that `fd` is readable only for later ones."""
        try:
            while self.fd is not None and os.read(self.fd, _EVENTS_BYTES):
                pass
        except BlockingIOError:
            pass  # that was all

    def close(self) -> None:
        """Release the descriptor. Safe to call twice."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
