"""Held sources as users meet them: a thousand senders, over-long records, the socket's file.

Each over TCP and over a Unix socket.
"""

import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import find_service
from tests.ports import free_port
from tests.system.daemon import READY_S, STOP_S, Daemon, Where, connect, send_and_close, until
from tests.system.killer import self_kills
from tests.system.records import Records
from tests.system.stores import Sqlite

MIB = 1024**2
CONNECTIONS = 1000
RECORDS_EACH = 3
SLOW_SENDERS = 10
PIECE_BYTES = 256 * 1024
KEPT_BYTES = 64 * 1024
STORED_S = 90.0
KILLS = 10


@pytest.fixture(params=["tcp", "unix"])
def where(request: pytest.FixtureRequest, short_dir: Path) -> Where:
    """An address to listen on."""
    return free_port() if request.param == "tcp" else f"{short_dir}/s"


def source(where: Where, more: str = "") -> str:
    """A source that listens there."""
    kind, listen = ("tcp", f"127.0.0.1:{where}") if isinstance(where, int) else ("unix", where)
    return f'[source.s]\ntype = "{kind}"\nlisten = "{listen}"\n{more}\n'


@pytest.fixture
def senders(where: Where) -> Iterator[list[socket.socket]]:
    """Connections of a test, closed at its end."""
    made: list[socket.socket] = []
    yield made
    for connection in made:
        connection.close()


def test_a_thousand_connections_at_once(
    where: Where, senders: list[socket.socket], seed: int
) -> None:
    records = Records(seed, length_max=300)
    with Daemon(source(where)) as daemon:
        senders += [connect(where) for _ in range(CONNECTIONS)]
        until(
            lambda: daemon.status()["sources"]["s"]["connections"] == CONNECTIONS,
            READY_S,
            "all connections",
        )
        for _ in range(RECORDS_EACH):
            for connection in senders:
                line = records.block(1)
                connection.sendall(line[:9])
                connection.sendall(line[9:])
        for connection in senders:
            connection.shutdown(socket.SHUT_WR)
        daemon.until_stored(CONNECTIONS * RECORDS_EACH, STORED_S)
        records.check(Sqlite().raws(daemon), records.sent)
        until(lambda: daemon.status()["sources"]["s"]["connections"] == 0, READY_S, "their ends")
        assert daemon.stop() == 0


