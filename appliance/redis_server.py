"""The embedded Redis server: a valkey-server of our own, on a Unix socket in the state directory.

It has no configuration file and no TCP port; each write is on disk before it is answered.
The parent starts it, asks its Popen whether it lives, and never talks to it while it works.

The server outlives a parent that was killed (no PDEATHSIG: others still hand over to it), so
it holds a lock of its own, `valkey.lock`: a descriptor inherited across exec, let go by the
kernel when the server ends, and not before. Whoever wants to start one looks there first:

    take_over()   no server of an earlier run is left; ends it if there is one (blocks)
    start()       a new server; returns at once
    shutdown()    ends it in good order, from any process

A server that was killed in the middle of a write leaves a cut tail in its file; the next one
cuts it off (aof-load-truncated): what was cut had not been answered.
"""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from appliance.addresses import SOCKET_PATH_BYTES_MAX
from appliance.errors import ConfigError, InstanceError, Unavailable

LOG_BYTES_MAX = 1024**2  # a longer log is put aside at the next start
MEMORY_SPARE_BYTES = 64 * 1024**2
TAKE_OVER_S = 10.0  # how long an old server may take to end
KILL_S = 5.0  # how long the kernel may take to end a killed one
SEARCH = ("valkey-server", "redis-server")

SETTINGS = {  # how it keeps what it has taken
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "yes",
    "save": "",
    # A rewrite of its file would spend a third of the server's time under a flood on
    # compressing frames that are stored and gone a moment later.
    "rdbcompression": "no",
    # With nothing to do it would wake ten times a second to see that. What it looks for then it
    # may find a second late: that its file has grown, that a rewrite is done, and a signal, so
    # it is told to end through its socket, too.
    "hz": "1",
}


MAPPED_BYTES_MIN = 32 * 1024**2  # smaller blocks come from the heap; glibc allows no more
HEAP_SPARE_BYTES = 16 * 1024**2  # free at its end before it shrinks

ENVIRONMENT = {
    "LC_ALL": "C",
    # glibc would give the memory of each frame back to the kernel, and get it again page by page
    # for the next one: most of what a push cost while the queue grows. Other allocators don't look.
    "GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={MAPPED_BYTES_MIN}"
    f":glibc.malloc.trim_threshold={HEAP_SPARE_BYTES}",
}


def find_server(environ: Mapping[str, str], prefix: str, bundle: str | None) -> str | None:
    """The server to embed: ours if it came along, else one that is installed.

    `bundle` is the folder of a frozen file's contents, `prefix` that of the Python
    environment, where `make` puts the server.
    """
    ours = [Path(prefix) / "libexec" / "stream-daemon" / "valkey-server"]
    if bundle is not None:
        ours.insert(0, Path(bundle) / "valkey-server")
    for candidate in ours:
        # os.path: a folder that this user can't look into holds no server for it.
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return str(candidate)
    path = environ.get("PATH", os.defpath)
    return next(filter(None, (shutil.which(name, path=path) for name in SEARCH)), None)


