"""`gaps`: what people type, and what they read."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance import cli
from appliance.batch import Batch
from appliance.frame import Gap
from appliance.settings import Column
from appliance.stores import gaps as gap_list
from appliance.stores.sqlite import SQLiteStore
from appliance.verbs import gaps

RUN = bytes.fromhex("0190aa" + "0" * 26)
NOON = 1_700_000_000.0  # 2023-11-14 22:13:20
CONFIG = """
name = "nfl"
state_dir = "{place}"
[source.tweets]
type = "file"
path = "/dev/null"
"""

Run = Callable[..., tuple[int, str, str]]


class Place:
    """An instance with a store of its own, in which something is missing."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "stream-daemon.toml"
        self.file.write_text(CONFIG.format(place=folder))
        self.directory = folder / "nfl"

    def lose(self) -> None:
        """Frames 2 and 4 are missing, 4 comes after all; frame 3 says what never reached us."""
        self.directory.mkdir()
        store = SQLiteStore(
            str(self.directory / "nfl.db"), "nfl", "records", {"raw": Column(type="TEXT", path="")}
        )
        store.prepare()
        never = (Gap("away", began=NOON - 90_000, ended=NOON - 86_400), Gap("cut"))
        store.store([frame(1), frame(3, *never), frame(5)])
        store.give_up(store.fold())
        store.store([frame(4)])
        store.fold()
        store.close()


def frame(number: int, *never: Gap) -> Batch:
    """Ten records of ten bytes each."""
    times = NOON + number, NOON + number + 0.5
    rows = [(f"{n:9}",) for n in range(10)]
    frame = Batch(RUN, number, "tweets", 10, 100, *times, rows, [*range(10)], [], gaps=never)
    return replace(frame, records_before=10 * (number - 1), bytes_before=100 * (number - 1))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def run(place: Place, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run `gaps …`; its exit code and what it says."""

    def run(*args: str) -> tuple[int, str, str]:
        code = cli.main(["-c", str(place.file), "gaps", *args])
        return code, *capfd.readouterr()

    return run


def test_what_is_missing_is_listed_the_newest_first(place: Place, run: Run) -> None:
    place.lose()
    code, out, err = run()
    assert (code, err) == (0, "")
    first, head, *lines = out.splitlines()
    assert first == "3 gaps: 10 records are missing, and in 2 of them nobody knows how many"
    assert head.split("  ")[0] == "SOURCE"
    assert [" ".join(line.split()) for line in lines] == [
        "tweets queue lost 2023-11-14 22:13:21 2023-11-14 22:13:23 10 100 0 0190aa0000000:2-2",
        "tweets cut 2023-11-14 22:13:23 2023-11-14 22:13:23 unknown unknown 0",
        "tweets away 2023-11-13 21:13:20 2023-11-13 22:13:20 unknown unknown 0",
    ]


def test_those_that_were_filled_are_shown_too_where_all_are_wanted(place: Place, run: Run) -> None:
    place.lose()
    _, out, _ = run("--all", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert [gap["cause"] for gap in found] == ["queue lost", "queue lost", "cut", "away"]
    assert found[0] == {
        "cause": "queue lost",
        "source": "tweets",
        "began": "2023-11-14T22:13:23.500000Z",
        "ended": "2023-11-14T22:13:25.000000Z",
        "records": 10,
        "bytes": 100,
        "recovered": 10,
        "run": RUN.hex(),
        "first": None,
        "last": None,
    }
    assert (found[1]["first"], found[1]["last"], found[1]["recovered"]) == (2, 2, 0)
    assert (found[2]["records"], found[2]["bytes"]) == (None, None)


@pytest.mark.parametrize(
    ("since", "causes"),
    [
        ("2023-11-13", ["queue lost", "cut", "away"]),
        ("2023-11-13T22:13:20Z", ["queue lost", "cut", "away"]),
        ("2023-11-13T22:13:21Z", ["queue lost", "cut"]),
        ("2h", []),
    ],
)
def test_since_a_time(place: Place, run: Run, since: str, causes: list[str]) -> None:
    """What ended then or later."""
    place.lose()
    _, out, _ = run("--json", "--since", since)
    assert [json.loads(line)["cause"] for line in out.splitlines()] == causes
    if not causes:
        assert run("--since", since)[1] == "no gaps: nothing is known to be missing\n"


def test_long_lists_are_read_in_pages(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.lose()
    everything = run("--all", "--json")[1]
    monkeypatch.setattr(gap_list, "PAGE_GAPS_MAX", 2)
    assert run("--all", "--json")[1] == everything
    monkeypatch.setattr(gap_list, "PAGE_GAPS_MAX", 1)
    assert run("--all", "--json")[1] == everything
    monkeypatch.setattr(gaps, "SHOWN", 1)
    assert run()[1].splitlines()[-1] == "… and 2 older ones (--json shows all)"


def test_where_nothing_is_yet(place: Place, run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (0, "")
    assert err == "no gaps: store embedded has no tables of this instance yet\n"
    assert not place.directory.exists()
