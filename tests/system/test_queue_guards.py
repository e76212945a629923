"""What guards the queue, on whole instances: one collector a source, one store, room to live.

And a way there that is as narrow as it gets: TLS, a user with a password and no right more
than the documentation says.
"""

import re
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

import pytest
import redis

from appliance.queues.hints import RIGHTS
from tests.authority import Authority
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, send_and_close, unstarted, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.small_disk import fill, fill_up, small_disk
from tests.system.stores import Sqlite

MIB = 1024**2
SEEN_S = 15.0


def tcp_source(port: int, more: str = "") -> str:
    return f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nclose_wait_s = 1\n{more}'


# ── two instances on one Redis ──────────────────────────────────────────────────────────


def test_of_two_instances_with_one_name_the_second_is_refused(
    redis_server: PrivateRedis, seed: int
) -> None:
    ports = [free_port() for _ in range(3)]
    names = [f"twin{seed}", f"twin{seed}", f"other{seed}"]
    queue = f'[queue]\nurl = "{redis_server.tcp_address}"\n'
    configs = [f'name = "{n}"\n{queue}{tcp_source(p)}' for n, p in zip(names, ports, strict=True)]
    with Daemon(configs[0]) as first, unstarted(configs[1]) as second:
        until(lambda: collectors(redis_server, names[0]), SEEN_S, "the first to be connected")
        [(address, instance)] = collectors(redis_server, names[0])
        done = second.run("collect")
        assert done.returncode == 73, done.stderr
        assert f"another instance named {names[0]} collects this source" in done.stderr
        assert f"instance {instance} from {address}" in done.stderr
        assert "stop that one first, or give this one another name" in done.stderr
        with Daemon(configs[2]) as side_by_side:
            for daemon, port in ((first, ports[0]), (side_by_side, ports[2])):
                records = Records(seed)
                send_and_close(port, [records.block(100)])
                daemon.until_stored(100)
                records.check(Sqlite().raws(daemon), 100)
            assert side_by_side.stop() == 0
        assert first.stop() == 0
        second.start()  # now it may
        assert second.stop() == 0


def collectors(server: PrivateRedis, name: str) -> list[tuple[str, str]]:
    """Address and instance of the collectors that are connected under this name."""
    with server.client() as client:
        found = [
            (c["addr"], re.match(rf"{name}-collector-s-(\w+)-", c["name"]))
            for c in client.client_list()
        ]
    return [(address, match[1]) for address, match in found if match]


# ── one store ───────────────────────────────────────────────────────────────────────────


def test_a_queue_with_another_store_waits_until_it_is_freed(
    redis_server: PrivateRedis, seed: int
) -> None:
    name, port, records = f"bound{seed}", free_port(), Records(seed)
    start = f'name = "{name}"\nqueue.url = "{redis_server.address}"\n{tcp_source(port)}[store]\n'
    with unstarted("") as daemon:
        head = daemon.file.read_text()
        for file, settled in (("a", 50), ("b", 0), ("a", 100)):
            daemon.file.write_text(f'{head}{start}url = "sqlite://{daemon.directory}/{file}.db"\n')
            daemon.start()
            send_and_close(port, [records.block(50)])
            if file == "a":
                daemon.until_stored(settled)
            else:
                until(lambda: "another store" in store_waits(daemon), SEEN_S, "the refusal")
                until(lambda: daemon.status()["queue"]["frames"], SEEN_S, "frames to wait")
                assert daemon.run("status").returncode == 2
            assert daemon.stop() == 0
        assert daemon.said().count("the queue's frames belong to another store") == 1
        assert numbers(daemon.directory / "b.db") == []
        assert numbers(daemon.directory / "a.db") == list(range(150)), "all, in the first store"

        daemon.file.write_text(f'{head}{start}url = "sqlite://{daemon.directory}/b.db"\n')
        daemon.start()
        send_and_close(port, [records.block(50)])
        until(lambda: "another store" in store_waits(daemon), SEEN_S, "the refusal")
        command = re.findall(r"free the queue for this one: (redis-cli .*)", daemon.said())[-1]
        subprocess.run(command, shell=True, check=True, capture_output=True)
        daemon.until_stored(50)
        assert numbers(daemon.directory / "b.db") == list(range(150, 200))
        assert daemon.stop() == 0


def store_waits(daemon: Daemon) -> str:
    return str(daemon.status()["store"]["waiting_for"])


def numbers(database: Path) -> list[int]:
    connection = sqlite3.connect(database)
    try:
        rows = connection.execute("SELECT raw FROM records").fetchall()
    finally:
        connection.close()
    return sorted(int(raw.split()[0]) for (raw,) in rows)


# ── room ────────────────────────────────────────────────────────────────────────────────


