"""The seams: what a source, a queue and a store promise to the processes that use them.

Every implementation of a contract runs the same suite in tests/contract/. Contracts are
crossed per chunk, frame or batch, never per record.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

from appliance.batch import Batch, Stored
from appliance.frame import Buffer, Gap, Header


@dataclass(frozen=True, slots=True)
class Remark:
    """What `check` has seen, as a sentence; `hint` says what to do where that is wise."""

    text: str
    hint: str = ""


# ── source ──────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True)
class Chunk:
    """Whole records that a source shows and still owns: the body of the next frame.

    Attributes:
        body: the records, each ended by one newline. May be a view of a buffer that the
            source reuses: valid until `discard`.
        records: lines in the body.
        claim: what a successor needs to find exactly these bytes again, as plain JSON values.
        first_received, last_received: seconds since the epoch.
        cursor_before, cursor_after: for sources that have a cursor.
        rejected, gaps, skipped_bytes: see frame.Header.
        rest_s: the turn may take so long: the source has looked at many senders for this chunk,
            and asked later it finds more of each.
        crc: the body's checksum (frame.Header), where the source knows it already.
    """

    body: Buffer
    records: int
    claim: Any
    first_received: float
    last_received: float
    cursor_before: str | None = None
    cursor_after: str | None = None
    rejected: dict[int, str] = field(default_factory=dict)
    gaps: tuple[Gap, ...] = ()
    skipped_bytes: int = 0
    rest_s: float = 0.0
    crc: int | None = None


class AtRisk(NamedTuple):
    """What nobody but our memory holds at one moment: gone if the process is killed then."""

    records: int
    bytes: int


NOTHING_AT_RISK = AtRisk(0, 0)


class Source(Protocol):
    """Where records come from. The collector advances only after hand-over.

    One turn is: peek, (note, push), discard, settle. Between peek and discard nothing of
    the chunk may be forgotten, and a source made anew after `kill -9` finds it again.
    """

    @property
    def ended(self) -> bool:
        """Whether everything was discarded and nothing will ever come again."""

    @property
    def connections(self) -> int:
        """Connections that are open now; 0 for sources that have none."""

    @property
    def fleeting(self) -> bool:
        """Whether nobody but our memory holds a chunk: it is at risk until its hand-over."""

    @property
    def patient(self) -> bool:
        """Whether who sends waits while nobody reads: then nothing has to be dropped."""

    @property
    def at_risk(self) -> AtRisk:
        """What a kill would cost now: nothing, unless the source is fleeting.

        Of a fleeting one the chunk that is shown, and what was read behind it. Never more than
        one buffer of max(frame_bytes_max, record_bytes_max), plus one unfinished record for each
        connection.
        """

    @property
    def waiting_for(self) -> str:
        """What keeps the source from reading, in words; empty when nothing does."""

    def resume(self, cursor: str | None, claim: Any) -> None:
        """Before anything else: go on behind `cursor` (None: there is none yet).

        `claim` is that of the newest noted chunk, handed over or in doubt; None if there is
        none. Called again when the queue stands at another cursor.
        """

    def again(self, claim: Any) -> Chunk | None:
        """At birth: the chunk that a dead predecessor had noted, from exactly those bytes.

        None: it had been handed over, because some of it was discarded already (the rest of
        it is discarded now), or the source can't tell (fleeting sources). What is no longer
        held stands as a gap in the chunk.
        """

    def peek(self) -> Chunk | None:
        """The next whole records, up to frame_bytes_max; None when there is none now.

        Never blocks. Changes nothing that a successor couldn't find again.
        """

    def discard(self, chunk: Chunk) -> None:
        """Forget the chunk for good: the queue has it."""

    def settle(self) -> None:
        """After the hand-over was noted: let go of what has ended."""

    def wait(self, timeout_s: float) -> None:
        """Block until peek may find something, a signal came, or the timeout is over."""

    def stop(self, quick: bool) -> None:
        """Take nothing new; show what is already here, then become `ended`.

        Unless `quick`, senders get a limited time to finish by themselves. May be called
        again with quick=True.
        """

    def leave(self) -> None:
        """Become `ended` for a successor to go on, and let no sender notice.

        What isn't handed over stays with whoever holds it; a source whose bytes nobody else
        holds does what it does in a quick stop.
        """

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""


# ── queue ───────────────────────────────────────────────────────────────────────────────


class Pushed(Enum):
    """The queue's answer to a push."""

    TAKEN = "taken"
    HAVE_IT = "have it"  # this number is the run's last: an earlier push whose answer was lost
    FULL = "full"  # queue.bytes_max is reached
    DISK_LOW = "disk low"  # less than disk_free_min is free where the queue keeps its data
    ELSEWHERE = "elsewhere"  # a cursor source's frame doesn't start where the last one ended


