"""Stock: what lies in spools, for whoever only looks. Nothing here changes anything.

All of it works beside a running instance: a segment that is handed over meanwhile is gone, and
an entry that is just being written is the end of its segment.
"""

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from appliance import segments
from appliance.contracts import Remark
from appliance.errors import Corrupt
from appliance.files import Files
from appliance.frame import Header, decode_header
from appliance.segments import Entry, Name, Reader, Unfinished
from appliance.shelf import REPAIR


@dataclass(slots=True)
class Stock:
    """What a source has in its spool.

    `bytes` is what waits, `bad` the segments that were set aside, and `damaged` those that wait and
    aren't what was written, each with the reason. `records` is counted by `verify` alone.
    """

    segments: int = 0
    frames: int = 0
    records: int = 0
    bytes: int = 0
    bad: list[Name] = field(default_factory=list)
    damaged: dict[Name, str] = field(default_factory=dict)


def sources(directory: Path) -> list[str]:
    """The sources that have something in a spool under this directory, damaged or not."""
    return [path.name for path in sorted(directory.glob("*")) if _names(path, "seg", "bad")]


def waiting(directory: Path) -> list[Name]:
    """The segments that wait, oldest first."""
    return _names(directory, "seg")


def set_aside(directory: Path) -> list[Name]:
    """The segments that are damaged, oldest first."""
    return _names(directory, "bad")


def headers(directory: Path) -> Iterator[Header]:
    """The headers of the frames that wait in one source's spool, oldest first.

    Frames at the beginning may have been handed over already. Bodies aren't read, so what is
    damaged in them doesn't show; where a header is, the rest of its segment is left out.
    """
    for name in waiting(directory):
        try:
            with closing(Reader(Files(), directory / str(name))) as reader:
                for at, head in reader.heads(reader.size):
                    yield decode_header(reader.line(at, head))
        except (Corrupt, OSError):
            continue


def entries(directory: Path, name: Name) -> Iterator[Entry]:
    """The whole entries of a segment, each checked; ends at one that is just being written.

    Raises:
        Corrupt: what comes there isn't what was written, or the disk can't read it.
    """
    try:
        with closing(Reader(Files(), directory / str(name))) as reader:
            at, end = 0, reader.size
            while at < end:
                entry = reader.entry(at, end)
                yield entry
                at = entry.end
    except FileNotFoundError:
        return  # handed over meanwhile
    except Unfinished:
        if name != _newest(directory):
            raise
    except OSError as error:
        raise Corrupt(f"{error.strerror}") from error


def verify(directory: Path) -> Stock:
    """Read and check everything that a source has in its spool."""
    stock = Stock(bad=set_aside(directory))
    for name in waiting(directory):
        stock.segments += 1
        try:
            for entry in entries(directory, name):
                stock.frames += 1
                stock.records += decode_header(entry.line).records
                stock.bytes += entry.end - entry.at
        except Corrupt as error:
            stock.damaged[name] = error.message
    return stock


def look(directory: Path, configured: Collection[str]) -> list[Remark]:
    """What `check` has to say of all spools under this directory."""
    return [
        remark
        for source in sources(directory)
        for remark in _look_at(directory / source, source in configured)
    ]


def _look_at(directory: Path, is_configured: bool) -> list[Remark]:
    whose = f"source {directory.name}" + ("" if is_configured else ", which isn't configured,")
    remarks, stock = [], _counted(directory)
    if stock.frames:
        text = f"{stock.frames} frames ({stock.bytes} bytes) of {whose} wait in its spool"
        hint = "" if is_configured else "nothing: collect and drain replay them all the same"
        remarks.append(Remark(text, hint))
    if stock.bad:
        text = f"{len(stock.bad)} damaged segments of {whose} are set aside"
        remarks.append(Remark(text, REPAIR))
    return remarks


def _counted(directory: Path) -> Stock:
    """What there is, by the heads of its entries."""
    stock = Stock(bad=set_aside(directory))
    for name in waiting(directory):
        try:
            with closing(Reader(Files(), directory / str(name))) as reader:
                for _at, head in reader.heads(reader.size):
                    stock.frames += 1
                    stock.bytes += head.entry_bytes
        except (Corrupt, OSError):
            continue
    return stock


def _newest(directory: Path) -> Name | None:
    """The segment that may be written to just now."""
    return next((name for name in reversed(waiting(directory)) if not name.is_repaired), None)


def _names(directory: Path, *kinds: str) -> list[Name]:
    try:
        found = Files().sizes(directory)
    except OSError:
        return []
    names = (segments.parse_name(text) for text, size in found.items() if size > 0)
    return sorted(name for name in names if name and name.kind in kinds)
