"""Rows: every line goes one way, and every column's value is what the record says."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.batch import Batch, Block, DeadLetter
from appliance.config import Column, Filter
from appliance.contracts import NO_RECORD
from appliance.frame import Frame, Gap, Header, checksum
from appliance.reading import PARSED_MAX
from appliance.rows import RowMaker, split, utc_column, utc_from_iso, utc_text
from tests.test_reading import looked_up

RUN = "0190163d8694739b88b7b1c3e2f00001"
RAW = {"raw": Column(type="LONGTEXT", path="")}


def frame(body: bytes, **more: Any) -> Frame:
    return Frame(
        Header(
            run=RUN,
            number=7,
            source="tweets",
            records=body.count(b"\n"),
            records_before=0,
            bytes_before=0,
            body_bytes=len(body),
            crc=checksum(body),
            first_received=1_700_000_000.25,
            last_received=1_700_000_001.0,
            **more,
        ),
        body,
    )


def made(
    body: bytes,
    columns: Mapping[str, Column] = RAW,
    format: str = "json",
    include: Sequence[Filter] = (),
    exclude: Sequence[Filter] = (),
    **more: Any,
) -> Batch:
    return RowMaker(columns, format, include, "tweets", exclude).batch(frame(body, **more))


def values(document: Any, path: str, type: str = "VARCHAR(99)") -> Any:
    """What a column by path becomes for one record."""
    body = json.dumps(document).encode() + b"\n"
    [(value,)] = made(body, {"x": Column(type=type, path=path)}).rows
    return value


# ── one by one ──────────────────────────────────────────────────────────────────────────

EVERY_META = {
    "place": Column(type="INT UNSIGNED", meta="position"),
    "source": Column(type="VARCHAR(32)", meta="source"),
    "a": Column(type="VARCHAR(99)", path="a"),
    "when": Column(type="DATETIME(6)", path="when"),
    "raw": Column(type="LONGTEXT", path=""),
}
DEEP = b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"
LINES = (b'{"a":1}', b"", b"no json", b"\xff", DEEP, b'{"a":"no"}', b'{"when":"2026-01-02"}\r')


@given(st.lists(st.sampled_from(LINES), max_size=12), st.sets(st.integers(0, 11), max_size=3))
def test_one_by_one_comes_to_the_same(lines: list[bytes], rejected: set[int]) -> None:
    body = b"".join(line + b"\n" for line in lines)
    whole = frame(body, rejected=dict.fromkeys(rejected, "cut"), gaps=(Gap("gone", 2, 9),))
    maker = RowMaker(EVERY_META, "json", (), "tweets", [Filter(path="a", equals=("no",))])
    held: list[int] = []
    batch, expected = maker.batch_one_by_one(whole, held.append, {}), maker.batch(whole)
    assert batch == expected
    touched = [position for position in range(len(lines)) if position not in rejected]
    assert held == [*touched, NO_RECORD]


def test_a_condemned_record_is_not_touched() -> None:
    body = b'{"a":1}\nkiller\r\n{"a":2}\n'
    maker = RowMaker(EVERY_META, "json", (), "tweets")
    held: list[int] = []
    batch = maker.batch_one_by_one(frame(body), held.append, {1: "it kills"})
    assert batch.positions == [0, 2]
    assert held == [0, 2, NO_RECORD]
    assert batch.dead == [DeadLetter(1, b"killer", "poison", "it kills")]
    assert batch.records == 3


def test_the_record_in_hand_is_the_one_that_something_goes_wrong_with() -> None:
    maker = RowMaker(EVERY_META, "json", (), "tweets")

    def make(records: Any, header: Header) -> list[Any]:
        return [1 / value for value in records.found["a"]]

    maker._columns[2] = make
    held: list[int] = []
    with pytest.raises(ZeroDivisionError):
        maker.batch_one_by_one(frame(b'{"a":1}\n{"a":0}\n{"a":2}\n'), held.append, {})
    assert held == [0, 1]


# ── which way a line goes ───────────────────────────────────────────────────────────────


def test_every_kind_of_line() -> None:
    body = b'{"a":1}\n\nnot json\r\n{"a":"\xff"}\n\r\n{"b":2}\r\ntoo lo\n{"c":\x00}\n"cu\n'
    batch = made(body, rejected={6: "too long", 8: "cut"}, gaps=(Gap("gone", 2, 9),))
    assert batch.rows == [('{"a":1}',), ('{"b":2}',)]
    assert batch.raws == [b'{"a":1}', b'{"b":2}']
    assert batch.positions == [0, 5]
    assert batch.blank == 2
    assert [(x.position, x.raw, x.code) for x in batch.dead] == [
        (2, b"not json", "json"),
        (3, b'{"a":"\xff"}', "utf8"),
        (6, b"too lo", "too long"),
        (7, b'{"c":\x00}', "json"),
        (8, b'"cu', "cut"),
    ]
    assert "line 1 column" in batch.dead[0].reason
    assert "record_bytes_max" in batch.dead[2].reason
    assert (batch.run, batch.number, batch.source) == (bytes.fromhex(RUN), 7, "tweets")
    assert (batch.records, batch.bytes) == (9, len(body))
    assert (batch.first_received, batch.last_received) == (1_700_000_000.25, 1_700_000_001.0)
    assert batch.gaps == (Gap("gone", 2, 9),)


def test_text_takes_everything_that_is_utf8() -> None:
    batch = made(b"a\x00b\n{\n\xc3\n\xf0\x9f\x8f\x88 \r\r\n", format="text")
    assert batch.rows == [("a\x00b",), ("{",), ("🏈 \r",)]
    assert [(x.position, x.raw, x.code) for x in batch.dead] == [(2, b"\xc3", "utf8")]


@pytest.mark.parametrize("format", ["text", "json"])
@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"", b"\r", b"{}", b"[1]", b'"x"'])))
def test_all_lines_are_accounted_for(format: str, lines: list[bytes]) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    batch = made(b"".join(line + b"\n" for line in lines), format=format)
    assert batch.records == len(lines) == len(batch.rows) + len(batch.dead) + batch.blank
    back = dict(zip(batch.positions, batch.raws, strict=True))
    back |= {letter.position: letter.raw for letter in batch.dead}
    back |= {at: b"" for at in range(len(lines)) if at not in back}
    assert [back[at] for at in range(len(lines))] == [line.removesuffix(b"\r") for line in lines]
    assert [text.encode() for (text,) in batch.rows] == batch.raws


GOOD = ['{"a":1}', '{"a":"é🏈"}', '{"a":[1,{"b":null}]}', "5", '"x"', "null", '{"a":"it\'s \\\\"}']
SHAPES = [
    {},
    {"include": [Filter(path="a", equals=(1, "é🏈"))]},
    {"exclude": [Filter(path="", any=("x", "5"))]},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", ["text", "json"])
@given(
    st.lists(st.sampled_from(GOOD), max_size=6),
    st.sampled_from([b"", b"\xff", b"{", b'"\xed\xa0\x80"']),
)
def test_a_frame_taken_whole_gives_what_its_lines_give_one_by_one(
    format: str, shape: dict[str, Any], good: list[str], other: bytes
) -> None:
    """One line that isn't good, at the end, has all of them sorted one by one."""
    if format == "text" and "include" in shape:
        return  # a path needs JSON
    columns = {"a": Column(type="JSON", path="a"), "s": Column(type="TEXT", meta="source"), **RAW}
    body = b"".join(line.encode() + b"\n" for line in good)
    whole = made(body, columns, format, **shape)
    sorted_ = made(body + other + b"\n", columns, format, **shape)
    kept = [at for at in sorted_.positions if at < len(good)]
    assert list(whole.positions) == kept
    assert list(whole.rows) == list(sorted_.rows)[: len(kept)]
    assert whole.raws == sorted_.raws[: len(kept)]
    assert (whole.dead, whole.blank) == ([], 0)
    assert len(whole.rows) + whole.filtered == len(good)


