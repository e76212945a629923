"""The lines that every benchmark sends: short tweets as JSON, the same for everyone."""

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from appliance.tweets import TweetMaker

DISTINCT = 20_000  # tweets that are made; longer streams repeat them under other ids
FIRST_ID = 1_568_992_000_000_000_000
DIGEST_HEX = 15  # hex digits of a line's MD5 that are summed: less than 64 bit


@dataclass(frozen=True, slots=True)
class Content:
    """What a table holds, whatever the order of its rows: their number and a sum of digests."""

    count: int
    digest: int

    @classmethod
    def of(cls, records: Iterable[bytes]) -> "Content":
        """That of a table with these records."""
        digests = [int(hashlib.md5(line).hexdigest()[:DIGEST_HEX], 16) for line in records]
        return cls(len(digests), sum(digests))


@dataclass(frozen=True, slots=True)
class Lines:
    """A stream: its records without their newlines, and the content that a table must have."""

    records: tuple[bytes, ...]
    content: Content

    @classmethod
    def of(cls, records: Iterable[bytes]) -> "Lines":
        """A stream of these records."""
        kept = tuple(records)
        return cls(kept, Content.of(kept))

    @property
    def body(self) -> bytes:
        """All of it as it is sent."""
        return joined(self.records)

    def first(self, count: int) -> "Lines":
        """The beginning of the stream."""
        return Lines.of(self.records[:count])

    def blocks(self, bytes_min: int) -> list[bytes]:
        """The stream cut into pieces of whole lines, each of bytes_min or little more."""
        return [joined(self.records[part]) for part in self.parts(bytes_min)]

    def parts(self, bytes_min: int) -> list[slice]:
        """The places of these pieces among the records."""
        cuts = [0]
        size = 0
        for number, line in enumerate(self.records, 1):
            size += len(line) + 1
            if size >= bytes_min or number == len(self.records):
                cuts.append(number)
                size = 0
        return [slice(lo, hi) for lo, hi in pairwise(cuts)]


def joined(lines: Iterable[bytes]) -> bytes:
    """Lines as they are sent or written: each with a newline behind it."""
    return b"".join(line + b"\n" for line in lines)


def make_lines(count: int, seed: int) -> Lines:
    """So many tweets, no two the same; the same seed makes the same."""
    maker = TweetMaker(random.Random(seed))
    made = [_short(json.loads(maker.tweet().line)) for _ in range(min(count, DISTINCT))]
    return Lines.of(
        b'{"id":%d,%b' % (FIRST_ID + number, made[number % len(made)]) for number in range(count)
    )


def _short(status: dict[str, Any]) -> bytes:
    """A tweet less what makes it long, and less its id: JSON from behind the opening brace."""
    kept = ("created_at", "text", "retweet_count", "favorite_count", "timestamp_ms")
    of_user = ("id", "name", "screen_name", "location", "followers_count", "verified")
    short = {key: status[key] for key in kept}
    short["user"] = {key: status["user"][key] for key in of_user}
    short["entities"] = {"hashtags": [tag["text"] for tag in status["entities"]["hashtags"]]}
    text = json.dumps(short, ensure_ascii=False, separators=(",", ":"))
    return text.removeprefix("{").encode()
