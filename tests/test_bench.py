"""The benchmarks run: each figure, a few records, and a wrong table is no figure."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from signal import SIGKILL
from types import SimpleNamespace

import pytest

from appliance.frame import Header, checksum, encode_header
from tests.bench import __main__ as program
from tests.bench import connections, idle, latency, measure, queue_side
from tests.bench.database import Database, private_database
from tests.bench.figures import FIGURES
from tests.bench.lines import Content, Lines, make_lines
from tests.bench.measure import Comparison, Findings, Samples, WrongContentError, limit
from tests.bench.processes import family_of, role, usage
from tests.bench.rsyslog import find_ommysql
from tests.bench.run import Run
from tests.bench.store_side import TypedLines
from tests.conftest import find_service
from tests.redis_servers import find_valkey
from tests.system.daemon import until


def test_both_figures_are_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for services in (("mariadbd", "mysqld"), ("mariadb", "mysql")):
        find_service(*services)
    find_valkey()
    file = tmp_path / "bench.json"
    words = ["B5", "B7", "--records", "4000", "--rounds", "1", "--json", str(file)]
    assert program.main(words) == 0
    figures = json.loads(file.read_text())["figures"]
    seconds = json.loads(file.read_text())["seconds"]
    assert figures.keys() == {"B5", "B7"}
    assert seconds.keys() == {"B5", "B7", "all"}
    assert 0 < seconds["B5"] + seconds["B7"] < seconds["all"]
    printed = capsys.readouterr().out
    assert "seconds by the clock" in printed
    for name, figure in figures.items():
        assert measure.shown(figure["ours"]["median"]) in printed
        assert name in printed
        assert figure["ratio"] > 0


def test_connections_are_fed_at_a_pace_and_each_role_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_service("mariadbd", "mysqld")
    find_valkey()
    monkeypatch.setattr(connections, "MANY", 30)
    assert program.main(["connections", "--records", "6000", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "30 connections" in printed
    for role_of_one in ("collector", "subscriber", connections.DATABASE, "all"):
        assert f"| {role_of_one}" in printed


def test_what_waits_is_stored_by_two_subscribers(capsys: pytest.CaptureFixture[str]) -> None:
    for services in (("mariadbd", "mysqld"), ("mariadb", "mysql")):
        find_service(*services)
    find_valkey()
    assert program.main(["B3", "B4", "--records", "4000", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "one raw column" in printed
    assert "prepared rows" in printed


def test_typed_lines_know_what_a_wrong_column_is() -> None:
    lines = make_lines(50, 1)
    typed = TypedLines.made_from(lines)
    assert typed.content.count == len(typed.records) == len(typed.rows) == 50
    assert typed.first(7).content == TypedLines.made_from(lines.first(7)).content
    assert any(row.written.endswith(b"\t\\N") for row in typed.rows)
    record = json.loads(typed.records[0])
    record["user"]["verified"] = not record["user"]["verified"]
    other = Lines.of([json.dumps(record).encode()])
    assert TypedLines.made_from(other).content != typed.first(1).content


def test_latency_and_idling_are_measured_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_service("mariadbd", "mysqld")
    find_valkey()
    for name, value in {"LONE_RECORDS": 3, "COMMITS": 50, "QUIET_S": 0.0}.items():
        monkeypatch.setattr(latency, name, value)
    monkeypatch.setattr(idle, "SETTLE_S", 0.0)
    monkeypatch.setattr(idle, "IDLE_S", 0.2)
    assert program.main(["B9", "idle", "--records", "200", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for words in ("B9", "a lone record", "idle CPU", "idle wakes", "keeper", idle.DATABASE):
        assert words in printed


def test_a_percentile_is_a_figure_that_was_measured() -> None:
    figures = [float(n) for n in range(200, 0, -1)]
    assert [latency.percentile(figures, q) for q in (0, 50, 99, 100)] == [1, 100, 198, 200]
    assert latency.percentile([7.0], 99) == 7


def test_the_other_wholes_are_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for services in (("mariadbd", "mysqld"), ("rsyslogd",), ("sqlite3",)):
        find_service(*services)
    find_ommysql()
    find_valkey()
    words = ["B6", "B8", "burst", "--records", "2000", "--rounds", "1"]
    assert program.main([*words, "--pictures", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for name in ("B6", "B8", "burst"):
        assert f"| {name} " in printed
    assert "waiting at most" in printed
    assert (tmp_path / "burst.svg").exists() is (find_spec("matplotlib") is not None)


def test_a_figure_that_lacks_something_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(_: Run) -> Findings:
        pytest.skip("needs a cyclotron")

    monkeypatch.setattr(program, "FIGURES", {"B98": lacking, "B99": lambda _: Findings(())})
    monkeypatch.setattr(program, "private_database", unused_database)
    assert program.main(["--records", "1"]) == 0
    assert "B98 is left out: needs a cyclotron" in capsys.readouterr().err


@contextmanager
def unused_database() -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(run=lambda _: [("none",)])


def test_the_way_into_the_queue_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    find_service("mariadbd", "mysqld")
    find_valkey()
    assert program.main(["B1", "B2", "--records", "4000", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "RPUSH each" in printed
    assert "RPUSH 1 MiB" in printed


def test_what_the_queue_holds_has_to_be_what_was_sent() -> None:
    with queue_side.server(queue_side.SETTINGS) as client:
        queue = queue_side.Collecting(0, client)
        header = Header("0" * 32, 1, "lines", 2, 0, 0, 4, checksum(b"b\na\n"), 0.0, 0.0)
        client.rpush(queue_side.KEYS.working, encode_header(header) + b"b\na\n")
        queue.check(queue_side.Stream.of([b"b", b"a"], 1))
        for other in ([b"a", b"b"], [b"b"], [b"b", b"a", b"b"]):
            with pytest.raises(WrongContentError, match="2 records"):
                queue.check(queue_side.Stream.of(other, 1))


def test_a_figure_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["B5", "B99"])
    assert f"B99 is none of {', '.join(FIGURES)}" in capsys.readouterr().err


class Careless:
    """Stores all lines but the last, and the first one twice."""

    name = "careless"
    table = "careless"

    def __init__(self, database: Database) -> None:
        self._database = database

    def store(self, lines: Lines) -> float:
        records = (lines.records[0], *lines.records[:-1])
        self._database.run(
            "INSERT INTO careless (raw) VALUES " + ",".join(f"('{x.decode()}')" for x in records)
        )
        return 1.0


def test_a_figure_of_a_wrong_table_is_none() -> None:
    with private_database() as database:
        database.run("CREATE TABLE careless (raw LONGTEXT) ENGINE=InnoDB")
        with pytest.raises(WrongContentError, match="careless has stored"):
            measure.rate(database, Careless(database), Lines.of([b"a", b"b", b"c"]))


def test_lines_are_the_same_for_the_same_seed_and_never_twice() -> None:
    lines = make_lines(300, 5)
    assert lines == make_lines(300, 5)
    assert lines.content != make_lines(300, 6).content
    assert len(set(lines.records)) == lines.content.count == 300
    assert all(json.loads(line)["text"] for line in lines.records)
    assert b"".join(lines.blocks(5000)) == lines.body
    assert all(5000 <= len(block) < 6000 for block in lines.blocks(5000)[:-1])
    assert lines.first(10).content == Lines.of(lines.records[:10]).content


def test_content_sees_what_a_count_does_not() -> None:
    assert Lines.of([b"a", b"b"]).content == Lines.of([b"b", b"a"]).content
    assert Lines.of([b"a", b"a"]).content != Lines.of([b"a", b"b"]).content
    assert Lines.of([]).content == Content(0, 0)


def test_a_ratio_is_the_middle_one_of_the_rounds() -> None:
    ours = Samples("ours", "records/s", (10.0, 40.0, 90.0))
    theirs = Samples("theirs", "records/s", (10.0, 80.0, 30.0))
    one = Comparison("B0", "this", ours, theirs, aim=1)
    assert (one.ratios, one.ratio) == ([1.0, 0.5, 3.0], 1.0)
    assert ours.median == 40.0


@pytest.mark.parametrize(
    ("aim", "at_most", "is_reached"),
    [(0.5, False, True), (0.6, False, False), (0.5, True, True), (0.4, True, False)],
)
def test_an_aim_is_reached_from_the_right_side(aim: float, at_most: bool, is_reached: bool) -> None:
    ours = Samples("ours", "MB", (60.0,) * 3)
    one = Comparison("B0", "this", ours, limit(120, "MB", 3), aim, at_most)
    assert one.is_reached is is_reached


def test_what_processes_use_is_read_of_the_whole_family() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & wait"]) as shell:
        until(lambda: len(family_of(shell.pid).names) == 2, 10, "its child")
        family = family_of(shell.pid, {os.getpid(): "test"})
        assert sorted(family.names.values()) == ["sh", "sleep", "test"]
        assert family.pss_bytes() > 100_000
        before = family.total()
        while usage(os.getpid()).cpu_s < before.cpu_s + 0.1:
            sum(range(100_000))
        assert 0.05 < (family.total() - before).cpu_s < 10
        os.kill(next(pid for pid, name in family.names.items() if name == "sleep"), SIGKILL)
    assert role(os.getpid()).startswith(("python", "pytest"))


def test_who_ends_between_two_readings_has_handed_what_it_used_to_its_parent() -> None:
    """As the server's child does that writes its file anew."""
    ended = (
        "import os, sys\nif not (pid := os.fork()):\n sys.stdin.readline()\n sum(range(10**7))\n"
    )
    ended += " os._exit(0)\nprint(os.waitpid(pid, 0), flush=True)\nsys.stdin.readline()"
    with subprocess.Popen(
        [sys.executable, "-c", ended], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        until(lambda: len(family_of(parent.pid).names) == 2, 10, "its child")
        family = family_of(parent.pid)
        before, clocks = family.usage(), idle._clocks(family)
        parent.stdin.write("go\n")
        parent.stdin.flush()
        parent.stdout.readline()
        after = family.usage()
        assert after.keys() == before.keys()
        assert sum(one.cpu_s for one in after.values()) > sum(one.cpu_s for one in before.values())
        assert idle._uses(family, clocks, idle._clocks(family)).keys() == before.keys()
        assert len(family_of(parent.pid).names) == 1
        parent.stdin.close()


def test_the_servers_child_that_writes_its_file_anew_is_the_server() -> None:
    title = "exec -a valkey-aof-rewrite sleep 60"
    with subprocess.Popen(["bash", "-c", title]) as child:
        until(lambda: role(child.pid) == "valkey-server", 10, "its title")
        child.kill()


def test_a_figure_that_the_other_way_lacks_is_no_reason_to_stop() -> None:
    """A short run may take less than the clock of /proc can tell."""
    one = Comparison("B0", "this", limit(1, "s", 1), limit(0, "s", 1), aim=1, at_most=True)
    assert not one.is_reached
