"""The sender of the demo's stream: now slower, now faster, and it counts.

It knows nothing of the instance but a port. What it sends is written down here, as it is
sent: the verdict compares the database with this.
"""

import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from appliance.errors import StreamDaemonError
from appliance.tweets import KEEP_ALIVE, RECORD_END, TweetMaker

SEND_S_MAX = 10.0  # how long one send may wait for the instance to read on

TWEETS_PER_S = 3000.0  # the middle of a wave …
TWEETS_PER_S_SWING = 1500.0
WAVE_S = 3.1
TWEETS_PER_S_BURST = 9000.0  # … with a burst now and then
BURST_EVERY_S = 2.0
BURST_S = 0.15
KEEP_ALIVE_SHARE = 0.005


class SendingFailed(StreamDaemonError):
    """The instance doesn't take the stream."""


def tweets_per_s(elapsed_s: float) -> float:
    """The stream's speed at a moment: a slow wave, and short bursts."""
    if elapsed_s % BURST_EVERY_S > BURST_EVERY_S - BURST_S:
        return TWEETS_PER_S_BURST
    return TWEETS_PER_S + TWEETS_PER_S_SWING * math.sin(math.tau * elapsed_s / WAVE_S)


class Sender:
    """Sends the stream over one TCP connection and keeps what has to arrive.

    Attributes:
        sent: tweets sent.
        expected: the bytes of those that name a team, by id.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.sent = 0
        self.expected: dict[int, bytes] = {}
        self._maker = TweetMaker(Random(seed))
        self._chance = Random(seed)  # its own: the tweets don't depend on the keep-alives
        with _as_ours():
            self._socket = socket.create_connection(("127.0.0.1", port), SEND_S_MAX)

    def send(self, count: int) -> None:
        """Send the next tweets, and keep-alives between them.

        Raises:
            SendingFailed: the instance has closed the connection or doesn't read.
        """
        with _as_ours():
            self._socket.sendall(b"".join(self._records(count)))

    def _records(self, count: int) -> Iterator[bytes]:
        for _ in range(count):
            tweet = self._maker.tweet()
            self.sent += 1
            if tweet.teams:
                self.expected[tweet.id] = tweet.line
            yield tweet.line + RECORD_END
            if self._chance.random() < KEEP_ALIVE_SHARE:
                yield KEEP_ALIVE

    def __enter__(self) -> "Sender":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@contextmanager
def _as_ours() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SendingFailed(f"the connection to the demo's instance broke: {error}") from error