def test_a_full_queue_and_then_a_full_spool_stop_reading_until_there_is_room(seed: int) -> None:
    port, records = free_port(), Records(seed, 20_000)
    config = f'queue.bytes_max = "1MiB"\nspool.bytes_max = "4MiB"\n{tcp_source(port)}'
    with Daemon(config) as daemon, Sender(port, records, bytes_per_s=20e6) as sender:
        queue = QueueUnderTest.embedded(daemon)
        until(daemon.stored, SEEN_S, "rows")
        daemon.signal(signal.SIGTSTP)
        queue_full = "room in the queue (records go to the spool): it is full"
        spool_full = "room in the spool (reading stops): the spool is full"
        for awaited in (queue_full, spool_full):
            until(lambda text=awaited: f"waiting for {text}" in daemon.said(), SEEN_S, awaited)
        until(lambda: spool_full in source_waits(daemon), SEEN_S, "status to say it")
        until(lambda: queued_bytes(daemon) >= MIB, SEEN_S, "the queue to be seen full")
        assert queued_bytes(daemon) < 3 * MIB
        assert 3 * MIB < daemon.status()["sources"]["s"]["spool"]["bytes"] <= 4 * MIB
        assert daemon.run("status").returncode == 2
        daemon.signal(signal.SIGCONT)
        sender.finish()
        queue.until_empty()
        daemon.until_stored(records.sent)
        records.check(Sqlite().raws(daemon), records.sent)
        for awaited in (queue_full, spool_full):
            assert f"no longer waiting for {awaited}" in daemon.said()
        assert daemon.stop() == 0


def queued_bytes(daemon: Daemon) -> int:
    return int(daemon.status()["queue"]["bytes"])


def source_waits(daemon: Daemon) -> str:
    return str(daemon.status()["sources"]["s"]["waiting_for"])


def test_a_disk_that_runs_full_stops_reading_and_ends_no_server_twice(
    short_dir: Path, seed: int
) -> None:
    """First a disk that is low: nothing is pushed. Then one that is full: the server ends."""
    port, records = free_port(), Records(seed)
    database = short_dir / "store.db"
    config = f'disk_free_min = "8MiB"\n{tcp_source(port)}[store]\nurl = "sqlite://{database}"\n'
    with unstarted(config) as daemon, small_disk(daemon.directory / "state", 48 * MIB) as disk:
        ballast = disk / "ballast"
        daemon.start()
        with Sender(port, records, bytes_per_s=1e6) as sender:
            until(daemon.stored, SEEN_S, "rows")
            fill(ballast, 4 * MIB)
            until(lambda: "disk_free_min" in source_waits(daemon), SEEN_S, "reading to stop")
            assert "→ make room on the disk of state_dir" in source_waits(daemon)
            ballast.unlink()
            until(lambda: not source_waits(daemon), SEEN_S, "reading to go on")

            daemon.signal(signal.SIGTSTP)
            queue = QueueUnderTest.embedded(daemon)
            queue.until_filled(3)
            fill_up(ballast)
            daemon.signal(signal.SIGCONT)  # its confirm is one write too many
            until(lambda: "disk space" in queue_waits(daemon), SEEN_S, "the server to have ended")
            until(lambda: "disk_free_min" in source_waits(daemon), SEEN_S, "reading to stop")
            ballast.unlink()
            sender.finish()
            queue.until_empty()
            until(lambda: len(numbers(database)) >= records.sent, SEEN_S, "every row")
        assert numbers(database) == list(range(records.sent))
        said = daemon.said()
        assert said.count("valkey-server died (exit code 1)") == 1, said
        assert said.count("valkey-server is not started again: waiting for disk space") == 1
        assert said.count("collector s: waiting for room in the spool (reading stops)") == 2
        assert daemon.stop() == 0


def queue_waits(daemon: Daemon) -> str:
    return str(daemon.status()["queue"]["waiting_for"])


# ── TLS, a user, a password ─────────────────────────────────────────────────────────────

SECRET = "pass \"word' 100% #1"
SECRET_VARIABLE = "TEST_REDIS_PASSWORD"


def test_over_tls_as_a_user_with_exactly_the_documented_rights(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documented = Path("docs/configuration.md").read_text()
    [rule] = re.findall(r"ACL SETUSER feed on >PASSWORD ~\{nfl\}:\* (.*)", documented)
    assert rule == RIGHTS
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    authority, port, records = Authority(tmp_path, "ca"), free_port(), Records(seed)
    certificate, key = authority.sign("server", "DNS:localhost")
    options = {
        "tls-port": str(free_port()),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-auth-clients": "no",
    }
    url = f"rediss://feed@localhost:{options['tls-port']}/0?ca={authority.certificate}"
    config = (
        f'name = "nfl"\n{tcp_source(port)}[queue]\nurl = "{url}"\n'
        f'password = {{ env = "{SECRET_VARIABLE}" }}\n'
    )
    with PrivateRedis(find_redis(), options=options) as server, server.client() as client:
        set_user(client, *rule.split())
        with Daemon(config) as daemon:
            send_and_close(port, [records.block(500)])
            daemon.until_stored(500)
            records.check(Sqlite().raws(daemon), 500)
            titles = " ".join(daemon.children())
            assert SECRET not in daemon.said() + titles + daemon.run("status", "--json").stdout
            assert daemon.stop() == 0
    shutil.rmtree(daemon.directory, ignore_errors=True)


def set_user(client: "redis.Redis", *rights: str) -> None:
    client.execute_command(
        "ACL", "SETUSER", "feed", "reset", "on", f">{SECRET}", "~{nfl}:*", *rights
    )
