"""The pieces of the demo: the account, the sender, whom it kills, how it is interrupted."""

import argparse
import io
import os
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import config, program
from appliance.errors import Exit, InstanceError, StreamDaemonError, Unavailable
from appliance.tweets import NFL_TEAMS, TeamFinder, TweetMaker
from appliance.verbs import demo
from appliance.verbs.demo.account import Account, Database, Ledger, Row, settle
from appliance.verbs.demo.instance import (
    CONFIGURATION,
    Instance,
    Status,
    configuration,
    read_status,
)
from appliance.verbs.demo.progress import figures, print_teams
from appliance.verbs.demo.sender import Sender, SendingFailed, tweets_per_s
from appliance.verbs.interrupts import Interrupted, Interrupts, Overdue
from appliance.verbs.progress import PlainProgress
from appliance.verbs.staged import parent_of

# ── the account ─────────────────────────────────────────────────────────────────────────

FATES = ("stored", "lost", "doubled", "altered", "stored")


@given(st.lists(st.sampled_from(FATES)), st.integers(0, 50), st.integers(0, 3), st.randoms())
def test_the_account_says_what_became_of_each_tweet(
    fates: list[str], filtered: int, strangers: int, random: Random
) -> None:
    expected = {id: b"tweet %d" % id for id in range(len(fates))}
    rows = [Row(-1 - number, "", b"stranger") for number in range(strangers)]
    for id, fate in enumerate(fates):
        copies = {"stored": 1, "doubled": 3, "lost": 0, "altered": 0}[fate]
        rows += copies * [Row(id, "", expected[id])]
        rows += [Row(id, "", expected[id] + b" ")] if fate == "altered" else []
    random.shuffle(rows)

    account = settle(len(fates) + filtered, expected, rows, Ledger(filtered=filtered))

    lost, altered = fates.count("lost"), fates.count("altered")
    doubled = 2 * fates.count("doubled")
    assert account.lines == [
        f"sent {len(fates) + filtered}",
        f"filtered {filtered}",
        f"stored {len(rows)}",
        f"lost {lost + altered}",
        f"doubled {doubled}",
    ]
    assert account.foreign == altered + strangers
    assert (account.exit_code == Exit.OK) == (lost + altered + doubled + strangers == 0)
    assert (account.exit_code == Exit.MAY_BE_LOST) == (lost + altered > 0)


GOOD = {
    "sent": 10,
    "filtered": 4,
    "stored": 6,
    "lost": 0,
    "doubled": 0,
    "foreign": 0,
    "dead": 0,
}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, Exit.OK),
        ({"lost": 1, "stored": 5}, Exit.MAY_BE_LOST),
        ({"filtered": 3}, Exit.MAY_BE_LOST),
        ({"filtered": 5}, Exit.INTERNAL),
        ({"doubled": 1, "stored": 7}, Exit.INTERNAL),
        ({"foreign": 1}, Exit.INTERNAL),
        ({"dead": 1}, Exit.INTERNAL),
    ],
)
def test_only_an_account_that_adds_up_is_a_success(change: dict[str, int], code: Exit) -> None:
    assert Account(**(GOOD | change)).exit_code == code


def test_complaints_name_what_the_lines_dont_say() -> None:
    assert Account(**GOOD).complaints == []
    assert "demo_dead" in Account(**(GOOD | {"dead": 2})).complaints[0]
    assert "1 rows" in Account(**(GOOD | {"foreign": 1})).complaints[0]


