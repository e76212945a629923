"""Frames: what is encoded comes back, and what is damaged is Corrupt, never a guess or a crash."""

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Corrupt
from appliance.frame import (
    Frame,
    Gap,
    Header,
    RunEnd,
    checksum,
    decode,
    encode_header,
    name_of,
)

RUN = "0192f0c1d2e37abc8def0123456789ab"

counts = st.integers(0, 2**53 - 1)
times = st.floats(0, 4e9, allow_nan=False)
runs = st.binary(min_size=16, max_size=16).map(bytes.hex)
words = st.text(max_size=20)
maybe_counts = st.none() | counts
maybe_times = st.none() | times
gaps = st.builds(
    Gap,
    cause=words,
    records=maybe_counts,
    bytes=maybe_counts,
    began=maybe_times,
    ended=maybe_times,
)
ends = st.builds(RunEnd, run=runs, number=counts, records=counts, bytes=counts)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    body = draw(st.binary(max_size=200)) + b"\n"
    return Frame(
        Header(
            run=draw(runs),
            number=draw(st.integers(1, 2**53 - 1)),
            source=draw(words),
            records=body.count(b"\n"),
            records_before=draw(counts),
            bytes_before=draw(counts),
            body_bytes=len(body),
            crc=checksum(body),
            first_received=draw(times),
            last_received=draw(times),
            cursor_before=draw(st.none() | words),
            cursor_after=draw(st.none() | words),
            rejected=draw(st.dictionaries(st.integers(0, 1000), words, max_size=3)),
            gaps=tuple(draw(st.lists(gaps, max_size=3))),
            skipped_bytes=draw(counts),
            previous=draw(st.none() | ends),
            hole=draw(st.none() | words),
        ),
        body,
    )


BODY = b'{"a": 1}\nsecond\n'
HEADER = Header(RUN, 7, "tweets", 2, 10, 100, len(BODY), checksum(BODY), 1.5, 2.5)


def item_of(header: Header, body: bytes = BODY) -> bytes:
    return encode_header(header) + body


@given(frames())
def test_what_was_encoded_comes_back(frame: Frame) -> None:
    assert decode(item_of(frame.header, frame.body)) == frame


def test_an_item_explains_itself() -> None:
    """A line of JSON, then the records as they came: any Redis client shows it."""
    line, body = item_of(HEADER).split(b"\n", 1)
    assert body == BODY
    fields = json.loads(line)
    assert (fields["source"], fields["number"], fields["records"]) == ("tweets", 7, 2)
    assert (fields["layout"], fields["codec"], fields["format"]) == ("lines", "none", 1)


def test_a_released_format_stays_readable() -> None:
    """An item of format 1 as it was written once; never change it."""
    item = (
        b'{"run":"0192f0c1d2e37abc8def0123456789ab","number":3,"source":"s","records":2,'
        b'"records_before":5,"bytes_before":50,"body_bytes":6,"crc":1441827793,'
        b'"first_received":1.25,"last_received":2.5,"cursor_before":"a","cursor_after":"b",'
        b'"rejected":{"1":"too long"},"gaps":[{"cause":"lost","records":4,"bytes":null}],'
        b'"skipped_bytes":9,"previous":{"run":"00","number":1,"records":2,"bytes":3},'
        b'"layout":"lines","codec":"none","format":1}\nab\ncd\n'
    )
    header = decode(item).header
    assert asdict(header) == {
        "run": RUN,
        "number": 3,
        "source": "s",
        "records": 2,
        "records_before": 5,
        "bytes_before": 50,
        "body_bytes": 6,
        "crc": 1441827793,
        "first_received": 1.25,
        "last_received": 2.5,
        "cursor_before": "a",
        "cursor_after": "b",
        "rejected": {1: "too long"},
        "skipped_bytes": 9,
        "hole": None,
        "lacks": None,
        "lacks_bytes": None,
        "layout": "lines",
        "codec": "none",
        "gaps": ({"cause": "lost", "records": 4, "bytes": None, "began": None, "ended": None},),
        "previous": {"run": "00", "number": 1, "records": 2, "bytes": 3},
        "format": 1,
    }


def altered(**fields: object) -> bytes:
    """The item above with some fields of its header replaced; ... takes one out."""
    header = json.loads(encode_header(HEADER)) | fields
    kept = {key: value for key, value in header.items() if value is not ...}
    return json.dumps(kept).encode() + b"\n" + BODY


