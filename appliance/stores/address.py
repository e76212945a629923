"""Where a MySQL or MariaDB is: its URL taken apart, and how much TLS the way to it has.

    mysql://user@host[:port]/database    names may be %-encoded; the password is never in it
    ?unix_socket=/path                   a socket of this machine, always without TLS
    ?tls=off                             never TLS
    ?tls=prefer                          TLS if the server offers it, whoever the server is
    ?tls=require                         TLS or nothing, whoever the server is
    ?tls=require&ca=/path                TLS, with a server whose certificate one of these
                                         authorities has signed for the host of the URL

Without `tls`, `ca` means require; else it is prefer, as MySQL's own clients do, but off where the
server is on this machine (localhost, 127.0.0.1, ::1): there is nobody to listen in on the way,
and encryption costs throughput. `ca` is read at each connection, so a renewed one is taken up.

What stands in the way of TLS is loud: waiting alone won't mend a certificate.
"""

import ipaddress
import ssl
from dataclasses import dataclass
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from appliance.addresses import check_store_url
from appliance.errors import Unavailable

PORT = 3306
# OpenSSL's X509_V_ERR_…: HOSTNAME_MISMATCH and IP_ADDRESS_MISMATCH; CERT_HAS_EXPIRED
OTHER_NAME, EXPIRED = {62, 64}, 10

Tls = Literal["off", "prefer", "require"]


@dataclass(frozen=True)
class MySQLAddress:
    """Where a server is, what to open there and how; the password is never part of it."""

    host: str
    port: int
    user: str
    database: str
    unix_socket: str | None = None
    tls: Tls = "prefer"
    ca: str | None = None

    def __str__(self) -> str:
        place = self.unix_socket or f"{self.host}:{self.port}"
        return f"{self.user}@{place}/{self.database}"

    @property
    def is_here(self) -> bool:
        """Whether the server is on this machine, as far as its address tells."""
        return self.unix_socket is not None or _is_here(self.host)

    def tls_options(self) -> dict[str, Any]:
        """What PyMySQL is told about TLS.

        Raises:
            Unavailable: the file of authorities can't be used.
        """
        if self.tls == "off":
            return {"ssl_disabled": True}
        if self.tls == "prefer":
            return {}  # PyMySQL's own way
        return {"ssl": self._context()}

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if self.ca is None:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        try:
            context.load_verify_locations(self.ca)
        except OSError as error:
            said = "holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise Unavailable(
                f"the authorities in {self.ca} can't be used: {said}",
                "ca= in store.url names a file of certificates in PEM, readable for the user"
                " that runs stream-daemon",
                loud=True,
            ) from error
        return context

    def tls_failure(self, cause: object) -> Unavailable | None:
        """What it means that a connection wasn't made because of `cause`; None: not about TLS."""
        if isinstance(cause, ssl.SSLCertVerificationError):
            return self._untrusted(cause)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
            return Unavailable(
                f"database {self}: no TLS with this server: {cause.reason}",
                "compare the TLS versions of both sides, and see the server's log",
                loud=True,
            )
        return None

    def _untrusted(self, error: ssl.SSLCertVerificationError) -> Unavailable:
        hint = f"ca= must hold the authority that has signed it; {self.ca} doesn't"
        if error.verify_code in OTHER_NAME:
            hint = (
                "name the host in store.url as its certificate does, or have one issued for it;"
                " tls=require without ca= asks for no name"
            )
        elif error.verify_code == EXPIRED:
            hint = "renew it (and the authority's, if that is the old one)"
        return Unavailable(
            f"database {self}: the server's certificate is not accepted: {error.verify_message}",
            hint,
            loud=True,
        )


def parse_url(url: str) -> MySQLAddress:
    """Read a URL as it stands in the configuration.

    Raises:
        ConfigError: not such a URL, or a password stands in it.
    """
    check_store_url(url)
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = unquote(parts.hostname or "localhost")
    return MySQLAddress(
        host=host,
        port=parts.port or PORT,
        user=unquote(parts.username or ""),
        database=unquote(parts.path.removeprefix("/")),
        unix_socket=options.get("unix_socket"),
        tls=_tls(host, options),
        ca=options.get("ca"),
    )


def _tls(host: str, options: dict[str, str]) -> Tls:
    if "unix_socket" in options:
        return "off"
    if "tls" in options:
        return cast(Tls, options["tls"])
    if "ca" in options:
        return "require"
    return "off" if _is_here(host) else "prefer"


def _is_here(host: str) -> bool:
    """Whether a host is this machine, as far as its name tells."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
