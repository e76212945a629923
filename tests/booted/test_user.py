"""A user without any rights: a home directory is all that it takes."""

from tests.booted.machine import Machine
from tests.booted.service import COPIED, STORED_S
from tests.system.daemon import until

PORT = 5171
CONFIG = f"""
name = "mine"
[source.tcp]
type = "tcp"
listen = "127.0.0.1:{PORT}"
[store]
url = "embedded"
table = "records"
"""
HOME = "/home/ann"
STATE = f"{HOME}/.local/state/stream-daemon/mine"


def test_collect_needs_no_root_and_only_a_home_directory(machine: Machine) -> None:
    machine.shell(
        f"useradd --create-home --shell /bin/sh ann; cp {COPIED} {HOME}; chown ann {HOME}/*"
    )
    machine.shell(f"mkdir -p {HOME}/.config/stream-daemon")
    (machine.disk / f"{HOME}/.config/stream-daemon/stream-daemon.toml".lstrip("/")).write_text(
        CONFIG
    )
    as_ann(machine, "collect --detach")
    machine.run("nc", "-N", "127.0.0.1", str(PORT), input="one\ntwo\n")
    look = f"sqlite3 {STATE}/mine.db 'SELECT raw FROM records ORDER BY seq'"
    until(lambda: machine.shell(look, check=False).stdout == "one\ntwo\n", STORED_S, "the rows")
    log = machine.disk / f"{STATE}/log".lstrip("/")
    assert STATE in log.read_text(), "it says where it keeps its things"
    as_ann(machine, "status")
    as_ann(machine, "audit")
    as_ann(machine, "stop")
    elsewhere = machine.shell(f"find / -xdev -user ann -not -path '{HOME}/*' -not -path '{HOME}'")
    assert elsewhere.stdout == ""


def as_ann(machine: Machine, verb: str) -> str:
    """Run a verb as she would, in a login shell; what it says."""
    done = machine.run("su", "-", "ann", "-c", f"./stream-daemon {verb}")
    return done.stdout + done.stderr