@pytest.mark.parametrize("format", ["text", "json"])
def test_blank_lines_among_good_records_are_no_rows(format: str) -> None:
    batch = made(b"1\n\n\r\n2\n", format=format)
    assert (batch.rows, batch.positions, batch.blank) == ([("1",), ("2",)], [0, 3], 2)


@pytest.mark.parametrize("format", ["text", "json"])
def test_what_the_collector_refuses_is_dead_even_if_it_reads_well(format: str) -> None:
    batch = made(b"1\n2\n3\n", format=format, rejected={1: "cut"})
    assert (batch.rows, batch.positions) == ([("1",), ("3",)], [0, 2])
    assert [(x.position, x.raw, x.code) for x in batch.dead] == [(1, b"2", "cut")]


def test_a_good_frame_is_taken_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RowMaker, "_sort", lambda *_: pytest.fail("line by line"))
    for format in ("text", "json"):
        assert made(b"1\n2\r\n", format=format).rows == [("1",), ("2",)]


def test_an_empty_body() -> None:
    batch = made(b"", gaps=(Gap("gone"),))
    assert (batch.records, batch.rows, batch.blank) == (0, [], 0)


def test_the_reason_of_an_unknown_code_is_said_too() -> None:
    assert made(b"x\n", rejected={0: "new"}).dead == [
        DeadLetter(0, b"x", "new", "refused by the collector")
    ]


