"""P1 for subscribers: killed fifty times between take and confirm, each record is a row once.

Some kill themselves between two steps, the nastiest between commit and confirm; others are killed
from outside, at any instant, by the pid that `status` shows.
"""

import random

from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, free_port, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import StoreUnderTest, until_rows

KILLS = 50
SELF_KILLS_MAX = 40
STEPS = {"taken": 0.05, "stored": 0.1, "confirmed": 0.05}
KILLS_S = 60.0


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
    crash = {
        "CRASH_STEPS": ",".join(f"{step}={chance}" for step, chance in STEPS.items()),
        "CRASH_MAX": str(SELF_KILLS_MAX),
        "CRASH_SEED": str(seed),
    }
    records, queue = Records(seed), QueueUnderTest(redis_server.client(), name)
    with Daemon(config, crash=crash) as daemon:
        with Sender(port, records) as sender:
            outside = kill_until(daemon, KILLS, random.Random(seed))
            sender.finish()
        until_rows(store, daemon, records.sent)
        queue.until_empty()
        records.check(store.raws(daemon), records.sent)
        assert set(daemon.crashes()) == set(STEPS), daemon.crashes()
        assert KILLS <= restarts(daemon) <= len(daemon.crashes()) + outside
        assert ledger(store, daemon, name) == (records.sent, records.sent)
        assert daemon.stop() == 0


def kill_until(daemon: Daemon, kills: int, dice: random.Random) -> int:
    """Kill a subscriber now and then, until so many were restarted; how many we killed."""
    killed = 0

    def enough() -> bool:
        nonlocal killed
        status = daemon.try_status() or {"subscribers": []}
        for subscriber in status["subscribers"]:
            if subscriber["pid"] and dice.random() < 0.1:
                killed += daemon.kill_child(subscriber["pid"])
        return sum(one["restarts"] for one in status["subscribers"]) >= kills

    until(enough, KILLS_S, f"{kills} restarts")
    assert killed, "none was killed from outside"
    return killed


def restarts(daemon: Daemon) -> int:
    return sum(int(one["restarts"]) for one in daemon.status()["subscribers"])


def ledger(store: StoreUnderTest, daemon: Daemon, name: str) -> tuple[int, int]:
    """Records that came in and rows that came of them, as the ledger has them."""
    [(records, stored)] = store.rows(
        daemon,
        "SELECT SUM(records), SUM(`stored`) FROM"
        f" (SELECT records, stored FROM {name}_runs"
        f" UNION ALL SELECT records, stored FROM {name}_frames) AS every",
    )
    return int(records), int(stored)
