"""Where a collector's frames go while the queue takes none, and how they come into it later.

Over the fake queue and the fake spool, without time; kills at every step are in tests/crash.
"""

import logging
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from appliance import collector
from appliance.collector import Stopped
from appliance.contracts import Spooled
from appliance.errors import Unavailable
from appliance.frame import Header, RunEnd, checksum, encode_header
from appliance.note import Missing, NoteFile, later_run
from tests.collector_world import OTHER_BOOT, RECEIVED, Life, World, outages
from tests.fake_queue import Fault, Killed
from tests.test_collector import elsewhere

BODIES = [b"%d\n" % n for n in range(1, 41)]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(autouse=True)
def _every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def away(world: World, for_s: float) -> None:
    """The queue is away from now on, for so long."""
    world.redis.away = True
    world.redis.restart()
    world.clock.at(for_s, lambda: setattr(world.redis, "away", False))


def spooled(world: World, *bodies: bytes, **how: object) -> Life:
    """A life that spools these frames: its queue is away, and comes back behind it."""
    world.redis.away = True
    world.feed(*bodies)
    ends, world.records.ends = world.records.ends, False
    life = world.born(**how)  # type: ignore[arg-type]
    world.clock.at(30, life.wish.ask_to_drain)
    life.run()
    world.redis.away, world.records.ends = False, ends
    return life


# ── into the spool, and out of it ───────────────────────────────────────────────────────


def test_while_the_queue_is_away_frames_go_to_the_spool_and_reading_goes_on(
    world: World,
) -> None:
    life = spooled(world, *BODIES[:5])
    assert world.disk.numbers == [1, 2, 3, 4, 5]
    assert [frame.body for frame in world.disk.frames] == BODIES[:5]
    assert life.notes.word == 10
    assert life.gauge.numbers["records"] == 5
    assert life.gauge.numbers["spool_bytes"] > 0


def test_what_was_spooled_comes_first_and_in_its_order(world: World) -> None:
    spooled(world, *BODIES[:20])
    world.feed(*BODIES[20:])
    life = world.run()
    assert world.queued() == list(enumerate(BODIES, start=1))
    assert world.disk.frames == []
    assert life.gauge.numbers["spool_bytes"] == 0
    assert life.gauge.numbers["ended"] == 1


def test_a_flood_cannot_keep_the_spool_growing(world: World) -> None:
    """In each turn one frame goes in and several come out, so it ends also where none is idle."""
    spooled(world, *BODIES[:20])
    world.feed(*BODIES[20:])
    life = world.born(interval_s=0)
    sizes: list[int] = []
    life.source.at_peek = [lambda: sizes.append(len(world.disk.frames)) for _ in range(10)]
    life.run()
    assert sizes[:4] == [20, 15, 7, 0]
    assert collector.REPLAY_FRAMES == 8


def test_an_idle_source_lets_the_spool_run_empty_without_a_pause(world: World) -> None:
    spooled(world, *BODIES)
    life = world.born()
    began = world.clock.now
    life.run()
    assert world.clock.now == began
    assert len(world.queued()) == len(BODIES)


def test_a_frame_is_forgotten_only_when_the_queue_has_it(world: World) -> None:
    spooled(world, *BODIES[:3])
    life = world.born()
    life.queue.before_push = lambda: numbers.append(world.disk.numbers[:])
    numbers: list[list[int]] = []
    life.run()
    assert all(push.number in left for push, left in zip(life.queue.pushes, numbers, strict=True))
    steps = [step for step in life.steps() if step in ("push", "replayed", "forgotten")]
    assert steps == ["push", "replayed", "forgotten"] * 3


def test_nothing_is_pushed_past_a_spool_that_is_not_empty(world: World) -> None:
    spooled(world, *BODIES[:20])
    world.feed(*BODIES[20:25])
    life = world.born()
    life.queue.bytes_max = 0
    world.clock.at(20, lambda: setattr(life.queue, "bytes_max", 2**31))
    life.run()
    numbers = [number for number, _ in world.queued()]
    assert numbers == list(range(1, 26))
    assert {push.number for push in life.queue.pushes[:10]} == {1}


