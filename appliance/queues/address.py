"""Where a Redis is: its URL taken apart, and a connection to it that is made once.

    redis://[user@]host:port/db                       plain TCP
    rediss://[user@]host:port/db[?ca=&cert=&key=]     TLS, the server's certificate verified
    unix:///path[?db=N]                               a Unix socket

`ca` is a file of certificate authorities that are trusted beside those of the system; `cert`
and `key` are our own certificate, for a server that asks for one. The files are read at each
connection, so renewed ones are taken up by themselves.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from appliance.addresses import SOCKET_PATH_BYTES_MAX, check_queue_url
from appliance.errors import ConfigError

PORT = 6379


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a Redis is: host and port, or the path of a Unix socket; `ca`, `cert`, `key`: files."""

    host: str = ""
    port: int = PORT
    path: str = ""
    db: int = 0
    user: str | None = None
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, url: str) -> "RedisAddress":
        """Read a URL as it stands in the configuration.

        Raises:
            ConfigError: not such a URL, or a password stands in it.
        """
        check_queue_url(url)
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query))
        user = unquote(parts.username) if parts.username else None
        if parts.scheme == "unix":
            path = _fitting(unquote(parts.path))
            return cls(path=path, db=int(options.get("db", 0)), user=user)
        return cls(
            host=parts.hostname or "",
            port=parts.port or PORT,
            db=int(parts.path.strip("/") or 0),
            user=user,
            tls=parts.scheme == "rediss",
            ca=options.get("ca"),
            cert=options.get("cert"),
            key=options.get("key"),
        )

    def __str__(self) -> str:
        if self.path:
            return f"unix://{self.path}" + (f"?db={self.db}" if self.db else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"

    @property
    def client(self) -> str:
        """How to reach it by hand (the password is asked for in $REDISCLI_AUTH)."""
        where = f"-s {self.path}" if self.path else f"-h {self.host} -p {self.port}"
        user = f" --user {self.user}" if self.user else ""
        tls = " --tls" + (f" --cacert {self.ca}" if self.ca else "") if self.tls else ""
        return f"redis-cli {where}{user}{tls}" + (f" -n {self.db}" if self.db else "")

    def connection(self, password: str | None, client_name: str, timeout_s: float) -> Any:
        """A redis-py connection that connects when told to, and once."""
        kind, where = self._transport()
        return kind(
            **where,
            db=self.db,
            username=self.user,
            password=password,
            client_name=client_name,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            retry_on_timeout=False,
            health_check_interval=0,
            protocol=2,  # in RESP3 a server may push what nobody asked for
            driver_info=None,  # no CLIENT SETINFO
            maint_notifications_config=None,
        )

    def _transport(self) -> tuple[type[Any], dict[str, Any]]:
        """The kind of connection, and what only this kind is told."""
        if self.path:
            return UnixDomainSocketConnection, {"path": self.path}
        where: dict[str, Any] = {"host": self.host, "port": self.port}
        if not self.tls:
            return Connection, where
        return SSLConnection, where | {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_ca_certs": self.ca,
            "ssl_certfile": self.cert,
            "ssl_keyfile": self.key,
        }

    def check_files(self) -> None:
        """See that the files named in the URL can be used now.

        Raises:
            ConfigError: one of them can't.
        """
        context = ssl.create_default_context()
        if self.ca:
            ca = self.ca
            _try_file("ca", ca, lambda: context.load_verify_locations(ca))
        if self.cert:
            cert = self.cert
            _try_file("cert", cert, lambda: context.load_cert_chain(cert, self.key, _no_password))


def _no_password() -> str:
    """Instead of a question at the terminal."""
    raise ValueError("it is encrypted, and nobody is there to type its password")


def _try_file(option: str, path: str, load: Callable[[], None]) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise ConfigError(
            f"queue.url: the file in ?{option}= can't be used: {path}: {reason}",
            "name a PEM file that the user who runs this can read"
            + (", and in ?key= the key that belongs to it" if option == "cert" else ""),
        ) from error


def _fitting(path: str) -> str:
    if len(path.encode()) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"a Unix socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes",
            "move the socket to a shorter path",
        )
    return path
