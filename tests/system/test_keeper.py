"""P1 with a keeper: whichever holder of the connections is killed, no sender notices.

One TCP and one Unix connection send without a pause; each record is stored once, byte for byte.
"""

import os
import random
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from appliance import process
from tests.ports import free_port
from tests.system.daemon import READY_S, STOP_S, Daemon, connect, title_of, until
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite, StoreUnderTest, until_rows

MANY = 500
SEES_S = 10.0


class Stream:
    """An instance, and two senders that never pause."""

    def __init__(self, daemon: Daemon, store: StoreUnderTest, senders: dict[str, Sender]) -> None:
        self.daemon = daemon
        self._store = store
        self._senders = senders
        self._records = {name: sender.records for name, sender in senders.items()}

    def flows(self) -> None:
        """Something of both comes through, behind what was there."""
        before = {name: self._read(name) for name in self._records}
        for name, count in before.items():
            until(lambda name=name, count=count: self._read(name) > count, READY_S, f"more {name}")

    def _read(self, name: str) -> int:
        status = self.daemon.try_status()
        return int(status["sources"][name]["records"]) if status else 0

    def check(self) -> None:
        """Nobody was cut, and each record is there once."""
        for sender in self._senders.values():
            sender.finish()
            assert not sender.refused
        until_rows(self._store, self.daemon, sum(one.sent for one in self._records.values()))
        for name, records in self._records.items():
            records.check(self._store.raws(self.daemon, name), records.sent)

    # ── what is done to it ──────────────────────────────────────────────────────────────

    @property
    def keeper(self) -> int:
        return int(self.daemon.keeper()["pid"])

    def restart(self, *options: str) -> None:
        self.daemon.spawn(*options)
        self.until_runs()

    def until_runs(self) -> None:
        process = self.daemon.process
        assert process
        until(
            lambda: (self.daemon.try_status() or {}).get("pid") == process.pid,
            READY_S,
            f"the new instance\n{self.daemon.said()}",
        )
        self.flows()

    def kill_parent(self) -> None:
        self.daemon.keeper()
        self.daemon.kill_parent()
        self.restart("--if-needed")

    def kill_keeper(self) -> None:
        before = self.keeper
        os.kill(before, signal.SIGKILL)
        until(lambda: self.keeper != before, SEES_S, "another keeper")
        self.flows()

    def kill_keeper_and_parent(self) -> None:
        """One behind the other."""
        self.kill_keeper()
        self.kill_parent()

    def kill_keeper_and_collectors(self) -> None:
        os.kill(self.keeper, signal.SIGKILL)
        for title, pid in self.daemon.children().items():
            if "collector" in title:
                self.daemon.kill_child(pid)
        self.daemon.keeper()
        self.flows()

    def replace(self, *options: str) -> None:
        self.daemon.keeper()
        old = self.daemon.process
        assert old
        self.restart("--replace", *options)
        assert old.wait(STOP_S) == 0

    def replace_by_what_is_broken(self) -> None:
        """A configuration that doesn't parse, and one whose addresses aren't all free."""
        config, pid = self.daemon.file.read_text(), self.daemon.status()["pid"]
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            more = f'[source.more]\ntype = "tcp"\nlisten = "{address}"\n'
            for text, code in ((f"{config}[[", 78), (f"{config}{more}", 69)):
                self.daemon.file.write_text(text)
                done = self.daemon.run("collect", "--replace")
                assert done.returncode == code, done.stderr
        self.daemon.file.write_text(config)
        assert self.daemon.status()["pid"] == pid
        self.flows()

    def kill_parent_while_it_is_replaced(self) -> None:
        self.daemon.keeper()
        old, said = self.daemon.process, self.daemon.said().count("replacing the running")
        assert old
        self.daemon.spawn("--replace")
        until(
            lambda: self.daemon.said().count("replacing the running") > said, READY_S, "replacing"
        )
        old.kill()
        old.wait()
        self.until_runs()

    def fail_to_start(self) -> None:
        """An address isn't free: the keeper goes on holding, and the next start goes on."""
        self.daemon.keeper()
        config = self.daemon.file.read_text()
        self.daemon.kill_parent()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            self.daemon.file.write_text(
                f'{config}[source.more]\ntype = "tcp"\nlisten = "{address}"\n'
            )
            done = self.daemon.run("collect")
        assert done.returncode == 69, done.stderr
        assert "this start has failed: senders are cut unless another succeeds" in done.stderr
        self.daemon.file.write_text(config)
        self.restart()