def test_an_answer_that_was_lost_is_known_by_its_number(world: World) -> None:
    """The frame goes to the spool, too, and the queue says that it has it."""
    world.feed(*BODIES[:3])
    life = world.born()
    life.queue.fail(Fault(2, when="after"))
    life.run()
    assert [push.number for push in life.queue.pushes] == [1, 2, 3]
    assert "replayed" in life.steps()
    assert world.queued() == list(enumerate(BODIES[:3], start=1))


def test_what_a_crash_brings_back_is_not_pushed_again(world: World) -> None:
    """A segment goes as a whole: a successor finds frames in it that were handed over."""
    world.disk.segment_frames = 10
    spooled(world, *BODIES[:8])
    life = world.born()
    life.spool.fail(Fault(5, how="die"))  # the fifth frame was pushed, and isn't forgotten
    with pytest.raises(Killed):
        life.run()
    assert world.disk.numbers == list(range(1, 9))
    second = world.run()
    assert [push.number for push in second.queue.pushes] == [6, 7, 8]
    assert world.queued() == list(enumerate(BODIES[:8], start=1))


def test_a_frame_in_doubt_goes_the_way_of_the_others_and_first(world: World) -> None:
    spooled(world, *BODIES[:3])
    world.redis.away = True
    world.feed(BODIES[3])
    dead = world.run(die_at="pushed")
    assert dead.notes.word == 7
    assert world.disk.numbers == [1, 2, 3, 4]
    world.redis.away = False
    life = world.run()
    assert life.steps()[:3] == ["resume", "again", "pushed"]
    assert world.queued() == list(enumerate(BODIES[:4], start=1))


def test_a_frame_in_doubt_that_is_not_in_the_spool_goes_behind_it(world: World) -> None:
    spooled(world, *BODIES[:3])
    world.feed(BODIES[3])
    world.run(die_at="noted")
    assert world.disk.numbers == [1, 2, 3]
    life = world.run()
    assert [push.number for push in life.queue.pushes] == [1, 2, 3, 4]
    assert world.queued() == list(enumerate(BODIES[:4], start=1))


@pytest.mark.parametrize("answer", ["full", "disk_is_low"])
def test_a_queue_without_room_is_asked_again_and_again_while_reading_goes_on(
    world: World, answer: str
) -> None:
    world.feed(*BODIES[:10])
    world.records.ends = False
    life = world.born()
    if answer == "full":
        life.queue.bytes_max = 0
    else:
        life.queue.disk_is_low = True
    seen: list[tuple[int, int]] = []

    def make_room() -> None:
        seen.append((len(world.disk.frames), life.source.records.discarded))
        life.queue.bytes_max, life.queue.disk_is_low = 2**31, False

    world.clock.at(3, make_room)
    world.clock.at(10, life.wish.ask_to_drain)
    life.run()
    assert seen == [(10, 10)]
    assert world.queued() == list(enumerate(BODIES[:10], start=1))


def test_a_hung_queue_stalls_no_turn_but_those_that_ask_it(world: World) -> None:
    """It is asked again after a pause that grows, and between them is only read."""
    world.feed(*BODIES)
    world.redis.away = True
    world.records.ends = False
    life = world.born(interval_s=1.0)
    life.queue.push = lambda _push: pytest.fail("the spool isn't empty")  # type: ignore[assignment]
    asked: list[float] = []
    ask = life.queue.source_state

    def hang(source: str):  # type: ignore[no-untyped-def]
        asked.append(world.clock.now)
        world.clock.sleep(2.0)
        return ask(source)

    life.queue.source_state = hang  # type: ignore[method-assign]
    world.clock.at(60, life.wish.ask_to_drain)
    life.run()
    assert len(world.disk.frames) >= 25
    pauses = [later - at for at, later in pairwise(asked)]
    assert max(pauses) <= 2.0 + 5.05 + 2.0
    assert sum(pause > 3.5 for pause in pauses) > len(pauses) // 2


