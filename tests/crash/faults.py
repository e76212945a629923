"""Every call to the outside is a place where an error may come: a whole pipe, counted and struck.

`Strikes` counts the calls of all roles in one life: to the queue and the store, to the kernel about
a connection, to the disk (the note, beginnings of records, a file that is read, the spool), to
epoll and over the wire to the parent. The chosen ones fail: before they had an effect, or after
it, so that the caller believes in a failure that wasn't one. What a role doesn't handle ends it,
and it is born anew, as the parent does with a dead child.

Counted are calls by roles only; what a test does itself is the world's business. A close isn't
struck: there is nothing that could be done about it.
"""

import errno
import io
import mmap
import os
import select
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from appliance.contracts import Spool, Store
from appliance.disk import DiskSpace
from appliance.errors import StreamDaemonError, Unavailable
from appliance.sources.kernel import Kernel
from appliance.spool import DiskSpool
from appliance.stores.sqlite import SQLiteStore
from appliance.stores.tables import Row
from tests.crash.world import DialledWorld, FileWorld, HurriedWorld, SteppedQueue, UnixWorld, World
from tests.fake_disk import PLACE, Disk, FakeFiles
from tests.fake_queue import Fault
from tests.fake_store import MemoryStore

T = TypeVar("T")

SPOOL = PLACE / "spool" / "s"
BEFORE, AFTER = "before", "after"
ATOMIC = {"wire send_fds", "wire recv_fds"}  # what fails had no effect
ASKING = {  # what has no effect, so that before it and after it are the same
    *("epoll poll", "epoll fileno", "kernel observe", "kernel peek", "os stat", "os fstat"),
    *("os pread", "os preadv", "os statvfs", "file read", "spool sizes", "spool pread"),
    "SELECT",
}
BIRTHS_MAX = 20  # in one life: each has a strike as its reason

ERRORS = {  # by the call's last word: what the system says there
    "open": errno.EMFILE,
    "mmap": errno.ENOMEM,
    "register": errno.ENOSPC,
    "modify": errno.ENOMEM,
    "send_fds": errno.ETOOMANYREFS,
    "recv_fds": errno.ENOBUFS,
    "peek": errno.ENOBUFS,
    "observe": errno.EINTR,
    "discard": errno.EINTR,
    "mark": errno.ENOPROTOOPT,
    "pread": errno.ENOMEM,  # EIO would be damage, which is set aside
    **dict.fromkeys(("write", "flush", "pwrite", "pwritev", "mkdir", "make"), errno.ENOSPC),
}


class Strikes:
    """plan: {index of a call: BEFORE or AFTER}. `names` says which calls there were."""

    def __init__(self, plan: Mapping[int, str]) -> None:
        self.names: list[str] = []
        self.is_armed = False
        self._plan = plan

    def next(self, name: str) -> str:
        """Count a call; how it is struck."""
        if not self.is_armed:
            return ""
        self.names.append(name)
        return self._plan.get(len(self.names) - 1, "")

    def call(self, name: str, act: Callable[[], T]) -> T:
        """A call to the system."""
        strike = self.next(name)
        if strike == BEFORE or (strike and name in ATOMIC):
            raise error_of(name)
        result = act()
        if strike == AFTER:
            raise error_of(name)
        return result

    def ask(self, name: str, act: Callable[[], T]) -> T:
        """A call to a server."""
        strike = self.next(name)
        if strike == BEFORE:
            raise Unavailable(f"struck before {name}")
        result = act()
        if strike == AFTER:
            raise Unavailable(f"struck after {name}")
        return result

    @contextmanager
    def armed(self) -> Iterator[None]:
        """While a role is at work."""
        self.is_armed = True
        try:
            yield
        finally:
            self.is_armed = False


def error_of(name: str) -> OSError:
    """What the system says when this call fails."""
    number = ERRORS.get(name.rpartition(" ")[2], errno.EIO)
    return OSError(number, os.strerror(number))


# ── what is struck ──────────────────────────────────────────────────────────────────────


class StruckKernel:
    """A kernel whose calls may fail."""

    def __init__(self, kernel: Kernel, strikes: Strikes) -> None:
        self._kernel = kernel
        self._strikes = strikes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._kernel, name)
        if not callable(found):
            return found
        return lambda *args: self._strikes.call(f"kernel {name}", lambda: found(*args))


