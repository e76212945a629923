"""Numbers that the processes of an instance share: one slot a child, written by it alone.

The parent maps the memory before the first fork; a child adds to its own slot, the parent
reads all of them for `status`, heartbeats and backoff. A slot belongs to a role, not to a
process, so counts go on when a killed child is started again. Anonymous shared memory, so
that nothing is left behind, whatever dies.

Each number is one aligned 64-bit word: stored whole by `memoryview.cast('q')`, where
`struct.pack_into` would write byte by byte.
"""

import mmap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.contracts import NO_RECORD
from appliance.texts import printable

WORDS = (
    "heartbeat_ns",  # monotonic clock of the last beat
    "works",  # pieces of work finished
    "records",  # collector: handed over; subscriber: rows stored
    "bytes",
    "connections",
    "attached",  # collector: 1 once the queue has taken it as the only one of its source
    "ended",  # collector: 1 when its source has ended by itself
    "at_risk_records",  # held by nobody but our memory
    "at_risk_bytes",
    "spool_bytes",  # collector: what waits on this machine's disk
    "dropped",  # collector: records that found no room anywhere and were not kept
    "stored",
    "filtered",
    "dead",
    "lost",
    "in_hand_ms",  # subscriber: when the oldest record of its lease came; 0 without a lease
    "stored_ms",  # subscriber: when the newest record that it stored came
    "log_lost",  # lines of the log that could not be written
    "error_s",  # when last_error was said, seconds since the epoch
    "queue_frames",  # recovery's samples
    "queue_busy",
    "queue_bytes",
    "swept",  # recovery: sweeps finished
    "looked",  # recovery: the parent's look number that its newest sample answers
    "look",  # parent → recovery: please look again under this number
    "died",  # parent → recovery: so many children have died by now
    "prepared",  # subscriber: 1 once the store was prepared
    "paused",  # parent → subscriber: take nothing while this is 1
    "kept",  # parent → collector: 1 while its connections would outlive the parent
    "slow",  # 1 in a call that may take longer than the heartbeat's usual limit
    "position",  # subscriber: of the record in hand, NO_RECORD if no single one is
)
TEXTS = ("waiting_for", "refusing", "last_error", "log_error", "in_hand")
TEXT_BYTES_MAX = 240
SLOTS_MAX = 512

_WORD = {name: index for index, name in enumerate(WORDS)}
_TEXT_AT = {name: len(WORDS) * 8 + index * (TEXT_BYTES_MAX + 8) for index, name in enumerate(TEXTS)}
_SLOT_BYTES = len(WORDS) * 8 + len(TEXTS) * (TEXT_BYTES_MAX + 8)


class Slot:
    """One child's numbers and texts (contract: `contracts.Gauge`)."""

    def __init__(
        self,
        memory: memoryview,
        clock_ns: Callable[[], int],
        wall_clock: Callable[[], float],
    ) -> None:
        self._memory = memory
        self._words = memory.cast("q")
        self._clock_ns = clock_ns
        self._wall_clock = wall_clock

    def beat(self) -> None:
        """Say that the work loop is alive."""
        self._words[0] = self._clock_ns()

    @contextmanager
    def slow_call(self) -> Iterator[None]:
        """Around a call that may take long (a name is resolved): the parent waits longer for it."""
        self.set("slow", 1)
        self.beat()
        try:
            yield
        finally:
            self.beat()  # first: an old beat must not meet the usual limit
            self.set("slow", 0)

    def worked(self) -> None:
        """Say that one piece of work is finished."""
        self.beat()
        self.add("works", 1)

    def add(self, name: str, amount: int) -> None:
        """Add to a counter."""
        self._words[_WORD[name]] += amount

    def set(self, name: str, value: int) -> None:
        """Set a gauge."""
        self._words[_WORD[name]] = value

    def get(self, name: str) -> int:
        """Read a counter or gauge."""
        return self._words[_WORD[name]]

    def waiting_for(self, text: str) -> None:
        """Say in words what is awaited; empty when nothing is."""
        self._write("waiting_for", text)

    def refusing(self, text: str) -> None:
        """Say why nothing but dead letters comes; empty when rows are stored."""
        self._write("refusing", text)

    def error(self, text: str) -> None:
        """Say the last error in words."""
        self._write("last_error", text)
        self.set("error_s", int(self._wall_clock()))

    def log_error(self, text: str) -> None:
        """Say why lines of the log are lost; empty when none are."""
        self._write("log_error", text)

    def in_hand(self, owner: str, frame: str) -> None:
        """Say what is worked on; the text becomes valid with its length, which is one word."""
        self.put_down()
        self.set("position", NO_RECORD)
        self._write("in_hand", f"{owner} {frame}")

    def put_down(self) -> None:
        """Say that nothing is in hand any more."""
        self._words[_TEXT_AT["in_hand"] // 8] = 0

    def held(self) -> tuple[str, str, int] | None:
        """What is in hand: owner, frame and record; None if nothing is."""
        text = self.text("in_hand")
        if not text:
            return None
        owner, _, frame = text.partition(" ")
        return owner, frame, self.get("position")

    def text(self, name: str) -> str:
        """Read a text."""
        at = _TEXT_AT[name]
        length = self._words[at // 8]
        return bytes(self._memory[at + 8 : at + 8 + length]).decode(errors="replace")

    def _write(self, name: str, text: str) -> None:
        at = _TEXT_AT[name]
        encoded = printable(text).encode()[:TEXT_BYTES_MAX]
        self._words[at // 8] = 0
        self._memory[at + 8 : at + 8 + len(encoded)] = encoded
        self._words[at // 8] = len(encoded)


class Board:
    """All slots of an instance; made once, by the parent, before the first fork."""

    def __init__(
        self,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._memory = memoryview(mmap.mmap(-1, SLOTS_MAX * _SLOT_BYTES))
        self._clock_ns = clock_ns
        self._wall_clock = wall_clock
        self._slots: dict[str, tuple[int, Slot]] = {}  # by owner, with their numbers
        self._free = list(range(SLOTS_MAX))[::-1]

    def slot(self, owner: str) -> Slot:
        """The slot of this owner, made when first asked for."""
        if owner not in self._slots:
            if not self._free:
                raise ValueError(f"more than {SLOTS_MAX} children")
            number = self._free.pop()
            memory = self._memory[number * _SLOT_BYTES :][:_SLOT_BYTES]
            memory[:] = bytes(_SLOT_BYTES)
            self._slots[owner] = number, Slot(memory, self._clock_ns, self._wall_clock)
        return self._slots[owner][1]

    def free(self, owner: str) -> None:
        """Its slot may go to another owner; nobody may use it any more."""
        number, _ = self._slots.pop(owner)
        self._free.append(number)
