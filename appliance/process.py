"""What Linux offers a parent and its children: locks, signals by descriptor, death notes.

Everything here speaks to the kernel about processes and nothing else; who is restarted
when is decided in watchdog.py.
"""

import ctypes
import fcntl
import math
import os
import re
import resource
import select
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import setproctitle

from appliance import signals
from appliance.errors import InstanceError

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
SFD_NONBLOCK, SFD_CLOEXEC = 0o4000, 0o2000000
SIGINFO_BYTES = 128
ENV_START = 47  # of the fields in /proc/PID/stat behind the name, which may hold spaces
NOFILE_SPARE = 128  # descriptors beside the connections
EXACT_S_MAX = 0.1  # poll(2) counts milliseconds: a wait of more than this may end one late
ERRAND_GRACE_S = 5.0  # what an errand gets to finish what it has in hand, once it shall end


# ── the parent's signals ────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Received:
    """A signal, who sent it, and how (si_code ≤ 0: a process; else the kernel)."""

    signal: signal.Signals
    code: int
    pid: int


class SignalFd:
    """Signals as something to poll (signalfd(2)): nothing ever interrupts the parent.

    The signals are blocked from here on; children and the server restore the mask.
    """

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        wanted = set(wanted)
        # Whoever started us may ignore it, and children would be gone before they are asked.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        mask = (ctypes.c_uint8 * 128)()
        for number in wanted:
            mask[(number - 1) // 8] |= 1 << (number - 1) % 8
        self._fd = _checked(
            # The kernel's sigset_t is 8 bytes; glibc's wrapper passes the right size.
            _libc.signalfd(-1, ctypes.byref(mask), SFD_NONBLOCK | SFD_CLOEXEC)
        )

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._fd

    def read(self) -> Iterator[Received]:
        """The signals that have come since the last call."""
        while True:
            try:
                info = os.read(self._fd, SIGINFO_BYTES)
            except BlockingIOError:
                return
            number, _errno, code, pid = struct.unpack_from("IiiI", info)
            yield Received(signal.Signals(number), code, pid)

    def close(self) -> None:
        """Close the descriptor; the mask stays."""
        os.close(self._fd)


def restore_signal_mask() -> None:
    """Unblock everything: for a child, and before the exec of a server."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


# ── a child's life ──────────────────────────────────────────────────────────────────────


class Wish:
    """What the parent has asked of this child: handlers leave a note, the loop reads it.

    `fileno` becomes readable when a signal came, so every wait can include it.
    """

    meanings: Mapping[signal.Signals, str] = signals.CHILD
    ignored: Iterable[signal.Signals] = signals.CHILD_IGNORES

    def __init__(
        self, parent: int, drain_s: float, kept: Callable[[], bool] = lambda: False
    ) -> None:
        self.drain = False
        self.quick = False
        self._kept = kept
        self._left = False
        self._parent = parent
        self._drain_s = drain_s
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in self.ignored:
            signal.signal(number, signal.SIG_IGN)
        for number in self.meanings:
            signal.signal(number, self._note)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # what `allow` relies on
        restore_signal_mask()

    @property
    def stop(self) -> bool:
        """Whether this child shall end."""
        return self.drain or self.quick or self._left

    @property
    def leave(self) -> bool:
        """Whether somebody goes on with our connections, so that nobody may notice our end.

        Told so by the parent; or the parent is gone, and somebody beside it keeps them.
        """
        return self._left or (self.drain and self.orphaned and self._kept())

    @property
    def orphaned(self) -> bool:
        """Whether the parent is gone."""
        return os.getppid() != self._parent

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._read

    def wait(self, timeout_s: float) -> None:
        """Block until a signal comes or the timeout is over."""
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        rest_ms, whole_ms = math.modf(max(0.0, timeout_s) * 1000)
        if timeout_s > EXACT_S_MAX:
            poller.poll(whole_ms + 1)
        elif not poller.poll(whole_ms):
            time.sleep(rest_ms / 1000)
        self.clear()

    def clear(self) -> None:
        """Make `fileno` quiet again; the wishes stay."""
        try:
            while os.read(self._read, 512):
                pass
        except BlockingIOError:
            pass

    def allow(self, time_s: float) -> None:
        """Once orphaned: die in so many seconds, instead of in drain_s."""
        signal.setitimer(signal.ITIMER_REAL, time_s)

    def _note(self, number: int, _frame: object) -> None:
        match self.meanings[signal.Signals(number)]:
            case "nudge":
                pass  # it ends a wait, and what there is to do is said in the slot
            case "quick":
                self.quick = True
            case "leave":
                self._left = True
            case _:
                self.drain = True
        if self.stop and self.orphaned:
            # Nobody is left who could kill us when we hang: SIGALRM's default does.
            self.allow(self._drain_s)


class Overdue(BaseException):
    """An errand's time is over, and what it has in hand doesn't end by itself.

    No `Exception`, so that nobody on the way takes it for an error to wait out.
    """


class Errand(Wish):
    """The wish of a verb that works in its own process: signals, and a limit of time.

    A signal, or the limit, asks it to end with what it has in hand. A second signal, or
    ERRAND_GRACE_S, interrupts that: Overdue is raised wherever it is, once. Use it in `with`.
    """

    meanings = signals.ERRAND
    ignored = ()

    def __init__(self, limit_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._ends_at = monotonic() + limit_s
        self._interrupted = False
        # Whoever starts us with one ignored (nohup) means it.
        wanted = {n: word for n, word in signals.ERRAND.items() if not _is_ignored(n)}
        self.meanings = wanted
        self._before = {number: signal.getsignal(number) for number in wanted}
        super().__init__(os.getppid(), limit_s)
        signal.signal(signal.SIGALRM, self._interrupt)
        self.allow(limit_s + ERRAND_GRACE_S)

    def __enter__(self) -> "Errand":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.allow(0)  # never
        os.close(signal.set_wakeup_fd(-1))
        os.close(self._read)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @property
    def stop(self) -> bool:
        """Whether to end: by a signal, or because the time is over."""
        return super().stop or self._left_s() <= 0

    def wait(self, timeout_s: float) -> None:
        """Block until a signal comes, or the timeout or the errand's time is over."""
        super().wait(min(timeout_s, self._left_s()))

    def _left_s(self) -> float:
        return self._ends_at - self._monotonic()

    def _note(self, number: int, frame: object) -> None:
        if self.drain or self.meanings[signal.Signals(number)] == "quick":
            self._interrupt(number, frame)
        else:
            self.drain = True
            self.allow(ERRAND_GRACE_S)

    def _interrupt(self, _number: int, _frame: object) -> None:
        self.quick = True
        if not self._interrupted:
            self._interrupted = True
            raise Overdue


def _is_ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) is signal.SIG_IGN


