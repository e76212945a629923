"""The configuration: TOML text in, one whole and valid `Config` out, or a ConfigError.

Shapes and defaults are the structs of settings.py. What is written is read section by section
(toml_tables.py), so that every error names file, line and full key, what is wrong, and what
to write instead:

    a key of LATER_KEYS, a value of LATER_VALUES   "not in this version", never ignored
    a key of no struct                             unknown, with the nearest one
    a value that its type doesn't take             what was expected and what was found
    a rule across keys (below, addresses.py)       what the rule is for

Pure: nothing is opened, resolved or read from the environment here. Secrets stay
references (`SecretRef`) that credentials.py resolves later. No message repeats a URL, or what
was written in a secret's place.
"""

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from appliance.addresses import (
    check_connect,
    check_queue_url,
    check_socket_path,
    check_store_url,
    host_and_port,
)
from appliance.errors import ConfigError
from appliance.filters import RegexError, check_regex
from appliance.settings import (
    DEFAULT_COLUMNS,
    DEFAULT_NAME,
    GIB,
    KIB,
    LATER_KEYS,
    LATER_VALUES,
    LOG_TO_STDERR,
    MIB,
    SOURCE_TYPES,
    SOURCES_LIMIT,
    AnySource,
    Column,
    Config,
    FileSource,
    Filter,
    LogConfig,
    OnDuplicate,
    QueueConfig,
    Scalar,
    SecretRef,
    SocketSource,
    SourceConfig,
    SpoolConfig,
    StdinSource,
    StoreConfig,
    TcpSource,
    UnixSource,
)
from appliance.toml_lines import Key, Place
from appliance.toml_tables import Grammar, alternatives, as_table, found, kind, size_text, toml

__all__ = [
    "GIB",
    "KIB",
    "MIB",
    "AnySource",
    "Column",
    "Config",
    "FileSource",
    "Filter",
    "LogConfig",
    "OnDuplicate",
    "QueueConfig",
    "SecretRef",
    "SourceConfig",
    "SpoolConfig",
    "StdinSource",
    "StoreConfig",
    "TcpSource",
    "UnixSource",
    "host_and_port",
    "name_and_state_dir",
    "no_source",
    "parse",
    "search_paths",
]

COLUMN_TYPE_CHARS_MAX = 1024

# ── the whole ───────────────────────────────────────────────────────────────────────────


def parse(text: str, file: str) -> Config:
    """Read a configuration.

    Raises:
        ConfigError: names `file`, the key and its line, and what to write instead.
    """
    top = Place(file, text)
    table = {"source": {}} | _loaded(top)
    config = _GRAMMAR.read(Config, table, top)
    _check_name(config.name, top / "name")
    if not config.sources:
        raise no_source(file)
    if len(config.sources) > SOURCES_LIMIT:
        text = f"{len(config.sources)} sources are too many for one instance ({SOURCES_LIMIT})"
        raise (top / "source").error(text, "make several instances, each with a name of its own")
    _check_table(config, top / "store" / "table")
    _check_formats(config, top / "source")
    _check_origins(config.sources, top / "source")
    if not config.store.columns:
        store = msgspec.structs.replace(config.store, columns=DEFAULT_COLUMNS)
        return msgspec.structs.replace(config, store=store)
    return config


def no_source(searched: str) -> ConfigError:
    """The error for a configuration without a source; `searched` says where one was sought."""
    return ConfigError(
        f"{searched}: no source is configured",
        "write a [source.NAME] section; `stream-daemon init` prints an example, "
        "`stream-daemon demo` needs none",
    )


def search_paths(environ: Mapping[str, str]) -> list[str]:
    """Where a configuration is looked for, in this order; nothing is opened here."""
    home = environ.get("HOME")
    config_home = environ.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else None)
    paths = (
        environ.get("STREAM_DAEMON_CONFIG"),
        "./stream-daemon.toml",
        f"{config_home}/stream-daemon/stream-daemon.toml" if config_home else None,
        "/etc/stream-daemon/stream-daemon.toml",
    )
    return [path for path in paths if path]


