"""`spool check`, `repair` and `dump` over real files, as a user calls them."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import repair, stock
from appliance import spool as spool_module
from appliance.cli import main
from appliance.contracts import Spooled
from appliance.errors import Exit
from appliance.instance import Instance
from appliance.segments import HEAD_BYTES
from appliance.spool import DiskSpool
from tests.spooling import PLENTY, frame, item

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance(tmp_path / "state" / "nfl")
    made.make()
    return made


@pytest.fixture
def file(instance: Instance) -> Path:
    path = instance.directory.parent.parent / "c.toml"
    path.write_text(f'name = "nfl"\nstate_dir = "{instance.directory.parent}"\n')
    return path


@pytest.fixture
def run(file: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def spool(*words: str) -> tuple[int, str, str]:
        code = main(["-c", str(file), "spool", *words])
        return code, *capfd.readouterr()

    return spool


@pytest.fixture(autouse=True)
def three_frames_a_segment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "SEGMENT_BYTES_MAX", 3 * (HEAD_BYTES + len(item(99))))


def fill(instance: Instance, source: str, *numbers: int) -> DiskSpool:
    spool = DiskSpool(instance.spool_of(source), PLENTY)
    spool.open()
    for number in numbers:
        spool.append(*frame(number))
    return spool


def bodies(*numbers: int) -> str:
    return "".join(frame(number)[1].decode() for number in numbers)


def segment(instance: Instance, number: int, kind: str = "seg") -> Path:
    return instance.spool_of("tweets") / f"{number:020d}.{kind}"


def turn_bits(path: Path, *bits: int) -> None:
    data = bytearray(path.read_bytes())
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


IN_THE_SECOND = 3000  # a bit of the second frame of a segment


def test_nothing_is_there(run: Run, instance: Instance) -> None:
    for action in ("check", "repair", "dump"):
        code, out, err = run(action)
        assert (code, out) == (Exit.OK, "")
        assert f"no source has anything in a spool under {instance.spool}" in err
        assert "source x has nothing" in run(action, "--source", "x")[2]
    assert list(instance.spool.iterdir()) == []


def test_check_counts_what_waits(run: Run, instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 8))
    fill(instance, "logs", 1)
    code, out, err = run("check")
    assert (code, err) == (0, "")
    size = sum(HEAD_BYTES + len(item(number)) for number in range(1, 8))
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["source", "segments", "frames", "records", "bytes", "damaged"]
    assert rows[1][:4] == ["logs", "1", "1", "2"]
    assert rows[2] == ["tweets", "3", "7", "14", str(size), "0"]
    assert len(run("check", "--source", "logs")[1].splitlines()) == 2


def test_check_finds_damage_and_changes_nothing(run: Run, instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 8))
    turn_bits(segment(instance, 2), IN_THE_SECOND)
    segment(instance, 1).rename(segment(instance, 1, "bad"))
    before = {path: path.read_bytes() for path in instance.spool_of("tweets").iterdir()}
    code, out, _err = run("check")
    assert code == Exit.WRONG
    assert re.search(r"tweets +2 +2 +4 +\d+ +2\n", out)
    assert f"{segment(instance, 2).name} is damaged: the frame at byte" in out
    assert f"{segment(instance, 1, 'bad').name} is set aside" in out
    assert "stream-daemon spool repair" in out
    assert {path: path.read_bytes() for path in instance.spool_of("tweets").iterdir()} == before


def test_check_beside_a_writer_takes_an_unfinished_frame_for_the_end(
    run: Run, instance: Instance
) -> None:
    fill(instance, "tweets", *range(1, 6))
    for number, code in ((2, Exit.OK), (1, Exit.WRONG)):
        path = segment(instance, number)
        path.write_bytes(path.read_bytes() + b"SDs1")
        assert run("check")[0] == code


def test_repair_brings_back_what_the_running_instance_then_replays(
    run: Run, instance: Instance
) -> None:
    spool = fill(instance, "tweets", *range(1, 8))
    turn_bits(segment(instance, 1), IN_THE_SECOND)
    turn_bits(segment(instance, 2), IN_THE_SECOND, IN_THE_SECOND + 9)
    assert [shown.header.number for shown in replay(spool)] == [1, 4, 7]
    code, out, _err = run("repair")
    assert code == Exit.WRONG
    assert f"{segment(instance, 1).stem}.bad: 3 frames brought back, 1 wrong bits turned" in out
    assert f"{segment(instance, 2).stem}.bad: 2 frames brought back\n" in out
    assert "lost: frame 0192f0c1d2e37abc8def0123456789ab:5, " in out
    assert f"kept as {segment(instance, 2).stem}.lost" in out
    assert "5 frames are back" in out
    later = DiskSpool(instance.spool_of("tweets"), PLENTY)
    later.open()
    assert [(one.header.number, one.repaired) for one in replay(later)] == [
        (number, True) for number in (1, 2, 3, 4, 6)
    ]
    assert run("repair")[0] == Exit.OK
    assert [path.suffix for path in instance.spool_of("tweets").iterdir()] == [".lost"]


def replay(spool: DiskSpool) -> list[Spooled]:
    shown = []
    while one := spool.oldest():
        shown.append(one)
        spool.forget(one)
    return shown


def test_only_one_repair_is_at_work(run: Run, instance: Instance) -> None:
    fill(instance, "tweets", 1)
    with repair.alone(instance.spool_of("tweets")):
        code, _out, err = run("repair")
    assert code == Exit.TAKEN
    assert "another repair is at work" in err


def test_dump_prints_records_and_headers(run: Run, instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 8))
    fill(instance, "logs", 9)
    assert run("dump") == (0, bodies(9, *range(1, 8)), "")
    assert run("dump", "--source", "tweets") == (0, bodies(*range(1, 8)), "")
    code, out, _err = run("dump", "--headers", "--source", "tweets")
    assert [json.loads(line)["number"] for line in out.splitlines()] == [*range(1, 8)]
    assert code == 0


def test_dump_says_what_it_can_not_read(run: Run, instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 8))
    turn_bits(segment(instance, 2), IN_THE_SECOND)
    code, out, err = run("dump")
    assert (code, out) == (Exit.WRONG, bodies(1, 2, 3, 4, 7))
    assert "is damaged, the rest is left out" in err
    segment(instance, 2).rename(segment(instance, 2, "bad"))
    assert run("dump", "--bad") == (0, bodies(4, 5, 6), ""), "one bit is put right"
    turn_bits(segment(instance, 2, "bad"), IN_THE_SECOND + 1)
    code, out, err = run("dump", "--bad")
    assert (code, out) == (Exit.WRONG, bodies(4, 6))
    assert "more than one of its bits is wrong" in err


def test_dump_into_a_reader_that_has_seen_enough(file: Path, instance: Instance) -> None:
    spool = DiskSpool(instance.spool_of("tweets"), PLENTY)
    spool.open()
    spool.append(*frame(1, b"a line of some length\n" * 50_000))
    command = f"'{sys.executable}' -m appliance -c '{file}' spool dump | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a line of some length\n", "")


def test_options_that_belong_to_dump_alone(run: Run) -> None:
    for option in ("--headers", "--bad"):
        with pytest.raises(SystemExit) as ended:
            run("check", option)
        assert ended.value.code == Exit.USAGE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files: run as root")
def test_repair_is_for_the_owner(
    run: Run, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(instance, "tweets", 1)
    os.chown(instance.directory, 65534, 65534)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    code, _out, err = run("repair")
    assert code == Exit.TAKEN
    assert re.search(r"sudo -u \S+ stream-daemon -c \S+ spool repair", err)
    assert run("check")[0] == run("dump")[0] == Exit.OK


def test_a_table_is_drawn_on_a_terminal(
    run: Run, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(instance, "tweets", 1)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "dumb")
    drawn = Terminal()
    monkeypatch.setattr(sys, "stdout", drawn)
    assert main(["-c", str(instance.directory.parent.parent / "c.toml"), "spool", "check"]) == 0
    assert "┃ source ┃ segments ┃" in drawn.getvalue()


# ── for audit and check ─────────────────────────────────────────────────────────────────


def test_headers_of_what_waits(instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 8))
    directory = instance.spool_of("tweets")
    assert [header.number for header in stock.headers(directory)] == [*range(1, 8)]
    last = segment(instance, 3)
    last.write_bytes(last.read_bytes() + b"SDs1 just being written")
    turn_bits(segment(instance, 2), 3)
    assert [header.number for header in stock.headers(directory)] == [1, 2, 3, 7]
    assert [*stock.headers(instance.spool_of("nobody"))] == []


def test_the_header_of_a_frame_with_a_very_long_one(instance: Instance) -> None:
    line, body = frame(1)
    rejected = ",".join(f'"{index}":"cut"' for index in range(20_000)).encode()
    long = line.replace(b'"records"', b'"rejected":{' + rejected + b'},"records"')
    spool = fill(instance, "tweets")
    spool.append(long, body)
    (header,) = stock.headers(instance.spool_of("tweets"))
    assert len(header.rejected) == 20_000


def test_what_check_says(instance: Instance) -> None:
    fill(instance, "tweets", *range(1, 5))
    fill(instance, "old", 1)
    fill(instance, "clean", 1).drop()
    segment(instance, 1).rename(segment(instance, 1, "bad"))
    (instance.spool / "a file").write_text("")
    assert stock.sources(instance.spool) == ["old", "tweets"]
    old, waits, bad = stock.look(instance.spool, ["tweets", "clean"])
    assert "1 frames" in old.text
    assert "source old, which isn't configured," in old.text
    assert "replay them all the same" in old.hint
    assert "1 frames" in waits.text
    assert waits.hint == ""
    assert bad.text == "1 damaged segments of source tweets are set aside"
    assert "stream-daemon spool repair" in bad.hint
    assert stock.look(instance.spool / "missing", []) == []
