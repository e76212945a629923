"""What a rehearsal runs: the user's configuration, with names and addresses of its own. Pure.

Queue, store, limits and the kinds of sources are the user's. Not so: the name (and so tables,
keys and directory), the addresses, which are private, and columns and filters, since it is not
the user's records that come.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from appliance.settings import (
    DEFAULT_COLUMNS,
    AnySource,
    Config,
    FileSource,
    LogConfig,
    StdinSource,
    TcpSource,
    UnixSource,
)
from appliance.toml_tables import toml

SUFFIX = "_rehearsal"
NAME_CHARS_MAX = 32
CLOSE_WAIT_S_MIN = 5.0  # what senders get to finish when the instance is restarted
RECORD_BYTES_MIN = 256  # a numbered record has room in it
ONLY_SOURCE = "records"  # where the user has none that can be imitated

LIMITS = ("format", "record_bytes_max", "frame_bytes_max", "frame_interval_ms")


def name_of(name: str) -> str:
    """The name of the instance that rehearses for this one."""
    return name[: NAME_CHARS_MAX - len(SUFFIX)] + SUFFIX


def derive(config: Config, directory: Path, free_port: Callable[[], int]) -> Config:
    """The configuration of the rehearsal, which lives in this directory."""
    name = directory.name
    sources = {
        source: _source(source, settings, directory, free_port)
        for source, settings in config.sources.items()
        if not isinstance(settings, StdinSource)
    }
    store = msgspec.structs.replace(
        config.store, table=f"{name}_records", columns=DEFAULT_COLUMNS, on_duplicate="dead"
    )
    return msgspec.structs.replace(
        config,
        name=name,
        state_dir=str(directory.parent),
        subscribers=config.subscribers or 1,
        sources=sources or {ONLY_SOURCE: TcpSource(listen=f"127.0.0.1:{free_port()}")},
        store=store,
        log=LogConfig(level="info"),
    )


def left_out(config: Config) -> list[str]:
    """What can't be rehearsed, as sentences."""
    return [
        f"source {name} reads standard input, which only its own process holds: it is left out"
        for name, source in config.sources.items()
        if isinstance(source, StdinSource)
    ]


def _source(
    name: str, source: AnySource, directory: Path, free_port: Callable[[], int]
) -> AnySource:
    """A source of the same kind and with the same limits, at an address of its own."""
    given: dict[str, Any] = {key: getattr(source, key) for key in LIMITS}
    for key in ("record_bytes_max", "frame_bytes_max"):
        given[key] = max(given[key], RECORD_BYTES_MIN)
    if isinstance(source, FileSource):
        return FileSource(path=str(directory / f"{name}.in"), **given)
    given["close_wait_s"] = max(CLOSE_WAIT_S_MIN, getattr(source, "close_wait_s", 0.0))
    if isinstance(source, UnixSource):
        return UnixSource(listen=str(directory / f"{name}.sock"), mode="0600", **given)
    return TcpSource(listen=f"127.0.0.1:{free_port()}", **given)


# ── as a file ───────────────────────────────────────────────────────────────────────────


def text(config: Config) -> str:
    """The configuration as its file has it."""
    lines = ["# What `stream-daemon rehearse` runs with.", *_section("", _plain(config))]
    return "\n".join(lines) + "\n"


def _plain(config: Config) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(config)
    return plain


def _section(path: str, table: Mapping[str, Any]) -> list[str]:
    """A table's own keys first, then the tables in it."""
    said = {key: value for key, value in table.items() if value not in (None, {}, [])}
    plain = {key: value for key, value in said.items() if not isinstance(value, Mapping)}
    lines = [f"\n[{path}]"] if path and plain else []
    lines += [f"{key} = {toml(value)}" for key, value in plain.items()]
    for key in said.keys() - plain.keys():
        lines += _section(f"{path}.{key}" if path else key, said[key])
    return lines
