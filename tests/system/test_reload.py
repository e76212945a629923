"""Reload as users do it: the file is edited while senders go on sending.

What is kept true all the time: no sender is cut, each record is stored once or filtered, under the
old rules or the new ones, byte for byte as it was sent. Senders count.
"""

import os
import random
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance import control
from tests.database_server import PASSWORD
from tests.ports import free_port
from tests.system.daemon import (
    READY_S,
    Daemon,
    connect,
    send_and_close,
    title_of,
    until,
)
from tests.system.records import Records
from tests.system.sender import Sender
from tests.system.stores import MariaDB, Sqlite

RELOAD_S = 60.0
BYTES_PER_S = 1e5
MORE = 300  # records that are stored between two reloads
KILLS = 8


class Edited(Daemon):
    """An instance whose file is made of parts that a test changes."""

    def __init__(self, **parts: str) -> None:
        self.parts = parts
        super().__init__(self._text())

    def _text(self) -> str:
        return "\n".join(self.parts.values())

    def edit(self, **parts: str) -> None:
        """Write the file anew, with these parts changed; an empty one is out."""
        self.parts |= parts
        self.file.write_text(f'state_dir = "{self.directory}/state"\n{self._text()}')

    def reload(self, **parts: str) -> dict[str, Any]:
        """Edit, then reload; the outcome."""
        self.edit(**parts)
        path = next((self.directory / "state").glob("*/control.sock"))
        return control.ask(path, {"verb": "reload"}, RELOAD_S)

    def reloads(self, **parts: str) -> list[str]:
        """The same, and it must succeed; what has changed."""
        answer = self.reload(**parts)
        assert answer["exit"] == 0, answer
        changed: list[str] = answer["changed"]
        return changed

    def is_refused(self, words: str, **parts: str) -> None:
        """The same, and it must change nothing: no process is another one, and nobody listens."""
        before, listening, old = self.pids(), self.inodes(), dict(self.parts)
        answer = self.reload(**parts)
        assert answer["exit"] == 78, answer
        assert words in answer["error"]
        assert (self.pids(), self.inodes()) == (before, listening)
        said = (self.try_status() or {})["last_error"]
        assert said.startswith("the old configuration is kept: ")
        self.edit(**old)

    def pids(self) -> set[int]:
        return {pid for pid in self.child_pids() if not title_of(pid).endswith(" reload")}

    def inodes(self) -> set[str]:
        """All sockets that the parent has open but for those of clients that come and go."""
        assert self.process
        lines = Path(f"/proc/{self.process.pid}/net/unix").read_text().splitlines()
        lines += Path(f"/proc/{self.process.pid}/net/tcp").read_text().splitlines()
        ours = set()
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                ours.add(os.readlink(link))
        listening = {line.split()[6] for line in lines if line.split()[5] == "01"}
        listening |= {line.split()[9] for line in lines if line.split()[3] == "0A"}
        return ours & {f"socket:[{inode}]" for inode in listening}

    def more(self, by: int = MORE) -> None:
        """Wait until so many records more are stored or filtered."""

        def settled() -> int:
            store = (self.try_status() or {"store": {}})["store"]
            return sum(store.get(key, 0) for key in ("stored", "filtered", "dead"))

        before = settled()
        until(lambda: settled() >= before + by, RELOAD_S, "more records")


def tcp(name: str, port: int, more: str = "") -> str:
    return f'[source.{name}]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n{more}\n'


def unix(name: str, path: str, more: str = "") -> str:
    return f'[source.{name}]\ntype = "unix"\nlisten = "{path}"\n{more}\n'


SEVENS = """exclude = { path = "", regex = '^[0-9]*7 ' }"""
WITH_FRAME = """[store.columns]
source = { meta = "source", type = "VARCHAR(32)" }
received_at = { meta = "received_at", type = "DATETIME(6)" }
raw = { path = "", type = "LONGTEXT" }
frame = { meta = "frame", type = "BIGINT" }
"""


