"""The note file: what a writer had noted when it was killed is what its successor reads.

The file is closed nowhere: every "kill" just opens it again, as a new process would.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import note as notes
from appliance.accounts import Handed
from appliance.errors import InstanceError
from appliance.frame import Gap, RunEnd
from appliance.note import (
    FILE_BYTES,
    KILLED,
    PAGE,
    SLOT_BYTES,
    SPOOL_FULL,
    Missing,
    Note,
    NoteFile,
    later_run,
    open_note,
    read_note,
)
from appliance.sources.held import SKIPPING_MAX
from appliance.sources.parts import PARTS_MAX, Part

RUNS = [f"{number:032x}" for number in range(1, 100)]


class Runs:
    """Run ids in their order; knows after which one the last was asked for."""

    def __init__(self) -> None:
        self._left = iter(RUNS)
        self.after: list[str] = []

    def __call__(self, after: str) -> str:
        self.after.append(after)
        return next(self._left)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.note"


def noted(number: int, **more: object) -> Note:
    """A note whose sums follow from its number: frame n has n records of 10 bytes."""
    before = number * (number - 1) // 2
    note = Note(
        number=number,
        records_before=before,
        bytes_before=10 * before,
        records=number,
        bytes=10 * number,
        first_received=number + 0.25,
        last_received=number + 0.5,
        claim={"parts": [[number, 0, 10 * number]]},
        cursor_before=f"at {number - 1}",
        cursor_after=f"at {number}",
    )
    return replace(note, **more)  # type: ignore[arg-type]


def opened(path: Path, runs: Runs | None = None, boot: str = "boot", kind: str = "tcp") -> NoteFile:
    return open_note(path, boot, kind, runs or Runs())


def with_frames(path: Path, done: int, *, in_hand: bool = False) -> NoteFile:
    """A file after so many frames."""
    file = opened(path)
    for number in range(1, done + 1):
        file.begin(noted(number))
        file.done(number)
    if in_hand:
        file.begin(noted(done + 1))
    return file


# ── one boot ────────────────────────────────────────────────────────────────────────────


def test_a_new_file(path: Path) -> None:
    runs = Runs()
    file = opened(path, runs)
    assert (file.run, file.word, file.in_doubt, file.last()) == (RUNS[0], 0, False, None)
    assert (file.previous, file.cursor, runs.after) == (None, None, [""])
    assert [*path.parent.iterdir()] == [path]


def test_the_sums_of_a_note() -> None:
    assert (noted(3).records_after, noted(3).bytes_after) == (6, 60)
    assert (noted(4).records_before, noted(4).bytes_before) == (6, 60)


@pytest.mark.parametrize("done", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("in_hand", [False, True])
def test_a_successor_reads_what_was_noted(path: Path, done: int, in_hand: bool) -> None:
    before = with_frames(path, done, in_hand=in_hand)
    file = opened(path)
    assert file.run == before.run
    assert file.in_doubt == in_hand
    assert file.word == (2 * done + 1 if in_hand else 2 * done)
    number = done + 1 if in_hand else done
    assert file.last() == (noted(number) if number else None)


claims = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(claims, st.none() | st.text(max_size=20), st.booleans()), max_size=8))
def test_any_history_of_frames_and_kills(history: list[tuple[object, str | None, bool]]) -> None:
    """Killed between any two steps, however often."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "s.note"
        file, last = opened(path), None
        for number, (claim, cursor, killed) in enumerate(history, 1):
            note = noted(number, claim=claim, cursor_after=cursor)
            assert (file.last(), file.in_doubt) == (last, False)
            file.begin(note)
            last = note
            if killed:
                file = opened(path)
            assert (file.last(), file.in_doubt, file.word) == (note, True, 2 * number - 1)
            file.done(number)
            if killed:
                file = opened(path)
            assert file.word == 2 * number


class Killed(Exception):
    """As kill -9 would end the writer."""


