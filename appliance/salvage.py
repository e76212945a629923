"""Salvage: what a damaged segment still holds.

Good entries are found again behind bad ones, by their heads. An entry with one wrong bit is put
right: the difference between the CRC that was written and the one that is found is the same for
no two bits, so it says which one it is; BLAKE2b then says whether that was all. Nothing is ever
guessed: what doesn't become exactly what was written counts as lost.

A CRC register takes a step for each bit. A wrong bit puts POLYNOMIAL into the difference, and
every bit behind it moves that one step on. So the number of steps from POLYNOMIAL to the
difference is the bit's distance from the end: a discrete logarithm, found by baby steps (a
table of the first m) and giant steps (m back at a time).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from zlib import crc32

from appliance.errors import Corrupt
from appliance.frame import decode, name_of
from appliance.segments import HEAD_BYTES, MAGIC, Head, parse_head

POLYNOMIAL = 0xEDB88320  # CRC-32 of zlib, its bits reversed
TOP_BIT = 1 << 31


@dataclass(frozen=True, slots=True)
class Found:
    """An item as it was written; `bits_turned` of it and its head had been wrong."""

    item: bytes
    bits_turned: int = 0


@dataclass(frozen=True, slots=True)
class Lost:
    """Bytes that nothing can be made of; `frame` is its name as far as it can be read."""

    at: int
    length: int
    why: str
    frame: str = ""


def salvage(data: bytes) -> Iterator[Found | Lost]:
    """Everything in a segment, in its order."""
    at = 0
    while at < len(data):
        piece, at = _piece(data, at)
        yield piece


def _piece(data: bytes, at: int) -> tuple[Found | Lost, int]:
    """What is at this place, and where the next one begins."""
    head, bits_turned = _head(data, at)
    if head is None:
        end = _next_head(data, at + 1)
        return Lost(at, end - at, "no frame begins here"), end
    end = at + head.entry_bytes
    item = data[at + HEAD_BYTES : end]
    if end > len(data):
        end = _next_head(data, at + HEAD_BYTES)
        return Lost(at, end - at, "its end is missing", name_of(item)), end
    if not head.fits(item):
        right, bits_turned = _corrected(head, item), bits_turned + 1
        if right is None:
            return Lost(at, end - at, "more than one of its bits is wrong", name_of(item)), end
        item = right
    if why := _why_unreadable(item):
        return Lost(at, end - at, why, name_of(item)), end
    return Found(item, bits_turned), end


def _why_unreadable(item: bytes) -> str:
    """What keeps a frame from being handed over; empty: nothing does."""
    try:
        decode(item)
    except Corrupt as error:
        return error.message
    return ""


def _head(data: bytes, at: int) -> tuple[Head | None, int]:
    """The head at this place, put right if one bit is wrong; how many bits were."""
    raw = data[at : at + HEAD_BYTES]
    head = parse_head(raw)
    if head is not None or len(raw) < HEAD_BYTES:
        return head, 0
    turned = (parse_head(_with_bit_turned(raw, bit)) for bit in range(8 * HEAD_BYTES))
    return next((head for head in turned if head), None), 1


def _next_head(data: bytes, at: int) -> int:
    """Where the next good head begins; the end if there is none."""
    while (at := data.find(MAGIC, at)) >= 0:
        head = parse_head(data[at : at + HEAD_BYTES])
        if head is not None and at + head.entry_bytes <= len(data):
            return at
        at += 1
    return len(data)


# ── one wrong bit ───────────────────────────────────────────────────────────────────────


def _corrected(head: Head, item: bytes) -> bytes | None:
    """The item with its one wrong bit turned; None if that doesn't make it what it was."""
    bit = wrong_bit(crc32(item) ^ head.crc, len(item))
    if bit is None:
        return None
    right = _with_bit_turned(item, bit)
    return right if head.fits(right) else None


def wrong_bit(difference: int, length: int) -> int | None:
    """Which bit of so many bytes makes this difference in their CRC-32; None: no single one.

    Bits count from the first byte on, lowest first.
    """
    bits = 8 * length
    stride = math.isqrt(bits) + 1
    steps = _steps(stride)
    back = _jump_back(stride)
    for jump in range(stride):
        distance = jump * stride + steps.get(difference, bits)
        if distance < bits:
            return bits - 1 - distance
        difference = _apply(back, difference)
    return None


def _steps(count: int) -> dict[int, int]:
    """Differences of bits near the end: {difference: how many bits are behind it}."""
    difference, steps = POLYNOMIAL, {}
    for step in range(count):
        steps[difference] = step
        difference = difference >> 1 ^ (POLYNOMIAL if difference & 1 else 0)
    return steps


def _jump_back(stride: int) -> list[int]:
    """What so many steps back make of each of a difference's bits: all else is their sum."""
    images = []
    for bit in range(32):
        difference = 1 << bit
        for _ in repeat(None, stride):
            if difference & TOP_BIT:
                difference = (difference ^ POLYNOMIAL) << 1 | 1
            else:
                difference <<= 1
        images.append(difference)
    return images


def _apply(images: list[int], difference: int) -> int:
    result = 0
    while difference:
        lowest = difference & -difference
        result ^= images[lowest.bit_length() - 1]
        difference ^= lowest
    return result


def _with_bit_turned(data: bytes, bit: int) -> bytes:
    turned = bytearray(data)
    turned[bit // 8] ^= 1 << bit % 8
    return bytes(turned)
