"""Filters: what `include` and `exclude` ask of a value found in a record.

    any       one of the words is in the text: whole, in any case, in any script
    equals    the value is one of these: letter by letter; a number by its value
    regex     the expression matches somewhere in the text (RE2's syntax)

What isn't there, null, a list or an object passes no test; `any` and `regex` ask texts only.
So a record without the value is not included, nor is it excluded.

Senders decide what is searched here, so no test may take more than linear time: `regex` is
RE2's, which never backtracks, and the words are plain alternatives between two looks at one
neighbour each. Pure; finding the value by its path is the matter of reading.py.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import re2

from appliance.settings import Filter, Scalar

Test = Callable[[Any], bool]


class RegexError(ValueError):
    """RE2 doesn't take the expression; the text is what it says about it."""


def test(filter: Filter) -> Test:
    """Whether a value, as JSON gives it, is what the filter asks for."""
    if filter.regex is not None:
        return _matches(filter.regex)
    if filter.equals is not None:
        return _equals(filter.equals)
    return _has_word(filter.any or ())


def check_regex(expression: str) -> None:
    """Refuse what RE2 can't search for.

    Raises:
        RegexError: with RE2's words.
    """
    _compiled(expression)


def _matches(expression: str) -> Test:
    search = _compiled(expression).search
    return lambda value: type(value) is str and search(value.encode()) is not None


def _compiled(expression: str) -> Any:
    """The expression for UTF-8 bytes: re2 finds no more than we ask, and counts no letters."""
    options = re2.Options()
    options.log_errors = False  # it would write to stderr, past our log
    options.never_capture = True
    try:
        return re2.compile(expression.encode(), options)
    except re2.error as error:
        raise RegexError(error.args[0].decode(errors="replace")) from None


def _equals(wanted: Sequence[Scalar]) -> Test:
    """Compared as JSON does it: 1 is 1.0, but neither true nor "1"."""
    keys = {(type(value) is bool, value) for value in wanted}

    def is_one(value: Any) -> bool:
        return type(value) in (str, int, float, bool) and (type(value) is bool, value) in keys

    return is_one


def _has_word(words: Sequence[str]) -> Test:
    search = _words(words).search
    return lambda value: type(value) is str and search(value.casefold()) is not None


def _words(words: Sequence[str]) -> re.Pattern[str]:
    """Finds any of the words, whole, in a case folded text."""
    letter = rf"[\w{_marks()}]"
    any_word = "|".join(re.escape(word.casefold()) for word in words)
    return re.compile(rf"(?<!{letter})(?:{any_word})(?!{letter})")


@cache
def _marks() -> str:
    r"""All combining marks, as part of a character class: to `\w` they are no letters.

    But vowel signs of Indic scripts and accents typed apart belong to their word.
    """
    planes = (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0))
    marks = [code for code in planes if unicodedata.category(chr(code))[0] == "M"]
    starts = [code for code, before in zip(marks, [-1, *marks], strict=False) if code != before + 1]
    ends = [code for code, after in zip(marks, [*marks[1:], -1], strict=True) if code + 1 != after]
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in zip(starts, ends, strict=True))
