"""Many instances on one machine, from the template."""

import re

from tests.booted.machine import Machine
from tests.booted.service import SQLITE, STORED_S, Service
from tests.system.records import Records

WHOLE, SHORT = 50, 5
PORT_MIN = 6000
RECORDS = 20
CONFIG = f"""
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{{port}}"
{SQLITE}"""


def test_each_instance_has_a_state_a_queue_and_tables_of_its_own(
    full: bool, machine: Machine
) -> None:
    services = [instance(machine, number) for number in range(WHOLE if full else SHORT)]
    services[0].install()
    for number, service in enumerate(services):
        service.configure(CONFIG.format(port=PORT_MIN + number))
    machine.run("systemctl", "enable", "--now", *(service.unit for service in services))
    records = [Records(seed=number) for number in range(len(services))]
    for number, sent in enumerate(records):
        with machine.connect(PORT_MIN + number) as connection:
            connection.sendall(sent.block(RECORDS))
    for sent, service in zip(records, services, strict=True):
        service.until_count(RECORDS)
        sent.check(service.raws("tcp"), RECORDS)
    print(
        f"{len(services)} instances, idle: {memory_mib(machine) / len(services):.0f} MiB PSS each"
    )
    machine.run("systemctl", "restart", "stream-daemon@*", timeout_s=STORED_S)
    for number, (sent, service) in enumerate(zip(records, services, strict=True)):
        with machine.connect(PORT_MIN + number) as connection:
            connection.sendall(sent.block(RECORDS))
        service.until_count(2 * RECORDS)
        sent.check(service.raws("tcp"), 2 * RECORDS)


def instance(machine: Machine, number: int) -> Service:
    """The service of one instance, not started."""
    name = f"stream{number}"
    return Service(
        machine, name, f"stream-daemon@{name}.service", f"/etc/stream-daemon/{name}.toml"
    )


def memory_mib(machine: Machine) -> float:
    """What all processes of all instances take, what they share counted once."""
    pids = machine.shell(
        "cat $(find /sys/fs/cgroup/systemd /sys/fs/cgroup -path "
        "'*stream*daemon*' -name cgroup.procs) | sort -un"
    ).stdout.split()
    return sum(_pss_kib(machine, pid) for pid in pids) / 1024


def _pss_kib(machine: Machine, pid: str) -> int:
    try:
        rollup = machine.path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(re.findall(r"^Pss: *(\d+) kB", rollup, re.M)[0])
