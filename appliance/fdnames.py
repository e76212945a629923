"""Names of sockets that others hold for us: what FDNAME= of sd_notify(3) allows.

A name tells a successor what a descriptor is: `tweets.listen.0` is a listening socket of source
`tweets`, `tweets.4711` its connection with that cookie (link.py). At most 255 characters, no
control character and no colon.
"""

import re
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"(?P<source>[a-z][a-z0-9_]*)\.(?:listen\.\d+|(?P<cookie>\d+))")


def listener_name(source: str, number: int) -> str:
    """The name of a source's listening socket; it may have several (IPv4 and IPv6)."""
    return f"{source}.listen.{number}"


def connection_name(source: str, cookie: int) -> str:
    """The name of a connection."""
    return f"{source}.{cookie}"


@dataclass(slots=True)
class Inherited:
    """Sockets that somebody has held for us: taken out of here as they are put to use.

    Attributes:
        listeners: of whichever source: what tells them apart is their address.
        connections: by source, then by cookie.
        others: with names that aren't ours: listening sockets of a .socket unit.
        size: how many have come, whatever was taken out since.
    """

    listeners: list[Any] = field(default_factory=list)
    connections: dict[str, dict[int, Any]] = field(default_factory=dict)
    others: list[tuple[str, Any]] = field(default_factory=list)
    size: int = 0

    def add(self, name: str, thing: Any) -> None:
        """Sort a socket in by its name."""
        self.size += 1
        match = _NAME.fullmatch(name)
        if not match:
            self.others.append((name, thing))
        elif match["cookie"]:
            self.connections.setdefault(match["source"], {})[int(match["cookie"])] = thing
        else:
            self.listeners.append(thing)

    def close(self) -> None:
        """Close what nobody has taken out."""
        for one in self.connections.values():
            for thing in one.values():
                thing.close()
        for thing in (*self.listeners, *(thing for _name, thing in self.others)):
            thing.close()
