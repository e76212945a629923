"""Redis takes nothing for a while, and whoever collects is killed before, in and after it.

Each life is played once for each step at which somebody may be killed, and for many pairs of
steps. What Redis was given is compared with what was sent, in its order: nothing is missing,
nothing came twice, and no number is missing. Where something has to be missing, because Redis
forgot it or nobody had room for it, exactly that is known.
"""

import itertools
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from appliance import collector
from appliance.contracts import AtRisk, Chunk, Source
from appliance.frame import Frame
from tests.crash.world import FileWorld, UnixWorld, World
from tests.fake_queue import Killed
from tests.fake_spool import MemoryDisk

NEAR = 6  # how far apart two kills in the same place are tried: less than a turn
FAR = 37  # of pairs that are farther apart, every so many is tried
BURSTS = [
    b"".join(b"first %d\n" % n for n in range(60)) + b"half of ",
    b"a line\n" + b"".join(b"second %d\n" % n for n in range(150)),
    b"".join(b"third %d\n" % n for n in range(180)),
    b"".join(b"fourth %d\n" % n for n in range(90)) + b"the unfinished",
    b" last line",
]
SENT = b"".join(BURSTS).split(b"\n")
OF_SUBSCRIBERS = {
    "taken",
    "take done, answer lost",
    "before commit",
    "commit done, answer lost",
    "stored",
    "before confirm",
    "confirm done, answer lost",
    "confirmed",
}


