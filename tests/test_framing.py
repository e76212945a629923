"""framing.cut against a reference that looks at one line after the other."""

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance import framing
from appliance.framing import CUT, TOO_LONG, Ending, cut


@dataclass
class Framed:
    """All that came out of an input: what must be the same however it was split."""

    body: bytes = b""
    records: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    skipped_bytes: int = 0
    rest: bytes = b""


def by_hand(data: bytes, record_bytes_max: int, ending: Ending) -> Framed:
    """The reference: line by line, as the essay of framing.py says it."""
    lines = data.split(b"\n")
    unfinished = lines.pop()
    out = Framed()
    for line in lines:
        add_line(out, line, record_bytes_max)
    if len(unfinished) + 1 > record_bytes_max:
        add_line(out, unfinished, record_bytes_max)
    elif unfinished and ending is Ending.OPEN:
        out.rest = unfinished
    elif unfinished:
        if ending is Ending.BROKEN:
            out.rejected[out.records] = CUT
        add_line(out, unfinished, record_bytes_max)
    return out


def add_line(out: Framed, line: bytes, record_bytes_max: int) -> None:
    if len(line) + 1 > record_bytes_max:
        kept = min(framing.REJECTED_BYTES_MAX, record_bytes_max - 1)
        out.rejected[out.records] = TOO_LONG
        out.skipped_bytes += len(line) - kept
        line = line[:kept]
    out.body += line + b"\n"
    out.records += 1


def in_pieces(pieces: list[bytes], record_bytes_max: int, ending: Ending) -> Framed:
    """Feed the pieces as a source does: the unfinished line stays, at changing offsets."""
    out, skipping = Framed(), False
    left, searched = list(pieces), 0
    for number in itertools.count():
        if not left:
            return out
        piece, last = left.pop(0), not left
        pad = b"\n" * (number % 3)  # what lies before `start` and behind `end` is not ours
        buffer = bytearray(pad + out.rest + piece + b"\nx")
        start, end = len(pad), len(buffer) - 2
        got = cut(
            buffer,
            start,
            end,
            record_bytes_max=record_bytes_max,
            skipping=skipping,
            ending=ending if last else Ending.OPEN,
            searched=start + searched,
        )
        again = cut(
            buffer,
            start,
            start + got.taken,
            record_bytes_max=record_bytes_max,
            skipping=skipping,
            ending=ending if last else Ending.OPEN,
        )
        assert again == got, "a successor that cuts what was taken must get the same"
        body = bytes(got.body(buffer))
        assert body.count(b"\n") == got.records
        assert all(index < got.records for index in got.rejected)
        out.rejected |= {out.records + index: code for index, code in got.rejected.items()}
        out.records += got.records
        out.body += body
        out.skipped_bytes += got.skipped_bytes
        out.rest = bytes(buffer[start + got.taken : end])
        skipping = got.skipping
        assert got.records <= framing.RECORDS_MAX + 1, "and an unfinished one"
        searched = 0 if got.limited else len(out.rest)
        if got.limited:
            left.insert(0, b"")
            continue
        assert not (last and skipping and ending is not Ending.OPEN), "nothing follows an end"
        assert b"\n" not in out.rest
        assert len(out.rest) < record_bytes_max
    raise AssertionError


pieces = st.lists(
    st.lists(st.sampled_from([b"\n", b"\n", b"a", b"bc", b"\r\n", b"\0", b"x" * 9])).map(b"".join),
    min_size=1,
    max_size=12,
)


@given(pieces, st.integers(1, 12), st.sampled_from(Ending))
@example([b"a" * 7 + b"\n"], 8, Ending.OPEN)
@example([b"a" * 8 + b"\n"], 8, Ending.OPEN)
@example([b"aaaa", b"aaaa", b"aa", b"\nb\n"], 8, Ending.OPEN)
@example([b"aaaaaaaa", b""], 8, Ending.BROKEN)
@example([b"a\nb\nc\n" + b"d" * 20 + b"\ne\n" + b"f" * 9 + b"\n"], 8, Ending.OPEN)
def test_any_split_gives_what_line_by_line_gives(
    split: list[bytes], record_bytes_max: int, ending: Ending
) -> None:
    expected = by_hand(b"".join(split), record_bytes_max, ending)
    assert in_pieces(split, record_bytes_max, ending) == expected


