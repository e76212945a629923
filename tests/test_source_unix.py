"""Unix sockets as a source: marks instead of a counter, and the socket's file.

What all held sources do is in test_source_held.py.
"""

import grp
import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import AddressError, ConfigError
from appliance.sources import unix
from appliance.sources.kernel import Stretch
from appliance.sources.unix import UnixKernel
from tests.socket_place import UNIX, Place

SCRATCH_BYTES = 100


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, UNIX)
    yield made
    made.close()


# ── what was read for good ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize("read", range(1, 9))
def test_the_mark_says_how_much_is_left(read: int) -> None:
    kernel, scratch = UnixKernel(), memoryview(bytearray(SCRATCH_BYTES))
    ours, theirs = unix.connected()
    with ours, theirs:
        for piece in (b"abc", b"de", b"fgh"):
            theirs.sendall(piece)
        stretch = Stretch(0, 8, ending=False)
        kernel.peek(ours, scratch)
        assert kernel.left_of(ours, stretch) == 8, "not marked yet"
        kernel.mark(ours, 8)
        theirs.sendall(b"more")
        assert kernel.left_of(ours, stretch) == 8
        kernel.discard(ours, read, scratch)
        assert kernel.left_of(ours, stretch) == 8 - read
        assert bytes(scratch[: kernel.peek(ours, scratch)]) == b"abcdefghmore"[read:]


def test_the_rest_of_a_part_that_was_begun_is_discarded(place: Place) -> None:
    first, second = place.connect(), place.connect()
    first.sendall(b"one\n")
    second.sendall(b"two\n")
    noted = place.peek()
    place.kept[0].recv(3)  # killed in the middle of a discard that takes several reads
    assert place.born().again(noted.claim) is None
    first.sendall(b"three\n")
    second.sendall(b"four\n")
    assert sorted(place.collect().split()) == [b"four", b"three"]


def test_a_mark_that_no_note_speaks_of_is_forgotten(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"one\n")
    place.peek()
    sender.sendall(b"two\n")
    place.born().resume(None, None)
    assert place.collect() == b"one\ntwo\n"


def test_a_lone_byte_is_a_record_like_another(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"\n")
    noted = place.peek()
    assert bytes(noted.body) == b"\n"
    assert place.born().again(noted.claim) is not None
    place.source.discard(noted)
    assert place.born().again(noted.claim) is None


def test_descriptors_that_come_along_cut_nothing(place: Place) -> None:
    sender = place.connect()
    socket.send_fds(sender, [b"one\ntw"], [0])
    socket.send_fds(sender, [b"o\nthr"], [0, 1])
    sender.sendall(b"ee\n")
    assert place.collect_slowly(b"three\n") == b"one\ntwo\nthree\n"
    assert place.files() == []


def test_an_urgent_byte_is_a_byte(place: Place) -> None:
    sender = place.connect()
    sender.sendall(b"one\ntw")
    sender.send(b"o", socket.MSG_OOB)
    sender.sendall(b"\nthree\n")
    assert place.collect_slowly(b"three\n") == b"one\ntwo\nthree\n"


def test_a_sender_that_writes_byte_by_byte_fills_its_buffer_and_goes_on(place: Place) -> None:
    record = b"r" * 90 + b"\n"
    sender = place.connect()
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # as little as there is
    sender.setblocking(False)
    collected = b""
    for byte in record:
        while True:
            try:
                sender.send(bytes([byte]))
                break
            except BlockingIOError:
                collected += place.turn(0.02)
    assert place.collect_slowly(b"r\n", collected) == record


# ── the socket's file ───────────────────────────────────────────────────────────────────


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s")


def listening(path: str, mode: str = "0660", owner: str | None = None) -> socket.socket:
    (listener,) = unix.listen(path, mode, owner)
    return listener


