"""A collector's turn, step by step, and each way to be born: over a source whose bytes are kept.

The queue is the fake one, the note file a real one. What a collector has handed over is what
the queue holds; `Records` is what outlives a killed collector, as a kernel's buffer or a
file does.
"""

import json
import logging
from pathlib import Path

import pytest

from appliance import backoff, collector, note
from appliance.collector import Stopped
from appliance.contracts import Chunk, SourceState
from appliance.errors import Occupied, Unavailable
from appliance.frame import Gap, RunEnd, decode_header
from appliance.note import NoteFile, later_run
from tests.collector_world import (
    BOOT,
    INTERVAL_S,
    OTHER_BOOT,
    RECEIVED,
    FakeSource,
    Life,
    World,
    jitter,
    outages,
)
from tests.fake_queue import Fault, Killed


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


# ── a turn ──────────────────────────────────────────────────────────────────────────────


class SpyWord:
    """The state word; at each store it looks whether the note that it validates is there."""

    def __init__(self, notes: NoteFile, seen: list[tuple[int, bool]]) -> None:
        self._notes, self._seen, self._word = notes, seen, notes._word

    def __getitem__(self, at: int) -> int:
        return self._word[at]

    def __setitem__(self, at: int, value: int) -> None:
        there = note._read_slot(self._notes._memory, (value + 1) // 2) is not None
        self._seen.append((value, there))
        self._word[at] = value


def test_a_turn_goes_in_exactly_this_order(world: World) -> None:
    world.feed(b"a\n", b"b\nc\n")
    life = world.born()
    stores: list[tuple[int, bool]] = []
    life.notes._word = SpyWord(life.notes, stores)  # type: ignore[assignment]
    life.run()
    turns = [
        [
            ("peek", 2 * n - 2),
            ("peeked", 2 * n - 2),
            ("noted", 2 * n - 1),
            ("push", 2 * n - 1),
            ("pushed", 2 * n - 1),
            ("discard", 2 * n - 1),
            ("discarded", 2 * n - 1),
            ("done", 2 * n),
            ("settle", 2 * n),
        ]
        for n in (1, 2)
    ]
    assert life.trace == [("resume", 0), *turns[0], *turns[1]]
    assert stores == [(word, True) for word in (1, 2, 3, 4)]
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n")]


def test_the_note_says_what_a_successor_needs_while_the_frame_is_pushed(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\nc\n")
    life = world.born()
    seen = []
    life.queue.before_push = lambda: seen.append(NoteFile(world.path).last())
    life.run()
    assert seen == [
        note.Note(1, 0, 0, 1, 2, RECEIVED, RECEIVED + 0.5, {"at": 0}, None, "1"),
        note.Note(2, 1, 2, 2, 4, RECEIVED + 1, RECEIVED + 1.5, {"at": 1}, "1", "2"),
    ]


def test_the_header_says_everything_about_the_frame(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\nxxx\n")
    life = world.born()
    life.source.extra = {
        "rejected": {0: "too long"},
        "gaps": (Gap("connection lost", 2, 30),),
        "skipped_bytes": 77,
    }
    life.run()
    header = world.frames()[1].header
    assert (header.run, header.number, header.source) == (life.notes.run, 2, "tweets")
    assert (header.records, header.records_before) == (2, 1)
    assert (header.body_bytes, header.bytes_before) == (6, 2)
    assert (header.first_received, header.last_received) == (RECEIVED + 1, RECEIVED + 1.5)
    assert (header.cursor_before, header.cursor_after) == ("1", "2")
    assert header.rejected == {0: "too long"}
    assert header.gaps == (Gap("connection lost", 2, 30),)
    assert header.skipped_bytes == 77
    assert header.previous is None


def test_a_checksum_that_the_source_knows_is_not_made_again(world: World) -> None:
    world.feed(b"a\n")
    life = world.born()
    life.source.extra = {"crc": 4711}
    life.run()
    (item,) = world.redis.working
    assert decode_header(item.partition(b"\n")[0]).crc == 4711


def test_small_frames_wait_for_company_and_large_ones_do_not(world: World) -> None:
    large = b"x" * (collector.FLOOD_BYTES - 1) + b"\n"
    world.feed(b"a\n", large, b"b\n")
    life = world.run(interval_s=0.05)
    assert life.wish.waits == pytest.approx([0.05, 0.05])
    assert [frame.body for frame in world.frames()] == [b"a\n", large, b"b\n"]


def test_a_slow_turn_needs_no_pause_behind_it(world: World) -> None:
    world.feed(b"a\n")
    life = world.born(interval_s=0.05)
    life.queue.before_push = lambda: world.clock.sleep(0.06)
    life.run()
    assert life.wish.waits == []


def test_a_source_that_has_visited_many_is_left_alone_for_a_while(world: World) -> None:
    large = b"x" * (collector.FLOOD_BYTES - 1) + b"\n"
    world.feed(large, b"a\n")
    life = world.born(interval_s=0.05)
    life.source.extra = {"rest_s": 0.2}
    life.run()
    assert life.wish.waits == pytest.approx([0.2, 0.2])


def test_numbers_for_status(world: World) -> None:
    world.feed(b"a\n", b"b\nc\n")
    life = world.born()
    life.source.waiting_for = "the file"
    life.run()
    numbers = life.gauge.numbers
    assert (numbers["records"], numbers["bytes"], numbers["works"]) == (3, 6, 2)
    assert (numbers["connections"], numbers["at_risk_records"]) == (3, 0)
    assert set(life.gauge.waits) == {"the file"}


def test_a_source_that_waits_says_so_and_logs_its_outage_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Also when the queue was away meanwhile, and its end took the words away."""
    caplog.set_level(logging.INFO)
    world.records.ends = False
    life = world.born()
    source, gauge, clock = life.source, life.gauge, world.clock
    source.waiting_for = "a connection to host:1: refused"

    def look_away() -> None:
        assert gauge.waits[-1] == source.waiting_for
        gauge.waiting_for("")

    def come() -> None:
        assert gauge.waits[-1] == source.waiting_for
        source.waiting_for = ""

    clock.at(7.0, look_away)
    clock.at(20.0, come)
    clock.at(30.0, life.wish.ask_to_drain)
    life.run()
    assert gauge.waits[-1] == ""
    said = "waiting for a connection to host:1: refused"
    assert [record.getMessage() for record in caplog.records] == [said, f"no longer {said}"]


def test_what_only_our_memory_holds_is_at_risk_until_it_is_handed_over(world: World) -> None:
    world.feed(b"a\nb\n")
    world.records.ends = False
    life = world.born()
    life.source.fleeting = True
    seen: list[tuple[int, int]] = []

    def look() -> None:
        numbers = life.gauge.numbers
        seen.append((numbers["at_risk_records"], numbers["at_risk_bytes"]))

    life.queue.before_push = look
    world.clock.at(INTERVAL_S / 2, look)  # in the pause behind the frame
    world.clock.at(10, life.wish.ask_to_drain)
    life.run()
    assert seen == [(2, 4), (0, 0)]


# ── a queue that is away, full, or elsewhere, and no room in the spool ──────────────────


@pytest.fixture
def no_spool(world: World) -> None:
    world.disk.fails = True


@pytest.mark.usefixtures("no_spool")
def test_a_push_without_an_answer_is_repeated_until_it_has_one(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Each try begins with the question where the queue stands: its connection is new."""
    world.feed(b"a\n", b"b\n")
    life = world.born()
    for call in (2, 4, 6, 8, 10, 12, 14):
        life.queue.fail(Fault(call))
    life.queue.fail(Fault(16, when="after"))
    life.run()
    first = life.queue.pushes[:9]
    assert {(push.run, push.number, push.header, push.body) for push in first} == {
        (life.notes.run, 1, first[0].header, b"a\n")
    }
    assert life.queue.pushes[9].number == 2
    assert life.wish.waits[:5] == pytest.approx(jitter(5))
    assert max(life.wish.waits) == collector.ROOM_RETRY_S
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]
    room = "waiting for room in the spool (reading stops): the spool is full"
    assert [line for line in outages(caplog) if "the queue" in line] == [
        "waiting for the queue (records go to the spool): a fault before call 12",
        "no longer waiting for the queue (records go to the spool): a fault before call 12",
    ]
    assert [line for line in outages(caplog) if "spool (" in line] == [room, f"no longer {room}"]
    assert life.gauge.waits[-1] == ""


@pytest.mark.usefixtures("no_spool")
def test_nothing_is_read_while_nobody_takes_it(world: World) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born()
    life.queue.fail(Fault(2))
    life.queue.fail(Fault(4))
    life.run()
    until_answer = life.steps()[: life.steps().index("pushed")]
    assert until_answer == ["resume", "peek", "peeked", "noted", "push", "push", "push"]


@pytest.mark.usefixtures("no_spool")
def test_an_answer_that_was_lost_counts_as_handed_over(world: World) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born()
    life.queue.fail(Fault(2, when="after"))
    life.run()
    assert [push.number for push in life.queue.pushes] == [1, 1, 2]
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]
    assert life.source.records.discarded == 2


@pytest.mark.usefixtures("no_spool")
def test_a_full_queue_is_waited_for(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born(interval_s=0)
    life.queue.bytes_max = 1
    world.clock.at(2.0, lambda: setattr(life.queue, "bytes_max", 10_000))
    life.run()
    waits = life.wish.waits
    assert waits[:-1] == pytest.approx([collector.FULL_RETRY_S] * (len(waits) - 1))
    assert sum(waits) == pytest.approx(2.0, abs=2 * collector.FULL_RETRY_S)
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]
    said = "waiting for room in the queue (records go to the spool): it is full"
    assert [line for line in outages(caplog) if "full" in line and "queue" in line] == [
        said,
        f"no longer {said}",
    ]
    assert "queue.bytes_max" in life.gauge.waits[0]


@pytest.mark.usefixtures("no_spool")
def test_disk_space_is_waited_for_and_said_once_with_what_to_do(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born(interval_s=0)
    life.queue.disk_is_low = True
    world.clock.at(2.0, lambda: setattr(life.queue, "disk_is_low", False))
    life.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]
    assert [line.partition(":")[0] for line in outages(caplog) if "disk" in line] == [
        "waiting for disk space for the queue",
        "no longer waiting for disk space for the queue",
    ]
    assert "disk_free_min" in life.gauge.waits[0]
    assert life.gauge.waits[-1] == ""


@pytest.mark.usefixtures("no_spool")
@pytest.mark.parametrize("low", ["full", "disk_is_low"])
def test_it_is_let_in_also_where_there_was_no_room_from_the_start(world: World, low: str) -> None:
    """Those who make room begin behind that: else both would wait for each other for ever."""
    world.feed(b"a\n")
    world.run(die_at="noted")
    world.redis.away = True
    world.clock.at(1, lambda: setattr(world.redis, "away", False))
    life = world.born()
    if low == "full":
        life.queue.bytes_max = 0
    else:
        life.queue.disk_is_low = True
    seen: list[int] = []
    for second in range(2, 6):
        world.clock.at(second, lambda: seen.append(life.gauge.numbers["attached"]))
    world.clock.at(6, life.wish.ask_to_be_quick)
    with pytest.raises(collector.Stopped):
        life.run()
    assert seen == [1] * 4


# ── the only one ────────────────────────────────────────────────────────────────────────


def other_instance(world: World, name: str = "collector-b2-9") -> None:
    world.redis.clients.add(name)


@pytest.mark.parametrize("in_doubt", [False, True])
def test_a_newcomer_goes_where_another_instance_was_first(world: World, in_doubt: bool) -> None:
    world.feed(b"a\n")
    if in_doubt:
        world.run(die_at="noted")
    other_instance(world)
    life = world.born(instance="a1")
    with pytest.raises(Occupied, match="instance b2"):
        life.run()
    assert world.queued() == []
    assert life.source.records.discarded == 0
    assert life.steps() == []
    assert life.gauge.numbers["attached"] == 0


def test_a_newcomer_goes_also_when_redis_was_away_at_first(world: World) -> None:
    world.feed(b"a\n")
    world.redis.away = True
    world.clock.at(3, lambda: (other_instance(world), setattr(world.redis, "away", False)))
    life = world.born(instance="a1")
    with pytest.raises(Occupied):
        life.run()
    assert world.queued() == []


@pytest.mark.parametrize("born_again", [False, True])
def test_who_had_been_the_only_one_waits_for_a_newcomer_to_go(
    world: World, caplog: pytest.LogCaptureFixture, born_again: bool
) -> None:
    world.feed(b"a\n", b"b\n")
    world.disk.fails = True
    life = world.born(instance="a1", interval_s=0)
    if born_again:  # its slot remembers
        life.gauge.set("attached", 1)
        other_instance(world)
    else:
        pushes = life.queue.pushes
        life.queue.before_push = lambda: other_instance(world) if len(pushes) == 1 else None
        life.queue.fail(Fault(2))
    world.clock.at(4, lambda: world.redis.clients.clear())
    life.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]
    assert len([line for line in outages(caplog) if "instance b2" in line]) == 2