def name_and_state_dir(text: str, file: str = "configuration") -> tuple[str, str | None]:
    """The two keys that find a running instance, also in a text that doesn't parse.

    A broken edit must not make an instance unstoppable, nor let another one be stopped in its
    place: what is written but can't be read is an error, never the default.

    Raises:
        ConfigError: one of the two is written, but isn't a name or a path.
    """
    top = Place(file, text)
    try:
        table = _loaded(top)
    except ConfigError:
        table = _top_level_by_line(text)
    name, state_dir = table.get("name", DEFAULT_NAME), table.get("state_dir")
    _check_name(name, top / "name")
    if state_dir is not None and (not isinstance(state_dir, str) or state_dir == ""):
        raise (top / "state_dir").error("can't be read", 'write state_dir = "/a/directory"')
    return str(name), state_dir


def _loaded(top: Place) -> dict[str, Any]:
    hint = 'a text stands in quotes (key = "value"), a section in brackets ([queue])'
    try:
        return tomllib.loads(top.text)
    except RecursionError:
        raise ConfigError(f"{top.file}: nested too deeply", hint) from None
    except ValueError as error:
        said, _, line = str(error).partition(" (at line ")
        number = line.partition(",")[0]
        where = f"{top.file}:{number}" if number else top.file
        raise ConfigError(f"{where}: this is not TOML: {said}", hint) from None


_TOP_LEVEL = re.compile(r"""[ \t]*(name|state_dir)[ \t]*=[ \t]*(?:"([^"]*)|'([^']*)|([^\s#"']*))""")


def _top_level_by_line(text: str) -> dict[str, Any]:
    """`name` and `state_dir` from the lines above the first section, as far as they show."""
    seen: dict[str, Any] = {}
    for line in text.split("\n"):
        if line.lstrip().startswith("["):
            break
        if match := _TOP_LEVEL.match(line):
            try:
                seen |= tomllib.loads(line)
            except (ValueError, RecursionError):
                seen[match[1]] = (match[2] or match[3] or match[4] or "").strip()
    return seen


# ── sections ────────────────────────────────────────────────────────────────────────────


def _sources(value: object, at: Place) -> dict[str, AnySource]:
    return {name: _source(name, table, at / name) for name, table in as_table(value, at).items()}


def _source(name: str, table: object, at: Place) -> AnySource:
    if not isinstance(table, dict):
        raise at.error(
            f"expected a section, found {kind(table)}",
            "give the source a name: write [source.tweets] and its keys below it",
        )
    _check_name(name, at)
    source = _GRAMMAR.read(
        _shape(table, at), {key: table[key] for key in table if key != "type"}, at
    )
    if isinstance(source, TcpSource):
        _check_ways(source, table, at, host_and_port, check_connect)
    if isinstance(source, UnixSource):
        _check_ways(source, table, at, check_socket_path, check_socket_path)
    return _with_room(source, "frame_bytes_max" in table, at / "frame_bytes_max")


def _check_ways(
    source: SocketSource,
    table: dict[str, Any],
    at: Place,
    check_listen: Callable[[str], object],
    check_connect: Callable[[str], object],
) -> None:
    """Senders connect to us, or we connect to a server: exactly one of the two."""
    if source.listen is not None and source.connect is not None:
        raise (at / "connect").error(
            "a source listens or connects, not both", "take one out, or make two sources of it"
        )
    if source.listen is not None:
        _placed(check_listen, source.listen, at / "listen")
    elif source.connect is not None:
        _placed(check_connect, source.connect, at / "connect")
        _check_only_to_listen(table, at)
    else:
        listen, connect = WAYS[type(source)]
        raise at.error(
            "listen or connect is missing",
            f'write listen = "{listen}" where senders come to us, or '
            f'connect = "{connect}" where we go to a server',
        )