@pytest.mark.parametrize("mode", ["0660", "0666", "0600", "700"])
def test_mode_is_that_of_the_file_whatever_the_umask_is(path: str, mode: str) -> None:
    umask = os.umask(0o027)
    try:
        with listening(path, mode):
            assert stat.S_IMODE(os.stat(path).st_mode) == int(mode, 8)
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)


def test_nobody_can_connect_before_mode_and_owner_are_set(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def spy(call: str) -> None:
        with socket.socket(socket.AF_UNIX) as caller, pytest.raises(ConnectionRefusedError):
            caller.connect(path)
        seen.append(call)

    monkeypatch.setattr(os, "chmod", lambda *_: spy("chmod"))
    monkeypatch.setattr(os, "chown", lambda *_: spy("chown"))
    with listening(path, owner=f"{os.geteuid()}"):
        assert seen == ["chown", "chmod"]
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_owner_is_that_of_the_file(path: str) -> None:
    daemon, adm = pwd.getpwnam("daemon").pw_uid, grp.getgrnam("adm").gr_gid
    for owner, ids in (
        ("daemon", (daemon, os.getegid())),
        ("daemon:adm", (daemon, adm)),
        (":adm", (os.geteuid(), adm)),
        (f"{daemon}:{adm}", (daemon, adm)),
    ):
        with listening(path, owner=owner):
            status = os.stat(path)
            assert (status.st_uid, status.st_gid) == ids


@pytest.mark.parametrize("owner", ["nobody-of-that-name", "root:no-such-group", ":no-such-group"])
def test_an_owner_that_nobody_knows_is_an_error_of_the_configuration(path: str, owner: str) -> None:
    with pytest.raises(ConfigError, match="no such user or group") as caught:
        listening(path, owner=owner)
    assert "getent" in caught.value.hint
    assert not Path(path).exists()


def test_a_refused_owner_is_a_clear_error_and_leaves_nothing(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(AddressError, match="Operation not permitted") as caught:
        listening(path, owner="daemon")
    assert "only root" in caught.value.hint
    assert not Path(path).exists()


def test_the_file_of_a_dead_process_is_replaced(path: str) -> None:
    listening(path).close()
    assert stat.S_ISSOCK(os.stat(path).st_mode), "a kill leaves it there"
    with listening(path) as listener, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
        assert listener.accept()[0].close() is None


def test_a_living_one_is_refused_and_stays(path: str) -> None:
    with listening(path) as listener:
        with pytest.raises(AddressError, match=f"{path}: another process") as caught:
            listening(path)
        assert caught.value.exit_code == 69
        listener.accept()[0].close()  # our look
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(path)


def test_a_living_one_whose_backlog_is_full_is_refused_too(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as caller:
        other.bind(path)
        other.listen(0)
        caller.connect(path)
        with pytest.raises(AddressError, match="another process"):
            listening(path)


def test_a_socket_of_another_kind_is_refused(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        with pytest.raises(AddressError, match="another process"):
            listening(path)
        assert Path(path).exists()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_deleted(path: str, kind: str, tmp_path: Path) -> None:
    if kind == "file":
        Path(path).write_text("precious")
    elif kind == "directory":
        Path(path).mkdir()
    else:
        listening(str(tmp_path / "target")).close()
        Path(path).symlink_to(tmp_path / "target")
    before = os.lstat(path)
    with pytest.raises(AddressError, match="no socket"):
        listening(path)
    assert os.lstat(path).st_ino == before.st_ino


def test_a_directory_that_is_missing_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match="No such file") as caught:
        listening(str(tmp_path / "missing" / "s"))
    assert "directory must exist" in caught.value.hint


def test_only_the_own_file_is_removed(path: str) -> None:
    with listening(path) as listener:
        remove = unix.remover([listener])
        Path(path).rename(path + ".away")
        with listening(path):
            remove()
            assert Path(path).exists(), "another process listens there by now"
        Path(path + ".away").rename(path)
        remove()
        assert not Path(path).exists()
        remove()
