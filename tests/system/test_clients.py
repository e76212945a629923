"""Foreign senders: whatever program sends and however it cuts the bytes, each record once.

One instance takes all of it, over SQLite and over MariaDB; programs that pipe into standard
input get an instance of their own, since it ends with them.
"""

import gzip
import random
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import find_service
from tests.ports import free_port
from tests.system.daemon import (
    STOP_S,
    Daemon,
    connect,
    send_and_close,
    unstarted,
    until,
)
from tests.system.records import Records
from tests.system.stores import Sqlite
from tests.system.window import Window, shared_store

SENDERS = 200
RECORDS_EACH = 300
STDIN_BYTES = 20 * 1024**2
FILE_BYTES = 3 * 1024**2
SETTLED_S = 20.0
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time: close() resets


@pytest.fixture(scope="module", params=["sqlite", "mariadb"])
def instance(request: pytest.FixtureRequest) -> Iterator[tuple[Window, int]]:
    """A running instance (as a window onto its whole life) and its port."""
    port = free_port()
    with shared_store(request.param, request) as store:
        config = f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{store.section()}'
        with Daemon(config) as daemon:
            send_and_close(port, [b"the first makes the tables\n"])
            daemon.until_stored(1)
            yield Window(daemon, store), port
            assert daemon.stop() == 0, daemon.said()


@pytest.fixture
def port(instance: tuple[Window, int]) -> int:
    return instance[1]


@pytest.fixture
def window(instance: tuple[Window, int]) -> Window:
    """What this test alone has stored."""
    return Window(instance[0].daemon, instance[0].store)


# ── programs ────────────────────────────────────────────────────────────────────────────


PERL = (
    "perl -MIO::Socket::INET -ne 'BEGIN {{ $s = IO::Socket::INET->new("
    'PeerAddr => "127.0.0.1:{port}") or die }} print $s $_\' {file}'
)


@pytest.mark.parametrize(
    "command",
    [
        "nc -N 127.0.0.1 {port} < {file}",
        "socat -u FILE:{file} TCP:127.0.0.1:{port}",
        PERL,
    ],
    ids=["nc", "socat", "perl"],
)
def test_programs_that_send_a_file(
    window: Window, port: int, command: str, tmp_path: Path, seed: int
) -> None:
    find_service(command.split()[0])
    records = Records(seed)
    file = written(tmp_path / "file", records, FILE_BYTES)
    run_in_bash(command.format(port=port, file=file))
    window.until_settled(records.sent)
    records.check(window.raws(), records.sent)


def test_logger_sends_each_line_as_a_syslog_record(
    window: Window, port: int, tmp_path: Path, seed: int
) -> None:
    """Its header says what was asked for and nothing of the moment, so each byte is known."""
    records = Records(seed, length_max=900)
    file = tmp_path / "file"
    file.write_bytes(records.block(500))
    run_in_bash(f"logger -T -n 127.0.0.1 -P {port} --rfc5424=notime,notq,nohost -t app -f {file}")
    window.until_settled(500)
    header = b"<13>1 - - app - - - "
    stored = window.raws()
    assert all(raw.startswith(header) for raw in stored)
    records.check([raw.removeprefix(header) for raw in stored], 500)


RSYSLOG = """
global(workDirectory="{folder}" maxMessageSize="64k")
module(load="imfile" mode="inotify")
template(name="line" type="string" string="%msg%\\n")
input(type="imfile" file="{file}" tag="t" ruleset="forward")
ruleset(name="forward") {{
    action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" template="line")
}}
"""


def test_rsyslog_forwards_a_growing_file(
    window: Window, port: int, tmp_path: Path, seed: int
) -> None:
    program = find_service("rsyslogd")
    records, file, configuration = Records(seed), tmp_path / "file", tmp_path / "conf"
    file.write_bytes(records.block(1000))
    configuration.write_text(RSYSLOG.format(folder=tmp_path, file=file, port=port))
    command = [program, "-n", "-f", configuration, "-i", tmp_path / "pid"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as rsyslog:
        try:
            window.until_settled(1000)
            with file.open("ab") as growing:
                growing.write(records.block(1000))
            window.until_settled(2000)
        finally:
            rsyslog.terminate()
    records.check(window.raws(), 2000)


def test_two_hundred_connections_at_once(window: Window, port: int, seed: int) -> None:
    records = Records(seed, length_max=300)
    all_connected = threading.Barrier(SENDERS)
    failed: list[Exception] = []

    def send(sender: int) -> None:
        numbers = range(sender * RECORDS_EACH, (sender + 1) * RECORDS_EACH)
        stream = b"".join(records.line(number) + b"\n" for number in numbers)
        dice = random.Random(f"{seed} {sender}")
        try:
            with connect(port) as connection:
                all_connected.wait(STOP_S)
                while stream:
                    size = dice.randint(1, 4000)
                    connection.sendall(stream[:size])
                    stream = stream[size:]
        except (OSError, threading.BrokenBarrierError) as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(STOP_S)
    assert not failed
    window.until_settled(SENDERS * RECORDS_EACH)
    records.check(window.raws(), SENDERS * RECORDS_EACH)
    assert not window.dead()


@pytest.mark.parametrize(
    "command",
    ["zcat {file}.gz | {collect}", "cat {file} | {collect}", "{collect} < {file}"],
    ids=["zcat", "cat", "file"],
)
def test_pipes_into_standard_input(command: str, tmp_path: Path, seed: int) -> None:
    """It ends by itself, with 0, and everything is stored; the last line lacks its newline."""
    records, store = Records(seed), Sqlite()
    file = written(tmp_path / "file", records, STDIN_BYTES)
    stream = file.read_bytes().removesuffix(b"\n")
    file.write_bytes(stream)
    if "zcat" in command:
        Path(f"{file}.gz").write_bytes(gzip.compress(stream, 1))
    with unstarted('[source.s]\ntype = "stdin"\n') as daemon:
        done = daemon.run_in_shell(command, file=file)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert store.rows(daemon, "SELECT COUNT(*) FROM stream_dead") == [(0,)]
        assert list(store.raws(daemon)) == [records.line(n) for n in range(records.sent)]


# ── ways to cut the bytes ───────────────────────────────────────────────────────────────


def test_one_byte_at_a_time(window: Window, port: int, seed: int) -> None:
    records = Records(seed, length_max=200)
    stream = b"".join(records.line(number) + b"\n" for number in range(100))
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(stream)):
            connection.sendall(stream[at : at + 1])
    window.until_settled(100)
    records.check(window.raws(), 100)


