"""The file source through what happens to files: growth, rotation, truncation, absence.

What all sources promise is in contract/test_source.py.
"""

import json
import os
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance import framing
from appliance.contracts import Chunk
from appliance.errors import Unavailable
from appliance.frame import Gap
from appliance.framing import TOO_LONG, Ending
from appliance.sources.file import HEAD_BYTES_MAX, QUIET_S, FileSource

RECORD_BYTES_MAX = 200
FRAME_BYTES_MAX = 300


class Log:
    """A log file, its writer, and the sources that read it one after the other."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "app.log"
        self.now = 1000.0  # monotonic
        self.settings: dict[str, Any] = {"start": "beginning", "follow": True}
        self.boot: str | None = "boot-1"
        self.cursor: str | None = None
        self.frames: list[Chunk] = []
        self._source: FileSource | None = None

    @property
    def source(self) -> FileSource:
        if self._source is None:
            self._source = self.make()
            self._source.resume(self.cursor, None)
        return self._source

    def make(self, **changed: Any) -> FileSource:
        settings: dict[str, Any] = {
            "path": str(self.path),
            "record_bytes_max": RECORD_BYTES_MAX,
            "frame_bytes_max": FRAME_BYTES_MAX,
            "boot": self.boot,
            "monotonic": lambda: self.now,
        }
        return FileSource(**(settings | self.settings | changed))

    def write(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)

    def turn(self) -> bool:
        chunk = self.source.peek()
        if chunk is None:
            return False
        chunk.body = bytes(chunk.body)
        assert chunk.cursor_before == self.cursor, "the chain of cursors is broken"
        assert chunk.body.count(b"\n") == chunk.records
        self.frames.append(chunk)
        self.source.discard(chunk)
        self.cursor = chunk.cursor_after
        return True

    def read(self) -> bytes:
        """Turn until nothing is shown, also after a while; what came in this call."""
        before, idle = len(self.frames), 0
        while idle < 20:  # looks; skipping an over-long line takes some
            if self.turn():
                idle = 0
            else:
                idle += 1
                self.now += QUIET_S
        return self.body_from(before)

    def body_from(self, index: int) -> bytes:
        return b"".join(bytes(chunk.body) for chunk in self.frames[index:])

    @property
    def gaps(self) -> list[Gap]:
        return [gap for chunk in self.frames for gap in chunk.gaps]

    def rotate(self, name: str = "app.log.1") -> Path:
        """Rename it; who writes next makes a new one."""
        old = self.path.with_name(name)
        self.path.rename(old)
        return old

    def kill(self) -> None:
        """The process dies; the next `source` knows only the cursor."""
        if self._source is not None:
            self._source.close()
        self._source = None


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    open_before = descriptors()
    made = Log(tmp_path)
    yield made
    made.kill()
    assert descriptors() <= open_before, "a descriptor was left open"


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


# ── a file that isn't there, or isn't one ───────────────────────────────────────────────


def test_a_file_that_is_not_there_is_awaited(log: Log) -> None:
    assert log.source.peek() is None
    assert log.source.waiting_for == f"{log.path}: the file is not there yet"
    later = threading.Timer(0.05, log.write, [b"first\n"])
    later.start()
    assert seconds(lambda: log.source.wait(30)) < 0.9, "inotify tells, not the fallback"
    later.join()
    assert log.read() == b"first\n"
    assert log.source.waiting_for == ""
    assert not log.gaps


def test_a_directory_that_is_not_there_is_awaited(log: Log) -> None:
    log.path = log.path.parent / "deep" / "app.log"
    assert log.source.peek() is None
    assert "not there yet" in log.source.waiting_for
    log.path.parent.mkdir()
    log.write(b"first\n")
    assert log.read() == b"first\n"


def test_a_directory_in_its_place_is_named(log: Log) -> None:
    log.path.mkdir()
    assert log.source.peek() is None
    assert log.source.waiting_for == f"{log.path} is a directory; name a file in it"
    log.path.rmdir()
    log.write(b"now\n")
    assert log.read() == b"now\n"


def test_a_fifo_in_its_place_is_named_and_not_touched(log: Log) -> None:
    os.mkfifo(log.path)
    assert log.source.peek() is None
    assert "fifo" in log.source.waiting_for
    with pytest.raises(OSError, match="No such device"):  # ENXIO: no reader ever came
        os.open(log.path, os.O_WRONLY | os.O_NONBLOCK)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: be somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_file_without_permission_is_awaited(log: Log) -> None:
    log.write(b"secret\n")
    log.path.chmod(0)
    source = log.source
    with as_nobody():
        assert source.peek() is None
        assert "may not read it" in source.waiting_for
    log.path.chmod(0o644)
    assert log.read() == b"secret\n"
    assert log.source.waiting_for == ""


def test_a_file_in_doubt_without_permission_is_not_a_gap(log: Log) -> None:
    log.write(b"one\n")
    chunk = log.source.peek()
    assert chunk is not None
    log.kill()
    log.path.chmod(0)
    source = log.source
    with as_nobody(), pytest.raises(Unavailable, match="may not read it"):
        source.again(chunk.claim)
    log.path.chmod(0o644)
    assert bytes(source.again(chunk.claim).body) == b"one\n"


# ── where it begins and ends ────────────────────────────────────────────────────────────


def test_start_at_the_end_begins_behind_the_last_whole_line(log: Log) -> None:
    log.settings["start"] = "end"
    log.write(b"old\nolder\nunfin")
    assert log.read() == b""
    log.write(b"ished\nnew\n")
    assert log.read() == b"unfinished\nnew\n"


@pytest.mark.parametrize("exists", [True, False])
def test_start_at_the_end_is_kept_before_the_first_record(log: Log, exists: bool) -> None:
    log.settings["start"] = "end"
    if exists:
        log.write(b"old\n")
    log.read()
    assert [chunk.records for chunk in log.frames] == [0], "an empty chunk tells the place"
    log.kill()
    log.write(b"written while nobody looked\n")
    assert log.read() == b"written while nobody looked\n"
    assert not log.gaps


def test_start_at_the_end_within_a_long_line_drops_its_rest(log: Log) -> None:
    log.settings["start"] = "end"
    log.write(b"x" * 1000)
    assert log.read() == b"", "a line that began before isn't a record, not even a rejected one"
    log.kill()
    log.write(b"xxx\nnew\n")
    assert log.read() == b"new\n"


def test_a_file_that_is_not_followed_ends_at_its_end(log: Log) -> None:
    log.settings["follow"] = False
    log.write(b"one\r\n\0\n" + b"z" * 250 + b"\nlast")
    assert log.read() == b"one\r\n\0\n" + b"z" * 199 + b"\nlast\n"
    assert log.source.ended
    log.kill()
    assert log.read() == b""
    assert log.source.ended, "nothing new since the last time"


def test_an_over_long_end_that_is_not_followed_is_counted(log: Log) -> None:
    log.settings["follow"] = False
    log.write(b"a\n" + b"x" * 5000)
    assert log.read() == b"a\n" + b"x" * 199 + b"\n"
    assert sum(chunk.skipped_bytes for chunk in log.frames) == 5000 - 199
    assert log.source.ended


def test_stop_ends_at_once_and_the_rest_is_there_for_the_next(log: Log) -> None:
    log.write(b"a" * 150 + b"\n" + b"b" * 190 + b"\n")
    log.turn()
    log.source.stop(quick=False)
    assert log.source.ended
    assert log.source.peek() is None
    log.kill()
    assert log.read() == b"b" * 190 + b"\n"


def test_a_line_of_many_buffers_is_skipped_a_buffer_a_look(log: Log) -> None:
    log.write(b"x" * 3000)
    assert log.turn()
    for _ in range(9):  # 2700 bytes are left, a buffer has 300
        assert log.source.peek() is None
        assert seconds(lambda: log.source.wait(30)) < 0.5, "there is more to read"
    log.kill()  # what was skipped since the last chunk is skipped again
    log.write(b"xxx\nnext\n")
    assert log.read() == b"next\n"
    assert log.frames[0].rejected == {0: TOO_LONG}
    assert sum(chunk.skipped_bytes for chunk in log.frames) == 3003 - 199


def test_blocking_calls_stand_between_beats(log: Log) -> None:
    beats: list[int] = []
    log.write(b"one\n")
    log.settings["beat"] = lambda: beats.append(1)
    log.source.peek()
    assert len(beats) == 2


# ── rotation ────────────────────────────────────────────────────────────────────────────


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    log.write(b"2\nunfinished")
    old = log.rotate()
    log.write(b"new 1\n")
    while log.turn():  # the clock stands: the old one wasn't quiet for QUIET_S
        pass
    assert log.body_from(0) == b"1\n2\n"
    with old.open("ab") as file:  # its writer is late to leave it
        file.write(b" no more\n3\n4")
    assert log.read() == b"unfinished no more\n3\n4\nnew 1\n"
    log.write(b"new 2\n")
    assert log.read() == b"new 2\n"
    assert not log.gaps


def test_the_old_file_is_not_left_before_the_new_one_has_bytes(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    old = log.rotate()
    log.path.touch()
    assert log.read() == b""
    with old.open("ab") as file:
        file.write(b"2\n")
    assert log.read() == b"2\n"
    log.write(b"new\n")
    assert log.read() == b"new\n"


def test_a_deleted_file_is_read_to_its_end(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    log.write(b"2\n")
    log.path.unlink()
    assert log.read() == b"2\n"
    log.write(b"new\n")
    assert log.read() == b"new\n"
    assert not log.gaps


def test_rotated_while_nobody_looked_it_is_found_by_inode(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    log.kill()
    log.write(b"2\n")
    log.rotate("app.log-20260102")
    log.write(b"new\n")
    log.path.with_name("app.log.other").write_bytes(b"not ours\n")
    assert log.read() == b"2\nnew\n"
    assert not log.gaps


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_rotated_several_times_while_nobody_looked_all_are_read_in_order(
    log: Log, dead: bool
) -> None:
    """As logrotate does it: .1 becomes .2, the file becomes .1. Other names aren't ours."""
    stamps = iter(range(100, 200))

    def stamp(path: Path) -> None:
        os.utime(path, (moment := next(stamps), moment))

    def rotate() -> None:
        stamp(log.path)
        for number in (3, 2, 1):
            older = log.path.with_name(f"app.log.{number}")
            if older.exists():
                older.rename(log.path.with_name(f"app.log.{number + 1}"))
        log.path.rename(log.path.with_name("app.log.1"))

    log.write(b"before our time\n")
    rotate()
    log.write(b"1\n")
    log.turn()
    if dead:
        log.kill()
    for line in (b"2\n", b"3\nunfinished", b"4\n"):
        log.write(line)
        rotate()
        for other in ("app.log.err", "app.log.1.gz", "app.log.bak", "myapp.log.1"):
            log.path.with_name(other).write_bytes(b"not ours\n")
            stamp(log.path.with_name(other))
    log.write(b"5\n")
    stamp(log.path)
    assert log.read() == b"2\n3\nunfinished\n4\n5\n"
    assert not log.gaps


