"""The pieces of a rehearsal: configuration, senders, measures, verdict, place."""

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config, program
from appliance.errors import Exit, InstanceError, StreamDaemonError, Unavailable
from appliance.instance import Instance
from appliance.settings import FileSource, TcpSource, UnixSource
from appliance.verbs import rehearse
from appliance.verbs.rehearse import plan, play
from appliance.verbs.rehearse.account import Account, settle
from appliance.verbs.rehearse.feeds import FileFeed, Numbers, SocketFeed, feed_for
from appliance.verbs.rehearse.ground import Ground
from appliance.verbs.rehearse.measures import Death, Measures, Pulse, ServerDeath
from tests.test_demo import processes_naming

FULL = """
name = "nfl"
subscribers = 0
drain_s = 12.5
[source.tweets]
type = "tcp"
connect = "stream.example.net:5170"
format = "json"
record_bytes_max = "64KiB"
include = { path = "text", any = ["Patriots"] }
[source.local]
type = "unix"
listen = "/run/x.sock"
format = "json"
owner = "nobody"
record_bytes_max = 10
close_wait_s = 0
[source.log]
type = "file"
path = "/var/log/x"
format = "json"
follow = false
[source.input]
type = "stdin"
format = "json"
[queue]
url = "redis://redis.example.net"
password = { env = "QUEUE" }
bytes_max = "1GiB"
[store]
url = "mysql://me@db.example.net/d"
password = { file = "/etc/it's a \\"secret\\"" }
on_duplicate = "ignore"
table = "tweets"
[store.columns]
id = { path = "id", type = "BIGINT NOT NULL" }
"""


# ── the configuration ───────────────────────────────────────────────────────────────────


def test_it_has_names_and_addresses_of_its_own_and_all_else_is_the_users() -> None:
    users = config.parse(FULL, "file")
    own = plan.derive(users, Path("/state/nfl_rehearsal"), lambda: 7777)
    assert config.parse(plan.text(own), "toml") == own, "its file says the same"
    assert (own.name, own.state_dir, own.subscribers) == ("nfl_rehearsal", "/state", 1)
    assert (own.queue, own.drain_s) == (users.queue, users.drain_s)
    assert (own.store.url, own.store.password) == (users.store.url, users.store.password)
    assert (own.store.table, own.store.on_duplicate) == ("nfl_rehearsal_records", "dead")
    assert own.store.columns["raw"].path == ""
    assert own.sources == {
        "tweets": TcpSource(listen="127.0.0.1:7777", format="json", record_bytes_max=64 * 1024),
        "local": UnixSource(
            listen="/state/nfl_rehearsal/local.sock",
            mode="0600",
            format="json",
            record_bytes_max=256,
        ),
        "log": FileSource(path="/state/nfl_rehearsal/log.in", format="json"),
    }
    [said] = plan.left_out(users)
    assert said.startswith("source input reads standard input")


def test_where_no_source_can_be_imitated_there_is_one() -> None:
    users = config.parse('[source.input]\ntype = "stdin"\n', "file")
    own = plan.derive(users, Path("/state/stream_rehearsal"), lambda: 7777)
    assert own.sources == {"records": TcpSource(listen="127.0.0.1:7777")}


@given(st.from_regex(r"\A[a-z][a-z0-9_]{0,31}\Z"))
def test_its_name_is_one(name: str) -> None:
    found = plan.name_of(name)
    assert config.parse(f'name = "{found}"\n[source.a]\ntype = "stdin"\n', "file").name == found
    assert found.endswith("_rehearsal")


# ── senders ─────────────────────────────────────────────────────────────────────────────


@given(st.integers(256, 30_000), st.integers(0, 10**9), st.integers(0, 99))
def test_records_fit_and_are_told_apart(bytes_max: int, number: int, seed: int) -> None:
    numbers = Numbers("tweets", seed, bytes_max)
    line = numbers.line(number)
    assert len(line) < bytes_max
    assert b"\n" not in line
    assert line == Numbers("tweets", seed, bytes_max).line(number)
    others = [numbers.line(number + 1), Numbers("other", seed, bytes_max).line(number)]
    assert line not in others


def test_a_file_grows(tmp_path: Path) -> None:
    feed = feed_for("log", FileSource(path=str(tmp_path / "in")), 1)
    assert isinstance(feed, FileFeed)
    feed.send(3)
    feed.send(2)
    feed.close()
    assert (feed.sent, feed.is_done) == (5, True)
    lines = (tmp_path / "in").read_bytes().splitlines()
    assert lines == [feed.numbers.line(number) for number in range(5)]


