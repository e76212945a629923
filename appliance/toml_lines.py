"""Where a key stands in a TOML text: what makes "file, key and line" in a message possible.

tomllib returns values without their lines. So that a message can still point at one, the
text is scanned once more, only when something is wrong with it: section headers and the
keys that begin a line, comments and multi-line strings skipped. A key inside an inline table
has the line of the nearest key that begins one; that is close enough to find it.

    Place(file, text) / "queue" / "url"      is a key in a file; it makes the errors about it

Pure; used by config.py alone.
"""

import json
import re
from dataclasses import dataclass, replace

from appliance.errors import ConfigError

Key = tuple[str, ...]
"""The parts of a dotted key; element 2 of a list is the part "[2]"."""

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\])*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_PARTS = re.compile(_PART)
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_BARE = re.compile(r"[A-Za-z0-9_-]+|\[[0-9]+\]")

# One token a match, the longest string form first, so that a # or ''' inside a string isn't
# taken for a comment or a string of its own.
_COMMENT_OR_STRING = re.compile(
    r"""#[^\n]*|"{3}(?:\\.|[^\\])*?"{3,5}|\'{3}.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Place:
    """A key in a configuration file, () for the file as a whole."""

    file: str
    text: str
    key: Key = ()

    def __truediv__(self, part: str) -> "Place":
        """The place of a key below this one."""
        return replace(self, key=(*self.key, part))

    def error(self, message: str, hint: str) -> ConfigError:
        """An error about this place, to be raised: file, line, key, what is wrong, what to do."""
        number = line_of(self.text, self.key)
        where = self.file if number is None else f"{self.file}:{number}"
        if self.key:
            where = f"{where}: {shown(self.key)}"
        return ConfigError(f"{where}: {message}", hint)


def shown(key: Key) -> str:
    """A key as one would write it in TOML: source.tweets.include[0].path."""
    parts = (part if _BARE.fullmatch(part) else json.dumps(part) for part in key)
    return ".".join(parts).replace(".[", "[")


def line_of(text: str, key: Key) -> int | None:
    """The line (from 1) where a key or the nearest key above it begins; None if neither does."""
    lines = _lines(text)
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            return lines[key[:length]]
    return None


def _lines(text: str) -> dict[Key, int]:
    """Each key and section with the line where it first appears."""
    lines: dict[Key, int] = {}
    elements: dict[Key, int] = {}
    section: Key = ()
    for number, line in enumerate(_flattened(text).split("\n"), 1):
        if header := _HEADER.match(line):
            section = _parts(header[2])
            if header[1] == "[[":
                element = elements[section] = elements.get(section, -1) + 1
                lines.setdefault(section, number)
                section = (*section, f"[{element}]")
            key = section
        elif assignment := _ASSIGNMENT.match(line):
            key = section + _parts(assignment[1])
        else:
            continue
        for length in range(1, len(key) + 1):
            lines.setdefault(key[:length], number)
        lines[section] = lines.get(section, number)
    return lines


def _flattened(text: str) -> str:
    """The text without comments and multi-line strings, each line still under its number."""

    def flat(token: re.Match[str]) -> str:
        if token[0].startswith("#"):
            return ""
        return '""' + "\n" * token[0].count("\n") if "\n" in token[0] else token[0]

    return _COMMENT_OR_STRING.sub(flat, text)


def _parts(dotted: str) -> Key:
    return tuple(part.strip("\"'") for part in _PARTS.findall(dotted))