WAYS: Mapping[type[AnySource], tuple[str, str]] = {
    TcpSource: ("127.0.0.1:5170", "stream.example.net:5170"),
    UnixSource: ("/run/stream-daemon/lines.sock", "/run/feed.sock"),
}
"""Examples of listen and connect."""


def _check_only_to_listen(table: dict[str, Any], at: Place) -> None:
    """A source that connects has one connection, and makes no file."""
    for key in ("connections_max", "mode", "owner"):
        if key in table:
            hint = "take it out; it is for sources that listen"
            raise (at / key).error("a source that connects has one connection, its server's", hint)


def _shape(table: dict[str, Any], at: Place) -> type[AnySource]:
    """The struct of a source's type."""
    hint = f"write type = {alternatives(SOURCE_TYPES)}"
    if "type" not in table:
        raise at.error("type is missing", hint)
    tag, at = table["type"], at / "type"
    _GRAMMAR.check_later(tag, at, hint)
    if not isinstance(tag, str) or tag not in SOURCE_TYPES:
        raise at.error(f"expected {alternatives(SOURCE_TYPES)}, found {found(tag)}", hint)
    return SOURCE_TYPES[tag]


def _with_room(source: AnySource, is_written: bool, at: Place) -> AnySource:
    """The source with frames that hold its largest record."""
    if source.frame_bytes_max >= source.record_bytes_max:
        return source
    if is_written:
        raise at.error(
            "a frame must hold the largest record, and record_bytes_max is larger",
            f"write frame_bytes_max = {toml(size_text(source.record_bytes_max))} or more",
        )
    return msgspec.structs.replace(source, frame_bytes_max=source.record_bytes_max)


def _filters(value: object, at: Place) -> tuple[Filter, ...]:
    if isinstance(value, list):
        return tuple(_filter(table, at / f"[{index}]") for index, table in enumerate(value))
    return (_filter(value, at),)


def _filter(value: object, at: Place) -> Filter:
    name = next(part for part in reversed(at.key) if not part.startswith("["))
    hint = f'write {name} = {{ path = "text", any = ["Patriots", "Packers"] }}'
    if not isinstance(value, dict):
        raise at.error(f"expected a table, or a list of tables, found {kind(value)}", hint)
    filter = _GRAMMAR.read(Filter, value, at)
    if sum(asked is not None for asked in (filter.any, filter.equals, filter.regex)) != 1:
        raise at.error("exactly one of any, equals and regex says what is asked for", hint)
    if not filter.path and not all(isinstance(value, str) for value in filter.equals or ()):
        raise (at / "equals").error(
            'path "" is the record as it came, which equals only texts',
            "write the text in quotes, or the path of a value",
        )
    return filter


