"""A machine that is switched off, in good order or by its plug, and on again."""

import random

from tests.booted.machine import Machine
from tests.booted.service import SQLITE, Service
from tests.booted.stream import Stream
from tests.system.records import Records

PORT = 5170
CONFIG = f"""
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{PORT}"
close_wait_s = 1
{SQLITE}"""
RECORDS = 2000


def test_a_reboot_stores_what_was_sent_and_the_service_comes_back_by_itself(
    machine: Machine, service: Service
) -> None:
    service.start(CONFIG)
    records = Records(seed=1)
    with machine.connect(PORT) as connection:  # which stays open, as senders' do
        connection.sendall(records.block(RECORDS))
        machine.shut_down()
    machine.boot()
    assert service.is_active(), service.log()
    service.until_count(RECORDS)
    records.check(service.raws("tcp"), RECORDS)
    with machine.connect(PORT) as connection:
        connection.sendall(records.block(RECORDS))
    service.until_count(2 * RECORDS)
    records.check(service.raws("tcp"), 2 * RECORDS)
    service.audit()


def test_after_a_power_cut_all_that_was_stored_is_there_and_it_goes_on(
    machine: Machine, service: Service, dice: random.Random
) -> None:
    """What the kernel held is gone with it, and the sender sees its connection die."""
    service.start(CONFIG)
    records = Records(seed=2)
    with Stream("tcp", machine.connect(PORT), records) as stream:
        stored = service.until_more_than(0, 1 + dice.random())
        machine.cut_power()
        stream.until_cut()
    machine.boot()
    assert service.is_active(), service.log()
    with machine.connect(PORT) as connection:
        connection.sendall(b"the last\n")
    service.until_stored("the last")
    *rows, last = service.raws("tcp")
    assert last == b"the last"
    assert len(rows) >= stored
    records.check(rows, len(rows))  # a beginning of what was sent, without a hole
    service.audit()