def test_the_database_is_read_beside_its_writer(tmp_path: Path) -> None:
    database = Database(tmp_path / "demo.db", "demo", "records")
    with pytest.raises(Unavailable):
        database.ledger()
    with closing(sqlite3.connect(tmp_path / "demo.db", isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        for kind in ("runs", "frames"):
            counts = "records, stored, filtered, dead, blank"
            writer.execute(f"CREATE TABLE demo_{kind} (run BLOB, {counts})")
        assert database.ledger() == Ledger()
        writer.execute("INSERT INTO demo_runs VALUES ('', 10, 4, 3, 2, 1)")
        writer.execute("INSERT INTO demo_frames VALUES ('', 7, 7, 0, 0, 0), ('', 1, 0, 0, 0, 1)")
        writer.execute("CREATE TABLE records (id BIGINT, text TEXT, raw LONGTEXT)")
        writer.execute("INSERT INTO records VALUES (5, 'é', '{\"é\"}'), (NULL, NULL, '')")
        writer.execute("BEGIN IMMEDIATE")
        assert database.ledger() == Ledger(18, 11, 3, 2, 2)
        assert database.ledger().accounted == 16
        assert list(database.rows()) == [Row(5, "é", '{"é"}'.encode()), Row(None, "", b"")]


# ── the sender ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def test_the_sender_knows_what_it_sent(listener: socket.socket) -> None:
    def read_all() -> bytes:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            return lines.read()

    with ThreadPoolExecutor() as threads:
        reading = threads.submit(read_all)
        with Sender(listener.getsockname()[1], seed=3) as sender:
            for _ in range(100):
                sender.send(5)
                sender.send(0)
        received = reading.result()
    assert received.endswith(b"\r\n")
    records = received.split(b"\r\n")[:-1]

    maker = TweetMaker(Random(3))
    tweets = [maker.tweet() for _ in range(500)]
    assert [record for record in records if record] == [tweet.line for tweet in tweets]
    assert b"" in records  # a keep-alive
    assert sender.sent == 500
    assert sender.expected == {tweet.id: tweet.line for tweet in tweets if tweet.teams}


def test_a_broken_connection_is_said(listener: socket.socket) -> None:
    with Sender(listener.getsockname()[1], seed=3) as sender:
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()  # with a reset, so that the very next send sees it
        with pytest.raises(SendingFailed, match="broke"):
            sender.send(100)


def test_the_stream_is_now_slower_now_faster() -> None:
    speeds = [tweets_per_s(moment / 100) for moment in range(int(100 * demo.SENDING_S))]
    assert min(speeds) >= 1000
    assert max(speeds) > 3 * min(speeds)
    assert 2000 < sum(speeds) / len(speeds) < 5000


# ── the instance ────────────────────────────────────────────────────────────────────────


def test_its_configuration_is_valid(tmp_path: Path) -> None:
    directory = tmp_path / 'with "quotes" and ünïcode'
    parsed = config.parse(configuration(directory, 5170, NFL_TEAMS), "demo.toml")
    (source,) = parsed.sources.values()
    assert isinstance(source, config.TcpSource)
    assert (parsed.name, parsed.state_dir) == ("demo", str(directory))
    assert source.listen == "127.0.0.1:5170"
    assert source.include == (config.Filter("text", NFL_TEAMS),)
    assert (parsed.queue.url, parsed.store.url, parsed.store.table) == (
        *("embedded", "embedded"),
        "records",
    )
    assert parsed.store.columns["raw"] == config.Column(type="LONGTEXT", path="")
    assert set(parsed.store.columns) == {
        line.split()[0] for line in CONFIGURATION.partition("columns]")[2].splitlines() if line
    }


def test_it_is_ready_only_with_the_pids_of_its_children() -> None:
    answer = {
        "pid": 10,
        "sources": {"tweets": {"pid": 11}},
        "subscribers": [{"n": 1, "pid": 12}],
        "queue": {"frames": 2, "busy": 1, "bytes": 9},
        "store": {"stored": 5, "filtered": 6},
    }
    assert read_status(answer) == Status(10, 11, 12, 5, 6, 3)
    starting = answer | {"sources": {"tweets": {"pid": 0}}, "subscribers": []}
    assert read_status(starting) == Status(10, None, None, 5, 6, 3)


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours that only waits."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_only_children_of_the_instance_are_killed(
    tmp_path: Path, bystander: subprocess.Popen[bytes]
) -> None:
    instance = Instance(tmp_path, NFL_TEAMS)
    of_somebody_else = Status(1, bystander.pid, None, 0, 0, 0)
    assert not instance.kill(bystander.pid, of_somebody_else)
    with pytest.raises(subprocess.TimeoutExpired):
        bystander.wait(0.1)
    assert instance.kill(bystander.pid, Status(os.getpid(), bystander.pid, None, 0, 0, 0))
    assert bystander.wait(5) == -signal.SIGKILL
    assert not instance.kill(bystander.pid, Status(os.getpid(), bystander.pid, None, 0, 0, 0))


def test_the_parent_of_a_process(bystander: subprocess.Popen[bytes]) -> None:
    assert parent_of(bystander.pid) == os.getpid()
    with pytest.raises(ProcessLookupError):
        parent_of(2**22 + 1)  # above the kernel's pid_max


# ── interruptions ───────────────────────────────────────────────────────────────────────


def test_an_interruption_is_raised_once_and_never_while_held() -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps = []

    def interrupt() -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            steps.append("still held")
        steps.append("not reached")

    with Interrupts(60) as interrupts:
        with pytest.raises(Interrupted) as interrupted:
            interrupt()
        signal.raise_signal(signal.SIGINT)  # it is being cleaned up already
        steps.append("only once")
    assert steps == ["still held", "only once"]
    assert interrupted.value.exit_code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_demo_has_a_limit() -> None:
    with Interrupts(0.05), pytest.raises(Overdue):
        time.sleep(10)
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


# ── what is shown ───────────────────────────────────────────────────────────────────────


def test_figures_come_once_a_second_events_at_once() -> None:
    out, now = io.StringIO(), 0.0
    progress = PlainProgress(out, "demo", lambda: now)
    for now in (0.0, 0.5, 0.9, 1.1):
        progress.show(figures(int(10 * now), Status(1, 2, 3, 4, 5, 6)))
    progress.say("something happened")
    assert [" ".join(line.split()) for line in out.getvalue().splitlines()] == [
        "demo: sent 0 stored 4 filtered 5 queue 6 frames",
        "demo: sent 11 stored 4 filtered 5 queue 6 frames",
        "demo: something happened",
    ]


def test_the_table_counts_the_stored_tweets_of_each_team() -> None:
    counts: Counter[str] = Counter()
    rows = [Row(1, "GO #packers!", b""), Row(2, "Packers vs Packers, 49ers", b"")]
    assert list(demo._counted(iter(rows), counts)) == rows
    out = io.StringIO()
    print_teams(counts, out)
    table = dict(line.split() for line in out.getvalue().splitlines())
    assert table.pop("team") == "tweets"
    assert set(table) == set(NFL_TEAMS)
    assert {team for team in table if table[team] != "0"} == {"Packers", "49ers"}
    assert (table["Packers"], table["49ers"]) == ("2", "1")
    assert TeamFinder().teams("none") == set()


@pytest.mark.parametrize("kept", ["new", "empty"])
def test_a_directory_to_keep_stays(tmp_path: Path, kept: str) -> None:
    (tmp_path / "empty").mkdir()
    with Interrupts(60) as interrupts:
        with demo._directory(str(tmp_path / kept), interrupts) as directory:
            (directory / "file").touch()
        assert (tmp_path / kept / "file").exists()
        with pytest.raises(InstanceError, match="not empty"):
            demo._directory(str(tmp_path / kept), interrupts).__enter__()


def test_a_temporary_directory_goes_whatever_happens() -> None:
    seen = []

    def interrupt() -> None:
        with demo._directory(None, interrupts) as directory:
            (directory / "file").touch()
            seen.append(directory)
            signal.raise_signal(signal.SIGINT)

    with Interrupts(60) as interrupts, pytest.raises(Interrupted):
        interrupt()
    assert not seen[0].exists()


# ── the whole story, with an instance that can lie ──────────────────────────────────────


@pytest.fixture
def short_demo(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    """A demo of about a second, in a temporary directory of its own."""
    monkeypatch.setattr(demo, "SENDING_S", 1.0)
    monkeypatch.setattr(demo, "SETTLE_S_MAX", 1.0)
    monkeypatch.setattr(demo, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(demo, "COLLECTOR_DIES_AT_S", 0.3)
    monkeypatch.setattr(demo, "SUBSCRIBER_DIES_AT_S", 0.5)
    monkeypatch.setattr(tempfile, "tempdir", str(short_dir))


def with_fault(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    words = [sys.executable, "-m", "tests.fake_instance", fault]
    monkeypatch.setattr(program, "command", lambda *_: words)


ARGS = argparse.Namespace(keep=None, seed=1)


@pytest.mark.usefixtures("short_demo")
@pytest.mark.parametrize(
    ("fault", "code", "lost", "doubled"),
    [
        ("none", 0, 0, 0),
        ("loses", Exit.MAY_BE_LOST, 1, 0),
        ("alters", Exit.MAY_BE_LOST, 1, 0),
        ("hides", Exit.MAY_BE_LOST, 0, 0),
        ("doubles", Exit.INTERNAL, 0, 1),
        ("fails", 74, 0, 0),
    ],
)
def test_the_verdict_is_about_what_the_instance_did(
    fault: str,
    code: int,
    lost: int,
    doubled: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    short_dir: Path,
) -> None:
    with_fault(monkeypatch, fault)
    assert demo.run(ARGS) == code
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()[-5:]]
    assert [name for name, _ in lines] == ["sent", "filtered", "stored", "lost", "doubled"]
    assert (int(lines[3][1]), int(lines[4][1])) == (lost, doubled)
    assert int(lines[0][1]) > 1000
    for event in ("killed collector tweets", "killed subscriber 1"):
        assert err.count(event) == 1
    for event in ("collector tweets is back", "subscriber 1 is back"):
        assert err.count(event) == 1
    assert not list(short_dir.iterdir())


@pytest.mark.usefixtures("short_demo")
def test_an_instance_that_dies_is_said_with_its_last_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short_dir: Path
) -> None:
    with_fault(monkeypatch, "dies")
    with pytest.raises(StreamDaemonError, match=r"ended by itself \(exit code 1\)|broke"):
        demo.run(ARGS)
    assert "as if something had gone wrong" in capsys.readouterr().err
    assert not list(short_dir.iterdir())


def processes_naming(text: str) -> list[str]:
    """Command lines of all processes, but this one, that hold a text."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if text in line and entry.parent.name != str(os.getpid()):
            found.append(line)
    return found


@pytest.mark.usefixtures("short_demo")
def test_an_interrupted_demo_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short_dir: Path
) -> None:
    with_fault(monkeypatch, "none")
    seen: list[str] = []

    def interrupt_in_the_middle(elapsed_s: float) -> float:
        if elapsed_s > 0.2:
            seen.extend(processes_naming(str(short_dir)))
            signal.raise_signal(signal.SIGINT)
        return 1000.0

    monkeypatch.setattr(demo, "tweets_per_s", interrupt_in_the_middle)
    assert demo.run(ARGS) == 128 + signal.SIGINT
    assert len(seen) == 1
    assert processes_naming(str(short_dir)) == []
    assert not list(short_dir.iterdir())
    assert "interrupted" in capsys.readouterr().err
