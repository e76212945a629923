"""The bench's burst: who sends, what is added up, and the picture."""

import socket
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.burst import per_s
from tests.bench.lines import FIRST_ID, make_lines
from tests.bench.sender import Sender, Stretch, Sums
from tests.system.daemon import until

LINES = make_lines(50, 3)


@contextmanager
def sending(*plan: Stretch) -> Iterator[tuple[Sender, list[bytes]]]:
    """A sender, and all that it has sent, once it has closed its connection."""
    received: list[bytes] = []

    def receive() -> None:
        connection, _ = server.accept()
        with connection, connection.makefile("rb") as stream:
            received.extend(stream)

    with socket.create_server(("127.0.0.1", 0)) as server:
        receiver = threading.Thread(target=receive)
        receiver.start()
        sender = Sender(server.getsockname()[1], LINES, plan)
        sender.start()
        try:
            yield sender, received
        finally:
            sender.finish()
            receiver.join()


def test_each_line_is_sent_once_under_a_number_of_its_own() -> None:
    with sending(Stretch(0.05, 100), Stretch(0.05, 20_000), Stretch(0.05, 100)) as (sender, got):
        until(lambda: sender.sent > 1005, 10, "the burst to be over")
        sums = sender.finish()
    lines = [line.removesuffix(b"\n") for line in got]
    assert lines[0] == LINES.records[0]
    numbers = [b'{"id":%d,' % (FIRST_ID + number) for number in range(sums.count)]
    assert [line[: len(number)] for line, number in zip(lines, numbers, strict=True)] == numbers
    assert sums == Sums(len(lines), sum(map(zlib.crc32, lines)))
    assert sums != Sums(len(lines), sum(map(zlib.crc32, [*lines[:-1], lines[0]])))


def test_it_is_known_when_each_line_was_sent() -> None:
    with sending(Stretch(0.0, 0), Stretch(0.0, 1000)) as (sender, _):
        until(lambda: sender.sent > 100, 10, "a hundred lines")
        now = time.perf_counter()
        times = [sender.time_of(number) for number in range(100)]
    assert times == sorted(times)
    assert sender.began <= times[0]
    assert len(set(times)) > 1
    assert times[-1] <= now


def test_a_rate_is_that_of_the_last_two_samples() -> None:
    assert per_s([0, 1, 2, 4], [0, 10, 30, 30]) == [0, 10, 15, 20 / 3]


def test_the_same_figures_make_the_same_picture() -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib (pip install -e '.[bench]')")
    from tests.bench.pictures import Panel, over_time

    panels = [Panel("records/s", {"sent": [1, 5, 1], "stored": [0, 2, 3]})]
    picture = over_time([0, 1, 2], panels, (0.5, 1.5))
    assert picture == over_time([0, 1, 2], panels, (0.5, 1.5))
    assert picture.startswith("<?xml")
    assert "stored" in picture
    assert picture != over_time([0, 1, 2], [Panel("", {"sent": [1, 5, 2]})], (0.5, 1.5))
