"""Parts: how stretches of many connections become one chunk, and are found again by its claim.

A claim is what the note keeps. It holds all that cutting depends on, so that a successor makes
the same records from the same bytes, whatever the configuration says by then.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from appliance.contracts import Chunk
from appliance.frame import Gap
from appliance.framing import NEWLINE, RECORDS_MAX, Cut, Ending, body, cut, gaps_of
from appliance.sources.kernel import Stretch

PARTS_MAX = 1024  # connections that share one frame: a note has a limited size (note.SLOT_BYTES)


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


BEGINNING = Part._fields.index("beginning")


class ChunkMaker:
    """Collects the parts of many connections, which lie in one buffer, into one chunk.

    crc: the body's checksum, where it is known.
    """

    crc: int | None = None

    def __init__(self, buffer: bytearray, first_received: float, record_bytes_max: int) -> None:
        self.record_bytes_max = record_bytes_max
        self._buffer = buffer
        self._first_received = first_received
        self._parts: list[list[Any]] = []
        self._stretches: list[tuple[int, int]] = []  # of the buffer, which make the body
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

    def add(self, part: Part, cut: Cut) -> None:
        """Add one connection's stretch; its records go behind those that are here."""
        self._parts.append(list(part))
        for start, end in cut.parts:
            self._join(start, end)
        for index, code in cut.rejected.items():
            self._rejected[self._records + index] = code
        self._records += cut.records
        self._skipped_bytes += cut.skipped_bytes

    def _join(self, start: int, end: int) -> None:
        """Lengthen the stretch before, where both are one slice of the buffer: it isn't copied."""
        first, last = self._stretches[-1] if self._stretches else (0, 0)
        if first < last == start < end and self._buffer[last - 1] == NEWLINE[0]:
            self._stretches[-1] = (first, end)
        else:
            self._stretches.append((start, end))

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
            "parts": self._parts,
            "skipping": skipping,
            "first": self._first_received,
            "last": last_received,
            "record_bytes_max": self.record_bytes_max,
            "gaps": [asdict(gap) for gap in told],
        }
        return Chunk(
            body=body(self._buffer, self._stretches),
            records=self._records,
            claim=claim,
            first_received=self._first_received,
            last_received=last_received,
            rejected=self._rejected,
            gaps=(*told, *gaps_of(self._rejected), *lost),
            skipped_bytes=self._skipped_bytes,
            crc=self.crc,
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
    parts = claim["parts"] if claim else ()
    return [Part(*part) for part in parts if part[BEGINNING]]
