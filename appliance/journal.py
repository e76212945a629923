"""The journal's own socket: one datagram a message, with fields.

The protocol is systemd's "Native Journal Protocol". Used where stderr is the journal's: then
$JOURNAL_STREAM names what descriptor 2 is (systemd.exec(5)). A datagram is "KEY=value\\n" for
each field, or, where the value has several lines, "KEY\\n", its length as 8 bytes little-endian,
the value, "\\n". What is too large for a datagram goes as a sealed file in memory whose descriptor
is sent instead.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"
WAIT_MS = 100  # so long one message waits for a journal that has no room
TOO_LARGE = {errno.EMSGSIZE, errno.ENOBUFS}
GONE = {errno.ECONNREFUSED, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE}

_LENGTH = struct.Struct("<Q")
_TIMEVAL = struct.Struct("@ll")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_behind(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to this descriptor goes to the journal."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def encode(fields: Mapping[str, str]) -> bytes:
    """A message in the journal's protocol."""
    return b"".join(_field(key, value.encode(errors="replace")) for key, value in fields.items())


def _field(key: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%b=%b\n" % (key.encode(), value)
    return b"%b\n%b%b\n" % (key.encode(), _LENGTH.pack(len(value)), value)


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        wait = _TIMEVAL.pack(0, WAIT_MS * 1000)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


class Journal:
    """A connection to it, which a child may share with its parent."""

    def __init__(self, path: str = SOCKET) -> None:
        """Raises OSError where there is no journal."""
        self._path = path
        self._socket = _connected(path)

    def send(self, fields: Mapping[str, str], *, wait: bool = True) -> None:
        """Hand one message over; `wait`: for WAIT_MS, if there is no room for it now.

        Raises:
            OSError: it didn't take it.
        """
        message = encode(fields)
        try:
            self._send(message, wait)
        except OSError as error:
            if error.errno not in GONE:
                raise
            another = _connected(self._path)
            self._socket.close()
            self._socket = another
            self._send(message, wait)

    def _send(self, message: bytes, wait: bool) -> None:
        flags = 0 if wait else socket.MSG_DONTWAIT
        try:
            self._socket.send(message, flags)
        except OSError as error:
            if error.errno not in TOO_LARGE:
                raise
            self._send_as_file(message, flags)

    def _send_as_file(self, message: bytes, flags: int) -> None:
        fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(fd, "wb", buffering=0) as file:
            file.write(message)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._socket, [b""], [fd], flags)
