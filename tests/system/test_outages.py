"""P2 and P3: Redis or the database goes away under load, and comes back.

Stopped, killed, or hanging: nothing is lost, nothing doubled, nobody has to do anything. Each
process that met the outage says one line when it begins and one when it is over, `status` says
what is waited for, and memory stays where it was.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.database_server import PASSWORD, DatabaseServer
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import PASSWORD_VARIABLE, Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest, until_rows

OUTAGE_S = 5.0
WAITING_FRAMES = 10
SEEN_S = 15.0  # until `status` says it
BACK_S = 20.0  # from the server's return: it reads its data back, and retries are 5 s apart
RECORD_BYTES_MAX = 50_000
BYTES_PER_S = 20e6  # in an outage more comes than memory may grow
GROWTH_BYTES_MAX = 64 * 1024**2  # of all our processes together
SAID = re.compile(r"^\S+Z \w+ +([^:]+): (waiting for|no longer waiting for) ", re.MULTILINE)


@dataclass
class Load:
    """An instance and who sends to it."""

    daemon: Daemon
    sender: Sender
    records: Records
    store: StoreUnderTest

    def check(self, queue: QueueUnderTest) -> None:
        """Everything that was sent is stored, once."""
        self.sender.finish()
        until_rows(self.store, self.daemon, self.records.sent)
        queue.until_empty()
        self.records.check(self.store.raws(self.daemon), self.records.sent)

    def until_stored_more(self) -> None:
        """Wait until rows come (again)."""
        before = self.daemon.stored()
        until(lambda: self.daemon.stored() > before, BACK_S, "rows to come")


@contextmanager
def load(more: str, store: StoreUnderTest, seed: int) -> Iterator[Load]:
    """An instance under load; stopped at the end, with exit code 0."""
    port, records = free_port(), Records(seed, RECORD_BYTES_MAX)
    config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{store.section()}'
    with Daemon(f"subscribers = {store.writers}\n{more}\n{config}") as daemon:
        with Sender(port, records, bytes_per_s=BYTES_PER_S) as sender:
            load = Load(daemon, sender, records, store)
            load.until_stored_more()
            yield load
        assert daemon.stop() == 0


# ── Redis ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def stopped(server: PrivateRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def killed(server: PrivateRedis) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def hanging(server: PrivateRedis) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@pytest.mark.parametrize("outage", [stopped, killed, hanging])
def test_redis_goes_and_comes(
    outage: Callable[[PrivateRedis], AbstractContextManager[None]], seed: int
) -> None:
    with PrivateRedis(find_redis(), tcp=True) as server:
        more = f'queue.url = "{server.tcp_address}"'
        with load(more, Sqlite(), seed) as under:
            go_through(under, outage(server), "the queue (records go to the spool): Redis at")
            under.check(QueueUnderTest(server.client(), "stream"))
            said = outages(under.daemon)
            if outage is hanging:  # only the collector's patience is shorter than this outage
                assert said == {"collector s": (1, 1)}, under.daemon.said()
            else:
                each = {"collector s": (1, 1), "subscriber 1": (1, 1), "recovery": (1, 1)}
                assert said == each, under.daemon.said()


def test_the_embedded_server_is_killed(seed: int) -> None:
    """Three times, each time with frames in it that nobody has taken yet."""
    with load("", Sqlite(), seed) as under:
        daemon, queue = under.daemon, QueueUnderTest.embedded(under.daemon)
        for _ in range(3):
            with held_up(daemon):
                queue.until_filled(WAITING_FRAMES)
                assert daemon.kill_child(server_pid(daemon))
            under.until_stored_more()
        under.check(queue)
        assert daemon.said().count("valkey-server died (SIGKILL); it is started again") == 3


@contextmanager
def held_up(daemon: Daemon) -> Iterator[None]:
    """The subscriber stands still."""
    subscriber = daemon.status()["subscribers"][0]["pid"]
    os.kill(subscriber, signal.SIGSTOP)
    yield
    os.kill(subscriber, signal.SIGCONT)


# ── the database ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_database_goes_and_comes(
    how: str, redis_server: PrivateRedis, mariadb_store: MariaDB, seed: int
) -> None:
    name = f"db{seed}{how}"
    more = f'name = "{name}"\nqueue.url = "{redis_server.address}"'
    with load(more, mariadb_store, seed) as under:
        outage = mariadb_store.away(killed=how == "killed")
        go_through(under, outage, "the store: database stream@")
        under.check(QueueUnderTest(redis_server.client(), name))
        each = {f"subscriber {n}": (1, 1) for n in range(1, mariadb_store.writers + 1)}
        assert outages(under.daemon) == each, under.daemon.said()


@dataclass
class Unprepared:
    """A store whose server knows neither the password nor the database yet."""

    server: DatabaseServer
    name: str
    writers = 1

    def section(self) -> str:
        url = f"mysql://{self.name}@{self.server.host}:{self.server.port}/{self.name}"
        return f'[store]\nurl = "{url}"\npassword = {{ env = "{PASSWORD_VARIABLE}" }}\n'


def test_wrong_password_then_missing_database(mariadb: DatabaseServer, seed: int) -> None:
    """It keeps running, says what to mend, and goes on when that is done."""
    name, port, records = f"late{seed}", free_port(), Records(seed)
    mariadb.run(f"CREATE USER {name}@'%' IDENTIFIED BY 'another'")
    mariadb.run(f"GRANT ALL ON {name}.* TO {name}@'%'")
    config = f'subscribers = 1\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
    with Daemon(config + Unprepared(mariadb, name).section()) as daemon:
        with Sender(port, records) as sender:
            until_awaited(daemon, "Access denied", "check user and password under [store]")
            mariadb.run(f"ALTER USER {name}@'%' IDENTIFIED BY '{PASSWORD}'")
            until_awaited(daemon, "Unknown database", "create it (CREATE DATABASE)")
            sender.finish()
            mariadb.run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
            daemon.until_stored(records.sent)
        stored = mariadb.run(f"SELECT raw FROM {name}.records")
        records.check((raw.encode() for (raw,) in stored), records.sent)
        assert outages(daemon) == {"subscriber 1": (2, 1)}, daemon.said()
        assert daemon.said().count("→ check user and password under [store]") == 1
        assert daemon.said().count("→ create it (CREATE DATABASE)") == 1
        assert PASSWORD not in daemon.said()
        assert daemon.stop() == 0
    mariadb.run(f"DROP DATABASE {name}")
    mariadb.run(f"DROP USER {name}@'%'")


# ── looking ─────────────────────────────────────────────────────────────────────────────


def go_through(under: Load, outage: AbstractContextManager[None], awaited: str) -> None:
    """Have the outage, and see what is said, that memory is bounded, and that it goes on."""
    daemon = under.daemon
    before = memory_bytes(daemon)
    with outage:
        over_at = time.monotonic() + OUTAGE_S
        until_awaited(daemon, awaited)
        time.sleep(max(0.0, over_at - time.monotonic()))
        assert memory_bytes(daemon) < before + GROWTH_BYTES_MAX
    until(lambda: daemon.status()["state"] == "healthy", BACK_S, "everything to be well again")
    assert daemon.run("status").returncode == 0
    under.until_stored_more()
    assert memory_bytes(daemon) < before + GROWTH_BYTES_MAX


def until_awaited(daemon: Daemon, *texts: str) -> None:
    """Wait until `status` says so, as a sentence and by its exit code."""

    def shown() -> bool:
        status = daemon.run("status")
        waits = [line for line in status.stdout.splitlines() if "  waiting for " in line]
        seen = any(all(text in line for text in texts) for line in waits)
        return seen and status.returncode == 2

    until(shown, SEEN_S, f"status to say {texts}")


def outages(daemon: Daemon) -> dict[str, tuple[int, int]]:
    """How many begins and ends of outages each kind of process has said."""
    said = Counter(SAID.findall(daemon.said()))
    return {who: (said[who, "waiting for"], said[who, "no longer waiting for"]) for who, _ in said}


def server_pid(daemon: Daemon) -> int:
    """The embedded server's."""
    [pid] = [pid for title, pid in daemon.children().items() if "valkey" in title]
    return pid


def memory_bytes(daemon: Daemon) -> int:
    """Memory of the parent and all its children, pages that they share counted once (PSS)."""
    assert daemon.process
    return sum(map(pss_bytes, [daemon.process.pid, *daemon.child_pids()]))


def pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0