@given(pieces, st.integers(1, 12), st.sampled_from(Ending), st.integers(1, 6))
@example([b"a" * 20 + b"\n" * 9], 50, Ending.OPEN, 2)
@example([b"\n" * 9 + b"a" * 20 + b"\n"], 50, Ending.CLEAN, 2)
@example([b"a" * 20 + b"\n" + b"b" * 20 + b"\nc"], 8, Ending.BROKEN, 1)
def test_so_does_a_limit_of_records(
    split: list[bytes], record_bytes_max: int, ending: Ending, records_max: int
) -> None:
    expected = by_hand(b"".join(split), record_bytes_max, ending)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "RECORDS_MAX", records_max)
        assert in_pieces(split, record_bytes_max, ending) == expected


@pytest.mark.parametrize("line", [b"\n", b"a\n", b"abc\n"])
def test_a_flood_of_tiny_lines_is_taken_in_parts(line: bytes) -> None:
    """Where the limit cuts, no more than a step of proportion is wasted."""
    buffer = bytearray(line * 400_000 + b"the last\n")
    got = cut(buffer, 0, len(buffer), record_bytes_max=3)
    assert framing.RECORDS_MAX * 0.9 < got.records <= framing.RECORDS_MAX
    assert got.taken == got.records * len(line)
    assert got.limited
    assert len(got.rejected) == (got.records if len(line) > 3 else 0)


@pytest.mark.parametrize(
    ("ending", "taken", "body", "rejected"),
    [
        (Ending.OPEN, 4, b"one\n", {}),
        (Ending.CLEAN, 6, b"one\ntw\n", {}),
        (Ending.BROKEN, 6, b"one\ntw\n", {1: CUT}),
    ],
)
def test_the_unfinished_last_line(
    ending: Ending, taken: int, body: bytes, rejected: dict[int, str]
) -> None:
    buffer = bytearray(b"one\ntw")
    got = cut(buffer, 0, 6, record_bytes_max=100, ending=ending)
    assert (got.taken, bytes(got.body(buffer)), got.rejected) == (taken, body, rejected)


def test_an_over_long_record_keeps_its_first_64_kib() -> None:
    long = bytes(range(97, 123)) * 10_000
    buffer = bytearray(b"before\n" + long + b"\nafter\n")
    got = cut(buffer, 0, len(buffer), record_bytes_max=100_000)
    assert bytes(got.body(buffer)) == b"before\n" + long[:65536] + b"\nafter\n"
    assert got.rejected == {1: TOO_LONG}
    assert got.skipped_bytes == len(long) - 65536
    assert not got.skipping


def test_an_over_long_record_is_decided_before_its_end_came() -> None:
    buffer = bytearray(b"z" * 100)
    got = cut(buffer, 0, 100, record_bytes_max=100)
    assert got.skipping
    assert bytes(got.body(buffer)) == b"z" * 99 + b"\n"
    rest = bytearray(b"zz\nnext\n")
    got = cut(rest, 0, len(rest), record_bytes_max=100, skipping=got.skipping)
    assert bytes(got.body(rest)) == b"next\n"
    assert got.skipped_bytes == 2
    assert not got.rejected


def test_the_common_way_is_one_view_of_the_buffer() -> None:
    buffer = bytearray(b"one\r\n\ntwo\0\nthr")
    got = cut(buffer, 0, len(buffer), record_bytes_max=1000)
    body = got.body(buffer)
    assert isinstance(body, memoryview)
    assert body.obj is buffer
    assert bytes(body) == b"one\r\n\ntwo\0\n"
    assert got.records == 3


class Counting(bytearray):
    """A buffer that counts how often it is searched."""

    looks = 0

    def rfind(self, *args):  # type: ignore[no-untyped-def]
        self.looks += 1
        return super().rfind(*args)


def test_looks_are_counted_in_buffers_not_in_records() -> None:
    buffer = Counting(b"0123456789\n" * 10_000)
    cut(buffer, 0, len(buffer), record_bytes_max=len(buffer))
    assert buffer.looks <= 1
    cut(buffer, 0, len(buffer), record_bytes_max=len(buffer) // 4)
    assert buffer.looks <= 1 + 1 + 5


def test_what_was_searched_is_not_searched_again() -> None:
    buffer = bytearray(b"\n234567")  # a newline that an earlier call can't have overlooked
    assert cut(buffer, 0, 7, record_bytes_max=100, searched=3).taken == 0
