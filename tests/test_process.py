"""What the kernel does for a parent and its children: with real signals, locks and deaths.

Whatever changes a process (masks, handlers, limits) is tried in a forked child.
"""

import errno
import fcntl
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from appliance import process, signals
from appliance.errors import InstanceError

ENOUGH_S = 10.0
LONG_S = 60.0


def fork(act: Callable[[], Any]) -> int:
    """A child that does this and ends, whatever happens; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout's
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def in_child(act: Callable[[], Any]) -> Any:
    """What it returns when it is run in a child of ours."""
    read, write = os.pipe()
    pid = fork(lambda: os.write(write, json.dumps(act()).encode()))
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return json.loads(said)


@contextmanager
def child(act: Callable[[], None]) -> Iterator[int]:
    """A living child that has done it and now sleeps; its pid."""
    ready, write = os.pipe()

    def live() -> None:
        act()
        os.write(write, b"x")
        time.sleep(LONG_S)

    pid = fork(live)
    os.close(write)
    try:
        assert os.read(ready, 1) == b"x"
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def nothing() -> None:
    pass


# ── the parent's signals ────────────────────────────────────────────────────────────────


def test_signals_are_read_with_who_sent_them_and_how() -> None:
    def act() -> Any:
        fd = process.SignalFd([Signals.SIGTERM, Signals.SIGUSR1, Signals.SIGCHLD])
        before = [*fd.read()]
        os.kill(os.getpid(), Signals.SIGTERM)  # its default would end us
        os.kill(os.getpid(), Signals.SIGUSR1)
        pid = fork(nothing)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        readable = bool(select.select([fd], [], [], ENOUGH_S)[0])
        found = {one.signal.name: (one.code <= 0, one.pid) for one in fd.read()}
        ours = {"SIGTERM": (True, os.getpid()), "SIGUSR1": (True, os.getpid())}
        return [before, readable, found == ours | {"SIGCHLD": (False, pid)}, [*fd.read()]]

    assert in_child(act) == [[], True, True, []]


def test_only_the_wanted_signals_are_blocked_and_a_child_gets_them_back() -> None:
    def act() -> Any:
        process.SignalFd([Signals.SIGHUP]).close()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        process.restore_signal_mask()
        return [sorted(blocked), sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]

    assert in_child(act) == [[Signals.SIGHUP], []]


def test_the_dead_wait_to_be_asked_also_where_the_starter_ignores_them() -> None:
    """With SIGCHLD ignored, which exec keeps, the kernel forgets a dead child at once."""

    def act() -> Any:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        process.SignalFd([Signals.SIGCHLD])
        return os.waitstatus_to_exitcode(os.waitpid(fork(nothing), 0)[1])

    assert in_child(act) == 0


def test_every_signal_of_the_tables_has_one_meaning() -> None:
    assert set(signals.PROCESS_ONLY) < set(signals.PARENT)
    assert not set(signals.CHILD) & set(signals.CHILD_IGNORES)
    assert {signals.DRAIN, signals.QUICK, signals.LEAVE, signals.NUDGE} == set(signals.CHILD)
    assert set(signals.ERRAND.values()) == {"drain", "quick"}


# ── a child's life ──────────────────────────────────────────────────────────────────────

WISHES = [  # signals → drain, quick, stop
    ([], [False, False, False]),
    ([signals.DRAIN], [True, False, True]),
    ([signals.QUICK], [False, True, True]),
    ([signals.NUDGE], [False, False, False]),
    ([signals.DRAIN, signals.QUICK], [True, True, True]),
    (list(signals.CHILD_IGNORES), [False, False, False]),
]


@pytest.mark.parametrize(("sent", "wishes"), WISHES)
def test_wishes(sent: list[Signals], wishes: list[bool]) -> None:
    def act() -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, [*signals.CHILD])  # as the parent left it
        wish = process.Wish(os.getppid(), LONG_S)
        for number in sent:
            os.kill(os.getpid(), number)
        return [wish.drain, wish.quick, wish.stop]

    assert in_child(act) == wishes


@pytest.mark.parametrize(
    ("sent", "orphaned", "kept", "leaves"),
    [
        ([signals.LEAVE], False, False, True),
        ([signals.DRAIN], False, True, False),
        ([signals.DRAIN], True, True, True),
        ([signals.DRAIN], True, False, False),
        ([signals.QUICK], True, True, False),
    ],
)
def test_a_child_leaves_when_told_to_or_when_somebody_keeps_what_a_dead_parent_had(
    sent: list[Signals], orphaned: bool, kept: bool, leaves: bool
) -> None:
    def act() -> Any:
        parent = 2**22 if orphaned else os.getppid()  # no such process
        wish = process.Wish(parent, LONG_S, lambda: kept)
        before = [wish.stop, wish.leave]
        for number in sent:
            os.kill(os.getpid(), number)
        wish.allow(0)
        return [*before, wish.stop, wish.leave]

    assert in_child(act) == [False, False, True, leaves]


def test_a_signal_ends_the_wait_also_when_it_came_before() -> None:
    def act() -> Any:
        wish = process.Wish(os.getppid(), LONG_S)
        began = time.monotonic()
        os.kill(os.getpid(), signals.NUDGE)
        wish.wait(LONG_S)  # came before
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signals.NUDGE))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        wish.wait(LONG_S)  # comes during it
        quick = time.monotonic() - began < ENOUGH_S
        while select.select([wish], [], [], 0.1)[0]:
            wish.clear()
        began = time.monotonic()
        wish.wait(0.0504)  # nothing comes: only now it takes its time
        wish.wait(-1.0)
        return [quick, time.monotonic() - began >= 0.0504]

    assert in_child(act) == [True, True]


def test_thousands_of_signals_do_no_harm() -> None:
    def act() -> Any:
        wish = process.Wish(os.getppid(), LONG_S)
        for _ in range(70_000):  # more than the pipe takes
            os.kill(os.getpid(), signals.NUDGE)
        readable = bool(select.select([wish], [], [], 0)[0])
        wish.clear()
        return [readable, bool(select.select([wish], [], [], 0)[0])]

    assert in_child(act) == [True, False]


def test_a_child_is_told_when_its_parent_dies() -> None:
    """And again by the clock, should it hang then: nobody is left who could kill it."""
    read, write = os.pipe()

    def hanging_child(parent: int) -> None:
        wish = process.born("told", parent, 0.3)
        os.write(write, f"{os.getpid()} {wish.stop} {wish.orphaned}\n".encode())
        wish.wait(LONG_S)
        os.write(write, f"{wish.drain} {wish.orphaned}\n".encode())
        while True:
            signal.pause()

    def live() -> None:
        mine = os.getpid()
        fork(lambda: hanging_child(mine))
        time.sleep(LONG_S)

    parent = fork(live)
    os.close(write)
    with os.fdopen(read, "r") as said:
        pid, *alive = said.readline().split()
        pidfd = os.pidfd_open(int(pid))
        try:
            os.kill(parent, signal.SIGKILL)
            os.waitpid(parent, 0)
            assert alive == ["False", "False"]
            assert select.select([said], [], [], ENOUGH_S)[0], "nobody told it"
            assert said.readline().split() == ["True", "True"]
            assert select.select([pidfd], [], [], ENOUGH_S)[0], "the clock didn't end it"
        finally:
            process.kill_and_wait(int(pid), Signals.SIGKILL, ENOUGH_S)
            os.close(pidfd)


def test_a_child_whose_parent_died_before_it_could_ask_is_told_too() -> None:
    def act() -> Any:
        wish = process.born("orphan", parent=2**22, drain_s=LONG_S)  # no such process
        signal.setitimer(signal.ITIMER_REAL, 0)
        return [wish.orphaned, wish.drain]

    assert in_child(act) == [True, True]


def test_titles_are_what_ps_shows() -> None:
    def act() -> Any:
        process.born("stream-daemon nfl collector tweets", os.getppid(), LONG_S)
        first = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode()
        process.set_title("another")
        return [first, Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode()]

    assert in_child(act) == ["stream-daemon nfl collector tweets", "another"]


# ── an errand ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [n for n, word in signals.ERRAND.items() if word == "drain"])
def test_an_errand_ends_at_a_signal_and_is_interrupted_by_a_second(number: Signals) -> None:
    def act() -> Any:
        with process.Errand(LONG_S) as errand:
            before = errand.stop
            os.kill(os.getpid(), number)
            after = errand.stop
            try:
                os.kill(os.getpid(), Signals.SIGTERM)
                time.sleep(LONG_S)
            except process.Overdue:
                os.kill(os.getpid(), Signals.SIGTERM)  # the third interrupts no cleaning up
                return [before, after, errand.quick]
        return "not interrupted"

    assert in_child(act) == [False, True, True]


def test_an_errand_is_interrupted_at_once_by_quit() -> None:
    def act() -> Any:
        with process.Errand(LONG_S):
            try:
                os.kill(os.getpid(), Signals.SIGQUIT)
                time.sleep(LONG_S)
            except process.Overdue:
                return True
        return False

    assert in_child(act) is True


def test_an_errand_has_its_time_and_no_wait_is_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ERRAND_GRACE_S", 0.1)

    def act() -> Any:
        began = time.monotonic()
        with process.Errand(0.2) as errand:
            errand.wait(LONG_S)
            waited_s = time.monotonic() - began
            stop = errand.stop
            try:
                time.sleep(LONG_S)  # something that doesn't end by itself
            except process.Overdue:
                return [stop, errand.drain, 0.15 < waited_s < ENOUGH_S]
        return "not interrupted"

    assert in_child(act) == [True, False, True]


def test_an_errand_that_shall_end_is_interrupted_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ERRAND_GRACE_S", 0.1)

    def act() -> Any:
        with process.Errand(LONG_S):
            os.kill(os.getpid(), Signals.SIGTERM)
            try:
                time.sleep(LONG_S)
            except process.Overdue:
                return True
        return False

    assert in_child(act) is True


def test_what_the_starter_ignores_stays_ignored_and_what_was_there_comes_back() -> None:
    def act() -> Any:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with process.Errand(LONG_S) as errand:
            os.kill(os.getpid(), Signals.SIGHUP)
            found = [errand.stop]
        after = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        expected = [signal.default_int_handler, signal.SIG_DFL, signal.SIG_IGN]
        timer = signal.setitimer(signal.ITIMER_REAL, 0)
        return [*found, after == expected, timer]

    assert in_child(act) == [False, True, [0.0, 0.0]]


# ── who is alive, who holds what ────────────────────────────────────────────────────────


def test_holders_are_all_who_have_the_file_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert process.holders(path) == set()
    path.touch()
    assert process.holders(path) == set()
    with child(lambda: keep(os.open(path, os.O_RDONLY))) as one:
        assert process.holders(path) == {one}
        with path.open(), child(nothing) as other:  # this one inherits it
            assert process.holders(path) == {one, other, os.getpid()}
        renamed = path.rename(tmp_path / "renamed")  # it is the file, not its name
        assert process.holders(renamed) == {one}
        path.touch()
        assert process.holders(path) == set()
    assert process.holders(renamed) == set()


def keep(_fd: int) -> None:
    """The descriptor stays open."""


def test_who_is_killed_is_waited_for() -> None:
    with child(nothing) as pid:
        assert process.kill_and_wait(pid, Signals.SIGTERM, ENOUGH_S)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert process.kill_and_wait(pid, Signals.SIGKILL, ENOUGH_S)  # it is gone


def test_who_does_not_end_is_not_waited_for_longer_than_asked() -> None:
    with child(lambda: keep_handler(Signals.SIGTERM)) as pid:
        assert not process.kill_and_wait(pid, Signals.SIGTERM, 0.1)
        assert process.kill_and_wait(pid, Signals.SIGKILL, ENOUGH_S)


def keep_handler(number: Signals) -> None:
    signal.signal(number, signal.SIG_IGN)


# ── locks ───────────────────────────────────────────────────────────────────────────────


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    one, other = process.Lock(tmp_path / "lock"), process.Lock(tmp_path / "lock")
    assert not process.lock_is_held(one.path)
    assert not one.path.exists()  # asking makes nothing
    assert one.try_acquire()
    assert process.lock_is_held(one.path)
    assert one.path.read_text() == f"{os.getpid()}\n"
    assert not other.try_acquire()
    other.release()
    assert process.lock_is_held(one.path)
    one.release()
    one.release()
    assert not process.lock_is_held(one.path)
    assert other.try_acquire()
    other.release()


def test_children_hold_the_lock_of_a_dead_parent(tmp_path: Path) -> None:
    lock = process.Lock(tmp_path / "lock")
    assert lock.try_acquire()
    assert process.lock_owner(lock.path) == os.getpid()
    with child(nothing) as pid:
        lock.release()
        assert process.lock_is_held(lock.path)
        assert process.holders(lock.path) == {pid}
        assert process.lock_owner(lock.path) is None  # only a child is left
        assert not process.Lock(lock.path).try_acquire()
    assert not process.lock_is_held(lock.path)


def test_a_longer_pid_of_the_last_owner_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("123456789012\n")
    lock = process.Lock(tmp_path / "lock")
    assert lock.try_acquire()
    assert process.lock_owner(lock.path) == os.getpid()
    lock.release()


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "0", "-1", "99999999999"])
def test_a_lock_that_says_nothing_has_no_owner(tmp_path: Path, text: str) -> None:
    path = tmp_path / "lock"
    path.write_text(text)
    assert process.lock_owner(path) is None
    assert process.lock_owner(tmp_path / "none") is None


def test_a_pid_that_was_given_to_another_process_is_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(f"{os.getpid()}\n")
    with path.open() as held_by_somebody:
        fcntl.flock(held_by_somebody, fcntl.LOCK_EX)
        with child(nothing) as pid:
            held_by_somebody.close()
            assert process.lock_is_held(path)
            assert process.lock_owner(path) is None, pid


def test_a_lock_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InstanceError) as raised:
        process.Lock(tmp_path / "no" / "folder").try_acquire()
    assert raised.value.hint


def test_a_lock_that_cannot_be_written_is_free_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    lock = process.Lock(tmp_path / "lock")
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(InstanceError, match="No space left") as said:
        lock.try_acquire()
    monkeypatch.undo()
    assert "make room" in said.value.hint
    assert process.Lock(lock.path).try_acquire()


# ── the machine ─────────────────────────────────────────────────────────────────────────


def test_the_boot_has_a_name() -> None:
    kernels = Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert process.boot_id({}) == process.boot_id({"STREAM_DAEMON_BOOT_ID": ""}) == kernels
    given = {"STREAM_DAEMON_BOOT_ID": "0192F0C1-d2e3-7abc-8def-0123456789ab\n"}
    assert process.boot_id(given) == "0192f0c1d2e37abc8def0123456789ab"


def limited(soft: int, hard: int, wanted: int) -> Any:
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        process.raise_descriptor_limit(wanted)
    except InstanceError as error:
        return error.message
    return list(resource.getrlimit(resource.RLIMIT_NOFILE))


SPARE = process.NOFILE_SPARE


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "found"),
    [
        (500, 2000, 100, [500, 2000]),  # enough as it is
        (500, 2000, 1000, [1000 + SPARE, 2000]),
        (500, 2000, 2000 - SPARE, [2000, 2000]),
        (500, 2000, 2000, f"{2000 + SPARE} descriptors are needed, the limit is 2000"),
    ],
)
def test_room_for_so_many_connections(soft: int, hard: int, wanted: int, found: Any) -> None:
    assert in_child(lambda: limited(soft, hard, wanted)) == found


def test_closed_standard_descriptors_are_filled() -> None:
    """And open ones stay as they are."""
    code = (
        "import os; from appliance import process;"
        "[os.close(fd) for fd in {closed}]; process.fill_standard_descriptors();"
        "print([os.readlink(f'/proc/self/fd/{{fd}}') for fd in range(3)],"
        "len(os.listdir('/proc/self/fd')), file=open('{out}', 'w'))"
    )
    for closed in ([], [0], [0, 1, 2], [1]):
        read, write = os.pipe()
        out = f"/proc/{os.getpid()}/fd/{write}"
        subprocess.run(
            [sys.executable, "-c", code.format(closed=closed, out=out)],
            stdin=subprocess.PIPE,
            capture_output=True,
            check=True,
            timeout=ENOUGH_S,
        )
        os.close(write)
        with os.fdopen(read) as said:
            names = said.read()
        assert names.count("/dev/null") == len(closed), names
        assert names.count("pipe:") == 3 - len(closed), names


def test_memory_is_the_machines_or_less() -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < process.memory_bytes() <= total


LEAKS = """
import os, subprocess, sys
from appliance import process
process.forget_variables(["PW"])
process.set_title("stream-daemon " + "x" * 500)
def shown(): return open("/proc/self/environ", "rb").read()
seen = [shown(), subprocess.run(["cat", "/proc/self/environ"], capture_output=True).stdout]
if os.fork() == 0:
    process.set_title("stream-daemon y")
    sys.exit(b"s3cret" in shown())
