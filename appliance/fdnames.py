"""Names of sockets that others hold for us: what FDNAME= of sd_notify(3) allows.

A name tells a successor what a descriptor is: `tweets.listen.12` is a listening socket of source
`tweets`, `tweets.4711` its connection, each with its cookie (link.py), so that no name is ever used
for two. At most 255 characters, no control character and no colon.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_NAME = re.compile(r"(?P<source>[a-z][a-z0-9_]*)\.(?:listen\.\d+|(?P<cookie>\d+))")


def listener_name(source: str, cookie: int) -> str:
    """The name of a source's listening socket; it may have several (IPv4 and IPv6)."""
    return f"{source}.listen.{cookie}"


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
    _came: list[tuple[str, Any]] = field(default_factory=list)

    def add(self, name: str, thing: Any) -> bool:
        """Sort a socket in by its name; whether that is one of ours."""
        self.size += 1
        self._came.append((name, thing))
        match = _NAME.fullmatch(name)
        if not match:
            self.others.append((name, thing))
        elif match["cookie"]:
            self.connections.setdefault(match["source"], {})[int(match["cookie"])] = thing
        else:
            self.listeners.append(thing)
        return match is not None

    @property
    def named(self) -> list[tuple[str, str, Any]]:
        """All that have come under names of ours: name, source, socket."""
        found = [(name, _NAME.fullmatch(name), thing) for name, thing in self._came]
        return [(name, match["source"], thing) for name, match, thing in found if match]

    def drop(self, is_wanted: Callable[[str, Any], bool]) -> list[tuple[str, Any]]:
        """Take out what isn't wanted, asked by source and socket; with the names it is held by."""
        dropped = []
        for name, thing in self._came:
            match = _NAME.fullmatch(name)
            if match and not is_wanted(match["source"], thing):
                self._take_out(match, thing)
                dropped.append((name, thing))
        return dropped

    def _take_out(self, match: re.Match[str], thing: Any) -> None:
        if match["cookie"]:
            del self.connections[match["source"]][int(match["cookie"])]
        else:
            self.listeners.remove(thing)

    def close(self) -> None:
        """Close what nobody has taken out."""
        for one in self.connections.values():
            for thing in one.values():
                thing.close()
        for thing in (*self.listeners, *(thing for _name, thing in self.others)):
            thing.close()
