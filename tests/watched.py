"""A watchdog in a process of its own, with tiny children that do as a test says.

The parent is forked from the test, so that the test's own signals stay untouched. All that
happens is written as lines into one pipe (`Diary`): by the children, whose bodies are plain
functions, and by the parent's log. A test waits for lines, never for time; when every
process is gone the pipe ends, and what is left of it is read in one go.
"""

import faulthandler
import fcntl
import logging
import multiprocessing
import os
import re
import select
import signal
import socket
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from appliance import child, control, process, reloading, watchdog
from appliance.child import Birth, ChildSpec, Startable
from appliance.contracts import Holder, ServiceManager
from appliance.control import ControlServer
from appliance.counters import Board
from appliance.deaths import Deaths
from appliance.errors import Exit
from appliance.keeping import Keeping
from appliance.reloading import Candidate
from appliance.watchdog import Watchdog

WAIT_S = 10.0
BEAT_S = 0.1
_fork = multiprocessing.get_context("fork")

Body = Callable[[Birth], Exit]


class Diary:
    """Lines from all processes in the order in which they were written (pipe(7): PIPE_BUF)."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_inheritable(self._write, True)
        self._rest = b""
        self.lines: list[str] = []
        self._seen: Counter[str] = Counter()  # lines looked at, by pattern
        self._ended = False

    @property
    def fd(self) -> int:
        """For who isn't Python."""
        return self._write

    def say(self, *words: object) -> None:
        """Write one line."""
        os.write(self._write, " ".join(map(str, words)).replace("\n", " ").encode() + b"\n")

    def close_writer(self) -> None:
        """In the test, once the parent is forked: from here on the pipe ends with the others."""
        os.close(self._write)

    def close(self) -> None:
        os.close(self._read)

    def wait_for(self, pattern: str, timeout_s: float = WAIT_S) -> re.Match[str]:
        """The first line that holds this, at the next call with it the second, and so on."""
        deadline = time.monotonic() + timeout_s
        while True:
            for at in range(self._seen[pattern], len(self.lines)):
                self._seen[pattern] = at + 1
                if found := re.search(pattern, self.lines[at]):
                    return found
            assert not self._ended, f"all ended without {pattern!r}:\n{self}"
            assert self._more(deadline), f"waited in vain for {pattern!r}:\n{self}"

    def hears(self, pattern: str, within_s: float) -> bool:
        """Whether such a line comes soon, behind what was read before."""
        deadline = time.monotonic() + within_s
        at = len(self.lines)
        while not self._ended and self._more(deadline):
            pass
        return any(re.search(pattern, line) for line in self.lines[at:])

    def read_all(self, timeout_s: float = WAIT_S) -> list[str]:
        """Every line until the last process is gone."""
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            assert self._more(deadline), f"somebody is still there:\n{self}"
        return self.lines

    def _more(self, deadline: float) -> bool:
        """Read what comes; whether something did before the deadline."""
        left_s = max(0.0, deadline - time.monotonic())
        if not select.select([self._read], [], [], left_s)[0]:
            return False
        received = os.read(self._read, 65536)
        self._ended = not received
        *lines, self._rest = (self._rest + received).split(b"\n")
        self.lines += [line.decode() for line in lines]
        return True

    def __str__(self) -> str:
        return "\n".join(self.lines)


class DiaryLog(logging.Handler):
    """The parent's log, as lines of the diary."""

    def __init__(self, diary: Diary) -> None:
        super().__init__()
        self._diary = diary

    def emit(self, record: logging.LogRecord) -> None:
        self._diary.say("log", record.levelname, record.getMessage())