def test_a_long_record_in_small_pieces_does_not_stall(window: Window, port: int) -> None:
    """Each piece is a buffer of its own in the kernel; the window must stay open."""
    record = random.Random(1).randbytes(450_000).hex().encode()
    stream = record + b"\nnext\n"
    with connect(port) as connection:
        connection.settimeout(SETTLED_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(stream), 16):
            connection.sendall(stream[at : at + 16])
    window.until_settled(2)
    assert sorted(window.raws()) == sorted([record, b"next"])


def test_who_stops_in_the_middle_of_a_record_holds_nobody_up(window: Window, port: int) -> None:
    with connect(port) as slow:
        slow.sendall(b"the beg")
        send_and_close(port, [b"quick 1\nquick 2\n"])
        window.until_settled(2)
        assert window.raws() == [b"quick 1", b"quick 2"]
        slow.sendall(b"inning\nthe n")
        window.until_settled(3)
        assert window.raws()[2:] == [b"the beginning"]
        slow.sendall(b"ext")
    window.until_settled(4)
    assert window.raws()[3:] == [b"the next"]


@pytest.mark.parametrize(
    ("stream", "stored", "blank"),
    [
        (b"a\nb", [b"a", b"b"], 0),
        (b"b", [b"b"], 0),
        (b"a\r\nb\r\n", [b"a", b"b"], 0),
        (b"a\r\nb\r", [b"a", b"b"], 0),
        (b"\na\n\n\nb\n\n", [b"a", b"b"], 4),
        (b"\r\na\r\n\r\nb\r\n\r\n", [b"a", b"b"], 3),
        (b"a\r\r\n\rb\n c \t\n", [b"a\r", b"\rb", b" c \t"], 0),
        (
            "\\n\\\\'\";--%s\n\v\f\x1c\x1d\x1e\x85\u2028\ufeff\n😀 שלום\n".encode(),
            [b"\\n\\\\'\";--%s", "\v\f\x1c\x1d\x1e\x85\u2028\ufeff".encode(), "😀 שלום".encode()],
            0,
        ),
    ],
    ids=["unfinished", "only", "crlf", "lone cr", "blank", "blank crlf", "kept", "signs"],
)
def test_what_is_a_record(
    window: Window, port: int, stream: bytes, stored: list[bytes], blank: int
) -> None:
    send_and_close(port, [stream])
    window.until_settled(len(stored))
    assert (window.raws(), window.dead()) == (stored, [])
    assert window.blank() == blank


def test_an_idle_connection_of_keep_alives_stores_nothing(window: Window, port: int) -> None:
    with connect(port) as connection:
        for number in range(5):
            connection.sendall(b"\n" if number % 2 else b"\r\n")
            status = window.daemon.status()  # takes long enough for the line to come alone
            assert status["sources"]["s"]["connections"] >= 1
        connection.sendall(b"at last\n")
        window.until_settled(1)
    assert (window.raws(), window.dead()) == ([b"at last"], [])


# ── a sender that breaks ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rest", [b"cut he", b"x", b""], ids=["a part", "one byte", "nothing"])
def test_a_reset_in_the_middle_of_a_record(window: Window, port: int, rest: bytes) -> None:
    """Whole records are stored; the rest is a dead letter, since its end never came."""
    with connect(port) as connection:
        connection.sendall(b"whole 1\nwhole 2\n" + rest)
        window.until_settled(2)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    window.until_settled(3 if rest else 2)
    until(lambda: not connections(window), SETTLED_S, "the connection to be let go")
    assert window.raws() == [b"whole 1", b"whole 2"]
    assert [(raw, code) for _, raw, code, _ in window.dead()] == ([(rest, "cut")] if rest else [])


def test_a_reset_behind_whole_records_that_were_not_read_yet(window: Window, port: int) -> None:
    """What the kernel had acknowledged before the reset is stored."""
    with connect(port) as connection:
        connection.sendall(b"a\nb\nc\nd")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    window.until_settled(4)
    assert window.raws() == [b"a", b"b", b"c"]
    assert [(raw, code) for _, raw, code, _ in window.dead()] == [(b"d", "cut")]


# ── helpers ─────────────────────────────────────────────────────────────────────────────


def run_in_bash(line: str) -> None:
    done = subprocess.run(["bash", "-c", line], timeout=STOP_S, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def written(path: Path, records: Records, size: int) -> Path:
    with path.open("wb") as file:
        for piece in records.pieces(size):
            file.write(piece)
    return path


def connections(window: Window) -> int:
    return int(window.daemon.status()["sources"]["s"]["connections"])