class EmbeddedServer:
    """One instance's server in `directory`: its socket, its data, its log, its lock.

    Args:
        bytes_max: queue.bytes_max; the server's own limit lies well above it.
        disk_is_low: whether less than disk_free_min is free (disk.DiskSpace).
        holders: who has a file open (process.holders).
        end: sends a signal and waits for the end (process.kill_and_wait).
    """

    def __init__(
        self,
        directory: Path,
        binary: str,
        bytes_max: int,
        *,
        disk_is_low: Callable[[], bool],
        holders: Callable[[Path], set[int]],
        end: Callable[[int, signal.Signals, float], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._binary = binary
        self._bytes_max = bytes_max
        self._disk_is_low = disk_is_low
        self._holders, self._end, self._clock = holders, end, clock
        self._lock = directory / "valkey.lock"
        self._log = directory / "valkey.log"
        if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                f"state_dir is too long: {self.socket_path} would have more than the"
                f" {SOCKET_PATH_BYTES_MAX} bytes that a Unix socket's path may have",
                "choose a shorter state_dir, or another queue.url than embedded",
            )

    @property
    def socket_path(self) -> Path:
        """Where the server listens."""
        return self._directory / "valkey.sock"

    def lacks_room(self) -> bool:
        """Whether the disk under it is too full for it to live.

        It answers for nothing that it can't write: a full disk makes it end.
        """
        return self._disk_is_low()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start the server; it answers a little later, ask `is_ready`.

        Raises:
            Unavailable: another server still holds the lock, or this one can't be executed.
        """
        lock = self._try_lock()
        if lock is None:
            raise Unavailable(
                f"another server still holds {self._lock}", "it is waited for, nothing to do"
            )
        try:
            return self._spawn(lock)
        except OSError as error:
            raise Unavailable(
                f"{self._binary} can't be started: {error.strerror}",
                "install valkey-server or redis-server, or set queue.url",
                loud=True,
            ) from error
        finally:
            os.close(lock)  # from here on only the server holds it

    def _spawn(self, lock: int) -> "subprocess.Popen[bytes]":
        self._put_log_aside()
        with open(self._log, "ab", opener=_private) as log:
            return subprocess.Popen(
                self._argv(),
                stdin=subprocess.DEVNULL,
                stdout=log,  # what it says before it has read where its log is
                stderr=log,
                pass_fds=(lock,),
                # Nothing of our environment: no secrets, no LD_LIBRARY_PATH of a frozen file,
                # no NOTIFY_SOCKET, no locale (it refuses to start in one that is not installed).
                env=ENVIRONMENT,
                umask=0o077,
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
                preexec_fn=_unblock_signals,
            )

    def _argv(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._directory),
            **SETTINGS,
            "maxmemory": str(self._bytes_max * 3 // 2 + MEMORY_SPARE_BYTES),
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(self._log),
            "loglevel": "warning",  # at notice each rewrite of its file is ten lines
        }
        return [
            self._binary,
            *(word for key, value in options.items() for word in (f"--{key}", value)),
        ]

    def _put_log_aside(self) -> None:
        try:
            if self._log.stat().st_size > LOG_BYTES_MAX:
                self._log.replace(self._log.with_suffix(".log.old"))
        except FileNotFoundError:
            pass

    def take_over(self) -> None:
        """See to it that no server of an earlier run is left; ends it if there is one.

        Takes up to TAKE_OVER_S for one that ends by itself.

        Raises:
            InstanceError: it can't be ended.
        """
        deadline = self._clock() + TAKE_OVER_S
        if self._is_free():
            return
        self.shutdown(TAKE_OVER_S)
        for number, until in ((signal.SIGTERM, deadline), (signal.SIGKILL, None)):
            for pid in self._holders(self._lock) - {os.getpid()}:
                limit_s = KILL_S if until is None else max(0.0, until - self._clock())
                self._end(pid, number, limit_s)
            if self._is_free():
                return
        raise InstanceError(
            f"a server of an earlier run still holds {self._lock}",
            f"find it with `fuser {self._lock}` and end it",
        )

    def ask_to_end(self) -> None:
        """Ask the server at its socket to end in good order; returns at once, whatever it does."""
        with suppress(OSError), self._connect(0.0) as connection:
            connection.sendall(b"SHUTDOWN\r\n")

    def shutdown(self, timeout_s: float) -> bool:
        """Ask the server to end in good order; whether it has (or none was there)."""
        try:
            with self._connect(timeout_s) as connection:
                connection.sendall(b"SHUTDOWN\r\n")
                return connection.recv(1) == b""  # it answers only when it refuses
        except (FileNotFoundError, ConnectionError):
            return True
        except OSError:  # it hangs
            return False

    def is_ready(self, timeout_s: float) -> bool:
        """Whether the server answers now, within timeout_s (while it loads its data: no)."""
        try:
            with self._connect(timeout_s) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(5) == b"+PONG"
        except OSError:
            return False

    def _connect(self, timeout_s: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout_s)
            connection.connect(str(self.socket_path))
        except OSError:
            connection.close()
            raise
        return connection

    def _try_lock(self) -> int | None:
        """A descriptor that holds the lock; None if somebody else holds it."""
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstanceError(
                f"{self._lock} can't be opened: {error.strerror}",
                "state_dir has to belong to the user who runs this",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _is_free(self) -> bool:
        lock = self._try_lock()
        if lock is not None:
            os.close(lock)
        return lock is not None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _unblock_signals() -> None:
    """In the child, before exec: a mask outlives exec, and the parent blocks its signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
