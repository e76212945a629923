"""Filters in a whole instance: which records are stored, and that the others are counted."""

from tests.ports import free_port
from tests.system.daemon import Daemon, send_and_close
from tests.system.stores import Sqlite

FILTERS = r"""
format = "json"
include = { path = "text", any = ["Packers", "Bears"] }
exclude = [{ path = "lang", equals = ["und", "zxx"] }, { path = "text", regex = '^RT @\w+:' }]
"""
KEPT = [b'{"text":"Go PACKERS!","lang":"en"}', b'{"text":"bears"}']
FILTERED = [
    b'{"text":"packers_fan"}',
    b'{"text":"Bears","lang":"zxx"}',
    b'{"text":"RT @a: Bears"}',
    b"{}",
]


def test_filtered_records_are_counted_and_not_stored() -> None:
    port = free_port()
    config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{FILTERS}'
    store = Sqlite()
    with Daemon(config) as daemon:
        send_and_close(port, [record + b"\n" for record in KEPT + FILTERED])
        daemon.until_stored(len(KEPT + FILTERED))
        assert list(store.raws(daemon)) == KEPT
        counts = "SELECT sum(stored), sum(filtered), sum(dead) FROM stream_runs"
        assert store.rows(daemon, counts) == [(len(KEPT), len(FILTERED), 0)]
