"""An instance that can lie: what the demo speaks to, in one small process, for its tests.

    python fake_instance.py FAULT -c FILE collect

It takes the stream, filters and stores it in SQLite with a ledger, names two children, and
starts them anew when they die. FAULT makes it wrong: "loses", "doubles" or "alters" one tweet,
"hides" a filtered one from the ledger, "dies" in the middle, "fails" with exit code 74 at its
end, or "none".
"""

import json
import os
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from appliance.tweets import TeamFinder

FAULTY_TWEET = 500  # the fault shows at about this one


def child() -> subprocess.Popen[bytes]:
    """A child that ends with us: its stdin does."""
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


class FakeInstance:
    """All of it, in the order of its life."""

    def __init__(self, fault: str, settings: dict[str, Any]) -> None:
        self._fault = fault
        home = Path(settings["state_dir"], settings["name"])
        home.mkdir()
        host, port = settings["source"]["tweets"]["listen"].split(":")
        self._tcp = socket.create_server((host, int(port)))
        self._control = socket.socket(socket.AF_UNIX)
        self._control.bind(str(home / "control.sock"))
        self._control.listen()
        self._database = sqlite3.connect(home / f"{settings['name']}.db")
        self._database.execute("CREATE TABLE records (id INTEGER, text TEXT, raw TEXT)")
        for kind in ("runs", "frames"):
            counts = "records, stored, filtered, dead, blank"
            self._database.execute(f"CREATE TABLE demo_{kind} (run, {counts})")
        self._children = [child(), child()]
        self._finder = TeamFinder()
        self._tweets = 0
        self._rest = b""
        self._faulty = fault not in ("none", "fails")

    def run(self) -> int:
        """Serve until SIGTERM; the exit code."""
        wakeup, at_signal = socket.socketpair()
        at_signal.setblocking(False)
        signal.set_wakeup_fd(at_signal.fileno())
        signal.signal(signal.SIGTERM, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(wakeup, selectors.EVENT_READ, None)
            selector.register(self._control, selectors.EVENT_READ, self._answer)
            selector.register(self._tcp, selectors.EVENT_READ, lambda: self._accept(selector))
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        return 74 if self._fault == "fails" else 0
                    key.data()

    def _answer(self) -> None:
        connection, _ = self._control.accept()
        with connection:
            connection.recv(1024)
            for number, process in enumerate(self._children):
                if process.poll() is not None:
                    self._children[number] = child()
            collector, subscriber = self._children
            answer = {
                "pid": os.getpid(),
                "sources": {"tweets": {"pid": collector.pid}},
                "subscribers": [{"n": 1, "pid": subscriber.pid}],
                "queue": {"frames": 0, "busy": 0, "bytes": 0},
                "store": {"stored": self._tweets, "filtered": 0},
            }
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _accept(self, selector: selectors.BaseSelector) -> None:
        connection, _ = self._tcp.accept()

        def read() -> None:
            received = connection.recv(1 << 20)
            if not received:
                selector.unregister(connection)
                return
            *lines, self._rest = (self._rest + received).split(b"\r\n")
            with self._database:
                self._store(lines)

        selector.register(connection, selectors.EVENT_READ, read)

    def _store(self, lines: list[bytes]) -> None:
        tweets = [line for line in lines if line]
        self._tweets += len(tweets)
        parsed = [(json.loads(line), line.decode()) for line in tweets]
        rows = [(t["id"], t["text"], raw) for t, raw in parsed if self._finder.teams(t["text"])]
        counts = [len(lines), len(rows), len(tweets) - len(rows), 0, len(lines) - len(tweets)]
        if self._faulty and self._tweets >= FAULTY_TWEET and rows:
            self._faulty = False
            self._go_wrong(rows, counts)
        self._database.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
        self._database.execute("INSERT INTO demo_frames VALUES ('', ?, ?, ?, ?, ?)", counts)

    def _go_wrong(self, rows: list[tuple[int, str, str]], counts: list[int]) -> None:
        match self._fault:
            case "loses":
                rows.pop()
            case "doubles":
                rows.append(rows[0])
            case "alters":
                id, text, raw = rows.pop()
                rows.append((id, text, raw + " "))
            case "hides":
                counts[2] -= 1
                counts[4] += 1
            case "dies":
                sys.exit("fake instance: as if something had gone wrong")


if __name__ == "__main__":
    _, fault, _, file, _ = sys.argv
    sys.exit(FakeInstance(fault, tomllib.loads(Path(file).read_text())).run())