class Rules:
    """From which record on they hold for sure: what is made later is sent later."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self.begin = self.end = 10**9

    def begins(self) -> None:
        """A reload that filters is over."""
        self.begin = self._records.sent

    def ends(self) -> None:
        """A reload that filters no more is about to begin."""
        self.end = self._records.sent


def check(records: Records, stored: list[bytes], rules: Rules) -> None:
    """Each once and as it was sent; what is missing are sevens: all that the new rules held for."""
    numbers = [int(line.split(b" ", 1)[0]) for line in stored]
    assert len(numbers) == len({*numbers}), "doubled"
    missing = {*range(records.sent)} - {*numbers}
    assert all(number % 10 == 7 for number in missing), sorted(missing)[:5]
    assert {n for n in range(rules.begin, min(rules.end, records.sent)) if n % 10 == 7} <= missing
    assert any(number % 10 == 7 for number in numbers), "it was always at work"
    assert all(line == records.line(n) for n, line in zip(numbers, stored, strict=True)), "altered"


def test_senders_go_on_while_the_file_is_edited_again_and_again(
    mariadb_store: MariaDB, short_dir: Path, seed: int
) -> None:
    port, moved, path, secret = free_port(), free_port(), f"{short_dir}/s", short_dir / "secret"
    secret.write_text(PASSWORD)
    store = mariadb_store.section().partition("password")[0]
    store += f'password = {{ file = "{secret}" }}\n'
    dice = random.Random(seed)
    by_tcp, by_unix = Records(seed, 400), Records(seed + 1, 400)
    rules = {"t": Rules(by_tcp), "u": Rules(by_unix)}
    with (
        Edited(
            top="subscribers = 2", t=tcp("t", port), u=unix("u", path), new="", store=store, cols=""
        ) as daemon,
        Sender(port, by_tcp, bytes_per_s=BYTES_PER_S) as first,
        Sender(path, by_unix, bytes_per_s=BYTES_PER_S) as second,
    ):
        daemon.more()
        assert daemon.reloads() == []
        for name in "tu":
            part = daemon.parts[name] + SEVENS
            assert daemon.reloads(**{name: part}) == [f"source.{name}.exclude"]
            rules[name].begins()
        daemon.more()
        daemon.is_refused("ADD COLUMN `frame`", cols=WITH_FRAME)
        mariadb_store.rows(daemon, "ALTER TABLE records ADD COLUMN frame BIGINT")
        assert daemon.reloads(cols=WITH_FRAME) == ["store.columns"]
        daemon.more()
        daemon.is_refused("this is not TOML", new="[[")
        daemon.is_refused("sauce", new="[sauce]")
        secret.write_text("wrong")
        daemon.is_refused("Access denied")
        secret.write_text(PASSWORD)
        daemon.more()
        daemon.reloads(new=tcp("n", moved, "close_wait_s = 10"))
        passing(daemon, moved)
        rules["t"].ends()
        assert daemon.reloads(t=tcp("t", free_port())) == ["source.t.exclude", "source.t.listen"]
        until(lambda: is_refused(port), READY_S, "the keeper to give the old address up")
        for kill in range(KILLS):
            top = f"subscribers = {kill % 2 + 1}\nspool = {{ bytes_max = {10**9 + kill} }}"
            killed_meanwhile(daemon, dice, top)
            daemon.more(50)
        for sender in (first, second):
            sender.finish()
            assert not sender.refused
        sent = by_tcp.sent + by_unix.sent + 11
        daemon.until_stored(sent)
        check(by_tcp, list(mariadb_store.raws(daemon, "t")), rules["t"])
        check(by_unix, list(mariadb_store.raws(daemon, "u")), rules["u"])
        assert list(mariadb_store.raws(daemon, "n")) == [b"%d" % n for n in range(11)]
        assert daemon.stop() == 0


def passing(daemon: Edited, port: int) -> None:
    """A source that is new is used, and then it is gone, with its connection's last words."""
    send_and_close(port, (b"%d\n" % n for n in range(5)))
    with connect(port) as connection:
        connection.sendall(b"".join(b"%d\n" % n for n in range(5, 10)))
        answers: list[dict[str, Any]] = []
        reload = threading.Thread(target=lambda: answers.append(daemon.reload(new="")))
        reload.start()
        assert connection.recv(1) == b"", "half-closed, as in a stop"
        connection.sendall(b"10\n")
        connection.close()
        reload.join(RELOAD_S)
    assert answers == [{"said": "reloaded", "changed": ["source.n is gone"], "exit": 0}]
    assert "n" not in (daemon.try_status() or {})["sources"]
    until(lambda: is_refused(port), READY_S, "the keeper to give the address up")


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), READY_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_another_server_is_dialled_when_the_old_one_has_been_heard(seed: int) -> None:
    old, new = Records(seed), Records(seed + 1)
    with serving() as first, serving() as second, Edited(s=dialling(first)) as daemon:
        with accepted(first) as connection:
            for piece in old.pieces(200_000):
                connection.sendall(piece)
            answers: list[list[str]] = []
            text = dialling(second)
            reload = threading.Thread(target=lambda: answers.append(daemon.reloads(s=text)))
            reload.start()
            assert connection.recv(1) == b"", "half-closed, as in a stop"
            connection.sendall(old.block())
        reload.join(RELOAD_S)
        assert answers == [["source.s.connect"]]
        daemon.until_stored(old.sent)
        with accepted(second) as connection:
            connection.sendall(new.block())
            daemon.until_stored(old.sent + new.sent)
        stored = list(Sqlite().raws(daemon))
        old.check(stored[: old.sent], old.sent)
        new.check(stored[old.sent :], new.sent)
        daemon.stop(signal.SIGQUIT)  # the second server would be waited for, dialled again


