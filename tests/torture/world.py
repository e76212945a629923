"""The instance under torture and all that it lives on, each a thing of its own that can be struck.

Redis and MariaDB are private servers behind proxies; the state directory is a small file system
of its own where root may mount one. A parent that has died is started again, as cron would, by
a thread; a parent that ends although nobody killed it is a problem, unless its disk is full.
"""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pymysql.cursors

from appliance.queues.address import RedisAddress
from tests.database_server import PASSWORD, Database, DatabaseServer, new_database
from tests.mariadb_server import private_mariadb
from tests.ports import free_port
from tests.proxy import Proxy
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import PASSWORD_VARIABLE, Daemon
from tests.system.queues import QueueUnderTest
from tests.torture import plan
from tests.torture.account import Dead, Gap, Row
from tests.torture.lines import Lines
from tests.torture.senders import FileWriter, Sender, SocketSender
from tests.torture.weather import Weather

NAME = "torture"
STATE_BYTES = 192 * 1024**2  # of the state directory's disk: it is filled in a moment
LARGE_STATE_BYTES = 1024**3  # where it shall hold what comes in minutes
DRAIN_S = 10
CRON_S = 0.2  # a dead parent is found within this time
LONG_EVERY = 4000
SAMPLE_S = 2.0
FULL_BYTES = 1024**2  # of Redis: less than it needs for itself
WAYS = ("way to redis", "way to mariadb", "far redis", "far mariadb")

CONFIG = """
name = "{name}"
subscribers = {subscribers}
drain_s = {drain_s}
disk_free_min = 0
[queue]
url = "{queue}"
[store]
url = "{store}"
password = {{ env = "TEST_MARIADB_PASSWORD" }}
[store.columns]
raw = {{ path = "", type = "LONGTEXT" }}
run = {{ meta = "run", type = "BINARY(16)" }}
frame = {{ meta = "frame", type = "BIGINT" }}
position = {{ meta = "position", type = "INT" }}
"""
SOURCES = """
[source.file]
type = "file"
path = "{file}"
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{port}"
[source.unix]
type = "unix"
listen = "{socket}"
"""


@dataclass(frozen=True)
class Sample:
    """How it was at a moment. stored: 0 if the database didn't say. memory: {title: PSS, bytes}."""

    at_s: float
    sent: int
    stored: int
    memory: dict[str, int]

    def __str__(self) -> str:
        memory = " ".join(f"{title}={used >> 10}" for title, used in self.memory.items())
        return f"{self.at_s:.1f} s sent={self.sent} stored={self.stored} KiB: {memory}"


