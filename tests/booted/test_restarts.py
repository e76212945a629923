"""Whatever is done to the service, a sender that never closes notices nothing."""

import random
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.booted.machine import Machine
from tests.booted.service import INSTALLED, PROGRAM, Service
from tests.booted.stream import Stream
from tests.system.records import Records

UNIX = "/run/stream-daemon/records.sock"
PORT = 5170
CONFIG = """
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{port}"
frame_interval_ms = {interval_ms}
[source.unix]
type = "unix"
listen = "{unix}"
[store]
url = "embedded"
table = "records"
"""
INTERVAL_MS = 5
LONG_EVERY = 300
BREATH_S_MAX = 0.7

WHOLE = {  # what is done how often
    "restart": 20,
    "kill_main": 10,
    "kill_all": 5,
    "reload": 5,
    "upgrade": 3,
    "reload_broken": 2,
}
SHORT = {
    "restart": 5,
    "kill_main": 4,
    "kill_all": 2,
    "reload": 2,
    "upgrade": 1,
    "reload_broken": 1,
}


def configuration(interval_ms: int = INTERVAL_MS) -> str:
    return CONFIG.format(port=PORT, unix=UNIX, interval_ms=interval_ms)


class Blows:
    """What is done to a service while it works."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._versions = 0
        self._interval_ms = INTERVAL_MS

    def restart(self) -> None:
        self._service.systemctl("restart")

    def kill_main(self) -> None:
        self._service.kill("main")

    def kill_all(self) -> None:
        self._service.kill("all")

    def reload(self) -> None:
        """With another configuration, else there would be nothing to do."""
        self._interval_ms += 1
        self._service.configure(configuration(self._interval_ms))
        self._service.systemctl("reload")

    def reload_broken(self) -> None:
        """What can't be right is refused, and everything goes on as it was."""
        pid = self._service.main_pid()
        self._service.configure('[source.tcp]\ntype = "tpc"\n')
        done = self._service.systemctl("reload", check=False)
        assert done.returncode != 0, "it is said to whoever has asked for it"
        assert "source.tcp.type" in self._service.log(), "and why"
        assert self._service.is_active()
        assert self._service.main_pid() == pid, self._service.log()
        self._service.configure(configuration(self._interval_ms))

    def upgrade(self) -> None:
        """Another program under the old name, as whatever unpacks files puts it there.

        It takes itself for another version, since its last line names another archive.
        """
        self._versions += 1
        new = self._service.machine.path(f"{INSTALLED}.new")
        body, _, rest = PROGRAM.read_bytes().rpartition(b" hash=")
        number = f"{self._versions:08}".encode()
        new.write_bytes(body + b" hash=" + number + rest[len(number) :])
        new.chmod(0o755)
        new.rename(self._service.machine.path(INSTALLED))
        self._service.systemctl("restart")


@pytest.fixture
def streams(machine: Machine, service: Service) -> Iterator[list[Stream]]:
    """One TCP and one Unix connection that write without pause, as long as the service runs."""
    service.start(configuration())
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Stream(name, machine.connect(where), Records(seed, 4000, LONG_EVERY))
            )
            for seed, (name, where) in enumerate((("tcp", PORT), ("unix", UNIX)))
        ]


@pytest.mark.timeout(1800)
def test_senders_notice_nothing_of_whatever_happens_to_the_service(
    full: bool, dice: random.Random, service: Service, streams: list[Stream]
) -> None:
    history = [name for name, times in (WHOLE if full else SHORT).items() for _ in range(times)]
    dice.shuffle(history)
    blows = Blows(service)
    rows = 0
    for blow in history:
        print(blow)
        getattr(blows, blow)()
        for stream in streams:
            stream.check()
        rows = service.until_more_than(rows, dice.random() * BREATH_S_MAX)
    for stream in streams:
        stream.finish()
    service.until_count(sum(stream.records.sent for stream in streams))
    for stream in streams:
        stream.records.check(service.raws(stream.name), stream.records.sent)
        print(f"{stream.name}: {stream.records.sent} records, {stream.bytes_sent} bytes, ")
        print(f"longest pause {stream.longest_pause_s:.1f} s")
    service.audit()
