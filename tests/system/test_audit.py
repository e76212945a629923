"""`audit` under load and after crashes always agrees, and what is taken away it names."""

import json
import random
from typing import Any

from tests.ports import free_port
from tests.system.daemon import STOP_S, Daemon, send_and_close, until
from tests.system.queues import QueueUnderTest
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import StoreUnderTest

LOOKS_UNDER_LOAD = 3
KILLS_A_LOOK = 2
FEW = 300


def configuration(port: int, store: StoreUnderTest, subscribers: int) -> str:
    return (
        f'subscribers = {subscribers}\n[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        'record_bytes_max = "8KiB"\nframe_bytes_max = "16KiB"\n'
        f'{store.section()}lease_bytes_max = "64KiB"\n'
    )


def audit(daemon: Daemon, *more: str) -> tuple[int, dict[str, Any]]:
    """Its exit code, and what it reports."""
    done = daemon.run("audit", "--json", *more)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def kill_some(daemon: Daemon, dice: random.Random) -> None:
    """Children of any kind but the server, whose loss of a moment is another test's."""
    children = [pid for title, pid in daemon.children().items() if "stream-daemon" in title]
    for pid in dice.sample(children, min(KILLS_A_LOOK, len(children))):
        daemon.kill_child(pid)


def test_it_agrees_whatever_dies_and_names_what_is_taken_away(
    mariadb_store: StoreUnderTest, seed: int
) -> None:
    port, store, records, dice = free_port(), mariadb_store, Records(seed), random.Random(seed)
    with Daemon(configuration(port, store, store.writers)) as daemon:
        with Sender(port, records):
            until(lambda: daemon.stored() > FEW, STOP_S, "rows")
            received = 0
            for _ in range(LOOKS_UNDER_LOAD):
                kill_some(daemon, dice)
                code, found = audit(daemon, "--recount")
                assert (code, found["differences"]) == (0, []), found
                assert found["total"]["difference"] == 0
                assert found["total"]["received"] > received, "it is right about something new"
                received = found["total"]["received"]
            daemon.kill_parent()
        code, found = audit(daemon, "--recount")
        assert (code, found["differences"]) == (0, []), found
        assert received <= found["sources"]["s"]["received"] <= records.sent
        store.rows(daemon, "DELETE FROM records LIMIT 1")
        store.rows(daemon, "UPDATE stream_runs SET `stored` = `stored` - 7")
        code, found = audit(daemon, "--recount")
        assert code == 1
        parts, table = (one["text"] for one in found["differences"])
        assert "the ledger's counts of run" in parts
        stored = found["total"]["stored"]
        assert (
            table
            == f"table records has {stored + 6:,} rows, the ledger says {stored:,} were stored"
        )
        store.rows(daemon, "UPDATE stream_runs SET `stored` = `stored` + 7")
        takes_a_frame_away(daemon, configuration(port, store, 0), Records(seed), port)


def takes_a_frame_away(daemon: Daemon, config: str, records: Records, port: int) -> None:
    """From the queue of a running instance that stores nothing."""
    daemon.file.write_text(f'state_dir = "{daemon.directory}/state"\n{config}')
    daemon.start()
    queue = QueueUnderTest.embedded(daemon)
    send_and_close(port, [records.block(FEW)])
    queue.until_filled(3)
    code, found = audit(daemon)
    assert (code, found["differences"]) == (0, []), found
    assert found["total"]["queued"] >= FEW
    header = queue.take_out(queue.waiting() // 2)
    done = daemon.run("audit")
    assert done.returncode == 1
    assert (
        f"DIFFERENCE: frame {header.number} of run {header.run} (source s):"
        f" {header.records} record" in done.stdout
    ), done.stdout
    assert "in nobody's hands" in done.stdout
    assert daemon.stop() == 0
