"""P1 for subscribers: killed fifty times between take and confirm, each record is a row once.

Some kill themselves between two steps, the nastiest between commit and confirm; others are killed
from outside, at any instant, by the pid that `status` shows.
"""

import random
from typing import Any

from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon
from tests.system.killer import kill_until, self_kills
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import StoreUnderTest, until_rows

KILLS = 50
SELF_KILLS_MAX = 40
STEPS = {"taken": 0.05, "stored": 0.1, "confirmed": 0.05}


def test_fifty_kills_between_take_and_confirm(
    redis_server: PrivateRedis, store: StoreUnderTest, seed: int
) -> None:
    port, name = free_port(), f"subs{seed}"
    config = (
        f'name = "{name}"\nsubscribers = {store.writers}\n'
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        'record_bytes_max = "8KiB"\nframe_bytes_max = "16KiB"\n'
        f'[queue]\nurl = "{redis_server.address}"\n'
        f'{store.section()}lease_bytes_max = "64KiB"\n'
    )
    records, queue = Records(seed), QueueUnderTest(redis_server.client(), name)
    with Daemon(config, crash=self_kills(STEPS, SELF_KILLS_MAX, seed)) as daemon:
        with Sender(port, records) as sender:
            outside = kill_until(daemon, subscribers, KILLS, random.Random(seed))
            sender.finish()
        until_rows(store, daemon, records.sent)
        queue.until_empty()
        records.check(store.raws(daemon), records.sent)
        assert set(daemon.crashes()) == set(STEPS), daemon.crashes()
        restarts = sum(one["restarts"] for one in subscribers(daemon.status()))
        assert KILLS <= restarts <= len(daemon.crashes()) + outside
        assert ledger(store, daemon, name) == (records.sent, records.sent)
        assert daemon.stop() == 0


def subscribers(status: dict[str, Any]) -> list[dict[str, Any]]:
    return list(status["subscribers"])


def ledger(store: StoreUnderTest, daemon: Daemon, name: str) -> tuple[int, int]:
    """Records that came in and rows that came of them, as the ledger has them."""
    [(records, stored)] = store.rows(
        daemon,
        "SELECT SUM(records), SUM(`stored`) FROM"
        f" (SELECT records, stored FROM {name}_runs"
        f" UNION ALL SELECT records, stored FROM {name}_frames) AS every",
    )
    return int(records), int(stored)