def _equals(value: object, at: Place) -> tuple[Scalar, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(map(_is_json_scalar, values)):
        raise at.error(
            "expected a text, a number of at most 64 bit, true or false, or a list of one or more "
            f"of them, found {found(value)}",
            'write equals = "en", or a list such as equals = ["en", "de"]',
        )
    return tuple(values)


def _is_json_scalar(value: object) -> bool:
    """Whether it could be met in a record: TOML also has dates, nan, and longer numbers."""
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return isinstance(value, str | bool) or (isinstance(value, float) and math.isfinite(value))


def _regex(value: object, at: Place) -> str:
    hint = "write one such as regex = '(?i)touch ?down', in RE2's syntax and in single quotes"
    if not isinstance(value, str) or not value:
        raise at.error(f"expected a regular expression in quotes, found {found(value)}", hint)
    try:
        check_regex(value)
    except RegexError as error:
        said, _, part = str(error).partition(": ")
        said = f"{said}: {found(part)}" if part else said
        raise at.error(f"not a regular expression of RE2: {said}", hint) from None
    return value


def _queue(value: object, at: Place) -> QueueConfig:
    queue = _GRAMMAR.read(QueueConfig, value, at)
    _placed(check_queue_url, queue.url, at / "url")
    if queue.password and queue.url == "embedded":
        hint = "take it out, or name another Redis in url"
        raise (at / "password").error("the embedded server has no password", hint)
    return queue


def _store(value: object, at: Place) -> StoreConfig:
    store = _GRAMMAR.read(StoreConfig, value, at)
    _placed(check_store_url, store.url, at / "url")
    if store.password and not store.url.startswith("mysql:"):
        hint = "take it out, or name a MySQL or MariaDB in url"
        raise (at / "password").error("SQLite has no password", hint)
    _check_identifier(store.table, at / "table")
    return store


def _log(value: object, at: Place) -> LogConfig:
    log = _GRAMMAR.read(LogConfig, value, at)
    if log.to != LOG_TO_STDERR and not log.to.startswith("/"):
        raise (at / "to").error(
            f'{found(log.to)} is neither "stderr" nor the absolute path of a file',
            'write to = "stderr", or to = "/var/log/stream-daemon/stream.log"',
        )
    return log


def _columns(value: object, at: Place) -> dict[str, Column]:
    columns = {name: _column(name, spec, at / name) for name, spec in as_table(value, at).items()}
    first: dict[str, str] = {}
    for name in columns:
        other = first.setdefault(name.casefold(), name)
        if other != name:
            raise (at / name).error(
                f"databases take {toml(name)} and {toml(other)} for the same name",
                "give one of the two another name",
            )
    return columns


def _column(name: str, value: object, at: Place) -> Column:
    hint = 'write { path = "user.name", type = "VARCHAR(64)" }, or meta = "source" for the path'
    if not isinstance(value, dict):
        raise at.error(f"expected a table, found {kind(value)}", hint)
    _check_identifier(name, at)
    if name.casefold() == "seq":
        raise at.error("the table has a seq of its own, its key", "give the column another name")
    column = _GRAMMAR.read(Column, value, at)
    if (column.path is None) == (column.meta is None):
        raise at.error("exactly one of path and meta says what a column holds", hint)
    if not _is_column_type(column.type):
        raise (at / "type").error(
            f"{found(column.type)} is not plainly the type of one column",
            'write one such as "BIGINT", "VARCHAR(64)", "DECIMAL(10,2)", "ENUM(\'a\',\'b\')"',
        )
    return column


def _secret(value: object, at: Place) -> SecretRef:
    """A reference to a secret. What was written instead is never repeated: it may be one."""
    hint = 'write password = { file = "/path" }, { env = "NAME" } or { cred = "name" }'
    if not isinstance(value, dict):
        raise at.error(f"expected a table that says where it is, found {kind(value)}", hint)
    if len(value) != 1 or not value.keys() <= {"file", "env", "cred"}:
        raise at.error("expected exactly one of file, env and cred", hint)
    try:
        secret = msgspec.convert(value, SecretRef)
    except msgspec.ValidationError:
        raise at.error("expected a text in quotes behind file, env or cred", hint) from None
    if secret.env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", secret.env):
        raise at.error("what stands behind env is not the name of a variable", hint)
    if secret.cred and ("/" in secret.cred or secret.cred in (".", "..")):
        raise at.error("what stands behind cred is not the name of a credential", hint)
    return secret


def _pattern(key: Key) -> str:
    """A key with SOURCE and COLUMN for the names that users choose."""
    parts = [part for part in key if not part.startswith("[")]
    if parts[:1] == ["source"] and len(parts) > 1:
        parts[1] = "SOURCE"
    if parts[:2] == ["store", "columns"] and len(parts) > 2:
        parts[2] = "COLUMN"
    return ".".join(parts)


_GRAMMAR: Grammar = Grammar(
    readers={
        "source": _sources,
        "include": _filters,
        "exclude": _filters,
        "equals": _equals,
        "regex": _regex,
        "queue": _queue,
        "spool": lambda value, at: _GRAMMAR.read(SpoolConfig, value, at),
        "store": _store,
        "columns": _columns,
        "password": _secret,
        "log": _log,
    },
    later_keys=LATER_KEYS,
    later_values=LATER_VALUES,
    homes={
        "above the first section": Config,
        "in [queue]": QueueConfig,
        "in [spool]": SpoolConfig,
        "in [store]": StoreConfig,
        "in [log]": LogConfig,
        **{f'in a [source.NAME] of type "{tag}"': SOURCE_TYPES[tag] for tag in SOURCE_TYPES},
    },
    pattern=_pattern,
)

# ── rules ───────────────────────────────────────────────────────────────────────────────

_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_QUOTED = r"""'[\w (),."]*'|"[\w (),.']*\""""
_TYPE = re.compile(rf"[A-Za-z](?:[A-Za-z0-9_ ]|{_QUOTED}|\((?:[A-Za-z0-9_ ,]|{_QUOTED})*\))*")


def _check_name(name: object, at: Place) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise at.error(
            f"{found(name)} can't be a name",
            "write a small letter, then up to 31 small letters, digits or _",
        )


def _check_identifier(name: str, at: Place) -> None:
    if not 0 < len(name) <= 64 or "`" in name or not name.isprintable():
        raise at.error(
            f"{found(name)} can't be a name in a database",
            "write 1 to 64 characters, none of them a backtick or invisible",
        )


def _is_column_type(text: str) -> bool:
    """Whether it can stand in CREATE TABLE without becoming anything but one column's type.

    No comma outside parentheses, nothing unbalanced, no semicolon, no comment.
    """
    return len(text) <= COLUMN_TYPE_CHARS_MAX and _TYPE.fullmatch(text) is not None


def _check_table(config: Config, at: Place) -> None:
    """The data table isn't one of the ledger's."""
    ledger = {f"{config.name}_{what}" for what in ("runs", "frames", "dead", "gaps", "meta")}
    if config.store.table.casefold() in ledger:
        raise at.error(
            f"{found(config.store.table)} is a table that the program keeps for itself",
            'write another name, such as table = "records"',
        )


def _check_formats(config: Config, at: Place) -> None:
    """Who looks into records needs them to be JSON."""
    column = next((name for name, column in config.store.columns.items() if column.path), None)
    for name, source in config.sources.items():
        lists = {"include": source.include, "exclude": source.exclude}
        asker = next((key for key in lists if any(filter.path for filter in lists[key])), None)
        if source.format != "json" and (asker or column is not None):
            who = asker or f"the path of column {toml(column)}"
            raise (at / name / "format").error(
                f"{who} looks into records, so they must be JSON",
                'write format = "json"',
            )


def _check_origins(sources: Mapping[str, AnySource], at: Place) -> None:
    """Standard input is read by one source only, an address listened to by one only."""
    readers: dict[object, str] = {}
    for name, source in sources.items():
        origin, key = _origin(source)
        if origin is not None and readers.setdefault(origin, name) != name:
            raise (at / name / key).error(
                f"source {readers[origin]} reads from there already",
                "take one of the two out, or let it read from elsewhere",
            )


def _origin(source: AnySource) -> tuple[object, str]:
    """What only one source can read, None if there is no such thing, and the key naming it."""
    if isinstance(source, StdinSource):
        return "standard input", "type"
    if isinstance(source, TcpSource) and source.listen is not None:
        address = host_and_port(source.listen)
        return (address if address[1] != 0 else None), "listen"  # port 0: any free one
    if isinstance(source, UnixSource) and source.listen is not None:
        return PurePosixPath(source.listen), "listen"
    return None, "path"


def _placed(check: Callable[[str], object], value: str, at: Place) -> None:
    """Run a check that doesn't know where its value stands; its errors get the place."""
    try:
        check(value)
    except ConfigError as error:
        raise at.error(error.message, error.hint) from None
