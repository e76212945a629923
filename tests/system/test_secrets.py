"""A password is nowhere to be seen, wherever it comes from, also while it is the wrong one.

Each has a part made at random, so that it is found in whatever way the rest is escaped.
"""

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database_server import Database
from tests.ports import free_port
from tests.system.daemon import Daemon, send_and_close, until

SEEN_S = 20.0


@pytest.mark.parametrize(
    ("kind", "reference"), [("mariadb", "env"), ("mysql", "file"), ("mysql", "cred")]
)
def test_a_password_works_and_is_never_shown(
    kind: str, reference: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    database: Database = request.getfixturevalue(f"{kind}_database")
    mark = uuid.uuid4().hex
    secret, port = f'it\'s "{mark}" 50% #hash \\back é🏈', free_port()
    (tmp_path / "secret").write_text(secret + "\n")
    environ = {
        # Else setproctitle would wipe it, by chance, since nothing has changed the environment.
        "env": {"DB_SECRET": secret, "SPT_NOENV": "1"},
        "file": {},
        "cred": {"CREDENTIALS_DIRECTORY": str(tmp_path)},
    }[reference]
    where = {"env": "DB_SECRET", "file": str(tmp_path / "secret"), "cred": "secret"}[reference]
    config = (
        'name = "secretive"\nsubscribers = 1\nlog = { level = "debug" }\n'
        f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'[store]\nurl = "{database.url()}"\npassword = {{ {reference} = "{where}" }}\n'
    )
    database.run("CREATE USER secretive@'%' IDENTIFIED BY 'another'")
    database.run(f"GRANT ALL ON {database.name}.* TO secretive@'%'")
    config = config.replace("stream@", "secretive@")
    try:
        with Daemon(config, environ=environ) as daemon:
            send_and_close(port, [b"one record\n"])
            until(lambda: "Access denied" in daemon.run("status").stdout, SEEN_S, "the refusal")
            look_everywhere(daemon, mark)
            quoted = secret.replace("\\", "\\\\").replace("'", "''")
            database.run(f"ALTER USER secretive@'%' IDENTIFIED BY '{quoted}'")
            daemon.until_stored(1)
            subscriber = daemon.children()["stream-daemon secretive subscriber 1"]
            daemon.kill_child(subscriber)  # its successor is forked from what the parent still has
            until(lambda: subscriber not in daemon.child_pids(), SEEN_S, "the successor")
            send_and_close(port, [b"another one\n"])
            daemon.until_stored(2)
            daemon.signal(signal.SIGUSR2)
            look_everywhere(daemon, mark)
            assert daemon.stop() == 0
            assert mark not in daemon.said()
    finally:
        database.run("DROP USER secretive@'%'")


def look_everywhere(daemon: Daemon, mark: str) -> None:
    """See that the mark is in nothing that the instance shows or writes."""
    assert daemon.process
    pids = [daemon.process.pid, *daemon.child_pids()]
    assert len(pids) >= 5, "the parent, recovery, collector, subscriber, server"
    for pid in pids:
        for name in ("cmdline", "environ", "comm", "status", "maps"):
            assert mark.encode() not in Path(f"/proc/{pid}/{name}").read_bytes(), (pid, name)
    for command in (["ps", "-ef"], ["ps", "auxeww"]):
        listed = subprocess.run(command, capture_output=True, check=True).stdout
        assert mark.encode() not in listed, command
    for verb in (["status"], ["status", "--json"], ["running"]):
        done = daemon.run(*verb)
        assert mark not in done.stdout + done.stderr, verb
    assert mark not in daemon.said()
    for path in files(daemon.directory):
        assert mark.encode() not in path.read_bytes(), path


def files(folder: Path) -> Iterator[Path]:
    """Every file that the instance keeps."""
    for directory, _, names in os.walk(folder):
        yield from filter(Path.is_file, (Path(directory, name) for name in names))
