"""A stop with much that waits: it is over in time, and nothing of it is lost."""

import socket

import pytest

from tests.booted.machine import Machine
from tests.booted.service import SQLITE, Service
from tests.system.daemon import STOP_S
from tests.system.records import Records

PORT = 5170
CONFIG = f"""
subscribers = {{subscribers}}
drain_s = {{drain_s}}
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{PORT}"
{SQLITE}"""
WHOLE_BYTES, WHOLE_DRAIN_S = 1_000_000_000, 10
SHORT_BYTES, SHORT_DRAIN_S = 60_000_000, 1
RECORD_BYTES_MAX = 40_000


@pytest.mark.timeout(1800)
def test_a_stop_with_much_that_waits_is_over_in_time_and_loses_nothing(
    full: bool, machine: Machine, service: Service
) -> None:
    waiting_bytes, drain_s = (WHOLE_BYTES, WHOLE_DRAIN_S) if full else (SHORT_BYTES, SHORT_DRAIN_S)
    service.start(CONFIG.format(subscribers=0, drain_s=drain_s))
    records = Records(seed=3, length_max=RECORD_BYTES_MAX)
    with machine.connect(PORT) as connection:
        connection.settimeout(STOP_S)
        for piece in records.pieces(waiting_bytes):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b"", "it closes when it has all"
    service.stop()
    service.configure(CONFIG.format(subscribers=1, drain_s=drain_s))
    service.systemctl("start")
    service.stop()
    print(f"{waiting_bytes} bytes waited; stored when it stopped: {service.count()}")
    service.systemctl("start")
    service.until_count(records.sent)
    records.check(service.raws("tcp"), records.sent)
    service.audit()