@dataclass(frozen=True, slots=True)
class SourceState:
    """What the queue knows of a source: its last frame and where that one ended."""

    run: str
    number: int
    cursor: str | None
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Push:
    """One frame to push and what the queue's bookkeeping needs to know of it.

    `records`, `bytes` are the run's sums after this frame. `force` takes a cursor source's
    frame whatever the queue's cursor is (the queue forgot).
    """

    source: str
    run: str
    number: int
    header: bytes
    body: Buffer
    records: int
    bytes: int
    cursor_before: str | None = None
    cursor_after: str | None = None
    force: bool = False


LEASE_RECORDS_MAX = 100_000
"""A lease of so many records takes no more frames: storing needs memory and time for each."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Frames that one owner holds: confirm or give back, under the same owner only.

    Attributes:
        frames: how many they are.
        items: each of them, oldest first, to be gone through once, before anything else is asked
            of the queue but `set_aside`. The queue keeps them, and shows a large lease little by
            little, each item until the next one: what is made of it may take its place in memory.
            Raises Unavailable like all methods of the queue: then the lease is dropped.
        deaths: {frame's name: what earlier holders of it died of}, for those of its frames that
            were in hand at a death: the words of `Death`, oldest first, with spaces between.
    """

    owner: str
    frames: int
    items: Iterable[Buffer]
    deaths: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Death:
    """A subscriber died of itself with work in hand.

    Attributes:
        owner: the connection whose lease it was.
        frame: the name of the frame in hand; empty: all frames of the lease, but for those
            that went alone already (see poison.py).
        record: the position of the record in hand; None: no single one.
        cause: one word, the signal's name or how it exited.
    """

    owner: str
    frame: str
    record: int | None
    cause: str

    @property
    def word(self) -> str:
        """What the queue writes down beside the frame: CAUSE or CAUSE@RECORD."""
        return self.cause if self.record is None else f"{self.cause}@{self.record}"


@dataclass(frozen=True, slots=True)
class Depth:
    """How much is queued: frames waiting, frames in somebody's hands, bytes of both."""

    frames: int
    busy: int
    bytes: int


class Queue(Protocol):
    """Where frames wait, safe from every death of ours.

    Each method raises Unavailable when the queue doesn't answer or answers with an error.
    After any error the connection, its name and its lease are dropped; the next call makes
    a new connection under a new name. No method retries by itself.

    A collector's connection is the only one of its source: before the first push on it, a
    predecessor's that is still there is ended. Where another instance's is there, every method
    raises Occupied, and nothing was done.
    """

    @property
    def owner(self) -> str:
        """The name of the connection that is open now; empty if there is none."""

    def attach(self) -> None:
        """Be connected, and see that the connection still answers."""

    def bind(self, store: str) -> None:
        """Before the first take: frames of this queue go into this store, and into no other.

        The first one that is said stays. Raises Unavailable (loud, with what to do) when it is
        another: a frame may be stored there already, and one queue with two stores doubles.
        """

    def push(self, push: Push) -> Pushed:
        """Append a frame, atomically with the source's bookkeeping. Idempotent by number."""

    def source_state(self, source: str) -> SourceState | None:
        """What was last pushed for a source; None if nothing ever was."""

    def take(self, bytes_max: int, wait_s: float) -> Lease | None:
        """Move frames into this owner's hands, as many as bytes_max has room for (at least one).

        Each is thought to be as large as the one before it, so it may be one too many.
        LEASE_RECORDS_MAX records, as their headers say, are enough, too. Waits up to wait_s when
        there is none, or until a signal comes; then None. Never a moment without a home: a taken
        frame is in the busy list of its owner. The lease says which of its frames were in hand at
        a death.
        """

    def confirm(self, lease: Lease) -> None:
        """Forget the lease, and the deaths over its frames: the store has committed it.

        Only when all its items were seen. Raises Unavailable if the owner's connection is gone
        (somebody else may have it).
        """

    def give_back(self, lease: Lease) -> None:
        """Put the lease back in front, oldest first. Raises like confirm."""

    def set_aside(self, lease: Lease, item: Buffer) -> bool:
        """Move one item of the lease that can't be read to the list of bad items.

        False: that list is full, so the item is gone; say so. Never waits for room.
        """

    def sweep(self, deaths: Sequence[Death] = ()) -> int:
        """Give back what belongs to owners that no longer exist; how many frames.

        Where a death names the owner, it is written down beside the frames that were in hand,
        in the same step in which they are given back: once, however often it is told.
        """

    def depth(self) -> Depth:
        """How much is queued now."""

    def headers(self, frames_max: int) -> list[bytes]:
        """The header lines of frames that are queued: the oldest that wait, then all in hand.

        At most frames_max of those that wait, oldest first. A frame on its way meanwhile from
        one into the other may be there twice, never not at all, unless it is given back.
        """

    def close(self) -> None:
        """Drop the connection; a lease that is still held becomes an orphan."""


