"""Records whose content is known from who sent them and their number: nothing is looked up.

"tcp1 1234 …": the sender, the number from 0, and text of many lengths with signs that somebody
has to quote. Cheap to make, since every record is made twice: to be sent, and to be compared.
"""

import random
import zlib
from functools import cache

LENGTH_MAX = 1500  # of the text, in characters; most are shorter by far
LONG_CHARS = 400 * 1024  # more than a Unix socket holds
POOL_CHARS = 1 << 20
SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789 ,.:{}[]()%_äéß世界🏈'\"\\\t"


class Lines:
    """All records of one sender. Each `long_every`-th is LONG_CHARS longer; 0: none is."""

    def __init__(self, seed: int, sender: str, long_every: int = 0) -> None:
        self.sender = sender
        self._pool = _pool(seed)
        self._salt = zlib.crc32(f"{seed} {sender}".encode())
        self._long_every = long_every

    def line(self, number: int) -> bytes:
        """Record `number`, without its newline."""
        hashed = zlib.crc32(b"%d" % number, self._salt)
        share = (hashed >> 12) / (1 << 20)
        length = int(LENGTH_MAX**share)
        if self._long_every and number % self._long_every == self._long_every - 1:
            length += LONG_CHARS
        at = hashed % (POOL_CHARS - length)
        return f"{self.sender} {number} {self._pool[at : at + length]}".encode()

    def block(self, first: int, end: int) -> bytes:
        """Records from `first` up to `end`, each with its newline."""
        return b"".join(self.line(number) + b"\n" for number in range(first, end))


def parse(raw: bytes) -> tuple[str, int] | None:
    """Sender and number of a record; None if it is none of ours."""
    sender, _, rest = raw.partition(b" ")
    number, space, _ = rest.partition(b" ")
    if not space or not number.isdigit():
        return None
    return sender.decode(errors="replace"), int(number)


@cache
def _pool(seed: int) -> str:
    return "".join(random.Random(seed).choices(SIGNS, k=POOL_CHARS))
