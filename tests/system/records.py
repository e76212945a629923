"""Numbered records whose content is known from the number: what was sent is never looked up."""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Iterator

LONG_BYTES = 400 * 1024  # more than a Unix socket holds


class Records:
    """Lines "NUMBER CHECK payload" of many lengths, made again at will from a seed.

    Each `long_every`-th one has LONG_BYTES at least.
    """

    def __init__(self, seed: int, length_max: int = 4000, long_every: int = 0) -> None:
        self._seed = seed
        self._length_max = length_max
        self._long_every = long_every
        self.sent = 0

    def line(self, number: int) -> bytes:
        """Record `number`, without its newline."""
        dice = random.Random(f"{self._seed} {number}")
        length = int(self._length_max ** dice.random())
        if self._long_every and number % self._long_every == 0:
            length += LONG_BYTES
        payload = dice.randbytes(length // 2 + 1).hex()
        check = hashlib.md5(f"{self._seed} {payload}".encode()).hexdigest()[:8]
        return f"{number} {check} {payload}".encode()

    def block(self, records: int = 64) -> bytes:
        """The next so many records, each with its newline."""
        first, self.sent = self.sent, self.sent + records
        return b"".join(self.line(number) + b"\n" for number in range(first, self.sent))

    def pieces(self, bytes_total: int, piece_bytes: int = 1 << 16) -> Iterator[bytes]:
        """Whole stream of so many bytes at least, in pieces that end anywhere."""
        rest, made = b"", 0
        while made < bytes_total:
            block = self.block()
            made += len(block)
            rest += block
            while len(rest) >= piece_bytes:
                yield rest[:piece_bytes]
                rest = rest[piece_bytes:]
        yield rest

    def check(self, stored: Iterable[bytes], sent: int) -> None:
        """Each of the sent records is there once, byte for byte, and nothing else."""
        seen: Counter[int] = Counter()
        wrong = []
        for line in stored:
            number = int(line.split(b" ", 1)[0])
            seen[number] += 1
            if line != self.line(number):
                wrong.append(number)
        lost = [number for number in range(sent) if number not in seen]
        doubled = [number for number, count in seen.items() if count > 1]
        extra = [number for number in seen if number >= sent]
        problem = f"lost {len(lost)} {lost[:5]}, doubled {len(doubled)} {doubled[:5]}"
        assert not [*lost, *doubled, *extra, *wrong], (problem, extra[:5], wrong[:5])