class StruckQueue(SteppedQueue):
    """A queue whose calls may fail: with an answer that is lost, or none."""

    strikes: Strikes

    @contextmanager
    def _talking(self) -> Iterator[None]:
        strike = self.strikes.next(f"queue, {self.role}")
        if strike:
            self.fail(Fault(1, strike))  # type: ignore[arg-type]
        with super()._talking():
            yield


class StruckStore(MemoryStore):
    """A store whose calls may fail; those that store, before or after the commit."""

    strikes: Strikes

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in ("prepare", "identity", "store", "store_one_by_one", "fold", "give_up"):
            return found
        return lambda *args: self.strikes.ask(f"store {name}", lambda: found(*args))


class StruckFiles(FakeFiles):
    """The spool's disk; the second half of a write may be missing."""

    def __init__(self, disk: Disk, strikes: Strikes) -> None:
        super().__init__(disk)
        self._strikes = strikes

    def _call(self, name: str) -> None:
        super()._call(name)
        strike = self._strikes.next(f"spool {name}")
        if strike == AFTER and name == "pwritev":
            self.write_bytes_max = 100
        elif strike:
            raise error_of(name)


class StruckEpoll:
    """An epoll whose calls may fail."""

    def __init__(self, epoll: Any, strikes: "Callable[[], Strikes]") -> None:
        self._epoll = epoll
        self._strikes = strikes

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._epoll, name)
        if name == "close":
            return found
        return lambda *args: self._strikes().call(f"epoll {name}", lambda: found(*args))


class StruckFile:
    """An open file whose writing may fail."""

    def __init__(self, file: Any, system: "System") -> None:
        self._file = file
        self._system = system

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._file, name)
        if name not in ("write", "flush", "read"):
            return found
        return lambda *args: self._system.strikes.call(f"file {name}", lambda: found(*args))

    def __enter__(self) -> "StruckFile":
        return self

    def __exit__(self, *_error: object) -> None:
        self._system.fds.discard(self._file.fileno())
        self._file.close()


