"""A batch: one frame on its way into the database, as rows.

The subscriber turns a frame into a batch (rows.py decides how); a store writes batches and
knows nothing of frames, headers or positions in a source. All of a batch is stored in one
transaction with its ledger row, or none of it.
"""

from dataclasses import dataclass, field

from appliance.frame import Gap

Value = str | int | float | bytes | None
Raw = bytes  # the record as it came; Batch has a field that is called bytes


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One record that can't become a row: its bytes and the reason.

    `position` counts records of the frame from 0; `code` is one word, `reason` a sentence.
    """

    position: int
    raw: bytes
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one frame and what to write in the ledger beside them.

    Attributes:
        run: 16 bytes (a UUIDv7); (run, number) names the frame for ever.
        source: the source's name.
        records: all lines of the frame = rows + dead + filtered + blank.
        bytes: body bytes of the frame.
        first_received, last_received: seconds since the epoch.
        rows: one tuple of column values a row, in the order of the store's columns.
        positions: the row's record number in the frame, same length as rows.
        raws: the record as it came, same length as rows (for a dead letter).
        dead: records that never became a row.
        gaps: what the collector could not keep.
    """

    run: bytes
    number: int
    source: str
    records: int
    bytes: int
    first_received: float
    last_received: float
    rows: list[tuple[Value, ...]]
    positions: list[int]
    raws: list[Raw]
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: int = 0
    blank: int = 0
    gaps: tuple[Gap, ...] = ()

    @property
    def name(self) -> str:
        """The frame's name (frame.Header.name)."""
        return f"{self.run.hex()}:{self.number}"


@dataclass(frozen=True, slots=True)
class Stored:
    """What one call to a store has newly committed (frames it had already count nothing).

    `refusal` is the last of its dead letters, None where there was none.
    """

    frames: int = 0
    stored: int = 0
    filtered: int = 0
    dead: int = 0
    blank: int = 0
    lost: int = 0
    refusal: DeadLetter | None = field(default=None, compare=False)