def test_ten_over_long_records_from_slow_senders_while_the_collector_is_killed(
    where: Where, senders: list[socket.socket], seed: int
) -> None:
    """5 MiB each, where 1 MiB is the limit."""
    steps = dict.fromkeys(("peeked", "noted", "marked", "written", "emptied", "kept", "done"), 0.02)
    with Daemon(source(where), crash=self_kills(steps, KILLS, seed)) as daemon:
        senders += [connect(where) for _ in range(SLOW_SENDERS)]
        for number, connection in enumerate(senders):
            connection.sendall(b"before %d\n" % number)
        for _ in range(5 * MIB // PIECE_BYTES):
            for number, connection in enumerate(senders):
                connection.sendall(b"%d" % number * PIECE_BYTES)
        for number, connection in enumerate(senders):
            connection.sendall(b"\nbehind %d\n" % number)
        daemon.until_stored(3 * SLOW_SENDERS, STORED_S)
        wanted = [b"%s %d" % (word, n) for word in (b"before", b"behind") for n in range(10)]
        assert sorted(Sqlite().raws(daemon)) == wanted
        dead = Sqlite().rows(daemon, "SELECT raw, code FROM stream_dead ORDER BY raw")
        assert dead == [(b"%d" % n * KEPT_BYTES, "too long") for n in range(SLOW_SENDERS)]
        assert len(daemon.crashes()) > 2
        assert daemon.stop() == 0


def test_records_longer_than_what_the_kernel_holds(where: Where) -> None:
    """4 MiB each, and the limit to it, from a sender with the usual buffers."""
    records = [bytes([letter]) * (4 * MIB - 1) for letter in b"abc"]
    limits = 'record_bytes_max = "4MiB"\n'
    with Daemon(source(where, limits)) as daemon:
        send_and_close(where, [record + b"\n" for record in records])
        daemon.until_stored(len(records))
        stored = list(Sqlite().raws(daemon))
        assert [records.index(raw) for raw in stored] == [0, 1, 2]
        assert not list((daemon.directory / "state").glob("*/sources/*.beginnings/*"))
        assert daemon.stop() == 0


# ── the socket's file ───────────────────────────────────────────────────────────────────


def test_the_file_is_there_while_it_runs(short_dir: Path) -> None:
    path = short_dir / "s"
    with Daemon(source(str(path), 'mode = "0666"')) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        status = daemon.status()["sources"]["s"]
        assert (status["type"], status["held"]) == ("unix", True)
        daemon.kill_child(status["pid"])
        send_and_close(str(path), [b"a\n"])
        daemon.until_stored(1)
        assert daemon.stop() == 0
        assert not path.exists()


def test_a_killed_parent_leaves_the_file_and_the_next_start_replaces_it(short_dir: Path) -> None:
    path = short_dir / "s"
    with Daemon(source(str(path))) as daemon:
        daemon.kill_parent()
        assert path.exists()
        daemon.start()
        send_and_close(str(path), [b"a\n"])
        daemon.until_stored(1)
        assert daemon.stop() == 0


def test_where_somebody_listens_a_start_is_refused(short_dir: Path) -> None:
    path = short_dir / "s"
    with Daemon(source(str(path))):
        other = Daemon('name = "other"\n' + source(str(path)))
        done = other.run("collect")
        assert done.returncode == 69
        assert f"can't listen on {path}: another process listens there" in done.stderr
        assert path.exists()
        send_and_close(str(path), [b"a\n"])


def test_an_unknown_owner_is_an_error_of_the_configuration(short_dir: Path) -> None:
    daemon = Daemon(source(f"{short_dir}/s", 'owner = "nobody-of-that-name"'))
    done = daemon.run("collect")
    assert done.returncode == 78
    assert "no such user or group" in done.stderr
    assert "getent passwd" in done.stderr


@pytest.mark.parametrize("command", ["nc -NU {path}", "socat - UNIX-CONNECT:{path}"])
def test_programs_that_send_to_a_unix_socket(command: str, short_dir: Path) -> None:
    find_service(command.split()[0])
    path = f"{short_dir}/s"
    with Daemon(source(path)) as daemon:
        line = f"seq 1 2000 | {command.format(path=path)}"
        subprocess.run(["bash", "-o", "pipefail", "-c", line], check=True, timeout=STOP_S)
        daemon.until_stored(2000)
        assert sorted(map(int, Sqlite().raws(daemon))) == list(range(1, 2001))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_who_waits_at_the_socket_when_the_stop_comes_is_heard(
    number: signal.Signals, short_dir: Path
) -> None:
    path = f"{short_dir}/s"
    with Daemon(source(path, "close_wait_s = 0.5")) as daemon:
        assert daemon.process
        daemon.signal(signal.SIGSTOP)
        with connect(path) as early:
            early.sendall(b"waiting\n")
            daemon.signal(number)
            daemon.signal(signal.SIGCONT)
            assert daemon.wait() == 0, daemon.said()
        print(daemon.said())
        assert not Path(path).exists()
        daemon.start()
        daemon.until_stored(1)
        assert list(Sqlite().raws(daemon)) == [b"waiting"]


# ── a server at a socket ────────────────────────────────────────────────────────────────


def test_a_server_at_a_unix_socket_is_connected_to_again_while_the_collector_is_killed(
    short_dir: Path, seed: int
) -> None:
    path, records = short_dir / "s", Records(seed, long_every=50)
    config = f'[source.s]\ntype = "unix"\nconnect = "{path}"\n'
    steps = dict.fromkeys(("shared", "connected", "peeked", "pushed", "emptied", "kept"), 0.1)
    with Daemon(config, crash=self_kills(steps, KILLS, seed)) as daemon:
        for _ in range(3):
            with served(path) as connection:
                for piece in records.pieces(4 * MIB):
                    connection.sendall(piece)
        until(lambda: len(list(Sqlite().raws(daemon))) >= records.sent, STORED_S, "all records")
        records.check(Sqlite().raws(daemon), records.sent)
        awaited = f"a connection to {path}: No such file or directory"
        until(lambda: daemon.status()["sources"]["s"]["waiting_for"] == awaited, STORED_S, awaited)
        assert len(daemon.crashes()) == KILLS
        daemon.stop()


@contextmanager
def served(path: Path) -> Iterator[socket.socket]:
    """The connection of the first one who comes; nobody else finds the server."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.settimeout(READY_S)
        listener.listen()
        connection, _address = listener.accept()
    path.unlink()
    with connection:
        connection.settimeout(READY_S)
        yield connection
