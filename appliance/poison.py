"""Poison: a record that kills whoever touches it must not hold up those behind it.

A segmentation fault in a library, a record that takes all memory: the process is gone, the lease
comes back, the next one takes it and dies, too. What is written down beside a frame, one word for
each death with the frame in hand (`contracts.Death.word`), is judged here:

    fewer than ALONE_AFTER deaths                 stored together with its neighbours
    that many                                     goes alone, record by record
    then IN_A_ROW deaths with the same record     that record is a dead letter, code "poison"
    IN_A_ROW_KILLED, if the last was by SIGKILL   the same

In a row: another record in hand, or none, at a death in between means that the first one was
passed alive, since records are gone through in order and the condemned are skipped. SIGKILL is
also what an administrator, a test and the out-of-memory killer send. Killed at random instants a
process has the same record in hand twice once in hundred times or so, and four times in a
row practically never; what eats all memory does it each time.

Deaths are forgotten when the frame is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

ALONE_AFTER = 3
IN_A_ROW = 2
IN_A_ROW_KILLED = 4
CODE = "poison"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a frame.

    Attributes:
        alone: it goes alone, record by record.
        condemned: {position of a record: the reason why it is a dead letter}.
        news: the newest death has changed the verdict: something has come of it.
    """

    alone: bool
    condemned: Mapping[int, str]
    news: bool


def judge(deaths: str) -> Verdict:
    """Judge a frame by the words that are written down over it; none is no suspicion."""
    words = deaths.split()
    condemned: dict[int, str] = {}
    is_newest = False
    for record, row in groupby(map(_parts, words), key=lambda part: part[1]):
        causes = [cause for cause, _ in row]
        at = _condemned_at(causes)
        is_newest = record is not None and at == len(causes)
        if record is not None and at:
            condemned[record] = _reason(causes[:at], len(words))
    return Verdict(len(words) >= ALONE_AFTER, condemned, is_newest or len(words) == ALONE_AFTER)


def _condemned_at(causes: Sequence[str]) -> int:
    """After how many of these deaths in a row their record is condemned; 0: it isn't."""
    for deaths, cause in enumerate(causes, start=1):
        if deaths >= (IN_A_ROW_KILLED if cause == "SIGKILL" else IN_A_ROW):
            return deaths
    return 0


def _parts(word: str) -> tuple[str, int | None]:
    cause, at, record = word.partition("@")
    return cause, int(record) if at else None


def _reason(causes: Sequence[str], deaths: int) -> str:
    """Of what whoever had it in hand died."""
    kinds = ", ".join(dict.fromkeys(cause.replace("-", " ") for cause in causes))
    return (
        f"{len(causes)} times in a row a subscriber died ({kinds}) with this record in hand;"
        f" {deaths} deaths over its frame in all"
    )
