"""P1 in a flood: the collector is killed fifty times, most of its time it is looking ahead.

Nobody takes anything out, so the queue holds what was handed over in its order: over one
connection that is the stream, byte for byte.
"""

import hashlib
import random
import threading
import time
from collections.abc import Iterator

from appliance.frame import decode
from tests.ports import free_port
from tests.system.daemon import Daemon, send_and_close, until
from tests.system.killer import self_kills
from tests.system.queues import QueueUnderTest

STREAM_BYTES = 300 * 1024**2
BLOCK_LINES = 2500
PAYLOAD = b"flood " * 66
KILLS, SELF_KILLS = 50, 10
LIFE_S_MAX = 0.05  # of a collector, in which it hands some ten frames over
CHANCE = 0.1  # at each look ahead
BORN_S = HANDED_OVER_S = 60.0
QUEUE = '[queue]\nurl = "embedded"\nbytes_max = "4GiB"\n'


class Stream:
    """Numbered lines in blocks of about a MiB, until the stream is long enough and stopped."""

    def __init__(self) -> None:
        self.lines = 0
        self.digest = hashlib.sha256()
        self.enough = threading.Event()

    def blocks(self) -> Iterator[bytes]:
        sent = 0
        while sent < STREAM_BYTES or not self.enough.is_set():
            numbers = range(self.lines, self.lines + BLOCK_LINES)
            block = b"".join(b"%d %b\n" % (number, PAYLOAD) for number in numbers)
            self.lines += BLOCK_LINES
            self.digest.update(block)
            sent += len(block)
            yield block


def test_fifty_kills_in_a_flood(seed: int) -> None:
    port, stream, dice = free_port(), Stream(), random.Random(seed)
    config = f'subscribers = 0\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{QUEUE}'
    with Daemon(config, crash=self_kills({"ahead": CHANCE}, SELF_KILLS, seed)) as daemon:
        sender = threading.Thread(target=send_and_close, args=(port, stream.blocks()))
        sender.start()
        killed = sum(kill(daemon, dice) for _ in range(KILLS))
        stream.enough.set()
        sender.join()
        queue = QueueUnderTest.embedded(daemon)
        until(lambda: queue.handed_over("s") >= stream.lines, HANDED_OVER_S, "all of it")
        frames = [*map(decode, queue.items())]
        digest = hashlib.sha256(b"".join(frame.body for frame in frames))
        assert sum(frame.header.records for frame in frames) == stream.lines
        assert digest.digest() == stream.digest.digest()
        assert [frame.header.number for frame in frames] == [*range(1, len(frames) + 1)]
        assert not any(frame.header.gaps or frame.header.hole for frame in frames)
        assert killed > KILLS // 2
        assert set(daemon.crashes()) == {"ahead"}, "none behind a look ahead"
        assert daemon.stop() == 0


def kill(daemon: Daemon, dice: random.Random) -> bool:
    """Kill the collector somewhere in its life; whether it was us."""
    pid = until(lambda: born(daemon), BORN_S, "a collector")
    time.sleep(dice.uniform(0, LIFE_S_MAX))
    return daemon.kill_child(pid)


def born(daemon: Daemon) -> int | None:
    children = daemon.children()
    return next((pid for title, pid in children.items() if "collector" in title), None)
