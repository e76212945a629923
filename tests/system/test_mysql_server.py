"""From TCP into MySQL's own server, by its default login, with TLS and without."""

from pathlib import Path

import pytest

from tests.certificates import make_certificates
from tests.database_server import Database
from tests.ports import free_port
from tests.system.daemon import Daemon, send_and_close, until
from tests.system.records import Records
from tests.system.stores import MySQL

STREAM_BYTES = 4_000_000
SEEN_S = 20.0
LEDGER = "SELECT SUM(records), SUM(`stored`) FROM {}"


def config(port: int, store: MySQL) -> str:
    return (
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'{store.section()}lease_bytes_max = "256KiB"\n'
    )


@pytest.mark.parametrize("tls", ["off", "require"])
def test_each_record_is_a_row_once(mysql_database: Database, tls: str, seed: int) -> None:
    """Subscribers are killed meanwhile; a first login needs the password itself each time."""
    server, port, records = mysql_database.server, free_port(), Records(seed)
    ca = f"&ca={server.certificates.ca}" if tls == "require" else ""
    store = MySQL(mysql_database, f"?tls={tls}{ca}")
    server.run("FLUSH PRIVILEGES")  # empties the server's cache of logins
    with Daemon(config(port, store)) as daemon:
        for _ in range(2):
            send_and_close(port, records.pieces(STREAM_BYTES // 2))
            victim = daemon.status()["subscribers"][0]["pid"]
            daemon.kill_child(victim)
        until(lambda: rows(store, daemon) >= records.sent, SEEN_S, "all rows")
        records.check(store.raws(daemon), records.sent)
        assert sessions(mysql_database) == {tls == "require"}
        assert daemon.stop() == 0
    counted = [
        store.rows(daemon, LEDGER.format(f"stream_{name}"))[0] for name in ("runs", "frames")
    ]
    for sums in zip(*counted, strict=True):
        assert sum(int(one or 0) for one in sums) == records.sent


def rows(store: MySQL, daemon: Daemon) -> int:
    return int(store.rows(daemon, "SELECT COUNT(*) FROM records")[0][0])


def sessions(database: Database) -> set[bool]:
    """Whether the program's sessions are encrypted."""
    found = database.run(
        "SELECT s.VARIABLE_VALUE <> '' FROM performance_schema.status_by_thread s"
        " JOIN performance_schema.threads t USING (THREAD_ID)"
        f" WHERE s.VARIABLE_NAME = 'Ssl_cipher' AND t.PROCESSLIST_DB = '{database.name}'"
        " AND t.PROCESSLIST_USER = 'stream'"
    )
    return {bool(encrypted) for (encrypted,) in found}


def test_a_server_that_is_not_trusted_is_waited_for(
    mysql_database: Database, tmp_path: Path, seed: int
) -> None:
    """Records are collected meanwhile, and stored as soon as its authority is the right one."""
    port, records = free_port(), Records(seed)
    ca = make_certificates(tmp_path, "127.0.0.1").ca
    store = MySQL(mysql_database, f"?tls=require&ca={ca}")
    with Daemon(config(port, store)) as daemon:
        send_and_close(port, records.pieces(100_000))
        until(lambda: waits_for(daemon, "certificate is not accepted"), SEEN_S, "status to say it")
        assert f"ca= must hold the authority that has signed it; {ca} doesn't" in daemon.said()
        ca.write_bytes(mysql_database.server.certificates.ca.read_bytes())
        daemon.until_stored(records.sent)
        records.check(store.raws(daemon), records.sent)


def waits_for(daemon: Daemon, text: str) -> bool:
    status = daemon.run("status")
    return status.returncode == 2 and text in status.stdout
