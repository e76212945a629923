"""What a new configuration changes in a running instance: pure, from the two configurations.

Each key belongs to whoever works by it, and only those are replaced whose keys have changed:

    PARENT       taken over where it is used: nobody is replaced
    LISTENERS    listening sockets are opened, closed or handed to another source
    COLLECTOR    this source's collector, or each of them; its connections are handed on
    SUBSCRIBERS  all of them, each behind its lease
    RECOVERY     it knows the spools that collectors replay
    RESTART      nobody can take it over: the whole file is refused, and the old one kept

Whoever adds a key to settings.py gives it a row in KEYS, and one in docs/operations.md; a test
compares. What is refused for a reason that isn't in the table is in `_reasons`: another type of
source under the same name, what a successor can't go on with, another database.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import msgspec

from appliance.errors import ConfigError
from appliance.settings import AnySource, Config, SocketSource, StdinSource


class Touch(Flag):
    """Whom a changed key is for."""

    PARENT = auto()
    LISTENERS = auto()
    COLLECTOR = auto()
    SUBSCRIBERS = auto()
    RECOVERY = auto()
    RESTART = auto()


NOTHING = Touch(0)
CHILDREN = Touch.COLLECTOR | Touch.SUBSCRIBERS | Touch.RECOVERY

KEYS: dict[str, Touch] = {
    "name": Touch.RESTART,
    "state_dir": Touch.RESTART,
    "subscribers": Touch.PARENT,
    "drain_s": Touch.PARENT | CHILDREN,
    "ready_s": Touch.PARENT,
    "require_healthy": Touch.PARENT,
    "disk_free_min": Touch.PARENT | CHILDREN,
    "source.SOURCE.type": Touch.RESTART,
    "source.SOURCE.listen": Touch.LISTENERS,
    "source.SOURCE.connect": Touch.COLLECTOR,
    "source.SOURCE.mode": Touch.LISTENERS,
    "source.SOURCE.owner": Touch.LISTENERS,
    "source.SOURCE.connections_max": Touch.LISTENERS | Touch.COLLECTOR,
    "source.SOURCE.close_wait_s": Touch.COLLECTOR,
    "source.SOURCE.path": Touch.COLLECTOR,
    "source.SOURCE.start": Touch.COLLECTOR,
    "source.SOURCE.follow": Touch.COLLECTOR,
    "source.SOURCE.framing": Touch.COLLECTOR,
    "source.SOURCE.format": Touch.SUBSCRIBERS,
    # The store has to take the longest record of all sources.
    "source.SOURCE.record_bytes_max": Touch.COLLECTOR | Touch.SUBSCRIBERS,
    "source.SOURCE.frame_bytes_max": Touch.COLLECTOR,
    "source.SOURCE.frame_interval_ms": Touch.COLLECTOR,
    "source.SOURCE.include": Touch.SUBSCRIBERS,
    "source.SOURCE.exclude": Touch.SUBSCRIBERS,
    "queue.url": Touch.RESTART,
    "queue.password": CHILDREN,
    "queue.bytes_max": CHILDREN,
    "queue.push_s": Touch.COLLECTOR,
    "spool.bytes_max": Touch.COLLECTOR | Touch.RECOVERY,
    "store.url": Touch.SUBSCRIBERS,
    "store.password": Touch.SUBSCRIBERS,
    "store.table": Touch.SUBSCRIBERS,
    "store.on_duplicate": Touch.SUBSCRIBERS,
    "store.lease_bytes_max": Touch.SUBSCRIBERS,
    "store.columns": Touch.SUBSCRIBERS,
    "log.to": Touch.PARENT | CHILDREN,
    "log.level": Touch.PARENT | CHILDREN,
    "log.format": Touch.PARENT | CHILDREN,
}
"""Key → whom it is for. A key inside of one (`store.columns.COLUMN.type`) is part of it."""

ANOTHER_NAME = "give it another name, which removes this source and adds one"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done to come from one configuration to the other.

    Attributes:
        changes: what differs, as users write it.
        collectors: sources whose collector is replaced.
        redialled: those of them whose connection ends first: their server is another one now.
        listeners: sources that listen otherwise.
        added, removed: sources.
        resized: whether another number of subscribers is wanted.
        relogged: whether the log goes elsewhere, or looks otherwise.
    """

    changes: tuple[str, ...]
    collectors: frozenset[str] = frozenset()
    redialled: frozenset[str] = frozenset()
    listeners: frozenset[str] = frozenset()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    subscribers: bool = False
    recovery: bool = False
    resized: bool = False
    relogged: bool = False
    asks_queue: bool = False
    asks_store: bool = False


def plan(old: Config, new: Config, secrets: Collection[str], unheld: Collection[str]) -> Plan:
    """How to come from the old configuration to the new one.

    Args:
        secrets: keys of secrets whose text is another one now, under the same reference.
        unheld: sources of which nobody can go on with what is in hand.

    Raises:
        ConfigError: it takes a restart; names all that does.
    """
    keys = _changed(old, new)
    secrets = {*secrets} - keys
    keys |= secrets
    added = tuple(name for name in new.sources if name not in old.sources)
    removed = tuple(name for name in old.sources if name not in new.sources)
    both = [name for name in old.sources if name in new.sources]
    collectors = frozenset(n for n in both if Touch.COLLECTOR in _touched(keys, n))
    listeners = frozenset(n for n in both if Touch.LISTENERS in _touched(keys, n))
    _refuse(old, new, keys, collectors & {*unheld}, {*added, *removed})
    moved = bool(added or removed)
    touched = _touched(keys, None)
    store_keys = any(key.startswith("store.") for key in keys)
    return Plan(
        changes=_words(keys, added, removed, secrets),
        collectors=collectors,
        redialled=frozenset(n for n in collectors if f"source.{n}.connect" in keys),
        listeners=listeners,
        added=added,
        removed=removed,
        subscribers=moved or Touch.SUBSCRIBERS in touched,
        recovery=moved or Touch.RECOVERY in touched,
        resized="subscribers" in keys,
        relogged=any(key.startswith("log.") for key in keys),
        asks_queue="queue.password" in keys,
        asks_store=store_keys or _longest(old) != _longest(new),
    )


