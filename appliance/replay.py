"""From this machine into the queue: one source's frames, fresh or out of its spool, in order.

A frame that waits is pushed, and forgotten only when that was answered. What a spool shows a
second time the queue knows by its number: of the same run it has all up to its last one.

On each new connection the queue is asked where it stands. Stands it behind where a frame
begins, it has forgotten what it had taken: a Redis that was emptied, or restored from an older
copy. Nobody holds that any more, unless it was stored already. So it is said, and the next
frame names it in its header: the ledger sees the hole in the numbers and knows its size. A
queue that stands further on than the frame of a source with a cursor is right: the caller
adopts its position, and the source shows again what is not in it.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from appliance import backoff
from appliance.contracts import (
    Checkpoint,
    Gauge,
    Push,
    Pushed,
    Queue,
    SourceState,
    Spool,
    Spooled,
    Wish,
    no_checkpoint,
)
from appliance.errors import Unavailable
from appliance.frame import Header, RunEnd, encode_header

QUEUE_FORGOT = "queue forgot"
SPOOL_DAMAGED = "spool damaged"
LEFTOVER_FRAMES = 64  # out of spools that no collector replays, between two other things to do
DONE = (Pushed.TAKEN, Pushed.HAVE_IT)


def end_of(header: Header) -> RunEnd:
    """Where a frame's run stands behind it."""
    records = header.records_before + header.records + (header.lacks or 0)
    size = header.bytes_before + header.body_bytes + (header.lacks_bytes or 0)
    return RunEnd(header.run, header.number, records, size)


def before(header: Header) -> RunEnd | None:
    """Where the source stood before a frame; None: nothing was before it."""
    if header.number == 1:
        return header.previous
    return RunEnd(header.run, header.number - 1, header.records_before, header.bytes_before)


def is_behind(state: SourceState | None, floor: RunEnd | None) -> bool:
    """Whether a queue that stands at `state` lacks what was handed over up to `floor`."""
    if floor is None:
        return False
    return state is None or (state.run, state.number) < (floor.run, floor.number)


class Line:
    """One source's way into the queue; says what the queue has forgotten.

    Attributes:
        state: what the queue knew of the source when it was last asked.
        last: run and number of the frame that it has got last, as far as we know.
    """

    def __init__(self, source: str, queue: Queue, say: Callable[[str], None]) -> None:
        self.state: SourceState | None = None
        self.last: tuple[str, int] | None = None
        self._source = source
        self._queue = queue
        self._say = say
        self._said = ""
        self._asked_as = ""  # the connection on which it was asked
        self._forgot = False
        self._insists = False

    def ask(self) -> SourceState | None:
        """Where the queue stands now."""
        self.state = self._queue.source_state(self._source)
        self._asked_as = self._queue.owner
        self.last = (self.state.run, self.state.number) if self.state else None
        return self.state

    def has(self, header: Header) -> bool:
        """Whether the queue has this frame of ours: it came in order, and its run was as far."""
        self._meet(header)
        state = self.state
        return state is not None and state.run == header.run and header.number <= state.number

    def push(self, frame: Spooled) -> Pushed:
        """Hand a frame over. ELSEWHERE: the queue stands further on, at `state`."""
        if frame.repaired:  # it comes late, so where the queue stands says nothing about it
            return self._queue.push(_push_of(frame, force=True))
        self._meet(frame.header)
        answer = self._queue.push(_push_of(self._told(frame), force=self._forgot or self._insists))
        if answer is Pushed.ELSEWHERE and is_behind(self.ask(), before(frame.header)):
            self._compare(frame.header)
            answer = self._queue.push(_push_of(self._told(frame), force=True))
        if answer in DONE:
            self._forgot = self._insists = False
            self._said = ""
            self.last = (frame.header.run, frame.header.number)
        return answer

    def insist(self) -> None:
        """The next frame goes in wherever the queue stands."""
        self._insists = True

    def lacks(self, floor: RunEnd | None) -> bool:
        """Whether the queue had forgotten something up to `floor`; then it is said, once."""
        self._forgot = is_behind(self.state, floor)
        if self._forgot and floor:
            text = _what_is_forgotten(self.state, floor)
            if text != self._said:
                self._say(text)
            self._said = text
        return self._forgot

    def _meet(self, header: Header) -> None:
        """On a new connection: ask where the queue stands, before anything else."""
        if not self._queue.owner or self._queue.owner != self._asked_as:
            self.ask()
            self._compare(header)

    def _compare(self, header: Header) -> None:
        """What lies before a frame whose header names a hole is no riddle."""
        self._forgot = header.hole is None and self.lacks(before(header))

    def _told(self, frame: Spooled) -> Spooled:
        """The frame; with what the queue forgot in its header, where nothing else is said."""
        return with_hole(frame, QUEUE_FORGOT) if self._forgot else frame


def with_hole(frame: Spooled, hole: str) -> Spooled:
    """The frame, saying why those before it may be missing, unless it says something else."""
    if frame.header.hole is not None:
        return frame
    header = replace(frame.header, hole=hole)
    return replace(frame, header=header, line=encode_header(header))


class Unreadable(Unavailable):
    """The spool, not the queue, doesn't do its work now."""


