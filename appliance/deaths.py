"""Deaths with work in hand: the parent writes them down, recovery reads them.

Only the parent sees a child die, and only recovery speaks to the queue. Between them lies a
ring in shared memory, made before the first fork: the newest DEATHS_KEPT deaths. Nobody takes
one out. An owner's name is never used again, and the queue notes a death in the very step that
gives the owner's frames back, so recovery may tell all of them at each sweep, also a recovery
that was born a moment ago. A death that the parent didn't live to report is not counted, which
costs one more.

An entry is its number, one aligned word, and a text behind its length. The number is 0 while the
text is written: who reads a number that is the same before and after has read what belongs to it.
"""

import json
import mmap
from dataclasses import asdict

from appliance.contracts import Death

DEATHS_KEPT = 64
_TEXT_BYTES_MAX = 1008
_ENTRY_BYTES = 16 + _TEXT_BYTES_MAX


class Deaths:
    """The newest deaths. One writer, the parent; any number of readers."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, DEATHS_KEPT * _ENTRY_BYTES))
        starts = range(0, len(memory), _ENTRY_BYTES)
        self._entries = [memory[start : start + _ENTRY_BYTES] for start in starts]
        self._reported = 0  # the parent's own count

    def report(self, death: Death) -> None:
        """Write one down, over the oldest if there is no room."""
        text = json.dumps(asdict(death)).encode()
        if len(text) > _TEXT_BYTES_MAX:  # no name of ours is that long
            return
        entry = self._entries[self._reported % DEATHS_KEPT]
        words = entry.cast("q")
        self._reported += 1
        words[0] = 0
        words[1] = len(text)
        entry[16 : 16 + len(text)] = text
        words[0] = self._reported

    def newest(self) -> list[Death]:
        """Those that are kept, in no order; one that is being written is left out."""
        return [death for entry in self._entries if (death := _read(entry))]


def _read(entry: memoryview) -> Death | None:
    words = entry.cast("q")
    number, length = words[0], words[1]
    text = bytes(entry[16 : 16 + length])
    return Death(**json.loads(text)) if number and words[0] == number else None
