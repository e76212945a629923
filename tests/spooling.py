"""What the tests of the spool share: small frames, and a collector in miniature."""

from functools import cache
from pathlib import Path

from appliance.contracts import Spooled
from appliance.errors import Unavailable
from appliance.frame import Header, checksum, encode_header
from appliance.spool import DiskSpool
from tests.fake_disk import PLACE, Disk, FakeFiles, Fault

RUN = "0192f0c1d2e37abc8def0123456789ab"
SOURCE = PLACE / "spool" / "tweets"
PLENTY = 2**40
TRIES_MAX = 10


@cache
def frame(number: int, body: bytes = b"") -> tuple[bytes, bytes]:
    """Header line and body of a frame, always the same for a number."""
    body = body or b"record %d\n" % number * 2
    header = Header(
        run=RUN,
        number=number,
        source="tweets",
        records=body.count(b"\n"),
        records_before=2 * number - 2,
        bytes_before=20 * number,
        body_bytes=len(body),
        crc=checksum(body),
        first_received=1.5,
        last_received=2.5,
    )
    return encode_header(header), body


@cache
def item(number: int) -> bytes:
    return b"".join(frame(number))


class Clock:
    """Time that only goes on when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Life:
    """One process that spools: what was kept and handed over is known to the test alone."""

    def __init__(
        self,
        disk: Disk | None = None,
        faults: dict[int, Fault] | None = None,
        bytes_max: int = PLENTY,
        directory: Path = SOURCE,
    ) -> None:
        self.disk = disk or Disk()
        self.files = FakeFiles(self.disk, faults)
        self.clock = Clock()
        self.spool = DiskSpool(directory, bytes_max, files=self.files, monotonic=self.clock)
        self.directory = directory
        self.notices: list[str] = []
        self.pushed: list[int] = []
        self.queue: set[int] = set()  # what was ever pushed

    def open(self) -> "Life":
        self.spool.open()
        return self

    def append(self, *numbers: int) -> None:
        for number in numbers:
            self.spool.append(*frame(number))

    def hand_over(self) -> Spooled | None:
        """The oldest frame, checked against what it has to be, and forgotten."""
        shown = self.spool.oldest()
        self.notices += self.spool.notices()
        if shown is None:
            return None
        assert self.spool.size > 0
        number = shown.header.number
        assert shown.line + bytes(shown.body) == item(number)
        if not shown.repaired:  # a queue takes it for one that it has, up to its last number
            assert number in self.queue or number > max(self.queue, default=0)
        self.pushed.append(number)
        self.queue.add(number)
        self.spool.forget(shown)
        return shown

    def replay(self) -> list[int]:
        """Hand over all that waits."""
        before = len(self.pushed)
        while self.hand_over():
            pass
        assert self.spool.size == 0
        assert self.spool.newest is None
        return self.pushed[before:]

    def names(self) -> list[str]:
        return self.files.names(self.directory)


class Story:
    """Lives one after the other, with a script of what they do.

    a   append the next frame, until it is kept
    h   hand the oldest over
    |   end, and begin a new life
    """

    def __init__(self, script: str, faults: dict[int, Fault] | None = None) -> None:
        self.disk = Disk()
        self.kept: list[int] = []
        self.trying = 0
        self.refusals: list[Unavailable] = []
        self.life = Life(self.disk, faults)
        self._script = script

    def tell(self) -> None:
        self.life.open()
        for step in self._script:
            if step == "a":
                self.append()
            elif step == "h":
                self.hand_over()
            else:
                self.life.spool.close()
                self.life.spool.open()

    def hand_over(self) -> None:
        for _ in range(TRIES_MAX):
            try:
                self.life.hand_over()
                return
            except Unavailable as error:
                self.refusals.append(error)
        raise AssertionError("it is never shown")

    def append(self) -> None:
        self.trying = len(self.kept) + 1
        for _ in range(TRIES_MAX):
            try:
                self.life.append(self.trying)
                break
            except Unavailable as error:
                self.refusals.append(error)
        else:
            raise AssertionError("it is never kept")
        self.kept.append(self.trying)
        self.trying = 0

    def next_life(self, faults: dict[int, Fault] | None = None) -> None:
        """After a death: the frame in hand is made again, as a collector does at its birth."""
        notices = self.life.notices
        queue = self.life.queue
        self.life = Life(self.disk, faults)
        self.life.notices, self.life.queue = notices, queue
        self.life.open()
        newest = self.life.spool.newest
        assert newest is None or newest.number in {self.trying, *self.kept}
        if self.trying:
            self.append()

    def end(self) -> None:
        """All that was kept is handed over, each once, in its order."""
        handed = {*self.life.queue}
        replayed = self.life.replay()
        assert replayed == sorted({*replayed}), "in order, nothing twice"
        assert {*self.kept} - handed <= {*replayed} <= {*self.kept}, "nothing lost or made up"
        assert self.life.files.descriptors == 0
