"""Accounts: what each party says of the records that came in, as `audit` reads it.

    the collectors'   what each source's note says it has handed over (`Handed`)
    the ledger's      what the store has written down with its rows (`Book`, one for each run)
    what waits        the headers of frames in the queue and in spools (`Waiting`), and what the
                      queue itself says of each source

They share no code and no counter; balance.py holds them against each other.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.contracts import SourceState
from appliance.errors import Corrupt
from appliance.frame import Header, RunEnd, decode_header

PARTS = ("stored", "filtered", "dead", "blank")  # of a frame's records, each is one of these
COUNTS = ("records", *PARTS)
UNKNOWN = -1  # in Rows: no number


class Rows:
    """Rows of whole numbers, 8 bytes each: of frames there may be millions."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._flat = array("q")

    def add(self, *row: int) -> None:
        """One more row."""
        assert len(row) == self._width
        self._flat.extend(row)

    def __len__(self) -> int:
        return len(self._flat) // self._width

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return zip(*[iter(self._flat)] * self._width, strict=True)

    def in_order(self) -> Iterator[tuple[int, ...]]:
        """The rows, sorted by their first number."""
        width, flat = self._width, self._flat
        keys = flat[::width]
        for at in sorted(range(len(keys)), key=keys.__getitem__):
            yield tuple(flat[at * width : (at + 1) * width])


@dataclass(frozen=True, slots=True)
class Handed:
    """A collector's own account: frames 1 to `number` of this run were handed over.

    Attributes:
        records: in all of them.
        in_hand: records of the frame behind them, which may have arrived; None: there is none.
        previous: how the run before ended.
        firm: False: noted before this boot, so it may be older than a crash of the machine.
        missing: why the newest frames may never arrive, if something is known.
    """

    source: str
    run: str
    number: int
    records: int
    in_hand: int | None = None
    previous: RunEnd | None = None
    firm: bool = True
    missing: str | None = None


class Waiting:
    """Frames that wait in one kind of place, by their headers.

    frames: by run; number, the run's records before it, its records, those that it lacks.
    holes: by run; why the frames directly before this number may never arrive.
    """

    def __init__(self) -> None:
        self.sources: dict[str, str] = {}
        self.frames: dict[str, Rows] = {}
        self.holes: dict[str, dict[int, str]] = {}
        self.ends: dict[RunEnd, str] = {}
        self.unreadable = 0

    def add_lines(self, lines: Iterable[bytes]) -> None:
        """Take down some more header lines; those that can't be read are counted."""
        for line in lines:
            try:
                self.add([decode_header(line)])
            except Corrupt:
                self.unreadable += 1

    def add(self, headers: Iterable[Header]) -> None:
        """Take down some more headers."""
        for header in headers:
            self.sources[header.run] = header.source
            lacks = sum(gap.records or 0 for gap in header.gaps)
            rows = self.frames.setdefault(header.run, Rows(4))
            rows.add(header.number, header.records_before, header.records, lacks)
            if header.hole:
                self.holes.setdefault(header.run, {})[header.number] = header.hole
            if header.previous:
                self.ends[header.previous] = header.source


@dataclass(slots=True)
class Book:
    """The ledger's account of one run.

    Attributes:
        up_to: up to this number all is accounted for; the counts are of these frames.
        reached: the run's records up to there, as headers have said; None: nobody has.
        end: how the run ended, as far as the ledger has been told.
        frames: above up_to, or in a gap: number, records before (or UNKNOWN), lacking records,
            and the counts in the order of COUNTS; sorted.
        holes: why the frames directly before this number may never arrive.
        gaps: with numbers: first, last, records (or UNKNOWN), recovered; sorted.
        refilled: records of gaps that were filled again, less those that came: 0.
        lacked: records that were counted and that frames, made again, lack; those of `frames` too.
        stretches: what never reached us, of unknown size.
    """

    source: str
    up_to: int = 0
    records: int = 0
    stored: int = 0
    filtered: int = 0
    dead: int = 0
    blank: int = 0
    reached: int | None = None
    end: RunEnd | None = None
    frames: Rows = field(default_factory=lambda: Rows(3 + len(COUNTS)))
    holes: dict[int, str] = field(default_factory=dict)
    gaps: Rows = field(default_factory=lambda: Rows(4))
    refilled: int = 0
    lacked: int = 0
    stretches: int = 0

    def add_counts(self, counts: Iterable[int]) -> None:
        """Counts of frames that are folded, in the order of COUNTS."""
        for name, count in zip(COUNTS, counts, strict=True):
            setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True, slots=True)
class Recount:
    """What a count of the tables themselves gives; `dead` by source."""

    table: str
    rows: int
    dead: Mapping[str, int]
    rewrites: bool = False  # on_duplicate = "update": a record may have replaced another's row


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts, as they were read. `states` are by source, `books` by run.

    `handed_since`: the notes again, read when all else was: no ledger is ahead of those.
    """

    handed: Sequence[Handed]
    spooled: Waiting
    states: Mapping[str, SourceState]
    queued: Waiting
    books: Mapping[str, Book]
    recount: Recount | None = None
    handed_since: Sequence[Handed] = ()
