"""What an error of Redis means, and what its operator has to do about it.

redis-py's exceptions end here: each becomes an Unavailable, which says whether somebody has to
mend something (`loud`) or waiting is enough.
"""

import re
import ssl
from collections.abc import Mapping

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from appliance.contracts import Remark
from appliance.errors import Unavailable
from appliance.queues.address import RedisAddress

REDIS_OLDEST = (7, 0)
RIGHTS = "+@read +@write +@scripting +multi +exec +@connection +client|list +client|kill +info"
"""What an ACL has to allow beside the instance's keys."""

UNVERIFIED = (
    "name the authority that signed its certificate (rediss://host:port/0?ca=/path/to/ca.pem),"
    " and the host as the certificate does"
)
NO_ANSWER = "is a Redis running there, and reachable from here?"
NO_TCP_ANSWER = f"{NO_ANSWER} (One that speaks TLS needs rediss://)"
NO_TLS_ANSWER = (
    "is a Redis running there that speaks TLS? If it asks for a certificate, add"
    " ?cert=/path&key=/path"
)

HINTS: tuple[tuple[type[Exception], str, bool], ...] = (
    (
        AuthenticationError,
        'write password = { file = "/path/to/it" } under [queue], and a user as redis://user@host',
        True,
    ),
    (NoPermissionError, f'give its user "~{{NAME}}:*" {RIGHTS} (ACL SETUSER)', True),
    (ReadOnlyError, "this is a replica: queue.url has to name the primary", True),
    (OutOfMemoryError, "lower queue.bytes_max, or raise the server's maxmemory", True),
    (BusyLoadingError, "it reads its data back from disk; this ends by itself", False),
)
"""What to do about an error, by redis-py's class, and whether an operator has to do it."""


def unavailable(error: Exception, address: RedisAddress) -> Unavailable:
    """What went wrong with Redis, in our words."""
    message = f"Redis at {address}: {_reason(error)}"
    for kind, hint, loud in HINTS:
        if isinstance(error, kind):
            return Unavailable(message, hint, loud)
    if str(error).startswith("MISCONF"):
        return Unavailable(message, "free space on the disk of the server", loud=True)
    if isinstance(error.__context__, ssl.SSLCertVerificationError):
        return Unavailable(message, UNVERIFIED, loud=True)
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        no_tcp_answer = NO_TLS_ANSWER if address.tls else NO_TCP_ANSWER
        return Unavailable(message, NO_ANSWER if address.path else no_tcp_answer)
    return Unavailable(message)


def _reason(error: Exception) -> str:
    """The kernel's own words where there are some: redis-py wraps them twice."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate can't be trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.strerror and cause.strerror in str(error):
        return cause.strerror
    return str(error)  # never repr: that of a RedisError hides its text


def check_version(info: str) -> str:
    """See in the answer to INFO that this server has what the scripts need; its name and version.

    Raises:
        Unavailable: it is older than Redis 7.0 (any Valkey will do).
    """
    facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
    if "valkey_version" in facts:
        return f"Valkey {facts['valkey_version']}"
    version = facts.get("redis_version", "0")
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers < REDIS_OLDEST:
        raise Unavailable(
            f"Redis {version} is too old", "use Redis 7.0 or later, or any Valkey", loud=True
        )
    return f"Redis {version}"


def durability(settings: Mapping[str, str]) -> list[Remark]:
    """What a server with these settings may forget of what it has acknowledged."""
    remarks = []
    if settings.get("appendonly") == "no":
        text = "the server keeps nothing on disk at once: its restart may lose what is queued"
        remarks.append(Remark(text, "set appendonly yes and appendfsync always in its file"))
    elif settings.get("appendfsync", "always") != "always":
        text = f"appendfsync is {settings['appendfsync']}: power cut, the last second may be lost"
        remarks.append(Remark(text, "set appendfsync always in the server's file"))
    if settings.get("maxmemory", "0") != "0" and settings["maxmemory-policy"] != "noeviction":
        text = f"maxmemory-policy is {settings['maxmemory-policy']}: it may evict what is queued"
        remarks.append(Remark(text, "set maxmemory-policy noeviction in the server's file"))
    return remarks