class Replay:
    """Hands what waits in a spool over, oldest first.

    Attributes:
        hole: why frames are missing that came behind the last one; None if nothing is known.
        frames, records, bytes: handed over so far (`bytes` of records).
    """

    def __init__(self, line: Line, spool: Spool, checkpoint: Checkpoint = no_checkpoint) -> None:
        self.hole: str | None = None
        self.frames = self.records = self.bytes = 0
        self._line = line
        self._spool = spool
        self._checkpoint = checkpoint
        self._set_aside = 0

    def some(self, frames_max: int) -> Pushed:
        """Hand up to so many frames over; the answer to the last one.

        Raises:
            Unreadable: the spool can't be read now.
            Unavailable: the queue doesn't answer; what was not handed over waits still.
        """
        answer = Pushed.TAKEN
        for _ in range(frames_max):
            frame = self.oldest()
            if frame is None:
                break
            answer = self._push(frame)
            if answer not in DONE:
                break
            self._checkpoint("replayed")
            self._spool.forget(frame)
            self._checkpoint("forgotten")
            self._count(frame.header)
        return answer

    def oldest(self) -> Spooled | None:
        """The frame that goes next; what was set aside before it makes a hole.

        Raises:
            Unreadable: the disk doesn't give it now; nothing goes before it.
        """
        try:
            frame = self._spool.oldest()
        except Unavailable as error:
            raise Unreadable(error.message, error.hint, error.loud) from error
        if self._spool.set_aside > self._set_aside:
            self._set_aside = self._spool.set_aside
            self.hole = SPOOL_DAMAGED
        return frame

    def _push(self, frame: Spooled) -> Pushed:
        if not frame.repaired and self._line.has(frame.header):
            return Pushed.HAVE_IT
        if self.hole and not frame.repaired and self._is_behind_hole(frame.header):
            answer = self._line.push(with_hole(frame, self.hole))
            self.hole = None if answer in DONE else self.hole
            return answer
        return self._line.push(frame)

    def _is_behind_hole(self, header: Header) -> bool:
        floor = before(header)
        return floor is not None and (floor.run, floor.number) != self._line.last

    def _count(self, header: Header) -> None:
        self.frames += 1
        self.records += header.records
        self.bytes += header.body_bytes


class Leftovers:
    """Spools that no collector replays: their sources are gone from the configuration, or nobody
    collects now.
    """

    def __init__(
        self, spools: Mapping[str, Spool], queue: Queue, say: Callable[[str], None]
    ) -> None:
        self._say = say
        self._spools = spools
        self._replays: dict[str, Replay] = {}
        self._left_alone: set[str] = set()
        self._said: dict[str, str] = {}
        for name, spool in spools.items():
            spool.open()
            self._replays[name] = Replay(Line(name, queue, say), spool)

    @property
    def handed_over(self) -> int:
        """Frames that went into the queue so far."""
        return sum(replay.frames for replay in self._replays.values())

    @property
    def size(self) -> int:
        """What waits in them, in bytes on the disk."""
        return sum(spool.size for spool in self._spools.values())

    def some(self, frames_max: int = LEFTOVER_FRAMES) -> bool:
        """Hand up to so many frames over; whether more may go at once.

        Raises:
            Unavailable: the queue doesn't answer.
        """
        for name, replay in self._left():
            try:
                if self._is_foreign(name, replay.oldest()):
                    continue
                answer = replay.some(frames_max)
            except Unreadable as error:
                self._unreadable(name, error)
                continue
            finally:
                for notice in self._spools[name].notices():
                    self._say(notice)
            if answer is Pushed.ELSEWHERE:
                self._left_alone.add(name)
                text = f"the spool of source {name} stays as it is: the queue has gone on without"
                self._say(f"{text}, and only its collector can tell from where")
            elif answer not in DONE:
                return False
            elif self._spools[name].size:
                return True
        return False

    def _is_foreign(self, name: str, frame: Spooled | None) -> bool:
        """Whether it is a copy of another source's spool: that one's frames go in by themselves."""
        if frame is None or frame.header.source == name:
            return False
        self._left_alone.add(name)
        text = f"the spool in the directory {name} has frames of source {frame.header.source}"
        self._say(f"{text}, and stays as it is → remove the directory, or give it that name")
        return True

    def _unreadable(self, name: str, error: Unreadable) -> None:
        if self._said.get(name) != error.message:
            self._say(f"the spool of source {name} waits: {error.message} → {error.hint}")
        self._said[name] = error.message

    def all(self, gauge: Gauge, wish: Wish, chance: Callable[[], float]) -> None:
        """Hand over what the queue takes, waiting while it is away, until told to end."""
        failures, more = 0, True
        while more and not wish.stop:
            gauge.beat()
            try:
                more = self.some()
            except Unavailable as error:
                gauge.waiting_for(f"the queue: {error.message}")
                wish.wait(backoff.full_jitter(failures, chance()))
                failures += 1
            else:
                gauge.waiting_for("")
                failures = 0

    def close(self) -> None:
        """Release descriptors."""
        for spool in self._spools.values():
            spool.close()

    def _left(self) -> Iterator[tuple[str, Replay]]:
        for name, replay in self._replays.items():
            if self._spools[name].size and name not in self._left_alone:
                yield name, replay


def _push_of(frame: Spooled, force: bool) -> Push:
    header, end = frame.header, end_of(frame.header)
    return Push(
        source=header.source,
        run=header.run,
        number=header.number,
        header=frame.line,
        body=frame.body,
        records=end.records,
        bytes=end.bytes,
        cursor_before=header.cursor_before,
        cursor_after=header.cursor_after,
        force=force,
    )


def _what_is_forgotten(state: SourceState | None, floor: RunEnd) -> str:
    """In words, as far as it can be known: what was stored before is no loss."""
    if state is not None and state.run == floor.run:
        first, records = state.number + 1, floor.records - state.records
        size = floor.bytes - state.bytes
        frames = f"frames {first} to {floor.number} of run {floor.run}"
        what = f"{frames}, which it had taken: {records} records ({size} bytes)"
    else:
        what = f"all frames of run {floor.run}, up to {floor.number}, which it had taken"
    return (
        f"the queue has forgotten {what}; those that were not stored yet are lost, and become gaps"
    )
