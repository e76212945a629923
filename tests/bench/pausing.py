"""An instance that stores when it is told to: first a backlog, then its storing alone.

Storing is paused and resumed as an operator does it, by signals to the parent.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from signal import Signals

import redis

from appliance.queues.keys import Keys
from tests.bench.ways import StreamDaemon, wait_until

REST_S = 0.1  # for the signals: parent to subscriber, and what it has just begun to take
NAME = "bench"


class Pausing:
    """A running instance with the embedded server, paused from now on."""

    def __init__(self, way: StreamDaemon) -> None:
        self._way = way
        self.socket = str(way.daemon.directory / "state" / NAME / "queue" / "valkey.sock")
        self._queue = redis.Redis(unix_socket_path=self.socket)
        self._keys = Keys(NAME)
        self.pause()

    def pause(self) -> None:
        """Hold storing up; what is in hand is stored still."""
        self._way.daemon.signal(Signals.SIGTSTP)
        time.sleep(REST_S)  # nothing tells us when the last one has seen it
        wait_until(lambda: not self._in_hand())
        wait_until(lambda: not self._rewrites())

    def resume(self) -> None:
        """Let storing go on."""
        self._way.daemon.signal(Signals.SIGCONT)

    def push(self, items: Sequence[bytes]) -> None:
        """Append frames behind those that wait.

        The queue's own account of their source (its hash) is the collector's, and left alone.
        """
        with self._queue.pipeline(transaction=True) as together:
            together.rpush(self._keys.working, *items)
            together.incrby(self._keys.bytes, sum(map(len, items)))
            together.execute()

    @contextmanager
    def no_rewrites(self) -> Iterator[None]:
        """Let the server write its file anew only once, at the end, however much is pushed."""
        setting = "auto-aof-rewrite-percentage"
        usual = self._queue.config_get(setting)
        self._queue.config_set(setting, 0)
        yield
        self._queue.bgrewriteaof()
        wait_until(lambda: not self._rewrites())
        self._queue.config_set(setting, usual[setting])

    def received(self) -> int:
        """Records that have come in through TCP and wait in the queue, or did."""
        status = self._way.daemon.try_status()
        return int(status["sources"]["lines"]["records"]) if status else 0

    def waiting(self) -> int:
        """Frames that wait."""
        return int(self._queue.llen(self._keys.working))

    def store(self, frames: int) -> float:
        """Store at least so many of the frames that wait, and a little more, then pause again.

        How many seconds that took, to the end of what was in hand.
        """
        left = self.waiting() - frames
        began = time.perf_counter()
        self.resume()
        wait_until(lambda: self.waiting() <= left)
        self._way.daemon.signal(Signals.SIGTSTP)
        wait_until(lambda: not self._in_hand())
        seconds = time.perf_counter() - began
        self.pause()
        return seconds

    def _in_hand(self) -> bool:
        return bool(self._queue.keys(self._keys.every_busy))

    def _rewrites(self) -> bool:
        """Whether the server rewrites its file: a process of its own, counted late."""
        return bool(self._queue.info("persistence")["aof_rewrite_in_progress"])
