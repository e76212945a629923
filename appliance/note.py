"""The note of the frame in hand: what makes `kill -9` of a collector harmless.

One small memory-mapped file a source. The kernel keeps a mapped page when its process dies,
so what was written before the kill is there after it; only a crash of the machine can leave
the file stale, and then the boot id differs.

    page 0    magic, boot id, run, its first cursor, the run before (JSON); the words M and W
    slot 0,1  the note of frame n is in slot n mod 2 (length, CRC-32, JSON)

W = 2n - 1 says "frame n is in hand", W = 2n "frame n was handed over". The note is written
first and becomes valid by one 8-byte store of W, which can't be seen half done. The other
slot still holds the frame before, so a note is never overwritten while it is needed.

M says from which number on frames may be missing although they count as handed over, and why:
what was dropped, or was in hand at the death of a collector whose source can't show it again.
Also one 8-byte store; 0 once a frame behind them has told the ledger.
"""

import json
import mmap
import os
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from appliance.accounts import Handed
from appliance.errors import InstanceError
from appliance.frame import RunEnd

MAGIC = b"stream-daemon note 1\n"
PAGE = 4096
SLOT_BYTES = 256 * 1024  # a note of 1000 connections takes about 60 KiB
WORD_AT = PAGE - 8
MISSING_AT = WORD_AT - 8
FILE_BYTES = PAGE + 2 * SLOT_BYTES
READS_MAX = 1000  # of a note that is written meanwhile: a turn takes much longer than a reading

KILLED = "killed"
SPOOL_FULL = "spool full"
_CAUSES = (KILLED, SPOOL_FULL)


@dataclass(frozen=True, slots=True)
class Missing:
    """Frames that may be missing, from number `first` to the newest, and why."""

    first: int
    cause: str


@dataclass(frozen=True, slots=True)
class Note:
    """Everything needed to make frame `number` again from exactly the same bytes.

    records_before, bytes_before are the run's sums before this frame; records, bytes what
    the frame itself holds. `claim` is the source's own (contracts.Chunk). `hole` is what its
    header says of the frames before it. `made`: the collector's own frame, of no records, with
    the claim of the source's newest frame before it.
    """

    number: int
    records_before: int
    bytes_before: int
    records: int
    bytes: int
    first_received: float
    last_received: float
    claim: Any
    cursor_before: str | None = None
    cursor_after: str | None = None
    hole: str | None = None
    made: bool = False

    @property
    def records_after(self) -> int:
        """The run's sum of records, this frame included."""
        return self.records_before + self.records

    @property
    def bytes_after(self) -> int:
        """The run's sum of body bytes, this frame included."""
        return self.bytes_before + self.bytes


