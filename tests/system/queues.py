"""What of an instance is in Redis, looked at with a plain client."""

from collections.abc import Iterator

import redis

from appliance.frame import Header, decode
from appliance.queues.keys import Keys
from tests.system.daemon import Daemon, until
from tests.system.records import Records
from tests.system.stores import StoreUnderTest

EMPTY_S = 60.0


class QueueUnderTest:
    """The keys of one instance."""

    def __init__(self, client: "redis.Redis", name: str) -> None:
        self.name = name
        self._client = client
        self._keys = Keys(name)

    @classmethod
    def embedded(cls, daemon: Daemon, name: str = "stream") -> "QueueUnderTest":
        """The queue in the instance's own server."""
        socket = daemon.directory / "state" / name / "queue" / "valkey.sock"
        return cls(redis.Redis(unix_socket_path=str(socket)), name)

    def waiting(self) -> int:
        """Frames that wait."""
        return int(self._client.llen(self._keys.working))

    def busy(self) -> dict[str, int]:
        """Frames in somebody's hands: {busy list: frames}."""
        lists = self._client.scan_iter(self._keys.every_busy, count=1000)
        return {name.decode(): int(self._client.llen(name)) for name in lists}

    def items(self) -> Iterator[bytes]:
        """The frames that wait, oldest first; they stay."""
        for index in range(self.waiting()):
            yield self._client.lindex(self._keys.working, index)

    def take_out(self, index: int) -> Header:
        """Take a waiting frame away, as nobody should; what it was."""
        [item] = self._client.lrange(self._keys.working, index, index)
        assert self._client.lrem(self._keys.working, 1, item) == 1
        return decode(item).header

    def handed_over(self, source: str) -> int:
        """Lines that the source has handed over, counted by Redis."""
        return int(self._client.hget(self._keys.source(source), "records") or 0)

    def until_empty(self) -> None:
        """Wait until no frame is anywhere, not even in the hands of a dead owner."""

        def is_empty() -> bool:
            try:
                return not self.waiting() and not self.busy()
            except redis.ConnectionError:  # the embedded server is starting still
                return False

        until(is_empty, EMPTY_S, "the queue to be empty")

    def until_filled(self, frames: int) -> None:
        """Wait until so many frames wait."""
        until(lambda: self.waiting() >= frames, EMPTY_S, f"{frames} waiting frames")

    def check_beginning(self, daemon: Daemon, store: StoreUnderTest, records: Records) -> None:
        """Of one connection that we cut, source s, all is stored that was handed over.

        Those are the first lines, each once, and at most one cut line as a dead letter.
        """
        self.until_empty()
        handed_over = self.handed_over("s")
        dead = store.rows(daemon, f"SELECT code FROM {self.name}_dead")
        assert [code for (code,) in dead] in ([], ["cut"]), dead
        assert 0 < handed_over <= records.sent
        records.check(store.raws(daemon), handed_over - len(dead))
