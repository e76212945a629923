"""The control socket: one line each way, whoever is at the other end and however it behaves."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import control
from appliance.addresses import SOCKET_PATH_BYTES_MAX
from appliance.control import Client, ControlServer, NotRunning, ask, connect, converse, peer_pid
from appliance.errors import ConfigError

SOON_S = 0.2
ENOUGH_S = 10.0
NOBODY = 65534


@pytest.fixture
def path(short_dir: Path) -> Path:
    return short_dir / "control.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    server = ControlServer(path)
    yield server
    server.close()


def pair() -> tuple[Client, socket.socket]:
    """A client as the parent has it, and its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.settimeout(ENOUGH_S)
    return Client(ours), theirs


def served(server: ControlServer, serve: Callable[[Client], None]) -> threading.Thread:
    """The parent's loop for one client, in a thread."""

    def loop() -> None:
        client = None
        while client is None:
            client = server.accept()
        serve(client)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    return thread


def echo(client: Client) -> None:
    request = None
    while request is None and not client.closed:
        request = client.request()
    client.answer({"heard": request})


# ── both ends ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("request_", [{}, {"verb": "status"}, {"verb": "ä\n😀", "n": [1, None]}])
def test_what_is_asked_is_answered(
    server: ControlServer, path: Path, request_: dict[str, Any]
) -> None:
    thread = served(server, echo)
    assert ask(path, request_) == {"heard": request_}
    thread.join(ENOUGH_S)


def test_the_peer_is_who_listens(server: ControlServer, path: Path) -> None:
    with connect(path) as connection:
        assert peer_pid(connection) == os.getpid()


def test_the_socket_is_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        server = ControlServer(path)
        assert os.umask(0) == 0  # and the umask is as it was
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    server.close()


def test_it_takes_the_place_of_a_dead_one(path: Path) -> None:
    dead = ControlServer(path)
    dead.close(unlink=False)
    assert path.exists()
    with pytest.raises(NotRunning):
        connect(path)
    living = ControlServer(path)
    with connect(path):
        pass
    living.close()
    assert not path.exists()
    living.close()  # twice is fine


def test_nobody_waits_at_the_server(server: ControlServer) -> None:
    assert server.accept() is None


# ── the client's end ────────────────────────────────────────────────────────────────────


def test_nobody_is_there(path: Path) -> None:
    for place in (path, path.parent / "no" / "such" / "folder", path.parent / "file" / "x"):
        (path.parent / "file").touch()
        with pytest.raises(NotRunning) as raised:
            ask(place, {})
        assert str(place) in raised.value.message


def test_no_answer_in_time(server: ControlServer, path: Path) -> None:
    with pytest.raises(TimeoutError):
        ask(path, {"verb": "status"}, SOON_S)


def test_nobody_is_let_in(server: ControlServer, path: Path) -> None:
    """A parent that is stopped takes nobody in, and its backlog is full one day."""
    waiting = [connect(path, SOON_S) for _ in range(control.CLIENTS_MAX)]
    with pytest.raises(TimeoutError), connect(path, SOON_S), connect(path, SOON_S):
        pass
    for connection in waiting:
        connection.close()


@pytest.mark.parametrize("said", [b"", b'{"exit": 0', b'{"exit"'])
def test_it_ends_without_a_whole_answer(said: bytes) -> None:
    """Killed while it wrote its answer: half an answer is none."""
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs, pytest.raises(NotRunning):
        converse(ours, {"verb": "stop"})


def test_it_ends_before_it_is_asked() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(NotRunning):
        converse(ours, {"verb": "stop"})


def test_a_socket_of_somebody_else(server: ControlServer, path: Path) -> None:
    path.chmod(0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(NOBODY)  # root may connect to everything
            connect(path)
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("length", [107, 108])
def test_a_path_that_is_too_long(length: int) -> None:
    path = Path("/" + "x" * (length - 3) + "ä")
    assert len(os.fsencode(path)) == length
    if length <= SOCKET_PATH_BYTES_MAX:
        control.check_path(path)
        return
    for act in (control.check_path, ControlServer, connect):
        with pytest.raises(ConfigError, match="108 bytes are too many") as raised:
            act(path)
        assert "shorter" in raised.value.hint


# ── the parent's end ────────────────────────────────────────────────────────────────────


def test_a_request_is_there_when_its_line_is_whole() -> None:
    client, theirs = pair()
    assert (client.request(), client.closed) == (None, False)  # nothing came yet
    theirs.sendall(b'{"verb": ')
    assert (client.request(), client.closed) == (None, False)
    theirs.sendall(b'"status"}')
    assert (client.request(), client.closed) == (None, False)
    theirs.sendall(b"\nand more\n")
    assert (client.request(), client.closed) == ({"verb": "status"}, False)
    client.close()


@pytest.mark.parametrize(
    "line", [b"nonsense", b"", b"[]", b"null", b"5", b'"stop"', b"\xff", b"{", b"[" * 50_000]
)
def test_nonsense_is_an_empty_request(line: bytes) -> None:
    client, theirs = pair()
    theirs.sendall(line + b"\n")
    request = client.request()
    while request is None and not client.closed:
        request = client.request()
    assert request == {}
    client.close()


def test_who_hangs_up_or_never_ends_asks_nothing() -> None:
    client, theirs = pair()
    theirs.sendall(b'{"verb": "stop"}')
    theirs.close()
    assert [client.request(), client.request()] == [None, None]
    assert client.closed
    client, theirs = pair()
    theirs.setblocking(False)
    while not client.closed:
        try:
            theirs.send(b"x" * 4096)
        except BlockingIOError:
            pass
        assert client.request() is None
    client.close()


def test_an_answer_is_a_line_and_the_end() -> None:
    client, theirs = pair()
    client.answer({"exit": 0})
    assert client.closed
    assert json.loads(theirs.makefile("rb").read()) == {"exit": 0}


def test_who_left_gets_no_answer_and_does_no_harm() -> None:
    client, theirs = pair()
    theirs.close()
    client.answer({"exit": 0})
    assert client.closed


def test_who_does_not_read_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT_S", SOON_S)
    client, theirs = pair()
    client.answer({"long": "x" * 10_000_000})
    assert client.closed
    theirs.close()
