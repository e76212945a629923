"""P1 for a growing file: the collector is killed twenty times, each line is a row once.

The file isn't there yet at the start. It grows in pieces that end anywhere, so that there is an
unfinished last line most of the time.
"""

import random
import threading
from pathlib import Path

from tests.system.daemon import Daemon, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.stores import Sqlite, until_rows

KILLS = 20
SELF_KILLS_MAX = 15
STEPS = {"peeked": 0.02, "noted": 0.02, "pushed": 0.02, "discarded": 0.02, "done": 0.02}
KILLS_S = 60.0
PIECE_BYTES_MAX = 5000
PIECE_INTERVAL_S = 0.002


class Writer(threading.Thread):
    """Appends records to a file until told to stop, in pieces of many sizes."""

    def __init__(self, path: Path, records: Records, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self._path, self._records, self._dice = path, records, dice
        self.enough = threading.Event()

    def run(self) -> None:
        rest = b""
        with self._path.open("ab", buffering=0) as file:
            while not self.enough.wait(PIECE_INTERVAL_S):
                if len(rest) < PIECE_BYTES_MAX:
                    rest += self._records.block()
                size = self._dice.randint(1, PIECE_BYTES_MAX)
                file.write(rest[:size])
                rest = rest[size:]
            file.write(rest)


def test_twenty_kills_while_the_file_grows(tmp_path: Path, seed: int) -> None:
    path, dice = tmp_path / "lines", random.Random(seed)
    records, store = Records(seed), Sqlite()
    crash = {
        "CRASH_STEPS": ",".join(f"{step}={chance}" for step, chance in STEPS.items()),
        "CRASH_MAX": str(SELF_KILLS_MAX),
        "CRASH_SEED": str(seed),
    }
    with Daemon(f'[source.s]\ntype = "file"\npath = "{path}"\n', crash=crash) as daemon:
        until(lambda: waiting(daemon), KILLS_S, "status to say that there is no file yet")
        writer = Writer(path, records, dice)
        writer.start()
        outside = kill_until(daemon, KILLS, dice)
        writer.enough.set()
        writer.join()
        until_rows(store, daemon, records.sent)
        QueueUnderTest.embedded(daemon).until_empty()
        records.check(store.raws(daemon), records.sent)
        assert len(set(daemon.crashes())) >= len(STEPS) - 1, daemon.crashes()
        restarts = daemon.status()["sources"]["s"]["restarts"]
        assert KILLS <= restarts <= len(daemon.crashes()) + outside
        assert daemon.stop() == 0


def waiting(daemon: Daemon) -> bool:
    shown = daemon.status()["sources"]["s"]["waiting_for"]
    return "the file is not there yet" in shown


def kill_until(daemon: Daemon, kills: int, dice: random.Random) -> int:
    """Kill the collector now and then, until it was restarted so often; how often we did."""
    killed = 0

    def enough() -> bool:
        nonlocal killed
        source = (daemon.try_status() or {"sources": {}})["sources"].get("s", {})
        if source.get("pid") and dice.random() < 0.1:
            killed += daemon.kill_child(source["pid"])
        return source.get("restarts", 0) >= kills

    until(enough, KILLS_S, f"{kills} restarts")
    assert killed, "none was killed from outside"
    return killed
