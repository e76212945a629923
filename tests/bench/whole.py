"""B5, B7: from TCP to committed rows, everything running, against other ways to get there."""

from tests.bench.measure import RECORDS_PER_S, Comparison, Findings, in_turns
from tests.bench.run import Run
from tests.bench.ways import LoadData, stream_daemon, textbook

WHAT = "TCP → MariaDB committed, everything running"
TEXTBOOK_SHARE = 60  # the textbook way gets the first of so many equal parts of the stream


def b5(run: Run) -> Findings:
    """Against the stock client's LOAD DATA, from files."""
    with stream_daemon(run.database) as way:
        other = LoadData(run.database)
        run.database.make_like(other.table, way.table)
        samples = in_turns(run.side(way), run.side(other), RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison("B5", WHAT, *samples, aim=0.9)])


def b7(run: Run) -> Findings:
    """Against the textbook way: RPUSH, RPOPLPUSH, INSERT, LREM."""
    with stream_daemon(run.database) as way, textbook(run.database) as other:
        slow = run.side(other, share=TEXTBOOK_SHARE)
        samples = in_turns(run.side(way), slow, RECORDS_PER_S, run.rounds, run.say)
    return Findings([Comparison("B7", WHAT, *samples, aim=20)])
