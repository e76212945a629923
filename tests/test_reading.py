"""Reading: what a record has at the paths is a matter of its bytes and the paths alone."""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from appliance.reading import BRACKETS_MAX, PARSED_MAX, Reader


def shown(lines: Sequence[bytes], paths: Sequence[str], is_json: bool = True) -> list[str]:
    """What each line has at the paths, with the types, or its error; read all at once."""
    reading = Reader(paths, is_json).read(lines)
    assert reading.found.keys() == set(paths)
    assert all(len(values) == len(lines) for values in reading.found.values())
    shown = []
    for index in range(len(lines)):
        values = [reading.found[path][index] for path in paths]
        if index in reading.refused:
            error = reading.refused[index]
            assert isinstance(error, UnicodeDecodeError | orjson.JSONDecodeError)
            assert error.__traceback__ is None  # it would keep the lines in memory
            assert values == [None] * len(paths)
            shown.append(f"{type(error).__name__}: {error}")
        else:
            shown.append(repr(values))
    return shown


def looked_up(document: Any, path: str) -> Any:
    """What a path finds in one record, step by step."""
    first, *rest = path.split(".")
    found = document.get(first) if isinstance(document, dict) else None
    for name in rest:
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list) and name.isascii() and name.isdigit():
            found = found[int(name)] if int(name) < len(found) else None
        else:
            return None
    return found


def expected(line: bytes, paths: Sequence[str]) -> str:
    """The same as `shown`, as orjson alone reads it."""
    try:
        line.decode()
        document = orjson.loads(line)
    except ValueError as error:
        return f"{type(error).__name__}: {error}"
    return repr([looked_up(document, path) for path in paths])


# ── examples ────────────────────────────────────────────────────────────────────────────

RECORD = rb"""{"a": {"b": 1, "c": [10, {"d": null}], "0": "zero", "b": 2.0},
    "\u0061b": "\ud83c\udf08", "a-b": -0.0, "class": true, "": {"": "empty"},
    "\u00e9": 18446744073709551615, "f0": "f",
    "q\"": "quote", "s\\": {"t": "backslash"}, "n\n": 5, "5": "five"}""".replace(b"\n", b" ")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", 2.0),
        ("a.c", [10, {"d": None}]),
        ("a.c.0", 10),
        ("a.c.1", {"d": None}),
        ("a.c.1.d", None),
        ("a.c.2", None),
        ("a.c.00", 10),
        ("a.c.-1", None),
        ("a.c.²", None),
        ("a.0", "zero"),
        ("a.0.0", None),
        ("a.b.c", None),
        ("ab", "🌈"),
        ("a-b", -0.0),
        ("class", True),
        (".", "empty"),
        ("é", 2**64 - 1),
        ("f0", "f"),
        ("f1", None),
        ("f0.f0", None),
        ('q"', "quote"),
        ("s\\.t", "backslash"),
        ("n\n", 5),
        ("5", "five"),
        ("0", None),
    ],
)
def test_a_path_alone_and_beside_others(path: str, value: Any) -> None:
    assert shown([RECORD], [path]) == [repr([value])]
    others = ["a.b", "a", "f0", "class", "a.c.0", path]
    assert expected(RECORD, others) == shown([RECORD], others)[0]


AN_OBJECT = b'{"a":{"b":1}}'