END = {"run": RUN, "number": 1, "records": 2, "bytes": 3}
NOT_OURS = {
    "nothing": b"",
    "no line": b"hello",
    "no JSON": b"hello\nworld\n",
    "no object": b"[1]\n",
    "another object": b"{}\n",
    "not UTF-8": b'{"format":1,"\xff"}\n',
    "nested without end": b"[" * 100_000 + b"\n",
    "no layout": altered(layout=...),
    "another layout": altered(layout="length-prefixed"),
    "another codec": altered(codec="zstd"),
    "no number": altered(number=...),
    "a field that we don't know": altered(colour="red"),
    "rejected is a list": altered(rejected=[1]),
    "rejected by name": altered(rejected={"first": "cut"}),
    "gaps of numbers": altered(gaps=[1]),
    "gaps is a number": altered(gaps=1),
    "a gap without cause": altered(gaps=[{"records": 1}]),
    "previous is a word": altered(previous="x"),
    "previous lacks its run": altered(previous={"number": 1}),
    "the run before is no hex": altered(previous=END | {"run": "run"}),
    "the run before is too long": altered(previous=END | {"run": RUN + "00"}),
    "the run before had less than nothing": altered(previous=END | {"records": -1}),
    "the run before ended with a word": altered(previous=END | {"number": "last"}),
    "a number that no database knows": altered(number=2**53),
    "a gap of less than nothing": altered(gaps=[{"cause": "cut", "records": -1}]),
    "a gap's cause is a number": altered(gaps=[{"cause": 7}]),
    "a gap began too late": altered(gaps=[{"cause": "cut", "began": 1e300}]),
    "a gap ended at noon": altered(gaps=[{"cause": "cut", "ended": "noon"}]),
    "a hole without a word": altered(hole=["why"]),
    "run is no hex": altered(run="run"),
    "run is a number": altered(run=5),
    "run is short": altered(run="00"),
    "number is a word": altered(number="seven"),
    "number is 0": altered(number=0),
    "number is a float": altered(number=7.0),
    "source is null": altered(source=None),
    "source is longer than one may be": altered(source="s" * 33),
    "time is a word": altered(first_received="noon"),
    "body cut": item_of(HEADER)[:-1],
    "body longer": item_of(HEADER) + b"x",
    "body changed": item_of(HEADER, BODY.replace(b"second", b"secone")),
    "another sum": item_of(replace(HEADER, crc=1)),
    "another length": item_of(replace(HEADER, body_bytes=3)),
}


@pytest.mark.parametrize("what", NOT_OURS)
def test_what_is_not_a_whole_frame_of_ours(what: str) -> None:
    with pytest.raises(Corrupt) as raised:
        decode(NOT_OURS[what])
    assert raised.value.message


@given(frames())
def test_a_name_is_read_without_reading_the_header(frame: Frame) -> None:
    item = encode_header(frame.header) + frame.body
    assert name_of(item) == frame.header.name == f"{frame.header.run}:{frame.header.number}"
    assert name_of(item[:-1] + b"?") == frame.header.name  # whatever else is wrong with it


@pytest.mark.parametrize(
    "item", [b"", b"\n", b"record\n", b'{}\n"run":"0a","number":1\n', b'{"run":"0a","number":1}']
)
def test_what_has_no_name(item: bytes) -> None:
    assert name_of(item) == ""


def test_a_newer_format_says_what_to_do() -> None:
    with pytest.raises(Corrupt, match="format 2 can't be read") as raised:
        decode(altered(format=2))
    assert "upgrade" in raised.value.hint


@given(frames(), st.data())
def test_a_changed_byte_of_the_body_is_seen(frame: Frame, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(frame.body) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda value: value != frame.body[at]))
    body = bytearray(frame.body)
    body[at] = other
    with pytest.raises(Corrupt):
        decode(item_of(frame.header, bytes(body)))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(words, below, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*asdict(HEADER)]), values, min_size=1, max_size=3))
def test_no_header_makes_anything_but_a_frame_or_corrupt(fields: dict[str, object]) -> None:
    try:
        decode(altered(**fields))
    except Corrupt:
        pass


@given(st.binary(max_size=100))
def test_no_bytes_make_anything_but_a_frame_or_corrupt(item: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(item)