# ── spool ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Spooled:
    """A frame that waits in a spool.

    `line` is the header as it was appended, newline included. `repaired`: it was damaged or
    stood in a damaged segment, so it comes late: frames behind it may have been pushed.
    """

    header: Header
    line: bytes
    body: Buffer
    repaired: bool = False


class Spool(Protocol):
    """Where frames of one source wait on this machine's disk while the queue takes none.

    One process appends and replays. While anything is in it, new frames go behind it. What
    `append` has taken outlives every crash, of the machine too.
    """

    @property
    def size(self) -> int:
        """What waits, in bytes on the disk; 0 only if nothing does."""

    @property
    def newest(self) -> Header | None:
        """The header of the newest frame that waits and can be read; not of a repaired one."""

    @property
    def set_aside(self) -> int:
        """Damaged segments that were set aside since `open` began: frames in them are missing."""

    def open(self) -> None:
        """Before anything else: see what a predecessor left; an unfinished tail is cut off."""

    def append(self, line: bytes, body: Buffer) -> None:
        """Keep a frame for good. Appending the newest one again changes nothing.

        Raises Unavailable (with what to do) when there is no room, or the disk fails: then
        nothing was appended.
        """

    def oldest(self) -> Spooled | None:
        """The frame to hand over next; None: nothing waits. Damaged segments are set aside.

        Raises Unavailable while it can't be read and isn't damaged: nothing goes before it.
        """

    def forget(self, frame: Spooled) -> None:
        """The oldest frame was handed over."""

    def drop(self) -> None:
        """Forget everything that waits, the newest first: the source will show it again."""

    def notices(self) -> list[str]:
        """What was found since the last call and people should know, as sentences."""

    def close(self) -> None:
        """Release descriptors. Safe to call twice."""


# ── a record that kills ─────────────────────────────────────────────────────────────────

Hold = Callable[[int], None]
"""Says which record (by its position in the frame) the next step is about, or NO_RECORD."""

NO_RECORD = -1


# ── store ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Hole:
    """Frames `first` to `last` of a run, which nobody has brought: those behind them are known.

    `records` and `bytes` are what they hold, `records_before` and `bytes_before` the run's sums
    before them; None where nobody knows. `cause` is one word or two.
    """

    run: bytes
    source: str
    first: int
    last: int
    cause: str
    records: int | None = None
    bytes: int | None = None
    records_before: int | None = None
    bytes_before: int | None = None


class Store(Protocol):
    """Where rows end up: each frame once, whoever brings it how often.

    Methods raise Unavailable when the database doesn't do its work now; nothing was stored
    then, or everything was and the next try sees it. After Unavailable the connection is
    made anew by the next call.
    """

    def prepare(self) -> None:
        """Make the tables that are missing; check those that exist."""

    def identity(self) -> str:
        """This store's own id, random: the same for all who use these tables, never another's."""

    def store(self, batches: Sequence[Batch]) -> Stored:
        """Commit all batches in one transaction with their ledger rows.

        A batch that the ledger has already is skipped. Rows that the database rejects
        become dead letters in the same transaction, their neighbours are stored.
        """

    def store_one_by_one(self, batch: Batch, hold: Hold) -> Stored:
        """The same for one batch, row by row: `hold` names the record before each row.

        Slow: for a batch with a record in it that may kill us.
        """

    def fold(self) -> list[Hole]:
        """Fold ledger rows without a hole before them into their run's row; the holes.

        Their frames may still wait somewhere, or be on their way.
        """

    def give_up(self, holes: Sequence[Hole]) -> list[Hole]:
        """Write those down as missing that are still just these; the ones it has written.

        Others are left as they are. A frame that comes after all is stored as always, and
        taken off what is missing.
        """

    def close(self) -> None:
        """Drop the connection. Safe to call twice."""


