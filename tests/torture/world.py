"""The instance under torture and all that it lives on, each a thing of its own that can be struck.

Redis and MariaDB are private servers behind proxies; the state directory is a small file system
of its own where root may mount one. A parent that has died is started again, as cron would, by
a thread; a parent that ends although nobody killed it is a problem, unless its disk is full.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pymysql.cursors

from appliance.queues.address import RedisAddress
from tests.database_server import Database, DatabaseServer, new_database
from tests.mariadb_server import private_mariadb
from tests.ports import free_port
from tests.proxy import Proxy
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon
from tests.system.queues import QueueUnderTest
from tests.torture import plan
from tests.torture.account import Dead, Row
from tests.torture.lines import Lines
from tests.torture.senders import FileWriter, Sender, SocketSender
from tests.torture.weather import Weather

NAME = "torture"
STATE_BYTES = 192 * 1024**2
DRAIN_S = 10
CRON_S = 0.2  # a dead parent is found within this time
LONG_EVERY = 4000
SAMPLE_S = 2.0

CONFIG = """
name = "{name}"
subscribers = {subscribers}
drain_s = {drain_s}
disk_free_min = 0
[source.file]
type = "file"
path = "{file}"
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{port}"
[source.unix]
type = "unix"
listen = "{socket}"
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


class World:
    """Everything that a run needs, running. Use it with `with`.

    Attributes:
        problems: what must not happen and did, in words.
        parent_kills: when the parent was killed, and when it was dead, by the monotonic clock.
        refused_starts: how often the parent didn't start on a full disk.
        memory: {title: the largest share of the memory seen, in bytes (PSS)}.
    """

    def __init__(self, seed: int, rate: float, folder: Path) -> None:
        self.seed, self.rate, self.folder = seed, rate, folder
        self.problems: list[str] = []
        self.parent_kills: list[tuple[float, float]] = []
        self.memory: dict[str, int] = {}
        self.refused_starts = 0
        self.unmounted = ""  # why the disk can't be filled
        self._disk_is_full = threading.Event()
        self.senders: dict[str, Sender] = {}
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
        self.weather = {
            "way to redis": Weather(random.Random(f"{self.seed} redis")),
            "way to mariadb": Weather(random.Random(f"{self.seed} mariadb")),
        }
        self.ways = {
            "way to redis": self._way("way to redis", self.redis.port),
            "way to mariadb": self._way("way to mariadb", self.mariadb.port),
        }
        port, socket = free_port(), str(self.folder / "s")
        file = self.folder / "lines"
        self.daemon = Daemon(self._config(file, port, socket))
        self.queue = QueueUnderTest(self.redis.client(), NAME)
        self.state = self.daemon.directory / "state"
        enter(self._small_disk(self.state))
        self.daemon.start()
        self._stack.callback(self._end)
        self.born_at = time.monotonic()
        self._make_senders(file, port, socket)
        for work in (self._be_cron, self._watch_memory):
            thread = threading.Thread(target=work, name=work.__name__)
            thread.start()
            self._stack.callback(thread.join)
        self._stack.callback(self._enough.set)

    def _way(self, name: str, port: int) -> Proxy:
        return self._stack.enter_context(Proxy(("127.0.0.1", port), self.weather[name]))

    def _config(self, file: Path, port: int, socket: str) -> str:
        way = self.ways["way to mariadb"].port
        return CONFIG.format(
            name=NAME,
            subscribers=plan.SUBSCRIBERS,
            drain_s=DRAIN_S,
            file=file,
            port=port,
            socket=socket,
            queue=RedisAddress(host="127.0.0.1", port=self.ways["way to redis"].port),
            store=self.database.url().replace(f":{self.mariadb.port}/", f":{way}/") + "?tls=off",
        )

    @contextmanager
    def _small_disk(self, folder: Path) -> Iterator[None]:
        """A file system of this size, where we may."""
        folder.mkdir()
        options = f"size={STATE_BYTES},mode=0700"
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
        self._disk_is_full.set()
        try:
            yield
        finally:
            self._enough.wait(2 * CRON_S)  # cron may find it a moment later
            self._disk_is_full.clear()

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

    @property
    def parent(self) -> int:
        """The parent's pid."""
        assert self.daemon.process
        return self.daemon.process.pid

    def _be_cron(self) -> None:
        """Start it again whenever it has died."""
        while not self._enough.wait(CRON_S):
            if self.daemon.ended():
                code = self.daemon.wait()
                if code == -signal.SIGKILL:
                    pass
                elif self._disk_is_full.is_set():
                    self.refused_starts += 1
                else:
                    self.problems.append(f"the parent ended by itself with {code}")
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
        folders = (self.folder, self.state)
        yield from (path for folder in folders for path in folder.rglob("*") if path.is_socket())

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
        """Code and content of each dead letter."""
        return list(self.database.run(f"SELECT code, raw FROM {NAME}_dead"))

    def gaps(self) -> list[tuple[Any, ...]]:
        """What the instance says is missing."""
        return self.database.run(f"SELECT * FROM {NAME}_gaps")

    def _watch_memory(self) -> None:
        while not self._enough.wait(SAMPLE_S):
            found = self.children() | {"parent": self.parent}
            for title, pid in found.items():
                self.memory[title] = max(self.memory.get(title, 0), pss_bytes(pid))


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
