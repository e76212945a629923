"""The benchmarks run: both figures, a few records, and a wrong table is no figure."""

import json
from pathlib import Path

import pytest

from tests.bench import __main__ as program
from tests.bench import measure
from tests.bench.database import Database, private_database
from tests.bench.lines import Content, Lines, make_lines
from tests.bench.measure import Comparison, Rates, WrongContentError
from tests.conftest import find_service
from tests.redis_servers import find_valkey


def test_both_figures_are_measured_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for services in (("mariadbd", "mysqld"), ("mariadb", "mysql")):
        find_service(*services)
    find_valkey()
    file = tmp_path / "bench.json"
    assert program.main(["--records", "4000", "--rounds", "1", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())["figures"]
    assert figures.keys() == {"B5", "B7"}
    printed = capsys.readouterr().out
    for name, figure in figures.items():
        assert f"{figure['ours']['records_per_s']:,}" in printed
        assert name in printed
        assert figure["ratio"] > 0
    assert figures["B5"]["against"]["records"] == 4000


def test_a_figure_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["B5", "B99"])
    assert "B99 is none of B5, B7" in capsys.readouterr().err


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
    ours, theirs = Rates("ours", 9, (10.0, 40.0, 90.0)), Rates("theirs", 9, (10.0, 80.0, 30.0))
    one = Comparison("B0", "this", ours, theirs, aim=1)
    assert (one.ratios, one.ratio) == ([1.0, 0.5, 3.0], 1.0)
    assert ours.median == 40.0
