"""B1, B2: from TCP into Redis, while nobody takes anything out, against a plain Redis client.

Our side is an instance with `subscribers = 0`: it only collects. The clock starts before the first
byte is sent, and stops when Redis says that it has the last record (the source's hash, which is
written in one step with the frame).

The other side is redis-py on one connection, over a Unix socket as ours is, to a server of the same
binary with the same settings. Make it faster if you can: each record (B1) or value (B2) has to be
answered before the next one goes.

After each measure the list is read back, and must hold what was sent, byte for byte and in order.
Then it is emptied, and the server writes its file anew, so that nobody pays for who was before.
"""

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import redis

from appliance.frame import decode
from appliance.queues.keys import Keys
from appliance.redis_server import ENVIRONMENT, SETTINGS
from tests.bench.measure import (
    RECORDS_PER_S,
    Comparison,
    Findings,
    Side,
    WrongContentError,
    in_turns,
)
from tests.bench.run import WARM_UP_SHARE, Run
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_valkey
from tests.system.daemon import Daemon, connect, until

SYNCED = "TCP → Redis, fsync always, one connection"
UNSYNCED = "TCP → Redis, fsync off, one connection"
UNSYNCED_SETTINGS = {**SETTINGS, "appendfsync": "no"}
NAME, SOURCE = "bench", "lines"
KEYS = Keys(NAME)
VALUES = "values"  # the list of the other side
SYNCED_TIMES = 2  # so often the stream is sent, for a measure of about a second
UNSYNCED_TIMES = 4
EACH_SHARE = 200  # one RPUSH a record gets the first of so many equal parts of the stream
VALUE_BYTES = 1024**2
QUEUE_BYTES_MAX = "16GiB"  # more than is sent: a full queue would be a measure of the spool
MEASURE_S_MAX = 60.0
LOOK_S = 0.002  # a look is one HGET, some microseconds of the server
READY_S = END_S = 30.0
CHECK_STEP = 16  # items that are read back at once
MB = 1_000_000


