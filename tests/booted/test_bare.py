"""A bare Debian of each release, and what README and docs say to do with the one file."""

import os

import pytest

from tests.booted.machine import Machine
from tests.booted.service import COPIED, INSTALLED, STORED_S, Service
from tests.system.daemon import until

EXAMPLES_PORT = 5170  # of the example configuration, and in README
SENT = ["one", "two €", '{"three": 3}', "x" * 100_000]
PASSWORD = "S3cret pass'word"
MARIADB = """
[source.tcp]
type = "tcp"
listen = "127.0.0.1:5170"
[store]
url = "mysql://stream@127.0.0.1:3306/stream"
password = { cred = "mysql" }
table = "records"
"""


SUITES = ["bookworm", *(["bullseye", "trixie"] if os.environ.get("FULL") else [])]


@pytest.fixture(params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_copy_try_install_start_send_and_look(machine: Machine, service: Service) -> None:
    assert machine.run("sh", "-c", "command -v python3 redis-server", check=False).stdout == ""
    said = machine.run(COPIED, "demo").stdout
    assert "lost 0\n" in said, said
    assert "doubled 0\n" in said, said
    print(machine.run(COPIED, "install").stdout)
    machine.run(INSTALLED, "check")
    machine.run("systemctl", "enable", "--now", "stream-daemon")
    send(machine, SENT)
    service.until_count(len(SENT))
    query = "SELECT raw FROM records"
    file = "/var/lib/stream-daemon/stream/stream.db"
    stored = machine.run("sqlite3", file, query).stdout.splitlines()
    assert sorted(stored) == sorted(SENT)
    assert machine.run(INSTALLED, "status").stdout.startswith("stream collects and stores")
    service.audit()
    service.stop()
    refused = machine.run("nc", "-N", "127.0.0.1", str(EXAMPLES_PORT), check=False)
    assert refused.returncode != 0, "nobody listens behind a stopped service"
    machine.run(INSTALLED, "uninstall")
    assert not (machine.disk / INSTALLED.lstrip("/")).exists()


def test_into_a_mariadb_with_its_password_as_a_credential(
    machine: Machine, service: Service
) -> None:
    begin_mariadb(machine)
    service.install()
    put_password(machine)
    service.start(MARIADB)
    send(machine, SENT)
    until(lambda: sorted(rows(machine)) == sorted(SENT), STORED_S, f"the rows\n{service.log()}")
    assert PASSWORD not in service.log() + machine.run(INSTALLED, "status").stdout


def send(machine: Machine, lines: list[str]) -> None:
    """As README has it."""
    text = "".join(f"{line}\n" for line in lines)
    machine.run("nc", "-N", "127.0.0.1", str(EXAMPLES_PORT), input=text)


def begin_mariadb(machine: Machine) -> None:
    """A database and its user."""
    machine.run("systemctl", "start", "mariadb", timeout_s=STORED_S)
    quoted = PASSWORD.replace("'", "''")
    machine.run(
        "mysql",
        "-e",
        f"CREATE DATABASE stream; CREATE USER stream@127.0.0.1 IDENTIFIED BY '{quoted}'; "
        "GRANT ALL ON stream.* TO stream@127.0.0.1",
    )


def put_password(machine: Machine) -> None:
    """Into a file that only root can read, handed on by systemd."""
    secret = machine.disk / "etc/stream-daemon/mysql.password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    machine.shell(
        "mkdir -p /etc/systemd/system/stream-daemon.service.d\n"
        "printf '[Service]\\nLoadCredential=mysql:/etc/stream-daemon/mysql.password\\n' "
        ">/etc/systemd/system/stream-daemon.service.d/mysql.conf\n"
        "systemctl daemon-reload"
    )


def rows(machine: Machine) -> list[str]:
    """What MariaDB has; nothing while there is no table."""
    query = "SELECT raw FROM stream.records"
    done = machine.run("mysql", "-N", "-B", "--raw", "-e", query, check=False)
    return done.stdout.splitlines()
