"""The figures of scale run: a few records, few frames that wait, and all of it is checked."""

import pytest

from appliance.frame import decode, encode_header
from tests.bench import __main__ as program
from tests.bench import backlog, memory, scale
from tests.bench.lines import Lines
from tests.conftest import find_service
from tests.redis_servers import find_valkey


def test_all_figures_of_scale_are_measured_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_service("mariadbd", "mysqld")
    find_valkey()
    for name, value in {"FEW_FRAMES": 40_000, "STORED_FRAMES": 40_000}.items():
        monkeypatch.setattr(backlog, name, value)
    monkeypatch.setattr(memory, "SETTLE_S", 0.0)
    for name, value in {"SUBSCRIBERS": (1, 2), "COLUMNS": (2, 5)}.items():
        monkeypatch.setattr(scale, name, value)
    figures = ["B10", "B11", "scale-subscribers", "scale-size", "scale-columns"]
    assert program.main([*figures, "--records", "3000", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    of_backlogs = ("10,000 frames waiting", "400 frames waiting", "embedded server")
    of_scale = ("2 subscribers", "records of 1,048,576 bytes", "5 columns")
    for words in (*figures, *of_backlogs, *of_scale):
        assert words in printed


def test_frames_that_wait_are_what_a_collector_makes() -> None:
    frames = backlog.Frames("lines")
    items = [item for some in frames.more(2_500) for item in some]
    items += [item for some in frames.more(1) for item in some]
    before = (0, 0)
    for number, item in enumerate(items, 1):
        header, body = decode(item).header, decode(item).body
        assert item == encode_header(header) + body
        assert (header.number, header.records) == (number, body.count(b"\n"))
        assert (header.records_before, header.bytes_before) == before
        before = (before[0] + header.records, before[1] + header.body_bytes)
    bodies = b"".join(decode(item).body for item in items[1:3])
    assert Lines.of(frames.records(2, 3)).body == bodies


@pytest.mark.parametrize("length", [100, 1_000, 10_000])
def test_records_have_just_the_length_that_is_measured(length: int) -> None:
    lines = Lines.of(scale.records_of([b'{"a":1}', b'{"b":[2]}' * 3], length, 5))
    assert {len(record) + 1 for record in lines.records} == {length}
    assert len(set(lines.records)) == 5