@given(st.binary())
def test_split_takes_line_ends_only(body: bytes) -> None:
    expected = [line.removesuffix(b"\r") for line in (body + b"\n").split(b"\n")[:-1]]
    assert split(body + b"\n") == expected


# ── values ──────────────────────────────────────────────────────────────────────────────

TWEET = {
    "id": 2**63,
    "big": 2**70,
    "user": {"name": "Zoë 🏈", "0": "zero", "verified": True},
    "list": [10, {"deep": [None, False]}, "x"],
    "none": None,
    "real": 0.1,
    "": "empty key",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 2**63),
        ("big", 2.0**70),
        ("user.name", "Zoë 🏈"),
        ("user.0", "zero"),
        ("user.verified", 1),
        ("user", '{"name":"Zoë 🏈","0":"zero","verified":true}'),
        ("list.0", 10),
        ("list.2", "x"),
        ("list.3", None),
        ("list.-1", None),
        ("list.name", None),
        ("list.1.deep.1", 0),
        ("list.1.deep.0", None),
        ("list.1.deep", "[null,false]"),
        ("none", None),
        ("none.more", None),
        ("missing", None),
        ("user.missing.more", None),
        ("id.0", None),
        ("real", 0.1),
    ],
)
def test_value_by_path(path: str, value: Any) -> None:
    found = values(TWEET, path)
    assert found == value
    assert type(found) is type(value)


NAMES = st.sampled_from(["a", "b", "0", "1"])
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


@given(
    st.lists(DOCUMENTS, max_size=5),
    st.lists(st.lists(NAMES, min_size=1, max_size=3).map(".".join), min_size=1, max_size=5),
    st.sampled_from([1, PARSED_MAX]),
)
def test_paths_are_looked_up_as_one_by_one(
    documents: list[Any], paths: list[str], times: int
) -> None:
    """Also where several have the same beginning, and over more than are parsed together."""
    body = b"".join(json.dumps(one).encode() + b"\n" for one in documents * times)
    columns = {path: Column(type="TEXT", path=path) for path in paths}
    expected = [tuple(values_of(one, paths)) for one in documents * times]
    assert made(body, columns).rows == expected


def values_of(document: Any, paths: Sequence[str]) -> Iterator[Any]:
    for path in dict.fromkeys(paths):
        found = looked_up(document, path)
        if isinstance(found, bool):
            found = int(found)
        yield found if found is None or isinstance(found, int) else orjson.dumps(found).decode()


@pytest.mark.parametrize("record", [b"5", b'"text"', b"[1, 2]", b"null", b"true"])
def test_a_record_that_is_no_object_has_no_values_but_is_stored(record: bytes) -> None:
    columns = {"x": Column(type="INT", path="0"), **RAW}
    assert made(record + b"\n", columns).rows == [(None, record.decode())]


def test_meta_columns() -> None:
    names = ("source", "received_at", "run", "frame", "position")
    columns = {name: Column(type="VARCHAR(40)", meta=name) for name in names}
    columns["key"] = Column(type="binary(16)", meta="run")
    received = "2023-11-14 22:13:20.250000"
    assert made(b"{}\n\n{}\n", columns).rows == [
        ("tweets", received, RUN, 7, at, bytes.fromhex(RUN)) for at in (0, 2)
    ]


def test_rows_of_constants_only_are_as_many_as_records() -> None:
    assert made(b"1\n2\n", {"s": Column(type="TEXT", meta="source")}).rows == [("tweets",)] * 2


