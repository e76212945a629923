"""Addresses in the configuration: where a source listens or connects, which Redis and database.

Pure checks of their form: nothing is resolved, nothing is opened. A ConfigError raised here
doesn't know its file and key yet, config.py adds them. No message repeats a URL, because a
URL is where people put passwords.
"""

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from appliance.errors import ConfigError

EMBEDDED = "embedded"
TLS_FILES = {"ca", "cert", "key"}  # options of rediss://
SOCKET_PATH_BYTES_MAX = 107  # unix(7): 108 with the zero behind it

_LABEL = r"[A-Za-z0-9_-]{1,63}"
_HOST = re.compile(rf"(?!-){_LABEL}(\.{_LABEL})*\.?")
_PORT = re.compile(r"[0-9]{1,5}")
_DATABASE = re.compile(r"[0-9]{0,5}")
_PASSWORD = re.compile(r"://[^/?#@]*:.*@|[?&](password|passwd|auth)=", re.DOTALL)
_LISTEN_HINT = 'write listen = "127.0.0.1:5170", "[::1]:5170", or ":5170" for all interfaces'
_CONNECT_HINT = 'write connect = "stream.example.net:5170" or "[2001:db8::1]:5170"'
_SOCKET_HINT = 'write a short path such as "/run/stream-daemon/lines.sock"'
_REDIS_HINT = 'write url = "embedded", "redis://host:6379/0", "rediss://…" or "unix:///path"'
_TLS_HINT = 'write url = "rediss://host:6379/0?ca=/path/to/ca.pem&cert=/path&key=/path"'
_NOT_ABSOLUTE = ("the file behind ?ca=, ?cert= or ?key= is an absolute path", _TLS_HINT)
_DATABASE_HINT = (
    'write url = "embedded", "sqlite:///path/to/file.db" or "mysql://user@host:3306/database"'
)
TLS = ("off", "prefer", "require")
_TLS_MODE_HINT = f"write one of ?tls={', ?tls='.join(TLS)}"
_PASSWORD_HINT = (
    'take it out of the URL and write password = { file = "/path/to/it" }, '
    '{ env = "NAME" } or { cred = "systemd credential" } beside it'
)


def host_and_port(listen: str, hint: str = _LISTEN_HINT) -> tuple[str, int]:
    """Take "host:port" apart; the host is "" for all interfaces, an IPv6 one without brackets.

    Raises:
        ConfigError: not of this form.
    """
    host, colon, port = listen.rpartition(":")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigError("needs a host and a port from 0 to 65535", hint)
    if host.startswith("[") and host.endswith("]"):
        return _ipv6(host[1:-1], hint), int(port)
    if ":" in host:
        raise ConfigError("an IPv6 address stands in brackets", hint)
    if host and not _HOST.fullmatch(host):
        raise ConfigError("its host is neither a name nor an address", hint)
    return host, int(port)


def _ipv6(host: str, hint: str) -> str:
    try:
        return str(ipaddress.IPv6Address(host))
    except ValueError:
        raise ConfigError("what stands in brackets is no IPv6 address", hint) from None


def check_connect(address: str) -> None:
    """See that `address` names one server: a host and a port that can be dialled.

    Raises:
        ConfigError: it doesn't.
    """
    host, port = host_and_port(address, _CONNECT_HINT)
    _need(host != "" and port != 0, "needs a host and a port from 1 to 65535", _CONNECT_HINT)


def check_socket_path(path: str) -> None:
    """See that a Unix socket can be at `path`, wherever the program is started.

    Raises:
        ConfigError: it can't.
    """
    _need(path.startswith("/"), "needs an absolute path", _SOCKET_HINT)
    length = len(path.encode(errors="surrogateescape"))
    _need(
        length <= SOCKET_PATH_BYTES_MAX,
        f"has {length} bytes, and the path of a Unix socket at most {SOCKET_PATH_BYTES_MAX}",
        _SOCKET_HINT,
    )