@pytest.mark.parametrize(
    ("line", "a", "a_b"),
    [
        (b"{}", None, None),
        (b'{"a":null}', None, None),
        (b'{"a":{}}', {}, None),
        (b'{"a":"f0"}', "f0", None),
        (b'{"a":[1]}', [1], None),
        (b'{"a":7}', 7, None),
        (b'{"a":true}', True, None),
        (b'{"a":{"b":{"c":1}}}', {"b": {"c": 1}}, {"c": 1}),
        (b'{"a":5,"a":{"b":1}}', {"b": 1}, 1),
        (b'{"a":{"b":1},"a":5}', 5, None),
        (b'{"a":{"b":1},"a":{"c":1}}', {"c": 1}, None),
        (b'{"a":{"b":1},"\\u0061":{"\\u0062":2}}', {"b": 2}, 2),
        (b"[1]", None, None),
        (b'"a"', None, None),
        (b"5", None, None),
        (b"null", None, None),
        (b"false", None, None),
        (b' {"a":{"b":\t[ 1 , 2 ] } } ', {"b": [1, 2]}, [1, 2]),
        (b'{"a":{"b":18446744073709551616}}', {"b": 2.0**64}, 2.0**64),
        (b'{"a":{"b":-9223372036854775809}}', {"b": -(2.0**63)}, -(2.0**63)),
        (b'{"a":{"b":[18446744073709551616]}}', {"b": [2.0**64]}, [2.0**64]),
        (b'{"a":{"b":"\\u0000\xf0\x9f\x8f\x88"}}', {"b": "\0🏈"}, "\0🏈"),
    ],
)
def test_what_stands_in_the_place_of_an_object(line: bytes, a: Any, a_b: Any) -> None:
    """The way in which a node is read depends on what else is asked."""
    assert shown([line], ["a.b"]) == [repr([a_b])]
    assert shown([line], ["a.b", "a"]) == [repr([a_b, a])]
    assert shown([line], ["a.b", "a.0"]) == [expected(line, ["a.b", "a.0"])]
    assert shown([AN_OBJECT, line, AN_OBJECT], ["a.b"]) == ["[1]", repr([a_b]), "[1]"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1} {"a":2}',
        b"{'a':1}",
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":\x00}',
        b'{"a":"\\ud800"}',
        b'{"z":"\\ud800"}',
        b'{"a":"\t"}',
        b'{"z":"\xff"}',
        b'{"\xff":1}',
        b'{"a":"\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        b'{"z":' + b"[" * 1100 + b"]" * 1100 + b"}",
        b'{"z":' + b"[" * 100_000,
        b'{"a":1e400}',
        b'{"a":[-1e400]}',
        b'{"a":' + b"9" * 400 + b"}",
        b'{"a":{"b":' + b"9" * 5000 + b"}}",
        b"1e400",
    ],
)
def test_what_can_not_be_read_has_the_error_that_orjson_gives(line: bytes) -> None:
    [error] = shown([line], ["a"])
    assert error == expected(line, ["a"])
    assert "Error: " in error
    good, found = b'{"a":1}', "[1]"
    assert shown([good, line, good, line], ["a"]) == [found, error, found, error]


@pytest.mark.parametrize("number", [b"1e400", b"-1E+999", b"9" * 400, b"[[1e400]]"])
def test_a_number_that_nobody_asks_for_may_be_too_large_for_a_float(number: bytes) -> None:
    line = b'{"a":1,"z":%b}' % number
    refused, bad = expected(line, ["z"]), b'{"a":'
    assert "Error: " in refused
    assert shown([line], []) == ["[]"]
    assert shown([line], ["a"]) == ["[1]"]
    assert shown([line], ["a", "z"]) == [refused]
    assert shown([line], ["a.b.c"]) == ["[None]"]
    beside = [bad, line, b'{"a":%d}' % 2**70, b'{"z":1e400,"a":1e400}']
    assert shown(beside, ["a"])[1] == "[1]"


def deep(levels: int) -> bytes:
    return b'{"a":1,"z":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("path", ["a", "z.z", 'q"'])
def test_how_deep_a_record_may_nest_is_what_orjson_says(path: str) -> None:
    """However deep the stack is below."""

    def read(frames: int) -> list[str]:
        return read(frames - 1) if frames else shown(lines, [path])

    lines = [deep(levels) for levels in (*range(690, 710), *range(1000, 1030))]
    assert read(0) == read(200) == [expected(line, [path]) for line in lines]
    assert len({line.startswith("[") for line in read(0)}) == 2


def test_many_brackets_that_are_not_deep() -> None:
    flat = b'{"a":1,"z":[' + b"[]," * BRACKETS_MAX + b'"{{["],"b":1e400}'
    assert shown([flat, deep(3)], ["a"]) == [expected(flat, ["a"]), "[1]"]
    fine = flat.replace(b"1e400", b"[1]")
    assert shown([fine, b'{"z":1e400}'], ["a", "b.0"]) == ["[1, 1]", "[None, None]"]


def test_text_is_read_only_as_utf8() -> None:
    lines = [b"{", b"\xff", "é".encode(), b""]
    assert shown(lines, ["a"], is_json=False)[::2] == ["[None]", "[None]"]
    [bad] = Reader([], is_json=False).read(lines).refused.items()
    assert bad[0] == 1
    assert isinstance(bad[1], UnicodeDecodeError)


def test_no_lines() -> None:
    assert shown([], ["a"]) == []
    assert Reader(["a.b"], True).read([]).found == {"a.b": []}


