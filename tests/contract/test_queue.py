"""The contract of a queue, run over the one in memory, Redis 7.0 and the embedded Valkey.

The last part asks things that only a real server can do: restart, run full, hang, refuse.
"""

import itertools
import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from appliance.contracts import (
    LEASE_RECORDS_MAX,
    Death,
    Depth,
    Lease,
    Push,
    Pushed,
    Queue,
    SourceState,
)
from appliance.errors import ConfigError, Occupied, Unavailable
from appliance.frame import Header, encode_header
from appliance.queues import redis as redis_queue
from appliance.queues.address import RedisAddress
from appliance.queues.hints import RIGHTS, check_version
from appliance.queues.keys import Keys
from appliance.queues.redis import (
    ATTEMPTS_FRAMES_MAX,
    ATTEMPTS_S,
    DEATHS_CHARS_MAX,
    LEASE_STEP_BYTES,
    RedisQueue,
)
from tests.fake_queue import Fault, Killed, MemoryQueue, MemoryRedis
from tests.ports import free_port
from tests.proxy import WHENS, CutOnce, Proxy, Verdict
from tests.redis_servers import PrivateRedis, find_redis

GIB = 2**30
RUN = "0190c0de" + "0" * 24
OLDER_RUN = "0190c0dd" + "f" * 24
NEWER_RUN = "0190c0df" + "0" * 24
NAMES = itertools.count(1)
ARRIVAL_S = 10.0  # of a frame that was sent


def a_push(number: int, body: bytes = b"record\n", run: str = RUN, **more: Any) -> Push:
    """Frame `number` of a source, with a header that tells frames apart."""
    known: dict[str, Any] = {"source": "tweets", "records": number, "bytes": number * len(body)}
    header = b'{"number":%d,"run":"%s"}\n' % (number, run.encode())
    return Push(run=run, number=number, header=header, body=body, **known | more)


def item_of(push: Push) -> bytes:
    return push.header + bytes(push.body)


@dataclass
class Contents:
    """What lies where, seen from outside."""

    working: list[bytes]
    busy: dict[str, list[bytes]]
    bad: list[bytes]
    counted: int  # {name}:bytes
    attempts: dict[str, str]  # deaths by the name of a frame

    @property
    def items(self) -> Counter[bytes]:
        """Every frame that is queued, wherever it is."""
        return Counter(itertools.chain(self.working, *self.busy.values()))


class Bench:
    """A queue server with as many connections as a test wants."""

    def queue(self, role: str = "subscriber", bytes_max: int = GIB, **more: Any) -> Any:
        raise NotImplementedError

    def collector(self, instance: str, source: str = "tweets") -> Any:
        return self.queue(f"collector-{source}", instance=instance)

    def cut(self, queue: Any) -> None:
        """End the queue's connection from the server's side."""
        raise NotImplementedError

    def look(self) -> Contents:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError


@dataclass
class MemoryBench(Bench):
    server: MemoryRedis = field(default_factory=MemoryRedis)

    def queue(self, role: str = "subscriber", bytes_max: int = GIB, **more: Any) -> MemoryQueue:
        return MemoryQueue(self.server, role, bytes_max, **more)

    def cut(self, queue: MemoryQueue) -> None:
        self.server.cut(queue.owner)

    def look(self) -> Contents:
        server = self.server
        return Contents(
            list(server.working),
            dict(server.busy),
            list(server.bad),
            server.bytes,
            dict(server.attempts),
        )

    def flush(self) -> None:
        self.server.flush()


def _decoded(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in fields.items()}


@dataclass
class RedisBench(Bench):
    server: PrivateRedis
    address: RedisAddress
    keys: Keys = field(default_factory=lambda: Keys(f"queue_{next(NAMES)}"))
    made: list[RedisQueue] = field(default_factory=list)
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def queue(self, role: str = "subscriber", bytes_max: int = GIB, **more: Any) -> RedisQueue:
        known: dict[str, Any] = {"reply_timeout_s": 5.0, "token": lambda: str(next(self.tokens))}
        queue = RedisQueue(self.address, None, self.keys.name, role, bytes_max, **known | more)
        self.made.append(queue)
        return queue

    def cut(self, queue: RedisQueue) -> None:
        with self.server.client() as client:
            for known in client.client_list():
                if known["name"] == queue.owner != "":
                    client.client_kill_filter(_id=known["id"])

    def look(self) -> Contents:
        with self.server.client() as client:
            busy = [key.decode() for key in client.keys(self.keys.every_busy)]
            return Contents(
                client.lrange(self.keys.working, 0, -1),
                {self.keys.owner(key): client.lrange(key, 0, -1) for key in busy},
                client.lrange(self.keys.bad, 0, -1),
                int(client.get(self.keys.bytes) or 0),
                _decoded(client.hgetall(self.keys.attempts)),
            )

    def flush(self) -> None:
        with self.server.client() as client:
            client.flushall()

    def close(self) -> None:
        for queue in self.made:
            queue.close()
        self.flush()


