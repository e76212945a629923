"""systemd: what it tells us at our start, what we tell it, and its store for descriptors.

What it tells stands in our environment (systemd.exec(5), sd_listen_fds(3), sd_watchdog_enabled(3)),
what we tell goes in datagrams to the socket that it names there (sd_notify(3)): lines KEY=VALUE,
with a descriptor or without. There are no answers. It may be busy for seconds (daemon-reload), and
then its socket takes nothing: what could not be said waits in `Channel`, the newest of each kind,
and is said at the next turn of the parent's loop.

The descriptor store keeps duplicates of our sockets while we are away and gives them to the next
start with their names (fdnames.py). What it does, each tried with systemd 252 and 257:

- It looks whether a descriptor has hung up, and drops it then, unless FDPOLL=0: there may be bytes
  in it still.
- It drops what goes over FileDescriptorStoreMax= in silence, so we count.
- A close of ours isn't seen by the other side while the store has a duplicate: FDSTOREREMOVE first.
- It is emptied when the unit stops, and kept for a restart, whoever asks for that.

Whether a TERM is half of a restart is not in the signal; the unit's job says it. It is asked for
twice. The unit's ExecStop= asks as root, before the TERM, and announces a restart by URG: that
needs no bus. Where nothing was announced we ask over the bus: ExecStop= isn't run while the unit is
still starting, and other units may have none. Where nobody answers (a bus lets a dynamic user in
only if libnss-systemd is installed) it is a stop, in which nothing is lost, and senders are told.
"""

import logging
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.fdnames import Inherited
from appliance.texts import printable

VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "FDSTORE",
    "STREAM_DAEMON_FDSTORE",
)
"""Meant for the one process that systemd has started, so for nobody whom we start."""

LISTEN_FDS_START = 3  # the first descriptor that is handed over (sd_listen_fds(3))
UNNAMED = "unknown"  # what systemd calls a descriptor without a name
STATUS_CHARS_MAX = 500  # of a status line; `systemctl status` shows one line
JOB_S = 2.0  # so long systemd may take to say what it is doing with us
ANNOUNCED_S = 10.0  # so long after its announcement a stop is half of a restart
SETTLE_S = 5.0  # so long systemd may take to do what was said
PATH = "/usr/bin:/bin"  # where systemctl is

_log = logging.getLogger("systemd")


@dataclass(frozen=True, slots=True)
class Given:
    """What systemd has told this process at its start.

    Attributes:
        notify: the socket to tell it things; empty: it wants to hear nothing.
        watchdog_s: within so many seconds it wants to hear that we live; 0: it doesn't.
        store_max: so many descriptors its store keeps for this unit; 0: none, or not known.
    """

    notify: str = ""
    watchdog_s: float = 0.0
    store_max: int = 0


def given(environ: Mapping[str, str], pid: int) -> Given:
    """What systemd has told us; nothing if it was meant for another process."""
    notify = environ.get("NOTIFY_SOCKET", "")
    if not notify.startswith(("/", "@")) or environ.get("SYSTEMD_EXEC_PID", f"{pid}") != f"{pid}":
        return Given()
    watched = environ.get("WATCHDOG_PID", f"{pid}") == f"{pid}"
    watchdog_us = _number(environ.get("WATCHDOG_USEC")) if watched else 0
    # systemd says it from 254 on; for older ones the unit does.
    store_max = _number(environ.get("FDSTORE") or environ.get("STREAM_DAEMON_FDSTORE"))
    return Given(notify, watchdog_us / 1e6, store_max)


def inherited(environ: Mapping[str, str], pid: int) -> tuple[Inherited, dict[int, str]]:
    """The sockets that systemd has handed over, by their names; and their names by their inodes.

    The name is empty where the unit's store doesn't have one: those of .socket units, which keep
    them anyway. Nobody whom we start gets any of them. Call it once, before anything is opened.
    """
    came, held = Inherited(), {}
    for name, fd in _handed_over(environ, pid):
        os.set_inheritable(fd, False)
        try:
            thing = socket.socket(fileno=fd)
        except OSError:
            _log.warning("systemd has handed over %s, which is no socket: closed", name)
            os.close(fd)
            continue
        held[_inode(thing)] = name if came.add(name, thing) else ""
    return came, held


