"""B5, B6, B7: from TCP to committed rows, everything running, against other ways to get there."""

from tests.bench.measure import RECORDS_PER_S, Comparison, Findings, Side, in_turns
from tests.bench.rsyslog import WORKERS, rsyslog
from tests.bench.run import Run
from tests.bench.ways import LoadData, stream_daemon, textbook

WHAT = "TCP → MariaDB committed, everything running"
RSYSLOG_SHARE = 15
TEXTBOOK_SHARE = 60  # the textbook way gets the first of so many equal parts of the stream


def b5(run: Run) -> Findings:
    """Against the stock client's LOAD DATA, from files."""
    with stream_daemon(run.database) as way:
        other = LoadData(run.database)
        run.database.make_like(other.table, way.table)
        samples = in_turns(run.side(way), run.side(other), RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison("B5", WHAT, *samples, aim=0.9)])


def b6(run: Run) -> Findings:
    """Against rsyslog: imtcp, a queue in memory, ommysql; at its best, and as most run it."""
    with stream_daemon(run.database) as way:
        ours = run.side(way)
        rows = [_b6(run, ours, name, n) for name, n in (("B6", WORKERS), ("B6, one worker", 1))]
    return Findings(rows)


def _b6(run: Run, ours: Side, name: str, workers: int) -> Comparison:
    with rsyslog(run.database, workers) as other:
        theirs = run.side(other, share=RSYSLOG_SHARE)
        samples = in_turns(ours, theirs, RECORDS_PER_S, run.rounds, run.say)
    return Comparison(name, WHAT, *samples, aim=10)


def b7(run: Run) -> Findings:
    """Against the textbook way: RPUSH, RPOPLPUSH, INSERT, LREM."""
    with stream_daemon(run.database) as way, textbook(run.database) as other:
        slow = run.side(other, share=TEXTBOOK_SHARE)
        samples = in_turns(run.side(way), slow, RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison("B7", WHAT, *samples, aim=20)])
