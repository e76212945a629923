"""A queue in memory that fails on demand: `contracts.Queue` over plain lists.

Several MemoryQueues (each one "connection" of one process) share one MemoryRedis. A Fault
makes the N-th call of a queue fail, or its process die, before or after the call took
effect: with it every pair of crash points can be tried in milliseconds.

It never waits: a take that finds nothing returns at once, whatever wait_s is.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from appliance.contracts import (
    LEASE_RECORDS_MAX,
    Death,
    Depth,
    Lease,
    Push,
    Pushed,
    SourceState,
)
from appliance.errors import Occupied, Unavailable
from appliance.frame import Buffer, name_of
from appliance.poison import judge


class Killed(BaseException):
    """kill -9 of the process that makes this call; nothing of it may run any more."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong at a queue's N-th call (counted from 1, over all methods about frames).

    when: "before" the call had an effect, or "after" (its answer is lost).
    how: "fail" raises Unavailable, "die" raises Killed.
    """

    call: int
    when: Literal["before", "after"] = "before"
    how: Literal["fail", "die"] = "fail"


@dataclass
class MemoryRedis:
    """What a Redis server holds; its connections are the names in `clients`."""

    working: deque[bytes] = field(default_factory=deque)
    busy: dict[str, list[bytes]] = field(default_factory=dict)
    bad: list[bytes] = field(default_factory=list)
    bad_bytes_max: int = 2**31
    store: str | None = None
    bytes: int = 0
    attempts: dict[str, str] = field(default_factory=dict)
    sources: dict[str, SourceState] = field(default_factory=dict)
    clients: set[str] = field(default_factory=set)
    connections_made: int = 0
    away: bool = False  # every call fails while it is

    def cut(self, owner: str) -> None:
        """End one connection from the server's side (CLIENT KILL)."""
        self.clients.discard(owner)

    def restart(self) -> None:
        """All connections end, all data stays."""
        self.clients.clear()

    def flush(self) -> None:
        """Forget everything (FLUSHALL); connections stay."""
        self.working.clear()
        self.busy.clear()
        self.bad.clear()
        self.store = None
        self.attempts.clear()
        self.sources.clear()
        self.bytes = 0


