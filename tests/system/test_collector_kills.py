"""P1 for held sources: collectors are killed a hundred times under a TCP and a Unix connection.

Both carry 300 MB at the same time, with records among them that a Unix socket can't hold. The
kills are by the collectors themselves, between all steps of their turns and of the moves of a
beginning; the senders must not notice, and every byte arrives once.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, send_and_close
from tests.system.killer import self_kills
from tests.system.records import Records
from tests.system.stores import StoreUnderTest

STREAM_BYTES = 300 * 1024**2
LENGTH_MAX = 40_000
LONG_EVERY = 300
KILLS = 100
CHANCES = {
    "peeked": 0.06,
    "noted": 0.06,
    "pushed": 0.06,
    "emptied": 0.06,
    "discarded": 0.06,
    "done": 0.06,
    "marked": 0.06,
    "written": 0.3,
    "kept": 0.3,
}
STORED_S = 200.0


def test_hundred_kills_between_all_steps(
    redis_server: PrivateRedis, mariadb_store: StoreUnderTest, short_dir: Path, seed: int
) -> None:
    port, path = free_port(), f"{short_dir}/s"
    over_tcp = Records(seed, LENGTH_MAX, LONG_EVERY)
    over_unix = Records(seed + 1, LENGTH_MAX, LONG_EVERY)
    config = (
        f'name = "kills{seed}"\n[source.tcp]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'[source.unix]\ntype = "unix"\nlisten = "{path}"\n'
        f'[queue]\nurl = "{redis_server.address}"\n{mariadb_store.section()}'
    )
    with Daemon(config, crash=self_kills(CHANCES, KILLS, seed)) as daemon:
        with ThreadPoolExecutor() as threads:
            both = [
                threads.submit(send_and_close, port, over_tcp.pieces(STREAM_BYTES)),
                threads.submit(send_and_close, path, over_unix.pieces(STREAM_BYTES)),
            ]
        for sender in both:
            sender.result()
        daemon.until_stored(over_tcp.sent + over_unix.sent, STORED_S)
        over_tcp.check(mariadb_store.raws(daemon, "tcp"), over_tcp.sent)
        over_unix.check(mariadb_store.raws(daemon, "unix"), over_unix.sent)
        crashes = daemon.crashes()
        assert len(crashes) == KILLS, crashes
        assert set(crashes) == CHANCES.keys()
        sources = daemon.status()["sources"]
        assert sources["tcp"]["restarts"] + sources["unix"]["restarts"] == KILLS
        assert all(source["restarts"] > KILLS // 10 for source in sources.values())
        assert daemon.stop() == 0
