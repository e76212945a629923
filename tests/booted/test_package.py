"""The Debian package: upgraded under a sender that never closes, and purged."""

from pathlib import Path

import pytest

from tests.booted.machine import Machine
from tests.booted.service import ACTIVE_S, Service
from tests.booted.stream import Stream
from tests.system.daemon import until
from tests.system.records import Records

DIST = Path(__file__).parents[2] / "dist"
PORT = 5170  # of the example configuration
UPGRADES = 3
OURS = "find / -xdev -name '*stream*daemon*' -not -path '/proc/*' -not -path '/root/*'"


@pytest.fixture
def package(machine: Machine) -> str:
    """The package, copied to the machine."""
    made = sorted(DIST.glob("stream-daemon_*.deb"), key=lambda path: path.stat().st_mtime)
    if not made:
        pytest.skip("no package: `make deb` makes it")
    (machine.disk / "root/stream-daemon.deb").write_bytes(made[-1].read_bytes())
    return "/root/stream-daemon.deb"


def test_no_sender_notices_an_upgrade_and_a_purge_keeps_what_was_collected(
    machine: Machine, package: str
) -> None:
    service = Service(machine)
    machine.run("rm", "-f", "/usr/local/bin/stream-daemon")  # it would go before the package's
    before = machine.run("sh", "-c", OURS).stdout.split()
    machine.run("dpkg", "--install", package)
    assert service.main_pid() == 0, "a first install starts nothing"
    machine.run("stream-daemon", "install")
    machine.run("systemctl", "enable", "--now", "stream-daemon")
    records = Records(seed=1, length_max=4000)
    with Stream("tcp", machine.connect(PORT), records) as stream:
        for _ in range(UPGRADES):
            pid = service.main_pid()
            machine.run("dpkg", "--install", package)
            until_new(service, pid)
            stream.check()
        stream.finish()
    service.until_count(records.sent)
    records.check(service.raws("tcp"), records.sent)
    machine.run("dpkg", "--purge", "stream-daemon")
    assert service.main_pid() == 0
    left = set(machine.run("sh", "-c", OURS).stdout.split()) - set(before)
    assert left
    assert all(path.startswith("/var/lib/") for path in left), left


def until_new(service: Service, old_pid: int) -> None:
    """Wait until it runs again, in another process: dpkg doesn't."""
    until(
        lambda: service.main_pid() not in (0, old_pid) and service.is_active(),
        ACTIVE_S,
        "the new version runs",
    )