@contextmanager
def streaming(store: StoreUnderTest, folder: Path, seed: int) -> Iterator[Stream]:
    port, path = free_port(), f"{folder}/s"
    config = (
        f'name = "k{seed}"\ndrain_s = 10\n[source.t]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f'[source.u]\ntype = "unix"\nlisten = "{path}"\n{store.section()}'
    )
    with ExitStack() as stack:
        daemon = stack.enter_context(Daemon(config))
        senders = {
            "t": stack.enter_context(Sender(port, Records(seed))),
            "u": stack.enter_context(Sender(path, Records(seed + 1, long_every=200))),
        }
        stream = Stream(daemon, store, senders)
        stream.flows()
        yield stream
        stream.check()
        assert daemon.stop() == 0
        leaves_nothing(daemon, f"k{seed}")
        assert not os.path.exists(path)


def leaves_nothing(daemon: Daemon, name: str) -> None:
    """No process of an instance of this name, and nothing of a keeper."""
    assert not [*(daemon.directory / "state").glob("*/keeper*")]
    titles = [title_of(int(pid)) for pid in os.listdir("/proc") if pid.isdecimal()]
    assert not [title for title in titles if title.startswith(f"stream-daemon {name}")]


KILLS: list[Callable[[Stream], None]] = [
    Stream.kill_parent,
    Stream.fail_to_start,
    Stream.kill_keeper_and_parent,
    Stream.kill_keeper_and_collectors,
]
REPLACEMENTS: list[Callable[[Stream], None]] = [
    Stream.replace,
    Stream.replace,
    Stream.replace_by_what_is_broken,
    Stream.kill_parent_while_it_is_replaced,
]


def test_any_holder_may_be_killed(short_dir: Path, seed: int) -> None:
    """But not a parent in its first moments: see "What is not promised" in docs/reliability.md."""
    with streaming(Sqlite(), short_dir, seed) as stream:
        for kill in random.Random(seed).sample(KILLS, len(KILLS)):
            print(kill.__name__)
            kill(stream)


def test_an_instance_is_replaced(mariadb_store: MariaDB, short_dir: Path, seed: int) -> None:
    with streaming(mariadb_store, short_dir, seed) as stream:
        for replace in random.Random(seed).sample(REPLACEMENTS, len(REPLACEMENTS)):
            print(replace.__name__)
            replace(stream)


def test_many_connections_outlive_parent_and_keeper() -> None:
    port = free_port()
    config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
    with Daemon(config) as daemon, ExitStack() as stack:
        senders = [stack.enter_context(connect(port)) for _ in range(MANY)]
        for number, sender in enumerate(senders):
            sender.sendall(b"%d\n" % number)
        until(lambda: daemon.keeper()["sockets"] == MANY + 1, SEES_S, "all to be kept")
        daemon.kill_parent()
        daemon.start()
        assert daemon.keeper()["sockets"] == MANY + 1
        for number, sender in enumerate(senders):
            sender.sendall(b"%d\n" % (MANY + number))
            sender.shutdown(socket.SHUT_WR)
        for sender in senders:
            sender.settimeout(STOP_S)
            assert sender.recv(1) == b"", "an end, and no reset"
        until_rows(Sqlite(), daemon, 2 * MANY)
        assert sorted(map(int, Sqlite().raws(daemon))) == [*range(2 * MANY)]
        until(lambda: daemon.keeper()["sockets"] == 1, SEES_S, "all to be released")
        assert daemon.stop() == 0


