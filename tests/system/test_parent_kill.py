"""P1 for the parent: killed with -9 under load, its children hand over and end by themselves.

Where its keeper is killed at the same moment, a sender is cut: what it sent after the last
hand-over is refused, by a reset. So of one connection a beginning is stored: as many lines as
Redis has counted as handed over, each once. (With a keeper: test_keeper.)
"""

import os
import random
import select
import time
from pathlib import Path

from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest, until_rows
from tests.system.writer import Writer

DRAIN_S = 5
SPARE_S = 3.0  # for recovery, which ends the server, and for the machine
HANGING_FRAMES = 20  # so many waiting frames mean that nobody takes any
STORED_S = 30.0  # an earlier parent's children may hand over until then
WAITS = "children of a killed parent are still handing over: waiting"


def tcp_config(port: int, more: str) -> str:
    return (
        f'drain_s = {DRAIN_S}\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'close_wait_s = 1\nframe_bytes_max = "64KiB"\nrecord_bytes_max = "8KiB"\n{more}'
    )


def test_a_sender_loses_only_what_is_refused(store: StoreUnderTest, seed: int) -> None:
    port, records = free_port(), Records(seed)
    config = tcp_config(port, f'{store.section()}lease_bytes_max = "256KiB"\n')
    with Daemon(config) as daemon:
        with Sender(port, records) as sender:
            until(daemon.stored, STORED_S, "rows")
            children = daemon.child_pids()
            daemon.kill_both_holders()
            killed_at = time.monotonic()
            daemon.spawn()
            wait_for_ends(children, killed_at + DRAIN_S + SPARE_S)
            sender.wait_for_refusal()
        until(daemon.try_status, DRAIN_S + SPARE_S, "the second instance")
        assert daemon.said().count(WAITS) <= 1
        second = daemon.run("collect")
        assert (second.returncode, second.stdout) == (73, "")
        assert "already runs" in second.stderr
        QueueUnderTest.embedded(daemon).check_beginning(daemon, store, records)
        assert daemon.stop() == 0


def test_leases_are_given_back_when_the_parent_and_the_store_are_gone(
    redis_server: PrivateRedis, mariadb_store: MariaDB, seed: int
) -> None:
    port, records, name = free_port(), Records(seed), f"parent{seed}"
    config = f'name = "{name}"\n' + tcp_config(
        port, f'[queue]\nurl = "{redis_server.address}"\n{mariadb_store.section()}'
    )
    queue = QueueUnderTest(redis_server.client(), name)
    with Daemon(config) as daemon:
        with Sender(port, records) as sender:
            until(daemon.stored, STORED_S, "rows")
            with mariadb_store.away():
                until(queue.busy, DRAIN_S, "a lease in hand")
                children = daemon.child_pids()
                daemon.kill_both_holders()
                wait_for_ends(children, time.monotonic() + DRAIN_S + SPARE_S)
                assert not queue.busy()
            sender.wait_for_refusal()
        daemon.start()
        queue.check_beginning(daemon, mariadb_store, records)
        assert daemon.stop() == 0


def test_nothing_outlives_the_parent_where_the_store_hangs(
    mariadb_store: MariaDB, seed: int
) -> None:
    """A subscriber that waits for an answer can't be asked: the alarm ends it, and the server
    ends all the same.

    It may wait with a lease in hand, or with none: in a fold, or while it starts.
    """
    port, records = free_port(), Records(seed)
    with Daemon(tcp_config(port, mariadb_store.section())) as daemon:
        queue = QueueUnderTest.embedded(daemon)
        with Sender(port, records) as sender:
            until(daemon.stored, STORED_S, "rows")
            with mariadb_store.paused():
                until(lambda: hangs(queue), STORED_S, "subscribers that wait for the store")
                children = daemon.child_pids()
                daemon.kill_both_holders()
                wait_for_ends(children, time.monotonic() + DRAIN_S + SPARE_S)
            sender.wait_for_refusal()
        daemon.start()
        QueueUnderTest.embedded(daemon).check_beginning(daemon, mariadb_store, records)
        assert daemon.stop() == 0


def test_a_file_is_stored_once_through_five_parents(tmp_path: Path, seed: int) -> None:
    path, dice, records, store = tmp_path / "lines", random.Random(seed), Records(seed), Sqlite()
    config = f'drain_s = {DRAIN_S}\n[source.s]\ntype = "file"\npath = "{path}"\n'
    with Daemon(config) as daemon:
        with Writer(path, records, dice):
            for _ in range(4):
                until(daemon.stored, STORED_S, "rows")
                time.sleep(dice.random() / 4)  # any instant of its work
                daemon.kill_parent()
                daemon.spawn()
            until(daemon.stored, STORED_S, "rows")
        until_rows(store, daemon, records.sent)
        QueueUnderTest.embedded(daemon).until_empty()
        records.check(store.raws(daemon), records.sent)
        assert daemon.stop() == 0


def test_the_parent_is_killed_while_redis_hangs(tmp_path: Path, seed: int) -> None:
    """A frame is in hand, and its push may be carried out when everybody is dead."""
    path, dice, records, store = tmp_path / "lines", random.Random(seed), Records(seed), Sqlite()
    with PrivateRedis(find_redis()) as server:
        queue = f'queue.url = "{server.address}"\n'
        config = f'drain_s = {DRAIN_S}\n{queue}[source.s]\ntype = "file"\npath = "{path}"\n'
        with Daemon(config) as daemon:
            with Writer(path, records, dice):
                until(daemon.stored, STORED_S, "rows")
                server.pause()
                children = daemon.child_pids()
                daemon.kill_parent()
                wait_for_ends(children, time.monotonic() + DRAIN_S + SPARE_S)
                server.resume()
                daemon.start()
                until(daemon.stored, STORED_S, "rows")
            until_rows(store, daemon, records.sent)
            QueueUnderTest(server.client(), "stream").until_empty()
            records.check(store.raws(daemon), records.sent)
            assert daemon.stop() == 0


def hangs(queue: QueueUnderTest) -> bool:
    """Whether the subscribers wait for the store."""
    return bool(queue.busy()) or queue.waiting() >= HANGING_FRAMES


def wait_for_ends(pids: list[int], deadline: float) -> None:
    """See that these processes, whose parent is dead, end in time."""
    left = list(pids)
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            left.remove(pid)
            continue
        try:
            if select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                left.remove(pid)
        finally:
            os.close(pidfd)
    assert not left, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