class System:
    """Calls of Python's own modules about files below one directory, counted while it stands."""

    BY_PATH = ("open", "stat", "mkdir", "rename", "replace", "unlink", "scandir")
    BY_FD = ("fsync", "fstat", "pread", "preadv", "pwrite")

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.strikes = Strikes({})
        self.fds: set[int] = set()
        self._directory = str(directory)
        for name in (*self.BY_PATH, *self.BY_FD):
            monkeypatch.setattr(os, name, self._struck(name, getattr(os, name)))
        self._close = os.close
        monkeypatch.setattr(os, "close", self._closed)
        self._open_file = io.open
        monkeypatch.setattr(io, "open", self._opened_file)
        self._mmap = mmap.mmap
        monkeypatch.setattr(mmap, "mmap", self._mapped)
        for name in ("send_fds", "recv_fds"):
            monkeypatch.setattr(socket, name, self._struck_wire(name, getattr(socket, name)))
        epoll = select.epoll
        monkeypatch.setattr(select, "epoll", lambda: StruckEpoll(epoll(), lambda: self.strikes))

    def _is_ours(self, what: object) -> bool:
        if isinstance(what, int):
            return what in self.fds
        return isinstance(what, str | os.PathLike) and str(what).startswith(self._directory)

    def _struck(self, name: str, found: Callable[..., Any]) -> Callable[..., Any]:
        def call(what: Any, *args: Any, **more: Any) -> Any:
            if not self._is_ours(what):
                return found(what, *args, **more)
            result = self.strikes.call(f"os {name}", lambda: found(what, *args, **more))
            if name == "open":
                self.fds.add(result)
            return result

        return call

    def _struck_wire(self, name: str, found: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: self.strikes.call(f"wire {name}", lambda: found(*args))

    def _closed(self, fd: int) -> None:
        self.fds.discard(fd)
        self._close(fd)

    def _opened_file(self, what: Any, *args: Any, **more: Any) -> Any:
        if not self._is_ours(what):
            return self._open_file(what, *args, **more)
        file = self.strikes.call("file open", lambda: self._open_file(what, *args, **more))
        self.fds.add(file.fileno())
        return StruckFile(file, self)

    def _mapped(self, fd: int, *args: Any, **more: Any) -> Any:
        if not self._is_ours(fd):
            return self._mmap(fd, *args, **more)
        return self.strikes.call("mmap", lambda: self._mmap(fd, *args, **more))


class StruckSQLite(SQLiteStore):
    """The real ledger on SQLite, in memory, every statement of which may fail."""

    strikes: Strikes

    def _open(self) -> None:
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, uri=True, isolation_level=None)

    def _execute(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        return self._struck(sql, lambda: super(StruckSQLite, self)._execute(sql, parameters))

    def insert_many(self, sql: str, rows: Sequence[Row]) -> None:
        self._struck(sql, lambda: super(StruckSQLite, self).insert_many(sql, rows))

    def _struck(self, sql: str, act: Callable[[], T]) -> T:
        return self.strikes.ask(sql.partition(" ")[0], act)


# ── the world ───────────────────────────────────────────────────────────────────────────


class Struck(World):
    """A world in which every call may fail, with a real spool. Mixed in before a kind of World."""

    def __init__(self, directory: Path, system: System, plan: Mapping[int, str]) -> None:
        self.strikes = system.strikes = Strikes(plan)
        self.kernel: Kernel = StruckKernel(type(self).kernel, self.strikes)  # type: ignore[assignment]
        self.spool_disk = Disk()
        self.births = 0
        super().__init__(directory, ())

    @property
    def spooled(self) -> list[str]:
        """What is left in the spool's directory."""
        return FakeFiles(self.spool_disk).names(SPOOL)

    @property
    def missing(self) -> list[Any]:
        """Gaps of the ledger that are open."""
        return [gap for gap in self._database.tables.found if gap.row.span]

    def store(self) -> None:
        """Leases until the queue is empty, and folds; whoever fails does it again."""
        while not self._survives(self._store_all):
            self._subscribing = None
            self.redis.clients = {c for c in self.redis.clients if not c.startswith("sub")}
        while not self._survives(self._sweep):
            pass
        if self.redis.working:
            self.store()

    def crash(self) -> None:
        """The machine dies: nobody lives, and it is another boot."""
        self.kill_collector()
        self._subscribing = None
        self.redis.restart()
        self.boot = "c" * 32

    def _sweep(self) -> None:
        self._struck_queue("recovery").sweep()

    def _survives(self, act: Any) -> bool:
        self.births += 1
        assert self.births < BIRTHS_MAX + len(self.strikes.names), "it is never well again"
        try:
            with self.strikes.armed():
                act()
        except (OSError, StreamDaemonError):
            return False
        return True

    def _store_all(self) -> None:
        super()._store_all()
        assert self._subscribing
        for _ in range(3):  # meets a hole, meets it again and gives it up, folds over it
            self._subscribing[0]._fold()

    def _struck_queue(self, role: str) -> StruckQueue:
        queue = StruckQueue(self.redis, role)
        queue.strikes, queue.steps, queue.world = self.strikes, self.steps, self
        return queue

    def _born_queue(self, role: str) -> SteppedQueue:
        return self._struck_queue(role)

    def _born_spool(self) -> Spool:
        files = StruckFiles(self.spool_disk, self.strikes)
        space = DiskSpace(
            Path("/"),
            0,
            statvfs=lambda path: self.strikes.call("os statvfs", lambda: os.statvfs(path)),
            monotonic=self.now,
        )
        return DiskSpool(
            SPOOL,
            2**30,
            disk_is_low=space.is_low,
            files=files,
            monotonic=lambda: self.now() / 100,
        )

    def _born_store(self) -> Store:
        store = StruckStore(self._database)
        store.strikes = self.strikes
        return store


class StruckTcp(Struck, HurriedWorld):
    """Over TCP."""


class StruckUnix(Struck, UnixWorld):
    """Over a Unix socket."""


class StruckFileWorld(Struck, FileWorld):
    """With a file."""


class StruckDialled(Struck, DialledWorld):
    """With a server that we connect to."""
