"""`dead retry` beside an instance under load: the column was too short, then it is mended.

It is killed in the middle, and two go on at once. Each record is a row in the end, once.
"""

import pytest

from tests.ports import free_port
from tests.system import cron
from tests.system.daemon import STOP_S, Daemon, until
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, StoreUnderTest

LETTERS = 1200  # some pages of a retry
BYTES_PER_S = 6e5
COLUMNS = '[store.columns]\nraw = { path = "", type = "VARCHAR(300)" }\n'


def count(store: StoreUnderTest, daemon: Daemon, where: str) -> int:
    """Dead letters that are so."""
    [(found,)] = store.rows(daemon, f"SELECT COUNT(*) FROM stream_dead WHERE {where}")
    return int(found)


def open_letters(store: StoreUnderTest, daemon: Daemon) -> int:
    return count(store, daemon, "retried_at IS NULL")


@pytest.mark.parametrize("store", ["mariadb"], indirect=True)
def test_a_retry_that_is_killed_beside_an_instance_under_load(seed: int, store: MariaDB) -> None:
    port, records = free_port(), Records(seed, 2000)
    config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{store.section()}{COLUMNS}'
    with Daemon(config) as daemon, Sender(port, records, bytes_per_s=BYTES_PER_S) as sender:
        until(lambda: daemon.try_status()["ready"], STOP_S, "its tables")  # type: ignore[index]
        until(lambda: open_letters(store, daemon) > LETTERS, STOP_S, "dead letters")
        store.rows(daemon, "ALTER TABLE records MODIFY raw LONGTEXT")
        killed = cron.spawn(daemon, "dead", "retry")
        until(lambda: count(store, daemon, "retried_at IS NOT NULL"), STOP_S, "the first of them")
        killed.kill()
        killed.communicate()
        assert open_letters(store, daemon) > 0, "it was killed in the middle"
        both = [cron.spawn(daemon, "dead", "retry") for _ in range(2)]
        assert [cron.ended(one)[0] for one in both] == [0, 0]
        sender.finish()
        daemon.until_stored(records.sent)
        assert daemon.stop() == 0
        code, said = cron.run(daemon, "dead", "retry")  # without an instance, too
        assert (code, said.startswith("stored ")) == (0, True), said
        assert cron.run(daemon, "dead", "list") == (0, "no dead letters\n")
        code, said = cron.run(daemon, "audit", "--recount")
        assert code == 0, said
        records.check(store.raws(daemon), records.sent)
        sums = [
            store.rows(daemon, f"SELECT SUM(records), SUM(`stored`), SUM(dead) FROM {table}")[0]
            for table in ("stream_runs", "stream_frames")
        ]
        totals = tuple(sum(int(x or 0) for x in column) for column in zip(*sums, strict=True))
        assert totals == (records.sent, records.sent, 0)