def test_a_character_is_never_made_of_two_lines() -> None:
    errors = shown([b'"\xc3', b'\xa9"'], [])
    assert [error.partition(":")[0] for error in errors] == ["UnicodeDecodeError"] * 2


# ── random records ──────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["a", "b", "0", "1", "a-b", "class", "", "é", "f0", "f1", 'q"', "s\\"])
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map(".".join), max_size=5, unique=True)


def written(texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """As JSON, with or without escapes."""
    return st.builds(lambda text, ascii: json.dumps(text, ensure_ascii=ascii), texts, st.booleans())


SPACE = st.sampled_from(["", "", "", " ", "\t "])
NUMBERS = st.one_of(
    st.sampled_from(["0", "-0", "-0.0", "1E5", "5e-324", "1e308", "1e309", "0e999", "1e22"]),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from([2**63, 2**64, -(2**63), 10**25, 10**400]).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?\Z"),
)
SCALARS = st.one_of(
    st.sampled_from(["null", "true", "false", "{}", "[]"]),
    NUMBERS,
    written(st.text(max_size=9)),
)


def joined(marks: str, parts: list[str], space: str) -> str:
    return marks[0] + space + f"{space},{space}".join(parts) + space + marks[1]


def wider(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Lists and objects as text, so that an object may have a name twice."""
    members = st.builds("{}{}:{}{}".format, written(NAMES), SPACE, SPACE, inner)
    return st.builds(
        joined, st.just("{}"), st.lists(members, min_size=1, max_size=4), SPACE
    ) | st.builds(joined, st.just("[]"), st.lists(inner, min_size=1, max_size=3), SPACE)


TEXTS = st.recursive(SCALARS, wider, max_leaves=8)
RECORDS = (wider(TEXTS) | wider(TEXTS) | TEXTS).map(str.encode)
BITS = [bytes([byte]) for byte in b'{}[],:"\\u019.eE+- \t\x00\x1f\x7f\x80\xc3\xa9\xed\xf4']
BITS += [b"", b"null", b"NaN", b"1e999", b"\\ud800", b"\xef\xbb\xbf", b'"a":']
CHANGES = st.tuples(st.integers(0, 60), st.integers(0, 3), st.sampled_from(BITS))


def changed(record: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """A record with some bytes replaced by others."""
    for at, length, new in changes:
        record = record[:at] + new + record[at + length :]
    return record


BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
LINES = st.builds(changed, RECORDS, st.just([]) | st.lists(CHANGES, max_size=2))


def has_too_large(line: bytes) -> bool:
    """Whether it would be JSON if it had no number that is too large for a float."""
    try:
        json.loads(line, parse_constant=pytest.fail)
    except ValueError:
        return False
    numbers = re.findall(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", line)
    return any(math.isinf(float(number)) for number in numbers)


@BUSY
@given(st.lists(LINES, max_size=4), PATHS)
@example([b'{"a":1e999}', b'{"b":1e999}', b'{"b":1,"a":%d}' % 2**64], ["b"])
def test_a_record_is_read_as_orjson_reads_it_alone(lines: list[bytes], paths: list[str]) -> None:
    """Or refused as orjson refuses it, but for numbers that are too large."""
    for line, found in zip(lines, shown(lines, paths), strict=True):
        assert found == expected(line, paths) or (
            found.startswith("[") and has_too_large(line) and "inf" not in found
        )


@BUSY
@given(st.lists(LINES, max_size=4), PATHS, st.sampled_from([1, PARSED_MAX]))
@example([b'{"a":1e999}', b'{"b":1e999}', deep(1000), b"\xff", b'{"b":%d}' % 2**64], ["b"], 1)
def test_no_record_is_read_otherwise_for_its_neighbours(
    lines: list[bytes], paths: list[str], times: int
) -> None:
    assert shown(lines * times, paths) == [shown([line], paths)[0] for line in lines] * times


@BUSY
@given(st.lists(RECORDS, max_size=4), PATHS)
def test_both_ways_find_the_same(lines: list[bytes], paths: list[str]) -> None:
    reader = Reader(paths, is_json=True)
    fast, general = reader._fast.read(lines), reader._general.read(lines)
    for index in {*range(len(lines))} - fast.refused.keys() - general.refused.keys():
        for path in paths:
            assert repr(fast.found[path][index]) == repr(general.found[path][index])
