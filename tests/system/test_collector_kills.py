"""P1 for a held source: the collector is killed a hundred times under one TCP connection.

Most kills are by the collector itself, between note, push and discard; the sender must not
notice, and every byte arrives once.
"""

from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, send_and_close
from tests.system.records import Records
from tests.system.stores import StoreUnderTest

STREAM_BYTES = 300 * 1024**2
KILLS = 100
STEPS = "peeked=0.12,noted=0.12,pushed=0.12,discarded=0.12,done=0.12"


def test_hundred_kills_between_all_steps(
    redis_server: PrivateRedis, mariadb_store: StoreUnderTest, seed: int
) -> None:
    port = free_port()
    records = Records(seed)
    crash = {"CRASH_STEPS": STEPS, "CRASH_MAX": str(KILLS), "CRASH_SEED": str(seed)}
    config = (
        f'name = "kills{seed}"\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'[queue]\nurl = "{redis_server.address}"\n{mariadb_store.section()}'
    )
    with Daemon(config, crash=crash) as daemon:
        send_and_close(port, records.pieces(STREAM_BYTES))
        daemon.until_stored(records.sent)
        records.check(mariadb_store.raws(daemon), records.sent)
        crashes = daemon.crashes()
        assert len(crashes) == KILLS, crashes
        assert {"peeked", "noted", "pushed", "discarded", "done"} == set(crashes)
        assert daemon.status()["sources"]["s"]["restarts"] == KILLS
        assert daemon.stop() == 0
