"""Reading: what the records of a frame have at the paths that somebody asks for.

A `Reader` is built once per source. It has two ways to read a line of JSON:

    fast      msgspec looks at the record, makes structs of the objects that lie on the way to an
              asked path, keeps the bytes of what is found there and skips all the rest, for
              which no object is made. orjson makes values of the bytes, all of a path at once
    general   orjson makes objects of the whole record, and the paths are looked up in them

Each line is read the fast way, and where that fails, the general way; it is refused only if
both fail. So what becomes of a record is a matter of its bytes and of the paths, never of
the records that are read at the same time. Whoever changes a way has to keep that, and that
both find the same: tests/test_reading.py compares them. What only one of them reads:

    fast      a number that is too large for a float (1e400), where nobody asks for it
    general   what may be nested deeply (BRACKETS_MAX), names that msgspec has no fields for

Lines are read a few at a time, looked at and forgotten: their memory is used again while the
processor has it at hand, which takes half the time of keeping a whole frame's. What was found
stays by path, one list of values each, because a step for a list is much cheaper than a call
per value. Pure.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import msgspec
import orjson

PARSED_MAX = 128  # records that are parsed, looked at and forgotten together
# Brackets in a line that the fast way takes. So many can't nest deeper than what both ways can
# follow: where msgspec gives up depends on how deep the caller's own stack is.
BRACKETS_MAX = 700
NOTHING = msgspec.Raw(b"null")  # what is found where nothing is, and within it

Found = dict[str, list[Any]]  # what was found, by path, one entry a line; None: nothing
Names = tuple[str, ...]  # a path, or its beginning
Step = Callable[[list[Any]], list[Any]]  # from values to what they have under a name
Errors = dict[int, Exception]  # why a line can't be read, by its index


@dataclass(frozen=True, slots=True)
class Reading:
    """What lines have at the paths; a line that is refused has nothing."""

    found: Found
    refused: Errors = field(default_factory=dict)


class Reader:
    """Looks up dotted paths in many lines at once."""

    def __init__(self, paths: Iterable[str], is_json: bool) -> None:
        names = {path: tuple(path.split(".")) for path in paths}
        self._paths = list(names)
        self._is_json = is_json
        self._fast, self._general = _fast_way(names), _general_way(names)

    def read(self, lines: Sequence[bytes]) -> Reading:
        """What each line has at each path, and which lines are not UTF-8 or not JSON.

        A line's error is a UnicodeDecodeError or orjson's.
        """
        reading = Reading({path: [] for path in self._paths})
        for at in range(0, len(lines), PARSED_MAX):
            part = self._part(lines[at : at + PARSED_MAX])
            for path, values in part.found.items():
                reading.found[path] += values
            reading.refused.update((at + index, error) for index, error in part.refused.items())
        return reading

    def _part(self, lines: Sequence[bytes]) -> Reading:
        refused = _not_utf8(lines)  # msgspec doesn't look at the bytes of what it skips
        if not self._is_json:
            return Reading({path: [None] * len(lines) for path in self._paths}, refused)
        lines = _without(lines, refused)
        found, left = self._read_fast(lines)
        if left:
            rest = self._general.read([lines[index] for index in left])
            for path, values in rest.found.items():
                for index, value in zip(left, values, strict=True):
                    found[path][index] = value
            refused |= {left[at]: error for at, error in rest.refused.items()}
        return Reading(found, refused)

    def _read_fast(self, lines: Sequence[bytes]) -> tuple[Found, list[int]]:
        """What the fast way finds, and the lines that are left to the general way."""
        deep = _deep(lines)
        reading = self._fast.read(_without(lines, deep))
        return reading.found, sorted({*deep, *reading.refused})


def _not_utf8(lines: Sequence[bytes]) -> Errors:
    try:
        b"\n".join(lines).decode()
    except UnicodeDecodeError:
        return _each(bytes.decode, lines)[1]
    return {}


def _without(lines: Sequence[bytes], some: Collection[int]) -> Sequence[bytes]:
    """The lines with `null`, in which nothing is found, in the place of some."""
    if not some:
        return lines
    return [b"null" if index in some else line for index, line in enumerate(lines)]


def _deep(lines: Sequence[bytes]) -> list[int]:
    """The lines that may be nested deeply."""
    if max(map(len, lines)) <= BRACKETS_MAX:
        return []
    return [index for index, line in enumerate(lines) if _brackets(line) > BRACKETS_MAX]


def _brackets(line: bytes) -> int:
    return len(line) - len(line.replace(b"[", b"").replace(b"{", b""))


def _each(do: Callable[[Any], Any], things: Sequence[Any]) -> tuple[list[Any], Errors]:
    """What comes of each; None where it fails, and the errors by index."""
    done: list[Any] = []
    errors: Errors = {}
    while len(done) < len(things):
        try:
            done.extend(map(do, things[len(done) :]))  # what is before an error is kept
        except (ValueError, msgspec.MsgspecError, RecursionError) as error:
            errors[len(done)] = error.with_traceback(None)  # it would hold what is read here
            done.append(None)
    return done, errors


# ── ways ────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to read: what makes objects of a line, and how to look the paths up in them."""

    decode: Callable[[bytes], Any]
    steps: Sequence[tuple[Names, Names, Step]]  # each goes on from what an earlier one has found
    paths: Mapping[str, Names]
    raw: Collection[Names] = ()  # what is JSON still when it is found

    def read(self, lines: Sequence[bytes]) -> Reading:
        """A line that is refused may have any values."""
        documents, refused = _each(self.decode, lines)
        found: dict[Names, list[Any]] = {(): documents}
        for names, before, step in self.steps:
            found[names] = step(found[before])
            if names in self.raw:
                found[names], errors = _parsed(found[names])
                refused |= errors
        return Reading({path: found[names] for path, names in self.paths.items()}, refused)


