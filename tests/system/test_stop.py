"""A stop by signal: exit 0, and nothing is lost that the sender knew to be with us.

What was not stored yet waits in Redis and is stored by the next start.
"""

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite, until_rows

UNREAD_RECORDS = 2_000  # about 1 MB, which the kernel's buffer holds
WAIT_S = 30.0
GIVEN_BACK_S = 5.0


def config(port: int, more: str = "") -> str:
    return f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nclose_wait_s = 1\n{more}'


@pytest.mark.parametrize(
    ("number", "closes"),
    [
        (signal.SIGTERM, True),
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        (signal.SIGQUIT, False),
    ],
)
def test_what_the_kernel_has_is_kept(number: signal.Signals, closes: bool, seed: int) -> None:
    """The signal comes when our kernel has everything, and nobody has read the last of it."""
    port, records, store = free_port(), Records(seed), Sqlite()
    with Daemon(config(port)) as daemon:
        with Sender(port, records) as sender:
            until(daemon.stored, WAIT_S, "rows")
            collector = daemon.status()["sources"]["s"]["pid"]
            os.kill(collector, signal.SIGSTOP)
            unread_from = records.sent
            until(lambda: records.sent >= unread_from + UNREAD_RECORDS, WAIT_S, "the rest")
            sender.finish(close=closes)
            daemon.signal(number)
            until(lambda: daemon.status()["state"] == "stopping", WAIT_S, "the stop")
            os.kill(collector, signal.SIGCONT)
            assert daemon.wait() == 0
        waited = daemon.run("status")
        assert (waited.returncode, waited.stdout) == (3, "")
        daemon.start()
        queue = QueueUnderTest.embedded(daemon)
        queue.until_empty()
        until_rows(store, daemon, records.sent)
        records.check(store.raws(daemon), records.sent)
        assert queue.handed_over("s") == records.sent
        assert daemon.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_leases_are_given_back_when_the_store_is_away(
    number: signal.Signals, redis_server: PrivateRedis, mariadb_store: MariaDB, seed: int
) -> None:
    """The sender is cut in the middle: a beginning of what it sent was taken."""
    port, records, name = free_port(), Records(seed), f"stop{seed}{number.name.lower()}"
    more = f'[queue]\nurl = "{redis_server.address}"\n{mariadb_store.section()}'
    queue = QueueUnderTest(redis_server.client(), name)
    with Daemon(f'name = "{name}"\nsubscribers = 2\n{config(port, more)}') as daemon:
        with Sender(port, records) as sender:
            until(daemon.stored, WAIT_S, "rows")
            with mariadb_store.away():
                until(lambda: len(queue.busy()) == 2, WAIT_S, "leases in hand")
                began = time.monotonic()
                assert daemon.stop(number) == 0
                assert time.monotonic() - began < GIVEN_BACK_S
                assert not queue.busy()
                assert queue.waiting() > 0
            sender.wait_for_refusal()
        daemon.start()
        queue.until_empty()
        queue.check_beginning(daemon, mariadb_store, records)
        assert daemon.stop() == 0


def test_what_cannot_be_handed_over_is_counted(redis: PrivateRedis, seed: int) -> None:
    """Redis isn't back before the deadline, and there is no spool: exit 74, and a gap says it.

    Unless the frame had arrived, and only its answer was lost: then it is stored.
    """
    port, records, store = free_port(), Records(seed), Sqlite()
    more = f'[queue]\nurl = "{redis.address}"\n[spool]\nbytes_max = 0\n'
    queue = QueueUnderTest(redis.client(), "stream")
    with Daemon(f"drain_s = 2\n{config(port, more)}") as daemon:
        with Sender(port, records) as sender:
            until(daemon.stored, WAIT_S, "rows")
            redis.kill()
            until(lambda: daemon.status()["sources"]["s"]["waiting_for"], WAIT_S, "the outage")
            assert daemon.stop() == 74
            sender.wait_for_refusal()
        said = re.findall(r"ended with (\d+) records .* could not be handed over", daemon.said())
        redis.start()
        daemon.start()
        until(lambda: settled(daemon), WAIT_S, "the frame that was in hand")
        queue.until_empty()
        gaps = store.rows(daemon, "SELECT cause, records FROM stream_gaps")
        assert gaps in ([], [("connection lost", int(said[0]))])
        lost = sum(count for _, count in gaps)
        records.check(store.raws(daemon), queue.handed_over("s") - lost)
        assert daemon.stop() == 0


def settled(daemon: Daemon) -> bool:
    """Whether this instance has stored a frame, or its gap."""
    store = daemon.status()["store"]
    return bool(store["stored"] or store["lost"])


@pytest.fixture
def redis() -> Iterator[PrivateRedis]:
    """A server of the test's own, which it may kill."""
    with PrivateRedis(find_redis()) as server:
        yield server