class World:
    """Everything that a run needs, running. Use it with `with`.

    Attributes:
        problems: what must not happen and did, in words.
        parent_kills: when the parent was killed with nobody else to hold its connections, and
            when it was dead, by the monotonic clock.
        refused_starts: how often the parent didn't start on a full disk.
        samples: how it went.
    """

    def __init__(
        self, seed: int, rate: float, folder: Path, state_bytes: int = STATE_BYTES
    ) -> None:
        self.seed, self.rate, self.folder = seed, rate, folder
        self._state_bytes = state_bytes
        self.problems: list[str] = []
        self.parent_kills: list[tuple[float, float]] = []
        self.samples: list[Sample] = []
        self.refused_starts = 0
        self.unmounted = ""  # why the disk can't be filled
        self._disk_full_until = 0.0
        self.senders: dict[str, Sender] = {}
        self.weather: dict[str, Weather] = {}
        self.ways: dict[str, Proxy] = {}
        self.born_at = 0.0
        self._stack = ExitStack()
        self._enough = threading.Event()

    def __enter__(self) -> "World":
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stack.close()

    def _start(self) -> None:
        enter = self._stack.enter_context
        self.redis: PrivateRedis = enter(PrivateRedis(find_redis(), tcp=True))
        self.mariadb: DatabaseServer = enter(private_mariadb())
        self.database: Database = enter(new_database(self.mariadb))
        self.servers = {"redis": self.redis, "mariadb": self.mariadb}
        for name in WAYS:
            self.weather[name] = Weather(random.Random(f"{self.seed} {name}"))
            target = self.redis.port if name.endswith("redis") else self.mariadb.port
            self.ways[name] = enter(Proxy(("127.0.0.1", target), self.weather[name]))
        port, socket = free_port(), str(self.folder / "s")
        file = self.folder / "lines"
        settings = CONFIG.format(subscribers=plan.SUBSCRIBERS, **self._common("way to"))
        self.daemon = Daemon(settings + SOURCES.format(file=file, port=port, socket=socket))
        self.queue = QueueUnderTest(self.redis.client(), NAME)
        self.state = self.daemon.directory / "state"
        self._stack.callback(shutil.rmtree, self.daemon.directory, ignore_errors=True)
        enter(self._small_disk(self.state))
        self.daemon.start()
        self._stack.callback(self._end)
        self.born_at = time.monotonic()
        self._make_senders(file, port, socket)
        for work in (self._be_cron, self._watch):
            thread = threading.Thread(target=work, name=work.__name__)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._enough.set)

    def _common(self, where: str) -> dict[str, object]:
        """Settings of whoever reaches the servers over these ways."""
        to_redis, to_mariadb = self.ways[f"{where} redis"].port, self.ways[f"{where} mariadb"].port
        url = self.database.url().replace(f":{self.mariadb.port}/", f":{to_mariadb}/")
        return {
            "name": NAME,
            "drain_s": DRAIN_S,
            "queue": RedisAddress(host="127.0.0.1", port=to_redis),
            "store": f"{url}?tls=off",
        }

    @contextmanager
    def _small_disk(self, folder: Path) -> Iterator[None]:
        """A file system of this size, where we may."""
        folder.mkdir()
        options = f"size={self._state_bytes},mode=0700"
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        if done.returncode:
            self.unmounted = done.stderr.strip()
            yield
            return
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Meanwhile a start may fail, as the documents say."""
        self._disk_full_until = math.inf
        try:
            yield
        finally:
            self._disk_full_until = time.monotonic()

    def _make_senders(self, file: Path, port: int, socket: str) -> None:
        where: dict[str, int | str] = {"tcp": port, "unix": socket}
        for name in plan.SENDERS:
            lines = Lines(self.seed, name, LONG_EVERY)
            dice = random.Random(f"{self.seed} {name}")
            source = name.rstrip("0123456789")
            rate = self.rate / len(plan.SENDERS)
            if source == "file":
                self.senders[name] = FileWriter(name, lines, dice, rate, file)
            else:
                self.senders[name] = SocketSender(name, lines, dice, rate, where[source])

    def _end(self) -> None:
        """End the instance, however the run went."""
        self._enough.set()
        self.daemon.__exit__(None)

    @contextmanager
    def full_redis(self) -> Iterator[None]:
        """Meanwhile Redis takes nothing more."""
        with self.redis.client() as client:
            client.config_set("maxmemory", FULL_BYTES)
            try:
                yield
            finally:
                client.config_set("maxmemory", 0)

    # ── an instance on another machine ──────────────────────────────────────────────────

    @contextmanager
    def far_instance(self) -> Iterator[None]:
        """One subscriber of the same queue and store, over ways and in a directory of its own."""
        folder = self.folder / "far"
        folder.mkdir(exist_ok=True)
        file = folder / "stream-daemon.toml"
        idle = f'[source.idle]\ntype = "file"\npath = "{folder}/nothing"\n'
        settings = CONFIG.format(subscribers=1, **self._common("far"))
        file.write_text(f'state_dir = "{folder}/state"\n{settings}{idle}')
        with (folder / "log").open("ab") as log:
            self._far = subprocess.Popen(
                [sys.executable, "-m", "appliance", "-c", str(file), "collect"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {PASSWORD_VARIABLE: PASSWORD},
                start_new_session=True,  # of which all are killed at once
            )
        try:
            yield
        finally:
            self.kill_far_instance()

    def kill_far_instance(self) -> None:
        """That machine is no more."""
        if self._far.poll() is None:
            os.killpg(self._far.pid, signal.SIGKILL)
            self._far.wait()

    # ── the instance ────────────────────────────────────────────────────────────────────

    def children(self) -> dict[str, int]:
        """Pids of the children by what they are ("collector tcp"); those that are alive."""
        prefix = f"stream-daemon {NAME} "
        try:
            named = self.daemon.children()
        except FileNotFoundError:  # the parent is dead
            return {}
        return {
            title.removeprefix(prefix): pid
            for title, pid in named.items()
            if title.startswith(prefix)
        }

    def keeper_holds(self) -> bool:
        """Whether connections would outlive the parent now, as it says."""
        status = self.daemon.try_status()
        return bool(status and status["keeper"] and status["keeper"]["holds"])

    @property
    def parent(self) -> int:
        """The parent's pid."""
        assert self.daemon.process
        return self.daemon.process.pid

    def _be_cron(self) -> None:
        """Start it again whenever it has died."""
        started_at = time.monotonic()
        while not self._enough.wait(CRON_S):
            if self.daemon.ended():
                code = self.daemon.wait()
                if code == -signal.SIGKILL:
                    pass
                elif self._disk_full_until >= started_at:
                    self.refused_starts += 1
                else:
                    self.problems.append(f"the parent ended by itself with {code}")
                started_at = time.monotonic()
                self.daemon.spawn()

    def stop(self) -> None:
        """Stop it in good order, and see that nothing of it is left."""
        self._enough.set()
        left = self.children()
        code = self.daemon.stop()
        if code:
            self.problems.append(f"it stopped with {code}")
        for title, pid in left.items():
            if os.path.exists(f"/proc/{pid}"):
                self.problems.append(f"{title} ({pid}) is still there after the stop")
        self.problems += [f"{path} is left after the stop" for path in self._left_sockets()]

    def _left_sockets(self) -> Iterator[Path]:
        paths = (self.folder / "s", *self.state.rglob("*"))
        yield from (path for path in paths if path.is_socket())

    # ── looking ─────────────────────────────────────────────────────────────────────────

    def accounted(self) -> Mapping[str, int]:
        """Records that the ledger has counted, by source; nothing while the database is away."""
        try:
            rows = self.database.run(
                f"SELECT source, SUM(records) FROM (SELECT source, records FROM {NAME}_runs"
                f" UNION ALL SELECT r.source, f.records FROM {NAME}_frames f"
                f" JOIN {NAME}_runs r ON r.run = f.run) AS counted GROUP BY source"
            )
        except pymysql.Error:
            return {}
        return {source: int(records) for source, records in rows}

    def spooled(self) -> int:
        """Bytes that wait on the state directory's disk, as `status` says; 1 while it can't."""
        status = self.daemon.try_status()
        if status is None:
            return 1
        parts = [*status["sources"].values(), status["recovery"]]
        return sum(int(part["spool"]["bytes"]) for part in parts)

    def rows(self) -> Iterator[Row]:
        """All that is in the user's table, in the order of its key."""
        connection = self.mariadb.connect(self.database.name)
        try:
            with connection.cursor(pymysql.cursors.SSCursor) as cursor:
                cursor.execute("SELECT raw, run, frame, position FROM records ORDER BY seq")
                for raw, run, frame, position in cursor:
                    yield raw.encode(), run, frame, position
        finally:
            connection.close()

    def dead(self) -> list[Dead]:
        """Code, content and frame of each dead letter."""
        frame = "CONCAT(HEX(run), ':', frame)"
        return list(self.database.run(f"SELECT code, raw, {frame} FROM {NAME}_dead"))

    def gaps(self) -> list[Gap]:
        """What the instance says is missing."""
        return list(self.database.run(f"SELECT cause, first, records FROM {NAME}_gaps"))

    def _watch(self) -> None:
        while not self._enough.wait(SAMPLE_S):
            self.sample()

    def sample(self) -> None:
        """Write down how it is now."""
        found = self.children() | {"parent": self.parent}
        self.samples.append(
            Sample(
                since(self.born_at),
                sum(sender.sent for sender in self.senders.values()),
                sum(self.accounted().values()),
                {title: pss_bytes(pid) for title, pid in found.items()},
            )
        )


def pss_bytes(pid: int) -> int:
    """Memory of a process, pages that it shares counted in shares; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def since(start: float) -> float:
    """Seconds since then, by the monotonic clock."""
    return time.monotonic() - start