def born(title: str, parent: int, drain_s: float, kept: Callable[[], bool] = lambda: False) -> Wish:
    """The first thing a child does: its own handlers, its title, and dying with the parent.

    `kept` tells whether its connections would outlive the parent.
    """
    wish = Wish(parent, drain_s, kept)
    _close_standard_input()
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signals.DRAIN, 0, 0, 0))
    setproctitle.setproctitle(title)
    if wish.orphaned:  # it died before prctl: no signal will come
        os.kill(os.getpid(), signals.DRAIN)
    return wish


def born_to_look(title: str, parent: int) -> None:
    """The first thing that a child does that only looks, and dies with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is the parent's
    restore_signal_mask()
    _checked(_libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    setproctitle.setproctitle(title)
    if os.getppid() != parent:  # it died before prctl: no signal will come
        os.kill(os.getpid(), signal.SIGKILL)


def _close_standard_input() -> None:
    """multiprocessing gives Python's sys.stdin another file; the descriptor stays the parent's."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def born_to_outlive(title: str) -> None:
    """The first thing a child does that stays when the parent dies; only TERM and KILL end it.

    In a session of its own: what ends a whole group, or hangs up a terminal, isn't meant for it.
    """
    os.setsid()
    for number in {*signals.PARENT, *signals.CHILD, *signals.CHILD_IGNORES} - {
        signal.SIGTERM,
        signal.SIGCHLD,
        signal.SIGCONT,
    }:
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    restore_signal_mask()
    _close_standard_input()
    setproctitle.setproctitle(title)


def set_title(title: str) -> None:
    """What ps shows."""
    setproctitle.setproctitle(title)


