"""The auditor reads what is really there: note files, spools, a queue, a ledger."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.accounts import Book, Recount
from appliance.auditor import Auditor
from appliance.balance import Balance
from appliance.batch import Batch
from appliance.contracts import SourceState
from appliance.errors import Unavailable
from appliance.frame import Header, checksum, encode_header
from appliance.instance import Instance
from appliance.note import Note, open_note
from appliance.settings import Column
from appliance.spool import DiskSpool
from appliance.stores.sqlite import SQLiteStore

RUN = "0190c0de" + "0" * 24
RECORDS = 10  # of each frame
BODY = b"record\n" * RECORDS
COLUMNS = {"raw": Column(type="TEXT", path="")}


def nothing() -> None:
    """Nothing happens."""


@dataclass
class Queue:
    """What a queue says; `then` happens when all of it was said."""

    numbers: list[int]
    stands_at: int
    then: Callable[[], None] = nothing
    away: Unavailable | None = None

    def source_states(self) -> dict[str, SourceState]:
        if self.away:
            raise self.away
        return {"tweets": SourceState(RUN, self.stands_at, None, RECORDS * self.stands_at, 0)}

    def every_header(self) -> Iterator[list[bytes]]:
        for number in tuple(self.numbers):
            yield [header(number)]
        self.then()


@dataclass
class Store:
    """A ledger; `then` happens when it was read."""

    ledger: SQLiteStore
    then: Callable[[], None] = nothing

    def books_and_recount(self, *, recount: bool) -> tuple[dict[str, Book], Recount | None]:
        read = self.ledger.books_and_recount(recount=recount)
        self.then()
        return read


def header(number: int) -> bytes:
    before = number - 1
    return encode_header(
        Header(
            run=RUN,
            number=number,
            source="tweets",
            records=RECORDS,
            records_before=RECORDS * before,
            bytes_before=len(BODY) * before,
            body_bytes=len(BODY),
            crc=checksum(BODY),
            first_received=1.0,
            last_received=2.0,
        )
    )


def batch(number: int) -> Batch:
    return Batch(
        run=bytes.fromhex(RUN),
        number=number,
        source="tweets",
        records=RECORDS,
        bytes=len(BODY),
        first_received=1.0,
        last_received=2.0,
        rows=[("record",)] * RECORDS,
        positions=[*range(RECORDS)],
        raws=[b"record"] * RECORDS,
        records_before=RECORDS * (number - 1),
    )


class Place:
    """An instance: frames 1 and 2 are stored, 3 and 4 queued (2 is still), 5 is in the spool."""

    def __init__(self, directory: Path) -> None:
        self.instance = Instance(directory / "nfl")
        self.instance.make()
        self.note = open_note(self.instance.note("tweets"), "boot", "tcp", lambda _: RUN)
        self.spool = DiskSpool(self.instance.spool_of("tweets"), 10**9)
        self.spool.open()
        self.queue = Queue([4, 3, 2], stands_at=4)
        self.store = Store(SQLiteStore(str(directory / "nfl.db"), "nfl", "records", COLUMNS))
        self.store.ledger.prepare()
        self.store.ledger.store([batch(1), batch(2)])
        self.store.ledger.fold()
        for number in range(1, 6):
            self.collect(number)
        self.spool.append(header(5), BODY)

    def collect(self, number: int) -> None:
        before = number - 1
        sums = (RECORDS * before, len(BODY) * before, RECORDS, len(BODY))
        self.note.begin(Note(number, *sums, 1.0, 2.0, None))
        self.note.done(number)

    def look(self, boot: str = "boot", *, recount: bool = False) -> Balance:
        return Auditor(self.instance, boot, self.queue, self.store).look(recount=recount)

    def close(self) -> None:
        self.spool.close()
        self.store.ledger.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def test_all_of_it_is_read(place: Place) -> None:
    found = place.look()
    assert (found.differences, found.remarks, found.recount) == ([], [], None)
    line = found.lines["tweets"]
    counts = (line.received, line.stored, line.queued, line.spooled, line.difference)
    assert counts == (50, 20, 30, 10, 0)
    found = place.look(recount=True)
    assert found.recount == Recount("records", 20, {})
    assert found.differences == []


def test_it_is_read_in_the_order_in_which_frames_move(place: Place) -> None:
    """As soon as a place was read, what was there is gone from it."""

    def handed_over_and_replayed() -> None:
        place.collect(6)
        frame = place.spool.oldest()
        assert frame
        place.spool.forget(frame)

    def stored_and_confirmed() -> None:
        place.store.ledger.store([batch(3), batch(4)])
        place.queue.numbers.clear()

    place.queue.then, place.store.then = handed_over_and_replayed, stored_and_confirmed
    found = place.look()
    assert (found.differences, found.remarks) == ([], [])
    assert found.lines["tweets"].received == 50


def test_all_may_be_stored_and_folded_while_the_queue_is_read(place: Place) -> None:
    """More than the note knew of, which was read first."""

    def all_done() -> None:
        place.collect(6)
        place.store.ledger.store([batch(number) for number in range(3, 7)])
        place.store.ledger.fold()

    place.queue.then = all_done
    assert place.look().differences == []


def test_what_nobody_has_is_named(place: Place) -> None:
    place.queue.numbers.remove(3)
    [difference] = place.look().differences
    assert (difference.first, difference.records) == (3, 10)


def test_a_note_of_another_boot_is_the_least_there_was(place: Place) -> None:
    place.store.ledger.store([batch(number) for number in (3, 4, 5, 6)])
    place.store.ledger.fold()
    assert [one.kind for one in place.look().differences] == ["ahead"]
    found = place.look("another boot")
    assert (found.differences, found.lines["tweets"].received) == ([], 60)


def test_what_cannot_be_read_is_said(place: Place) -> None:
    place.instance.note("old").write_bytes(b"nonsense")
    segment = next(place.instance.spool_of("tweets").glob("*.seg"))
    segment.rename(segment.with_suffix(".bad"))
    found = place.look()
    texts = [remark.text for remark in found.remarks]
    assert "old.note: the note is damaged" in texts[0]
    assert texts[1] == "1 damaged segments of source tweets's spool are set aside"
    assert all(remark.hint for remark in found.remarks)
    assert [one.first for one in found.differences] == [5], "and what is in it is nowhere else"


def test_who_is_away_is_named(place: Place) -> None:
    place.queue.away = Unavailable("the queue is away")
    with pytest.raises(Unavailable, match="the queue is away"):
        place.look()