@pytest.fixture(params=["memory", "redis", "redis-tcp", "valkey"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    if request.param == "memory":
        yield MemoryBench()
        return
    kind, _, transport = request.param.partition("-")
    server: PrivateRedis = request.getfixturevalue(f"{kind}_server")
    bench = RedisBench(server, server.tcp_address if transport else server.address)
    yield bench
    bench.close()


@pytest.fixture(params=["redis", "valkey"])
def real(request: pytest.FixtureRequest) -> Iterator[RedisBench]:
    server: PrivateRedis = request.getfixturevalue(f"{request.param}_server")
    bench = RedisBench(server, server.address)
    yield bench
    bench.close()


def taken(queue: Queue, bytes_max: int = GIB) -> Lease:
    lease = queue.take(bytes_max, 0.0)
    assert lease is not None
    return lease


def items_of(lease: Lease | None) -> list[bytes]:
    """All of a lease that is small enough to be gone through more than once."""
    assert lease is not None
    assert isinstance(lease.items, list)
    assert lease.frames == len(lease.items)
    return lease.items


# ── push ────────────────────────────────────────────────────────────────────────────────


def test_frames_come_out_as_they_went_in(bench: Bench) -> None:
    queue = bench.queue()
    pushes = [a_push(n, bytes(range(256)) * n) for n in range(1, 6)]
    pushes.append(a_push(6, body=memoryview(b"a view of a buffer\n")[2:]))  # type: ignore[arg-type]
    pushes.append(a_push(7, body=bytearray(b"")))  # type: ignore[arg-type]
    assert [queue.push(push) for push in pushes] == [Pushed.TAKEN] * 7
    assert items_of(taken(queue)) == [*map(item_of, pushes)]


def test_a_push_sent_again_is_recognised(bench: Bench) -> None:
    queue = bench.queue()
    assert queue.push(a_push(1)) is Pushed.TAKEN
    bench.cut(queue)
    with pytest.raises(Unavailable):
        queue.push(a_push(2))
    assert queue.push(a_push(2)) is Pushed.TAKEN
    assert queue.push(a_push(2)) is Pushed.HAVE_IT
    assert bench.queue().push(a_push(2)) is Pushed.HAVE_IT
    assert bench.look().working == [item_of(a_push(1)), item_of(a_push(2))]


def test_something_else_is_done_while_a_push_is_answered(real: RedisBench) -> None:
    """The frame is on its way by then, and its answer is not read."""
    seen: list[list[bytes]] = []

    def meanwhile() -> None:
        deadline = time.monotonic() + ARRIVAL_S
        while not (frames := real.look().working) and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(frames)

    queue = real.queue(meanwhile=meanwhile)
    assert queue.push(a_push(1)) is Pushed.TAKEN
    assert seen == [[item_of(a_push(1))]]


def test_what_was_last_pushed_is_remembered_for_each_source(bench: Bench) -> None:
    queue = bench.queue()
    assert queue.source_state("tweets") is None
    queue.push(a_push(1, cursor_after="c1"))
    queue.push(a_push(2, records=20, bytes=2000))
    queue.push(a_push(1, source="other"))
    assert queue.source_state("tweets") == SourceState(RUN, 2, "c1", 20, 2000)
    assert queue.source_state("other") == SourceState(RUN, 1, None, 1, 7)


@pytest.mark.parametrize("late", [a_push(2), a_push(9, run=OLDER_RUN)], ids=["number", "run"])
def test_a_late_push_is_taken_and_moves_nothing_back(bench: Bench, late: Push) -> None:
    queue = bench.queue()
    queue.push(a_push(5))
    assert queue.push(late) is Pushed.TAKEN
    assert queue.source_state("tweets") == SourceState(RUN, 5, None, 5, 35)
    assert queue.push(a_push(5)) is Pushed.HAVE_IT
    assert bench.look().working == [item_of(a_push(5)), item_of(late)]
    assert bench.look().counted == len(item_of(a_push(5))) + len(item_of(late))


def test_a_new_run_begins_at_its_own_number(bench: Bench) -> None:
    queue = bench.queue()
    queue.push(a_push(5))
    assert queue.push(a_push(1, run=NEWER_RUN)) is Pushed.TAKEN
    assert queue.source_state("tweets") == SourceState(NEWER_RUN, 1, None, 1, 7)
    assert queue.push(a_push(5)) is Pushed.TAKEN  # no longer the last: the ledger knows it


def test_number_ten_follows_nine(bench: Bench) -> None:
    queue = bench.queue()
    queue.push(a_push(9))
    queue.push(a_push(10))
    state = queue.source_state("tweets")
    assert state is not None
    assert state.number == 10


def test_a_full_queue_takes_nothing_more_until_something_is_confirmed(bench: Bench) -> None:
    size = len(item_of(a_push(1)))
    collector, subscriber = bench.queue("collector", bytes_max=2 * size), bench.queue()
    assert collector.push(a_push(1)) is Pushed.TAKEN
    assert collector.push(a_push(2)) is Pushed.TAKEN
    assert collector.push(a_push(3)) is Pushed.FULL
    assert collector.push(a_push(2)) is Pushed.HAVE_IT
    lease = taken(subscriber, bytes_max=1)
    assert collector.push(a_push(3)) is Pushed.FULL  # in somebody's hands is still queued
    subscriber.confirm(lease)
    assert collector.push(a_push(3)) is Pushed.TAKEN
    assert bench.look().working == [item_of(a_push(2)), item_of(a_push(3))]


def test_a_frame_that_starts_elsewhere_is_refused_unless_forced(bench: Bench) -> None:
    queue = bench.queue()
    first = a_push(1, cursor_before="0", cursor_after="100")
    stale = a_push(1, run=NEWER_RUN, cursor_before="50", cursor_after="150")
    assert queue.push(first) is Pushed.TAKEN  # no cursor there yet, so nothing to compare
    assert queue.push(stale) is Pushed.ELSEWHERE
    assert queue.push(replace(stale, run=OLDER_RUN)) is Pushed.ELSEWHERE
    assert bench.look().working == [item_of(first)]
    assert queue.source_state("tweets") == SourceState(RUN, 1, "100", 1, 7)
    assert queue.push(replace(stale, force=True)) is Pushed.TAKEN
    assert queue.source_state("tweets") == SourceState(NEWER_RUN, 1, "150", 1, 7)
    assert queue.push(a_push(2, run=NEWER_RUN, cursor_before="150")) is Pushed.TAKEN


def test_a_source_without_cursor_is_never_elsewhere(bench: Bench) -> None:
    queue = bench.queue()
    queue.push(a_push(1, cursor_before="", cursor_after=""))
    assert queue.push(a_push(2)) is Pushed.TAKEN
    assert queue.push(a_push(3, cursor_before="x", cursor_after="y")) is Pushed.ELSEWHERE
    assert queue.source_state("tweets") == SourceState(RUN, 2, "", 2, 14)  # an empty cursor is one
    assert queue.push(a_push(3, cursor_before="", cursor_after="y")) is Pushed.TAKEN


@pytest.mark.parametrize("cursor", ["", "100"])
def test_a_source_that_lost_its_own_cursor_is_told_where_it_was(bench: Bench, cursor: str) -> None:
    """A state directory is gone, the queue remembers: starting anew would store all twice."""
    queue = bench.queue()
    queue.push(a_push(1, cursor_after=cursor))
    lost = a_push(1, run=NEWER_RUN, cursor_before=None, cursor_after="50")
    assert queue.push(lost) is Pushed.ELSEWHERE
    assert queue.push(replace(lost, force=True)) is Pushed.TAKEN


# ── take, confirm, give back ────────────────────────────────────────────────────────────


def test_a_lease_ends_where_another_frame_like_the_last_has_no_room(bench: Bench) -> None:
    queue = bench.queue()
    pushes = [a_push(n, b"x" * 100) for n in range(1, 8)]
    size = len(item_of(pushes[0]))
    for push in pushes:
        queue.push(push)
    for limit, expected in ((1, 1), (2 * size - 1, 1), (2 * size, 2), (GIB, 3)):
        lease = taken(queue, limit)
        assert lease.frames == expected
        queue.confirm(lease)
    assert queue.take(GIB, 0.0) is None


def test_a_frame_in_somebodys_hands_is_nobody_elses(bench: Bench) -> None:
    one, other = bench.queue(), bench.queue()
    one.push(a_push(1))
    one.push(a_push(2))
    first, second = taken(one, 1), taken(other, 1)
    assert (items_of(first), items_of(second)) == ([item_of(a_push(1))], [item_of(a_push(2))])
    assert one.depth() == Depth(0, 2, 2 * len(item_of(a_push(1))))
    one.confirm(first)
    assert bench.look().busy == {second.owner: [item_of(a_push(2))]}


def test_what_is_given_back_stands_in_front_in_its_old_order(bench: Bench) -> None:
    queue = bench.queue()
    items = [item_of(a_push(n)) for n in range(1, 5)]
    for n in range(1, 5):
        queue.push(a_push(n))
    queue.give_back(taken(queue, 3 * len(items[0])))
    assert bench.look().working == items
    assert bench.look().busy == {}
    assert bench.look().counted == sum(map(len, items))
    assert items_of(taken(queue)) == [*items]


def test_bytes_are_counted_until_confirmed_and_end_at_0(bench: Bench) -> None:
    queue = bench.queue()
    sizes = []
    for n in range(1, 30):
        push = a_push(n, b"x" * (n * 37 % 101))
        sizes.append(len(item_of(push)))
        queue.push(push)
        assert queue.depth().bytes == sum(sizes)
    while lease := queue.take(300, 0.0):
        queue.confirm(lease)
        del sizes[: lease.frames]
        assert queue.depth().bytes == sum(sizes)
    assert queue.depth() == Depth(0, 0, 0)


def test_a_lease_ends_with_the_frame_that_reaches_the_limit_of_records(bench: Bench) -> None:
    """Tiny records fill memory and transactions long before bytes do."""
    queue, half = bench.queue(), LEASE_RECORDS_MAX // 2 + 1
    counts = [half, half, 0, 1, half, 10 * LEASE_RECORDS_MAX, 1, 1]
    for number, records in enumerate(counts, 1):
        header = encode_header(a_header(number, records))
        queue.push(replace(a_push(number), header=header))
    queue.push(a_push(9))  # with no such word in its header
    leases = []
    for _ in range(3):
        leases.append(taken(queue))
        queue.confirm(leases[-1])
    assert [lease.frames for lease in leases] == [2, 4, 3]


def a_header(number: int, records: int) -> Header:
    size = {"records_before": 0, "bytes_before": 0, "body_bytes": 7, "crc": 0}
    times = {"first_received": 1.0, "last_received": 2.0}
    return Header(RUN, number, "s" * 32, records, **size, **times)  # type: ignore[arg-type]


def test_a_lease_needs_the_connection_that_took_it(bench: Bench) -> None:
    queue, other = bench.queue(), bench.queue()
    queue.push(a_push(1))
    lease = taken(queue)
    for misuse in (other.confirm, other.give_back, lambda lease: other.set_aside(lease, b"")):
        with pytest.raises(Unavailable):
            misuse(lease)
    queue.close()
    queue.depth()  # connected again, under another name
    with pytest.raises(Unavailable):
        queue.confirm(lease)
    assert bench.look().busy == {lease.owner: [item_of(a_push(1))]}


def test_a_confirm_of_what_a_flush_forgot_is_no_error(bench: Bench) -> None:
    queue = bench.queue()
    queue.push(a_push(1, b"x" * 1000))
    lease = taken(queue)
    bench.flush()
    queue.push(a_push(2))
    queue.confirm(lease)
    assert queue.depth().bytes == len(item_of(a_push(2)))  # not counted, so not subtracted


def test_bytes_never_fall_below_0(bench: Bench) -> None:
    queue, other = bench.queue(), bench.queue()
    queue.push(a_push(1, b"x" * 1000))
    lease = taken(queue)
    other.push(a_push(2))
    _set_bytes(bench, 10)
    queue.confirm(lease)
    assert bench.look().counted == 0
    queue.confirm(taken(queue))
    assert bench.look().counted == 0


def _set_bytes(bench: Bench, amount: int) -> None:
    if isinstance(bench, MemoryBench):
        bench.server.bytes = amount
    elif isinstance(bench, RedisBench):
        with bench.server.client() as client:
            client.set(bench.keys.bytes, amount)


def test_an_item_set_aside_leaves_the_lease_and_the_sum(bench: Bench) -> None:
    queue = bench.queue()
    pushes = [a_push(n, b"x" * n) for n in range(1, 4)]
    for push in pushes:
        queue.push(push)
    lease = taken(queue)
    queue.set_aside(lease, items_of(lease)[1])
    queue.set_aside(lease, b"never there")
    seen = bench.look()
    assert seen.bad == [item_of(pushes[1])]
    assert seen.busy == {lease.owner: [item_of(pushes[0]), item_of(pushes[2])]}
    assert seen.counted == len(item_of(pushes[0])) + len(item_of(pushes[2]))
    queue.push(a_push(4))
    queue.confirm(lease)
    assert bench.look().busy == {}
    assert bench.look().counted == len(item_of(a_push(4)))


def test_a_lease_may_be_set_aside_whole(bench: Bench) -> None:
    queue = bench.queue()
    queue.push(a_push(1))
    lease = taken(queue)
    queue.set_aside(lease, items_of(lease)[0])
    assert queue.depth() == Depth(0, 0, 0)
    queue.confirm(lease)
    queue.push(a_push(2))
    assert items_of(taken(queue)) == [item_of(a_push(2))]


def test_what_cannot_be_read_is_kept_up_to_a_limit_the_oldest_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushes = [a_push(n, b"x" * (100 * n)) for n in range(1, 5)]
    sizes = [len(item_of(push)) for push in pushes]
    _limit_bad(bench, monkeypatch, sizes[0] + sizes[1])
    queue = bench.queue()
    for push in pushes:
        queue.push(push)
    lease = taken(queue)
    assert [queue.set_aside(lease, item) for item in items_of(lease)[:3]] == [True, True, False]
    seen = bench.look()
    assert seen.bad == [item_of(push) for push in pushes[:2]]
    assert seen.busy == {lease.owner: [item_of(pushes[3])]}, "also what is gone leaves the lease"
    assert seen.counted == sizes[3]
    queue.confirm(lease)
    assert queue.depth() == Depth(0, 0, 0)
    queue.push(a_push(5, b"x" * 400))
    lease = taken(queue)
    assert not queue.set_aside(lease, items_of(lease)[0])
    _forget_bad(bench)  # the operator has looked at it
    queue.push(a_push(6, b"x" * 100))
    queue.confirm(lease)
    lease = taken(queue)
    assert queue.set_aside(lease, items_of(lease)[0])
    assert bench.look().bad == items_of(lease)


def _limit_bad(bench: Bench, monkeypatch: pytest.MonkeyPatch, bytes_max: int) -> None:
    monkeypatch.setattr(redis_queue, "BAD_BYTES_MAX", bytes_max)
    if isinstance(bench, MemoryBench):
        bench.server.bad_bytes_max = bytes_max


def _forget_bad(bench: Bench) -> None:
    if isinstance(bench, MemoryBench):
        bench.server.bad.clear()
    elif isinstance(bench, RedisBench):
        with bench.server.client() as client:
            client.delete(bench.keys.bad)


# ── one store ───────────────────────────────────────────────────────────────────────────


def test_headers_of_all_that_is_queued(bench: Bench) -> None:
    queue = bench.queue()
    pushes = [a_push(number, b"record\n" * number) for number in range(1, 101)]
    for push in pushes:
        queue.push(push)
    taken(bench.queue(), bytes_max=1)
    lines = [push.header.rstrip(b"\n") for push in pushes]
    assert queue.headers(1000) == [*lines[1:], lines[0]]
    assert queue.headers(3) == [*lines[1:4], lines[0]]
    assert queue.headers(0) == lines[:1]


def numbers_in(lines: Iterable[bytes]) -> list[int]:
    return [json.loads(line)["number"] for line in lines]


@pytest.mark.parametrize("frames_max", [1000, 70])
def test_no_header_is_passed_over_while_others_take_and_give_back(
    real: RedisBench, frames_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call a subscriber gives its lease back and takes a longer one, and a frame comes."""
    queue, other, feeder = real.queue(), real.queue(), real.queue()
    for number in range(1, 101):
        feeder.push(a_push(number))
    calls, leases = itertools.count(1), [taken(other, bytes_max=1)]

    def meanwhile() -> None:
        call = next(calls)
        other.give_back(leases.pop())
        leases.append(taken(other, bytes_max=3 * call * len(item_of(a_push(1)))))
        feeder.push(a_push(100 + call))

    def all_busy() -> list[str]:
        monkeypatch.setattr(queue, "_beat", lambda: None)  # a lease given back now isn't seen
        return RedisQueue._all_busy(queue)

    queue.attach()
    monkeypatch.setattr(queue, "_beat", meanwhile)
    monkeypatch.setattr(queue, "_all_busy", all_busy)
    seen = {*numbers_in(queue.headers(frames_max))}
    assert seen >= {*range(1, min(frames_max, 100) + 1)}
    assert next(calls) > 5, "it takes several steps"


def test_every_header_and_every_source(real: RedisBench) -> None:
    queue = real.queue()
    for number in range(1, 101):
        queue.push(a_push(number))
    taken(real.queue(), bytes_max=1)
    steps = [*real.queue().every_header()]
    assert sorted(numbers_in(itertools.chain(*steps))) == [*range(1, 101)]
    assert max(map(len, steps)) < 100, "never all of it at once"
    queue.push(a_push(3, source="other"))
    states = real.queue().source_states()
    assert states == {name: queue.source_state(name) for name in ("tweets", "other")}


@pytest.mark.parametrize(("small_bytes", "frames"), [(1, 32), (redis_queue.SMALL_BYTES, 128)])
def test_more_headers_are_read_at_once_where_frames_are_small(
    real: RedisBench, monkeypatch: pytest.MonkeyPatch, small_bytes: int, frames: int
) -> None:
    monkeypatch.setattr(redis_queue, "SMALL_BYTES", small_bytes)
    queue = real.queue()
    for number in range(1, 170):
        queue.push(a_push(number))
    steps = [*queue.every_header()]
    assert (len(steps[0]), max(map(len, steps))) == (32, frames)
    assert sorted(numbers_in(itertools.chain(*steps))) == [*range(1, 170)]


def test_a_queue_belongs_to_the_first_store(bench: Bench) -> None:
    queue, later = bench.queue(), bench.queue()
    queue.bind("a" * 32)
    queue.push(a_push(1))
    later.bind("a" * 32)
    with pytest.raises(Unavailable, match="another store") as error:
        later.bind("b" * 32)
    assert error.value.loud
    assert error.value.hint
    bench.cut(queue)
    with pytest.raises(Unavailable):
        queue.bind("a" * 32)
    queue.bind("a" * 32)
    assert items_of(taken(queue)) == [item_of(a_push(1))]
    bench.flush()
    later.bind("b" * 32)


# ── one collector a source ──────────────────────────────────────────────────────────────


def test_a_second_instance_is_refused_naming_the_first_and_changes_nothing(bench: Bench) -> None:
    first, second = bench.collector("a1"), bench.collector("b2")
    first.push(a_push(1))
    for refused in (
        second.attach,
        lambda: second.push(a_push(1, run=NEWER_RUN)),
        lambda: second.source_state("tweets"),
    ):
        with pytest.raises(Occupied, match="instance a1") as error:
            refused()
        assert error.value.loud
        assert error.value.hint
        assert second.owner == ""
    first.attach()
    assert first.push(a_push(2)) is Pushed.TAKEN
    assert bench.look().working == [item_of(a_push(1)), item_of(a_push(2))]
    assert first.source_state("tweets") == SourceState(RUN, 2, None, 2, 14)


def test_other_sources_and_other_roles_are_nobodys_rivals(bench: Bench) -> None:
    for queue in (
        bench.collector("a1"),
        bench.collector("b2", source="tweets2"),
        bench.collector("b2", source="weets"),
        bench.queue("subscriber"),
        bench.queue("recovery"),
    ):
        queue.attach()
        queue.attach()


def test_a_predecessor_of_the_same_instance_is_ended(bench: Bench) -> None:
    dead, ours = bench.collector("a1"), bench.collector("a1")
    dead.push(a_push(1))
    ours.attach()
    with pytest.raises(Unavailable) as error:
        dead.push(a_push(2))
    assert not isinstance(error.value, Occupied)
    assert ours.push(a_push(1)) is Pushed.HAVE_IT
    assert ours.push(a_push(2)) is Pushed.TAKEN
    assert bench.look().working == [item_of(a_push(1)), item_of(a_push(2))]


def test_the_first_gives_way_when_it_had_lost_its_connection_meanwhile(bench: Bench) -> None:
    first, second = bench.collector("a1"), bench.collector("b2")
    first.push(a_push(1))
    bench.cut(first)
    second.attach()
    with pytest.raises(Unavailable):
        first.push(a_push(2))
    with pytest.raises(Occupied, match="instance b2"):
        first.push(a_push(2))
    second.close()
    assert _eventually(lambda: _attaches(first))
    assert first.push(a_push(2)) is Pushed.TAKEN
    assert bench.look().working == [item_of(a_push(1)), item_of(a_push(2))]


def _attaches(queue: Any) -> bool:
    try:
        queue.attach()
    except Occupied:
        return False
    return True


# ── sweep ───────────────────────────────────────────────────────────────────────────────


def test_the_sweep_gives_back_what_the_dead_held_and_only_that(bench: Bench) -> None:
    living, dead, recovery = bench.queue(), bench.queue(), bench.queue("recovery")
    items = [item_of(a_push(n)) for n in range(1, 6)]
    for n in range(1, 6):
        recovery.push(a_push(n))
    lease = taken(living, 1)
    taken(dead, 2 * len(items[0]))
    assert recovery.sweep() == 0
    bench.cut(dead)
    assert recovery.sweep() == 2
    assert recovery.sweep() == 0
    assert bench.look().working == items[1:]
    assert bench.look().busy == {lease.owner: items[:1]}
    living.confirm(lease)
    assert bench.look().counted == sum(map(len, items[1:]))


def test_a_closed_owner_is_a_dead_one(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    queue.push(a_push(1))
    taken(queue)
    queue.close()
    queue.close()
    assert _eventually(lambda: recovery.sweep() == 1)
    assert items_of(taken(queue)) == [item_of(a_push(1))]


def test_the_sweep_mends_a_sum_that_has_drifted(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    queue.push(a_push(1))
    _set_bytes(bench, 5000)
    recovery.sweep()
    assert bench.look().counted == 5000  # something waits: whose bytes they are can't be known
    lease = taken(queue)
    recovery.sweep()
    assert bench.look().counted == 5000
    queue.confirm(lease)
    recovery.sweep()
    assert bench.look().counted == 0


# ── deaths over frames ──────────────────────────────────────────────────────────────────


def name_of(number: int) -> str:
    return f"{RUN}:{number}"


def die(bench: Bench, number: int, record: int | None = None, *, bytes_max: int = GIB) -> Death:
    """Somebody takes a lease and dies with this frame in hand (0: with all of them)."""
    queue = bench.queue()
    lease = taken(queue, bytes_max)
    bench.cut(queue)
    return Death(lease.owner, name_of(number) if number else "", record, "SIGSEGV")


def test_a_death_is_written_down_beside_the_frame_in_hand_alone(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    for n in (1, 2, 3):
        queue.push(a_push(n))
    assert recovery.sweep([die(bench, 2)]) == 3
    assert bench.look().attempts == {name_of(2): "SIGSEGV"}
    assert recovery.sweep([die(bench, 2, 5)]) == 3
    lease = taken(queue)
    assert items_of(lease) == [item_of(a_push(n)) for n in (1, 2, 3)]
    assert lease.deaths == {name_of(2): "SIGSEGV SIGSEGV@5"}


def test_a_death_with_all_of_a_lease_in_hand_is_every_frames(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    for n in (1, 2, 3):
        queue.push(a_push(n))
    recovery.sweep([die(bench, 0, bytes_max=2 * len(item_of(a_push(1))))])
    assert bench.look().attempts == {name_of(1): "SIGSEGV", name_of(2): "SIGSEGV"}
    one = taken(queue, 1)
    assert one.deaths == {name_of(1): "SIGSEGV"}
    assert taken(bench.queue()).deaths == {name_of(2): "SIGSEGV"}


def test_a_death_with_several_in_hand_is_none_over_a_frame_that_went_alone(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    for n in (1, 2):
        queue.push(a_push(n))
    for _ in range(2):
        recovery.sweep([die(bench, 1)])
    for number in (2, 0, 0, 0, 0, 1):
        recovery.sweep([die(bench, number)])
    three = "SIGSEGV SIGSEGV SIGSEGV"
    assert bench.look().attempts == {name_of(1): f"{three} SIGSEGV", name_of(2): three}


def test_a_death_counts_once_however_often_it_is_told(bench: Bench) -> None:
    queue, recovery, other = bench.queue(), bench.queue("recovery"), bench.queue("recovery")
    queue.push(a_push(1))
    death = die(bench, 1)
    assert [recovery.sweep([death]), other.sweep([death]), recovery.sweep([death])] == [1, 0, 0]
    assert bench.look().attempts == {name_of(1): "SIGSEGV"}
    lease = taken(queue)
    recovery.sweep([death])
    queue.give_back(lease)
    assert taken(queue).deaths == {name_of(1): "SIGSEGV"}  # also what is given back keeps them


def test_a_death_that_is_told_too_late_or_by_mistake_counts_nothing(bench: Bench) -> None:
    """Its frames came back before; or they are another's by now, who lives."""
    queue, recovery = bench.queue(), bench.queue("recovery")
    for n in (1, 2):
        queue.push(a_push(n))
    death = die(bench, 1)
    recovery.sweep()
    lease = taken(queue, 1)
    recovery.sweep([death, replace(death, owner=lease.owner), replace(death, owner="nobody")])
    assert bench.look().attempts == {}
    assert lease.deaths == {}


def test_a_confirm_forgets_the_deaths_over_its_frames_and_no_others(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    for n in (1, 2, 3):
        queue.push(a_push(n))
    recovery.sweep([die(bench, 0)])
    lease = taken(queue, 2 * len(item_of(a_push(1))))
    assert lease.deaths.keys() == {name_of(1), name_of(2)}
    queue.confirm(lease)
    assert bench.look().attempts == {name_of(3): "SIGSEGV"}
    queue.confirm(taken(queue))
    assert bench.look().attempts == {}


def test_deaths_over_items_that_are_no_frames_of_ours(bench: Bench) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    for number, header in enumerate((b"{}\n", b"", b"\n", b'{"run":"0a"}\n', b'{"number":1}'), 1):
        queue.push(replace(a_push(number), header=header))
    queue.push(a_push(6, b'"run":"0a","number":5\n'))
    queue.push(a_push(7, bytes(range(256)) * 9))
    recovery.sweep([die(bench, 0)])
    assert bench.look().attempts == {name_of(6): "SIGSEGV", name_of(7): "SIGSEGV"}
    lease = taken(queue)
    assert lease.deaths == {name_of(6): "SIGSEGV", name_of(7): "SIGSEGV"}
    queue.confirm(lease)


def _eventually(true: Callable[[], bool]) -> bool:
    """A server notices a closed connection a moment later."""
    return any(true() or threading.Event().wait(0.01) for _ in range(500))


# ── death between every pair of steps ───────────────────────────────────────────────────

Step = Callable[[Any, dict[str, Lease]], None]


def _steps() -> dict[str, Step]:
    def take(queue: Any, held: dict[str, Lease]) -> None:
        held["lease"] = taken(queue, 1)

    def settle(verb: str) -> Step:
        return lambda queue, held: getattr(queue, verb)(held["lease"])

    return {
        "connect": lambda queue, _held: queue.depth(),
        "push 1": lambda queue, _held: queue.push(a_push(1)),
        "push 2": lambda queue, _held: queue.push(a_push(2)),
        "take": take,
        "give back": settle("give_back"),
        "take again": take,
        "confirm": settle("confirm"),
        "take the rest": take,
        "confirm the rest": settle("confirm"),
    }


@pytest.mark.parametrize("cut_before", range(1, len(_steps())))
def test_a_connection_cut_between_two_steps_loses_nothing(bench: Bench, cut_before: int) -> None:
    queue, recovery = bench.queue(), bench.queue("recovery")
    held: dict[str, Lease] = {}
    pushed: Counter[bytes] = Counter()
    names: set[str] = set()
    for number, (name, step) in enumerate(_steps().items()):
        if number == cut_before:
            bench.cut(queue)
            with pytest.raises(Unavailable):  # noticed, not healed in silence
                step(queue, held)
            assert queue.owner == ""
            recovery.sweep()
            break
        step(queue, held)
        names.add(queue.owner)
        if name.startswith("push"):
            pushed[item_of(a_push(int(name[-1])))] += 1
        if name.startswith("confirm"):
            pushed -= Counter(items_of(held["lease"]))
    assert len(names) == 1
    assert bench.look().items == pushed
    assert bench.look().busy == {}
    for n in (1, 2):  # the collector sends again what it doesn't know to be there
        queue.push(a_push(n))
    assert queue.owner not in names
    assert bench.look().items.keys() >= pushed.keys()
    while lease := queue.take(1, 0.0):
        queue.confirm(lease)
    assert queue.depth() == Depth(0, 0, 0)


@pytest.mark.parametrize("how", ["fail", "die"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", range(1, len(_steps()) + 1))
def test_faults_strike_where_they_are_told_to(call: int, when: Any, how: Any) -> None:
    """The fake itself: other tests rely on its N-th call."""
    server = MemoryRedis()
    queue = MemoryQueue(server, faults=(Fault(call, when, how),))
    held: dict[str, Lease] = {}
    names = list(_steps())
    for number, step in enumerate(_steps().values(), start=1):
        if number == call:
            before = MemoryBench(server).look()
            with pytest.raises(Killed if how == "die" else Unavailable):
                step(queue, held)
            changed = MemoryBench(server).look() != before
            assert changed == (when == "after" and names[call - 1] != "connect")
            assert not server.clients
            return
        step(queue, held)


# ── the fake and the real one, step by step the same ────────────────────────────────────

PUSHES = st.builds(
    a_push,
    st.integers(1, 4),
    body=st.binary(max_size=30),
    run=st.sampled_from([OLDER_RUN, RUN, NEWER_RUN]),
    source=st.sampled_from(["a", "b"]),
    cursor_before=st.sampled_from([None, "", "x"]),
    cursor_after=st.sampled_from([None, "", "x"]),
    force=st.booleans(),
)
WHO = st.integers(0, 1)
ACTIONS = st.one_of(
    st.tuples(st.just("push"), WHO, PUSHES),
    st.tuples(st.just("take"), WHO, st.integers(0, 250)),
    st.tuples(st.sampled_from(["confirm", "give_back", "set_aside"]), WHO, st.none()),
    st.tuples(st.sampled_from(["cut", "sweep", "depth", "source_state"]), WHO, st.none()),
    st.tuples(st.just("die"), WHO, st.integers(0, 4)),
)


class Performer:
    """Does the same actions on two queues of a bench and writes down what came of each."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.queues = [bench.queue(role, bytes_max=400) for role in ("one", "two")]
        self.leases: list[Lease | None] = [None, None]
        self.items: list[list[bytes]] = [[], []]
        self.deaths: list[Death] = []

    def perform(self, verb: str, who: int, what: Any) -> object:
        try:
            answer = self._perform(verb, who, self.queues[who], what)
        except Unavailable:
            self.leases[who] = None
            answer = "unavailable"
        busy = Counter(map(tuple, self.bench.look().busy.values()))
        return answer, replace(self.bench.look(), busy={}), busy

    def _perform(self, verb: str, who: int, queue: Any, what: Any) -> object:
        lease = self.leases[who]
        match verb:
            case "take" if lease is None:
                lease = self.leases[who] = queue.take(what, 0.0)
                self.items[who] = [*map(bytes, lease.items)] if lease else []
                return lease and (lease.frames, self.items[who], lease.deaths)
            case "confirm" | "give_back" if lease:
                self.leases[who] = None
                return getattr(queue, verb)(lease)
            case "set_aside" if lease:
                return queue.set_aside(lease, self.items[who][0])
            case "cut" if queue.owner:
                self.bench.cut(queue)
            case "push":
                return queue.push(what)
            case "die" if lease:
                name = name_of(what) if what else ""
                self.deaths.append(Death(lease.owner, name, what or None, "SIGKILL"))
                self.bench.cut(queue)
            case "sweep":
                return queue.sweep(self.deaths)
            case "depth":
                return queue.depth()
            case "source_state":
                return queue.source_state("a")
        return None


@settings(
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(actions=st.lists(ACTIONS, max_size=25), step_bytes=st.sampled_from([1, 150, 10_000]))
def test_the_fake_does_what_redis_does(
    real: RedisBench, actions: list[Any], step_bytes: int
) -> None:
    """However much of a lease is read in one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_queue, "LEASE_STEP_BYTES", step_bytes)
        _compare(real, actions)


def _compare(real: RedisBench, actions: list[Any]) -> None:
    real.flush()
    real.tokens = itertools.count(1)  # owners are called alike, so sweeps go in the same order
    memory, redis = Performer(MemoryBench()), Performer(real)
    for action in actions:
        assert memory.perform(*action) == redis.perform(*action), action
    for queue in real.made:
        queue.close()
    real.made.clear()


# ── only on real servers ────────────────────────────────────────────────────────────────


def test_a_take_waits_for_a_frame_and_not_longer_than_told(real: RedisBench) -> None:
    queue, collector = real.queue(reply_timeout_s=0.3), real.queue("collector")
    assert queue.take(GIB, 0.5) is None  # longer than the reply timeout, and no error
    collector.depth()
    threading.Timer(0.1, collector.push, [a_push(1)]).start()
    lease = queue.take(GIB, 20.0)
    assert lease is not None
    assert items_of(lease) == [item_of(a_push(1))]
    queue.confirm(lease)
    assert queue.depth() == Depth(0, 0, 0)


def take_or_be_woken(queue: RedisQueue) -> Lease | None:
    """A take that would wait long, and may not wait to the end."""
    wait_s, began = 10.0, time.monotonic()
    lease = queue.take(GIB, wait_s)
    assert lease or time.monotonic() - began < wait_s, "nothing has ended its wait"
    return lease


def test_what_wakes_a_take_ends_its_waiting_and_costs_neither_name_nor_frame(
    real: RedisBench,
) -> None:
    """However close to it a frame comes: who pushed it finds it in hand, or waiting."""
    read, write = os.pipe()
    queue, collector = real.queue(wake=read), real.queue("collector")
    queue.depth()
    collector.depth()
    owner, taken = queue.owner, Counter[bytes]()
    for number in range(1, 41):
        threading.Timer(0.01, os.write, [write, b"!"]).start()
        pushing = threading.Timer(0.01 + number % 8 / 2000, collector.push, [a_push(number)])
        pushing.start()
        while lease := take_or_be_woken(queue):
            taken.update(items_of(lease))
            queue.confirm(lease)
        assert os.read(read, 1) == b"!"
        pushing.join()
    while lease := queue.take(GIB, 0):
        taken.update(items_of(lease))
        queue.confirm(lease)
    assert queue.owner == owner
    assert taken == Counter(item_of(a_push(number)) for number in range(1, 41))
    assert queue.depth() == Depth(0, 0, 0)
    os.close(read)
    os.close(write)


def test_what_wakes_a_take_behind_the_end_of_its_time_ends_its_waiting_too(
    real: RedisBench,
) -> None:
    """A server that looks at its clock once a second ends a wait up to a second late."""
    wait_s, woken_at_s, late_s = 0.05, 0.2, 0.3
    awake = os.eventfd(0)
    queue = real.queue(wake=awake)
    queue.depth()
    with real.server.client() as client:
        usual = client.config_get("hz")["hz"]
        client.config_set("hz", 1)
        try:
            waited = []
            for _ in range(3):
                waking = threading.Timer(woken_at_s, os.eventfd_write, [awake, 1])
                waking.start()
                began = time.monotonic()
                assert queue.take(GIB, wait_s) is None
                waited.append(time.monotonic() - began)
                waking.join()
                os.eventfd_read(awake)
        finally:
            client.config_set("hz", usual)
    assert max(waited) < woken_at_s + late_s
    os.close(awake)


class LateWait:
    """Lets the command that waits come behind everything that was sent after it."""

    def question(self, piece: bytes) -> Verdict:
        if b"BLMOVE" in piece:
            time.sleep(0.3)
        return piece, True

    def answer(self, piece: bytes) -> Verdict:
        return piece, True


def test_what_wakes_a_take_ends_a_wait_that_begins_late(real: RedisBench) -> None:
    awake = os.eventfd(1)
    with Proxy(real.address.path, LateWait()) as proxy:
        address = RedisAddress(path=proxy.path)
        queue = RedisQueue(address, None, real.keys.name, "subscriber", GIB, 30.0, wake=awake)
        assert take_or_be_woken(queue) is None
        queue.close()
    os.close(awake)


def test_who_waits_for_a_frame_learns_of_its_deaths(real: RedisBench) -> None:
    """Recovery gives the frame to somebody who is blocked in a take already."""
    queue, recovery = real.queue(), real.queue("recovery")
    queue.push(a_push(1))
    death = die(real, 1, 3)
    sweeping = threading.Timer(0.2, recovery.sweep, [[death]])
    sweeping.start()
    lease = queue.take(GIB, 20.0)
    assert lease is not None
    assert lease.deaths == {name_of(1): "SIGSEGV@3"}
    queue.confirm(lease)
    assert real.look().attempts == {}
    assert queue.depth() == Depth(0, 0, 0)
    sweeping.join()


def test_what_is_written_down_is_bounded_and_not_for_ever(real: RedisBench) -> None:
    queue, recovery = real.queue(), real.queue("recovery")
    queue.push(a_push(1))
    queue.push(a_push(2))
    with real.server.client() as client:
        client.hset(real.keys.attempts, name_of(1), "x" * (DEATHS_CHARS_MAX - 7))
        recovery.sweep([die(real, 0)])
        assert client.hget(real.keys.attempts, name_of(1)) == b"x" * (DEATHS_CHARS_MAX - 7)
        assert client.hget(real.keys.attempts, name_of(2)) == b"SIGSEGV"
        assert ATTEMPTS_S - 5 <= client.ttl(real.keys.attempts) <= ATTEMPTS_S
        client.delete(real.keys.attempts)
        others = {f"other:{n}": "SIGSEGV" for n in range(ATTEMPTS_FRAMES_MAX - 1)}
        client.hset(real.keys.attempts, mapping=others)
        recovery.sweep([die(real, 0)])
        assert client.hlen(real.keys.attempts) == ATTEMPTS_FRAMES_MAX
        recovery.sweep([die(real, 0)])
        assert client.hlen(real.keys.attempts) == ATTEMPTS_FRAMES_MAX


# ── a lease that is read in steps ───────────────────────────────────────────────────────


@pytest.fixture
def stepwise(real: RedisBench, monkeypatch: pytest.MonkeyPatch) -> RedisBench:
    """Frames 1 to 7 wait: a step is two of the first ones, or one of the larger last ones."""
    queue = real.queue("collector")
    for number in range(1, 8):
        queue.push(a_push(number, b"x" * (100 if number < 6 else 1000)))
    step_bytes = 2 * len(item_of(a_push(1, b"x" * 100))) + 1
    monkeypatch.setattr(redis_queue, "LEASE_STEP_BYTES", step_bytes)
    return real


STEPS = (1, 1, 2, 2, 3, 4, 5)  # which of them each frame is read in


def stepwise_items() -> list[bytes]:
    return [item_of(a_push(n, b"x" * (100 if n < 6 else 1000))) for n in range(1, 8)]


def test_a_large_lease_is_read_in_steps_oldest_first(stepwise: RedisBench) -> None:
    queue, wanted = stepwise.queue(), stepwise_items()
    lease = taken(queue)
    assert not isinstance(lease.items, list)
    assert (lease.frames, [*map(bytes, lease.items)]) == (7, wanted)
    assert stepwise.look().busy == {lease.owner: wanted}, "the queue keeps them until confirmed"
    assert queue.depth() == Depth(0, 7, sum(map(len, wanted)))
    queue.confirm(lease)
    assert queue.depth() == Depth(0, 0, 0)


def test_of_a_large_lease_one_step_at_a_time_is_read(
    stepwise: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = stepwise.queue()
    queue.depth()
    lease, sent, send = taken(queue), [], queue._send
    monkeypatch.setattr(queue, "_send", lambda packed: sent.append(packed) or send(packed))
    assert tuple(len(sent) for _ in lease.items) == STEPS


def test_what_is_set_aside_while_a_lease_is_read_moves_nothing(stepwise: RedisBench) -> None:
    queue, wanted = stepwise.queue(), stepwise_items()
    lease = taken(queue)
    seen = []
    for item in lease.items:
        seen.append(bytes(item))
        if item in wanted[::2]:
            assert queue.set_aside(lease, item)
    assert seen == wanted
    assert stepwise.look().bad == wanted[::2]
    assert stepwise.look().busy == {lease.owner: wanted[1::2]}
    queue.confirm(lease)
    assert queue.depth() == Depth(0, 0, 0)


def test_a_lease_is_confirmed_only_when_all_of_it_was_seen(stepwise: RedisBench) -> None:
    queue, wanted = stepwise.queue(), stepwise_items()
    lease = taken(queue)
    items = iter(lease.items)
    for _ in range(6):
        next(items)
        with pytest.raises(AssertionError):
            queue.confirm(lease)
    assert stepwise.look().busy == {lease.owner: wanted}
    queue.give_back(lease)  # which needs none of it
    assert stepwise.look().working == wanted
    with pytest.raises(Unavailable):
        next(items)
    assert queue.owner == "", "as behind every error"


def test_a_connection_cut_while_a_lease_is_read_loses_nothing(stepwise: RedisBench) -> None:
    wanted = stepwise_items()
    for seen in range(1, 7):
        queue = stepwise.queue()
        lease = taken(queue)
        items = iter(lease.items)
        for _ in range(seen):
            next(items)
        stepwise.cut(queue)
        with pytest.raises(Unavailable):
            list(items)
        assert queue.owner == ""
        with pytest.raises(Unavailable):
            queue.confirm(lease)
        assert stepwise.queue("recovery").sweep() == 7
        assert stepwise.look().working == wanted


@pytest.mark.parametrize("seen", [2, 5])
def test_what_is_no_frame_in_an_answer_is_said_and_drops_the_lease(
    stepwise: RedisBench, seen: int
) -> None:
    queue = stepwise.queue()
    lease = taken(queue)
    items = iter(lease.items)
    for _ in range(seen):
        next(items)
    with stepwise.server.client() as client:
        client.delete(stepwise.keys.busy(lease.owner))
        client.set(stepwise.keys.busy(lease.owner), "no list")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        list(items)
    assert queue.owner == ""


@pytest.mark.parametrize(("frames", "seen"), [(4, 1), (7, 5)])
def test_a_lease_that_is_no_longer_there_ends_with_an_error(
    stepwise: RedisBench, frames: int, seen: int
) -> None:
    queue = stepwise.queue()
    lease = taken(queue, sum(map(len, stepwise_items()[:frames])))
    items = iter(lease.items)
    for _ in range(seen):
        next(items)
    stepwise.flush()
    with pytest.raises(Unavailable, match=r"frames in hand are gone|no frame came"):
        list(items)
    assert queue.owner == ""


def test_an_answer_that_ends_in_the_middle_of_a_frame_is_none(
    stepwise: RedisBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = stepwise.queue()
    items = iter(taken(queue).items)
    for _ in range(5):
        next(items)
    monkeypatch.setattr(queue._connection, "_sock", Ending(queue._connection._sock))
    with pytest.raises(Unavailable, match="reset"):
        next(items)
    assert queue.owner == ""


class Ending:
    """A socket on which ten bytes come, and then the end."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._left = 10

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recv_into(self, room: Any) -> int:
        came: int = self._real.recv_into(room[: self._left]) if self._left else 0
        self._left -= came
        return came


def test_the_deaths_over_a_large_lease_are_known_before_it_is_read(stepwise: RedisBench) -> None:
    queue, recovery = stepwise.queue(), stepwise.queue("recovery")
    assert recovery.sweep([die(stepwise, 7, 3)]) == 7
    recovery.sweep([die(stepwise, 2)])
    lease = taken(queue)
    assert lease.deaths == {name_of(7): "SIGSEGV@3", name_of(2): "SIGSEGV"}
    assert [*map(bytes, lease.items)] == stepwise_items()
    queue.confirm(lease)
    assert stepwise.look().attempts == {}


def test_a_frame_served_to_a_dead_owner_is_not_lost(real: RedisBench) -> None:
    """A BLMOVE may be served after its client has given up: under the name it had then."""
    queue, recovery = real.queue(), real.queue("recovery")
    queue.push(a_push(1))
    lease = taken(queue)
    real.cut(queue)
    recovery.push(a_push(2))
    with real.server.client() as client:  # the late effect of the old connection's command
        client.lmove(real.keys.working, real.keys.busy(lease.owner), "LEFT", "RIGHT")
    with pytest.raises(Unavailable):
        queue.confirm(lease)
    assert queue.take(GIB, 0.0) is None
    assert queue.owner != lease.owner
    assert recovery.sweep() == 2
    assert items_of(taken(queue)) == [item_of(a_push(1)), item_of(a_push(2))]


def test_a_server_that_hangs_is_unavailable_and_its_late_answers_harm_nobody() -> None:
    with PrivateRedis(find_redis()) as server:
        bench = RedisBench(server, server.address)
        queue, collector = bench.queue(reply_timeout_s=0.1), bench.queue("collector")
        collector.push(a_push(1))
        queue.confirm(taken(queue))
        server.pause()
        with pytest.raises(Unavailable, match="imeout"):
            queue.take(GIB, 0.0)
        with pytest.raises(Unavailable):  # connects (the kernel accepts), and gets no answer
            queue.take(GIB, 0.1)
        sender = threading.Thread(target=collector.push, args=[a_push(2)])
        sender.start()
        server.resume()
        sender.join()
        recovery = bench.queue("recovery")
        assert _eventually(lambda: bool(recovery.sweep() or bench.look().working))
        assert items_of(taken(queue)) == [item_of(a_push(2))]
        bench.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_nothing_is_lost_when_the_server_starts_again(real: RedisBench, end: str) -> None:
    queue, holder = real.queue(), real.queue()
    items = [item_of(a_push(n)) for n in range(1, 4)]
    for n in range(1, 4):
        queue.push(a_push(n))
    lease = taken(holder, 1)
    getattr(real.server, end)()
    try:
        with pytest.raises(Unavailable):
            queue.push(a_push(4))
        with pytest.raises(Unavailable, match=r"No such file|refused") as error:
            queue.push(a_push(4))
        assert "running" in error.value.hint
        assert not error.value.loud
    finally:
        real.server.start()
    assert queue.push(a_push(3)) is Pushed.HAVE_IT  # with scripts loaded anew
    with pytest.raises(Unavailable):
        holder.confirm(lease)
    assert queue.sweep() == 1
    assert queue.depth() == Depth(3, 0, sum(map(len, items)))
    assert items_of(taken(queue)) == [*items]


def test_scripts_that_somebody_flushed_are_loaded_again(real: RedisBench) -> None:
    queue = real.queue()
    queue.push(a_push(1))
    with real.server.client() as client:
        client.script_flush()
    with pytest.raises(Unavailable):
        queue.push(a_push(2))
    assert queue.push(a_push(2)) is Pushed.TAKEN


def test_a_queue_keeps_to_one_connection(real: RedisBench) -> None:
    with real.server.client() as client:
        queue = real.queue()
        before = client.info("stats")["total_connections_received"]
        for n in range(1, 20):
            queue.push(a_push(n))
            queue.confirm(taken(queue))
            queue.sweep()
        real.cut(queue)
        with pytest.raises(Unavailable):
            queue.depth()
        queue.depth()
        after = client.info("stats")["total_connections_received"]
        assert after - before == 2 + 1  # ours, ours anew, and the one that cut it


def test_an_exception_of_the_caller_drops_the_connection_too(real: RedisBench) -> None:
    """A signal handler may raise anywhere: a half-read reply must not meet the next call."""
    beats = itertools.count()
    fatal: list[int] = []

    def beat() -> None:
        if next(beats) in fatal:
            raise KeyboardInterrupt

    queue = real.queue(beat=beat)
    queue.push(a_push(1))
    first = queue.owner
    fatal.append(next(beats) + 2)  # after the next command was sent and answered
    with pytest.raises(KeyboardInterrupt):
        queue.take(GIB, 0.0)
    assert queue.owner == ""
    assert _eventually(lambda: real.queue("recovery").sweep() == 1)
    assert items_of(taken(queue)) == [item_of(a_push(1))]
    assert queue.owner != first


@pytest.mark.parametrize("deaths", ["", "SIGKILL"])
def test_a_frame_of_any_size_is_waited_for(real: RedisBench, deaths: str) -> None:
    """Large ones are received past the client library, and the connection goes on behind them."""
    subscriber, collector = real.queue(), real.queue()
    sizes = [100, LEASE_STEP_BYTES - 1, LEASE_STEP_BYTES, LEASE_STEP_BYTES + 1, 3 * 1024**2 + 7]
    owners = set()
    for number, size in enumerate(sizes, 1):
        push = a_push(number)
        push = replace(push, body=os.urandom(size - len(push.header)))
        name = name_of(number)
        if deaths:
            with real.server.client() as client:
                client.hset(real.keys.attempts, name, deaths)
        pushing = threading.Timer(0.05, collector.push, [push])
        pushing.start()
        lease = subscriber.take(GIB, 10.0)
        pushing.join()
        assert lease
        owners.add(lease.owner)
        assert [*map(bytes, lease.items)] == [item_of(push)]
        assert lease.deaths == ({name: deaths} if deaths else {})
        subscriber.confirm(lease)
        assert subscriber.depth() == Depth(0, 0, 0)
    assert len(owners) == 1


@pytest.mark.parametrize("is_new", [True, False])
def test_a_take_between_scan_and_client_list_is_left_alone(real: RedisBench, is_new: bool) -> None:
    """The sweep's order: lists first, then the living; and bytes are not forgotten.

    At each of the sweep's steps in turn somebody takes, who may connect only for that. (Then the
    bytes may be counted as none until the lease is confirmed.)
    """
    meddle: list[Callable[[], object]] = []
    leases: list[Lease] = []
    subscriber = real.queue()

    def beat() -> None:
        if meddle:
            meddle.pop()()

    recovery = real.queue("recovery", beat=beat)
    recovery.push(a_push(1))
    for beats in range(1, 13):
        meddle.extend([lambda: leases.append(taken(subscriber))] + [lambda: None] * beats)
        assert recovery.sweep() == 0
        for step in meddle:
            step()
        meddle.clear()
        assert real.look().busy == {leases[-1].owner: [item_of(a_push(1))]}
        assert is_new or real.look().counted == len(item_of(a_push(1)))
        subscriber.give_back(leases[-1])
        if is_new:
            subscriber.close()


@pytest.mark.parametrize("record_bytes", [200, 5000])
def test_a_server_out_of_memory_can_be_drained(record_bytes: int) -> None:
    """LMOVE and BLMOVE are refused at maxmemory, for ever; the scripts are not."""
    slept: list[float] = []
    with PrivateRedis(find_redis()) as server, server.client() as client:
        bench = RedisBench(server, server.address)
        queue = bench.queue(sleep=slept.append)
        for n in range(1, 200):
            queue.push(a_push(n, b"x" * record_bytes))
        client.config_set("maxmemory", "1mb")
        with pytest.raises(Unavailable) as error:
            queue.push(a_push(200))
        assert error.value.loud
        assert "bytes_max" in error.value.hint
        queue.bind("a" * 32)
        queue.give_back(taken(queue, 10_000))
        lease = taken(queue, 1)
        queue.set_aside(lease, items_of(lease)[0])
        queue.confirm(lease)
        numbers = []
        while lease := queue.take(20_000, 5.0):  # type: ignore[assignment]
            owner = queue.owner
            numbers += [int(item.split(b":", 2)[1].split(b",")[0]) for item in items_of(lease)]
            queue.confirm(lease)
        assert numbers == list(range(2, 200))
        assert slept == [0.2]  # the last take: nothing there, and no way to wait for it
        assert queue.owner == owner  # which is not an error
        assert queue.sweep() == 0
        assert queue.depth() == Depth(0, 0, 0)
        bench.close()


def test_full_of_frames_in_other_hands_a_server_doesnt_stop_takers(real: RedisBench) -> None:
    queue, other = real.queue(bytes_max=10), real.queue()
    queue.push(a_push(1))
    lease = taken(queue)
    assert other.take(1, 0.01) is None
    other.push(a_push(2))
    assert items_of(taken(other)) == [item_of(a_push(2))]
    queue.confirm(lease)


def as_user(
    real: RedisBench, user: str, password: str | None = "secret", wake: int | None = None
) -> RedisQueue:
    """A collector's queue over the connection of this user."""
    address = replace(real.address, user=user)
    name, role = real.keys.name, "collector-tweets"
    queue = RedisQueue(address, password, name, role, GIB, 5.0, instance="a1", wake=wake)
    real.made.append(queue)
    return queue


def set_user(client: Any, user: str, *rules: str) -> None:
    client.execute_command("ACL", "SETUSER", user, "reset", "on", ">secret", *rules)


def test_the_rights_named_in_the_hint_are_enough(real: RedisBench) -> None:
    with real.server.client() as client:
        set_user(client, "feed", f"~{{{real.keys.name}}}:*", *RIGHTS.split())
    real.collector("a1").attach()  # a predecessor, to be ended
    awake = os.eventfd(1)
    queue = as_user(real, "feed", wake=awake)
    queue.bind("a" * 32)
    queue.push(a_push(1))
    queue.sweep()
    queue.set_aside(lease := taken(queue), items_of(lease)[0])
    queue.confirm(lease)
    queue.give_back(Lease(queue.owner, 0, []))
    owner = queue.owner
    assert queue.take(1, 1.0) is None, "and its wait is ended"
    os.close(awake)
    queue.source_state("tweets")
    assert queue.depth() == Depth(0, 0, 0)
    assert queue.owner == owner


@pytest.mark.parametrize("missing", ["client|list", "client|kill", "info", "evalsha", "scan"])
def test_a_right_that_is_missing_is_named_with_what_to_grant(
    real: RedisBench, missing: str
) -> None:
    with real.server.client() as client:
        keys = f"~{{{real.keys.name}}}:*"
        set_user(client, "poor", keys, *RIGHTS.split(), f"-{missing}")
    real.collector("a1").attach()  # a predecessor, to be ended
    queue = as_user(real, "poor")
    with pytest.raises(Unavailable, match=re.escape(f"'{missing}'")) as error:
        queue.sweep()
    assert error.value.loud
    assert RIGHTS in error.value.hint


@pytest.mark.parametrize("missing", ["multi", "exec", "evalsha", "lpush", "rename", "rpushx"])
def test_a_push_that_may_not_do_all_does_nothing(real: RedisBench, missing: str) -> None:
    queue = as_user(real, "poor")
    with real.server.client() as client:
        rights = (f"~{{{real.keys.name}}}:*", *RIGHTS.split())
        set_user(client, "poor", *rights)
        queue.push(a_push(1))
        queue.close()
        before = everything(real)
        set_user(client, "poor", *rights, f"-{missing}")
        with pytest.raises(Unavailable):
            queue.push(a_push(2))
        assert everything(real) == before
        set_user(client, "poor", *rights)
    assert queue.push(a_push(2)) is Pushed.TAKEN
    assert real.look().working == [item_of(a_push(1)), item_of(a_push(2))]


def test_a_push_whose_scripts_are_gone_does_nothing_and_loads_them(real: RedisBench) -> None:
    queue = real.queue()
    queue.push(a_push(1))
    before = everything(real)
    with real.server.client() as client:
        client.script_flush()
    with pytest.raises(Unavailable):
        queue.push(a_push(2))
    assert everything(real) == before
    assert queue.push(a_push(2)) is Pushed.TAKEN


def test_a_list_that_is_none_takes_no_frame_and_counts_none(real: RedisBench) -> None:
    queue = real.queue()
    with real.server.client() as client:
        client.set(real.keys.working, "somebody's")
        with pytest.raises(Unavailable):
            queue.push(a_push(1))
        assert set(everything(real)) == {real.keys.working}
        client.delete(real.keys.working)
    assert queue.push(a_push(1)) is Pushed.TAKEN


@pytest.mark.parametrize("queued", [0, 1, 3])
def test_a_push_leaves_nothing_but_its_frame_behind(real: RedisBench, queued: int) -> None:
    queue, small = real.queue(), real.queue(bytes_max=1)
    pushes = [a_push(n) for n in range(1, queued + 2)]
    for push in pushes:
        queue.push(push)
    assert real.look().working == list(map(item_of, pushes))
    before = everything(real)
    assert queue.push(pushes[-1]) is Pushed.HAVE_IT
    assert small.push(a_push(99)) is Pushed.FULL
    assert everything(real) == before
    assert set(before) == {real.keys.working, real.keys.bytes, real.keys.source("tweets")}


def test_a_frame_that_does_not_come_is_not_counted(real: RedisBench) -> None:
    """As if RPUSHX were refused amid a transaction: each of its commands is judged on its own."""
    queue = real.queue()
    queue.push(a_push(1))
    before = everything(real)
    keys = real.keys
    told = [keys.working, keys.bytes, keys.source("tweets"), keys.incoming]
    told += [a_push(2).run, 2, 2, 2, 0, "", 0, "", 10**9, 100]
    with real.server.client() as client:
        assert client.eval(redis_queue.OPEN, 4, *told) == b"taken"
        with pytest.raises(ResponseError, match="no frame came"):
            client.eval(redis_queue.SHUT, 4, *told)
    assert everything(real) == before


@pytest.mark.parametrize("waiting", [[], [3, 4]])
def test_frames_that_an_unfinished_push_has_left_wait_again(
    real: RedisBench, waiting: list[int]
) -> None:
    queue = real.queue()
    left = [item_of(a_push(n)) for n in (1, 2)]
    behind = [item_of(a_push(n)) for n in waiting]
    with real.server.client() as client:
        client.rpush(real.keys.incoming, b"1", *left)
        if behind:
            client.rpush(real.keys.working, *behind)
    assert queue.push(a_push(5)) is Pushed.TAKEN
    assert real.look().working == [*left, *behind, item_of(a_push(5))]


def test_what_a_refused_push_has_hidden_is_found_by_recovery(real: RedisBench) -> None:
    """Perhaps nobody pushes any more."""
    queue, recovery = real.queue(), real.queue("recovery")
    queue.push(a_push(1))
    with real.server.client() as client:
        client.script_flush()
        client.script_load(redis_queue.OPEN)  # by another, who hasn't come further yet
    with pytest.raises(Unavailable):
        queue.push(a_push(2))
    assert real.look().working == []
    recovery.sweep()
    items = [item_of(a_push(n)) for n in (1, 2)]
    assert real.look().working == items
    assert queue.push(a_push(2)) is Pushed.TAKEN, "as after a lost reply: the ledger knows it"
    assert real.look().working == [*items, items[1]]


def everything(real: RedisBench) -> dict[str, bytes]:
    """All keys of the instance with what they hold."""
    with real.server.client() as client:
        keys = [key.decode() for key in client.scan_iter(f"{{{real.keys.name}}}:*")]
        return {key: client.dump(key) for key in keys}


def test_a_wrong_password_is_said_and_never_shown(real: RedisBench) -> None:
    with real.server.client() as client:
        set_user(client, "feed", f"~{{{real.keys.name}}}:*", *RIGHTS.split())
    for password in ("a wrong secret", None):
        with pytest.raises(Unavailable) as error:
            as_user(real, "feed", password).attach()
        assert error.value.loud
        assert "password = {" in error.value.hint
        assert "secret" not in str(error.value)


def test_an_address_where_nothing_listens_is_unavailable() -> None:
    for address in (
        RedisAddress(host="127.0.0.1", port=free_port()),
        RedisAddress(host="no-such-host.invalid"),
    ):
        with pytest.raises(Unavailable) as error:
            RedisQueue(address, None, "x", "test", GIB, 1.0).depth()
        assert str(address) in error.value.message
        assert error.value.hint


def test_a_server_on_its_way_up_says_so() -> None:
    with PrivateRedis(find_redis()) as server, server.client() as client:
        bench = RedisBench(server, server.address)
        queue = bench.queue()
        for n in range(1, 300):
            queue.push(a_push(n, source=f"s{n}"))
        client.bgrewriteaof()  # out of the compact form it serves clients more often
        assert _eventually(lambda: not client.info("persistence")["aof_rewrite_in_progress"])
        client.close()
        server.stop()
        server.options["key-load-delay"] = "2000"  # microseconds
        server.options["loading-process-events-interval-bytes"] = "1024"
        server.spawn()
        said: set[str] = set()
        while not _answers(queue, said):
            pass
        assert any("loading" in text and "by itself" in text for text in said), said
        assert queue.depth().frames == 299
        bench.close()


def _answers(queue: RedisQueue, said: set[str]) -> bool:
    try:
        queue.depth()
    except Unavailable as error:
        said.add(str(error))
        return False
    return True


def test_of_two_instances_that_start_at_once_exactly_one_collects(real: RedisBench) -> None:
    for _ in range(15):
        queues = [real.collector(instance) for instance in ("a1", "b2", "c3")]
        line = threading.Barrier(len(queues))
        came: list[str] = []

        def start(queue: RedisQueue, line: threading.Barrier, came: list[str]) -> None:
            line.wait()
            came += [queue.owner] if _attaches(queue) else []

        threads = [threading.Thread(target=start, args=[q, line, came]) for q in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(came) == 1, came
        assert [q.owner for q in queues if q.owner] == came
        for queue in queues:
            queue.close()
        with real.server.client() as client:
            assert _eventually(partial(_has_no_collector, client))


def _has_no_collector(client: Any) -> bool:
    return not any("-collector-" in known["name"] for known in client.client_list())


@pytest.mark.parametrize("it_goes", [True, False])
def test_a_rival_that_connected_later_is_given_time_to_go(real: RedisBench, it_goes: bool) -> None:
    """It goes when it sees us; if it had looked before we had a name, it stays, and we go."""
    later = real.server.client()
    rests: list[float] = []
    beats = itertools.count(1)

    def beat() -> None:
        if next(beats) == 4:  # our name is known, and the first look is still to come
            later.client_setname(f"{real.keys.name}-collector-tweets-b2-x")

    def sleep(rest_s: float) -> None:
        rests.append(rest_s)
        if it_goes:
            later.close()

    queue = real.queue("collector-tweets", instance="a1", beat=beat, sleep=sleep)
    assert _attaches(queue) == it_goes
    later.close()
    assert (queue.owner != "") == it_goes
    assert (1 <= len(rests) < 40) if it_goes else len(rests) == 40


def test_killed_at_any_step_of_any_command_nothing_is_lost_or_doubled(real: RedisBench) -> None:
    """From before the first command of a connection to behind the last answer."""
    struck = 0
    for when in WHENS:
        for at in itertools.count(1):
            real.flush()
            once = CutOnce(at, when)
            with Proxy(real.address.path, once) as proxy:
                Pipe(real, RedisAddress(path=proxy.path)).run()
            if not once.has_cut:
                break
            struck += 1
    assert struck >= len(WHENS) * 18


class Pipe:
    """Six frames through a queue whose connections break, into a store with a ledger."""

    def __init__(self, real: RedisBench, address: RedisAddress) -> None:
        self.real = real
        self.pushes = [a_push(n, b"%d" % n * 50) for n in range(1, 7)]
        known = (None, real.keys.name)
        self.collector = RedisQueue(address, *known, "collector-tweets", GIB, 5.0, instance="a1")
        self.subscriber = RedisQueue(address, *known, "subscriber", GIB, 5.0)
        self.recovery = real.queue("recovery")
        self.stored: list[bytes] = []

    def run(self) -> None:
        for push in self.pushes:
            while self._try(lambda push=push: self.collector.push(push)) is None:  # type: ignore[misc]
                pass
        self._check_no_doubles()
        self._try(lambda: self.subscriber.give_back(taken(self.subscriber, 300)))
        while len(self.stored) < len(self.pushes) or self.recovery.depth() != Depth(0, 0, 0):
            self._try(self._store_one)
            self._check_no_doubles()
        assert self.stored == [item_of(push) for push in self.pushes]
        for queue in (self.collector, self.subscriber, self.recovery):
            queue.close()

    def _store_one(self) -> None:
        lease = self.subscriber.take(200, 0.0)
        if lease:
            self.stored += [item for item in items_of(lease) if item not in self.stored]
            self.subscriber.confirm(lease)

    def _check_no_doubles(self) -> None:
        assert max(self.real.look().items.values(), default=1) == 1

    def _try(self, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Unavailable:
            assert _eventually(self._is_swept)
            return None

    def _is_swept(self) -> bool:
        self.recovery.sweep()
        return not self.real.look().busy


def test_a_server_that_answers_nobody_for_a_while_is_waited_for(real: RedisBench) -> None:
    """CLIENT PAUSE: what was asked meanwhile by a client that gave up is never done."""
    pushed = [item_of(a_push(n)) for n in range(1, 4)]
    collector = real.queue("collector-tweets", instance="a1", reply_timeout_s=0.1)
    subscriber = real.queue(reply_timeout_s=0.1)
    collector.push(a_push(1))
    collector.push(a_push(2))
    lease = taken(subscriber, 1)
    with real.server.client() as client:
        client.client_pause(800)
        for asked in (
            lambda: collector.push(a_push(3)),
            lambda: subscriber.confirm(lease),
            lambda: subscriber.take(GIB, 0.1),
            collector.attach,
        ):
            with pytest.raises(Unavailable, match="imeout") as error:
                asked()
            assert not isinstance(error.value, Occupied)
        client.client_unpause()
    assert collector.push(a_push(3)) is Pushed.TAKEN
    recovery = real.queue("recovery")
    assert _eventually(lambda: bool(recovery.sweep() or not real.look().busy))
    assert real.look().working == pushed


# ── words ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", RedisAddress(host="localhost")),
        ("redis://feed@db:7000/3", RedisAddress(host="db", port=7000, db=3, user="feed")),
        ("rediss://[::1]:6380/", RedisAddress(host="::1", port=6380, tls=True)),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        ("unix:///a%20b.sock?db=2", RedisAddress(path="/a b.sock", db=2)),
    ],
)
def test_urls_become_addresses(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address
    if "@" not in url and "%" not in url:
        assert RedisAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "url",
    ["redis://:secret@host", "http://host", "redis://", "redis://h:99999", f"unix:///{'x' * 108}"],
)
def test_urls_that_name_no_redis_are_configuration_errors(url: str) -> None:
    with pytest.raises(ConfigError) as error:
        RedisAddress.parse(url)
    assert error.value.hint
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("info", "accepted"),
    [
        ("redis_version:7.0.0", True),
        ("redis_version:10.1.2\r\n", True),
        ("# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone", False),
        ("redis_version:6.2.4\r\nvalkey_version:7.2.5", True),
        ("", False),
    ],
)
def test_servers_before_redis_7_are_refused(info: str, accepted: bool) -> None:
    if accepted:
        check_version(info)
        return
    with pytest.raises(Unavailable, match="too old") as error:
        check_version(info)
    assert error.value.loud
