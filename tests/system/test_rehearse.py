"""`rehearse` as a user runs it: it finds nothing lost, and leaves nothing behind.

Beside a running instance with the embedded server and SQLite; and with MariaDB and Redis, where an
earlier rehearsal was killed with -9 in its middle.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.database_server import PASSWORD, Database
from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import PASSWORD_VARIABLE, STOP_S, Daemon, unstarted, until
from tests.system.stores import MariaDB
from tests.test_demo import processes_naming

VALUES = [
    "sent",
    "stored",
    "doubled",
    "lost",
    "kills",
    "restarts",
    "longest_pause_ms",
    "slowest_recovery_ms",
]


def sources(directory: str) -> str:
    return (
        f'[source.t]\ntype = "tcp"\nlisten = "127.0.0.1:{free_port()}"\n'
        f'[source.u]\ntype = "unix"\nlisten = "{directory}/u.sock"\n'
        f'[source.f]\ntype = "file"\npath = "{directory}/f"\n'
    )


def verdict(done: "subprocess.CompletedProcess[str]") -> dict[str, int]:
    print(done.stderr)
    assert done.returncode == 0, done.stdout
    values = dict(line.split(" ") for line in done.stdout.splitlines())
    assert [*values] == VALUES
    numbers = {name: int(value) for name, value in values.items()}
    assert numbers["sent"] == numbers["stored"] > 1000
    assert numbers["doubled"] == numbers["lost"] == 0
    assert numbers["kills"] > 0
    return numbers


def test_beside_a_running_instance(seed: int, short_dir: Path) -> None:
    (short_dir / "f").touch()
    with Daemon(sources(str(short_dir))) as daemon:
        done = daemon.run("rehearse", "--time", "4", "--restarts", "--seed", str(seed))
        numbers = verdict(done)
        assert numbers["restarts"] == 1
        assert numbers["slowest_recovery_ms"] > 0
        places = [entry.name for entry in (daemon.directory / "state").iterdir()]
        assert places == ["stream"]
        assert processes_naming("stream_rehearsal") == []
        status = daemon.status()
        assert (status["state"], status["store"]["stored"]) == ("healthy", 0)
        assert not any(source["restarts"] for source in status["sources"].values())
        assert daemon.stop() == 0


def test_after_one_that_was_killed(
    seed: int, redis_server: PrivateRedis, mariadb_database: Database, short_dir: Path
) -> None:
    queue = f'[queue]\nurl = "{redis_server.address}"\n'
    name = f"r{seed}"
    config = f'name = "{name}"\n{sources(str(short_dir))}{queue}'
    with unstarted(config + MariaDB(mariadb_database).section()) as daemon:
        words = [sys.executable, "-m", "appliance", "-c", str(daemon.file), "rehearse"]
        environ = os.environ | {PASSWORD_VARIABLE: PASSWORD}
        killed = subprocess.Popen([*words, "--time", "60"], stderr=subprocess.PIPE, env=environ)
        table = f"{name}_rehearsal_records"
        until(lambda: mariadb_database.run(f"SHOW TABLES LIKE '{table}'"), STOP_S, "its table")
        rows = f"SELECT COUNT(*) FROM {table}"
        until(lambda: mariadb_database.run(rows) > [(0,)], STOP_S, "rows")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        done = daemon.run("rehearse", "--time", "3", "--seed", str(seed))
        assert "cleaning up what a rehearsal that was killed has left" in done.stderr
        verdict(done)
        assert mariadb_database.run("SHOW TABLES") == []
        assert redis_server.client().keys(f"{{{name}_rehearsal}}*") == []
        assert processes_naming(f"{name}_rehearsal") == []
        assert [*(daemon.directory / "state").iterdir()] == []
