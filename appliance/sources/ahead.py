"""Ahead: what a source has got ready of its next chunk while the queue takes the one before.

For most of a turn a collector waits for the queue, and for the rest the queue waits for it: a MiB
is copied, its records are counted, its bytes are summed up. Under a flood both go on at once. Of
the one connection that fills frame after frame, what lies behind the frame in hand is peeked, cut
and summed up while the queue has not answered.

The turn stays what it is. Nothing of this is noted, marked, pushed or discarded, and none of it
outlives us: the kernel has each byte still, and a successor looks for itself. It becomes the next
chunk only where the next look would show it: the same connection alone is ready, goes on as usual
and stands where these bytes begin, and a byte of a stream never changes. Else it is thrown away,
and has cost a copy.
"""

from dataclasses import dataclass

from appliance.frame import checksum
from appliance.framing import Cut, cut

AHEAD_BYTES_MAX = 4 * 1024**2  # a source whose frames are longer doesn't look ahead


@dataclass(frozen=True, slots=True)
class Ahead:
    """Whole records of one connection, cut and summed up.

    position: where its first byte is in the stream (`kernel.Seen.position`).
    """

    cookie: int
    position: int
    cut: Cut
    crc: int


def ahead(cookie: int, position: int, buffer: bytearray, record_bytes_max: int) -> Ahead | None:
    """What a full buffer holds, if it is plain: whole records, and none that is over-long.

    It has room for more than one record may have, so a lone newline isn't all that it holds.
    """
    found = cut(buffer, 0, len(buffer), record_bytes_max=record_bytes_max)
    if found.parts != [(0, found.taken)]:
        return None
    return Ahead(cookie, position, found, checksum(memoryview(buffer)[: found.taken]))
