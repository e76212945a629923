"""The units themselves, as systemd understands them."""

from tests.booted.machine import Machine
from tests.booted.service import ACTIVE_S, SQLITE, Service
from tests.booted.stream import Stream
from tests.system.daemon import until
from tests.system.records import Records

PORT = 5170
EXPOSURE_MAX = 15  # tenths, as `systemd-analyze security --threshold` takes them
UNITS = "/etc/systemd/system"
CONFIG = f"""
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{PORT}"
close_wait_s = 2
{SQLITE}"""
PATIENCE_S = 2
RECORDS = 200


def test_systemd_finds_no_fault_with_the_units(machine: Machine, service: Service) -> None:
    service.install()
    units = sorted(path.name for path in (machine.disk / UNITS.lstrip("/")).glob("stream-daemon*"))
    assert len(units) >= 3, units
    instances = [unit.replace("@.", "@one.") for unit in units]
    done = machine.run("systemd-analyze", "verify", *(f"{UNITS}/{unit}" for unit in units))
    assert "stream-daemon" not in done.stdout + done.stderr, done
    for unit in instances:
        if unit.endswith(".service"):
            said = machine.run(
                "systemd-analyze", "security", "--no-pager", f"--threshold={EXPOSURE_MAX}", unit
            )
            print(unit, said.stdout.splitlines()[-1])


def test_a_parent_that_hangs_is_replaced_and_no_sender_notices(
    machine: Machine, service: Service
) -> None:
    """The watchdog's time is shortened; what it does is the unit's."""
    machine.shell(
        f"mkdir -p {UNITS}/{service.unit}.d\n"
        f"printf '[Service]\\nWatchdogSec={PATIENCE_S}\\n' > {UNITS}/{service.unit}.d/try.conf"
    )
    service.start(CONFIG)
    records = Records(seed=4)
    with Stream("tcp", machine.connect(PORT), records) as stream:
        service.until_more_than(0, 0)
        before = service.property("InvocationID")
        machine.run("kill", "-STOP", str(service.main_pid()))
        until(
            lambda: service.property("InvocationID") != before and service.is_active(),
            ACTIVE_S,
            f"systemd to replace it\n{service.log()}",
        )
        service.until_more_than(service.count(), 0)
        stream.finish()
    service.until_count(records.sent)
    records.check(service.raws("tcp"), records.sent)


def test_a_stop_refuses_new_senders_and_stores_what_the_others_have_sent(
    machine: Machine, service: Service
) -> None:
    service.start(CONFIG)
    records = Records(seed=5)
    with machine.connect(PORT) as connection:  # which stays open
        connection.sendall(records.block(RECORDS))
        service.stop()
        assert connection.recv(1) == b"", "it is told"
    assert is_refused(machine)
    service.until_count(RECORDS)
    records.check(service.raws("tcp"), RECORDS)


def test_a_sender_starts_it_through_the_socket_unit(machine: Machine, service: Service) -> None:
    """Whose socket is listened at by systemd itself, also while nothing runs."""
    service.install()
    service.configure(CONFIG)
    machine.run("systemctl", "enable", "--now", "stream-daemon.socket")
    assert not service.is_active()
    records = Records(seed=6)
    with machine.connect(PORT) as connection:
        connection.sendall(records.block(RECORDS))
        service.until_count(RECORDS)
        service.systemctl("restart")
        service.kill("main")
        connection.sendall(records.block(RECORDS))
        service.until_count(2 * RECORDS)
    records.check(service.raws("tcp"), 2 * RECORDS)


def is_refused(machine: Machine) -> bool:
    """Whether nobody listens."""
    try:
        machine.connect(PORT, timeout_s=0.5)
    except AssertionError:
        return True
    return False