class NoteFile:
    """The mapped file of one source. Made or adopted by `open_note`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map()

    def _map(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._memory = memoryview(mmap.mmap(fd, FILE_BYTES))
        finally:
            os.close(fd)
        self._word = self._memory[WORD_AT:PAGE].cast("q")
        self._missing = self._memory[MISSING_AT:WORD_AT].cast("q")
        identity = _identity(bytes(self._memory[:PAGE]))
        self._boot, self._kind = identity["boot"], identity["kind"]
        self.run: str = identity["run"]
        self.previous = _before(identity)
        # Where the run's first frame begins: all that is known until its first note.
        self.cursor: str | None = identity.get("cursor")

    @property
    def word(self) -> int:
        """W: 2n - 1 while frame n is in hand, 2n once it was handed over."""
        return self._word[0]

    @property
    def in_doubt(self) -> bool:
        """Whether a frame was in hand when the last writer stopped."""
        return self.word % 2 == 1

    def last(self) -> Note | None:
        """The newest note: of the frame in hand, or of the last one handed over."""
        number = (self.word + 1) // 2
        return self._read(number) if number else None

    def begin(self, note: Note) -> None:
        """Frame `note.number` is in hand: valid at once, and as a whole."""
        assert self.word == 2 * note.number - 2, (self.word, note.number)
        encoded = _encoded(note)
        assert len(encoded) + 8 <= SLOT_BYTES, len(encoded)
        at = _slot_at(note.number)
        head = len(encoded).to_bytes(4, "little") + zlib.crc32(encoded).to_bytes(4, "little")
        self._memory[at : at + 8] = head
        self._memory[at + 8 : at + 8 + len(encoded)] = encoded
        self._word[0] = 2 * note.number - 1

    def done(self, number: int) -> None:
        """Frame `number` was handed over and forgotten by its source."""
        assert self.word == 2 * number - 1, (self.word, number)
        self._word[0] = 2 * number

    @property
    def missing(self) -> Missing | None:
        """Which frames before the next one may be missing, if any."""
        return _missing_in(self._missing[0])

    def may_miss(self, number: int, cause: str) -> None:
        """Frame `number`, which is in hand, may never arrive. The first of several is kept."""
        if not self._missing[0]:
            self._missing[0] = number * len(_CAUSES) + _CAUSES.index(cause)

    def arrived(self) -> None:
        """The frame in hand was taken: it tells of those that are missing before it."""
        self._missing[0] = 0

    def start_run(self, run: str, cursor: str | None, previous: RunEnd | None) -> None:
        """Begin a new run at `cursor`, behind the one that ended so: frames count from 1."""
        _create(self._path, run, self._boot, self._kind, previous, cursor)
        self._map()

    def _read(self, number: int) -> Note:
        note = _read_slot(self._memory, number)
        if note is None:
            raise InstanceError(
                f"{self._path}: the note of frame {number} is damaged",
                "move the file away; a new run starts, and the frame that was in hand is lost",
            )
        return note


def open_note(path: Path, boot: str, kind: str, new_run: Callable[[str], str]) -> NoteFile:
    """Open a source's note file; start a new run unless it is of this boot and kind of source.

    A source whose type was changed in the configuration can't read the claims of the other.
    A file that is damaged is renamed to .bad and begun anew. `new_run(after)` makes a run id
    that is greater than `after`. A new run begins at the cursor of the run before, which is
    still good.
    """
    page = path.read_bytes() if path.exists() else b""
    identity = _try_identity(page) if len(page) == FILE_BYTES else None
    if identity is None:
        if page:
            path.replace(path.with_suffix(".bad"))  # never deleted: somebody may want to look
        _create(path, new_run(""), boot, kind, None, None)
    elif (identity["boot"], identity["kind"]) != (boot, kind):
        _after_another_boot(path, page, boot, kind, new_run)
    return NoteFile(path)


def read_note(path: Path, source: str, boot: str | None) -> Handed:
    """What a source's note says now, for somebody who only looks; its collector may be at work.

    The slot of the newest note is free of writers for as long as W says that it is the newest:
    so W is read before and after. `boot` is None where it can't be known.

    Raises:
        InstanceError: it can't be read, or isn't a note.
    """
    try:
        with path.open("rb", buffering=0) as file:  # the file of a run: a new run has a new one
            for _ in range(READS_MAX):
                page, slot = os.pread(file.fileno(), PAGE, 0), b""
                if number := (_word_in(page) + 1) // 2:
                    slot = os.pread(file.fileno(), SLOT_BYTES, _slot_at(number))
                if _word_in(os.pread(file.fileno(), PAGE, 0)) == _word_in(page):
                    return _handed(path, source, boot, page, slot)
    except OSError as error:
        raise InstanceError(f"{path}: {error.strerror}", "see who owns it") from error
    raise InstanceError(f"{path}: it changed at each of {READS_MAX} readings", "look again")


def _handed(path: Path, source: str, boot: str | None, page: bytes, slot: bytes) -> Handed:
    identity, word = _try_identity(page), _word_in(page)
    number = (word + 1) // 2
    last = _decoded(memoryview(slot), number) if number else None
    if identity is None or (last is None and number):
        raise InstanceError(f"{path}: the note is damaged", "start its instance: it says more")
    end = _end_of_run(identity["run"], last, word) if last else RunEnd(identity["run"], 0, 0, 0)
    missing = _missing_in(int.from_bytes(page[MISSING_AT:WORD_AT], "little", signed=True))
    return Handed(
        source,
        end.run,
        end.number,
        end.records,
        in_hand=last.records if last and word % 2 else None,
        previous=_before(identity),
        firm=boot in (None, identity["boot"]),
        missing=missing.cause if missing and missing.first <= end.number else None,
    )


def _missing_in(word: int) -> Missing | None:
    first, cause = divmod(word, len(_CAUSES))
    return Missing(first, _CAUSES[cause]) if first else None


def _word_in(page: bytes) -> int:
    return int.from_bytes(page[WORD_AT:PAGE], "little", signed=True)


def _after_another_boot(
    path: Path, page: bytes, boot: str, kind: str, new_run: Callable[[str], str]
) -> None:
    """A new run: connections are gone, and what the file says may be older than the crash."""
    identity = _identity(page)
    word = _word_in(page)
    last = _read_slot(memoryview(page), (word + 1) // 2)
    end = _end_of_run(identity["run"], last, word) if last else None
    # Of a run that has handed nothing over perhaps no frame tells: the one before it stays the
    # run before, or nobody would ever say how that one ended.
    previous = end if end and end.number else _before(identity)
    cursor = _reached(last, word) if last else identity.get("cursor")
    _create(path, new_run(identity["run"]), boot, kind, previous, cursor)


def _before(identity: dict[str, Any]) -> RunEnd | None:
    previous = identity["previous"]
    return RunEnd(**previous) if previous else None


def _end_of_run(run: str, last: Note, word: int) -> RunEnd:
    if word % 2:  # in hand when the machine died: it may have arrived, so it is not counted
        return RunEnd(run, last.number - 1, last.records_before, last.bytes_before)
    return RunEnd(run, last.number, last.records_after, last.bytes_after)


def _reached(last: Note, word: int) -> str | None:
    """The cursor behind what was handed over."""
    return last.cursor_before if word % 2 else last.cursor_after


def later_run(after: str, clock_ms: int, chance: int) -> str:
    """A run id greater than `after`: a UUIDv7 (RFC 9562) as 32 hex digits.

    `clock_ms` is wall time; a clock that went backwards can't make an older run. `chance`
    are 74 random bits.
    """
    stamp = clock_ms
    if after:
        stamp = max(stamp, int(after[:12], 16) + 1)
    random_a, random_b = chance >> 62 & 0xFFF, chance & (1 << 62) - 1
    return f"{stamp << 80 | 7 << 76 | random_a << 64 | 2 << 62 | random_b:032x}"


def _slot_at(number: int) -> int:
    return PAGE + (number % 2) * SLOT_BYTES


def _encoded(note: Note) -> bytes:
    """A note as JSON. Most of it are the parts of its claim, a list for each connection."""
    try:
        return orjson.dumps(note)
    except orjson.JSONEncodeError:  # a file's name that is no UTF-8
        return json.dumps(asdict(note), separators=(",", ":")).encode()


def _read_slot(memory: memoryview, number: int) -> Note | None:
    at = _slot_at(number)
    return _decoded(memory[at : at + SLOT_BYTES], number)


def _decoded(slot: memoryview, number: int) -> Note | None:
    """The note of this frame; None if it isn't in the slot as a whole."""
    length = int.from_bytes(slot[:4], "little")
    encoded = bytes(slot[8 : 8 + min(length, SLOT_BYTES - 8)])
    if not length or zlib.crc32(encoded) != int.from_bytes(slot[4:8], "little"):
        return None
    note = Note(**json.loads(encoded))
    return note if note.number == number else None


def _identity(page: bytes) -> dict[str, Any]:
    identity = _try_identity(page)
    assert identity is not None, "open_note has looked"
    return identity


def _try_identity(page: bytes) -> dict[str, Any] | None:
    """What the file says of itself; None if it isn't one of ours, or damaged."""
    if len(page) < PAGE or not page.startswith(MAGIC):
        return None
    line = page[len(MAGIC) : MISSING_AT].split(b"\n", 1)[0]
    try:
        identity = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(identity, dict) and identity.keys() >= {"boot", "kind", "run", "previous"}
    return identity if whole else None


def _create(
    path: Path, run: str, boot: str, kind: str, previous: RunEnd | None, cursor: str | None
) -> None:
    """A fresh file with no note in it."""
    before = asdict(previous) if previous else None
    identity = {"boot": boot, "kind": kind, "run": run, "previous": before, "cursor": cursor}
    head = MAGIC + json.dumps(identity).encode() + b"\n"
    assert len(head) <= MISSING_AT, len(head)
    replace_file(path, head.ljust(FILE_BYTES, b"\0"))


def replace_file(path: Path, content: bytes) -> None:
    """Write a fresh file beside, sync it, and put it in place: whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