def _handed_over(environ: Mapping[str, str], pid: int) -> Iterator[tuple[str, int]]:
    if environ.get("LISTEN_PID") != f"{pid}":
        return
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    for at in range(_number(environ.get("LISTEN_FDS"))):
        yield names[at] if at < len(names) else UNNAMED, LISTEN_FDS_START + at


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


def _inode(thing: Any) -> int:
    return os.fstat(thing.fileno()).st_ino


# ── telling it ──────────────────────────────────────────────────────────────────────────


class Channel:
    """The socket on which systemd hears us. Never blocks, never raises.

    What it doesn't take now waits: of each kind the newest, in the order in which they came.
    """

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._unsent: dict[str, tuple[str, Any]] = {}

    @property
    def unsent(self) -> int:
        """How many messages wait."""
        return len(self._unsent)

    @property
    def has_things(self) -> bool:
        """Whether a descriptor is among what waits."""
        return any(thing is not None for _text, thing in self._unsent.values())

    def say(self, kind: str, text: str, thing: Any = None) -> None:
        """Say this, with a descriptor or without; the caller keeps `thing` open until it is said
        or something else of this kind is.
        """
        self._unsent.pop(kind, None)
        self._unsent[kind] = (text, thing)
        self.flush()

    def flush(self) -> None:
        """Say what waits, as far as it is taken."""
        for kind, (text, thing) in list(self._unsent.items()):
            if not self._is_taken(text, thing):
                return
            del self._unsent[kind]

    def barrier(self, timeout_s: float) -> bool:
        """Wait until all that was said is done, as far as that can be had; whether it is.

        systemd closes the descriptor that comes with BARRIER=1 behind what came before
        (sd_notify_barrier(3), from 246 on).
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                self.say("barrier", "BARRIER=1", theirs)
                if "barrier" in self._unsent:  # it is too busy to wait for
                    del self._unsent["barrier"]
                    return False
            ours.settimeout(timeout_s)
            try:
                return ours.recv(1) == b""
            except TimeoutError:
                return False

    def _is_taken(self, text: str, thing: Any) -> bool:
        """A socket for each message, as sd_notify does it: children inherit none."""
        fds = [thing.fileno()] if thing is not None else []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fds[0]))] if fds else []
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendmsg([text.encode()], rights, socket.MSG_NOSIGNAL, self._address)
        except OSError:  # it is busy, or being replaced; or no descriptor is left for `sender`
            return False
        return True


class Manager:
    """The service manager systemd (contract: ServiceManager).

    Args:
        job: what it does with our unit now, see `job_of`.
    """

    def __init__(
        self,
        channel: Channel,
        watchdog_s: float,
        job: Callable[[], str | None],
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._channel = channel
        self._job = job
        self._clock_ns = monotonic_ns
        self._alive_every_ns = int(watchdog_s * 1e9) // 2  # as sd_watchdog_enabled(3) wants it
        self._alive_at_ns = 0
        self._restarts_until_ns = 0

    def starting(self, more_s: float) -> None:
        """We aren't ready, and need so many seconds more."""
        self._channel.say("time", f"EXTEND_TIMEOUT_USEC={_us(more_s)}")

    def ready(self, status: str) -> None:
        """We do what we are here for."""
        self._channel.say("state", f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        """How it goes, in one line."""
        self._channel.say("status", f"STATUS={_line(text)}")

    def alive(self) -> None:
        """The loop has turned; said as often as systemd wants to hear it."""
        self._channel.flush()
        now_ns = self._clock_ns()
        if self._alive_every_ns and now_ns >= self._alive_at_ns:
            self._alive_at_ns = now_ns + self._alive_every_ns
            self._channel.say("alive", "WATCHDOG=1")

    def reloading(self) -> None:
        """A new configuration is being put in place; `ready` says that it is."""
        now_us = self._clock_ns() // 1000
        self._channel.say("state", f"RELOADING=1\nMONOTONIC_USEC={now_us}")

    def stopping(self, more_s: float) -> None:
        """We are ending, and need so many seconds more."""
        self._channel.say("state", f"STOPPING=1\nEXTEND_TIMEOUT_USEC={_us(more_s)}")

    def restart_follows(self) -> None:
        """The stop that comes within ANNOUNCED_S is half of a restart."""
        self._restarts_until_ns = self._clock_ns() + int(ANNOUNCED_S * 1e9)

    def comes_back(self) -> bool:
        """Whether a stop that has come now is half of a restart. Takes up to JOB_S."""
        return self._clock_ns() < self._restarts_until_ns or "restart" in (self._job() or "")


def _us(time_s: float) -> int:
    return int(time_s * 1e6)


def _line(text: str) -> str:
    """One line: what stands in another would be another message."""
    return printable(text)[:STATUS_CHARS_MAX]


# ── its store ───────────────────────────────────────────────────────────────────────────


class Store:
    """systemd's store for our descriptors (contract: Holder).

    Args:
        room: so many it keeps (FileDescriptorStoreMax=).
        held: what is held already, by inode: under which name; empty: by a .socket unit, so that
            the store needn't.
    """

    def __init__(self, channel: Channel, room: int, held: Mapping[int, str] | None = None) -> None:
        self._channel = channel
        self._room = room
        self._held = dict(held or {})
        self._kept: set[str] = set()
        self._without: dict[str, Any] = {}  # those for which there was no room
        self._said = False

    @property
    def holds(self) -> bool:
        """Whether it keeps all that it was given: what nobody reads in the others would be lost."""
        if self._channel.has_things:
            self._channel.flush()
        return self._room > 0 and not self._without and not self._channel.has_things

    def keep(self, name: str, thing: Any) -> None:
        """Keep a duplicate; what it has already under this name stays as it is.

        It takes no socket twice, so that one with another name has to be let go of before.
        """
        held = self._held.get(_inode(thing), name)
        if not self._room or not held:
            return
        if held != name:
            del self._held[_inode(thing)]
            self.release(held)
        if len(self._kept) >= self._room:
            self._without[name] = thing
            self._say_full()
            return
        self._kept.add(name)
        self._channel.say(name, f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", thing)

    def release(self, name: str) -> None:
        """Let go of what has this name; another for which there was no room takes its place."""
        if not self._room or self._without.pop(name, None) is not None:
            return
        self._kept.discard(name)
        self._channel.say(name, f"FDSTOREREMOVE=1\nFDNAME={name}")
        if self._without and len(self._kept) < self._room:
            waiting = next(iter(self._without))
            self.keep(waiting, self._without.pop(waiting))

    def settle(self) -> None:
        """Wait until what was released is let go of, SETTLE_S at most."""
        if self._room:
            self._channel.barrier(SETTLE_S)

    def _say_full(self) -> None:
        if not self._said:
            _log.warning(
                "systemd keeps %d sockets of this unit, and there are more: until there are fewer, "
                "a restart ends all connections as a stop does; raise FileDescriptorStoreMax=",
                self._room,
            )
            self._said = True


# ── asking it ───────────────────────────────────────────────────────────────────────────


def job_of(cgroup: str, environ: Mapping[str, str]) -> str | None:
    """What systemd does with the unit in this control group now, in its words ("stop", "restart").

    Empty: nothing; so whoever has sent a signal has sent it himself. None: it can't be asked.
    Takes up to JOB_S.

    Args:
        cgroup: what /proc/self/cgroup holds.
        environ: for an instance of a user's own, to find his systemd.
    """
    unit, is_users = unit_in(cgroup)
    if not unit:
        return None
    words = ["systemctl", "--no-pager", "--no-legend", "--plain", "list-jobs"]
    own = {"PATH": PATH, "LC_ALL": "C"}
    if is_users:
        words.insert(1, "--user")
        own |= {key: environ[key] for key in ("XDG_RUNTIME_DIR",) if key in environ}
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, env=own, timeout=JOB_S, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return _job_in(done.stdout, unit) if done.returncode == 0 else None


def _job_in(table: str, unit: str) -> str:
    """The unit's line is: number, unit, what, state."""
    jobs = (line.split() for line in table.splitlines())
    return next((job[2] for job in jobs if len(job) > 2 and job[1] == unit), "")


def unit_in(cgroup: str) -> tuple[str, bool]:
    """The unit whose control group this is (empty: none), and whether a user's systemd runs it."""
    for line in cgroup.splitlines():
        parts = line.rpartition(":")[2].split("/")
        services = [part for part in parts if part.endswith(".service")]
        if services:
            return services[-1], len(services) > 1 and services[0].startswith("user@")
    return "", False


def own_job() -> str | None:
    """What systemd does with our unit now; see `job_of`."""
    with suppress(OSError):
        return job_of(Path("/proc/self/cgroup").read_text(), os.environ)
    return None