class Parent:
    """A watchdog over these children, running from `with` on.

    `terminal` becomes its controlling terminal; `limits` sets constants of watchdog.py,
    child.py and reloading.py in that process only.
    """

    def __init__(
        self,
        directory: Path,
        diary: Diary,
        specs: list[ChildSpec],
        *,
        subscriber: Callable[[str], ChildSpec] | None = None,
        server: Startable | None = None,
        drain_s: float = 30.0,
        healthy_s: float | None = None,
        terminal: int | None = None,
        limits: dict[str, Any] | None = None,
        holder: Holder | None = None,
        keeping: Keeping | None = None,
        read: Callable[[], Candidate] | None = None,
        manager: ServiceManager | None = None,
        took_over: bool = False,
    ) -> None:
        self._holder = holder
        self._took_over = took_over
        self._keeping = keeping
        self._read, self._manager = read, manager
        self.diary = diary
        self.control = directory / "control.sock"
        self._specs = specs
        self._subscriber = subscriber or self._no_more
        self._server = server
        self._drain_s = drain_s
        self._healthy_s = healthy_s
        self._terminal = terminal
        self._limits = {"TICK_S_MAX": 0.1} | (limits or {})
        self.deaths = Deaths()
        self._process = _fork.Process(target=self._live)

    def __enter__(self) -> "Parent":
        self._process.start()
        for spec in self._specs:
            if spec.acceptor:
                spec.acceptor.close_in_child()
        self.diary.close_writer()
        self.diary.wait_for("log INFO nfl started")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._process.is_alive():
            for pid in (*self.children(), self.pid):
                process.kill_and_wait(pid, signal.SIGKILL, WAIT_S)
        self._process.join()
        if kind:
            print(self.diary)
        self.diary.close()

    def _live(self) -> None:
        if self._terminal is not None:
            os.setsid()
            fcntl.ioctl(self._terminal, termios.TIOCSCTTY, 0)
        faulthandler.disable()  # pytest's: a child that is aborted says nothing of its own
        root = logging.getLogger()
        root.handlers[:] = [DiaryLog(self.diary)]
        root.setLevel(logging.INFO)
        for name, value in self._limits.items():
            module = next(m for m in (watchdog, child, reloading) if hasattr(m, name))
            setattr(module, name, value)
        server = ControlServer(self.control)
        parent = Watchdog(
            "nfl",
            "1.2.3",
            self._specs,
            Board(),
            server,
            self._server,
            self._drain_s,
            self._subscriber,
            self.deaths,
            healthy_s=self._healthy_s,
            holder=self._holder,
            keeping=self._keeping,
            manager=self._manager,
            read=self._read,
            took_over=self._took_over,
        )
        try:
            code = parent.run()
        finally:
            server.close()
        parent.answer_stops()
        raise SystemExit(int(code))

    def _no_more(self, number: str) -> ChildSpec:
        raise AssertionError(f"nobody asked for subscriber {number}")

    @property
    def pid(self) -> int:
        assert self._process.pid
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def ask(self, **request: Any) -> dict[str, Any]:
        return control.ask(self.control, request, WAIT_S)

    def status(self) -> dict[str, Any]:
        return self.ask(verb="status")

    def connect(self) -> socket.socket:
        """A control client that has said nothing yet."""
        return control.connect(self.control, WAIT_S)

    def wait(self) -> int | None:
        """Its end: nobody of it may be left; the exit code."""
        self.diary.read_all()
        self._process.join(WAIT_S)
        return self._process.exitcode

    def stop(self) -> int | None:
        self.send(signal.SIGTERM)
        return self.wait()

    def children(self) -> dict[int, str]:
        """Living and dead ones that the kernel still knows: state letter by pid (proc(5))."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        pids = [int(pid) for pid in path.read_text().split()]
        return {pid: state_of(pid) for pid in pids}


Start = Callable[..., Parent]


@contextmanager
def parents(short_dir: Path, diary: Diary) -> Iterator[Start]:
    """Starts the one parent of a test; it is gone when the test is over."""
    with ExitStack() as started:

        def start(specs: list[ChildSpec], **how: Any) -> Parent:
            return started.enter_context(Parent(short_dir, diary, specs, **how))

        yield start


def state_of(pid: int) -> str:
    """The state letter of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def descriptors(pid: int) -> set[str]:
    """What a process has open, as /proc says it."""
    links = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue
    return links


# ── children ────────────────────────────────────────────────────────────────────────────


class Cast:
    """Makes children: each says that it is born, what it is told, and that it ends."""

    def __init__(self, diary: Diary) -> None:
        self.diary = diary

    def spec(
        self, kind: str, name: str, body: Body, attaches: bool = True, **more: Any
    ) -> ChildSpec:
        who = f"{kind} {name}".strip()

        def run(birth: Birth) -> Exit:
            self.diary.say(who, "born", os.getpid(), "at", time.monotonic_ns())
            if kind == "collector" and attaches:
                birth.slot.set("attached", 1)
            code = body(birth)
            self.diary.say(who, "ends", int(code))
            return code

        return ChildSpec(kind, name, f"stream-daemon nfl {who}", run, **more)

    def obedient(self, kind: str, name: str, *, lingers_s: float = 0.0, **more: Any) -> ChildSpec:
        """Works until it is told to end, and says what it was told."""

        def body(birth: Birth) -> Exit:
            beat_until_told(birth)
            self.diary.say(kind, name, "told", "quick" if birth.wish.quick else "drain")
            time.sleep(lingers_s)
            return Exit.OK

        return self.spec(kind, name, body, **more)

    def recovery(self, **more: Any) -> ChildSpec:
        """Has swept, answers each look with an empty queue, and says when it is nudged."""

        def body(birth: Birth) -> Exit:
            birth.slot.add("swept", 1)
            known = birth.slot.get("died")
            while not birth.wish.stop:
                birth.slot.beat()
                birth.slot.set("looked", birth.slot.get("look"))
                birth.wish.wait(BEAT_S)
                if birth.slot.get("died") > known:
                    known = birth.slot.get("died")
                    self.diary.say("recovery nudged")
            self.diary.say("recovery told", "quick" if birth.wish.quick else "drain")
            return Exit.OK

        return self.spec("recovery", "", body, **more)


def beat_until_told(birth: Birth) -> None:
    while not birth.wish.stop:
        birth.slot.beat()
        birth.wish.wait(BEAT_S)


def gaps_s(lines: list[str], who: str) -> list[float]:
    """Seconds from each birth of this child to the next."""
    found = [re.fullmatch(rf"{who} born \d+ at (\d+)", line) for line in lines]
    return [(int(b[1]) - int(a[1])) / 1e9 for a, b in pairwise(match for match in found if match)]


def said_delays(lines: list[str], title: str) -> list[tuple[str, float]]:
    """What the parent's log says of this child's deaths: cause and delay."""
    pattern = rf"log WARNING {title} died \((.*)\); it is started again in (.*) s"
    found = [re.fullmatch(pattern, line) for line in lines]
    return [(match[1], float(match[2])) for match in found if match]
