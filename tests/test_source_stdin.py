"""The stdin source: what is special about a pipe that nobody else will read.

What all sources promise is in contract/test_source.py.
"""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.contracts import Chunk
from appliance.frame import Gap
from appliance.framing import CUT, TOO_LONG
from appliance.sources.stdin import PIPE_BYTES, StdinSource

RECORD_BYTES_MAX = 50
FRAME_BYTES_MAX = 80


class Pipe:
    """Standard input with its writer's end."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        self.source = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=self.fd)

    def write(self, data: bytes) -> None:
        assert os.write(self.writer, data) == len(data)

    def end(self) -> None:
        os.close(self.writer)
        self.writer = -1

    def close(self) -> None:
        self.source.close()
        os.close(self.fd)
        if self.writer >= 0:
            os.close(self.writer)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def take(source: StdinSource) -> Chunk | None:
    """One turn; the chunk with a body that stays."""
    chunk = source.peek()
    if chunk is not None:
        chunk.body = bytes(chunk.body)
        source.discard(chunk)
    return chunk


def drain(source: StdinSource) -> list[Chunk]:
    """Turns until the end."""
    chunks = []
    while not source.ended:
        chunk = take(source)
        if chunk is not None:
            chunks.append(chunk)
    return chunks


def body(chunks: list[Chunk]) -> bytes:
    return b"".join(bytes(chunk.body) for chunk in chunks)


def test_bytes_come_as_they_are(pipe: Pipe) -> None:
    pipe.write(b"crlf\r\n\n\0nul\n\xff not UTF-8\nlast")
    pipe.end()
    chunks = drain(pipe.source)
    assert body(chunks) == b"crlf\r\n\n\0nul\n\xff not UTF-8\nlast\n"
    assert sum(chunk.records for chunk in chunks) == 5
    assert not any(chunk.rejected or chunk.gaps for chunk in chunks)


def test_no_input_at_all(pipe: Pipe) -> None:
    assert not pipe.source.ended
    assert pipe.source.peek() is None
    pipe.end()
    assert pipe.source.peek() is None
    assert pipe.source.ended


def test_it_has_ended_only_when_the_last_chunk_is_discarded(pipe: Pipe) -> None:
    pipe.write(b"last")
    pipe.end()
    chunk = pipe.source.peek()
    assert chunk is not None
    ended_while_shown = pipe.source.ended
    pipe.source.discard(chunk)
    assert (ended_while_shown, pipe.source.ended) == (False, True)
    assert pipe.source.peek() is None


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=12))
def test_any_splitting_of_the_input_gives_the_same_lines(parts: list[bytes]) -> None:
    pipe = Pipe()
    try:
        chunks = []
        for part in parts:
            pipe.write(part)
            chunk = take(pipe.source)
            chunks += [chunk] if chunk else []
        pipe.end()
        chunks += drain(pipe.source)
    finally:
        pipe.close()
    lines = b"".join(parts).split(b"\n")
    lines = lines if lines[-1] else lines[:-1]
    assert body(chunks) == b"".join(line[: RECORD_BYTES_MAX - 1] + b"\n" for line in lines)
    assert all(len(chunk.body) <= FRAME_BYTES_MAX for chunk in chunks)
    rejected = sum(len(line) >= RECORD_BYTES_MAX for line in lines)
    assert sum(len(chunk.rejected) for chunk in chunks) == rejected


def test_its_claim_says_only_how_much_was_lost(pipe: Pipe) -> None:
    pipe.write(b"one\ntwo\n")
    chunk = pipe.source.peek()
    assert chunk is not None
    assert chunk.claim == {"records": 2, "bytes": 8}
    successor = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=pipe.fd)
    successor.resume(None, chunk.claim)
    successor.again(chunk.claim)
    pipe.write(b"three\n")
    pipe.end()
    assert body(drain(successor)) == b"three\n", "what the dead one had read is gone"


def test_times_are_of_the_oldest_and_the_newest_byte(pipe: Pipe) -> None:
    clock = iter([100.0, 200.0, 300.0])
    source = StdinSource(100, 100, fd=pipe.fd, clock=lambda: next(clock))
    pipe.write(b"unfin")
    assert source.peek() is None
    pipe.write(b"ished\nnext")
    chunk = take(source)
    assert chunk is not None
    assert (chunk.first_received, chunk.last_received) == (100.0, 200.0)
    pipe.write(b"\n")
    chunk = take(source)
    assert chunk is not None
    assert (chunk.first_received, chunk.last_received) == (200.0, 300.0)


# ── stopping ────────────────────────────────────────────────────────────────────────────


def test_stop_reads_what_the_pipe_holds_and_nothing_later(pipe: Pipe) -> None:
    held = b"".join(b"%d\n" % number for number in range(200)) + b"unfinished"
    pipe.write(held)
    pipe.source.stop(quick=False)
    pipe.write(b" and finished too late\n")
    pipe.source.stop(quick=True)
    chunks = drain(pipe.source)
    assert body(chunks) == held + b"\n"
    assert chunks[-1].rejected == {chunks[-1].records - 1: CUT}
    assert os.read(pipe.fd, 100) == b" and finished too late\n"


def test_stop_at_the_end_of_input_makes_no_dead_letter(pipe: Pipe) -> None:
    pipe.write(b"one\nlast")
    pipe.end()
    pipe.source.stop(quick=True)
    chunks = drain(pipe.source)
    assert body(chunks) == b"one\nlast\n"
    assert not chunks[-1].rejected


def test_stop_without_input_ends_at_once(pipe: Pipe) -> None:
    pipe.source.stop(quick=False)
    assert pipe.source.peek() is None
    assert pipe.source.ended


# ── other things than pipes ─────────────────────────────────────────────────────────────


def test_a_regular_file_is_read_to_its_end_and_stops_at_once(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"0123456789012345678\n" * 10)
    with path.open("rb") as file:
        source = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=file.fileno())
        assert body(drain(source)) == path.read_bytes()
    with path.open("rb") as file:
        source = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=file.fileno())
        chunk = take(source)
        source.stop(quick=False)
        assert drain(source) == []
        assert chunk is not None
        assert len(chunk.body) == FRAME_BYTES_MAX


def test_a_socket_will_do() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=ours.fileno())
        theirs.sendall(b"one\ntwo")
        theirs.shutdown(socket.SHUT_WR)
        assert body(drain(source)) == b"one\ntwo\n"


@pytest.mark.parametrize("break_it", [lambda path: os.open(path, os.O_RDONLY), lambda _: 9999])
def test_what_can_not_be_read_is_a_gap_not_a_crash(
    tmp_path: Path, break_it: Callable[[Path], int]
) -> None:
    fd = break_it(tmp_path)  # a directory, a closed descriptor
    source = StdinSource(RECORD_BYTES_MAX, FRAME_BYTES_MAX, fd=fd)
    chunks = drain(source)
    assert [chunk.gaps for chunk in chunks] == [(Gap("unreadable"),)]
    assert source.ended
    if fd != 9999:
        os.close(fd)


def test_a_record_cut_by_an_error_is_a_dead_letter(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.write(b"one\nunfin")
    assert take(pipe.source) is not None

    def hung_up(*_: Any) -> int:
        raise OSError(5, "Input/output error")  # EIO, a terminal that went away

    pipe.write(b"ished\n")
    monkeypatch.setattr(os, "readv", hung_up)
    chunks = drain(pipe.source)
    assert body(chunks) == b"unfin\n"
    assert chunks[0].rejected == {0: CUT}
    assert chunks[0].gaps == (Gap("unreadable"),)


# ── the descriptor and the memory ───────────────────────────────────────────────────────


def test_the_descriptor_stays_blocking_and_open_and_the_pipe_is_grown(pipe: Pipe) -> None:
    flags = fcntl.fcntl(pipe.fd, fcntl.F_GETFL)
    assert not flags & os.O_NONBLOCK
    assert fcntl.fcntl(pipe.fd, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    assert pipe.source.peek() is None, "and yet it doesn't block"
    pipe.source.close()
    assert fcntl.fcntl(pipe.fd, fcntl.F_GETFL) == flags


def test_a_full_buffer_is_all_that_is_taken_from_the_pipe(pipe: Pipe) -> None:
    pipe.write(b"x\n" * 1000)
    assert pipe.source.peek() is not None
    left = os.read(pipe.fd, 10_000)
    assert len(left) == 2000 - FRAME_BYTES_MAX


def test_an_endless_line_is_skipped_in_bounded_memory(pipe: Pipe) -> None:
    pipe.write(b"x" * 5000)
    assert take(pipe.source) is not None
    for _ in range(100):
        assert pipe.source.peek() is None
    pipe.end()
    chunks = drain(pipe.source)
    assert body(chunks) == b""
    assert sum(chunk.skipped_bytes for chunk in chunks) == 5000 - FRAME_BYTES_MAX, (
        "the first chunk counted those of its buffer"
    )


def test_an_over_long_line_is_counted_once(pipe: Pipe) -> None:
    pipe.write(b"a\n" + b"x" * 500 + b"\nb\n")
    pipe.end()
    chunks = drain(pipe.source)
    assert body(chunks) == b"a\n" + b"x" * (RECORD_BYTES_MAX - 1) + b"\nb\n"
    assert chunks[0].rejected == {1: TOO_LONG}
    assert not any(chunk.rejected for chunk in chunks[1:])
    assert sum(chunk.skipped_bytes for chunk in chunks) == 500 - (RECORD_BYTES_MAX - 1)
