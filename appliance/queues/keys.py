"""The names of everything that an instance keeps in Redis, all made here.

Every key begins with the instance's name in braces, which are part of it: `{nfl}:working`.
They are Redis Cluster's hash tag, so that all keys of an instance live in one slot and one
script may touch several.

    {nfl}:working          list    frames that wait, oldest left
    {nfl}:incoming         list    `working`, inside the transaction of a push: nobody ever sees it
    {nfl}:busy:OWNER       list    frames in the hands of one connection of one subscriber
    {nfl}:bad              list    items that could not be read as frames
    {nfl}:bad_bytes        number  bytes in that list
    {nfl}:store            text    the id of the store that the frames go into
    {nfl}:bytes            number  bytes in working and busy lists together
    {nfl}:attempts         hash    RUN:NUMBER of a frame: what those died of who had it in hand
    {nfl}:source:SOURCE    hash    run, number, cursor, records, bytes of the last frame
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one instance."""

    name: str

    @property
    def working(self) -> str:
        """Frames that wait, oldest left."""
        return f"{{{self.name}}}:working"

    @property
    def incoming(self) -> str:
        """The same list inside the transaction of a push, where it takes the frame."""
        return f"{{{self.name}}}:incoming"

    @property
    def bad(self) -> str:
        """Items that could not be read as frames."""
        return f"{{{self.name}}}:bad"

    @property
    def bad_bytes(self) -> str:
        """Bytes in the list of bad items."""
        return f"{{{self.name}}}:bad_bytes"

    @property
    def store(self) -> str:
        """The id of the store that the frames go into."""
        return f"{{{self.name}}}:store"

    @property
    def bytes(self) -> str:
        """Bytes in working and busy lists together."""
        return f"{{{self.name}}}:bytes"

    @property
    def attempts(self) -> str:
        """By the name of a frame that is queued: what those died of who had it in hand."""
        return f"{{{self.name}}}:attempts"

    @property
    def every(self) -> str:
        """The pattern (of SCAN) that finds all keys of the instance."""
        return f"{{{self.name}}}:*"

    @property
    def every_busy(self) -> str:
        """The pattern (of SCAN) that finds all busy lists; no character of a name is special."""
        return self.busy("*")

    def busy(self, owner: str) -> str:
        """Frames in the hands of one owner."""
        return f"{{{self.name}}}:busy:{owner}"

    def owner(self, busy: str) -> str:
        """Whose busy list this is."""
        return busy.removeprefix(self.busy(""))

    @property
    def every_source(self) -> str:
        """The pattern (of SCAN) that finds all sources."""
        return self.source("*")

    def name_of(self, source: str) -> str:
        """Whose key this is."""
        return source.removeprefix(self.source(""))

    def source(self, source: str) -> str:
        """What was last pushed for a source."""
        return f"{{{self.name}}}:source:{source}"
