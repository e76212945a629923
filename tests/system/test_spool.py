"""P2 with real processes: Redis hangs, is killed, and comes back; collectors and the parent die.

Reading goes on all the time. Nothing is lost, nothing comes twice, and what one connection sent
stays in its order.
"""

import random
from pathlib import Path

from appliance.instance import Instance
from appliance.note import read_note
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import Sqlite, until_rows
from tests.system.writer import Writer

SEEN_S = 20.0
SOURCES = ("s", "f")
KILLS = 3  # of each collector in each part of the outage
MORE_RECORDS = 200  # are read between two kills at least


def test_redis_hangs_and_dies_while_collectors_and_the_parent_are_killed(
    tmp_path: Path, seed: int
) -> None:
    path, port, dice = tmp_path / "lines", free_port(), random.Random(seed)
    over_tcp, of_file, store = Records(seed), Records(seed + 1), Sqlite()
    with PrivateRedis(find_redis(), tcp=True) as server:
        config = (
            f'drain_s = 5\nqueue.url = "{server.tcp_address}"\nqueue.push_s = 0.5\n'
            f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
            f'[source.f]\ntype = "file"\npath = "{path}"\n'
        )
        with Daemon(config) as daemon:
            with Writer(path, of_file, dice):
                with Sender(port, over_tcp) as sender:
                    until(daemon.stored, SEEN_S, "rows")
                    server.pause()
                    kill_collectors(daemon)
                    server.kill()
                    kill_collectors(daemon)
                    sender.finish()
                until(lambda: noted(daemon, "s") == over_tcp.sent, SEEN_S, "all to be read")
                assert all(spooled(daemon, source) for source in SOURCES)
                assert daemon.run("status").returncode == 2
                daemon.kill_parent()
                daemon.start()
                with Sender(port, over_tcp) as sender:
                    before = noted(daemon, "s")
                    until(lambda: noted(daemon, "s") > before, SEEN_S, "reading to go on")
                    assert daemon.stored() == 0
                    server.start()
                    kill_collectors(daemon)
                    sender.finish()
            until_rows(store, daemon, over_tcp.sent + of_file.sent)
            QueueUnderTest(server.client(), "stream").until_empty()
            for source, records in zip(SOURCES, (over_tcp, of_file), strict=True):
                raws = list(store.raws(daemon, source))
                records.check(raws, records.sent)
                numbers = [int(raw.split()[0]) for raw in raws]
                assert numbers == sorted(numbers), source
            assert store.rows(daemon, "SELECT COUNT(*) FROM stream_gaps") == [(0,)]
            until(lambda: daemon.status()["state"] == "healthy", SEEN_S, "all to be well")
            assert not any(spooled(daemon, source) for source in SOURCES)
            assert "waiting for the queue (records go to the spool): " in daemon.said()
            assert "handed over out of the spool: " in daemon.said()
            assert daemon.stop() == 0


def kill_collectors(daemon: Daemon) -> None:
    """Each some times, and between two kills it has read more."""
    for _ in range(KILLS):
        for source in SOURCES:
            before = noted(daemon, source)
            more = before + MORE_RECORDS
            until(lambda s=source, n=more: noted(daemon, s) > n, SEEN_S, f"{source} to be read")
            pid = (daemon.try_status() or daemon.status())["sources"][source]["pid"]
            assert pid is None or daemon.kill_child(pid)


def noted(daemon: Daemon, source: str) -> int:
    """Records that a source has handed over, to Redis or to the spool, by its note."""
    instance = Instance(daemon.directory / "state" / "stream")
    return read_note(instance.note(source), source, None).records


def spooled(daemon: Daemon, source: str) -> int:
    return int(daemon.status()["sources"][source]["spool"]["bytes"])
