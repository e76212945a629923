"""A Redis that forgets: what was stored is no gap, what is missing is one, and nothing is doubled.

The sender counts. What the table lacks of it in the end must be just what the gaps say.
"""

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import STOP_S, Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import StoreUnderTest

FRAMES = 20
FEW = 300  # records


def configuration(port: int, server: PrivateRedis, store: StoreUnderTest) -> str:
    return (
        f"subscribers = {store.writers}\n"
        f'[queue]\nurl = "unix://{server.options["unixsocket"]}"\n'
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{store.section()}'
    )


def test_redis_is_flushed_and_restored_from_an_older_copy(
    mariadb_store: StoreUnderTest, seed: int
) -> None:
    """With frames stored, waiting, and coming behind."""
    port, store, records = free_port(), mariadb_store, Records(seed)
    with (
        PrivateRedis(find_redis(), options={"appendonly": "no"}) as server,
        Daemon(configuration(port, server, store)) as daemon,
        server.client() as client,
        Sender(port, records, bytes_per_s=1e6) as sender,
    ):
        queue = QueueUnderTest(client, "stream")
        stores_some(daemon)
        with waiting_frames(daemon, queue):
            client.flushall()
        stores_some(daemon)
        with waiting_frames(daemon, queue):
            client.save()
            copy = shutil.copy(server.directory / "dump.rdb", server.directory / "older")
        until(lambda: not queue.waiting(), STOP_S, "what is in the copy to be stored")
        with waiting_frames(daemon, queue):
            server.kill()
            shutil.copy(copy, server.directory / "dump.rdb")
            server.start()
            assert queue.waiting() >= FRAMES, "stored already, and queued again"
        stores_some(daemon)
        sender.finish()
        queue.until_empty()
        until(lambda: missing(daemon) == records.sent - rows(store, daemon), STOP_S, "the gaps")
        stored = [(int(raw.split(b" ", 1)[0]), raw) for raw in store.raws(daemon)]
        assert len({number for number, _ in stored}) == len(stored), "doubled"
        assert all(raw == records.line(number) for number, raw in stored)
        lost = records.sent - len(stored)
        assert lost > 2 * FRAMES, "at least a record in each frame"
        assert daemon.said().count("never came to the store, and wait nowhere") >= 2
        audit = json.loads(daemon.run("audit", "--json", "--recount").stdout)
        assert (audit["differences"], audit["total"]["lost"]) == ([], lost)
        assert daemon.stop() == 0


@contextmanager
def waiting_frames(daemon: Daemon, queue: QueueUnderTest) -> Iterator[None]:
    """Some frames wait meanwhile, and nobody takes any."""
    daemon.signal(signal.SIGTSTP)
    queue.until_filled(FRAMES)
    yield
    daemon.signal(signal.SIGCONT)


def stores_some(daemon: Daemon) -> None:
    before = daemon.stored()
    until(lambda: daemon.stored() > before + FEW, STOP_S, "rows")


def rows(store: StoreUnderTest, daemon: Daemon) -> int:
    [(count,)] = store.rows(daemon, "SELECT COUNT(*) FROM records")
    return int(count)


def missing(daemon: Daemon) -> int:
    """What `gaps` says."""
    lines = daemon.run("gaps", "--json").stdout.splitlines()
    gaps = [json.loads(line) for line in lines]
    assert {gap["cause"] for gap in gaps} <= {"queue lost", "queue forgot"}
    return sum(gap["records"] - gap["recovered"] for gap in gaps)
