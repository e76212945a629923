"""Another configuration beside the one that runs: its addresses and secrets, over real sockets."""

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.app import App
from appliance.child import Child, ChildSpec
from appliance.config import parse
from appliance.counters import Board
from appliance.errors import AddressError, ConfigError, InstanceError
from appliance.fdnames import Inherited
from appliance.instance import Instance
from appliance.reloading import Candidate
from appliance.renewal import Renewer
from tests.ports import free_port

REDIS = '[queue]\nurl = "redis://localhost:1"\n'


class NotingHolder:
    """Holds nothing, but knows what it is told to hold: each socket once, as systemd does."""

    holds = True

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def keep(self, name: str, thing: Any) -> None:
        inode = os.fstat(thing.fileno()).st_ino
        assert inode not in self.kept.values(), f"{name} is held already, under another name"
        self.kept[name] = inode

    def release(self, name: str) -> None:
        del self.kept[name]


class Place:
    """An app with its collectors' specs, and reloads of it without processes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.instance = Instance(directory / "stream")
        self.instance.make()
        self.holder = NotingHolder()
        self.inherited = Inherited()
        self.text = ""
        self.children: dict[str, Child] = {}
        self.logs: list[str] = []

    def start(self, text: str) -> None:
        self.text = text + REDIS
        app = App(self.config(), self.instance, holder=self.holder, inherited=self.inherited)
        self.renewer = Renewer(app, self.config, lambda config: self.logs.append(config.log.level))
        for name in app.config.sources:
            self.adopt(app.collector_spec(name))

    def config(self) -> Any:
        return parse(self.text, "test.toml")

    def adopt(self, spec: ChildSpec) -> None:
        self.children[spec.name] = Child(spec, Board().slot(spec.name))
        self.children[spec.name].began = True

    def candidate(self, text: str) -> Candidate:
        self.text = text + REDIS
        return self.renewer()

    def reload(self, text: str) -> None:
        """All that `Reloading` does, in its order."""
        new = self.candidate(text)
        new.open()
        new.take_over()
        removed = [self.children.pop(name) for name in new.plan.removed]
        new.relisten(removed)
        for name in (*new.plan.collectors, *new.plan.added):
            self.adopt(new.collector(name))
        for child in removed:
            if child.spec.acceptor:
                child.spec.acceptor.close()

    def acceptor(self, name: str) -> Any:
        return self.children[name].spec.acceptor

    def takes(self, name: str) -> int:
        """How many connections the source has, once it has taken those who wait."""
        acceptor = self.acceptor(name)
        for listener in acceptor.listeners:
            acceptor.accept(listener)
        return len(acceptor.connections)

    def close(self) -> None:
        for child in self.children.values():
            if child.spec.acceptor:
                child.spec.acceptor.close()


@pytest.fixture
def place(short_dir: Path) -> Iterator[Place]:
    made = Place(short_dir)
    yield made
    made.close()
    assert not made.holder.kept, "nothing is held for nobody"


@pytest.fixture
def senders() -> Iterator[list[socket.socket]]:
    made: list[socket.socket] = []
    yield made
    for one in made:
        one.close()


def tcp(name: str, port: int, more: str = "") -> str:
    return f'[source.{name}]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{more}\n'


def unix(name: str, path: Path, more: str = "") -> str:
    return f'[source.{name}]\ntype = "unix"\nlisten = "{path}"\n{more}\n'


def send_to(senders: list[socket.socket], where: int | Path) -> None:
    if isinstance(where, int):
        senders.append(socket.create_connection(("127.0.0.1", where), 5))
    else:
        senders.append(socket.socket(socket.AF_UNIX))
        senders[-1].connect(str(where))


def listening(place: Place) -> list[str]:
    """What is held of listening sockets, without their cookies."""
    return sorted(name.rpartition(".")[0] for name in place.holder.kept if ".listen." in name)


def test_another_address_takes_those_who_wait_at_the_old_one(
    place: Place, senders: list[socket.socket]
) -> None:
    old, new = free_port(), free_port()
    place.start(tcp("a", old))
    send_to(senders, old)
    assert place.takes("a") == 1
    send_to(senders, old)
    place.reload(tcp("a", new))
    assert len(place.acceptor("a").connections) == 2
    send_to(senders, new)
    assert place.takes("a") == 3
    with pytest.raises(ConnectionRefusedError):
        send_to(senders, old)
    assert listening(place) == ["a.listen"]
    assert len(place.holder.kept) == 4


def test_a_source_gets_another_name_and_nobody_is_refused_meanwhile(
    place: Place, senders: list[socket.socket]
) -> None:
    port, path = free_port(), place.directory / "s"
    place.start(tcp("a", port) + unix("b", path))
    inode = path.stat().st_ino
    new = place.candidate(tcp("c", port) + unix("d", path, 'mode = "0600"'))
    new.open()
    for where in (port, path):
        send_to(senders, where)  # at any moment somebody listens
    new.close()
    assert path.stat().st_ino == inode, "what was not opened for it is not removed with it"
    place.reload(tcp("c", port) + unix("d", path))
    for where in (port, path):
        send_to(senders, where)
    assert [place.takes(name) for name in "cd"] == [1, 1]
    assert path.stat().st_ino == inode
    assert listening(place) == ["c.listen", "d.listen"]


def test_two_sources_exchange_their_addresses(place: Place, senders: list[socket.socket]) -> None:
    ports = free_port(), free_port()
    place.start(tcp("a", ports[0]) + tcp("b", ports[1]))
    place.reload(tcp("a", ports[1]) + tcp("b", ports[0]))
    send_to(senders, ports[1])
    assert [place.takes("a"), place.takes("b")] == [1, 0]


def test_an_address_that_is_taken_keeps_all_as_it_was(
    place: Place, senders: list[socket.socket]
) -> None:
    ports, path = [free_port(), free_port()], place.directory / "s"
    place.start(tcp("a", ports[0]))
    before, listeners = dict(place.holder.kept), list(place.acceptor("a").listeners)
    descriptors = set(os.listdir("/proc/self/fd"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        for text in (
            tcp("a", ports[0], "connections_max = 7") + unix("b", path) + tcp("c", taken),
            tcp("z", ports[0]) + unix("b", path) + tcp("c", taken),
            tcp("a", taken) + unix("b", path),
        ):
            new = place.candidate(text)
            with pytest.raises(AddressError, match=f"127.0.0.1:{taken}"):
                new.open()
            assert not path.exists()
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert (place.holder.kept, place.acceptor("a").listeners) == (before, listeners)
    send_to(senders, ports[0])
    assert place.takes("a") == 1


def test_connections_that_are_more_than_allowed_now_stay(
    place: Place, senders: list[socket.socket]
) -> None:
    port = free_port()
    place.start(tcp("a", port))
    for _ in range(3):
        send_to(senders, port)
    assert place.takes("a") == 3
    place.reload(tcp("a", port, "connections_max = 2"))
    send_to(senders, port)
    assert place.takes("a") == 3
    assert not place.acceptor("a").has_room


def test_the_mode_of_a_socket_file_is_set_and_the_file_stays(place: Place) -> None:
    path = place.directory / "s"
    place.start(unix("a", path))
    inode = path.stat().st_ino
    place.reload(unix("a", path, 'mode = "0600"'))
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (inode, 0o600)
    place.reload(unix("a", place.directory / "t"))
    assert not path.exists()


def test_the_file_of_a_socket_unit_is_left_to_it(
    place: Place, senders: list[socket.socket]
) -> None:
    path, port = place.directory / "s", free_port()
    with socket.socket(socket.AF_UNIX) as unit, socket.create_server(("127.0.0.1", port)) as other:
        unit.bind(str(path))
        unit.listen()
        for name, one in (("any.socket", unit), ("t", other)):
            place.inherited.add(name, one.dup())
        place.start(unix("a", path) + tcp("t", free_port()))
        mode = path.stat().st_mode
        more = 'connections_max = 7\nmode = "0600"'
        place.reload(unix("b", path, more) + tcp("t", free_port(), "connections_max = 7"))
        for where in (path, port):
            send_to(senders, where)
        assert [place.takes(name) for name in "bt"] == [1, 1]
        assert path.stat().st_mode == mode
        place.close()
        assert path.exists()


def test_without_a_descriptor_all_stays_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    place.start(tcp("a", port))
    new = place.candidate(tcp("a", port, "connections_max = 7"))
    listeners = list(place.acceptor("a").listeners)

    def refuse(_self: socket.socket) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "dup", refuse)
        with pytest.raises(AddressError, match="Too many open files"):
            new.open()
    assert place.acceptor("a").listeners == listeners


def test_a_file_that_somebody_has_removed_is_made_again(
    place: Place, senders: list[socket.socket]
) -> None:
    path = place.directory / "s"
    place.start(unix("a", path))
    path.unlink()
    place.reload(unix("a", path, 'mode = "0600"'))
    send_to(senders, path)
    assert place.takes("a") == 1


def test_room_for_more_descriptors_than_there_may_be_keeps_all_as_it_was(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    place.start(tcp("a", port))
    monkeypatch.setattr("resource.getrlimit", lambda _which: (1024, 1024))
    with pytest.raises(InstanceError, match="raise it"):
        place.candidate(tcp("a", port, "connections_max = 100000")).open()


# ── secrets and rules ───────────────────────────────────────────────────────────────────

MYSQL = '[store]\nurl = "mysql://u@localhost:1/d"\npassword = {{ {} }}\n'


def test_a_secret_in_a_variable_is_that_of_the_start(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_SECRET", "one")
    store = MYSQL.format('env = "DB_SECRET"')
    place.start(tcp("a", free_port()) + store)
    assert "DB_SECRET" not in os.environ
    text = place.text.removesuffix(REDIS)
    assert place.candidate(text).plan.changes == ()
    changed = place.candidate(text + 'table = "other"\n')
    assert changed.plan.changes == ("store.table",)


def test_a_secret_in_a_file_is_read_again(place: Place) -> None:
    secret = place.directory / "secret"
    secret.write_text("one")
    text = tcp("a", free_port()) + MYSQL.format(f'file = "{secret}"')
    place.start(text)
    secret.write_text("two")
    assert place.candidate(text).plan.changes == ("store.password (the secret itself)",)
    place.reload(text)
    assert place.candidate(text).plan.changes == ()
    secret.unlink()
    with pytest.raises(ConfigError, match=os.strerror(errno.ENOENT)):
        place.candidate(text)


def test_frames_of_a_source_that_is_gone_are_stored_by_its_last_rules(place: Place) -> None:
    include = 'format = "json"\ninclude = { path = "a", any = ["b"] }\n'
    kept = tcp("a", free_port())
    place.start(kept + tcp("b", free_port(), include))
    place.reload(kept)
    made = {name: place.renewer.app._maker(name) for name in ("b", "unknown")}
    assert [len(maker._filters) for maker in made.values()] == [1, 0]
    assert [maker._reader._is_json for maker in made.values()] == [True, False]


def test_the_log_is_set_up_only_where_it_has_changed(place: Place) -> None:
    text = tcp("a", free_port())
    place.start(text)
    place.reload("drain_s = 9\n" + text)
    assert place.logs == []
    place.reload(text + '[log]\nlevel = "debug"\n')
    assert place.logs == ["debug"]