class Listener:
    """A server that reads when it is told to."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def taken(self) -> socket.socket:
        connection, _ = self.socket.accept()
        connection.settimeout(10)
        return connection


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.socket.close()


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


def feed_to(port: int) -> SocketFeed:
    feed = feed_for("tweets", TcpSource(listen=f"127.0.0.1:{port}"), 1)
    assert isinstance(feed, SocketFeed)
    return feed


def expected(feed: SocketFeed, numbers: range) -> bytes:
    return b"".join(feed.numbers.line(number) + b"\n" for number in numbers)


def test_nobody_listens_yet(listener: Listener) -> None:
    listener.socket.close()
    feed = feed_to(listener.port)
    feed.send(3)
    assert (feed.sent, feed.is_done, feed.broken) == (0, False, 0)
    listener.socket = socket.create_server(("127.0.0.1", listener.port))
    feed.send(1)
    assert (feed.sent, feed.is_done) == (4, True)
    connection = listener.taken()
    feed.close()
    assert everything(connection) == expected(feed, range(4))
    connection.close()


def test_a_reader_that_stands_still_stops_the_sender_and_costs_no_memory(
    listener: Listener,
) -> None:
    feed = feed_to(listener.port)
    for _ in range(300):
        feed.send(100)
    assert not feed.is_done
    assert feed.sent < feed._made < 30_000
    connection = listener.taken()
    received = b""
    while not feed.is_done:
        received += connection.recv(1 << 20)
        feed.send(0)
    feed.close()
    assert received + everything(connection) == expected(feed, range(feed.sent))
    connection.close()


def test_when_it_is_told_to_end_it_ends_its_record_and_connects_again(listener: Listener) -> None:
    feed = feed_to(listener.port)
    while feed.is_done or not feed._at > feed._begun():  # until it stands inside a record
        feed.send(100)
    first = listener.taken()
    first.shutdown(socket.SHUT_WR)  # as an instance that stops
    with ThreadPoolExecutor() as pool:  # it reads on
        reading = pool.submit(everything, first)
        while feed._socket is not None:
            feed.send(0)
        received = reading.result()
    assert received == expected(feed, range(feed.sent))
    assert received.endswith(b"\n")
    done = feed.sent
    feed.send(0)
    second = listener.taken()
    received = b""
    while not feed.is_done:
        received += second.recv(1 << 20)
        feed.send(0)
    feed.close()
    assert received + everything(second) == expected(feed, range(done, feed.sent))
    assert feed.broken == 0
    first.close()
    second.close()


def test_a_connection_that_breaks_is_counted_and_its_last_record_sent_again(
    listener: Listener,
) -> None:
    feed = feed_to(listener.port)
    while feed.is_done or not feed._at > feed._begun():
        feed.send(100)
    done = feed.sent
    listener.taken().close()  # with bytes unread: a reset
    while feed._socket is not None:
        feed.send(0)
    assert (feed.broken, feed.sent) == (1, done)
    feed.send(0)
    second = listener.taken()
    received = b""
    while not feed.is_done:
        received += second.recv(1 << 20)
        feed.send(0)
    feed.close()
    assert received + everything(second) == expected(feed, range(done, feed.sent))
    second.close()


# ── the verdict ─────────────────────────────────────────────────────────────────────────

FATES = ("stored", "lost", "doubled", "altered", "stored")


@given(st.lists(st.sampled_from(FATES)), st.integers(0, 3), st.randoms())
def test_the_account_says_what_became_of_each_record(
    fates: list[str], strangers: int, dice: Any
) -> None:
    numbers = {"a": Numbers("a", 1, 1000), "b": Numbers("b", 1, 1000)}
    raws = [b'{"source": "a", "n": 0, "pad": ""}', b"[]", b'{"source": "c", "n": 0}'][:strangers]
    for number, fate in enumerate(fates):
        line = numbers["a"].line(number)
        raws += {"stored": 1, "doubled": 3, "lost": 0, "altered": 0}[fate] * [line]
        raws += [line + b" "] if fate == "altered" else []
    raws.append(numbers["b"].line(0))
    dice.shuffle(raws)
    account = settle({"a": len(fates), "b": 1}, numbers, raws)
    altered, doubled = fates.count("altered"), 2 * fates.count("doubled")
    lost = fates.count("lost") + altered
    assert account == Account(len(fates) + 1, len(raws), doubled, lost, altered + strangers)
    assert (account.exit_code == Exit.OK) == (lost + doubled + altered + strangers == 0)
    assert (account.exit_code == Exit.MAY_BE_LOST) == (lost > 0)
    assert bool(account.complaints) == (altered + strangers > 0)
    assert account.lines[:2] == [f"sent {len(fates) + 1}", f"stored {len(raws)}"]


def test_a_record_behind_those_that_were_sent_is_foreign() -> None:
    numbers = {"a": Numbers("a", 1, 1000)}
    raws = [numbers["a"].line(0), numbers["a"].line(1)]
    assert settle({"a": 1}, numbers, raws) == Account(1, 2, 0, 0, 1)


# ── measures ────────────────────────────────────────────────────────────────────────────


def report(records: int = 0, stored: int = 0, **pids: int) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "sources": {"a": {"pid": pids.get("a", 11), "records": records}},
        "subscribers": [{"n": 1, "pid": pids.get("one", 21), "records": stored}],
        "recovery": {"pid": pids.get("recovery", 31)},
        "store": {"stored": stored},
    }


def test_the_longest_pause_is_between_two_steps_forward() -> None:
    pulse = Pulse(10.0)
    for value, now in [(0, 11.0), (1, 11.5), (5, 12.0), (5, 13.0), (6, 13.5), (6, 13.6)]:
        pulse.look(value, now)
    assert pulse.longest_s == 1.5
    for value, now in [(0, 14.0), (0, 16.0), (2, 16.5), (3, 16.6)]:  # it was restarted
        pulse.look(value, now)
    assert pulse.longest_s == 3.0


def test_a_recovery_ends_with_the_successors_first_work() -> None:
    measures = Measures(0.0)
    measures.died(Death("collector a", 11, 100, at=1.0))
    assert measures.awaits("collector a")
    measures.look(report(100, a=0), 1.2)  # dead
    measures.look(report(100, a=12), 1.5)  # back, without work
    assert measures.awaits("collector a")
    measures.look(report(101, a=12), 1.75)
    assert not measures.awaits("collector a")
    assert (measures.kills, measures.slowest_s, measures.slowest) == (1, 0.75, "collector a")
    measures.died(Death("recovery", 31, 0, at=2.0))
    measures.look(report(101, recovery=32), 2.25)
    measures.died(ServerDeath("embedded server", 41, 50, at=3.0))
    measures.look(report(101, stored=50), 3.5)
    measures.look(report(101, stored=51), 3.6)
    assert (measures.kills, measures.slowest_s) == (3, 0.75)
    measures.died(Death("subscriber 1", 21, 51, at=4.0))
    measures.end(9.0)
    assert (measures.slowest_s, measures.slowest) == (5.0, "subscriber 1")


# ── its place ───────────────────────────────────────────────────────────────────────────


class FakeTraces:
    """What is in store and queue; `away` is raised by both."""

    def __init__(self, tables: list[str], keys: list[str]) -> None:
        self.tables_, self.keys_ = tables, keys
        self.away: Unavailable | None = None
        self.drops_away: Unavailable | None = None

    @contextmanager
    def traces(self) -> Iterator[tuple["FakeTraces", "FakeTraces"]]:
        if self.away:
            raise self.away
        yield self, self

    def tables(self) -> list[str]:
        return self.tables_

    def keys(self) -> list[str]:
        return self.keys_

    def drop(self) -> None:
        if self.drops_away:
            raise self.drops_away
        self.tables_ = []

    def delete_all(self) -> None:
        self.keys_ = []


@pytest.fixture
def place(tmp_path: Path) -> Instance:
    return Instance(tmp_path / "state" / "nfl_rehearsal")


def ground(place: Instance, world: FakeTraces, said: list[str] | None = None) -> Ground:
    return Ground(place, world, (said if said is not None else []).append)  # type: ignore[arg-type]


def test_nothing_is_left_of_it(place: Instance) -> None:
    world = FakeTraces([], [])
    mine = ground(place, world)
    mine.claim()
    place.make()
    world.tables_, world.keys_ = ["nfl_rehearsal_runs"], ["{nfl_rehearsal}:working"]
    assert mine.clear()
    assert (world.tables_, world.keys_) == ([], [])
    assert not place.directory.parent.exists(), "it had made that, too"


@pytest.mark.parametrize("whose", ["directory", "tables", "keys"])
def test_names_of_somebody_else_are_refused_and_not_touched(place: Instance, whose: str) -> None:
    world = FakeTraces(["t"] if whose == "tables" else [], ["k"] if whose == "keys" else [])
    if whose == "directory":
        place.make()
    before = [*place.directory.glob("**/*")]
    for _ in range(2):
        with pytest.raises(InstanceError, match="no mark of a rehearsal"):
            ground(place, world).claim()
    assert (world.tables_, world.keys_) == (
        ["t"] if whose == "tables" else [],
        ["k"] if whose == "keys" else [],
    )
    assert [*place.directory.glob("**/*")] == before
    assert place.directory.exists() == (whose == "directory")


def test_what_a_killed_rehearsal_left_is_cleaned_up(place: Instance) -> None:
    world, said = FakeTraces([], []), list[str]()
    killed = ground(place, world)
    killed.claim()
    with pytest.raises(InstanceError, match=rf"another rehearsal is at work \(pid {os.getpid()}\)"):
        ground(place, world).claim()
    killed._lock.release()  # as if it had died
    place.make()
    (place.directory / "log").write_text("…")
    world.tables_, world.keys_ = ["t"], ["k"]
    world.away = Unavailable("no answer")
    with pytest.raises(Unavailable):
        ground(place, world).claim()
    world.away = None
    mine = ground(place, world, said)
    mine.claim()
    assert said[-1] == "cleaning up what a rehearsal that was killed has left"
    assert (world.tables_, world.keys_) == ([], [])
    left = sorted(entry.name for entry in place.directory.iterdir())
    assert left == ["rehearsal", "rehearsal.lock"]
    assert mine.clear()


def test_processes_that_a_killed_rehearsal_left_are_ended(place: Instance) -> None:
    world = FakeTraces([], [])
    killed = ground(place, world)
    killed.claim()
    killed._lock.release()
    place.make()
    place.lock.touch()
    line = "import sys; file = open(sys.argv[1]); print('open', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", line, str(place.lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"open\n"
        ground(place, world).claim()
        assert holder.wait(10) == -signal.SIGKILL


def test_what_can_not_be_cleaned_up_is_left_to_the_next_one(place: Instance) -> None:
    world, said = FakeTraces([], []), list[str]()
    mine = ground(place, world, said)
    mine.claim()
    world.tables_ = ["t"]
    world.away = Unavailable("no answer", "start it")
    assert not mine.clear()
    assert said == ["could not clean up: no answer\n  → start it", "the next rehearsal does it"]
    world.away = None
    again = ground(place, world)
    again.claim()
    assert world.tables_ == []
    assert again.clear()


def test_without_the_right_to_drop_tables_nothing_is_begun(place: Instance) -> None:
    world = FakeTraces([], [])
    world.drops_away = Unavailable("DROP command denied", "grant this and that")
    with pytest.raises(Unavailable, match="GRANT DROP"):
        ground(place, world).claim()
    assert not place.directory.exists()


# ── the whole play, with a store that can lie ───────────────────────────────────────────


@pytest.fixture
def args(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """A rehearsal of about a second, in which nobody has to be killed."""
    monkeypatch.setattr(play, "SETTLE_S_MAX", 1.0)
    monkeypatch.setattr(play, "KILL_EVERY_S", (60.0, 60.0))
    file = short_dir / "toml"
    file.write_text(f'state_dir = "{short_dir}/s"\n[source.a]\ntype = "tcp"\nlisten = "[::1]:1"\n')
    return argparse.Namespace(config=str(file), time=0.6, restarts=False, rate=2000, seed=3)


def with_fault(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    words = [sys.executable, "-m", "tests.lying_instance", fault]
    monkeypatch.setattr(program, "command", lambda *_: words)


@pytest.mark.parametrize(
    ("fault", "code", "lost", "doubled"),
    [
        ("none", 0, 0, 0),
        ("loses", Exit.MAY_BE_LOST, 1, 0),
        ("alters", Exit.MAY_BE_LOST, 1, 0),
        ("doubles", Exit.INTERNAL, 0, 1),
    ],
)
def test_a_store_that_lies_is_found_out(
    fault: str,
    code: int,
    lost: int,
    doubled: int,
    args: argparse.Namespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with_fault(monkeypatch, fault)
    found = rehearse.run(args)
    out, err = capsys.readouterr()
    print(err)
    assert found == code
    values = dict(line.split(" ") for line in out.splitlines())
    assert [*values][:4] == ["sent", "stored", "doubled", "lost"]
    assert (int(values["lost"]), int(values["doubled"])) == (lost, doubled)
    assert int(values["sent"]) > 500
    assert not (Path(args.config).parent / "s").exists()


def test_an_instance_that_does_not_start_is_said_with_its_last_words(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_fault(monkeypatch, "exits")
    with pytest.raises(StreamDaemonError, match=r"ended by itself \(exit code 1\)"):
        rehearse.run(args)
    assert "as if something had gone wrong" in capsys.readouterr().err
    assert not (Path(args.config).parent / "s").exists()


def test_an_interrupted_rehearsal_leaves_nothing(
    args: argparse.Namespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = str(Path(args.config).parent)
    seen: list[str] = []

    def interrupt(_self: SocketFeed, _count: int) -> None:
        seen.extend(processes_naming(place))
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(SocketFeed, "send", interrupt)
    with_fault(monkeypatch, "none")
    assert rehearse.run(args) == 128 + signal.SIGINT
    assert seen
    assert processes_naming(place) == []
    assert [entry.name for entry in Path(place).iterdir()] == ["toml"]
    assert "interrupted" in capsys.readouterr().err
