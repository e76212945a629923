"""`drain`, as cron runs it: alone and beside an instance, interrupted, killed, at the wrong time.

What is compared is always the content of the database with what was sent.
"""

import os
import pty
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance import process
from tests.database_server import Database
from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system import cron
from tests.system.daemon import STOP_S, Daemon, send_and_close, unstarted, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest

MANY = 100_000
DYNAMIC = 64729  # a user id of those that systemd gives out (DynamicUser=)
FEW = 3_000
SHORT = 60  # bytes of the longest record
SMALL = 'frame_bytes_max = "1KiB"\nrecord_bytes_max = "1KiB"\nframe_interval_ms = 0\n'
SMALL_LEASES = 'lease_bytes_max = "1KiB"\n'
KILLS = 3
LONG_ENOUGH_S = 2.0  # for an outage to be worth a line in the log
SILENT = (0, "")
NOBODY_LISTENS = '[store]\nurl = "mysql://u@127.0.0.1:1/d"\n'


@contextmanager
def queued(
    records: Records, number: int, store: str, more: str = "", source: str = ""
) -> Iterator[Daemon]:
    """An instance that has collected so many records and stored none; it doesn't run."""
    with unstarted("") as daemon:
        path = daemon.directory / "in"
        path.write_bytes(records.block(number))
        daemon.file.write_text(
            f'state_dir = "{daemon.directory}/state"\nsubscribers = 0\n{more}\n'
            f'[source.s]\ntype = "file"\npath = "{path}"\nfollow = false\n{source}\n{store}'
        )
        assert daemon.spawn().wait() == 0, daemon.said()
        yield daemon


def instance(daemon: Daemon) -> Path:
    return daemon.directory / "state" / "stream"


def nobody_holds(daemon: Daemon) -> bool:
    """Nothing of the instance, a drain or a server is left."""
    locks = [*instance(daemon).glob("**/*lock")]
    return len(locks) > 1 and not any(process.holders(lock) for lock in locks)


def until_stored_some(daemon: Daemon) -> None:
    def some() -> bool:
        try:
            return Sqlite().rows(daemon, "SELECT COUNT(*) FROM records") > [(0,)]
        except (StopIteration, sqlite3.OperationalError):  # no file, no table, or it is busy
            return False

    until(some, STOP_S, "rows")


def until_at_work(daemon: Daemon) -> None:
    """Until a drain holds its lock."""
    lock = instance(daemon) / "drain.lock"
    until(lambda: process.lock_owner(lock), STOP_S, "a drain")


# ── the row of the table ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("servers", ["embedded and sqlite", "redis and mariadb"])
def test_a_hundred_thousand_records_in_crons_environment(
    servers: str, seed: int, request: pytest.FixtureRequest
) -> None:
    store: StoreUnderTest = Sqlite()
    more = ""
    if servers == "redis and mariadb":
        store = MariaDB(request.getfixturevalue("mariadb_database"))
        redis: PrivateRedis = request.getfixturevalue("redis_server")
        more = f'name = "drain_{seed}"\n[queue]\nurl = "unix://{redis.address.path}"\n'
    records = Records(seed, SHORT)
    with queued(records, MANY, store.section(), more) as daemon:
        assert cron.run(daemon, "drain") == SILENT
        records.check(store.raws(daemon), MANY)
        assert cron.run(daemon, "drain") == SILENT  # nothing is left, and none comes twice
        name = f"drain_{seed}" if more else "stream"
        assert store.rows(daemon, f"SELECT COUNT(*) FROM {name}_frames") == [(0,)], "folded"
        assert store.rows(daemon, f"SELECT SUM(records) FROM {name}_runs") == [(MANY,)]
        code, said = cron.run(daemon, "drain", "-v")
        assert (code, said) == (0, "nothing is queued\n")
        [(rows,)] = store.rows(daemon, "SELECT COUNT(*) FROM records")
        assert rows == MANY


def test_two_at_once(seed: int) -> None:
    records = Records(seed, SHORT)
    with queued(records, FEW, "") as daemon:
        first = cron.spawn(daemon, "drain")
        until_at_work(daemon)
        first.send_signal(signal.SIGSTOP)
        done = cron.run(daemon, "drain")
        assert done == (0, f"another drain, or an audit, is at work (pid {first.pid})\n")
        first.send_signal(signal.SIGCONT)
        assert cron.ended(first) == SILENT
        records.check(Sqlite().raws(daemon), FEW)
        assert nobody_holds(daemon)