def test_a_record_too_deep_to_write_costs_itself() -> None:
    deep = b'{"x":' + b"[" * 600 + b"]" * 600 + b"}"
    columns = {"x": Column(type="JSON", path="x"), **RAW}
    batch = made(b'{"x":[1]}\n' + deep + b'\n{"x":{}}\n' + deep + b"\n", columns)
    assert batch.rows == [("[1]", '{"x":[1]}'), ("{}", '{"x":{}}')]
    assert (batch.positions, batch.raws) == ([0, 2], [b'{"x":[1]}', b'{"x":{}}'])
    assert {(x.position, x.raw, x.code) for x in batch.dead} == {
        (1, deep, "json"),
        (3, deep, "json"),
    }
    assert len(made(deep + b"\n").rows) == 1


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2024-02-29T12:00:00Z", "2024-02-29 12:00:00.000000"),
        ("2024-02-29T12:00:00.5+02:00", "2024-02-29 10:00:00.500000"),
        ("2024-02-29 23:30:00-01:00", "2024-03-01 00:30:00.000000"),
        ("2024-02-29T12:00:00.123456789Z", "2024-02-29 12:00:00.123456"),
        ("2024-02-29", "2024-02-29 00:00:00.000000"),
        ("2024-02-30T12:00:00Z", "2024-02-30T12:00:00Z"),
        ("0001-01-01T00:00:00+10:00", "0001-01-01T00:00:00+10:00"),
        ("Wed Oct 10 20:19:24 +0000 2018", "Wed Oct 10 20:19:24 +0000 2018"),
        ("", ""),
    ],
)
def test_iso_times_are_rewritten_to_utc(text: str, written: str) -> None:
    assert utc_from_iso(text) == written
    for type_name in ("DATETIME(6)", "datetime", "TIMESTAMP NULL"):
        assert values({"at": text}, "at", type_name) == written
    assert values({"at": text}, "at", "VARCHAR(64)") == text


PARTS = st.sampled_from([*"-T :.,Zé", "20", "2024", "02", "29", "30", "12", "123456", "+01:00"])
SHAPED = st.from_regex(
    r"\A20[0-9]{2}-[0-1][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9](:[0-6][0-9]([.,][0-9]{1,9})?)?"
    r"(Z|[+-][0-2][0-9](:?[0-5][0-9])?)?\Z"
)


TIMES = st.datetimes() | st.datetimes(timezones=st.just(UTC))


@given(
    st.lists(TIMES.map(datetime.isoformat), max_size=4)
    | st.lists(SHAPED | st.lists(PARTS, max_size=9).map("".join) | st.none(), max_size=4)
)
def test_a_column_of_times_is_written_as_each_of_them(texts: list[Any]) -> None:
    written = [text if text is None else utc_from_iso(text) for text in texts]
    there = [text for text in texts if text is not None]
    assert Block(len(there), (utc_column(there),)) == [(utc_from_iso(text),) for text in there]
    body = b"".join(json.dumps({"at": text}).encode() + b"\n" for text in texts)
    rows = made(body, {"at": Column(type="DATETIME(6)", path="at")}).rows
    assert rows == [(text,) for text in written]


def test_a_time_column_leaves_numbers_alone() -> None:
    assert values({"at": 20240229}, "at", "DATETIME") == 20240229
    assert values({"at": True}, "at", "DATETIME") == 1


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1970, 1, 2)))
def test_utc_text_agrees_with_utc_from_iso(moment: datetime) -> None:
    assert utc_from_iso(moment.isoformat()) == moment.strftime("%Y-%m-%d %H:%M:%S.%f")
    whole = moment.replace(microsecond=0)
    assert utc_text(whole.timestamp()) == utc_from_iso(whole.isoformat())


# ── filters ─────────────────────────────────────────────────────────────────────────────


def kept(record: Any, **filters: Sequence[Filter]) -> bool:
    """Whether a record becomes a row; if it doesn't, it is counted as filtered."""
    line = json.dumps(record, ensure_ascii=False).encode()
    batch = made(line + b"\n", **filters)  # type: ignore[arg-type]
    assert (len(batch.rows), batch.filtered) in ((1, 0), (0, 1))
    assert batch.raws in ([line], [])
    return bool(batch.rows)