def _parsed(raws: Sequence[Any]) -> tuple[list[Any], Errors]:
    """The values of some JSON texts."""
    try:
        return orjson.loads(b"[" + b",".join(raws) + b"]"), {}
    except orjson.JSONDecodeError:  # a number that is too large for a float
        return _each(orjson.loads, [memoryview(raw) for raw in raws])


def _general_way(paths: Mapping[str, Names]) -> _Way:
    steps = [(names, names[:-1], _member_step(names)) for names in _beginnings(paths)]
    return _Way(orjson.loads, steps, paths)


def _fast_way(paths: Mapping[str, Names]) -> _Way:
    beginnings = _beginnings(paths)
    members: dict[Names, list[Names]] = {names: [] for names in ((), *beginnings)}
    for names in beginnings:
        members[names[:-1]].append(names)
    fields: dict[Names, Step] = {}
    shape = _shape((), members, {*paths.values()}, fields)
    if paths and shape is msgspec.Raw:
        return _general_way(paths)
    decode = msgspec.json.Decoder(shape).decode
    steps = [(names, names[:-1], fields.get(names) or _member_step(names)) for names in beginnings]
    raw = {names for names in fields if not fields.keys() & members[names]}
    return _Way(decode, steps, paths, raw)


def _beginnings(paths: Mapping[str, Names]) -> list[Names]:
    """All names on the ways to the paths, outer ones first; what several have in common once."""
    every = [names[:end] for names in paths.values() for end in range(1, len(names) + 1)]
    return sorted(dict.fromkeys(every), key=len)


def _shape(
    node: Names,
    members: Mapping[Names, Sequence[Names]],
    asked: Collection[Names],
    fields: dict[Names, Step],
) -> Any:
    """The type that msgspec makes of a node; `fields` get the steps to its members.

    Whatever isn't an object may stand in its place, and is none of our business there. A node
    that is asked for itself, or may be a list that is asked for one of its values, is taken as
    it is, and looked up in as on the general way.
    """
    within = members[node]
    if not within or node in asked or not all(map(_is_field, within)):
        return msgspec.Raw
    made = []
    for number, names in enumerate(within):
        made.append((f"f{number}", _shape(names, members, asked, fields), NOTHING))
        fields[names] = _field_step(f"f{number}")
    renamed = {f"f{number}": names[-1] for number, names in enumerate(within)}
    struct = msgspec.defstruct("Node", made, rename=renamed, gc=False)
    return struct | str | int | float | bool | list | None


def _is_field(names: Names) -> bool:
    """Whether a struct's field can stand for a name: msgspec has none for names to escape."""
    return not _is_index(names) and not any(letter < " " or letter in '"\\' for letter in names[-1])


def _is_index(names: Names) -> bool:
    """Whether the last of the names may be a place in a list (a record is none)."""
    return len(names) > 1 and names[-1].isascii() and names[-1].isdigit()


def _field_step(name: str) -> Step:
    """How to get from structs, and what else may stand there, to one of their fields."""
    get = attrgetter(name)

    def fields(values: list[Any]) -> list[Any]:
        try:
            return list(map(get, values))
        except AttributeError:  # not all are objects
            return [getattr(value, name, NOTHING) for value in values]

    return fields


def _member_step(names: Names) -> Step:
    """How to get from values to what they have under a name, or in that place of a list."""
    name = names[-1]
    if not _is_index(names):
        return lambda values: [value.get(name) if type(value) is dict else None for value in values]
    index = int(name)

    def place(value: Any) -> Any:
        if type(value) is list:
            return value[index] if index < len(value) else None
        return value.get(name) if type(value) is dict else None

    return lambda values: list(map(place, values))