def test_the_store_is_away(seed: int, mariadb_database: Database) -> None:
    store, records = MariaDB(mariadb_database), Records(seed, SHORT)
    with queued(records, FEW, store.section()) as daemon:
        with store.away():
            code, said = cron.run(daemon, "drain", "--timeout", "1.5")
            assert code == 75
            assert re.match(
                r"stream-daemon: (\d+) of \1 frames stay queued: waiting for the store: .*connect",
                said,
            ), said
            assert "\n  → run drain again" in said
            assert nobody_holds(daemon)
            drain = cron.spawn(daemon, "drain")
            until_at_work(daemon)
            time.sleep(LONG_ENOUGH_S)
            assert drain.poll() is None
        assert cron.ended(drain) == SILENT, "also where it had to wait"
        records.check(store.raws(daemon), FEW)


def test_the_store_hangs(seed: int, mariadb_database: Database) -> None:
    store, records = MariaDB(mariadb_database), Records(seed, SHORT)
    with queued(records, FEW, store.section()) as daemon:
        with store.paused():
            began = time.monotonic()
            code, said = cron.run(daemon, "drain", "--timeout", "0.5")
            took_s = time.monotonic() - began
        assert code == 75
        assert "frames stay queued: waiting for the store, which doesn't answer" in said
        assert took_s < process.ERRAND_GRACE_S + 10, "its own timeouts are far longer"
        assert cron.run(daemon, "drain") == SILENT
        records.check(store.raws(daemon), FEW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's directory")
def test_the_directory_is_another_users(seed: int) -> None:
    """As root too: what it would leave there would be root's, and in the owner's way."""
    with queued(Records(seed, SHORT), FEW, "") as daemon:
        places = [instance(daemon), *instance(daemon).glob("**/*")]
        for place in places:
            os.chown(place, 65534, 65534)
        code, said = cron.run(daemon, "drain", "--timeout", "7")
        line = f"sudo -u nobody stream-daemon -c {daemon.file} drain --timeout 7"
        assert (code, said) == (
            73,
            f"stream-daemon: {instance(daemon)} belongs to user nobody\n"
            f"  → run it as that user: {line}\n",
        )
        assert {place.stat().st_uid for place in instance(daemon).glob("**/*")} == {65534}
        assert sorted(instance(daemon).glob("**/*")) == sorted(places[1:])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's directory")
def test_the_owner_is_a_user_that_systemd_has_made(seed: int) -> None:
    """Nobody can log in as that one: root stores as the owner, and what it leaves there is his."""
    with queued(Records(seed, SHORT), FEW, "") as daemon:
        for place in [instance(daemon), *instance(daemon).glob("**/*")]:
            os.chown(place, DYNAMIC, DYNAMIC)
        daemon.directory.chmod(0o700)  # only root may enter
        assert cron.run(daemon, "drain") == SILENT
        assert len(Sqlite().rows(daemon, "SELECT seq FROM records")) == FEW
        assert {place.stat().st_uid for place in instance(daemon).glob("**/*")} == {DYNAMIC}


# ── beside a running instance ───────────────────────────────────────────────────────────


def collecting(port: int) -> str:
    return f'subscribers = 0\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'


def test_beside_a_running_instance(seed: int) -> None:
    port, records = free_port(), Records(seed, SHORT)
    with Daemon(collecting(port)) as daemon:
        for _ in range(2):
            send_and_close(port, [records.block(FEW)])
            children = daemon.children()
            code, said = cron.run(daemon, "drain", "-v")
            assert code == 0
            assert re.fullmatch(rf"stored {FEW} records; \d+ frames, none of them is left\n", said)
            assert daemon.children() == children
        assert cron.run(daemon, "drain") == SILENT
        records.check(Sqlite().raws(daemon), 2 * FEW)
        daemon.signal(signal.SIGTSTP)
        until(lambda: daemon.status()["paused"], STOP_S, "the pause")
        send_and_close(port, [records.block(1)])
        code, said = cron.run(daemon, "drain")
        assert code == 75
        assert "storing is paused in the running instance" in said
        assert daemon.process
        assert f"kill -CONT {daemon.process.pid}" in said
        daemon.signal(signal.SIGCONT)
        until(lambda: not daemon.status()["paused"], STOP_S, "the end of the pause")
        assert cron.run(daemon, "drain") == SILENT
        assert daemon.stop() == 0
        records.check(Sqlite().raws(daemon), 2 * FEW + 1)


def test_a_drain_that_is_killed_beside_an_instance(seed: int) -> None:
    """Its frames are an orphan's: the next one gives them back."""
    port, records = free_port(), Records(seed, SHORT)
    with Daemon(collecting(port)) as daemon:
        queue = QueueUnderTest.embedded(daemon)
        send_and_close(port, [records.block(FEW)])
        until(queue.waiting, STOP_S, "frames")
        drain = cron.spawn(daemon, "drain")
        until(lambda: queue.busy() or drain.poll() is not None, STOP_S, "a lease")
        drain.kill()
        drain.communicate()
        assert cron.run(daemon, "drain") == SILENT
        records.check(Sqlite().raws(daemon), FEW)
        assert not queue.waiting()
        assert not queue.busy()
        assert daemon.stop() == 0


def test_a_drain_waits_for_what_is_left_of_a_killed_instance(seed: int) -> None:
    port, records = free_port(), Records(seed, SHORT)
    with Daemon(collecting(port)) as daemon:
        send_and_close(port, [records.block(FEW)])
        until(lambda: QueueUnderTest.embedded(daemon).waiting(), STOP_S, "frames")
        daemon.kill_parent()
        assert cron.run(daemon, "drain") == SILENT
        records.check(Sqlite().raws(daemon), FEW)
        assert nobody_holds(daemon)


# ── ended, and killed ───────────────────────────────────────────────────────────────────


def test_it_ends_with_what_it_has_in_hand(seed: int) -> None:
    records = Records(seed, SHORT)
    with queued(records, 4 * FEW, f"[store]\n{SMALL_LEASES}", source=SMALL) as daemon:
        drain = cron.spawn(daemon, "drain")
        until_stored_some(daemon)
        drain.terminate()
        code, said = cron.ended(drain)
        assert code == 75
        found = re.match(r"stream-daemon: (\d+) of (\d+) frames stay queued: told to end\n", said)
        assert found, said
        assert 0 < int(found[1]) < int(found[2])
        assert nobody_holds(daemon)
        assert cron.run(daemon, "drain") == SILENT
        records.check(Sqlite().raws(daemon), 4 * FEW)


def test_killed_again_and_again_nothing_is_lost_or_doubled(seed: int) -> None:
    """Each leaves its server behind, which the next one ends."""
    records, dice = Records(seed, SHORT), random.Random(seed)
    with queued(records, 12 * FEW, f"[store]\n{SMALL_LEASES}", source=SMALL) as daemon:
        lock = instance(daemon) / "queue" / "valkey.lock"
        servers = set()
        for _ in range(KILLS):
            drain = cron.spawn(daemon, "drain")
            until(lambda: process.holders(lock) - servers, STOP_S, "a server")  # noqa: B023
            until_stored_some(daemon)
            time.sleep(dice.random() * 0.3)
            drain.kill()
            drain.communicate()
            servers |= process.holders(lock)
        assert len(servers) >= 2, "not all had ended by themselves"
        assert cron.run(daemon, "drain") == SILENT
        records.check(Sqlite().raws(daemon), 12 * FEW)
        assert nobody_holds(daemon)


def test_a_collect_ends_a_drain_that_works_alone(seed: int) -> None:
    records = Records(seed, SHORT)
    with queued(records, FEW, NOBODY_LISTENS) as daemon:
        drain = cron.spawn(daemon, "drain")
        until_at_work(daemon)
        until(lambda: process.lock_owner(instance(daemon) / "lock") == drain.pid, STOP_S, "it")
        assert cron.run(daemon, "running") == (3, "not running\n")
        assert cron.run(daemon, "stop") == (0, "not running\n")
        assert drain.poll() is None
        daemon.file.write_text(daemon.file.read_text().replace("= false", "= true"))
        assert cron.run(daemon, "collect", "--detach", "--if-needed") == SILENT
        code, said = cron.ended(drain)
        assert code == 75, said
        assert "frames stay queued: waiting for the store: " in said
        assert daemon.status()["ready"]
        log = (instance(daemon) / "log").read_text()
        assert f"a drain or audit is at work (pid {drain.pid}): ending it" in log
        assert cron.run(daemon, "stop") == SILENT


# ── what is said ────────────────────────────────────────────────────────────────────────


def test_where_no_instance_has_run(tmp_path: Path) -> None:
    with unstarted('[source.s]\ntype = "stdin"\n') as daemon:
        code, said = cron.run(daemon, "drain")
        assert code == 0
        assert said == f"nothing is queued: no instance has run in {instance(daemon)}\n"
        assert not (daemon.directory / "state").exists()


def test_on_a_terminal_it_shows_how_far_it_is(seed: int) -> None:
    with queued(Records(seed, SHORT), FEW, "") as daemon:
        ours, terminal = pty.openpty()
        done = subprocess.Popen(
            [sys.executable, "-m", "appliance", "-c", str(daemon.file), "drain"],
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
        )
        os.close(terminal)
        shown = b"".join(iter(lambda: read(ours), b"")).decode()
        assert done.wait(STOP_S) == 0
        os.close(ours)
        assert f"stored {FEW} records; " in shown
        assert re.search(r"drain .*\d+/\d+.* frames", shown)


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has the other side open any more
        return b""
