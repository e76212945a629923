"""Settings: the shape of a configuration, one struct a section, one field a key.

Names, types and defaults here are what users write: `Meta` holds the limits, the words and
the examples for messages, docs/configuration.md lists all of it and a test compares. Whoever
adds a key adds a field here and a row there, and a rule to config.py if types can't say it.

`config.parse` is what fills these; import them from config.py.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

KIB, MIB, GIB = 1024, 1024**2, 1024**3
DEFAULT_NAME = "stream"
LOG_TO_STDERR = "stderr"  # instead of a path
FRAME_BYTES_LIMIT = 256 * MIB  # Redis takes items up to 512 MiB
QUEUE_BYTES_LIMIT = 2**53  # Lua counts in doubles: exact up to here
DISK_BYTES_LIMIT = 2**62
PUSH_S_LIMIT = 20  # below the 30 s after which a collector counts as hung
WAIT_S_LIMIT = 86_400
SUBSCRIBERS_LIMIT = 64
SOURCES_LIMIT = 256  # each is a process

_A_SIZE = 'a size such as "64KiB", "1MiB" or a number of bytes'
_SECONDS = "a number of seconds"

OnDuplicate = Literal["dead", "ignore", "update"]
Scalar = str | int | float | bool
Text = Annotated[str, Meta(pattern=r"\A[^\x00]+\Z", description="a text in quotes")]
FrameSize = Annotated[int, Meta(ge=1, le=FRAME_BYTES_LIMIT, description=_A_SIZE)]
QueueSize = Annotated[int, Meta(ge=1, le=QUEUE_BYTES_LIMIT, description=_A_SIZE, examples=["2GiB"])]
DiskSize = Annotated[int, Meta(ge=0, le=DISK_BYTES_LIMIT, description=_A_SIZE, examples=["1GiB"])]
SpoolSize = Annotated[int, Meta(ge=0, le=DISK_BYTES_LIMIT, description=_A_SIZE, examples=["8GiB"])]


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is found: exactly one of a file, an environment variable, a credential."""

    file: Text | None = None
    env: Text | None = None
    cred: Text | None = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked of a record's value at `path`: exactly one of any, equals and regex.

    any: it has one of these words (whole, case folded); equals: it is one of these values;
    regex: the expression matches somewhere in it.
    """

    path: Annotated[str, Meta(description="a text in quotes", examples=["text"])]
    any: (
        Annotated[
            tuple[Text, ...],
            Meta(
                min_length=1,
                description="a list of one or more words",
                examples=[["Patriots", "Packers"]],
            ),
        ]
        | None
    ) = None
    equals: tuple[Scalar, ...] | None = None
    regex: Text | None = None


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of the data table: a value by path, or a meta value.

    path "" is the record exactly as it came. Exactly one of path and meta is set.
    """

    type: Annotated[Text, Meta(examples=["VARCHAR(64)"])]
    path: Annotated[str, Meta(examples=["user.name"])] | None = None
    meta: (
        Annotated[
            Literal["source", "received_at", "run", "frame", "position"],
            Meta(examples=["received_at"]),
        ]
        | None
    ) = None


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all kinds of sources have in common. Sizes in bytes.

    frame_bytes_max is at least record_bytes_max; where it isn't written, it grows with it.
    """

    framing: Literal["newline"] = "newline"
    format: Literal["text", "json"] = "text"
    record_bytes_max: FrameSize = MIB
    frame_bytes_max: FrameSize = MIB
    frame_interval_ms: Annotated[
        int, Meta(ge=0, le=10_000, description="a whole number of milliseconds")
    ] = 5
    include: tuple[Filter, ...] = ()
    exclude: tuple[Filter, ...] = ()


class TcpSource(SourceConfig, frozen=True, tag_field="type", tag="tcp", kw_only=True):
    """Connections that senders make to us (listen), or one that we make (connect): host:port.

    Exactly one of the two is set.
    """

    listen: Annotated[Text, Meta(examples=["127.0.0.1:5170"])] | None = None
    connect: Annotated[Text, Meta(examples=["stream.example.net:5170"])] | None = None
    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    close_wait_s: Annotated[float, Meta(ge=0, le=WAIT_S_LIMIT, description=_SECONDS)] = 5.0


class UnixSource(SourceConfig, frozen=True, tag_field="type", tag="unix", kw_only=True):
    """Connections that senders of this machine make to us (listen), or one that we make (connect).

    Both are paths of a socket file; exactly one is set. mode and owner are those of the file that
    we make; owner None: whoever runs the program, and its group.
    """

    listen: Annotated[Text, Meta(examples=["/run/stream-daemon/lines.sock"])] | None = None
    connect: Annotated[Text, Meta(examples=["/run/feed.sock"])] | None = None
    mode: Annotated[
        str,
        Meta(
            pattern=r"\A0?[0-7]{3}\Z",
            description="three octal digits in quotes",
            examples=["0660"],
        ),
    ] = "0660"
    owner: (
        Annotated[
            str,
            Meta(
                pattern=r"\A(?=.)[^:\s]*(:[^:\s]+)?\Z",
                description="a user, a user:group or a :group in quotes",
                examples=["www-data:adm"],
            ),
        ]
        | None
    ) = None
    connections_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    close_wait_s: Annotated[float, Meta(ge=0, le=WAIT_S_LIMIT, description=_SECONDS)] = 5.0


class FileSource(SourceConfig, frozen=True, tag_field="type", tag="file", kw_only=True):
    """A file that grows (follow) or is read once to its end."""

    path: Annotated[Text, Meta(examples=["/var/log/app.log"])]
    start: Literal["beginning", "end"] = "beginning"
    follow: bool = True


class StdinSource(SourceConfig, frozen=True, tag_field="type", tag="stdin", kw_only=True):
    """Standard input, until its end."""


SocketSource = TcpSource | UnixSource
AnySource = SocketSource | FileSource | StdinSource


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Redis. url "embedded" is our own server; bytes_max None is min(2 GiB, RAM / 4)."""

    url: Text = "embedded"
    password: SecretRef | None = None
    bytes_max: QueueSize | None = None
    push_s: Annotated[float, Meta(gt=0, le=PUSH_S_LIMIT, description=_SECONDS)] = 2.0


class SpoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where frames wait on this machine's disk while the queue takes none; 0 bytes: nowhere."""

    bytes_max: SpoolSize = 8 * GIB


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The database. url "embedded" is SQLite in the instance's state directory.

    columns is never empty once parsed: without [store.columns] it holds source,
    received_at and raw.
    """

    url: Text = "embedded"
    password: SecretRef | None = None
    table: Text = "records"
    on_duplicate: OnDuplicate = "dead"
    lease_bytes_max: FrameSize = 4 * MIB
    columns: dict[str, Column] = {}


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where, how much and how is logged. to: "stderr", or the absolute path of a file."""

    to: Annotated[Text, Meta(examples=["/var/log/stream-daemon/stream.log"])] = LOG_TO_STDERR
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole instance. state_dir None: the caller decides by environment."""

    name: Text = DEFAULT_NAME
    state_dir: Annotated[Text, Meta(examples=["/var/lib/stream-daemon"])] | None = None
    subscribers: Annotated[int, Meta(ge=0, le=SUBSCRIBERS_LIMIT)] | Literal["auto"] = "auto"
    drain_s: Annotated[float, Meta(gt=0, le=WAIT_S_LIMIT, description=_SECONDS)] = 60.0
    ready_s: Annotated[float, Meta(gt=0, le=WAIT_S_LIMIT, description=_SECONDS)] = 30.0
    require_healthy: bool = False
    disk_free_min: DiskSize = GIB
    sources: dict[str, AnySource] = msgspec.field(name="source")
    queue: QueueConfig = QueueConfig()
    spool: SpoolConfig = SpoolConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()


SOURCE_TYPES: dict[str, type[AnySource]] = {
    "tcp": TcpSource,
    "unix": UnixSource,
    "file": FileSource,
    "stdin": StdinSource,
}
DEFAULT_COLUMNS = {
    "source": Column(type="VARCHAR(32)", meta="source"),
    "received_at": Column(type="DATETIME(6)", meta="received_at"),
    "raw": Column(type="LONGTEXT", path=""),
}

LATER_KEYS = frozenset(
    {
        "http",
        "source.SOURCE.url",
    }
)
"""Keys that are settled and that this version refuses."""

LATER_VALUES = {
    "source.SOURCE.type": "udp|http|sse|websocket|jetstream",
    "source.SOURCE.framing": "nul|octet-count|length32|length-line",
    "source.SOURCE.format": "syslog",
}
"""Values that are settled and that this version refuses, a regular expression by key."""
