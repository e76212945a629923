"""A record that kills whoever touches it costs that record, and holds nobody up.

Of two records in a stream one kills whoever parses it, the other whoever stores it (see
crashing.py), by a real segmentation fault. Over Redis with MariaDB, in two of many small frames,
and over Valkey with SQLite, in one large frame.
"""

import time
from collections import Counter

import pytest

from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, send_and_close, until
from tests.system.killer import self_kills
from tests.system.records import Records
from tests.system.stores import MariaDB, StoreUnderTest

LETHAL = {"parsing": 700, "storing": 1900}
FIRST, THEN = 3000, 500
TIME_S_MAX = 20.0


def test_a_lethal_record_is_a_dead_letter_and_its_neighbours_are_stored(
    request: pytest.FixtureRequest, store: StoreUnderTest, seed: int
) -> None:
    is_maria = isinstance(store, MariaDB)
    server: PrivateRedis = request.getfixturevalue("redis_server" if is_maria else "valkey_server")
    port, name = free_port(), f"poison{seed}"
    config = (
        f'name = "{name}"\nsubscribers = {store.writers}\n'
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'frame_bytes_max = "{"16KiB" if is_maria else "1MiB"}"\nrecord_bytes_max = "8KiB"\n'
        f'[queue]\nurl = "{server.address}"\n{store.section()}'
    )
    records = Records(seed, length_max=1000)
    lethal = ",".join(f"{when}={number}" for when, number in LETHAL.items())
    with Daemon(config, crash=self_kills({}, 0, seed) | {"LETHAL": lethal}) as daemon:
        began_at = time.monotonic()
        send_and_close(port, [records.block(FIRST)])
        daemon.until_stored(FIRST - 1, timeout_s=TIME_S_MAX)
        until(lambda: dead(store, daemon, name), TIME_S_MAX, "the dead letters")
        assert time.monotonic() - began_at < TIME_S_MAX
        send_and_close(port, [records.block(THEN)])
        daemon.until_stored(FIRST + THEN)
        assert dead(store, daemon, name) == [
            (records.line(number), "poison") for number in sorted(LETHAL.values())
        ]
        sent = {records.line(n) for n in range(records.sent) if n not in LETHAL.values()}
        assert Counter(store.raws(daemon)) == Counter(sent)
        for (reason,) in store.rows(daemon, f"SELECT reason FROM {name}_dead"):
            assert reason.startswith("2 times in a row a subscriber died (SIGSEGV) with this")
        with server.client() as client:
            assert not client.exists(f"{{{name}}}:attempts")
        status = daemon.status()
        assert status["store"]["dead"] == len(LETHAL)
        assert "of frame" in status["last_error"]
        assert daemon.stop() == 0
        assert "goes alone: 3 subscribers died with it" in daemon.said()


def dead(store: StoreUnderTest, daemon: Daemon, name: str) -> list[tuple[bytes, str]]:
    """Bytes and code of each dead letter, in the order in which they came in."""
    rows = store.rows(daemon, f"SELECT raw, code FROM {name}_dead ORDER BY run, frame, position")
    return [(bytes(raw), code) for raw, code in rows]
