"""The configuration: TOML text in, one whole and valid `Config` out, or a ConfigError.

Pure: nothing is opened, resolved or read from the environment here. Secrets stay
references (`SecretRef`) that credentials.py resolves later.
"""

from typing import Literal

import msgspec

KIB, MIB, GIB = 1024, 1024**2, 1024**3


class SecretRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a secret is found: exactly one of a file, an environment variable, a credential."""

    file: str | None = None
    env: str | None = None
    cred: str | None = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Records whose text at `path` has any of these words (whole, case folded)."""

    path: str
    any: tuple[str, ...]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of the data table: a value by path, or a meta value.

    path "" is the record exactly as it came; meta is one of source, received_at, run,
    frame, position. Exactly one of the two is set.
    """

    type: str
    path: str | None = None
    meta: str | None = None


class SourceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all kinds of sources have in common. Sizes in bytes."""

    framing: Literal["newline"] = "newline"
    format: Literal["text", "json"] = "text"
    record_bytes_max: int = MIB
    frame_bytes_max: int = MIB
    frame_interval_ms: int = 5
    include: tuple[Filter, ...] = ()


class TcpSource(SourceConfig, frozen=True, tag_field="type", tag="tcp", kw_only=True):
    """Connections that senders make to us; `listen` is host:port."""

    listen: str
    connections_max: int = 1000
    close_wait_s: float = 5.0


class FileSource(SourceConfig, frozen=True, tag_field="type", tag="file", kw_only=True):
    """A file that grows (follow) or is read once to its end."""

    path: str
    start: Literal["beginning", "end"] = "beginning"
    follow: bool = True


class StdinSource(SourceConfig, frozen=True, tag_field="type", tag="stdin", kw_only=True):
    """Standard input, until its end."""


AnySource = TcpSource | FileSource | StdinSource


class QueueConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Redis. url "embedded" is our own server; bytes_max None is min(2 GiB, RAM / 4)."""

    url: str = "embedded"
    password: SecretRef | None = None
    bytes_max: int | None = None
    push_s: float = 2.0


class StoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The database. url "embedded" is SQLite in the instance's state directory.

    columns is never empty once parsed: without [store.columns] it holds source,
    received_at and raw.
    """

    url: str = "embedded"
    password: SecretRef | None = None
    table: str = "records"
    on_duplicate: Literal["dead"] = "dead"
    lease_bytes_max: int = 4 * MIB
    columns: dict[str, Column] = {}


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where and how much is logged."""

    to: Literal["stderr"] = "stderr"
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text"] = "text"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole instance. state_dir None: the caller decides by environment."""

    name: str = "stream"
    state_dir: str | None = None
    subscribers: int | Literal["auto"] = "auto"
    drain_s: float = 60.0
    sources: dict[str, AnySource]
    queue: QueueConfig = QueueConfig()
    store: StoreConfig = StoreConfig()
    log: LogConfig = LogConfig()


def parse(text: str, file: str) -> Config:
    """Read a configuration.

    Raises:
        ConfigError: names `file`, the key and its line, and what to write instead.
    """
    raise NotImplementedError