class MemoryQueue:
    """One connection of one process to a MemoryRedis."""

    def __init__(
        self,
        server: MemoryRedis,
        role: str = "test",
        bytes_max: int = 2**31,
        faults: tuple[Fault, ...] = (),
        instance: str = "",
    ) -> None:
        self.server = server
        self.role = role
        self.bytes_max = bytes_max
        self.calls = 0
        self.owner = ""
        self.disk_is_low = False
        self._instance = instance
        self._faults = {fault.call: fault for fault in faults}
        self._held_bytes = 0

    def fail(self, fault: Fault) -> None:
        """Plan one more fault; `fault.call` counts from the next call on."""
        self._faults[self.calls + fault.call] = fault

    def attach(self) -> None:
        self._connect_or_close()

    def bind(self, store: str) -> None:
        self._connect_or_close()
        self.server.store = self.server.store or store
        if self.server.store != store:
            raise Unavailable("the queue's frames belong to another store", "free it", loud=True)

    def push(self, push: Push) -> Pushed:
        if self.disk_is_low:
            return Pushed.DISK_LOW
        item = push.header + bytes(push.body)
        with self._talking():
            known = self.server.sources.get(push.source)
            if known and (known.run, known.number) == (push.run, push.number):
                return Pushed.HAVE_IT
            if self.server.bytes >= self.bytes_max:
                return Pushed.FULL
            if _elsewhere(push, known):
                return Pushed.ELSEWHERE
            self.server.working.append(item)
            self.server.bytes += len(item)
            if not known or (push.run, push.number) > (known.run, known.number):
                self.server.sources[push.source] = _state_after(push, known)
            return Pushed.TAKEN

    def source_state(self, source: str) -> SourceState | None:
        with self._talking():
            return self.server.sources.get(source)

    def take(self, bytes_max: int, wait_s: float) -> Lease | None:
        assert not self._held_bytes, "one lease at a time: the busy list holds exactly it"
        with self._talking():
            items: list[bytes] = []
            records = 0
            while self.server.working and records < LEASE_RECORDS_MAX:
                items.append(self.server.working.popleft())
                self._held_bytes += len(items[-1])
                records += _records_of(items[-1])
                if self._held_bytes + len(items[-1]) > bytes_max:
                    break
            if not items:
                return None
            self.server.busy.setdefault(self.owner, []).extend(items)
            attempts = self.server.attempts
            names = [name for name in map(name_of, items) if name in attempts]
            return Lease(self.owner, len(items), items, {name: attempts[name] for name in names})

    def confirm(self, lease: Lease) -> None:
        with self._holding(lease):
            if self.server.busy.pop(lease.owner, None) is not None:
                self._subtract(self._held_bytes)
            for name in lease.deaths:
                self.server.attempts.pop(name, None)
            self._held_bytes = 0

    def give_back(self, lease: Lease) -> None:
        with self._holding(lease):
            self._give_back(lease.owner)
            self._held_bytes = 0

    def set_aside(self, lease: Lease, item: Buffer) -> bool:
        item = bytes(item)
        kept = True
        with self._holding(lease):
            busy = self.server.busy.get(lease.owner, [])
            if item in busy:
                busy.remove(item)
                kept = sum(map(len, [*self.server.bad, item])) <= self.server.bad_bytes_max
                self.server.bad += [item] if kept else []
                self._subtract(len(item))
                self._held_bytes -= len(item)
            if not busy:
                self.server.busy.pop(lease.owner, None)
        return kept

    def sweep(self, deaths: Sequence[Death] = ()) -> int:
        with self._talking():
            orphans = self.server.busy.keys() - self.server.clients
            for death in deaths:
                if death.owner in orphans:
                    self._write_down(death)
            frames = sum(self._give_back(owner) for owner in sorted(orphans))
            if not self.server.working and not self.server.busy:
                self.server.bytes = 0
            return frames

    def depth(self) -> Depth:
        with self._talking():
            busy = sum(map(len, self.server.busy.values()))
            return Depth(len(self.server.working), busy, self.server.bytes)

    def headers(self, frames_max: int) -> list[bytes]:
        with self._talking():
            waiting = list(self.server.working)[:frames_max]
            in_hand = [item for items in self.server.busy.values() for item in items]
            return [item.partition(b"\n")[0] for item in waiting + in_hand]

    def every_header(self) -> Iterator[list[bytes]]:
        yield self.headers(2**31)

    def source_states(self) -> dict[str, SourceState]:
        with self._talking():
            return dict(self.server.sources)

    def close(self) -> None:
        self.server.clients.discard(self.owner)
        self.owner, self._held_bytes = "", 0

    def _write_down(self, death: Death) -> None:
        attempts = self.server.attempts
        for name in map(name_of, reversed(self.server.busy[death.owner])):
            is_alone = judge(attempts.get(name, "")).alone
            if name and (death.frame == name or (not death.frame and not is_alone)):
                attempts[name] = (
                    f"{attempts[name]} {death.word}" if name in attempts else death.word
                )

    def _give_back(self, owner: str) -> int:
        items = self.server.busy.pop(owner, [])
        self.server.working.extendleft(reversed(items))
        return len(items)

    def _subtract(self, size: int) -> None:
        self.server.bytes = max(0, self.server.bytes - size)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        self.calls += 1
        fault = self._faults.pop(self.calls, None)
        finished = False
        try:
            self._connect()
            _strike(fault, "before")
            yield
            _strike(fault, "after")
            finished = True
        finally:
            if not finished:
                self.close()

    @contextmanager
    def _holding(self, lease: Lease) -> Iterator[None]:
        if lease.owner != self.owner:
            raise Unavailable("the connection that held the lease is gone")
        with self._talking():
            yield

    def _connect_or_close(self) -> None:
        try:
            self._connect()
        except Unavailable:
            self.close()
            raise

    def _connect(self) -> None:
        if self.server.away:
            raise Unavailable("the queue is away")
        if self.owner and self.owner not in self.server.clients:
            raise Unavailable("the queue has closed the connection")
        if not self.owner:
            self._be_the_only_one()
            self.server.connections_made += 1
            who = f"{self.role}-{self._instance}" if self._instance else self.role
            self.owner = f"{who}-{self.server.connections_made}"
            self.server.clients.add(self.owner)

    def _be_the_only_one(self) -> None:
        """As a collector: end a predecessor, give way to another instance."""
        for client in sorted(self.server.clients):
            role, _, rest = client.rpartition("-")[0].rpartition("-")
            if self._instance and role == self.role:
                if rest != self._instance:
                    raise Occupied(f"instance {rest} collects this source", "stop that one")
                self.server.cut(client)


def _elsewhere(push: Push, known: SourceState | None) -> bool:
    compared = push.cursor_after is not None and not push.force
    return compared and known is not None and known.cursor not in (None, push.cursor_before)


def _state_after(push: Push, known: SourceState | None) -> SourceState:
    kept = known.cursor if known else None
    cursor = kept if push.cursor_after is None else push.cursor_after
    return SourceState(push.run, push.number, cursor, push.records, push.bytes)


def _strike(fault: Fault | None, moment: str) -> None:
    if fault and fault.when == moment:
        raise Killed if fault.how == "die" else Unavailable(f"a fault {moment} call {fault.call}")


def _records_of(item: bytes) -> int:
    """As the header says; 0 for what is no frame."""
    found = re.search(rb'"records":([0-9]+)', item.partition(b"\n")[0])
    return int(found[1]) if found else 0
