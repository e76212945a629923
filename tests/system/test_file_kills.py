"""P1 for a growing file: the collector is killed twenty times, each line is a row once.

The file isn't there yet at the start. It grows in pieces that end anywhere, so that there is an
unfinished last line most of the time.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.system.daemon import Daemon, until
from tests.system.killer import kill_until, self_kills
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.stores import Sqlite, until_rows
from tests.system.writer import Writer

KILLS = 20
SELF_KILLS_MAX = 15
STEPS = {"peeked": 0.02, "noted": 0.02, "pushed": 0.02, "discarded": 0.02, "done": 0.02}
WAITING_S = 30.0
ROTATE_PIECES = 800  # about two seconds
ROTATIONS = 4


def test_twenty_kills_while_the_file_grows(tmp_path: Path, seed: int) -> None:
    path, dice = tmp_path / "lines", random.Random(seed)
    records, store = Records(seed), Sqlite()
    crash = self_kills(STEPS, SELF_KILLS_MAX, seed)
    with Daemon(f'[source.s]\ntype = "file"\npath = "{path}"\n', crash=crash) as daemon:
        until(lambda: waiting(daemon), WAITING_S, "status to say that there is no file yet")
        with Writer(path, records, random.Random(seed)):
            outside = kill_until(daemon, collector, KILLS, dice)
        until_rows(store, daemon, records.sent)
        QueueUnderTest.embedded(daemon).until_empty()
        records.check(store.raws(daemon), records.sent)
        assert len(set(daemon.crashes())) >= len(STEPS) - 1, daemon.crashes()
        restarts = daemon.status()["sources"]["s"]["restarts"]
        assert KILLS <= restarts <= len(daemon.crashes()) + outside
        assert daemon.stop() == 0


def test_kills_while_the_file_is_rotated(tmp_path: Path, seed: int) -> None:
    """Renamed and begun anew again and again, alive or dead: each line is a row once."""
    path, records, store = tmp_path / "lines", Records(seed), Sqlite()
    crash = self_kills(STEPS, SELF_KILLS_MAX, seed)
    with Daemon(f'[source.s]\ntype = "file"\npath = "{path}"\n', crash=crash) as daemon:
        with Writer(path, records, random.Random(seed), ROTATE_PIECES) as writer:
            until(lambda: writer.rotations >= ROTATIONS, WAITING_S, "rotations")
            until(lambda: len(daemon.crashes()) == SELF_KILLS_MAX, WAITING_S, "kills")
        until_rows(store, daemon, records.sent)
        QueueUnderTest.embedded(daemon).until_empty()
        records.check(store.raws(daemon), records.sent)
        assert store.rows(daemon, "SELECT COUNT(*) FROM stream_gaps") == [(0,)]
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Path.mkdir, "is a directory"),
        (os.mkfifo, "a fifo"),
    ],
    ids=["directory", "fifo"],
)
def test_what_is_no_file_is_said_and_waited_out(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "lines"
    make(path)
    with Daemon(f'[source.s]\ntype = "file"\npath = "{path}"\n') as daemon:
        shown = until(
            lambda: daemon.status()["sources"]["s"]["waiting_for"], WAITING_S, "what is wrong"
        )
        assert words in shown
        path.rmdir() if path.is_dir() else path.unlink()
        path.write_bytes(b"a\nb\n")
        daemon.until_stored(2)
        assert daemon.stop() == 0


def waiting(daemon: Daemon) -> bool:
    shown = daemon.status()["sources"]["s"]["waiting_for"]
    return "the file is not there yet" in shown


def collector(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [status["sources"]["s"]]