def check_queue_url(url: str) -> None:
    """See that `url` names a Redis (or "embedded") and holds no password.

    Raises:
        ConfigError: it doesn't, or it does.
    """
    if url == EMBEDDED:
        return
    parts = _split(url, _REDIS_HINT)
    if parts.scheme == "unix":
        _need(parts.path.strip("/") != "" and not parts.hostname, "needs a path", _REDIS_HINT)
        _check_options(parts, known={"db"})
        _need(_is_database(_options(parts).get("db", "")), "db is a number", _REDIS_HINT)
        return
    _need(parts.scheme in ("redis", "rediss"), "this kind of queue is unknown", _REDIS_HINT)
    _need(bool(parts.hostname), "needs a host", _REDIS_HINT)
    _need(_is_database(parts.path.strip("/")), "the database is a number", _REDIS_HINT)
    options = _options(parts)
    _check_options(parts, known=TLS_FILES if parts.scheme == "rediss" else set())
    _need(all(path.startswith("/") for path in options.values()), *_NOT_ABSOLUTE)
    _need(("cert" in options) == ("key" in options), "?cert= and ?key= need each other", _TLS_HINT)


def check_store_url(url: str) -> None:
    """See that `url` names a database (or "embedded") and holds no password.

    Raises:
        ConfigError: it doesn't, or it does.
    """
    if url == EMBEDDED:
        return
    parts = _split(url, _DATABASE_HINT)
    if parts.scheme == "sqlite":
        named = parts.path.strip("/") != "" and not parts.netloc
        _need(named, "needs three slashes and the path of a file", _DATABASE_HINT)
        _check_options(parts, known=set())
        return
    _need(parts.scheme == "mysql", "this kind of database is unknown", _DATABASE_HINT)
    _check_options(parts, known={"unix_socket", "tls", "ca"})
    _check_tls(_options(parts))
    _need(bool(parts.username), "needs a user", _DATABASE_HINT)
    _need(
        bool(parts.hostname or _options(parts).get("unix_socket")),
        "needs a host, or ?unix_socket=/path",
        _DATABASE_HINT,
    )
    database = parts.path.removeprefix("/")
    _need(database != "" and "/" not in database, "needs the name of a database", _DATABASE_HINT)


def _check_tls(options: Mapping[str, str]) -> None:
    tls, ca = options.get("tls", ""), options.get("ca")
    _need(options.get("tls", "off") in TLS, "has an unknown tls", _TLS_MODE_HINT)
    if ca is not None:
        hint = "write tls=require, which goes on with that server only, or take ca= out"
        _need(tls in ("", "require"), f"has ca=, which tls={tls} doesn't look at", hint)
        _need(ca.startswith("/"), "has ca=, which isn't an absolute path", "write ?ca=/path/to/it")
    if "unix_socket" in options:
        _need(
            tls != "require" and ca is None,
            "asks for TLS on a Unix socket, where there is none",
            "take tls= and ca= out, or name a host instead of the socket",
        )


def _split(url: str, hint: str) -> SplitResult:
    """The parts of a URL that can be one and has no password in it."""
    if _PASSWORD.search(url):
        raise ConfigError("a password stands in the URL", _PASSWORD_HINT)
    try:
        parts = urlsplit(url)
        _ = parts.port  # is only looked at, and refused, when it is asked for
    except ValueError:
        raise ConfigError("is not a URL", hint) from None
    _need("://" in url and " " not in url and unquote(url).isprintable(), "is not a URL", hint)
    _need(not parts.fragment, "has a part behind # that means nothing", hint)
    return parts


def _is_database(text: str) -> bool:
    return _DATABASE.fullmatch(text) is not None


def _options(parts: SplitResult) -> dict[str, str]:
    return dict(parse_qsl(parts.query, keep_blank_values=True))


def _check_options(parts: SplitResult, known: set[str]) -> None:
    for option in _options(parts):
        if option not in known:
            allowed = ", ".join(f"?{name}=" for name in sorted(known)) or "none"
            raise ConfigError("has an unknown option", f"options that mean something: {allowed}")


def _need(condition: bool, message: str, hint: str) -> None:
    if not condition:
        raise ConfigError(message, hint)
