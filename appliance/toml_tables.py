"""TOML tables into structs, strictly: the part of reading a configuration that knows no keys.

msgspec decides whether a value is of its field's type; this file finds the words when it
isn't: where (see toml_lines.py), what was expected, what was found, what to write instead.
A field's type says all of that itself, in `Meta`: limits, `description`, `examples`.

    Grammar(…).read(QueueConfig, table, place)      → QueueConfig, or a ConfigError

Words and numbers of the user are repeated in messages, but never lists and tables, nor
anything that a reader of its own (`Grammar.readers`) takes care of: secrets, for one.
Pure; used by config.py alone.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, TypeVar, get_args

import msgspec
from msgspec.structs import FieldInfo

from appliance.errors import ConfigError
from appliance.toml_lines import Key, Place

SHOWN_CHARS_MAX = 40  # of a user's text in a message
SHOWN_BITS_MAX = 64  # of a user's number

S = TypeVar("S", bound=msgspec.Struct)
Reader = Callable[[object, Place], Any]


@dataclass(frozen=True, slots=True)
class Grammar:
    """What is to be known of a configuration beside its structs.

    Attributes:
        readers: how to read values that are more than one msgspec type, by their last key.
        later_keys: keys that this version refuses, as `pattern` shows them.
        later_values: texts that this version refuses, a regular expression by key.
        homes: each section in words ("in [queue]") and its struct, for misplaced keys.
        pattern: a key without the names that users choose.
    """

    readers: Mapping[str, Reader]
    later_keys: frozenset[str]
    later_values: Mapping[str, str]
    homes: Mapping[str, type[msgspec.Struct]]
    pattern: Callable[[Key], str]

    def read(self, shape: type[S], value: object, at: Place) -> S:
        """One section as its struct: its keys known, its values of their types."""
        table = as_table(value, at)
        fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
        for key in table:
            self._check_key(key, fields, at / key)
        for key, field in fields.items():
            if field.required and key not in table:
                raise at.error(f"{key} is missing", f"write {_example(field)}")
        return shape(
            **{fields[key].name: self._value(fields[key], table[key], at / key) for key in table}
        )

    def check_later(self, value: object, at: Place, hint: str) -> None:
        """Refuse a value that a later version will take."""
        later = self.later_values.get(self.pattern(at.key))
        if later and isinstance(value, str) and re.fullmatch(later, value):
            raise at.error(f"{found(value)} is not in this version", hint)

    def _value(self, field: FieldInfo, value: object, at: Place) -> Any:
        if reader := self.readers.get(field.encode_name):
            return reader(value, at)
        self.check_later(value, at, f"write {_example(field)}")
        if _is_size(field):
            value = _size(value)
        try:
            return msgspec.convert(value, field.type)
        except msgspec.ValidationError:
            message = f"expected {_expected(field.type)}, found {found(value)}"
            raise at.error(message, f"write {_example(field)}") from None

    def _check_key(self, key: str, known: Mapping[str, FieldInfo], at: Place) -> None:
        if self.pattern(at.key) in self.later_keys:
            raise at.error("not in this version", f"take {key} out")
        if key in known:
            return
        if homes := [home for home, shape in self.homes.items() if key in _keys(shape)]:
            raise at.error("doesn't belong here", f"{key} belongs {' or '.join(homes)}")
        raise unknown(known, at)


def unknown(known: Iterable[str], at: Place) -> ConfigError:
    """The error for a key that means nothing, with the nearest one that does."""
    near = difflib.get_close_matches(at.key[-1], known := list(known), n=1, cutoff=0)
    asked = f"did you mean {near[0]}? " if near else ""
    return at.error("unknown key", f"{asked}known here: {', '.join(known)}")


def as_table(value: object, at: Place) -> dict[str, Any]:
    """The value, if it is a table.

    Raises:
        ConfigError: it isn't.
    """
    if isinstance(value, dict):
        return value
    raise at.error(
        f"expected a section, found {kind(value)}",
        f"write [{'.'.join(at.key)}] and below it one key a line",
    )


def _keys(shape: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(shape)]


# ── sizes ───────────────────────────────────────────────────────────────────────────────

_UNITS = {
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
}
_SIZE = re.compile(rf"([0-9]{{1,16}}) ?({'|'.join(_UNITS)})")


def _is_size(field: FieldInfo) -> bool:
    """Units stand last in names."""
    return field.encode_name.endswith(("bytes_max", "free_min"))


def _size(value: object) -> object:
    """A size in bytes; what isn't one stays as it is, for the type to refuse."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(match[1]) * _UNITS[match[2]] if match else value


def size_text(size: int) -> str | int:
    """A size as people write it: "1MiB"; the plain number where no unit fits."""
    for unit in ("GiB", "MiB", "KiB"):
        if size % _UNITS[unit] == 0:
            return f"{size // _UNITS[unit]}{unit}"
    return size


# ── words for messages ──────────────────────────────────────────────────────────────────

_KINDS: dict[type, str] = {
    str: "a text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def found(value: object) -> str:
    """A value in words, short enough for a line."""
    if isinstance(value, int) and value.bit_length() > SHOWN_BITS_MAX:
        return "a number that is far too large"
    if isinstance(value, str) and len(value) > SHOWN_CHARS_MAX:
        return toml(value[:SHOWN_CHARS_MAX] + "…")
    return toml(value) if isinstance(value, str | bool | int | float) else kind(value)


def kind(value: object) -> str:
    """What kind of value it is, without the value."""
    return _KINDS.get(type(value), "a date or time")


def toml(value: object) -> str:
    """A plain value as one writes it in TOML."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def alternatives(words: Iterable[str]) -> str:
    """Texts to choose from, as one writes them in TOML."""
    return " or ".join(map(toml, words))


def _expected(wanted: Any) -> str:
    """The values that a type takes, in words."""
    if metas := getattr(wanted, "__metadata__", ()):
        words = next((meta.description for meta in metas if meta.description), None)
        return (words or _expected(wanted.__origin__)) + _limits(metas)
    arguments = [argument for argument in get_args(wanted) if argument is not NoneType]
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return alternatives(arguments)
    return " or ".join(map(_expected, arguments)) or _KINDS[wanted]


def _limits(metas: Iterable[msgspec.Meta]) -> str:
    words = ""
    for meta in metas:
        for limit, said in ((meta.gt, "above"), (meta.ge, "at least"), (meta.le, "at most")):
            if limit is not None:
                words += f", {said} {limit}"
    return words


def _example(field: FieldInfo) -> str:
    """A line that one could write for a field: with the example of its type or its default."""
    value: object = size_text(field.default) if _is_size(field) and field.default else field.default
    for wanted in (field.type, *get_args(field.type)):
        for meta in getattr(wanted, "__metadata__", ()):
            value = meta.examples[0] if meta.examples else value
    return f"{field.encode_name} = {toml(value)}"