# ── what is said ────────────────────────────────────────────────────────────────────────


def test_an_outage_is_said_once_at_both_ends_and_how_much_was_replayed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.feed(*BODIES[:2])
    world.records.ends = False
    life = world.born()
    world.clock.at(1, lambda: away(world, 40))
    for second in range(5, 15):
        world.clock.at(second, lambda n=second: world.feed(BODIES[n]))
    world.clock.at(60, life.wish.ask_to_drain)
    life.run()
    said = "waiting for the queue (records go to the spool): the queue is away"
    assert outages(caplog) == [said, f"no longer {said}"]
    assert "handed over out of the spool: 10 frames with 10 records (26 bytes)" in caplog.text
    assert any("records go to the spool" in text for text in life.gauge.waits)
    assert life.gauge.waits[-1] == ""


def test_what_the_spool_found_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.disk.segment_frames = 2
    spooled(world, *BODIES[:6])
    world.disk.damage(0)
    life = world.run()
    assert "a damaged segment was set aside" in caplog.text
    assert "a damaged segment was set aside" in life.gauge.errors


def test_a_spool_that_cannot_be_read_now_is_said_and_waited_for(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing goes past it, and what comes goes behind it."""
    spooled(world, *BODIES[:3])
    world.feed(*BODIES[3:5])
    world.records.ends = False
    life = world.born()
    oldest = life.spool.oldest

    def refuse() -> Spooled | None:
        if world.clock.now < 1100:
            raise Unavailable("tweets/1.seg: Permission denied", "look at it", loud=True)
        return oldest()

    life.spool.oldest = refuse  # type: ignore[method-assign]
    world.clock.now = 1050
    world.clock.at(100, life.wish.ask_to_drain)
    life.run()
    assert world.queued() == list(enumerate(BODIES[:5], start=1))
    said = [line for line in outages(caplog) if "Permission" in line]
    text = (
        "waiting for the disk of the spool (what is in it waits): tweets/1.seg: Permission denied"
    )
    assert said == [text, f"no longer {text}"]


def test_who_cannot_read_its_spool_is_let_in_all_the_same(world: World) -> None:
    """Else no subscriber would ever begin, where the queue was away at the start."""
    spooled(world, *BODIES[:3])
    world.records.ends = False
    world.redis.away = True
    life = world.born()

    def refuse() -> Spooled | None:
        raise Unavailable("tweets/1.seg: Permission denied", "look at it", loud=True)

    life.spool.oldest = refuse  # type: ignore[method-assign]
    seen: list[int] = []
    world.clock.at(20, lambda: seen.append(life.gauge.get("attached")))
    world.clock.at(21, lambda: setattr(world.redis, "away", False))
    world.clock.at(80, life.wish.ask_to_drain)
    life.run()
    assert (*seen, life.gauge.get("attached")) == (0, 1)


# ── no room in the spool either ─────────────────────────────────────────────────────────


def test_a_sender_waits_while_nobody_has_room_and_both_are_tried(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.disk.bytes_max = 2000
    world.feed(*BODIES[:20])
    world.redis.away = True
    world.records.ends = False
    life = world.born()
    seen: list[tuple[int, str]] = []
    world.clock.at(20, lambda: seen.append((life.source.records.discarded, life.gauge.waits[-1])))
    world.clock.at(21, lambda: setattr(world.disk, "bytes_max", 4000))
    world.clock.at(40, lambda: seen.append((life.source.records.discarded, life.gauge.waits[-1])))
    world.clock.at(50, lambda: setattr(world.redis, "away", False))
    world.clock.at(70, life.wish.ask_to_drain)
    life.run()
    (first, said), (second, _) = seen
    assert 0 < first < second < 20
    assert said == ("room in the spool (reading stops): the spool is full → raise spool.bytes_max")
    assert len([line for line in outages(caplog) if "reading stops" in line]) == 4
    assert world.queued() == list(enumerate(BODIES[:20], start=1))
    assert life.gauge.numbers["dropped"] == 0


def dropping(world: World, **how: object) -> Life:
    life = world.born(**how)  # type: ignore[arg-type]
    life.source.patient = False
    return life


def test_a_source_whose_sender_cannot_wait_drops_what_has_no_room(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Its number is a hole, its size is in the sums, and the next frame says why."""
    world.disk.bytes_max = 2000
    world.feed(*BODIES[:20])
    world.redis.away = True
    world.records.ends = False
    life = dropping(world)
    world.clock.at(20, lambda: setattr(world.redis, "away", False))
    world.clock.at(40, lambda: world.feed(b"last\n"))
    world.clock.at(50, life.wish.ask_to_drain)
    life.run()
    kept = len(world.frames()) - 2
    assert 0 < kept < 15
    *before, made, last = (frame.header for frame in world.frames())
    assert [header.number for header in before] == list(range(1, kept + 1))
    assert (made.number, made.records, made.records_before, made.hole) == (21, 0, 20, "spool full")
    assert (last.number, last.records_before, last.hole) == (22, 20, None)
    assert life.gauge.numbers["dropped"] == 20 - kept
    assert life.gauge.numbers["records"] == kept + 1
    assert "room in the spool (records are dropped)" in caplog.text


def test_a_successor_still_says_why_there_is_a_hole(world: World) -> None:
    world.disk.bytes_max = 0
    world.feed(*BODIES[:3])
    world.redis.away = True
    world.records.ends = False
    life = dropping(world)
    world.clock.at(5, life.wish.ask_to_drain)
    life.run()
    assert NoteFile(world.path).missing == Missing(1, "spool full")
    world.redis.away = False
    world.feed(b"next\n")
    world.records.ends = True
    world.run()
    (frame,) = world.frames()
    assert (frame.header.number, frame.header.hole, frame.body) == (4, "spool full", b"next\n")
    assert NoteFile(world.path).missing is None


@pytest.mark.parametrize("step", ["noted", "pushed", "discarded", "done"])
def test_a_drop_that_is_cut_short_stays_one(world: World, step: str) -> None:
    """Killed in it, the frame is dropped, or kept after all: its number is never used again."""
    world.disk.bytes_max = 0
    world.redis.away = True
    world.feed(*BODIES[:2])
    life = dropping(world, die_at=step)
    with pytest.raises(Killed):
        life.run()
    world.redis.away = False
    world.run()
    headers = [frame.header for frame in world.frames()]
    assert [header.number for header in headers] in ([1, 2], [2])
    assert headers[-1].records_before == 1
    assert headers[0].hole == (None if len(headers) == 2 else "spool full")


# ── a fleeting source's frame in hand ───────────────────────────────────────────────────


def fleeting(world: World, **how: object) -> Life:
    life = world.born(**how)  # type: ignore[arg-type]
    life.source.fleeting = True
    life.source.again = lambda _claim: None  # type: ignore[method-assign]
    return life


@pytest.mark.parametrize("comes", [False, True])
def test_a_frame_that_died_with_a_collector_is_a_hole_that_says_so(
    world: World, comes: bool
) -> None:
    world.feed(*BODIES[:2])
    life = fleeting(world, die_at="noted")
    with pytest.raises(Killed):
        life.run()
    world.records.discarded = 1 if comes else 2  # what was in its memory is gone
    life = fleeting(world)
    life.run()
    (frame,) = world.frames()
    assert (frame.header.number, frame.header.hole) == (2, "killed")
    assert (frame.header.records_before, frame.header.records) == (1, int(comes))


def test_a_frame_that_had_arrived_is_no_hole(world: World) -> None:
    world.feed(*BODIES[:2])
    with pytest.raises(Killed):
        fleeting(world, die_at="pushed").run()
    world.records.discarded = 2
    fleeting(world).run()
    assert world.queued() == [(1, BODIES[0])]


def test_a_frame_that_had_reached_the_spool_is_no_hole(world: World) -> None:
    world.redis.away = True
    world.feed(*BODIES[:1])
    with pytest.raises(Killed):
        fleeting(world, die_at="pushed").run()
    world.redis.away = False
    world.records.discarded = 1
    life = fleeting(world)
    life.run()
    assert life.notes.missing is None
    assert world.queued() == [(1, BODIES[0])]


# ── a queue that forgot ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("has_cursor", [False, True])
def test_what_an_idle_queue_forgot_is_shown_by_one_empty_frame(
    world: World, caplog: pytest.LogCaptureFixture, has_cursor: bool
) -> None:
    world.records.has_cursor = has_cursor
    world.records.ends = False
    world.feed(*BODIES[:5])
    life = world.born()
    world.clock.at(10, world.redis.flush)
    world.clock.at(60, life.wish.ask_to_drain)
    life.run()
    (frame,) = world.frames()
    header = frame.header
    assert (header.number, header.records, header.records_before) == (6, 0, 5)
    assert (header.hole, frame.body, header.first_received) == ("queue forgot", b"", RECEIVED)
    assert (header.cursor_before, header.cursor_after) == (
        ("5", "5") if has_cursor else (None,) * 2
    )
    assert world.redis.sources["tweets"].number == 6
    said = [r.getMessage() for r in caplog.records if "forgotten" in r.getMessage()]
    assert len(said) == 1
    assert "up to 5" in said[0]
    assert life.source.records.discarded == 5
    assert life.notes.word == 12


def test_what_an_older_copy_lacks_is_said_exactly(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.records.ends = False
    world.feed(*BODIES[:3])
    life = world.born()

    def restore() -> None:
        world.redis.restart()
        state = world.redis.sources["tweets"]
        world.redis.sources["tweets"] = replace(state, number=1, records=1, bytes=2)

    world.clock.at(10, restore)
    world.clock.at(30, life.wish.ask_to_drain)
    life.run()
    text = f"frames 2 to 3 of run {life.notes.run}, which it had taken: 2 records (4 bytes)"
    assert text in caplog.text
    assert text in life.gauge.errors[-1]


@pytest.mark.parametrize("has_cursor", [False, True])
def test_the_first_frame_behind_a_new_connection_says_that_the_queue_forgot(
    world: World, has_cursor: bool
) -> None:
    world.records.has_cursor = has_cursor
    world.feed(*BODIES[:3])
    world.run()
    world.redis.flush()
    world.feed(BODIES[3])
    life = world.run()
    (frame,) = world.frames()
    assert (frame.header.number, frame.header.hole, frame.body) == (4, "queue forgot", BODIES[3])
    assert [push.number for push in life.queue.pushes] == [4]


@pytest.mark.parametrize("has_cursor", [False, True])
def test_the_oldest_in_the_spool_says_it_where_one_is(world: World, has_cursor: bool) -> None:
    world.records.has_cursor = has_cursor
    world.feed(*BODIES[:3])
    world.run()
    spooled(world, *BODIES[3:6])
    world.redis.flush()
    life = world.run()
    headers = [frame.header for frame in world.frames()]
    assert [(h.number, h.hole) for h in headers] == [(4, "queue forgot"), (5, None), (6, None)]
    assert [push.force for push in life.queue.pushes] == [True, False, False]


def test_what_was_forgotten_at_the_end_is_seen_by_a_last_look(world: World) -> None:
    world.feed(*BODIES[:2])
    life = world.born()
    last = life.source.discard

    def forget(chunk: object) -> None:
        last(chunk)  # type: ignore[arg-type]
        if life.source.records.discarded == 2:
            world.redis.flush()

    life.source.discard = forget  # type: ignore[method-assign]
    life.run()
    assert world.queued() == [(3, b"")]
    assert life.gauge.numbers["ended"] == 1


@pytest.mark.parametrize("kind", ["held", "cursor", "fleeting"])
@pytest.mark.parametrize("step", ["noted", "push", "pushed", "done"])
def test_an_empty_frame_in_doubt_is_made_again_and_never_asks_the_source(
    world: World, step: str, kind: str
) -> None:
    world.records.has_cursor = kind == "cursor"
    world.feed(*BODIES[:2])
    world.run()
    world.redis.flush()
    dead = world.run(die_at=step)
    note = NoteFile(world.path).last()
    assert note is not None
    assert (note.number, note.made, note.claim) == (3, True, {"at": 1})
    world.feed(*BODIES[2:4])
    life = fleeting(world) if kind == "fleeting" else world.born()
    life.run()
    cursor = "2" if kind == "cursor" else None
    assert life.source.resumed == [(cursor, {"at": 1})]
    assert "again" not in life.steps()
    if dead.queue.pushes and step != "done":
        assert life.queue.pushes[0].number == 3
        assert life.queue.pushes[0].header == dead.queue.pushes[0].header
    assert world.queued() == [(3, b""), (4, BODIES[2]), (5, BODIES[3])]


def test_the_run_before_is_compared_where_this_one_has_no_frame(world: World) -> None:
    world.feed(*BODIES[:2])
    first = world.run()
    world.redis.flush()
    world.run(boot=OTHER_BOOT)
    (frame,) = world.frames()
    assert (frame.header.number, frame.header.hole) == (1, "queue forgot")
    assert frame.header.previous == RunEnd(first.notes.run, 2, 2, 4)


def test_a_queue_that_was_never_used_has_forgotten_nothing(world: World) -> None:
    world.run()
    world.run()
    world.feed(BODIES[0])
    world.run()
    assert world.queued() == [(1, BODIES[0])]
    assert world.frames()[0].header.hole is None


# ── damaged segments ────────────────────────────────────────────────────────────────────


def test_the_frame_behind_a_damaged_segment_says_so(world: World) -> None:
    world.disk.segment_frames = 2
    spooled(world, *BODIES[:6])
    world.disk.damage(1)
    world.run()
    headers = [frame.header for frame in world.frames()]
    assert [(header.number, header.hole) for header in headers] == [
        (1, None),
        (2, None),
        (5, "spool damaged"),
        (6, None),
    ]


def test_a_damaged_end_is_no_hole_before_what_waits(world: World) -> None:
    world.disk.segment_frames = 2
    spooled(world, *BODIES[:4])
    world.disk.damage(1)
    world.feed(BODIES[4])
    world.run()
    headers = [frame.header for frame in world.frames()]
    assert [(header.number, header.hole) for header in headers] == [
        (1, None),
        (2, None),
        (5, "spool damaged"),
    ]


def test_a_spool_that_turns_out_empty_says_nothing_of_the_queue(world: World) -> None:
    """Damaged while it waited: there is nothing to ask the queue for, which is away still."""
    spooled(world, *BODIES[:2])
    world.redis.away = True
    world.records.ends = False
    life = world.born()
    world.clock.at(10, lambda: world.disk.damage(0))
    world.clock.at(60, life.wish.ask_to_drain)
    life.run()
    assert life.spool.set_aside == 1
    assert life.gauge.numbers["attached"] == 0
    assert "is away" in life.gauge.waits[-1]


@pytest.mark.parametrize("has_cursor", [False, True])
def test_behind_a_damaged_end_the_next_frame_says_so(world: World, has_cursor: bool) -> None:
    """Also for a source that could read it again: a repair will bring these frames back."""
    world.records.has_cursor = has_cursor
    spooled(world, *BODIES[:3])
    world.disk.damage(0)
    world.feed(BODIES[3])
    world.run()
    (frame,) = world.frames()
    assert (frame.header.number, frame.header.hole, frame.body) == (4, "spool damaged", BODIES[3])


@pytest.mark.parametrize("has_cursor", [False, True])
def test_behind_a_damaged_end_an_idle_source_says_so_too(
    world: World, caplog: pytest.LogCaptureFixture, has_cursor: bool
) -> None:
    """The queue never had these frames, so nobody says that it has forgotten them."""
    world.records.has_cursor = has_cursor
    world.feed(BODIES[0])
    world.run()
    spooled(world, *BODIES[1:3])
    world.disk.damage(0)
    world.run()
    header = world.frames()[-1].header
    assert (header.number, header.hole, header.records) == (4, "spool damaged", 0)
    assert "forgotten" not in caplog.text


def test_repaired_frames_come_late_and_by_force(world: World) -> None:
    world.records.has_cursor = True
    world.disk.segment_frames = 2
    spooled(world, *BODIES[:6])
    bad = world.disk.segments[1]
    world.disk.damage(1)
    world.run()
    world.disk.repair(*bad)
    life = world.run()
    assert [(push.number, push.force) for push in life.queue.pushes] == [(3, True), (4, True)]
    assert world.redis.sources["tweets"].number == 6
    assert sorted(world.queued()) == list(enumerate(BODIES[:6], start=1))


# ── a queue that stands elsewhere ───────────────────────────────────────────────────────


def test_a_queue_that_has_gone_on_is_followed_note_first_then_spool_then_source(
    world: World,
) -> None:
    world.records.has_cursor = True
    world.feed(*BODIES[:2])
    world.run()
    spooled(world, *BODIES[2:5])
    elsewhere(world, later_run("", 2_000_000, 0), 9, cursor="4")
    life = world.run()
    steps = life.steps()
    at = steps.index("adopted")
    assert steps[at : at + 3] == ["adopted", "dropped", "resume"]
    assert life.source.resumed == [("5", {"at": 4}), ("4", None)]
    assert world.queued()[2:] == [(1, BODIES[4])]
    assert world.disk.frames == []
    assert NoteFile(world.path).previous == RunEnd(later_run("", 2_000_000, 0), 9, 9, 18)


@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_killed_while_it_follows_it_comes_to_the_same_end(world: World, dropped: int) -> None:
    world.records.has_cursor = True
    world.disk.segment_frames = 1
    world.feed(*BODIES[:2])
    world.run()
    spooled(world, *BODIES[2:5])
    elsewhere(world, later_run("", 2_000_000, 0), 9, cursor="4")
    life = world.born()
    life.spool.fail(Fault(1 + dropped, when="before", how="die"))
    with pytest.raises(Killed):
        life.run()
    assert len(world.disk.frames) == 3 - dropped
    world.run()
    assert world.queued()[2:] == [(1, BODIES[4])]
    assert world.disk.frames == []


def test_the_frame_in_hand_is_void_when_the_spool_before_it_is_dropped(world: World) -> None:
    """Its place in the spool was waited for; the source shows it again."""
    world.records.has_cursor = True
    spooled(world, *BODIES[:3])
    elsewhere(world, later_run("", 2_000_000, 0), 9, cursor="1")
    world.feed(BODIES[3])
    world.disk.bytes_max = 1
    life = world.run()
    assert world.queued() == [(n, BODIES[n]) for n in (1, 2, 3)]
    assert life.source.resumed[-1] == ("1", None)


# ── another boot ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("has_cursor", [False, True])
def test_an_older_note_goes_on_where_the_spool_ends(world: World, has_cursor: bool) -> None:
    world.records.has_cursor = has_cursor
    first = spooled(world, *BODIES[:1])
    older = world.path.read_bytes()
    spooled(world, *BODIES[1:4])
    world.path.write_bytes(older)
    world.feed(BODIES[4])
    life = world.run(boot=OTHER_BOOT)
    assert life.notes.run > first.notes.run
    assert life.source.resumed == [("4" if has_cursor else None, None)]
    assert world.queued() == [*enumerate(BODIES[:4], start=1), (1, BODIES[4])]
    assert world.frames()[4].header.previous == RunEnd(first.notes.run, 4, 4, 8)


def test_a_newer_note_is_believed_where_the_end_of_the_spool_is_damaged(world: World) -> None:
    """What was in it is a hole, which a repair fills: reading it again would double it."""
    world.records.has_cursor = True
    world.disk.segment_frames = 2
    first = spooled(world, *BODIES[:4])
    world.disk.damage(1)
    world.feed(BODIES[4])
    life = world.run(boot=OTHER_BOOT)
    assert life.source.resumed == [("4", None)]
    assert world.queued() == [(1, BODIES[0]), (2, BODIES[1]), (1, BODIES[4])]
    assert world.frames()[2].header.previous == RunEnd(first.notes.run, 4, 4, 8)


def test_the_run_is_later_than_all_in_the_spool_whatever_note_and_clock_say(world: World) -> None:
    spooled(world, *BODIES[:1])
    older = world.path.read_bytes()
    spooled(world, *BODIES[1:2])
    second = spooled(world, *BODIES[2:3], boot=OTHER_BOOT)
    world.path.write_bytes(older)
    world.clock_ms = 5
    life = world.born(boot="d" * 32)
    life.run()
    assert life.notes.run > second.notes.run


# ── the end ─────────────────────────────────────────────────────────────────────────────


def test_a_source_that_ended_by_itself_leaves_nothing_in_the_spool(world: World) -> None:
    world.feed(*BODIES[:3])
    away(world, 60)
    life = world.born()
    began = world.clock.now
    life.run()
    assert world.clock.now >= began + 60
    assert world.queued() == list(enumerate(BODIES[:3], start=1))
    assert life.gauge.numbers["ended"] == 1


def test_a_stop_leaves_the_spool_to_the_next_start_and_says_so(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    life = spooled(world, *BODIES[:3])
    assert "bytes stay in the spool: they are handed over at the next start" in caplog.text
    assert life.gauge.numbers["ended"] == 0
    assert world.disk.numbers == [1, 2, 3]


def test_a_quick_stop_with_a_frame_in_hand_puts_it_into_the_spool(world: World) -> None:
    world.feed(*BODIES[:2])
    world.redis.away = True
    life = world.born()
    life.source.at_peek = [life.wish.ask_to_be_quick]
    life.run()
    assert world.disk.numbers == [1]
    assert life.notes.word == 2


def test_a_quick_stop_where_the_spool_refuses_too_leaves_it_in_hand(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.feed(*BODIES[:2])
    world.redis.away = world.disk.fails = True
    life = world.born()
    life.source.at_peek = [life.wish.ask_to_be_quick]
    with pytest.raises(Stopped):
        life.run()
    assert "1 records (2 bytes) in hand that could not be handed over" in caplog.text
    assert life.notes.word == 1


def test_a_disk_that_fails_once_takes_the_frame_later(world: World) -> None:
    world.feed(*BODIES[:2])
    world.redis.away = True
    world.records.ends = False
    life = world.born()
    life.spool.fail(Fault(1))
    life.spool.fail(Fault(2))
    world.clock.at(30, life.wish.ask_to_drain)
    life.run()
    assert world.disk.numbers == [1, 2]


def a_frame(number: int, run: str, body: bytes = b"x\n") -> Spooled:
    header = Header(run, number, "tweets", 1, number - 1, 0, len(body), checksum(body), 1.0, 1.0)
    return Spooled(header, encode_header(header), body)


def test_the_fake_spool_refuses_as_the_real_one(world: World) -> None:
    """What these tests rely on."""
    life = world.born()
    life.spool.open()
    frame = a_frame(1, "00" * 16)
    life.spool.append(frame.line, frame.body)
    life.spool.append(frame.line, frame.body)
    assert world.disk.numbers == [1]
    world.disk.fails = True
    with pytest.raises(Unavailable):
        life.spool.append(a_frame(2, "00" * 16).line, b"x\n")


def test_what_a_source_of_another_kind_cannot_show_again_is_never_dropped(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """A file became a socket while both had frames in the spool, and the queue is further on."""
    world.records.has_cursor = True
    spooled(world, *BODIES[:2])
    world.records.has_cursor = False
    spooled(world, *BODIES[2:4], boot=OTHER_BOOT)
    elsewhere(world, later_run(world.disk.frames[0].header.run, 0, 1), 50, "99")
    world.run()
    assert [body for _, body in world.queued()] == BODIES[:4]
    assert caplog.text.count("it is handed over all the same") == 1