def serving() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def dialling(server: socket.socket) -> str:
    port = server.getsockname()[1]
    return f'[source.s]\ntype = "tcp"\nconnect = "127.0.0.1:{port}"\nclose_wait_s = 20\n'


def accepted(server: socket.socket) -> socket.socket:
    server.settimeout(READY_S)
    connection, _address = server.accept()
    connection.settimeout(READY_S)
    return connection


def test_what_reload_says_to_its_user(short_dir: Path) -> None:
    """The verb itself: exit codes, and what goes where."""
    with Edited(top="", s=unix("s", f"{short_dir}/s")) as daemon:
        daemon.edit(top="drain_s = 9")
        done = daemon.run("reload")
        assert (done.returncode, done.stdout, done.stderr) == (0, "reloaded\n  drain_s\n", "")
        daemon.edit(top='drain_s = 9\nname = "other"\nqueue = { url = "redis://h" }')
        done = daemon.run("reload")  # of an instance of that name, which doesn't run
        assert (done.returncode, done.stderr) == (3, "not running\n")
        daemon.edit(top='drain_s = 9\nqueue = { url = "redis://h" }')
        done = daemon.run("reload", "--timeout", "30")
        assert (done.returncode, done.stdout) == (78, "")
        said = "the old configuration is kept: only a restart can change this: queue.url\n  → take"
        assert done.stderr.startswith(said)
        daemon.edit(top="drain_s = 9")
        daemon.signal(signal.SIGHUP)
        until(lambda: "nothing has changed" in daemon.said(), READY_S, "the outcome in the log")
        assert daemon.stop() == 0
        assert daemon.run("reload").returncode == 3


def killed_meanwhile(daemon: Edited, dice: random.Random, top: str) -> None:
    """Reload what replaces the collectors, and kill one of them while that goes on."""
    answers: list[dict[str, Any]] = []
    reload = threading.Thread(target=lambda: answers.append(daemon.reload(top=top)))
    reload.start()
    time.sleep(dice.uniform(0, 0.2))  # somewhere in it
    victim = (daemon.try_status() or {})["sources"][dice.choice("tu")]["pid"]
    if victim:
        daemon.kill_child(victim)
    reload.join(RELOAD_S)
    assert [answer["exit"] for answer in answers] == [0]