@pytest.fixture(autouse=True)
def _slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that reading goes on while there is still something to replay."""
    monkeypatch.setattr(collector, "REPLAY_FRAMES", 2)


def clear(directory: Path) -> None:
    for leftover in directory.rglob("*"):
        if leftover.is_file():
            leftover.unlink()


def lines_of(frames: Iterable[Frame]) -> list[bytes]:
    return b"".join(frame.body for frame in frames).splitlines()


# ── Redis is away, full, or hangs ───────────────────────────────────────────────────────


class Play(NamedTuple):
    """A life: over what kind of source, in which way Redis fails, who dies at which steps."""

    kind: type[World]
    how: str = "away"
    kill_at: tuple[int, ...] = ()


def play(directory: Path, how: Play) -> World:
    """Before, in and after an outage; and again, since a replay may be cut short."""
    world = how.kind(directory, how.kill_at)
    try:
        world.send(BURSTS[0])
        world.collect()
        world.store()
        world.break_queue(how.how)
        for burst in BURSTS[1:3]:
            world.send(burst)
            world.collect()
        world.mend_queue()
        world.send(BURSTS[3])
        world.collect()
        world.store()
        world.break_queue(how.how)
        world.send(BURSTS[4])
        world.end()
        world.collect()
        world.mend_queue()
        world.collect()
        world.store()
    finally:
        world.close()
    return world


def check(directory: Path, how: Play) -> list[str]:
    """Play it, and compare; the names of its steps."""
    clear(directory)
    world = play(directory, how)
    steps = world.steps.names
    hit = [(at, steps[at]) for at in how.kill_at if at < len(steps)]
    assert lines_of(world.pushed) == SENT, hit
    assert sorted(world.stored()) == sorted(SENT), hit
    headers = [frame.header for frame in world.pushed]
    assert [header.number for header in headers] == list(range(1, len(headers) + 1)), hit
    assert {header.hole for header in headers} == {None}, hit
    assert not world.gaps, hit
    assert not world.disk.frames, hit
    return steps


def pairs(steps: list[str]) -> Iterator[tuple[int, int]]:
    """Kills of the collector that are near each other, and some that aren't, from the first frame
    that goes to the spool on.
    """
    first = steps.index("before append")
    ours = [at for at in range(first, len(steps)) if steps[at] not in OF_SUBSCRIBERS]
    for index, pair in enumerate(itertools.combinations(ours, 2)):
        if pair[1] - pair[0] <= NEAR or index % FAR == 0:
            yield pair


@pytest.mark.parametrize("how", ["away", "full", "hangs"])
@pytest.mark.parametrize("kind", [World, UnixWorld, FileWorld])
def test_killed_at_every_step_while_redis_takes_nothing(
    tmp_path: Path, kind: type[World], how: str
) -> None:
    steps = check(tmp_path, Play(kind, how))
    assert {"appended", "replayed", "forgotten"} < set(steps)
    assert steps.count("appended") > MemoryDisk.segment_frames
    for at in range(len(steps)):
        check(tmp_path, Play(kind, how, (at,)))


@pytest.mark.parametrize("kind", [World, FileWorld])
def test_killed_again_while_redis_takes_nothing(tmp_path: Path, kind: type[World]) -> None:
    steps = check(tmp_path, Play(kind))
    for pair in pairs(steps):
        check(tmp_path, Play(kind, kill_at=pair))


# ── Redis forgets ───────────────────────────────────────────────────────────────────────


class Forgetting(NamedTuple):
    """What is forgotten, all or what is newer than a copy; and what there is besides.

    spooled: it was away before, so that frames wait in the spool. more: records come later.
    """

    kind: type[World]
    older_copy: bool
    spooled: bool
    more: bool
    kill_at: tuple[int, ...] = ()


LOST, KEPT, SPOOLED, LATER = (
    [b"%b %d" % (word, n) for n in range(150)] for word in (b"lost", b"kept", b"spooled", b"later")
)


def forget(directory: Path, how: Forgetting) -> tuple[World, list[bytes], int]:
    """A life in which Redis forgets; what was sent, and where that step was."""
    sent: list[bytes] = []
    world = how.kind(directory, how.kill_at)

    def send(lines: list[bytes]) -> None:
        sent.extend(lines)
        world.send(b"".join(line + b"\n" for line in lines))
        world.collect()

    try:
        send(KEPT)
        copy = deepcopy(world.redis)
        world.store()
        send(LOST)
        if how.spooled:
            world.break_queue("away")
            send(SPOOLED)
            world.mend_queue()
        at = len(world.steps.names)
        world.redis.flush()
        if how.older_copy:
            world.redis.restart()
            world.redis.working, world.redis.sources = copy.working, copy.sources
        send(LATER if how.more else [])
        world.store()
        world.end()
        world.collect()
        world.store()
    finally:
        world.close()
    return world, sent, at


def check_forgetting(directory: Path, how: Forgetting) -> tuple[list[str], int]:
    clear(directory)
    world, sent, at = forget(directory, how)
    steps = world.steps.names
    hit = (how, [(at, steps[at]) for at in how.kill_at if at < len(steps)])
    assert world.stored() == [line for line in sent if line not in LOST], hit
    stored = [f for f in world.pushed if f.header.number in world.frames()]
    stored.sort(key=lambda frame: frame.header.number)
    holes = [
        (before, after)
        for before, after in itertools.pairwise({f.header.number: f for f in stored}.values())
        if after.header.number != before.header.number + 1
    ]
    assert len(holes) == 1, hit
    ((before, after),) = holes
    size = after.header.records_before - before.header.records_before - before.header.records
    assert size == len(LOST), hit
    made = {f.header.number for f in world.pushed if not f.body}
    assert len(made) == (0 if how.spooled or how.more else 1), hit
    if how.older_copy or made:
        assert after.header.hole == "queue forgot", hit
    assert not world.disk.frames, hit
    return steps, at


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize("older_copy", [False, True])
@pytest.mark.parametrize("kind", [World, UnixWorld, FileWorld])
def test_what_redis_forgot_is_a_hole_of_exactly_that_size(
    tmp_path: Path, kind: type[World], older_copy: bool, spooled: bool, more: bool
) -> None:
    how = Forgetting(kind, older_copy, spooled, more)
    steps, forgotten_at = check_forgetting(tmp_path, how)
    for at in range(forgotten_at, len(steps)):
        check_forgetting(tmp_path, how._replace(kill_at=(at,)))


# ── another one has gone on meanwhile ───────────────────────────────────────────────────


def adopt(directory: Path, kill_at: tuple[int, ...], turns: int) -> World:
    """Frames wait in the spool, and a collector elsewhere reads the same stretch of the file, or
    the beginning of it. Nothing comes behind it that would show where we stand.
    """
    clear(directory)
    (directory / "b").mkdir(exist_ok=True)
    world = FileWorld(directory, kill_at)
    other = FileWorld(directory / "b", ())
    other.redis, other._file, other._database = world.redis, world._file, world._database
    try:
        world.send(BURSTS[0])
        world.collect()
        world.break_queue("away")
        for burst in BURSTS[1:3]:
            world.send(burst)
            world.collect()
        world.kill_collector()
        world.mend_queue()
        other.take_turns(turns)
        other.kill_collector()
        world.collect()
        world.store()
    finally:
        world.close()
        other.close()
    world.pushed[:0] = other.pushed
    return world


@pytest.mark.parametrize("turns", [4, 100], ids=["partly", "wholly"])
def test_a_queue_that_has_gone_on_is_followed_and_the_spool_is_dropped(
    tmp_path: Path, turns: int
) -> None:
    sent = b"".join(BURSTS[:3]).splitlines()
    steps = adopt(tmp_path, (), turns).steps.names
    assert steps.count("segment dropped") > 1
    adopted = steps.index("adopted")
    for kill_at in [(at,) for at in range(len(steps))] + [
        (first, second)
        for first, second in itertools.combinations(range(adopted - 4, adopted + 8), 2)
    ]:
        world = adopt(tmp_path, kill_at, turns)
        hit = [(at, steps[at]) for at in kill_at if at < len(steps)]
        assert sorted(world.stored()) == sorted(sent), hit
        assert sorted(lines_of(world.pushed)) == sorted(sent), hit
        assert not world.disk.frames, hit


# ── the machine crashes ─────────────────────────────────────────────────────────────────


class CrashingWorld(FileWorld):
    """A file; at a step the machine dies: everybody is gone, and the note is an older copy."""

    def __init__(self, directory: Path, copied_at: int, crash_at: int) -> None:
        self._copied_at, self._crash_at = copied_at, crash_at
        self._copy = b""
        super().__init__(directory, ())
        self.steps.at = self._at_step

    def _at_step(self, index: int) -> None:
        note = self._directory / "s.note"
        if index == self._copied_at and note.exists():
            self._copy = note.read_bytes()
        if index == self._crash_at:
            raise Killed

    def _survives(self, act: Any) -> bool:
        if super()._survives(act):
            return True
        self.boot = "c" * 32
        self.kill_collector()
        self._subscribing = None
        self.redis.restart()
        note = self._directory / "s.note"
        note.write_bytes(self._copy) if self._copy else note.unlink(missing_ok=True)
        return False


def crash(directory: Path, copied_at: int, crash_at: int) -> list[str]:
    clear(directory)
    world = CrashingWorld(directory, copied_at, crash_at)
    try:
        for burst, breaks in zip(BURSTS, [False, True, True, False, True], strict=True):
            if breaks:
                world.break_queue("away")
            world.send(burst)
            world.collect()
            world.mend_queue()
            if not breaks:
                world.store()
        world.end()
        world.collect()
        world.store()
    finally:
        world.close()
    steps = world.steps.names
    hit = (copied_at, crash_at, steps[crash_at] if crash_at < len(steps) else "")
    assert sorted(world.stored()) == sorted(SENT), hit
    assert not world.disk.frames, hit
    return steps


def test_a_file_survives_a_crash_of_the_machine_with_an_older_note(tmp_path: Path) -> None:
    """The queue and the spool outlive it, so the file loses nothing, and nothing comes twice."""
    steps = crash(tmp_path, -1, -1)
    assert steps.count("appended") > MemoryDisk.segment_frames
    for crash_at in range(1, len(steps)):
        for copied_at in {0, crash_at // 2, crash_at - 8, crash_at - 1}:
            crash(tmp_path, copied_at, crash_at)


# ── nobody has room, and the sender doesn't wait ────────────────────────────────────────


class Datagrams:
    """Records that exist nowhere else once they were read (contract: Source)."""

    fleeting, patient = True, False
    waiting_for, connections, ended = "", 0, False

    def __init__(self, inbox: list[int]) -> None:
        self._inbox = inbox
        self._shown: Chunk | None = None

    @property
    def at_risk(self) -> AtRisk:
        return AtRisk(self._shown.records, len(self._shown.body)) if self._shown else AtRisk(0, 0)

    def resume(self, cursor: str | None, claim: Any) -> None:
        """A socket has no position."""

    def again(self, claim: Any) -> None:
        """What was read is gone."""

    def peek(self) -> Chunk | None:
        if self._shown is None and self._inbox:
            read, self._inbox[:7] = self._inbox[:7], []
            body = b"".join(b"%d\n" % number for number in read)
            self._shown = Chunk(body, len(read), None, 1.0, 1.0)
        return self._shown

    def discard(self, chunk: Chunk) -> None:
        assert chunk is self._shown
        self._shown = None

    def settle(self) -> None: ...
    def wait(self, timeout_s: float) -> None: ...
    def stop(self, quick: bool) -> None: ...
    def leave(self) -> None: ...
    def close(self) -> None: ...


class DroppingWorld(World):
    """Datagrams, and a spool that has room for a few frames."""

    type = "udp"

    def _open(self) -> None:
        self._inbox: list[int] = []
        self._next = itertools.count()
        self.disk.bytes_max = 1200

    def receive(self, count: int) -> None:
        self._inbox += itertools.islice(self._next, count)
        self.collect()

    def close(self) -> None:
        self._wish.close()

    def _born_source(self) -> Source:
        return Datagrams(self._inbox)


def drop(directory: Path, kill_at: tuple[int, ...]) -> DroppingWorld:
    clear(directory)
    world = DroppingWorld(directory, kill_at)
    try:
        world.receive(10)
        world.break_queue("away")
        world.receive(49)
        world.mend_queue()
        world.receive(10)
        world.store()
        world.break_queue("full")
        world.receive(49)
        world.mend_queue()
        world.collect()  # nothing comes behind what was dropped
        world.store()
    finally:
        world.close()
    return world


def check_drops(directory: Path, kill_at: tuple[int, ...]) -> list[str]:
    world = drop(directory, kill_at)
    steps = world.steps.names
    hit = [(at, steps[at]) for at in kill_at if at < len(steps)]
    unnoted = 7 * sum(name == "peeked" for _, name in hit)  # read, and killed before the note
    numbers = [frame.header.number for frame in world.pushed]
    assert numbers == sorted(set(numbers)), hit
    known = number = records = 0
    for header in (frame.header for frame in world.pushed):
        hole = header.records_before - records
        assert (hole > 0) == (header.number > number + 1), hit
        assert not hole or header.hole in {"spool full", "killed"}, hit
        number, records, known = header.number, header.records_before + header.records, known + hole
    arrived = [int(line) for line in lines_of(world.pushed)]
    assert arrived == sorted(set(arrived)), hit
    assert 0 <= 118 - len(arrived) - known <= unnoted, hit
    assert sorted(map(int, world.stored())) == arrived, hit
    assert not world.disk.frames, hit
    return steps


def test_what_was_dropped_is_a_hole_of_exactly_that_size(tmp_path: Path) -> None:
    steps = check_drops(tmp_path, ())
    for at in range(len(steps)):
        check_drops(tmp_path, (at,))
    ours = [at for at, name in enumerate(steps) if name not in OF_SUBSCRIBERS]
    for pair in itertools.combinations(ours, 2):
        if pair[1] - pair[0] <= NEAR:
            check_drops(tmp_path, pair)
