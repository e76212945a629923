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
from pathlib import Path

import pytest

from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, free_port, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest, until_rows

OUTAGE_S = 5.0
FLOW_S = 10.0
BACK_S = 20.0  # from the server's return: it reads its data back, and retries are 5 s apart
GROWTH_BYTES_MAX = 32 * 1024**2  # of all our processes together
BYTES_PER_S = 2e6

Outage = Callable[[], AbstractContextManager[None]]


def config(port: int, name: str, queue: str, store: StoreUnderTest) -> str:
    return (
        f'name = "{name}"\nsubscribers = {store.writers}\n'
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f"[queue]\n{queue}\n{store.section()}"
    )


@contextmanager
def redis_stopped(server: PrivateRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def redis_killed(server: PrivateRedis) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def redis_paused(server: PrivateRedis) -> Iterator[None]:
    server.pause()
    yield
    server.resume()


@pytest.mark.parametrize("outage", [redis_stopped, redis_killed, redis_paused])
def test_redis_goes_and_comes(
    outage: Callable[[PrivateRedis], AbstractContextManager[None]], seed: int
) -> None:
    with PrivateRedis(find_redis(), tcp=True) as server:
        name, store = f"redis{seed}", Sqlite()
        queue = f'url = "{server.tcp_address}"'
        with instance(name, queue, store, seed) as (daemon, records):
            go_through(daemon, lambda: outage(server), "the queue")
            check(daemon, QueueUnderTest(server.client(), name), store, records)
            said = outages(daemon)
            assert said["collector s"] == (1, 1)
            assert set(said.values()) == {(1, 1)}, daemon.said()
            if outage is not redis_paused:  # only the collector is in a hurry
                assert set(said) == {"collector s", "subscriber 1", "recovery"}


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_database_goes_and_comes(
    how: str, redis_server: PrivateRedis, mariadb_store: MariaDB, seed: int
) -> None:
    name = f"db{seed}"
    queue = f'url = "{redis_server.address}"'
    with instance(name, queue, mariadb_store, seed) as (daemon, records):
        go_through(daemon, lambda: mariadb_store.away(killed=how == "killed"), "the store")
        check(daemon, QueueUnderTest(redis_server.client(), name), mariadb_store, records)
        assert outages(daemon) == {"subscriber 1": (1, 1), "subscriber 2": (1, 1)}


@contextmanager
def instance(
    name: str, queue: str, store: StoreUnderTest, seed: int
) -> Iterator[tuple[Daemon, Records]]:
    """An instance under load; at the end of `with` it is stopped, with exit code 0."""
    port, records = free_port(), Records(seed)
    with Daemon(config(port, name, queue, store)) as daemon:
        with Sender(port, records, bytes_per_s=BYTES_PER_S) as sender:
            until_flowing(daemon)
            daemon.finish = sender.finish
            yield daemon, records
        assert daemon.stop() == 0
