"""A disk that has no byte left: under the spool, under SQLite, under the embedded server.

Reading stops, the sender waits, `status` and the log say why; and as soon as there is room it
goes on by itself, and each record is a row once. Where `disk_free_min` is 0, nothing stops
before the disk itself refuses.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.note import read_note
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, unstarted, until
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.small_disk import fill, fill_up, small_disk
from tests.system.stores import Sqlite, until_rows
from tests.system.writer import Writer

MIB = 1024**2
DISK_BYTES = 48 * MIB
SEEN_S = 20.0
SOURCES = ("s", "f")
NO_BYTE = "No space left on device"
STORE_FULL = "waiting for the store: "
NO_ROOM = "waiting for room in the spool (reading stops): "


class Load:
    """A TCP sender and a file that grows, for an instance with the sources s and f."""

    def __init__(self, tmp_path: Path, seed: int) -> None:
        self._path = tmp_path / "lines"
        self._port = free_port()
        self._over_tcp, self._of_file = Records(seed), Records(seed + 1)
        self._writer = Writer(self._path, self._of_file, random.Random(seed))

    def sources(self) -> str:
        return (
            f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{self._port}"\n'
            f'[source.f]\ntype = "file"\npath = "{self._path}"\n'
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._writer, Sender(self._port, self._over_tcp) as self._sender:
            yield

    def finish(self) -> None:
        """Send no more, and wait until all of it is in the file and in the daemon's kernel."""
        self._sender.finish()
        self._writer.finish()

    def check(self, daemon: Daemon) -> None:
        """Each line is a row once, as the senders know it; nothing is a gap, and audit agrees."""
        store = Sqlite()
        until_rows(store, daemon, self._over_tcp.sent + self._of_file.sent)
        for source, records in (("s", self._over_tcp), ("f", self._of_file)):
            records.check(store.raws(daemon, source), records.sent)
        until(lambda: daemon.status()["state"] == "healthy", SEEN_S, "all to be well")
        done = daemon.run("audit", "--recount")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in daemon.said()
        assert daemon.stop() == 0


@contextmanager
def on_small_disk(config: str) -> Iterator[tuple[Daemon, Path]]:
    """An instance whose state_dir is a small disk, and the name of a file that may fill it."""
    with unstarted(config) as daemon, small_disk(daemon.directory / "state", DISK_BYTES) as disk:
        yield daemon.start(), disk / "ballast"


def noted(daemon: Daemon) -> list[int]:
    """Records that each source has handed over, by its note."""
    [directory] = (daemon.directory / "state").glob("*/sources")
    return [read_note(directory / f"{source}.note", source, None).records for source in SOURCES]


def waits(daemon: Daemon, words: str) -> bool:
    """Whether `status` says of both sources that they wait, in these words."""
    sources = (daemon.try_status() or daemon.status())["sources"]
    return all(words in str(sources[source]["waiting_for"]) for source in SOURCES)


def says(daemon: Daemon, source: str, words: str) -> int:
    """How often the log says it of a source."""
    return daemon.said().count(f"collector {source}: {words}")


# ── the spool ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("free_min", "words"),
    [("'4MiB'", "less than disk_free_min is free"), ("0", NO_BYTE)],
    ids=["low", "full"],
)
def test_without_redis_a_full_disk_stops_reading_until_there_is_room(
    tmp_path: Path, seed: int, free_min: str, words: str
) -> None:
    """A collector that dies meanwhile begins on the full disk."""
    load = Load(tmp_path, seed)
    with PrivateRedis(find_redis(), tcp=True) as server:
        config = (
            f'disk_free_min = {free_min}\nqueue.url = "{server.tcp_address}"\n'
            f"queue.push_s = 0.5\n{load.sources()}"
        )
        with on_small_disk(config) as (daemon, ballast), load.running():
            until(daemon.stored, SEEN_S, "rows")
            server.stop()
            fill(ballast, 6 * MIB)
            until(lambda: waits(daemon, words), SEEN_S, "reading to stop")
            shown = daemon.run("status")
            assert shown.returncode == 2
            assert NO_ROOM in shown.stdout
            assert words in shown.stdout
            assert " → make room on the disk of state_dir" in shown.stdout
            before = noted(daemon)
            assert daemon.kill_child(daemon.status()["sources"]["s"]["pid"])
            until(lambda: says(daemon, "s", NO_ROOM) == 2, SEEN_S, "a new one")
            until(lambda: waits(daemon, words), SEEN_S, "the new one to wait too")
            assert noted(daemon) == before, "nothing is taken that can't be kept"
            assert says(daemon, "f", NO_ROOM) == 1, "once, however long"
            ballast.unlink()
            until(lambda: all(map(int.__gt__, noted(daemon), before)), SEEN_S, "reading to go on")
            server.start()
            load.finish()
            load.check(daemon)


# ── the database ────────────────────────────────────────────────────────────────────────


def test_a_disk_that_is_full_under_sqlite_is_waited_for_and_reading_goes_on(
    tmp_path: Path, seed: int, redis_server: PrivateRedis
) -> None:
    """Frames wait in Redis, which has a disk of its own."""
    load, name = Load(tmp_path, seed), f"full{seed}"
    config = (
        f'name = "{name}"\ndisk_free_min = 0\nqueue.url = "{redis_server.tcp_address}"\n'
        f"{load.sources()}"
    )
    with on_small_disk(config) as (daemon, ballast), load.running():
        until(daemon.stored, SEEN_S, "rows")
        fill_up(ballast)
        until(lambda: store_waits(daemon), SEEN_S, "SQLite to be refused")
        assert "database or disk is full → make room on the disk" in store_waits(daemon)
        assert daemon.run("status").returncode == 2
        before, stored = noted(daemon), daemon.stored()
        until(lambda: all(map(int.__gt__, noted(daemon), before)), SEEN_S, "reading to go on")
        [pid] = [one["pid"] for one in daemon.status()["subscribers"]]
        assert daemon.kill_child(pid)
        until(lambda: daemon.said().count(STORE_FULL) == 2, SEEN_S, "a new one to wait")
        assert "make room on the disk" in store_waits(daemon)
        assert daemon.stored() == stored
        ballast.unlink()
        load.finish()
        load.check(daemon)


def store_waits(daemon: Daemon) -> str:
    return str((daemon.try_status() or daemon.status())["store"]["waiting_for"])


# ── the embedded server ─────────────────────────────────────────────────────────────────


def test_an_embedded_server_that_ends_on_a_full_disk_comes_back_when_there_is_room(
    tmp_path: Path, seed: int
) -> None:
    """Queue, spool and database are on one disk, and nothing stops before it is full."""
    load = Load(tmp_path, seed)
    config = f"disk_free_min = 0\n{load.sources()}"
    with on_small_disk(config) as (daemon, ballast), load.running():
        until(daemon.stored, SEEN_S, "rows")
        fill_up(ballast)
        until(lambda: waits(daemon, NO_BYTE), SEEN_S, "reading to stop")
        until(lambda: daemon.said().count("valkey-server died") > 1, SEEN_S, "a second try")
        assert daemon.run("status").returncode == 2
        before = noted(daemon)
        ballast.unlink()
        until(lambda: all(map(int.__gt__, noted(daemon), before)), SEEN_S, "reading to go on")
        load.finish()
        load.check(daemon)