class KilledAtWrite:
    """The mapped memory; the writer is killed at its n-th write, which is half done."""

    def __init__(self, memory: memoryview, number: int) -> None:
        self._memory, self._left = memory, number

    def __setitem__(self, place: slice, data: bytes) -> None:
        if self._left == 0:
            self._memory[place.start : place.start + len(data) // 2] = data[: len(data) // 2]
            raise Killed
        self._left -= 1
        self._memory[place] = data


@pytest.mark.parametrize("write", [0, 1])
def test_killed_while_a_note_is_written_the_one_before_counts(path: Path, write: int) -> None:
    """The note becomes valid by the store of W, which is the last thing that is written."""
    file = with_frames(path, 3)
    memory = file._memory
    file._memory = KilledAtWrite(memory, write)  # type: ignore[assignment]
    with pytest.raises(Killed):
        file.begin(noted(4))
    successor = opened(path)
    assert (successor.in_doubt, successor.word, successor.last()) == (False, 6, noted(3))
    successor.begin(noted(4))
    assert opened(path).last() == noted(4)


def test_steps_in_the_wrong_order_are_refused(path: Path) -> None:
    file = opened(path)
    for number in (0, 2):
        with pytest.raises(AssertionError):
            file.begin(noted(number))
    with pytest.raises(AssertionError):
        file.done(1)
    file.begin(noted(1))
    for number in (1, 2):
        with pytest.raises(AssertionError):
            file.begin(noted(number))
    with pytest.raises(AssertionError):
        file.done(2)
    assert file.last() == noted(1)


def test_a_note_that_is_too_large_changes_nothing(path: Path) -> None:
    file = with_frames(path, 1)
    with pytest.raises(AssertionError):
        file.begin(noted(2, claim="x" * SLOT_BYTES))
    assert (file.word, file.last()) == (2, noted(1))


def test_the_largest_claim_that_a_source_makes_fits(path: Path) -> None:
    """However many connections there are, however large the numbers."""
    most = 2**64 - 1
    part = Part(most, most, 2**28, True, True, "broken", 2**28, most)
    claim = {
        "parts": [list(part)] * PARTS_MAX,
        "skipping": [most] * SKIPPING_MAX,
        "first": 1.7e9 + 1 / 3,
        "last": 1.7e9 + 2 / 3,
        "record_bytes_max": 2**28,
        "gaps": [asdict(Gap("source down", most, most, 1.7e9 + 1 / 3, 1.7e9 + 2 / 3))],
    }
    file = opened(path)
    file.begin(noted(1, claim=claim))
    assert opened(path).last() == noted(1, claim=claim)


def test_a_file_whose_name_is_no_utf_8_can_be_claimed(path: Path) -> None:
    file = opened(path)
    file.begin(noted(1, claim={"path": os.fsdecode(b"/var/log/\xff.log")}))
    assert opened(path).last() == file.last()
    assert os.fsencode(file.last().claim["path"]) == b"/var/log/\xff.log"  # type: ignore[union-attr]


# ── other runs ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("other", [{"boot": "later"}, {"kind": "file"}], ids=["boot", "kind"])
@pytest.mark.parametrize(
    ("done", "in_hand", "previous", "cursor"),
    [
        (0, False, None, None),
        (0, True, None, "at 0"),
        (1, False, RunEnd(RUNS[0], 1, 1, 10), "at 1"),
        (2, True, RunEnd(RUNS[0], 2, 3, 30), "at 2"),
        (5, False, RunEnd(RUNS[0], 5, 15, 150), "at 5"),
    ],
)
def test_another_boot_or_kind_begins_a_later_run_where_the_last_one_ended(
    path: Path,
    other: dict[str, str],
    done: int,
    in_hand: bool,
    previous: RunEnd | None,
    cursor: str | None,
) -> None:
    """What was in hand when the machine died may have arrived: it isn't counted."""
    with_frames(path, done, in_hand=in_hand)
    runs = Runs()
    next(runs._left)
    file = opened(path, runs, **other)
    assert (file.run, runs.after) == (RUNS[1], [RUNS[0]])
    assert (file.word, file.last()) == (0, None)
    assert (file.previous, file.cursor) == (previous, cursor)
    again = opened(path, runs, **other)  # and that is kept
    assert (again.run, again.previous, again.cursor) == (RUNS[1], previous, cursor)


def test_a_run_without_frames_hands_its_cursor_on(path: Path) -> None:
    with_frames(path, 2)
    opened(path, boot="second")
    assert opened(path, boot="third").cursor == "at 2"


@pytest.mark.parametrize("in_hand", [False, True])
def test_a_run_that_handed_nothing_over_hands_on_how_the_one_before_ended(
    path: Path, in_hand: bool
) -> None:
    """No frame of it may have arrived: who else would say what that one had handed over?"""
    with_frames(path, 2)
    runs = Runs()
    next(runs._left)
    second = opened(path, runs, boot="second")
    if in_hand:
        second.begin(noted(1))
    assert opened(path, runs, boot="third").previous == RunEnd(RUNS[0], 2, 3, 30)


def test_a_new_run_at_another_cursor(path: Path) -> None:
    file = with_frames(path, 2, in_hand=True)
    file.start_run(RUNS[7], "elsewhere", RunEnd(RUNS[5], 4, 3, 2))
    for found in (file, opened(path)):
        assert (found.run, found.word, found.last()) == (RUNS[7], 0, None)
        assert (found.previous, found.cursor) == (RunEnd(RUNS[5], 4, 3, 2), "elsewhere")
    file.begin(noted(1))
    assert opened(path).last() == noted(1)  # it maps the new file, not the old one


def test_what_may_be_missing_is_kept_over_kills_until_a_frame_tells_of_it(path: Path) -> None:
    file = with_frames(path, 3, in_hand=True)
    assert file.missing is None
    file.may_miss(4, "spool full")
    assert opened(path).missing == Missing(4, "spool full")
    file.done(4)
    file.begin(noted(5))
    file.may_miss(5, "killed")  # the first of several is where the hole begins
    file.done(5)
    assert opened(path).missing == Missing(4, "spool full")
    file.begin(noted(6))
    file.arrived()
    assert opened(path).missing is None
    assert opened(path).word == 11


@pytest.mark.parametrize("cause", [KILLED, SPOOL_FULL])
@pytest.mark.parametrize("number", [1, 2, 10**12])
def test_why_something_may_be_missing(path: Path, cause: str, number: int) -> None:
    opened(path).may_miss(number, cause)
    assert opened(path).missing == Missing(number, cause)
    assert opened(path, boot="later").missing is None


def test_the_file_is_never_half_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run is written beside and put in place at once; killed before, the old one is there."""
    with_frames(path, 3)

    def killed(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            opened(path, boot="later")
    assert opened(path).last() == noted(3)


def test_a_new_file_is_on_the_disk_before_it_is_in_place_and_then_its_name_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the machine dies, there is the old file or the new one, never an empty one."""
    with_frames(path, 3)
    done: list[str] = []
    rename = Path.rename

    def synced(fd: int) -> None:
        done.append(f"{os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))} is synced")

    def renamed(self: Path, target: Path) -> Path:
        done.append(f"{self.name} is {target.name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "rename", renamed)
    opened(path, boot="later")
    assert done == [
        f"{path.name}.new is synced",
        f"{path.name}.new is {path.name}",
        f"{path.parent.name} is synced",
    ]


# ── damage ──────────────────────────────────────────────────────────────────────────────


def damaged_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    yield "of somebody else", b"something else\n" * 1000
    yield "of an older version", whole.replace(b"note 1\n", b"note 0\n", 1)
    yield "without identity", whole[: len(notes.MAGIC)] + b"{broken\n" + whole[60:]
    yield "with another identity", whole[: len(notes.MAGIC)] + b'{"run": 1}\n' + whole[60:]
    yield "with no object", whole[: len(notes.MAGIC)] + b"[1]\n" + whole[60:]
    yield "cut", whole[:100]
    yield "cut behind its first page", whole[:PAGE]
    yield "cut in a slot", whole[: PAGE + SLOT_BYTES]


@pytest.mark.parametrize("name", [name for name, _ in damaged_files(b"")])
def test_a_file_that_is_damaged_is_put_aside_and_begun_anew(path: Path, name: str) -> None:
    with_frames(path, 3)
    damaged = dict(damaged_files(path.read_bytes()))[name]
    path.write_bytes(damaged)
    file = opened(path)
    assert (file.word, file.last(), file.previous) == (0, None, None)
    assert path.with_suffix(".bad").read_bytes() == damaged
    assert path.stat().st_size == FILE_BYTES


def test_an_empty_file_is_a_new_one(path: Path) -> None:
    path.touch()
    assert opened(path).last() is None
    assert not path.with_suffix(".bad").exists()


def test_a_damaged_note_is_an_error_that_says_what_to_do(path: Path) -> None:
    file = with_frames(path, 3, in_hand=True)
    at = PAGE + (4 % 2) * SLOT_BYTES
    file._memory[at + 20] ^= 1
    with pytest.raises(InstanceError) as raised:
        opened(path).last()
    assert str(path) in raised.value.message
    assert "frame 4" in raised.value.message
    assert "new run" in raised.value.hint


# ── run ids ─────────────────────────────────────────────────────────────────────────────

clocks = st.integers(0, 2**44)
chances = st.integers(0, 2**74 - 1)


@given(st.lists(st.tuples(clocks, chances), min_size=1, max_size=20))
def test_each_run_is_later_than_the_one_before_whatever_the_clock_says(
    makings: list[tuple[int, int]],
) -> None:
    run = ""
    for clock_ms, chance in makings:
        later = later_run(run, clock_ms, chance)
        assert later > run
        run = later


@given(clocks, chances)
def test_a_run_is_a_uuid_of_version_7_that_shows_its_time(clock_ms: int, chance: int) -> None:
    run = later_run("", clock_ms, chance)
    assert len(bytes.fromhex(run)) == 16
    assert int(run[:12], 16) == clock_ms
    assert run[12] == "7"
    assert run[16] in "89ab"


@given(clocks, chances, chances)
def test_two_hosts_at_the_same_time_make_two_runs(clock_ms: int, one: int, other: int) -> None:
    runs = {later_run("", clock_ms, one), later_run("", clock_ms, other)}
    assert len(runs) == len({one, other})


def test_what_the_page_says_of_itself_can_be_read_by_people(path: Path) -> None:
    with_frames(path, 1)
    first, second = path.read_bytes().split(b"\n", 2)[:2]
    assert first == b"stream-daemon note 1"
    assert json.loads(second)["run"] == RUNS[0]
    assert os.stat(path).st_size == FILE_BYTES


# ── somebody looks ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("done", [0, 1, 2, 5])
@pytest.mark.parametrize("in_hand", [False, True])
def test_who_only_looks_sees_what_was_handed_over(path: Path, done: int, in_hand: bool) -> None:
    with_frames(path, done, in_hand=in_hand)
    before, times = path.read_bytes(), path.stat()
    seen = read_note(path, "tweets", "boot")
    handed = Handed("tweets", RUNS[0], done, done * (done + 1) // 2, done + 1 if in_hand else None)
    assert seen == handed
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, times.st_mtime_ns)
    assert read_note(path, "tweets", None) == handed
    assert read_note(path, "tweets", "later") == replace(handed, firm=False)


def test_who_only_looks_is_told_of_the_run_before(path: Path) -> None:
    runs = Runs()
    file = opened(path, runs)
    file.begin(noted(1))
    file.done(1)
    opened(path, runs, boot="next")
    assert read_note(path, "s", "next") == Handed(
        "s", RUNS[1], 0, 0, previous=RunEnd(RUNS[0], 1, 1, 10)
    )


def test_who_only_looks_is_told_what_may_be_missing(path: Path) -> None:
    file = with_frames(path, 2, in_hand=True)
    file.may_miss(3, SPOOL_FULL)
    assert read_note(path, "s", "boot").missing is None, "it isn't handed over yet"
    file.done(3)
    assert read_note(path, "s", "boot").missing == SPOOL_FULL
    file.begin(noted(4))
    assert read_note(path, "s", "boot").missing == SPOOL_FULL
    file.arrived()
    assert read_note(path, "s", "boot").missing is None


def test_a_writer_at_work_is_never_seen_half(path: Path) -> None:
    """Before each read of the one who looks the writer is through with one more frame."""
    file, number = with_frames(path, 1), 1
    plain, reads = os.pread, 0

    def pread(fd: int, size: int, at: int) -> bytes:
        nonlocal number, reads
        reads += 1
        if reads <= 20:
            number += 1
            file.begin(noted(number))
            file.done(number)
        return plain(fd, size, at)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notes.os, "pread", pread)
        seen = read_note(path, "s", "boot")
    assert (seen.number, seen.records) == (number, number * (number + 1) // 2)
    assert reads > 20


def test_a_writer_that_never_rests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, numbers = opened(path), iter(range(1, 10**6))

    def pread(fd: int, size: int, at: int) -> bytes:
        file.begin(noted(number := next(numbers)))
        file.done(number)
        return bytes(file._memory[at : at + size])

    monkeypatch.setattr(notes.os, "pread", pread)
    with pytest.raises(InstanceError, match="changed at each"):
        read_note(path, "s", "boot")


@pytest.mark.parametrize("harm", ["no file", "not ours", "short", "torn note"])
def test_a_note_that_cannot_be_read_by_who_looks(path: Path, harm: str) -> None:
    with_frames(path, 1)
    content = bytearray(path.read_bytes())
    if harm == "torn note":
        content[PAGE + SLOT_BYTES + 20] ^= 1
    path.write_bytes({"not ours": b"x" * FILE_BYTES, "short": b"x"}.get(harm, bytes(content)))
    if harm == "no file":
        path.unlink()
    with pytest.raises(InstanceError) as caught:
        read_note(path, "s", "boot")
    assert str(path) in caught.value.message
    assert caught.value.hint
