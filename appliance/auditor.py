"""An auditor: reads all accounts, and has them held against each other (balance.py).

It reads them in the order in which frames move: notes, spools, the queue's own counts, what is
queued, the ledger. A frame that moves on meanwhile is seen twice, never not at all. The notes are
read once more at the end: reading all that is queued may take long, and the ledger goes on. Nothing
is changed, by no reading.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from appliance import stock
from appliance.accounts import Accounts, Book, Handed, Recount, Waiting
from appliance.balance import Balance, compare
from appliance.contracts import Remark, SourceState
from appliance.errors import InstanceError
from appliance.instance import Instance
from appliance.note import read_note
from appliance.shelf import REPAIR


class ShowsFrames(Protocol):
    """A queue that tells what is in it."""

    def source_states(self) -> dict[str, SourceState]:
        """What was last pushed for each source."""

    def every_header(self) -> Iterator[list[bytes]]:
        """The header lines of all frames that are queued."""


class KeepsBooks(Protocol):
    """A store that tells what its ledger says."""

    def books_and_recount(self, *, recount: bool) -> tuple[Mapping[str, Book], Recount | None]:
        """What it says of each run; with `recount`, a count of the tables themselves."""


class Auditor:
    """Looks at all accounts of one instance, as often as one likes.

    `boot`: this boot's id, None where it can't be known.
    """

    def __init__(
        self, instance: Instance, boot: str | None, queue: ShowsFrames, store: KeepsBooks
    ) -> None:
        self._instance = instance
        self._boot = boot
        self._queue = queue
        self._store = store

    def look(self, *, recount: bool) -> Balance:
        """One look at all of it.

        Raises:
            Unavailable: the queue or the store doesn't answer.
        """
        remarks: list[Remark] = []
        handed, spooled, queued = self._read_notes(remarks), Waiting(), Waiting()
        self._read_spools(spooled, remarks)
        states = self._queue.source_states()
        for lines in self._queue.every_header():
            queued.add_lines(lines)
        books, counted = self._store.books_and_recount(recount=recount)
        since = self._read_notes([])
        balance = compare(Accounts(handed, spooled, states, queued, books, counted, since))
        balance.remarks = remarks + balance.remarks
        return balance

    def _read_notes(self, remarks: list[Remark]) -> list[Handed]:
        """What each source has handed over, configured or not; a remark where it can't be read."""
        handed = []
        for source in sorted(self._instance.noted_sources()):
            try:
                handed.append(read_note(self._instance.note(source), source, self._boot))
            except InstanceError as error:
                remarks.append(Remark(error.message, error.hint))
        return handed

    def _read_spools(self, spooled: Waiting, remarks: list[Remark]) -> None:
        for source in stock.sources(self._instance.spool):
            directory = self._instance.spool_of(source)
            spooled.add(stock.headers(directory))
            if damaged := len(stock.set_aside(directory)):
                text = f"{damaged} damaged segments of source {source}'s spool are set aside"
                remarks.append(Remark(text, REPAIR))