@pytest.mark.parametrize(
    ("word", "text", "found"),
    [
        ("Packers", "Go PACKERS!", True),
        ("Packers", "#packers", True),
        ("Packers", "Unpackers", False),
        ("Packers", "packers_fan", False),
        ("Packers", "packers2", False),
        ("Green Bay", "in green bay.", True),
        ("C++", "c++ rocks", True),
        ("a.c", "abc", False),
        ("Straße", "STRASSE 5", True),
        ("Σίσυφος", "ΣΊΣΥΦΟΣ", True),
        ("Медведь", "«МЕДВЕДЬ»", True),
        ("Медведь", "медведьсон", False),
        ("पैकर", "पैकर आए", True),
        ("पैकर", "पैकर्स आए", False),  # a vowel sign goes on with the word
        ("cafe", "cafe\u0301", False),
        ("巨人", "巨人 勝", True),
        ("سبارتان", "فريق سبارتان!", True),
    ],
)
def test_words_are_whole_and_case_folded(word: str, text: str, found: bool) -> None:
    include = [Filter(path="text", any=("nobody", word))]
    batch = made(json.dumps({"text": text}).encode() + b"\n", include=include)
    assert (len(batch.rows), batch.filtered) == ((1, 0) if found else (0, 1))


@pytest.mark.parametrize("record", [{}, {"text": None}, {"text": 5}, {"text": ["Bears"]}, "Bears"])
@pytest.mark.parametrize("asked", [{"any": ("Bears", "5")}, {"regex": "Bears|5|"}])
def test_what_is_no_text_matches_no_word_and_no_regex(record: Any, asked: Any) -> None:
    assert not kept(record, include=[Filter(path="text", **asked)])
    assert kept(record, exclude=[Filter(path="text", **asked)])


@pytest.mark.parametrize("record", [{}, {"a": None}, {"a": [1, "x"]}, {"a": {"x": 1}}, "x", 1, []])
def test_what_is_no_scalar_equals_nothing(record: Any) -> None:
    filter = Filter(path="a", equals=("x", "", 0, 1, False, True))
    assert not kept(record, include=[filter])
    assert kept(record, exclude=[filter])


@pytest.mark.parametrize(
    ("wanted", "value", "equal"),
    [
        ("en", "en", True),
        ("en", "EN", False),
        ("en", "en ", False),
        ("", "", True),
        ("é", "e\u0301", False),
        ("5", 5, False),
        (5, "5", False),
        (5, 5.0, True),
        (5.0, 5, True),
        (0.1, 0.1, True),
        (2**53 + 1, 2**53, False),
        (2**64 - 1, 2**64 - 1, True),
        (1, True, False),
        (True, 1, False),
        (1.0, True, False),
        (False, 0, False),
        (True, True, True),
        (False, True, False),
    ],
)
def test_equals_compares_as_json_does(wanted: Any, value: Any, equal: bool) -> None:
    for wanted_ones in ((wanted,), ("nobody", wanted)):
        filter = Filter(path="a.0", equals=wanted_ones)
        assert kept({"a": [value]}, include=[filter]) is equal
        assert kept({"a": [value]}, exclude=[filter]) is not equal


@pytest.mark.parametrize(
    ("expression", "text", "found"),
    [
        ("touch ?down", "a touchdown!", True),
        ("touch ?down", "Touchdown", False),
        ("(?i)touch ?down", "TOUCH DOWN", True),
        ("^RT ", "RT x", True),
        ("^RT ", "x\nRT x", False),
        ("(?m)^RT ", "x\nRT x", True),
        ("x$", "x\n", False),
        (r"^\pL+$", "Ünal", True),
        ("^.$", "巨", True),  # a letter, not a byte
        ("(?i)ÜNAL", "ünal", True),
        ("a\x00b", "a\x00b", True),
        ("a*", "", True),
    ],
)
def test_a_regex_is_searched_anywhere(expression: str, text: str, found: bool) -> None:
    assert kept({"t": text}, include=[Filter(path="t", regex=expression)]) is found
    assert kept({"t": text}, exclude=[Filter(path="t", regex=expression)]) is not found