def test_an_idle_collector_is_known_to_the_queue_and_looks_whether_it_still_is(
    world: World,
) -> None:
    world.records.ends = False
    life = world.born(instance="a1")
    seen: list[set[str]] = []
    world.clock.at(1, lambda: seen.append(set(world.redis.clients)))
    world.clock.at(2, world.redis.restart)
    world.clock.at(20, lambda: seen.append(set(world.redis.clients)))
    world.clock.at(20.5, life.wish.ask_to_drain)
    life.run()
    assert seen == [{"collector-a1-1"}, {"collector-a1-2"}]
    assert "the queue has closed" in life.gauge.waits[0]
    assert life.gauge.waits[-1] == ""
    assert "push" not in life.steps()


def test_what_the_source_waits_for_is_said_again_after_the_queue_was_away(world: World) -> None:
    world.records.ends = False
    life = world.born()
    life.source.waiting_for = "the file"
    world.clock.at(1, lambda: setattr(world.redis, "away", True))
    world.clock.at(1, lambda: world.redis.restart())
    world.clock.at(12, lambda: setattr(world.redis, "away", False))
    world.clock.at(30, life.wish.ask_to_drain)
    life.run()
    assert life.gauge.waits[0] == life.gauge.waits[-1] == "the file"
    assert any("is away" in text for text in life.gauge.waits)


