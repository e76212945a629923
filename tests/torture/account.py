"""What must be in the table, from what the senders know, compared with what is there.

Every record once, byte for byte, and in order: sorted by run, frame and position, the records
of one connection are as they were sent, and the rows of one frame lie in this order in the
table too. No dead letters but the halves of records that their senders broke off, and no gaps
but the rest of those, and what was lost with a parent's connections.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.torture.lines import Lines, parse
from tests.torture.senders import Stretch

SHOWN_MAX = 10  # of each kind of problem
POSITION_BITS, FRAME_BITS = 20, 36  # a frame of 1 MiB has no more records; 62 bits with 6 for runs

Row = tuple[bytes, bytes, int, int]  # record, run, frame, position, as they lie in the table
Dead = tuple[str, bytes, str]  # code, record, its frame
Gap = tuple[str, int | None, int | None]  # cause, its first number if it has one, records


@dataclass
class Account:
    """What was found. problems: {kind: the first few, in words}; counts: {kind: how many}."""

    sent: int = 0
    stored: int = 0
    refused: int = 0
    cut: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def blame(self, kind: str, text: str, count: int = 1) -> None:
        """Write down a problem."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        shown = self.problems.setdefault(kind, [])
        if len(shown) < SHOWN_MAX:
            shown.append(text)


class _Sent:
    """One sender's records: where each of them was found. 0: nowhere."""

    def __init__(self, lines: Lines, stretches: Sequence[Stretch]) -> None:
        self.lines = lines
        self.stretches = stretches
        last = stretches[-1] if stretches else Stretch(0, 0)
        self.places = array("Q", bytes(8 * (last.end + 1)))
        self.halves = {s.end: s.tail for s in stretches if s.fate in ("half", "refused") and s.tail}

    def expected(self, number: int) -> bytes:
        """The row of this number, if there is one."""
        return self.halves.get(number) or self.lines.line(number)


def compare(
    senders: dict[str, tuple[Lines, Sequence[Stretch]]],
    rows: Iterable[Row],
    dead: Sequence[Dead],
    gaps: Iterable[Gap],
) -> Account:
    """Compare what {name: its records, its stretches} have sent with what is stored."""
    account = Account()
    sent = {name: _Sent(*what) for name, what in senders.items()}
    _take_rows(sent, rows, account)
    for name, one in sent.items():
        _check_places(name, one, account)
    _check_dead(sent, dead, account)
    _check_gaps(len({frame for _, _, frame in dead}), gaps, account)
    return account


def _take_rows(sent: dict[str, _Sent], rows: Iterable[Row], account: Account) -> None:
    """Find each row's record, and write down its place in the stream."""
    runs: dict[bytes, int] = {}
    last_positions: dict[tuple[int, int], int] = {}
    for raw, run, frame, position in rows:
        account.stored += 1
        run_index = runs.setdefault(run, len(runs))
        if last_positions.get((run_index, frame), -1) >= position:
            account.blame("out of order", f"row {position} of frame {run.hex()}:{frame}")
        last_positions[run_index, frame] = position
        _take_row(
            sent,
            raw,
            f"frame {run.hex()}:{frame}, position {position}",
            (run_index, frame, position),
            account,
        )


def _take_row(
    sent: dict[str, _Sent], raw: bytes, where: str, place: tuple[int, int, int], account: Account
) -> None:
    sender, number = parse(raw) or ("", 0)
    one = sent.get(sender)
    if one is None or number >= len(one.places):
        account.blame("nobody's", f"{raw[:60]!r} in {where}")
        return
    if raw != one.expected(number):
        account.blame("changed", f"{sender} {number} in {where}")
    if one.places[number]:
        account.blame("doubled", f"{sender} {number} in {where}")
        return
    run, frame, position = place
    one.places[number] = ((run << FRAME_BITS | frame) << POSITION_BITS | position) + 1


def _check_places(name: str, one: _Sent, account: Account) -> None:
    for stretch in one.stretches:
        places = one.places[stretch.first : stretch.end + (stretch.fate == "half")]
        account.sent += len(places)
        found = len(places) - places.count(0)
        if stretch.fate == "refused":
            account.refused += len(places) - found
            places = places[:found]  # a beginning of them
        _check_stretch(name, stretch, places, account)
        account.cut += stretch.fate == "broken" and bool(stretch.tail)


def _check_stretch(name: str, stretch: Stretch, places: "array[int]", account: Account) -> None:
    missing = [stretch.first + at for at, place in enumerate(places) if not place]
    for number in missing:
        account.blame("lost", f"{name} {number} of {stretch.fate} {stretch.first}-{stretch.end}")
    there = [place for place in places if place]
    if there != sorted(there):
        at = next(at for at in range(1, len(there)) if there[at] < there[at - 1])
        account.blame("out of order", f"{name}, {at} records behind {stretch.first}")


def _check_dead(sent: dict[str, _Sent], dead: Iterable[Dead], account: Account) -> None:
    broken = [s.tail for one in sent.values() for s in one.stretches if s.fate == "broken"]
    expected = {tail for tail in broken if tail}
    for code, raw, _ in dead:
        if code == "cut" and raw in expected:
            expected.remove(raw)
        elif code != "cut" or not _is_refused_half(sent, raw):
            account.blame("dead", f"{code}: {raw[:60]!r}")
    for tail in expected:
        account.blame("half lost", repr(tail[:60]))


def _check_gaps(frames: int, gaps: Iterable[Gap], account: Account) -> None:
    """For each frame with cut records one gap says that their rest is missing."""
    cut = 0
    for cause, first, records in gaps:
        if cause == "cut" and first is None:
            cut += 1
        elif cause != "connection lost" or first is not None or (records or 0) > account.refused:
            account.blame("gap", f"{cause}: {records} records, from number {first} on")
    if cut != frames:
        account.blame("gap", f"{cut} say that records were cut, {frames} frames have such")


def _is_refused_half(sent: dict[str, _Sent], raw: bytes) -> bool:
    """Whether it is the beginning of a record whose connection the daemon has cut."""
    return any(
        one.lines.line(number).startswith(raw)
        for one in sent.values()
        for number in _first_missing(one)
    )


def _first_missing(one: _Sent) -> list[int]:
    """The first record of each refused stretch that isn't stored, a half one maybe."""
    numbers = []
    for stretch in one.stretches:
        if stretch.fate == "refused":
            places = one.places[stretch.first : stretch.end]
            numbers.append(stretch.first + len(places) - places.count(0))
    return numbers