def test_a_regex_takes_linear_time() -> None:
    """Backtracking would take longer than the universe is old for a thousandth of it."""
    started = time.monotonic()
    assert not kept({"t": "a" * 1_000_000}, include=[Filter(path="t", regex="^(a|aa|a*)*b$")])
    assert time.monotonic() - started < 10


WORDS = ["Bears", "Ünal", "STRASSE", "巨人"]
LETTERS = st.sampled_from(["a", "é", "ß", "я", "7", "_", "\u0301"])


@given(st.sampled_from(WORDS), st.sampled_from(WORDS), st.text(" ,#\n«", max_size=3), LETTERS)
def test_a_word_is_found_in_any_case_unless_letters_touch_it(
    wanted: str, written: str, around: str, letter: str
) -> None:
    filter = Filter(path="t", any=(wanted,))
    for shown in (written.lower(), written.upper(), written.title()):
        text = around + shown + around[::-1]
        assert kept({"t": text}, include=[filter]) is (wanted == written)
        assert not kept({"t": around + letter + shown}, include=[filter]) or letter == "\u0301"
        assert not kept({"t": shown + letter + around}, include=[filter])


SCALARS = st.sampled_from(["a", "A", "", "1", 0, 1, 2, 1.5, True, False])


@given(st.lists(SCALARS, min_size=1, max_size=4), SCALARS | st.none())
def test_equals_is_being_in_the_list_as_json_writes_it(wanted: list[Any], value: Any) -> None:
    filter = Filter(path="a", equals=tuple(wanted))
    expected = json.dumps(value) in map(json.dumps, wanted)
    assert kept({"a": value}, include=[filter]) is expected


FILTERS = st.lists(
    st.sampled_from(
        [
            Filter(path="t", any=("a",)),
            Filter(path="t", regex="b"),
            Filter(path="t", equals=("a b",)),
            Filter(path="n", equals=(1, True)),
            Filter(path="", regex='"n"'),
        ]
    ),
    max_size=3,
)
RECORDS = st.fixed_dictionaries(
    {}, optional={"t": st.sampled_from(["a", "b", "a b", 1]), "n": st.sampled_from([0, 1, True])}
)


@given(st.lists(RECORDS, max_size=5), FILTERS, FILTERS)
def test_all_of_include_and_none_of_exclude(
    records: list[Any], include: list[Filter], exclude: list[Filter]
) -> None:
    """A filter alone says the same about a record as it does among others."""
    body = b"".join(json.dumps(record).encode() + b"\n" for record in records)
    batch = made(body, include=include, exclude=exclude)
    expected = [
        position
        for position, record in enumerate(records)
        if all(kept(record, include=[filter]) for filter in include)
        and not any(kept(record, include=[filter]) for filter in exclude)
    ]
    assert list(batch.positions) == expected
    assert batch.filtered == len(records) - len(expected)
    assert not batch.dead


def test_all_filters_must_match_and_broken_records_are_dead_not_filtered() -> None:
    include = [Filter(path="text", any=("Bears",)), Filter(path="user.lang", any=("en", "de"))]
    body = (
        b'{"text":"Bears","user":{"lang":"de"}}\n{"text":"Bears","user":{"lang":"fr"}}\n'
        b'{"text":"Colts","user":{"lang":"de"}}\nBears en\n\n'
    )
    batch = made(body, include=include)
    assert (batch.positions, batch.filtered, batch.blank) == ([0], 2, 1)
    assert [letter.position for letter in batch.dead] == [3]


def test_a_filter_on_the_whole_text() -> None:
    include = [Filter(path="", any=("error",))]
    batch = made(b"An ERROR: x\nterrors\n", format="text", include=include)
    assert (batch.rows, batch.filtered) == ([("An ERROR: x",)], 1)


def test_text_records_are_asked_as_they_came() -> None:
    body = b"GET /a 200\r\nGET /b 404\nPOST /a 200\n5\n\n\xff\n"
    include = [Filter(path="", regex="^(GET|POST) |^5$")]
    exclude = [Filter(path="", regex=" 404$"), Filter(path="", equals=("5",))]
    batch = made(body, format="text", include=include, exclude=exclude)
    assert batch.rows == [("GET /a 200",), ("POST /a 200",)]
    assert (batch.filtered, batch.blank) == (2, 1)
    assert [(letter.position, letter.code) for letter in batch.dead] == [(5, "utf8")]