def elsewhere(world: World, run: str, number: int, cursor: str) -> SourceState:
    """The queue knows another end of this source than its note file does."""
    state = SourceState(run, number, cursor, records=number, bytes=2 * number)
    world.redis.sources["tweets"] = state
    return state


def test_a_queue_that_stands_elsewhere_is_followed_under_a_later_run(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n", b"d\n")
    life = world.born()
    ours = life.notes.run
    state = elsewhere(world, later_run("", 2_000_000, 0), 2, cursor="2")
    life.run()
    assert life.source.resumed == [(None, None), ("2", None)]
    assert life.notes.run > max(ours, state.run)
    assert {frame.header.run for frame in world.frames()} == {life.notes.run}
    assert world.queued() == [(1, b"c\n"), (2, b"d\n")]
    header = world.frames()[0].header
    assert (header.records_before, header.bytes_before, header.cursor_before) == (0, 0, "2")
    assert "going on at its cursor 2" in caplog.text
    assert NoteFile(world.path).word == 4
    assert NoteFile(world.path).run == life.notes.run


def test_a_later_number_of_our_own_run_is_followed_too(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n")
    world.run()
    world.feed(b"d\n", b"e\n")
    life = world.born()
    state = elsewhere(world, life.notes.run, 5, cursor="4")
    life.run()
    assert life.notes.run > state.run
    assert world.queued()[3:] == [(1, b"e\n")]


@pytest.mark.parametrize("older_run", [False, True])
def test_a_queue_that_forgot_is_taught_by_force(
    world: World, caplog: pytest.LogCaptureFixture, older_run: bool
) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n")
    world.run()
    world.feed(b"d\n")
    life = world.born()
    run = later_run("", 1, 0) if older_run else life.notes.run
    elsewhere(world, run, 1, cursor="1")
    life.run()
    assert [(push.number, push.force) for push in life.queue.pushes] == [(4, True)]
    assert world.queued()[3:] == [(4, b"d\n")]
    assert world.frames()[3].header.hole == "queue forgot"
    assert life.source.resumed == [("3", {"at": 2})]
    assert world.redis.sources["tweets"].cursor == "4"
    assert "forgotten" in caplog.text


def test_a_frame_in_doubt_that_begins_elsewhere_is_dropped_for_the_queues_cursor(
    world: World,
) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n")
    world.run(die_at="noted")
    state = elsewhere(world, later_run("", 2_000_000, 0), 2, cursor="2")
    life = world.run()
    assert life.source.resumed == [(None, {"at": 0}), ("2", None)]
    assert life.notes.run > state.run
    assert world.queued() == [(1, b"c\n")]


def test_a_queue_that_goes_away_while_it_is_asked_where_it_stands(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n")
    life = world.born()
    elsewhere(world, later_run("", 2_000_000, 0), 1, cursor="1")
    world.disk.fails = True
    life.queue.fail(Fault(3))  # 1: where does it stand, 2: the push, 3: and now?
    life.run()
    assert world.queued() == [(1, b"b\n"), (2, b"c\n")]
    assert life.wish.waits[0] == pytest.approx(jitter(1)[0])


def test_force_is_kept_when_the_queue_goes_away_behind_it(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n")
    world.run()
    world.feed(b"c\n")
    life = world.born()
    elsewhere(world, life.notes.run, 1, cursor="1")
    world.disk.fails = True
    life.queue.fail(Fault(2))
    life.run()
    assert [push.force for push in life.queue.pushes] == [True, True]
    assert world.queued()[2:] == [(3, b"c\n")]


# ── birth ───────────────────────────────────────────────────────────────────────────────


def test_born_without_a_file(world: World) -> None:
    life = world.run()
    assert life.trace == [("resume", 0)]
    assert life.source.resumed == [(None, None)]
    assert not world.redis.working


@pytest.mark.parametrize("has_cursor", [False, True])
def test_born_when_the_last_frame_was_handed_over(world: World, has_cursor: bool) -> None:
    world.records.has_cursor = has_cursor
    world.feed(b"a\n", b"b\nc\n")
    world.run()
    world.feed(b"d\n")
    life = world.run()
    assert life.source.resumed == [("2" if has_cursor else None, {"at": 1})]
    assert life.steps()[:3] == ["resume", "peek", "peeked"]
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n"), (3, b"d\n")]
    assert world.frames()[2].header.records_before == 3


@pytest.mark.parametrize("step", ["noted", "push", "pushed", "discard"])
@pytest.mark.parametrize("has_cursor", [False, True])
def test_born_when_the_frame_in_doubt_can_be_made_again(
    world: World, step: str, has_cursor: bool
) -> None:
    world.records.has_cursor = has_cursor
    world.feed(b"a\n")
    world.run()
    world.feed(b"b\nc\n", b"d\n")
    dead = world.run(die_at=step)
    assert dead.notes.word == 3
    life = world.run()
    assert life.source.resumed == [("1" if has_cursor else None, {"at": 1})]
    steps = life.steps()
    assert steps[: steps.index("settle")] == [
        "resume",
        "again",
        "push",
        "pushed",
        "discard",
        "discarded",
        "done",
    ]
    if dead.queue.pushes:
        assert life.queue.pushes[0] == dead.queue.pushes[0]  # the same bytes, the same number
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n"), (3, b"d\n")]
    assert [frame.header.records_before for frame in world.frames()] == [0, 1, 3]


def test_born_when_the_frame_in_doubt_had_been_handed_over(world: World) -> None:
    world.feed(b"a\n")
    world.run()
    world.feed(b"b\nc\n", b"d\n")
    world.run(die_at="discarded")
    world.redis.sources.clear()  # nobody but the source can know
    life = world.run()
    assert life.trace[:4] == [("resume", 3), ("again", 3), ("done", 4), ("settle", 4)]
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n"), (3, b"d\n")]
    assert [frame.header.bytes_before for frame in world.frames()] == [0, 2, 6]


def test_a_frame_in_doubt_waits_until_its_source_can_be_read(world: World) -> None:
    world.feed(b"a\n")
    world.run(die_at="noted")
    life = world.born()
    life.source.again_errors = [Unavailable("the disk is away")] * 3
    life.run()
    assert life.wish.waits[:3] == [collector.AGAIN_RETRY_S] * 3
    assert life.gauge.waits[0] == "the source: the disk is away"
    assert life.gauge.waits[-1] == ""
    assert world.queued() == [(1, b"a\n")]


def test_a_collector_killed_at_birth_is_born_again(world: World) -> None:
    world.feed(b"a\n", b"b\n")
    for step in ("push", "pushed", "discard"):
        world.run(die_at=step)
    world.run(die_at="done")
    world.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]


@pytest.mark.parametrize(
    ("boot", "kind"), [(OTHER_BOOT, "held"), (BOOT, "file")], ids=["other boot", "other kind"]
)
@pytest.mark.parametrize("clock_ms", [1_000_000, 5, 2_000_000])
def test_born_after_another_boot_or_kind_begins_a_later_run(
    world: World, boot: str, kind: str, clock_ms: int
) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\nc\n")
    before = world.run()
    world.clock_ms = clock_ms
    world.feed(b"d\n", b"e\n")
    life = world.run(boot=boot, kind=kind)
    assert life.notes.run > before.notes.run
    assert life.source.resumed == [("2", None)]
    assert world.queued()[2:] == [(1, b"d\n"), (2, b"e\n")]
    ends = [frame.header.previous for frame in world.frames()]
    assert ends == [None, None, *[RunEnd(before.notes.run, 2, 3, 6)] * 2]
    assert [frame.header.records_before for frame in world.frames()[2:]] == [0, 1]


def test_a_frame_that_was_in_hand_at_a_crash_of_the_machine_is_read_again(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\nc\n")
    world.run(die_at="push")
    world.run(die_at="done")  # of frame 1
    dead = world.run(die_at="noted")
    assert dead.notes.word == 3
    world.redis.flush()
    life = world.run(boot=OTHER_BOOT)
    assert life.source.resumed == [("1", None)]
    assert world.queued() == [(1, b"b\nc\n")]
    assert world.frames()[0].header.previous == RunEnd(dead.notes.run, 1, 1, 2)


def test_the_end_of_the_run_before_is_kept_over_kills(world: World) -> None:
    world.feed(b"a\n")
    before = world.run()
    world.feed(b"b\n", b"c\n")
    world.run(boot=OTHER_BOOT, die_at="pushed")
    world.run(boot=OTHER_BOOT)
    ends = [frame.header.previous for frame in world.frames()]
    assert ends == [None, *[RunEnd(before.notes.run, 1, 1, 2)] * 2]


def test_the_end_of_the_run_before_is_kept_while_nothing_was_handed_over(world: World) -> None:
    """Two crashes of the machine, with no frame between that arrived: the queue has all there is,
    and whoever is told of the first run is told to its end."""
    world.feed(b"a\n", b"b\n")
    before = world.run()
    world.feed(b"c\n")
    world.run(boot=OTHER_BOOT, die_at="noted")
    world.run(boot=BOOT)
    header = world.frames()[-1].header
    assert (header.previous, header.hole) == (RunEnd(before.notes.run, 2, 2, 4), None)


def test_the_cursor_of_the_run_before_is_kept_until_the_first_note(world: World) -> None:
    """Killed between the new run and its first frame, and the queue knows nothing either."""
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n")
    before = world.run()
    world.redis.flush()
    world.redis.away = True
    world.run(boot=OTHER_BOOT)  # nothing new is there
    world.run(boot=OTHER_BOOT)
    world.run(boot=BOOT)  # and the machine again
    world.feed(b"c\n")
    world.run(boot=OTHER_BOOT, die_at="peeked")
    world.redis.away = False
    life = world.run(boot=OTHER_BOOT)
    assert life.source.resumed == [("2", None)]
    assert world.queued() == [(1, b"c\n")]
    assert world.frames()[0].header.previous == RunEnd(before.notes.run, 2, 2, 4)


def test_an_adopted_cursor_is_kept_until_the_first_note(world: World) -> None:
    world.records.has_cursor = True
    world.feed(b"a\n", b"b\n", b"c\n")
    life = world.born()
    elsewhere(world, later_run("", 2_000_000, 0), 2, cursor="2")
    life.source.at_peek = [lambda: None, _kill]
    with pytest.raises(Killed):
        life.run()
    world.redis.flush()
    life = world.run()
    assert life.source.resumed == [("2", None)]
    assert world.queued() == [(1, b"c\n")]


def _kill() -> None:
    raise Killed


def test_sums_go_on_over_frames_and_births(world: World) -> None:
    bodies = [b"%d\n" % n * n for n in range(1, 9)]
    for at, body in enumerate(bodies):
        world.feed(body)
        if at % 2:
            world.run(die_at=("noted", "pushed", "discarded", "done")[at // 2])
        else:
            world.run()
    world.run()
    headers = [frame.header for frame in world.frames()]
    assert [frame.body for frame in world.frames()] == bodies
    records = bytes_ = 0
    for number, (header, body) in enumerate(zip(headers, bodies, strict=True), start=1):
        assert (header.number, header.records_before, header.bytes_before) == (
            number,
            records,
            bytes_,
        )
        records, bytes_ = records + body.count(b"\n"), bytes_ + len(body)
    state = world.redis.sources["tweets"]
    assert (state.number, state.records, state.bytes) == (8, records, bytes_)


# ── the end ─────────────────────────────────────────────────────────────────────────────


def test_a_source_that_ended_by_itself_says_so(world: World) -> None:
    world.feed(b"a\n")
    life = world.run()
    assert life.gauge.numbers["ended"] == 1
    assert life.source.stops == []


def test_a_source_that_was_stopped_has_not_ended(world: World) -> None:
    world.records.ends = False
    world.feed(b"a\n")
    life = world.born()
    world.clock.at(12, life.wish.ask_to_drain)
    life.run()
    assert life.gauge.numbers["ended"] == 0
    assert life.source.stops == [False]
    assert life.steps().count("wait") == 3  # two whole ones and the one that the signal ended
    assert world.queued() == [(1, b"a\n")]


class LookingSource(FakeSource):
    """Sees only in a look that nothing is left, as one with connections does."""

    looked = False

    @property
    def ended(self) -> bool:
        return self.looked

    def peek(self) -> Chunk | None:
        chunk = super().peek()
        self.looked = bool(self.stops) and chunk is None
        return chunk


def test_a_look_that_meets_the_end_is_not_waited_behind(world: World) -> None:
    world.records.ends = False
    life = world.born()
    life.source.__class__ = LookingSource
    world.clock.at(2, life.wish.ask_to_drain)
    life.run()
    assert world.clock.now == 1002


class LingeringSource(FakeSource):
    """Goes on after a stop until it is told to be quick, as one with open connections does."""

    @property
    def ended(self) -> bool:
        return True in self.stops


def test_told_to_drain_and_then_to_be_quick(world: World) -> None:
    world.records.ends = False
    life = world.born()
    life.source.__class__ = LingeringSource
    world.clock.at(1, life.wish.ask_to_drain)
    world.clock.at(2, life.wish.ask_to_be_quick)
    life.run()
    assert life.source.stops == [False, True]
    assert life.gauge.numbers["ended"] == 0


@pytest.mark.parametrize("told_before", [False, True], ids=["TERM", "a second TERM"])
def test_a_signal_between_look_and_wait_is_not_slept_over(world: World, told_before: bool) -> None:
    """The peek reads the wake-up away, so the wait behind it would hear nothing."""
    world.records.ends = False
    life = world.born()
    if told_before:
        life.source.__class__ = LingeringSource
        life.wish.ask_to_drain()
        life.source.at_peek = [life.wish.ask_to_be_quick]
    else:
        life.source.at_peek = [life.wish.ask_to_drain]
    life.run()
    assert "wait" not in life.steps()
    assert life.source.stops == ([False, True] if told_before else [False])


@pytest.mark.usefixtures("no_spool")
@pytest.mark.parametrize("why", ["away", "full"])
def test_a_quick_stop_while_the_queue_takes_nothing_leaves_the_note(
    world: World, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    world.feed(b"a\n", b"b\nc\n", b"d\n")
    life = world.born()
    life.source.at_peek = [lambda: None, lambda: break_queue(world, life, why)]
    world.clock.at(20, life.wish.ask_to_drain)
    world.clock.at(30, life.wish.ask_to_be_quick)
    with pytest.raises(Stopped):
        life.run()
    assert "2 records (4 bytes) in hand" in caplog.text
    assert NoteFile(world.path).word == 3
    assert life.source.records.discarded == 1
    assert world.clock.now == pytest.approx(1030)
    world.redis.away = False
    world.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n"), (3, b"d\n")]


def break_queue(world: World, life: Life, why: str) -> None:
    if why == "away":
        world.redis.away = True
    else:
        life.queue.bytes_max = 1


@pytest.mark.usefixtures("no_spool")
def test_a_drain_waits_for_the_queue_with_the_frame_in_hand(world: World) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born()
    world.redis.away = True
    world.clock.at(3, life.wish.ask_to_drain)
    world.clock.at(40, lambda: setattr(world.redis, "away", False))
    life.run()
    assert world.queued() == [(1, b"a\n")]  # the fake source shows nothing after a stop
    assert life.notes.word == 2


def test_a_quick_stop_while_the_source_of_a_frame_in_doubt_is_away(world: World) -> None:
    world.feed(b"a\n")
    world.run(die_at="noted")
    life = world.born()
    life.source.again_errors = [Unavailable("the disk is away")] * 100
    world.clock.at(5, life.wish.ask_to_be_quick)
    with pytest.raises(Stopped):
        life.run()
    assert NoteFile(world.path).word == 1
    world.run()
    assert world.queued() == [(1, b"a\n")]


def test_the_work_loop_beats_while_it_waits(world: World) -> None:
    """No wait is longer than what a heartbeat allows, whatever is waited for."""
    world.records.ends = False
    world.feed(b"a\n")
    life = world.born()
    world.redis.away = True
    beats: list[tuple[float, int]] = []
    for second in range(100):
        world.clock.at(second, lambda: beats.append((world.clock.now, life.gauge.beats)))
    world.clock.at(50, lambda: setattr(world.redis, "away", False))
    world.clock.at(101, life.wish.ask_to_drain)
    life.run()
    longest = max(world.lives[0].wish.waits)
    assert longest <= backoff.RETRY_S_MAX + backoff.RETRY_S_MIN
    assert [count for _, count in beats] == sorted({count for _, count in beats})


def test_a_note_of_an_unknown_shape_is_not_guessed_at(world: World) -> None:
    """The header line of the file is JSON with exactly these keys (docs/formats.md)."""
    world.run()
    line = world.path.read_bytes()[len(note.MAGIC) :].split(b"\n", 1)[0]
    assert json.loads(line)["boot"] == BOOT
    assert json.loads(line)["kind"] == "held"


# ── leaving ─────────────────────────────────────────────────────────────────────────────


def test_told_to_leave_it_hands_over_what_is_in_hand_and_no_more(world: World) -> None:
    world.feed(b"a\n", b"b\n")
    life = world.born()
    life.source.at_peek = [lambda: setattr(life.wish, "leave", True)]
    life.run()
    assert (life.source.left, life.source.stops) == (True, [])
    assert life.notes.word == 2
    assert life.gauge.numbers["ended"] == 0, "it was told to"
    assert world.queued() == [(1, b"a\n")]
    world.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\n")]


@pytest.mark.usefixtures("no_spool")
@pytest.mark.parametrize("why", ["away", "full"])
def test_leaving_while_the_queue_takes_nothing_leaves_the_note(
    world: World, caplog: pytest.LogCaptureFixture, why: str
) -> None:
    world.feed(b"a\n", b"b\nc\n", b"d\n")
    life = world.born()
    life.source.at_peek = [lambda: None, lambda: break_queue(world, life, why)]
    world.clock.at(30, lambda: setattr(life.wish, "leave", True))
    with pytest.raises(Stopped):
        life.run()
    assert "in hand that could not be handed over" not in caplog.text, "nothing is lost"
    assert NoteFile(world.path).word == 3
    world.redis.away = False
    world.run()
    assert world.queued() == [(1, b"a\n"), (2, b"b\nc\n"), (3, b"d\n")]