# ── what a process is given ─────────────────────────────────────────────────────────────

Checkpoint = Callable[[str], None]
"""Called with the name of a step just done; tests stop or kill the process there."""


def no_checkpoint(_step: str) -> None:
    """The checkpoint of every real process: nothing."""


class Gauge(Protocol):
    """A child's own numbers, shared with the parent (see counters.py)."""

    def beat(self) -> None:
        """Say that the work loop is alive; before and after each call that may block."""

    def worked(self) -> None:
        """Say that one piece of work is finished: the restart backoff starts anew."""

    def add(self, name: str, amount: int) -> None:
        """Add to a counter."""

    def set(self, name: str, value: int) -> None:
        """Set a gauge."""

    def waiting_for(self, text: str) -> None:
        """Say in words what is awaited; empty when nothing is."""

    def refusing(self, text: str) -> None:
        """Say why nothing but dead letters comes; empty when rows are stored."""

    def error(self, text: str) -> None:
        """Say the last error in words."""

    def log_error(self, text: str) -> None:
        """Say why lines of the log are lost; empty when none are."""

    def get(self, name: str) -> int:
        """Read a number; the parent asks for things through some."""

    def in_hand(self, owner: str, frame: str) -> None:
        """Say what is worked on: a frame of this owner's lease, or (empty) all of the lease.

        If we die of ourselves before `put_down`, the parent tells recovery. No record is in
        hand then, until set("position", where it stands).
        """

    def put_down(self) -> None:
        """Say that nothing is in hand any more."""


class Wish(Protocol):
    """What the parent asks of a child, and a way to wait that hears it (process.Wish)."""

    @property
    def stop(self) -> bool:
        """Whether to end."""

    @property
    def quick(self) -> bool:
        """Whether to end at once, without waiting for anybody."""

    @property
    def leave(self) -> bool:
        """Whether to end for a successor to go on, so that no sender may notice."""

    def wait(self, timeout_s: float) -> None:
        """Block until a signal comes or the timeout is over."""

    def clear(self) -> None:
        """A signal that has come ends no wait any more; the wishes stay."""


# ── who started us, and who holds our sockets ───────────────────────────────────────────


class Holder(Protocol):
    """Who holds duplicates of our sockets, so that they outlive us: systemd's store, a keeper.

    Names are those of fdnames.py.
    """

    @property
    def holds(self) -> bool:
        """Whether they would outlive us now."""

    def keep(self, name: str, thing: Any) -> None:
        """Hold a duplicate of a socket; the caller keeps its own. Never blocks, never raises."""

    def release(self, name: str) -> None:
        """Let go of what was kept under this name, if anything was. Never blocks or raises."""

    def settle(self) -> None:
        """Wait until what was released is let go of, so that its address is free. At most 5 s."""


class NoHolder:
    """Nobody: the sockets end with us (contract: Holder)."""

    holds = False

    def keep(self, name: str, thing: Any) -> None:
        """Nothing."""

    def release(self, name: str) -> None:
        """Nothing."""

    def settle(self) -> None:
        """Nothing."""


class ServiceManager(Protocol):
    """Who started us and wants to know how we are: systemd, or nobody.

    Nothing here blocks, but for `comes_back`, which may take 2 s.
    """

    def starting(self, more_s: float) -> None:
        """We aren't ready, and need so many seconds more. Said again while that is so."""

    def ready(self, status: str) -> None:
        """We do what we are here for. Said once after the start and once after each reload."""

    def status(self, text: str) -> None:
        """How it goes, in one line."""

    def alive(self) -> None:
        """The loop has turned."""

    def reloading(self) -> None:
        """A new configuration is being put in place; `ready` says that it is."""

    def stopping(self, more_s: float) -> None:
        """We are ending, and need so many seconds more. Said again while we are at it."""

    def restart_follows(self) -> None:
        """Somebody who knows says: the stop that comes next is half of a restart."""

    def comes_back(self) -> bool:
        """Whether a stop that has come now is half of a restart."""


class NoManager:
    """Nobody (contract: ServiceManager)."""

    def starting(self, more_s: float) -> None:
        """Nothing."""

    def ready(self, status: str) -> None:
        """Nothing."""

    def status(self, text: str) -> None:
        """Nothing."""

    def alive(self) -> None:
        """Nothing."""

    def reloading(self) -> None:
        """Nothing."""

    def stopping(self, more_s: float) -> None:
        """Nothing."""

    def restart_follows(self) -> None:
        """Nothing."""

    def comes_back(self) -> bool:
        """No."""
        return False
