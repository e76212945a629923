"""What of an instance is in Redis, looked at with a plain client."""

import redis

from appliance.queues.keys import Keys
from tests.system.daemon import Daemon, until

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

    def handed_over(self, source: str) -> int:
        """Lines that the source has handed over, counted by Redis."""
        return int(self._client.hget(self._keys.source(source), "records") or 0)

    def until_empty(self) -> None:
        """Wait until no frame is anywhere, not even in the hands of a dead owner."""
        until(lambda: not self.waiting() and not self.busy(), EMPTY_S, "the queue to be empty")

    def until_filled(self, frames: int) -> None:
        """Wait until so many frames wait."""
        until(lambda: self.waiting() >= frames, EMPTY_S, f"{frames} waiting frames")