seen.append(b"s3cret" * os.wait()[1])
print([b"s3cret" in one for one in seen], "PW" in os.environ, os.environ.get("OTHER"))
print(len(open("/proc/self/cmdline").read().rstrip(chr(0))))
"""


@pytest.mark.parametrize(
    "more", [{}, {"SPT_NOENV": "1"}, {"A": "x" * 9}], ids=["", "kept apart", "not the first"]
)
def test_a_forgotten_variable_is_nowhere(more: dict[str, str]) -> None:
    """Neither in what /proc shows of us and our children, nor in what we start."""
    environ = {**more, "PW": "s3cret", "OTHER": "stays", "XPW": "z", "PATH": os.environ["PATH"]}
    environ |= {"PYTHONPATH": os.pathsep.join(sys.path), "LONG": "x" * 1000}
    done = subprocess.run(
        [sys.executable, "-c", LEAKS], env=environ, capture_output=True, text=True, check=True
    )
    leaks, title = done.stdout.splitlines()
    assert leaks == "[False, False, False] False stays"
    assert more or title == "514", "a title keeps its length"


def test_who_has_many_descriptors_can_end_others() -> None:
    """A parent has a thousand connections, and select(2) knows no descriptor above 1023."""
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        pid = fork(lambda: time.sleep(LONG_S))
        assert process.kill_and_wait(pid, Signals.SIGKILL, ENOUGH_S)
        os.waitpid(pid, 0)
    finally:
        for fd in many:
            os.close(fd)
