"""How cost goes with more subscribers, longer records, and more columns, on one machine.

Several cases are measured by turns, in one direction and in the other: each case of a round has met
about the same load of the machine.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from signal import Signals
from zlib import crc32

from tests.bench.cost import CPU_S_PER_MILLION, DATABASE, Cost, cost_of
from tests.bench.database import another
from tests.bench.lines import Lines
from tests.bench.measure import Comparison, Findings, Listing, Samples, check, shown, spread
from tests.bench.pausing import Pausing
from tests.bench.run import Run
from tests.bench.ways import StreamDaemon, stream_daemon, wait_until
from tests.system.daemon import connect


@dataclass(frozen=True, slots=True)
class Case:
    """One of several that are measured by turns; `costs` are its rounds."""

    name: str
    once: Callable[[], Cost]
    costs: list[Cost] = field(default_factory=list)

    def samples(self, unit: str, figure: Callable[[Cost], float]) -> Samples:
        """One figure of each round."""
        return Samples(self.name, unit, tuple(map(figure, self.costs)))

    def shown(self, figure: Callable[[Cost], float]) -> str:
        """The same for people."""
        return spread([*map(figure, self.costs)])


def measure(cases: Sequence[Case], run: Run) -> None:
    """All cases by turns; who goes first changes with each round."""
    for number in range(run.rounds):
        for case in reversed(cases) if number % 2 else cases:
            cost = case.once()
            case.costs.append(cost)
            run.say(
                f"round {number + 1}: {case.name}: {shown(cost.per_million)} {CPU_S_PER_MILLION},"
                f" {shown(cost.records_per_s)} records/s"
            )


def per_million(cost: Cost) -> float:
    """Seconds of a core for a million records."""
    return cost.per_million


def stored_from_tcp(way: StreamDaemon, lines: Lines) -> Cost:
    """What it costs to store these lines, everything running."""
    way.database.empty(way.table)
    return cost_of(way, lambda: way.store(lines))


# ── subscribers ─────────────────────────────────────────────────────────────────────────

SUBSCRIBERS = (1, 2, 4)
SUBSCRIBERS_SHARE = 2  # of the stream's first half each backlog is made
SUBSCRIBERS_GROWTH_MAX = 1.3


def subscribers(run: Run) -> Findings:
    """The same backlog, stored by one, two and four subscribers."""
    lines = run.lines.first(run.lines.content.count // SUBSCRIBERS_SHARE)
    with stream_daemon(run.database, top=f"subscribers = {SUBSCRIBERS[0]}\n") as way:
        pausing = Pausing(way)
        cases = [
            Case(
                f"{number} subscribers" if number > 1 else "one subscriber",
                lambda number=number: _drained(way, pausing, lines, number),
            )
            for number in SUBSCRIBERS
        ]
        measure(cases, run)
    one, most = (case.samples(CPU_S_PER_MILLION, per_million) for case in (cases[0], cases[-1]))
    heads = ("", CPU_S_PER_MILLION, "of that the subscribers", "of that the database", "records/s")
    rows = [(case.name, *_shares(case)) for case in cases]
    return Findings(
        [
            Comparison(
                "scale-subscribers",
                "a record's cost, backlog → MariaDB",
                most,
                one,
                aim=SUBSCRIBERS_GROWTH_MAX,
                at_most=True,
            )
        ],
        [Listing("scale-subscribers: a backlog stored", heads, rows)],
    )


def _drained(way: StreamDaemon, pausing: Pausing, lines: Lines, number: int) -> Cost:
    _have_subscribers(way, number)
    way.database.empty(way.table)
    before = pausing.received()
    with connect(way.port) as connection:
        connection.sendall(lines.body)
    wait_until(lambda: pausing.received() == before + lines.content.count)
    cost = cost_of(way, lambda: pausing.store(pausing.waiting()))
    check(f"{number} subscribers", way.database.content(way.table), lines.content)
    return cost


def _have_subscribers(way: StreamDaemon, number: int) -> None:
    """Have one more, or one fewer, until there are so many."""
    while (there := _subscribers(way)) != number:
        way.daemon.signal(Signals.SIGTTIN if there < number else Signals.SIGTTOU)
        wait_until(lambda there=there: _subscribers(way) != there)


def _subscribers(way: StreamDaemon) -> int:
    status = way.daemon.try_status()
    return len(status["subscribers"]) if status else 0


# ── the size of records ─────────────────────────────────────────────────────────────────

SIZES = (100, 1_000, 32_000, 2**20)  # with the newline; the last is record_bytes_max
SIZE_BYTES, SIZE_RECORDS_MAX = 32_000_000, 150_000  # of each, whichever is less
RECORDS_OF_ALL = 300_000  # a shorter stream has less of each size, too


def size(run: Run) -> Findings:
    """The same way with short and long records: how many megabytes a second."""
    share = min(1.0, run.lines.content.count / RECORDS_OF_ALL)
    with stream_daemon(run.database) as way:
        cases = []
        for length in SIZES:
            number = int(share * min(SIZE_BYTES / length, SIZE_RECORDS_MAX)) + 1
            lines = Lines.of(records_of(run.lines.records, length, number))

            def once(lines: Lines = lines) -> Cost:
                cost = stored_from_tcp(way, lines)
                check(way.name, run.database.content(way.table), lines.content)
                return cost

            cases.append(Case(f"records of {length:,} bytes", once))
        measure(cases, run)
    megabytes = {case.name: length / 1e6 for case, length in zip(cases, SIZES, strict=True)}
    rates = [
        case.samples("MB/s", lambda cost, case=case: cost.records_per_s * megabytes[case.name])
        for case in cases
    ]
    rows = [
        (
            case.name,
            spread(rate.rounds),
            case.shown(lambda cost, case=case: cost.per_million / 1e3 / megabytes[case.name]),
            case.shown(lambda cost: cost.records_per_s),
        )
        for case, rate in zip(cases, rates, strict=True)
    ]
    heads = ("", "MB/s", "CPU ms/MB", "records/s")
    return Findings(
        [Comparison("scale-size", "TCP → MariaDB committed", rates[-1], rates[0], aim=1)],
        [Listing("scale-size: TCP → MariaDB committed", heads, rows)],
    )


def records_of(tweets: Sequence[bytes], length: int, number: int) -> Iterator[bytes]:
    """JSON records of just this length, made of tweets, no two the same."""
    place = 0
    for index in range(number):
        record = bytearray(b'{"id":%d,"tweets":[' % index)
        while len(record) + len(tweets[place % len(tweets)]) + 20 < length:
            record += tweets[place % len(tweets)] + b","
            place += 1
        record += b'0],"is":"'
        yield bytes(record + b"x" * (length - 3 - len(record)) + b'"}')


# ── columns ─────────────────────────────────────────────────────────────────────────────

COLUMNS = (1, 10, 100)
COLUMNS_SHARE = 20
TYPES = ("BIGINT", "VARCHAR(20)", "DOUBLE")  # by turns
VALUE = "CPU s/million values"


def columns(run: Run) -> Findings:
    """The same records of a hundred fields, of which more and more become columns."""
    number = run.lines.content.count // COLUMNS_SHARE
    lines = Lines.of(json.dumps(_fields(index)).encode() for index in range(number))
    with ExitStack() as stack:
        cases = []
        for width in COLUMNS:
            own = stack.enter_context(another(run.database, f"columns_{width}"))
            way = stack.enter_context(stream_daemon(own, columns=_config(width)))

            def once(way: StreamDaemon = way, width: int = width) -> Cost:
                cost = stored_from_tcp(way, lines)
                assert _sums(way, width) == _wanted(number, width), "a wrong table"
                return cost

            cases.append(Case(f"{width} columns" if width > 1 else "one column", once))
        measure(cases, run)
    few, many = (
        cases[at].samples(VALUE, lambda cost, at=at: cost.per_million / COLUMNS[at])
        for at in (1, -1)
    )
    heads = ("", CPU_S_PER_MILLION, "of that the subscribers", "of that the database", "records/s")
    return Findings(
        [Comparison("scale-columns", "a column's cost", many, few, aim=1, at_most=True)],
        [
            Listing(
                f"scale-columns: TCP → MariaDB, records of {len(lines.records[0]):,} bytes",
                heads,
                [(case.name, *_shares(case)) for case in cases],
            )
        ],
    )


def _shares(case: Case) -> tuple[str, ...]:
    return (
        case.shown(per_million),
        case.shown(lambda cost: cost.of("subscriber")),
        case.shown(lambda cost: cost.of(DATABASE)),
        case.shown(lambda cost: cost.records_per_s),
    )


def _fields(index: int) -> dict[str, object]:
    makers = (lambda at: index * at, lambda at: f"text {index} of {at}", lambda at: index + at / 2)
    return {f"f{at}": makers[at % len(makers)](at + 1) for at in range(COLUMNS[-1])}


def _config(width: int) -> str:
    return "".join(
        f'f{at} = {{ path = "f{at}", type = "{TYPES[at % len(TYPES)]}" }}\n' for at in range(width)
    )


def _sums(way: StreamDaemon, width: int) -> list[float]:
    """How many rows there are, and for each column a sum: of its numbers, or of its texts' CRCs."""
    terms = [f"SUM(CRC32(f{at}))" if at % len(TYPES) == 1 else f"SUM(f{at})" for at in range(width)]
    [row] = way.database.run(f"SELECT COUNT(*), {', '.join(terms)} FROM `{way.table}`")
    return [*map(float, row)]


@cache
def _wanted(number: int, width: int) -> list[float]:
    sums = [float(number)] + [0.0] * width
    for index in range(number):
        for at, value in zip(range(width), _fields(index).values(), strict=False):
            sums[at + 1] += crc32(value.encode()) if isinstance(value, str) else value
    return sums
