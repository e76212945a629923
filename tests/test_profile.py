"""The profile: samples are shared out by whose code ran, and the whole program prints tables."""

import os
import subprocess

import pytest

from tests.bench import profile, sampling
from tests.bench.sampling import JSON, OURS, PYMYSQL, REDIS, REST, NoSamplesError
from tests.conftest import find_service
from tests.redis_servers import find_valkey

ROOT = "main (appliance/__main__.py:13);Subscriber.run (appliance/subscriber.py:113)"


@pytest.mark.parametrize(
    ("stack", "owner"),
    [
        ("RowMaker.batch (appliance/rows.py:168)", OURS),
        ("RowMaker.batch (appliance/rows.py:168);bytes_split (bytesobject.c:12)", OURS),
        ("_parsed (appliance/reading.py:171);0x7f8f (orjson/orjson.cpython.so)", JSON),
        ("_each (appliance/reading.py:139);decode (msgspec/_core.cpython.so)", JSON),
        ("run (appliance/stores/mysql.py:497);Cursor.execute (pymysql/cursors.py:170)", PYMYSQL),
        ("read (redis/_parsers/hiredis.py:9);feed (hiredis/hiredis.so);memcpy (libc.so.6)", REDIS),
        ("read (appliance/child.py:9);loads (json/decoder.py:9)", REST),
        ("write (pymysql/connections.py:8);sock_call (socketmodule.c:9);send (libc.so.6)", None),
        ("push (appliance/queues/redis.py:9);__libc_recv (libc.so.6)", None),
    ],
)  # fmt: skip
def test_the_innermost_frame_that_says_whose_it_is_decides(stack: str, owner: str | None) -> None:
    assert sampling.owner_of(f"{ROOT};{stack}".split(";")) == owner


def test_samples_are_counted_and_become_shares() -> None:
    text = f"{ROOT} 6\n{ROOT};loads (json/decoder.py:9) 2\n{ROOT};recv (libc.so.6) 90\n"
    counts = sampling.count(text)
    assert counts == {OURS: 6, REST: 2}
    assert sampling.shares(counts) == {OURS: 0.75, PYMYSQL: 0, REDIS: 0, JSON: 0, REST: 0.25}


def test_who_may_not_look_is_told_so() -> None:
    _needs_sampler()
    with subprocess.Popen(["sleep", "60"]) as no_python:
        with pytest.raises(NoSamplesError, match="py-spy: "), sampling.sampled({no_python.pid: ""}):
            pass
        no_python.kill()


def test_the_whole_program_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    _needs_sampler()
    find_service("mariadbd", "mysqld")
    find_valkey()
    if os.geteuid() != 0:
        pytest.skip("root alone may look into other processes")
    assert profile.main(["B3", "--records", "4000"]) == 0
    printed = capsys.readouterr().out
    assert "B3: backlog → MariaDB, one raw column" in printed
    for row in ("collector", "subscriber", "valkey-server", "mariadbd alone"):
        assert f"| {row} " in printed


def _needs_sampler() -> None:
    try:
        sampling.find_sampler()
    except NoSamplesError as missing:
        pytest.skip(str(missing))