def key_of(dotted: str) -> str:
    """The row of KEYS that a key belongs to, with SOURCE for a source's name."""
    parts = dotted.split(".")
    if parts[0] == "source":
        parts[1] = "SOURCE"
    while parts:
        if (key := ".".join(parts)) in KEYS:
            return key
        parts.pop()
    raise KeyError(dotted)


# ── what differs ────────────────────────────────────────────────────────────────────────


def _changed(old: Config, new: Config) -> set[str]:
    """Keys whose values differ; of sources those that both have."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for name in old.sources:
        if name in new.sources:
            before |= _of_source(name, old.sources[name])
            after |= _of_source(name, new.sources[name])
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def _flat(shape: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in msgspec.structs.fields(shape):
        value = getattr(shape, field.name)
        if field.encode_name == "source":
            continue
        if prefix + field.encode_name not in KEYS and isinstance(value, msgspec.Struct):
            yield from _flat(value, f"{prefix}{field.encode_name}.")
        elif field.encode_name == "columns":
            yield prefix + field.encode_name, tuple(value.items())  # their order counts, too
        else:
            yield prefix + field.encode_name, value


def _of_source(name: str, source: AnySource) -> dict[str, Any]:
    prefix = f"source.{name}."
    return {f"{prefix}type": type(source), **dict(_flat(source, prefix))}


def _touched(keys: Collection[str], source: str | None) -> Touch:
    """Whom these keys are for: those of all, and of one source or (None) of any."""
    touched = NOTHING
    for key in keys:
        section, _, rest = key.partition(".")
        if section != "source" or source in (None, rest.partition(".")[0]):
            touched |= KEYS[key_of(key)]
    return touched


def _longest(config: Config) -> int:
    return max(source.record_bytes_max for source in config.sources.values())


def _words(
    keys: Collection[str],
    added: Collection[str],
    removed: Collection[str],
    secrets: Collection[str],
) -> tuple[str, ...]:
    said = [f"{key} (the secret itself)" if key in secrets else key for key in sorted(keys)]
    said += [f"source.{name} is new" for name in added]
    return (*said, *(f"source.{name} is gone" for name in removed))


# ── what takes a restart ────────────────────────────────────────────────────────────────


def _refuse(
    old: Config,
    new: Config,
    keys: Collection[str],
    stuck: Collection[str],
    moved: Collection[str],
) -> None:
    plain = sorted(key for key in keys if Touch.RESTART in KEYS[key_of(key)])
    told = [key for key in plain if not key.startswith("source.")]
    reasons = [*told, *_reasons(old, new, keys), *_unheld(old, new, keys, stuck, moved)]
    if reasons:
        raise ConfigError(
            f"only a restart can change this: {'; '.join(reasons)}",
            "take it back and reload, or stop and start the instance",
        )


def _reasons(old: Config, new: Config, keys: Collection[str]) -> Iterator[str]:
    if "queue.bytes_max" in keys and new.queue.url == "embedded":
        yield "queue.bytes_max (the embedded server is started with its limit)"
    if "store.url" in keys and _database(old.store.url) != _database(new.store.url):
        yield (
            "store.url (another database: frames that are queued belong to the old one;"
            " stop, drain with the old file, then start with the new one)"
        )
    for name, source in old.sources.items():
        other = new.sources.get(name)
        if other is None or other == source:
            continue
        if type(other) is not type(source):
            yield f"source.{name}.type ({ANOTHER_NAME})"
        elif _listens(other) is not _listens(source):
            yield f"source.{name}: from listen to connect, or back ({ANOTHER_NAME})"


def _listens(source: AnySource) -> bool:
    return isinstance(source, SocketSource) and source.listen is not None


def _unheld(
    old: Config,
    new: Config,
    keys: Collection[str],
    stuck: Collection[str],
    moved: Collection[str],
) -> Iterator[str]:
    """What a successor can't go on with: standard input, and where the kernel doesn't tell."""
    inputs = {
        name
        for sources in (old.sources, new.sources)
        for name, source in sources.items()
        if isinstance(source, StdinSource)
    }
    for name in sorted(inputs & {*moved}):
        yield f"source.{name} (standard input is taken up at the start only)"
    for name in sorted({*stuck}):
        if name in new.sources and type(new.sources[name]) is type(old.sources[name]):
            own = [key for key in sorted(keys) if Touch.COLLECTOR in _touched([key], name)]
            yield (
                f"{', '.join(own)} (no successor of source {name}'s collector could tell"
                " what was read)"
            )


def _database(url: str) -> tuple[object, ...]:
    """What tells one database from another: not the user, nor how it is reached safely."""
    if not url.startswith("mysql:"):
        return (url,)
    parts = urlsplit(url)
    socket = dict(parse_qsl(parts.query)).get("unix_socket")
    place = socket or (parts.hostname, parts.port or 3306)
    return (place, parts.path)
