"""`check` as a user runs it: what it says of a system that works, and of one that doesn't."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.database_server import Database
from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, send_and_close, unstarted, until
from tests.system.stores import MariaDB


class Checked:
    """What `check` said, by the thing that it looked at."""

    def __init__(self, daemon: Daemon, code: int, *words: str) -> None:
        done = daemon.run("check", *words)
        assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
        self.said = done.stdout
        assert "Traceback" not in self.said
        assert self.said.startswith(f"{daemon.file} is valid.\n")

    def of(self, what: str) -> str:
        """The lines about this thing."""
        found = re.findall(rf"^{re.escape(what)}.*(?:\n  → .*)*", self.said, re.MULTILINE)
        assert found, self.said
        return "\n".join(found)


def tcp(port: int) -> str:
    return f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "there").write_bytes(b"12345")
    return tmp_path


def test_nothing_runs_and_nothing_is_there_yet(files: Path) -> None:
    config = tcp(port := free_port())
    for name in ("there", "missing"):
        config += f'[source.{name}]\ntype = "file"\npath = "{files / name}"\n'
    with unstarted(config) as daemon:
        checked = Checked(daemon, 0)
        assert f"127.0.0.1:{port} is free to listen on" in checked.of("source s")
        assert "can be read (5 bytes)" in checked.of("source there")
        assert "is not there yet" in checked.of("source missing")
        assert "collect starts the embedded server" in checked.of("queue embedded")
        assert "table records will be made" in checked.of("store embedded")
        assert "nothing is left over" in checked.of("state directory")
        assert not (daemon.directory / "state").exists(), "it changes nothing"


def test_beside_a_running_instance(files: Path) -> None:
    with Daemon(f"subscribers = 0\n{tcp(port := free_port())}") as daemon:
        send_and_close(port, [b"a\nb\n"])
        until(lambda: daemon.status()["queue"]["frames"], 10.0, "frames to wait")
        checked = Checked(daemon, 0)
        assert "the running instance has 127.0.0.1" in checked.of("source s")
        assert re.search(r"Valkey .*, 1 frames wait", checked.of("queue embedded"))
        assert daemon.status()["state"] == "healthy"
        assert daemon.stop() == 0


def test_real_servers(redis_server: PrivateRedis, mariadb_database: Database) -> None:
    store = MariaDB(mariadb_database)
    name = mariadb_database.name[:20]
    queue = f'[queue]\nurl = "{redis_server.address}"\n'
    config = f'name = "{name}"\n{tcp(port := free_port())}{queue}{store.section()}'
    with unstarted(config) as daemon:
        checked = Checked(daemon, 0)
        assert re.search(r"Redis \d.*, 0 frames wait", checked.of("queue unix:"))
        assert "table records will be made" in checked.of("store mysql:")
        assert mariadb_database.run("SHOW TABLES") == []
        assert redis_server.client().keys(f"{{{name}}}*") == []
        daemon.start()
        send_and_close(port, [b"good\n", b"\xff bad\n"])
        daemon.until_stored(1)
        assert daemon.stop() == 0
        checked = Checked(daemon, 0)
        assert "1 dead letters" in checked.of("store mysql:")
        assert "→ see: stream-daemon dead list" in checked.of("store mysql:")


def test_everything_that_fails_is_named_at_once(files: Path) -> None:
    nobody = free_port()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = (
            f'{tcp(port)}[source.dir]\ntype = "file"\npath = "{files}"\n'
            f'[queue]\nurl = "redis://127.0.0.1:{nobody}"\n'
            f'[store]\nurl = "mysql://u@127.0.0.1:{nobody}/d"\n'
        )
        with unstarted(config) as daemon:
            checked = Checked(daemon, 69)
    assert "FAILED: can't listen on" in checked.of("source s")
    assert "is a directory" in checked.of("source dir")
    assert "Connection refused" in checked.of("queue redis:")
    assert "Connection refused" in checked.of("store mysql:")
    for what in ("source s", "source dir", "queue redis:"):
        assert "\n  → " in checked.of(what), what


def test_a_type_that_the_database_does_not_know_is_the_configurations_fault() -> None:
    columns = '[store.columns]\nx = { path = "", type = "ENUM(\'a\')" }\n'
    with unstarted(tcp(free_port()) + columns) as daemon:
        assert "can't make table records" in Checked(daemon, 78).of("store embedded")


def test_what_earlier_runs_have_left(redis_server: PrivateRedis) -> None:
    with Daemon(tcp(port := free_port())) as daemon:
        send_and_close(port, [b"a\n"])
        daemon.until_stored(1)
        assert daemon.stop() == 0
        text = daemon.file.read_text().replace("[source.s]", "[source.other]")
        daemon.file.write_text(f'{text}[queue]\nurl = "{redis_server.address}"\n')
        left = Checked(daemon, 0).of("state directory")
        assert "a note of source s, which isn't configured" in left
        assert "holds what an embedded queue has left" in left
        assert "→ store it: stream-daemon drain" in left