def b1(run: Run) -> Findings:
    """Against one RPUSH a record, on a server with the settings of our embedded one."""
    stream = Stream.of(run.lines.records, SYNCED_TIMES)
    few = run.lines.records[: len(run.lines.records) // EACH_SHARE]
    with collecting() as ours, server(SETTINGS) as client:
        ours.warm_up(run.lines.records)
        samples = in_turns(
            Side("stream-daemon", lambda: stream.records / ours.take(stream)),
            Side("RPUSH each", lambda: len(few) / push_each(client, few)),
            RECORDS_PER_S,
            run.rounds,
            run.say,
        )
    return Findings([Comparison("B1", SYNCED, *samples, aim=100)])


def b2(run: Run) -> Findings:
    """Against one RPUSH a MiB of the same bytes, on the server that our instance uses too."""
    stream = Stream.of(run.lines.records, UNSYNCED_TIMES)
    values = stream.pieces(VALUE_BYTES)
    with server(UNSYNCED_SETTINGS) as client, collecting(client) as ours:
        ours.warm_up(run.lines.records)
        samples = in_turns(
            Side("stream-daemon", lambda: stream.size / ours.take(stream) / MB),
            Side("RPUSH 1 MiB", lambda: stream.size / push_each(client, values) / MB),
            "MB/s",
            run.rounds,
            run.say,
        )
    return Findings([Comparison("B2", UNSYNCED, *samples, aim=0.7)])


@dataclass(frozen=True, slots=True)
class Stream:
    """What is sent: `body` so many times, `records` in all; `digest` is that of all its bytes."""

    body: bytes
    times: int
    records: int
    digest: bytes

    @classmethod
    def of(cls, records: Sequence[bytes], times: int) -> "Stream":
        """These records so many times."""
        body = b"".join(record + b"\n" for record in records)
        return cls(body, times, len(records) * times, digest_of([body] * times))

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return len(self.body) * self.times

    def pieces(self, size: int) -> list[bytes]:
        """All of it in pieces of this size, wherever a record ends."""
        whole = self.body * self.times
        return [whole[at : at + size] for at in range(0, len(whole), size)]


def digest_of(pieces: Iterable[bytes]) -> bytes:
    """Of all pieces, one behind the other."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


# ── ours ────────────────────────────────────────────────────────────────────────────────


class Collecting:
    """A running instance that only collects, and a client that looks into its queue."""

    def __init__(self, port: int, client: "redis.Redis") -> None:
        self._port = port
        self._client = client

    def warm_up(self, records: Sequence[bytes]) -> None:
        """Take some of the stream."""
        self.take(Stream.of(records[: len(records) // WARM_UP_SHARE], 1))

    def take(self, stream: Stream) -> float:
        """Seconds from the first byte that is sent until the last record is in Redis."""
        wanted = self._pushed() + stream.records
        with connect(self._port) as connection:
            began = time.perf_counter()
            for _ in range(stream.times):
                connection.sendall(stream.body)
            self._wait_for(wanted)
            seconds = time.perf_counter() - began
        self.check(stream)
        empty(self._client, KEYS.working)
        return seconds

    def _pushed(self) -> int:
        """Records of all that was ever pushed."""
        return int(self._client.hget(KEYS.source(SOURCE), "records") or 0)

    def _wait_for(self, wanted: int) -> None:
        deadline = time.monotonic() + MEASURE_S_MAX
        while self._pushed() < wanted:
            assert time.monotonic() < deadline, f"not in Redis within {MEASURE_S_MAX:g} s"
            time.sleep(LOOK_S)  # nothing tells us when it is there

    def check(self, stream: Stream) -> None:
        """See that the queue holds the stream, byte for byte.

        Raises:
            WrongContentError: it holds something else.
        """
        records, digest = 0, hashlib.sha256()
        for frame in map(decode, items_of(self._client, KEYS.working)):
            records += frame.header.records
            digest.update(frame.body)
        if (records, digest.digest()) != (stream.records, stream.digest):
            raise WrongContentError(
                f"the {records} records in the queue aren't those that were sent"
            )


@contextmanager
def collecting(client: "redis.Redis | None" = None) -> Iterator[Collecting]:
    """An instance as a user starts it, with its own server or the one of this client."""
    port = free_port()
    where = "embedded" if client is None else f"unix://{socket_of(client)}"
    config = (
        f'name = "{NAME}"\nsubscribers = 0\n'
        f'[source.{SOURCE}]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\nformat = "json"\n'
        f'[queue]\nurl = "{where}"\nbytes_max = "{QUEUE_BYTES_MAX}"\n'
    )
    with Daemon(config) as daemon:
        connect(port).close()
        yield Collecting(port, client or own_client(daemon))


def own_client(daemon: Daemon) -> "redis.Redis":
    """A client of the instance's own server."""
    path = daemon.directory / "state" / NAME / "queue" / "valkey.sock"
    client = redis.Redis(unix_socket_path=str(path))
    until(path.exists, READY_S, "the embedded server")
    return client


# ── a plain client ──────────────────────────────────────────────────────────────────────


@contextmanager
def server(settings: Mapping[str, str]) -> Iterator["redis.Redis"]:
    """A client on one connection to a private server of the binary that we embed.

    Its memory is managed as that of ours. As glibc does it by itself, a server gives its memory
    back at each push or never: some hundred bytes more or less in a value decide it.
    """
    with (
        PrivateRedis(find_valkey(), options=settings, environ=ENVIRONMENT) as private,
        private.client(single_connection_client=True) as client,
    ):
        yield client


def push_each(client: "redis.Redis", values: Sequence[bytes]) -> float:
    """Seconds for one RPUSH for each value."""
    began = time.perf_counter()
    for value in values:
        client.rpush(VALUES, value)
    seconds = time.perf_counter() - began
    if digest_of(items_of(client, VALUES)) != digest_of(values):
        raise WrongContentError("the list doesn't hold what was pushed")
    empty(client, VALUES)
    return seconds


def items_of(client: "redis.Redis", key: str) -> Iterator[bytes]:
    """All items of a list, a few at a time."""
    for at in range(0, client.llen(key), CHECK_STEP):
        yield from client.lrange(key, at, at + CHECK_STEP - 1)


def empty(client: "redis.Redis", key: str) -> None:
    """Delete a list, and have the server write a file without it."""
    client.delete(key)
    client.set(KEYS.bytes, 0)
    _await_rewrite(client)  # that it may have begun by itself
    client.bgrewriteaof()
    _await_rewrite(client)


def _await_rewrite(client: "redis.Redis") -> None:
    until(lambda: not client.info("persistence")["aof_rewrite_in_progress"], END_S, "its file")


def socket_of(client: "redis.Redis") -> str:
    """The path of the server's Unix socket."""
    return str(client.config_get("unixsocket")["unixsocket"])