def test_a_connection_that_was_made_by_us_outlives_the_parent(seed: int) -> None:
    records = Records(seed)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with Daemon(f'[source.s]\ntype = "tcp"\nconnect = "{address}"\n') as daemon:
            connection, _ = server.accept()
            with connection:
                for _ in range(2):
                    connection.sendall(records.block(1000))
                    until(daemon.stored, READY_S, "rows")
                    assert daemon.keeper()["sockets"] == 1
                    daemon.kill_parent()
                    connection.sendall(records.block(1000))
                    daemon.start()
                server.setblocking(False)
                with pytest.raises(BlockingIOError):
                    server.accept()  # nobody has dialled again
                until_rows(Sqlite(), daemon, records.sent)
            records.check(Sqlite().raws(daemon), records.sent)
            server.close()
            assert daemon.stop() == 0


def test_who_waits_at_an_address_that_is_given_up_is_let_in() -> None:
    """And an instance that gives up leaves that to the next one."""
    old = free_port()
    source = '[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{}"\n'
    with Daemon(source.format(old)) as daemon:
        daemon.keeper()
        text = daemon.file.read_text()
        daemon.kill_parent()
        with connect(old) as sender:
            sender.sendall(b"early, and gone\n")
        away = f'[store]\nurl = "mysql://nobody@127.0.0.1:{free_port()}/nothing"\n'
        daemon.file.write_text(f"require_healthy = true\nready_s = 2\n{text}{away}")
        daemon.spawn()
        assert daemon.wait() == 69
        daemon.file.write_text(text.replace(f":{old}", f":{free_port()}"))
        daemon.start()
        daemon.until_stored(1)
        assert daemon.stop() == 0


# ── the end ─────────────────────────────────────────────────────────────────────────────


def test_stop_means_stop_also_where_only_the_keeper_is_left(short_dir: Path) -> None:
    path, name = f"{short_dir}/s", f"k{os.getpid()}"
    config = f'name = "{name}"\n[source.s]\ntype = "unix"\nlisten = "{path}"\n'
    with Daemon(config) as daemon, connect(path) as sender:
        sender.sendall(b"a\n")
        daemon.until_stored(1)
        keeper = daemon.keeper()["pid"]
        daemon.kill_parent()
        assert os.path.exists(path)
        assert daemon.run("running").returncode == 3
        done = daemon.run("stop")
        assert "its senders are cut" in done.stderr
        assert done.returncode in (0, 70), done.stderr
        assert not title_of(keeper)
        assert sender.recv(1) == b""
        assert not os.path.exists(path)
        leaves_nothing(daemon, name)


def test_where_nobody_connects_there_is_no_keeper(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a\n")
    with Daemon(f'[source.f]\ntype = "file"\npath = "{tmp_path}/in"\n') as daemon:
        daemon.until_stored(1)
        assert daemon.status()["keeper"]["pid"] is None
        old = daemon.process
        assert old
        daemon.spawn("--replace")  # nobody can be cut
        assert old.wait(STOP_S) == 0
        until(lambda: daemon.ended() or daemon.try_status(), READY_S, "its successor")
        assert daemon.stop() == 0


def test_replace_where_nothing_runs_and_what_excludes_it(short_dir: Path) -> None:
    with Daemon(f'[source.s]\ntype = "unix"\nlisten = "{short_dir}/s"\n') as daemon:
        assert daemon.stop() == 0
        assert daemon.run("collect", "--replace", "--if-needed").returncode == 64
        assert daemon.run("collect", "--replace", "--detach").returncode == 0
        first = process.lock_owner(daemon.directory / "state/stream/lock")
        daemon.keeper()
        assert daemon.run("collect", "--replace", "--detach").returncode == 0
        second = process.lock_owner(daemon.directory / "state/stream/lock")
        assert first != second
        assert daemon.run("stop").returncode == 0
