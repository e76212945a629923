"""rsyslog's own way from TCP into a database, to be compared with: imtcp, then ommysql.

Its configuration is rsyslog.conf beside this file; the figures in it are the best that were
found. It keeps nothing safe on the way, and parses no JSON.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from string import Template

from tests.bench.database import Database
from tests.bench.lines import Lines
from tests.bench.ways import END_S, StreamDaemon, send_and_wait
from tests.conftest import find_service, missing_service
from tests.ports import free_port
from tests.system.daemon import connect

CONFIGURATION = Path(__file__).with_name("rsyslog.conf")
UNPACKED = Path(__file__).parents[2] / ".build" / "rsyslog-mysql"  # by build/machine.sh bench
BATCH = 250
WORKERS = 4  # each with a connection of its own; what waits for a round trip of one, others use
ACCOUNT = "rsyslog"  # its password is the same
CLIENT = "[client]\ndefault-character-set = utf8mb4\n"


class Rsyslog:
    """An rsyslogd of our own."""

    table = "rsyslog"

    def __init__(self, database: Database, port: int, workers: int) -> None:
        self.name = f"rsyslog, {workers} worker{'s' if workers > 1 else ''}"
        self._database = database
        self._port = port

    def store(self, lines: Lines) -> float:
        wanted = lines.content.count
        return send_and_wait(self._port, lines, lambda: self._committed(wanted))

    def _committed(self, wanted: int) -> bool:
        """Whether all is there. Counting takes long, so it waits for the last key."""
        [(newest,)] = self._database.run(f"SELECT COALESCE(MAX(seq), 0) FROM {self.table}")
        if newest < wanted:
            return False
        return self._database.run(f"SELECT COUNT(*) FROM {self.table}") == [(wanted,)]


@contextmanager
def rsyslog(database: Database, workers: int = WORKERS) -> Iterator[Rsyslog]:
    """It, its table and its account; ended at the end."""
    program, port = find_service("rsyslogd"), free_port()
    settings = _settings(database) | {"port": str(port), "workers": str(workers)}
    _make_account(database)
    with tempfile.TemporaryDirectory(prefix="rsyslog-") as folder:
        configuration, client, log = (Path(folder, name) for name in ("conf", "client.cnf", "log"))
        client.write_text(CLIENT)
        template = Template(CONFIGURATION.read_text())
        configuration.write_text(template.substitute(settings, folder=folder))
        command = [program, "-n", "-f", configuration, "-i", Path(folder, "pid")]
        with log.open("wb") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
            try:
                connect(port).close()
                yield Rsyslog(database, port, workers)
            except BaseException:
                print(log.read_text())
                raise
            finally:
                process.terminate()
                process.wait(END_S)


def _settings(database: Database) -> dict[str, str]:
    return {
        "ommysql": str(find_ommysql()),
        "batch": str(BATCH),
        "socket": database.server.unix_socket,
        "database": database.database.name,
        "account": ACCOUNT,
        "table": Rsyslog.table,
    }


def _make_account(database: Database) -> None:
    """The table, and who writes into it: a password in rsyslog's configuration has no spaces."""
    database.make_like(Rsyslog.table, StreamDaemon.table)
    database.run(f"CREATE OR REPLACE USER {ACCOUNT}@localhost IDENTIFIED BY '{ACCOUNT}'")
    database.run(f"GRANT ALL ON {database.database.name}.* TO {ACCOUNT}@localhost")


def find_ommysql() -> Path:
    """rsyslog's module for MySQL: as it is installed, or unpacked from its package."""
    for root in (Path("/"), UNPACKED):
        for place in ("usr/lib*/rsyslog", "usr/lib*/*/rsyslog"):
            for found in root.glob(f"{place}/ommysql.so"):
                return found
    missing_service(
        "needs rsyslog's ommysql (build/machine.sh bench, or apt-get install rsyslog-mysql)"
    )
    raise AssertionError  # for ruff, which knows no NoReturn