def test_the_place_in_a_new_file_is_kept_when_the_old_one_is_deleted(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    old = log.rotate()
    log.write(b"unfin")
    log.read()
    log.kill()
    old.unlink()
    log.write(b"ished\n")
    assert log.read() == b"unfinished\n"
    assert not log.gaps


def test_a_file_that_went_while_nobody_looked_is_a_gap(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    log.kill()
    keep_inode = log.path.open("rb")
    log.path.unlink()
    assert log.source.peek() is None
    assert "not there yet" in log.source.waiting_for
    log.write(b"new\n")
    keep_inode.close()
    assert log.read() == b"new\n"
    assert log.gaps == [Gap("gone")]


def test_not_followed_a_rotated_file_and_then_the_new_one_are_read(log: Log) -> None:
    log.settings["follow"] = False
    log.write(b"1\n2")
    log.turn()
    log.kill()
    log.rotate()
    log.write(b"new\n")
    assert log.read() == b"2\nnew\n"
    assert log.source.ended


@pytest.mark.parametrize("seed", range(15))
def test_any_history_of_growth_rotation_and_death_gives_each_line_once(log: Log, seed: int) -> None:
    print("seed", seed)
    rng = random.Random(seed)
    files = [b""]
    log.write(b"")
    for number in range(120):
        act = rng.choice(["write", "write", "turn", "turn", "time", "kill", "doubt", "rotate"])
        if act == "write":
            line = f"{number} ".encode() + b"x" * rng.choice([0, 5, 150, 250, 900])
            data = line + rng.choice([b"\n", b"\n", b"\r\n\n", b""])
            log.write(data)
            files[-1] += data
        elif act == "turn":
            log.turn()
        elif act == "time":
            log.now += QUIET_S / 2
        elif act == "kill":
            log.kill()
        elif act == "doubt":
            die_in_doubt(log)
        elif act == "rotate" and has_begun(log):
            log.rotate(f"app.log.{number}")
            log.write(b"")
            files.append(b"")
    log.write(b"the end\n")
    files[-1] += b"the end\n"
    log.read()
    assert log.body_from(0) == b"".join(framed(data) for data in files)
    assert not log.gaps


def die_in_doubt(log: Log) -> None:
    """Die with a chunk noted; a successor makes it again and hands it over."""
    chunk = log.source.peek()
    if chunk is None:
        return
    body = bytes(chunk.body)
    log.kill()
    again = log.source.again(json.loads(json.dumps(chunk.claim)))
    assert bytes(again.body) == body
    assert (again.records, again.rejected) == (chunk.records, chunk.rejected)
    assert again == log.source.peek()
    log.turn()


def has_begun(log: Log) -> bool:
    """Whether the file at the path is the one being read: only one rotation is followed."""
    return log.cursor is not None and json.loads(log.cursor)["inode"] == log.path.stat().st_ino


def framed(data: bytes) -> bytes:
    buffer = bytearray(data)
    cut = framing.cut(
        buffer, 0, len(buffer), record_bytes_max=RECORD_BYTES_MAX, ending=Ending.CLEAN
    )
    return bytes(cut.body(buffer))


# ── truncation ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
@pytest.mark.parametrize("content", [b"new\n", b"another line, and longer than before\n"])
def test_a_file_written_over_in_place_is_read_anew_with_a_gap(
    log: Log, content: bytes, dead: bool
) -> None:
    log.write(b"one line\ntwo\n")
    assert log.read() == b"one line\ntwo\n"
    if dead:
        log.kill()
    log.path.write_bytes(content)
    assert log.read() == content
    assert log.gaps == [Gap("truncated")]
    log.kill()
    assert log.read() == b""
    assert log.gaps == [Gap("truncated")]


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_a_file_cut_shorter_is_read_anew_with_a_gap(log: Log, dead: bool) -> None:
    log.write(b"a" * 199 + b"\n" + b"b" * 199 + b"\n")
    log.read()
    if dead:
        log.kill()
    os.truncate(log.path, 300)  # its first bytes are the same
    log.write(b"\n")
    assert log.read() == b"a" * 199 + b"\n" + b"b" * 100 + b"\n"
    assert log.gaps == [Gap("truncated")]


def test_a_change_beyond_the_first_bytes_is_growth(log: Log) -> None:
    log.write(b"a" * 199 + b"\n" + b"b" * 199 + b"\n")
    log.read()
    cursor = json.loads(log.cursor or "")
    assert cursor["crc"] == zlib.crc32(log.path.read_bytes()[:HEAD_BYTES_MAX])
    log.write(b"c\n")
    assert log.read() == b"c\n"


def test_an_unfinished_line_that_was_taken_back_is_never_seen(log: Log) -> None:
    log.write(b"unfinished busin")
    assert log.read() == b""
    log.path.write_bytes(b"all new: unfinished too")
    assert log.read() == b""
    log.write(b"\n")
    assert log.read() == b"all new: unfinished too\n"
    assert not log.gaps, "nothing of it had been handed over"


def test_written_over_while_it_is_read_nothing_is_mixed(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write(b"old old old")
    real = os.preadv
    calls: list[int] = []

    def preadv(fd: int, buffers: list[memoryview], offset: int) -> int:
        count = real(fd, buffers, offset)
        if not calls:  # behind the first of the reads that fill the buffer
            log.path.write_bytes(b"new new new new\n")
        calls.append(offset)
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    assert log.read() == b"new new new new\n"


# ── the frame in doubt ──────────────────────────────────────────────────────────────────


def in_doubt(log: Log) -> Chunk:
    """Hand over one frame, show the next, die."""
    log.write(b"0\n")
    log.turn()
    log.write(b"1\n2\n")
    chunk = log.source.peek()
    assert chunk is not None
    chunk.body = bytes(chunk.body)
    log.kill()
    return chunk


def test_made_again_it_is_the_same_whatever_was_appended_or_configured(log: Log) -> None:
    log.settings["record_bytes_max"] = 10
    log.write(b"short\n" + b"long" * 9 + b"\ntail")
    chunk = log.source.peek()
    assert chunk is not None
    chunk.body = bytes(chunk.body)
    log.kill()
    log.write(b" grown\n")
    old, log.path = log.path, log.path.parent / "elsewhere" / "configured.log"
    log.settings |= {"record_bytes_max": 100, "frame_bytes_max": 100}
    assert log.source.again(json.loads(json.dumps(chunk.claim))) == chunk
    log.turn()
    assert log.read() == b"tail grown\n", f"{old} is read to its end"


def test_made_again_after_rotation_it_is_the_same(log: Log) -> None:
    chunk = in_doubt(log)
    log.rotate()
    log.write(b"new\n")
    assert log.source.again(chunk.claim) == chunk
    log.turn()
    assert log.read() == b"new\n"


@pytest.mark.parametrize("cause", ["gone", "truncated"])
def test_what_nobody_holds_any_more_is_a_gap_with_its_size(log: Log, cause: str) -> None:
    chunk = in_doubt(log)
    if cause == "gone":
        keep_inode = log.path.open("rb")
        log.path.unlink()
    log.path.write_bytes(b"9\n8\n7\n")
    again = log.source.again(chunk.claim)
    assert (again.records, again.body) == (0, b"")
    assert again.gaps == (Gap(cause, records=2, bytes=4),)
    assert again.cursor_after == chunk.cursor_after
    log.turn()
    assert log.read() == b"9\n8\n7\n"
    assert log.gaps == [Gap(cause, 2, 4), Gap(cause)]
    if cause == "gone":
        keep_inode.close()


def test_half_a_frame_is_no_frame(log: Log) -> None:
    log.write(b"a" * 199 + b"\n" + b"b" * 99 + b"\n" + b"c" * 99 + b"\n" + b"d" * 99 + b"\n")
    log.turn()
    chunk = log.source.peek()
    assert chunk is not None
    log.kill()
    os.truncate(log.path, 400)  # one of its two lines is left, and its first 256 bytes
    again = log.source.again(chunk.claim)
    assert again.gaps == (Gap("truncated", records=2, bytes=200),)


def test_a_gap_in_doubt_stays_one_gap(log: Log) -> None:
    log.write(b"first\n")
    log.read()
    log.path.write_bytes(b"x\n")
    chunk = log.source.peek()
    assert chunk is not None
    assert chunk.gaps == (Gap("truncated"),)
    log.kill()
    assert log.source.again(chunk.claim) == chunk
    assert log.read() == b"x\n"
    assert log.gaps == [Gap("truncated")]


def test_the_queue_stands_elsewhere_it_goes_on_there(log: Log) -> None:
    log.write(b"1\n")
    log.turn()
    elsewhere = log.cursor
    log.write(b"2\n")
    log.turn()
    log.write(b"3\n")
    assert log.source.peek() is not None
    log.source.resume(elsewhere, None)
    log.cursor = elsewhere
    assert log.read() == b"2\n3\n"


# ── the cursor ──────────────────────────────────────────────────────────────────────────


def test_the_cursor_is_a_line_that_explains_itself(log: Log) -> None:
    log.write(b"one\n")
    log.turn()
    status = log.path.stat()
    assert json.loads(log.cursor or "") == {
        "boot": "boot-1",
        "device": status.st_dev,
        "inode": status.st_ino,
        "crc": zlib.crc32(b"one\n"),
        "offset": 4,
        "skipping": False,
    }


@pytest.mark.parametrize(("boot", "gaps"), [("boot-1", ["truncated"]), ("boot-2", []), (None, [])])
def test_the_device_counts_within_one_boot(log: Log, boot: str | None, gaps: list[str]) -> None:
    log.write(b"one\n")
    log.turn()
    log.kill()
    cursor = json.loads(log.cursor or "")
    log.cursor = json.dumps(cursor | {"device": cursor["device"] + 1})
    log.boot = boot
    log.write(b"two\n")
    assert log.read() == (b"one\ntwo\n" if gaps else b"two\n")
    assert [gap.cause for gap in log.gaps] == gaps


@pytest.mark.parametrize("text", ["1700000000", "[1]", "not JSON", '{"seq": 5}'])
def test_a_cursor_of_another_kind_of_source_counts_as_none(log: Log, text: str) -> None:
    log.cursor = text
    log.write(b"one\n")
    assert log.read() == b"one\n"
    assert log.frames[0].cursor_before == text
