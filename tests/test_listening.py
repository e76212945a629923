"""Listening for a source at what a predecessor has left."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.errors import AddressError
from appliance.settings import SocketSource, TcpSource, UnixSource
from appliance.sources import tcp, unix
from appliance.sources.listening import belongs_to, close_unused, is_left, listen
from tests.ports import free_port


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def at(address: str) -> SocketSource:
    return TcpSource(listen=address)


def waits(listener: socket.socket, stack: ExitStack) -> None:
    """Somebody connects, whom nobody has accepted yet."""
    client = stack.enter_context(socket.socket(listener.family))
    client.connect(listener.getsockname())


def same(one: socket.socket, other: socket.socket) -> bool:
    return os.fstat(one.fileno()).st_ino == os.fstat(other.fileno()).st_ino


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "0.0.0.0"])
def test_an_address_that_is_left_is_taken_over_with_who_waits(host: str, stack: ExitStack) -> None:
    address = f"{host}:{free_port()}"
    try:
        first = tcp.listen(address)
    except AddressError:
        pytest.skip(f"this machine has no {host}")
    left = [stack.enter_context(one.dup()) for one in first]
    other = stack.enter_context(tcp.listen("127.0.0.1:0")[0])
    left.insert(0, other)
    for one in first:
        waits(one, stack)
        one.close()
    assert is_left(at(address), left)
    again = listen(at(address), left)
    assert left == [other]
    assert len(again.sockets) == len(first)
    for one in again.sockets:
        connection, _ = stack.enter_context(one).accept()
        connection.close()
        assert not one.getblocking()


def test_an_address_that_isnt_left_is_new(stack: ExitStack) -> None:
    left = [stack.enter_context(tcp.listen("127.0.0.1:0")[0])]
    address = f"127.0.0.1:{free_port()}"
    assert not is_left(at(address), left)
    [new] = listen(at(address), left).sockets
    stack.enter_context(new)
    assert len(left) == 1


def test_a_unix_socket_is_taken_over_and_its_mode_is_the_new_one(
    short_dir: Path, stack: ExitStack
) -> None:
    path = f"{short_dir}/s"
    [one] = unix.listen(path, "0600", None)
    waits(one, stack)
    left = [one]
    source = UnixSource(listen=path, mode="0666")
    assert is_left(source, left)
    [again] = listen(source, left).sockets
    assert same(stack.enter_context(again), one)
    assert left == []
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    connection, _ = again.accept()
    connection.close()


def test_a_unix_socket_that_nobody_finds_any_more_is_made_anew(
    short_dir: Path, stack: ExitStack
) -> None:
    path = f"{short_dir}/s"
    [one] = unix.listen(path, "0600", None)
    os.unlink(path)
    left = [one]
    own = listen(UnixSource(listen=path), left)
    [again] = own.sockets
    waits(stack.enter_context(again), stack)
    assert left == []
    assert one.fileno() == -1, "closed"
    own.forget()
    assert not os.path.exists(path)


def test_what_nobody_listens_at_any_more_is_closed_and_its_file_removed(short_dir: Path) -> None:
    [one] = unix.listen(f"{short_dir}/s", "0600", None)
    [other] = tcp.listen("127.0.0.1:0")
    [third] = unix.listen(f"{short_dir}/t", "0600", None)
    os.unlink(f"{short_dir}/t")
    close_unused([one, other, third])
    assert [one.fileno(), other.fileno(), third.fileno()] == [-1, -1, -1]
    assert not os.listdir(short_dir)


def test_a_connection_belongs_to_a_source_of_its_kind(stack: ExitStack) -> None:
    tcp_ends, unix_ends = tcp.connected(), unix.connected()
    for one in (*tcp_ends, *unix_ends):
        stack.enter_context(one)
    assert belongs_to(at("127.0.0.1:1"), tcp_ends[0])
    assert not belongs_to(at("127.0.0.1:1"), unix_ends[0])
    assert belongs_to(UnixSource(listen="/s"), unix_ends[0])
    assert not belongs_to(UnixSource(listen="/s"), tcp_ends[0])
