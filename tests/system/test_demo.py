"""`demo` as a user starts it: the real program, its last five lines, and nothing left behind.

The stream is made a second time here, from the seed alone, and compared with the database
that `--keep` leaves: the demo's own arithmetic is not trusted.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from appliance.tweets import TweetMaker
from tests.test_demo import processes_naming

SEED = 20
DEMO_S_MAX = 60.0
ROOT = Path(__file__).parents[2]


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "appliance", "demo", "--seed", str(SEED), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
    )


@pytest.fixture
def nothing_left(short_dir: Path) -> Iterator[Path]:
    """The directory for temporary files: empty, and in no process's command, at the end."""
    yield short_dir
    assert list(short_dir.iterdir()) == []
    assert processes_naming(str(short_dir)) == []


def test_it_adds_up_and_leaves_nothing(nothing_left: Path) -> None:
    with start(nothing_left) as process:
        out, err = process.communicate(timeout=DEMO_S_MAX)
    print(err)
    assert process.returncode == 0
    assert "killed collector tweets" in err
    assert "killed subscriber 1" in err
    assert result(out)["sent"] > 10_000


def test_what_it_keeps_is_every_tweet_that_names_a_team(
    tmp_path_factory: pytest.TempPathFactory, nothing_left: Path
) -> None:
    kept = tmp_path_factory.mktemp("k") / "kept"
    with start(nothing_left, "--keep", str(kept)) as process:
        out, err = process.communicate(timeout=DEMO_S_MAX)
    print(err)
    assert process.returncode == 0
    database = kept / "demo" / "demo.db"
    assert f"sqlite3 {database}" in err

    counts = result(out)
    maker = TweetMaker(Random(SEED))
    sent = [maker.tweet() for _ in range(counts["sent"])]
    with closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT id, screen_name, lang, retweet_of, text, raw, received_at FROM records"
        ).fetchall()
    assert sorted(row[5] for row in rows) == sorted(t.line.decode() for t in sent if t.teams)
    for id, screen_name, lang, retweet_of, text, raw, received_at in rows:
        tweet = json.loads(raw)
        assert (id, text, lang) == (tweet["id"], tweet["text"], tweet["lang"])
        assert screen_name == tweet["user"]["screen_name"]
        assert retweet_of == tweet.get("retweeted_status", {}).get("id")
        assert received_at


def result(out: str) -> dict[str, int]:
    """The last five lines, which have to add up."""
    lines = [line.split(" ") for line in out.splitlines()[-5:]]
    assert [line[0] for line in lines] == ["sent", "filtered", "stored", "lost", "doubled"]
    counts = {name: int(number) for name, number in lines}
    assert counts["sent"] == counts["filtered"] + counts["stored"]
    assert counts["lost"] == counts["doubled"] == 0
    assert 0.4 < counts["stored"] / counts["sent"] < 0.6
    return counts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, nothing_left: Path) -> None:
    with start(nothing_left) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "sent" in line:  # it is in the middle of sending
                break
        process.send_signal(number)
        process.communicate(timeout=DEMO_S_MAX)
    assert process.returncode == 128 + number
