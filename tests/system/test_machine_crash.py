"""A crash of the machine, imitated: everything dies at once, and the notes are older afterwards.

What a collector writes into its note file is in the machine's memory until the kernel writes it
out, so after a crash the file may say what was true a while ago. Redis and the spool have synced
what they took. A file loses nothing and doubles nothing then; of a connection all that was
handed over is there once, and what its kernel still held is gone with it.
"""

import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.accounts import Handed
from appliance.note import read_note
from appliance.process import holders, kill_and_wait
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, until
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import Sqlite, until_rows
from tests.system.writer import Writer

SEEN_S = 20.0
SOURCES = ("s", "f")
MORE_RECORDS = 500  # of each source are handed over between one moment and the next
BOOT = "STREAM_DAEMON_BOOT_ID"
BOOTS = ("0192f0c1-d2e3-7abc-8def-0123456789ab", "0192f0c1-d2e3-7abc-8def-0123456789ac")


@pytest.mark.parametrize("spooled", [False, True], ids=["queued", "spooled"])
def test_after_a_crash_of_the_machine_older_notes_lose_and_double_nothing(
    tmp_path: Path, seed: int, spooled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis dies with the machine, and is back later than we are."""
    path, port = tmp_path / "lines", free_port()
    before, after, of_file = Records(seed), Records(seed + 1), Records(seed + 2)
    monkeypatch.setenv(BOOT, BOOTS[0])
    with PrivateRedis(find_redis(), tcp=True) as server:
        config = (
            f'queue.url = "{server.tcp_address}"\nqueue.push_s = 0.5\n'
            f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
            f'[source.f]\ntype = "file"\npath = "{path}"\n'
        )
        with Daemon(config) as daemon, Writer(path, of_file, random.Random(seed)) as writer:
            with Sender(port, before) as sender:
                until(daemon.stored, SEEN_S, "rows")
                shutil.copytree(sources(daemon), tmp_path / "older")
                until_more(daemon)
                if spooled:
                    server.stop()
                    until(lambda: all(spooled_bytes(daemon)), SEEN_S, "frames in both spools")
                    until_more(daemon)
                assert [size > 0 for size in spooled_bytes(daemon)] == [spooled, spooled]
                everything_dies(daemon)
                server.kill()
                sender.wait_for_refusal()
            newest = notes(daemon)
            shutil.copytree(tmp_path / "older", sources(daemon), dirs_exist_ok=True)
            assert are_ahead(newest, notes(daemon)), "they are older indeed"

            monkeypatch.setenv(BOOT, BOOTS[1])
            daemon.start()
            with Sender(port, after) as sender:
                until(lambda: go_on(notes(daemon), newest), SEEN_S, "new runs")
                if spooled:
                    assert begin_behind(notes(daemon), newest), "the spool knew better"
                server.start()
                until_more(daemon)
                sender.finish()
            writer.finish()
            until_rows(Sqlite(), daemon, after.sent + of_file.sent + newest[0].records)
            check_tcp(daemon, before, newest[0], after)
            of_file.check(Sqlite().raws(daemon, "f"), of_file.sent)
            assert Sqlite().rows(daemon, "SELECT * FROM stream_gaps") == []
            runs = Sqlite().rows(daemon, "SELECT source, COUNT(*) FROM stream_runs GROUP BY source")
            assert runs == [("f", 2), ("s", 2)], "one before, one behind the crash"
            done = daemon.run("audit", "--recount")
            assert done.returncode == 0, done.stdout + done.stderr
            assert daemon.stop() == 0


def check_tcp(daemon: Daemon, before: Records, newest: Handed, after: Records) -> None:
    """All that was handed over before the crash, all that was sent after it; each line once."""
    stored = list(Sqlite().raws(daemon, "s"))
    early = [raw for raw in stored if raw == before.line(int(raw.split()[0]))]
    arrived = newest.records + (newest.in_hand or 0)
    assert len(early) in (newest.records, arrived), "the frame in hand may have arrived"
    before.check(early, len(early))
    known = set(early)
    after.check((raw for raw in stored if raw not in known), after.sent)


def everything_dies(daemon: Daemon) -> None:
    """All processes at once, so that none of them sees another one die."""
    assert daemon.process
    keeper = daemon.keeper()["pid"]
    os.killpg(daemon.process.pid, signal.SIGKILL)  # it was started as a group of its own
    kill_and_wait(keeper, signal.SIGKILL, SEEN_S)  # in a session of its own
    daemon.process.wait()
    lock = daemon.directory / "state" / "stream" / "lock"
    until(lambda: not holders(lock), SEEN_S, "all of them to be gone")


def sources(daemon: Daemon) -> Path:
    return daemon.directory / "state" / "stream" / "sources"


def notes(daemon: Daemon) -> list[Handed]:
    return [read_note(sources(daemon) / f"{s}.note", s, None) for s in SOURCES]


def are_ahead(newer: Sequence[Handed], older: Sequence[Handed]) -> bool:
    pairs = zip(newer, older, strict=True)
    return all(new.records >= old.records + MORE_RECORDS for new, old in pairs)


def go_on(new_runs: Sequence[Handed], newest: Sequence[Handed]) -> bool:
    pairs = zip(new_runs, newest, strict=True)
    return all(run.run > last.run and run.records > 0 for run, last in pairs)


def begin_behind(new_runs: Sequence[Handed], newest: Sequence[Handed]) -> bool:
    pairs = zip(new_runs, newest, strict=True)
    return all(run.previous and run.previous.number >= last.number for run, last in pairs)


def until_more(daemon: Daemon) -> None:
    """Wait until each source has handed over more."""
    older = notes(daemon)
    until(lambda: are_ahead(notes(daemon), older), SEEN_S, "more records")


def spooled_bytes(daemon: Daemon) -> list[int]:
    status = daemon.status()["sources"]
    return [status[source]["spool"]["bytes"] for source in SOURCES]
