"""Who else is connected as this source's collector: read from CLIENT LIST, decided here.

Two collectors of one source on one Redis mix two runs in one queue, and a source with a cursor
would be read twice. So a collector's connection bears the instance's id in its name,

    NAME-collector-SOURCE-INSTANCE-TOKEN

and before its first push it looks who else bears such a name:

    the same instance     a predecessor that Redis hasn't noticed to be gone: it is ended
    another instance      on another host, or in another state directory: one has to go

Of two instances the one that connected later goes, by the numbers that Redis gives its clients.
The earlier one waits a moment for that, and goes itself when the other one stays: it may have
looked before we had a name. Nobody goes on while another one is listed, so that of two that
start at once never both run, and one does.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"^id=(\d+) addr=(\S*) .*? name=(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Rival:
    """A connection under the same role: Redis's number for it, its address, its instance."""

    number: int
    address: str
    instance: str


def role_of_instance(role: str, instance: str) -> str:
    """The role in the name of a connection that has to be the only one of its role."""
    assert re.fullmatch("[0-9a-f]+", instance), "an id of hex digits"
    return f"{role}-{instance}"


def rivals(listing: str, prefix: str, ours: str) -> tuple[int, list[Rival]]:
    """Our own number in a CLIENT LIST, and the others whose names begin with NAME-ROLE-.

    `ours` is the name of our own connection.
    """
    pattern = re.compile(rf"{re.escape(prefix)}([0-9a-f]+)-[^-]+")
    number, found = 0, []
    for line in _LINE.finditer(listing):
        if line[3] == ours:
            number = int(line[1])
        elif match := pattern.fullmatch(line[3]):
            found.append(Rival(int(line[1]), line[2], match[1]))
    return number, sorted(found, key=lambda rival: rival.number)
