"""B11: what memory an instance takes, idle, and while a gigabyte waits and is stored.

The frames that wait are the embedded server's memory, so "flat" is about all other processes. It
is looked at all the time, not only at the end: what counts is the highest sum that was seen.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Thread

from tests.bench.cost import parent_of
from tests.bench.lines import Content, Lines
from tests.bench.measure import Comparison, Findings, Listing, Samples, check, limit, shown
from tests.bench.pausing import Pausing
from tests.bench.processes import GONE, family_of, pss_bytes
from tests.bench.run import Run
from tests.bench.ways import StreamDaemon, stream_daemon, wait_until
from tests.system.daemon import connect

COPIES = 9  # of the stream: a gigabyte of it, unless it is a short one
STORED_SHARE = 3  # one part of so many is stored while the rest waits
QUEUE = '[queue]\nbytes_max = "3GiB"\n'
IDLE_MB_MAX = 120
GROWTH_MAX = 1.2
LOOK_S = 0.2
SETTLE_S = 1.0  # behind a start: what is only needed for it has been let go
SERVER = "embedded server"
MB = "MB"

Memory = Mapping[str, float]  # MB by process


def b11(run: Run) -> Findings:
    """Idle, while the stream comes and nothing is stored, and while some of it is stored."""
    with stream_daemon(run.database, more=QUEUE) as way:
        time.sleep(SETTLE_S)
        idle = [_memory(way) for _ in range(run.rounds)]
        pausing = Pausing(way)
        with _peak(way) as coming:
            sent = _send(way, pausing, run.lines)
            frames = pausing.waiting()
        run.say(f"{sent / 1e9:.2f} GB wait in {frames:,} frames")
        storing = []
        for number in range(run.rounds):
            with _peak(way) as peak:
                pausing.store(frames // STORED_SHARE // run.rounds)
            storing.append(peak)
            run.say(f"round {number + 1}: {shown(_ours(peak))} {MB} beside the server's")
        wanted = _beginning(run.lines, way.committed())
        check(way.name, run.database.content(way.table), wanted)
    waits = f"{sent / 1e9:.2g} GB waiting"
    return Findings(
        [
            Comparison(
                "B11",
                "memory of all processes, idle",
                Samples("stream-daemon", MB, tuple(sum(one.values()) for one in idle)),
                limit(IDLE_MB_MAX, MB, run.rounds),
                aim=1,
                at_most=True,
            ),
            Comparison(
                "B11 full",
                f"all but the embedded server, storing with {waits}",
                Samples("stream-daemon", MB, tuple(map(_ours, storing))),
                Samples("the same, idle", MB, tuple(map(_ours, idle))),
                aim=GROWTH_MAX,
                at_most=True,
            ),
        ],
        [_listing(idle[-1], coming, _highest(storing), waits)],
    )


def _listing(idle: Memory, coming: Memory, storing: Memory, waits: str) -> Listing:
    names = sorted({*idle, *coming, *storing})
    heads = ("", "idle", f"until {waits}, storing paused", "while it is stored")
    rows = [(name, *(shown(one.get(name, 0)) for one in (idle, coming, storing))) for name in names]
    return Listing("B11: memory in MB (PSS), the highest seen of each", heads, rows)


def _send(way: StreamDaemon, pausing: Pausing, lines: Lines) -> int:
    """Send the stream again and again until it waits in the queue; how many bytes that are."""
    body = lines.body
    with connect(way.port) as connection:
        for _ in range(COPIES):
            connection.sendall(body)
    wait_until(lambda: pausing.received() >= lines.content.count * COPIES)
    return len(body) * COPIES


def _beginning(lines: Lines, records: int) -> Content:
    """So many records of the stream that is sent again and again: frames are stored in order."""
    copies, rest = divmod(records, lines.content.count)
    last = lines.first(rest).content
    return Content(records, copies * lines.content.digest + last.digest)


# ── looking ─────────────────────────────────────────────────────────────────────────────


@contextmanager
def _peak(way: StreamDaemon) -> Iterator[dict[str, float]]:
    """Look at the memory every LOOK_S; filled at the end with the highest of each process."""
    highest: dict[str, float] = {}
    ended = Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            highest.update(_highest([highest, _memory(way)]))

    looking = Thread(target=look)
    looking.start()
    try:
        yield highest
    finally:
        ended.set()
        looking.join()


def _memory(way: StreamDaemon) -> Memory:
    """What each takes now; several of one name are added up."""
    found: dict[str, float] = {}
    for pid, role in family_of(parent_of(way)).names.items():
        name = SERVER if role.startswith(("valkey", "redis")) else role
        try:
            found[name] = found.get(name, 0) + pss_bytes(pid) / 1e6
        except GONE:
            continue  # the server's child, which has written its file anew
    return found


def _highest(seen: list[Memory]) -> Memory:
    names = {name for one in seen for name in one}
    return {name: max(one.get(name, 0) for one in seen) for name in names}


def _ours(memory: Memory) -> float:
    return sum(size for name, size in memory.items() if name != SERVER)
