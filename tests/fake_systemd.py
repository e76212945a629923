"""systemd as one unit sees it: a socket to notify, a store for descriptors, and starts with them.

It reads sd_notify(3) datagrams in a thread, keeps descriptors as systemd does (by name, one that
it has already isn't taken twice), and starts a program with what it keeps, as sd_listen_fds(3) has
it. It decides nothing: a test kills and starts.
"""

import array
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from shutil import rmtree
from typing import Any

WAIT_S = 10.0
MESSAGE_BYTES = 4096  # systemd takes no longer ones
LAUNCHER = """
import fcntl, os, sys
came = [int(fd) for fd in filter(None, sys.argv[1].split(","))]
given = [fcntl.fcntl(fd, fcntl.F_DUPFD, 1000) for fd in came]
for fd in {*came}:
    os.close(fd)
for number, fd in enumerate(given):
    os.dup2(fd, 3 + number, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class FakeSystemd:
    """A unit's systemd.

    Attributes:
        heard: all messages, in their order, each as {key: value}.
        store: what it keeps, by name.
    """

    def __init__(self, room: int = 100, watchdog_s: float = 0.0, abstract: bool = False) -> None:
        self.room = room
        self.watchdog_s = watchdog_s
        self.heard: list[dict[str, str]] = []
        self.store: dict[str, int] = {}
        self._directory = Path(tempfile.mkdtemp(prefix="sd-", dir="/tmp"))  # short, for sockets
        path = f"{self._directory}/notify"
        self.address = f"@{path}" if abstract else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{path}" if abstract else path)
        self._ends, self._end = os.pipe()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "FakeSystemd":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._end)
        self._thread.join(WAIT_S)
        self.empty()
        os.close(self._ends)
        self._socket.close()
        rmtree(self._directory)

    # ── what it hears ───────────────────────────────────────────────────────────────────

    def _read(self) -> None:
        while self._socket in select.select([self._socket, self._ends], [], [])[0]:
            text, rights, _flags, _address = self._socket.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(4 * 16)
            )
            fds = array.array("i")
            for _level, _kind, data in rights:
                fds.frombytes(data)
            with self._news:
                self._take(dict(line.split("=", 1) for line in text.decode().split("\n")), fds)
                self._news.notify_all()

    def _take(self, message: dict[str, str], fds: "array.array[int]") -> None:
        self.heard.append(message)  # first: who waits for a barrier looks here when it is closed
        name = message.get("FDNAME", "stored")
        if message.get("BARRIER"):
            os.close(*fds)
        elif message.get("FDSTORE"):
            assert message["FDPOLL"] == "0", "else it drops what has hung up"
            self._keep(name, *fds)
        elif message.get("FDSTOREREMOVE") and name in self.store:
            os.close(self.store.pop(name))

    def _keep(self, name: str, fd: int) -> None:
        known = any(os.path.sameopenfile(fd, one) for one in self.store.values())
        if known or len(self.store) >= self.room:
            os.close(fd)
        else:
            assert name not in self.store, f"two with the name {name}"
            self.store[name] = fd

    def wait_for(self, what: Callable[[], Any], words: str) -> Any:
        """Wait until this is true of what was heard; its value."""
        deadline = time.monotonic() + WAIT_S
        with self._news:
            while not (value := what()):
                left_s = deadline - time.monotonic()
                assert left_s > 0, f"waited in vain for {words}: {self.heard[-20:]}"
                self._news.wait(left_s)
            return value

    def said(self, key: str) -> list[str]:
        """What was said under this key."""
        return [message[key] for message in self.heard if key in message]

    def wait_for_ready(self, times: int = 1) -> None:
        """Wait until READY=1 was said so often."""
        self.wait_for(lambda: len(self.said("READY")) >= times, f"READY no. {times}")

    def empty(self) -> None:
        """Drop what it keeps: the unit has stopped."""
        for fd in self.store.values():
            os.close(fd)
        self.store.clear()

    # ── what it starts ──────────────────────────────────────────────────────────────────

    def start(
        self,
        words: list[str],
        environ: Mapping[str, str] = os.environ,
        given: Mapping[str, int] | None = None,
        **how: Any,
    ) -> "subprocess.Popen[bytes]":
        """Start it with all that is kept, behind sockets of .socket units (`given`)."""
        with self._news:
            fds = {**(given or {}), **self.store}
            return subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, ",".join(map(str, fds.values())), *words],
                env={**environ, **self.environment(list(fds))},
                pass_fds=list(fds.values()),
                **how,
            )

    def environment(self, names: list[str]) -> dict[str, str]:
        """What it says to a program in its environment, but for the program's pid."""
        said = {"NOTIFY_SOCKET": self.address, "FDSTORE": f"{self.room}"}
        if self.watchdog_s:
            said["WATCHDOG_USEC"] = f"{int(self.watchdog_s * 1e6)}"
        if names:
            said |= {"LISTEN_FDS": f"{len(names)}", "LISTEN_FDNAMES": ":".join(names)}
        return said
