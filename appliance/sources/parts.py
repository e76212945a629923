"""Parts: how stretches of many connections become one chunk, and are found again by its claim.

A claim is what the note keeps. It holds all that cutting depends on, so that a successor makes
the same records from the same bytes, whatever the configuration says by then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from appliance.contracts import Chunk
from appliance.frame import Buffer, Gap
from appliance.framing import RECORDS_MAX, Cut, Ending, cut, gaps_of
from appliance.sources.kernel import Stretch

PARTS_MAX = 256  # connections that share one frame: a note has a limited size (note.SLOT_BYTES)


class Part(NamedTuple):
    """One connection's stretch in a chunk; this is what the note keeps.

    Where `beginning` isn't 0 it is a record from that file, and the kernel's bytes aren't
    touched any more.
    """

    cookie: int
    start: int
    length: int
    ending: bool
    skipping: bool = False  # the stretch begins inside an over-long record
    behind: str = Ending.OPEN.value  # what follows the stretch
    records: int = 0
    beginning: int = 0

    @property
    def stretch(self) -> Stretch:
        """As the kernel knows it."""
        return Stretch(self.start, self.length, self.ending)

    def cut(self, buffer: bytearray, start: int, record_bytes_max: int) -> Cut:
        """The records in the stretch, which lies in `buffer` from `start` on."""
        return cut(
            buffer,
            start,
            start + self.length,
            record_bytes_max=record_bytes_max,
            skipping=self.skipping,
            ending=Ending(self.behind),
        )


class ChunkMaker:
    """Collects the parts of many connections into one chunk."""

    def __init__(self, first_received: float, record_bytes_max: int) -> None:
        self.record_bytes_max = record_bytes_max
        self._first_received = first_received
        self._parts: list[Part] = []
        self._bodies: list[Buffer] = []
        self._rejected: dict[int, str] = {}
        self._records = 0
        self._skipped_bytes = 0

    @property
    def empty(self) -> bool:
        """Whether nothing was added."""
        return not self._parts

    @property
    def full(self) -> bool:
        """Whether no more connections, or no more records fit."""
        return len(self._parts) >= PARTS_MAX or self._records >= RECORDS_MAX

    def add(self, part: Part, cut: Cut, body: Buffer) -> None:
        """Add one connection's stretch; its records go behind those that are here."""
        self._parts.append(part)
        if len(body):
            self._bodies.append(body)
        for index, code in cut.rejected.items():
            self._rejected[self._records + index] = code
        self._records += cut.records
        self._skipped_bytes += cut.skipped_bytes

    def chunk(
        self,
        last_received: float,
        skipping: list[int],
        told: Sequence[Gap] = (),
        lost: Sequence[Gap] = (),
    ) -> Chunk:
        """The chunk; its claim says which connections are inside an over-long record.

        `told`: gaps that a successor tells again with it; `lost`: what of it nobody holds.
        """
        claim = {
            "parts": [list(part) for part in self._parts],
            "skipping": skipping,
            "first": self._first_received,
            "last": last_received,
            "record_bytes_max": self.record_bytes_max,
            "gaps": [asdict(gap) for gap in told],
        }
        return Chunk(
            body=self._bodies[0] if len(self._bodies) == 1 else b"".join(self._bodies),
            records=self._records,
            claim=claim,
            first_received=self._first_received,
            last_received=last_received,
            rejected=self._rejected,
            gaps=(*told, *gaps_of(self._rejected), *lost),
            skipped_bytes=self._skipped_bytes,
        )


def lost(parts: Iterable[Part]) -> list[Gap]:
    """What is missing of a frame: stretches of connections that died with the parent."""
    gone = [part for part in parts if part.records]
    records, size = sum(part.records for part in gone), sum(part.length for part in gone)
    return [Gap("connection lost", records, size)] if gone else []


def gaps_in(claim: Any) -> list[Gap]:
    """The gaps that a chunk told of, besides what became of its own parts."""
    return [Gap(**gap) for gap in (claim or {}).get("gaps", ())]


def from_files(claim: Any) -> list[Part]:
    """The parts of a claim whose bytes are in files."""
    parts = (Part(*part) for part in (claim["parts"] if claim else ()))
    return [part for part in parts if part.beginning]