def forget_variables(names: Iterable[str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Take variables out of the environment, for what we start and for who looks at us.

    Unsetting isn't enough: /proc/PID/environ shows the memory in which the kernel has put the
    environment at exec, and a fork copies that. setproctitle writes titles there, once it has
    moved the variables away, which it must do while none is missing: else titles are cut short.
    """
    setproctitle.setproctitle(setproctitle.getproctitle())
    for name in names:
        if environ.pop(name, None) is not None:
            _wipe_variable(os.fsencode(name))


def _wipe_variable(name: bytes) -> None:
    """Overwrite its value where it still stands in the memory that the kernel made at exec."""
    start = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[ENV_START])
    block = Path("/proc/self/environ").read_bytes()
    for found in re.finditer(rb"(?:\A|\0)%b=([^\0]+)" % re.escape(name), block):
        ctypes.memset(start + found.start(1), 0, len(found[1]))


# ── who is alive, who holds what ────────────────────────────────────────────────────────


def holders(path: Path) -> set[int]:
    """Pids of all processes that have this file open (by its inode under /proc/PID/fd)."""
    try:
        wanted = path.stat()
    except FileNotFoundError:
        return set()
    return {pid for pid in _pids() if _has_open(pid, (wanted.st_dev, wanted.st_ino))}


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdecimal())


def _has_open(pid: int, wanted: tuple[int, int]) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # gone, or not ours to look at
        return False
    return any(_inode(f"/proc/{pid}/fd/{name}") == wanted for name in names)


def _inode(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def kill_and_wait(pid: int, number: signal.Signals, timeout_s: float) -> bool:
    """Send a signal to exactly this process and wait for its end; whether it ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        signal.pidfd_send_signal(pidfd, number)
        poller = select.poll()  # select(2) knows no descriptor above 1023
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)


# ── the instance's lock ─────────────────────────────────────────────────────────────────


class Lock:
    """A file that one process holds (flock(2)); children inherit it on purpose.

    While a child of a dead parent still hands over, the lock stays held.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def try_acquire(self) -> bool:
        """Take the lock if it is free, and write our pid into the file.

        Raises:
            InstanceError: the file can't be opened or written.
        """
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InstanceError(
                f"{self.path}: {error.strerror}", "run as the owner of the state directory"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise InstanceError(
                f"{self.path}: {error.strerror}", "make room on the disk of state_dir"
            ) from error
        return True

    def release(self) -> None:
        """Let go of the lock (as far as this process holds it)."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def lock_is_held(path: Path) -> bool:
    """Whether some process holds this lock. Changes nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def lock_owner(path: Path) -> int | None:
    """The pid of the living process that took the lock; None if only its children are left."""
    try:
        pid = int(path.read_text() or 0)
    except (FileNotFoundError, ValueError):
        return None
    wanted = _inode(str(path))
    return pid if wanted and pid and _has_open(pid, wanted) else None


# ── the machine ─────────────────────────────────────────────────────────────────────────


def boot_id(environ: "os._Environ[str] | dict[str, str]") -> str | None:
    """This boot's id as 32 hex digits, or None where it can't be had.

    $STREAM_DAEMON_BOOT_ID goes first: systemd's ProcSubset=pid hides the one under /proc.
    """
    given = environ.get("STREAM_DAEMON_BOOT_ID", "")
    if not given:
        try:
            given = Path("/proc/sys/kernel/random/boot_id").read_text()
        except OSError:
            return None
    return given.strip().replace("-", "").lower() or None


def machine_id() -> str:
    """What tells this machine from others (machine-id(5)); empty where it has none."""
    try:
        return Path("/etc/machine-id").read_text().strip()
    except OSError:
        return ""


def fill_standard_descriptors() -> None:
    """Open /dev/null where 0, 1 or 2 is closed, so that no file of ours takes its place."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)


def raise_descriptor_limit(wanted: int) -> None:
    """Make room for so many connections (RLIMIT_NOFILE).

    Raises:
        InstanceError: the hard limit is too low.
    """
    needed = wanted + NOFILE_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise InstanceError(
                f"{needed} descriptors are needed, the limit is {hard}",
                "raise it (ulimit -n, LimitNOFILE=) or lower connections_max",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def memory_bytes() -> int:
    """RAM that this process may use: the machine's, or its cgroup's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = _memory_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([total, *limits])


def _memory_limits(cgroup: Path, tree: Path) -> Iterator[int]:
    """Limits of our control group and of all around it (cgroups(7); version 2)."""
    try:
        own = cgroup.read_text()
    except OSError:
        return
    path = next((line[3:] for line in own.splitlines() if line.startswith("0::/")), "/")
    group = tree / path.strip("/")
    for folder in (group, *group.parents):
        if folder.is_relative_to(tree):
            with suppress(OSError):
                limit = (folder / "memory.max").read_text().strip()
                if limit.isdecimal():
                    yield int(limit)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
