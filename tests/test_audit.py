"""`audit`, the verb: how often it looks, whose turn it is, and what it prints."""

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance import process
from appliance.accounts import Recount
from appliance.balance import Balance, Difference, Line
from appliance.contracts import Remark
from appliance.errors import Exit, InstanceError, Unavailable
from appliance.instance import Instance
from appliance.verbs import audit, holder
from appliance.verbs.audit import AWAY_LOOKS_MAX, LOOKS_MAX, LOOKS_MIN, OutOfTime

RUN = "0190c0de" + "0" * 24
AWAY = Unavailable("Redis at here: connection refused")


@dataclass
class Errand:
    """Time that passes by waiting only; `drain`: somebody has told us to end."""

    left: int = 10**6
    drain: bool = False
    waits: int = 0

    @property
    def stop(self) -> bool:
        return self.drain or self.waits >= self.left

    def wait(self, _timeout_s: float) -> None:
        self.waits += 1


def difference(first: int = 1, kind: str = "adrift") -> Difference:
    return Difference(kind, "s", f"frame {first} is gone", "look", RUN, first, 10)


def found(*firsts: int) -> Balance:
    return Balance({"s": Line(received=10)}, [difference(first) for first in firsts])


@dataclass
class Auditor:
    """Finds these, one after the other, and the last again and again."""

    looks: Sequence[Balance | Unavailable]
    done: int = 0
    recounts: set[bool] = field(default_factory=set)

    def look(self, *, recount: bool) -> Balance:
        self.recounts.add(recount)
        one = self.looks[min(self.done, len(self.looks) - 1)]
        self.done += 1
        if isinstance(one, Unavailable):
            raise one
        return Balance(one.lines, [*one.differences])


def look(
    *looks: Balance | Unavailable, looks_max: int = LOOKS_MAX, **errand: Any
) -> tuple[list[int], int]:
    """The frames that are said to differ, and how many looks that took."""
    auditor = Auditor(looks)
    done = audit._look_until_sure(
        auditor,  # type: ignore[arg-type]
        Errand(**errand),  # type: ignore[arg-type]
        looks_max,
        recount=True,
    )
    assert auditor.recounts == {True}
    return [one.first for one in done.differences], auditor.done


# ── looking ─────────────────────────────────────────────────────────────────────────────


def test_the_first_look_without_a_difference_is_the_end() -> None:
    assert look(found()) == ([], 1)
    assert look(found(1), found(2), found()) == ([], 3)


def test_a_difference_that_stays_is_one() -> None:
    assert look(found(1)) == ([1], LOOKS_MAX)
    assert look(found(1, 2), found(1, 3)) == ([1], LOOKS_MAX), "3 came later, 2 went"
    assert look(found(1), looks_max=LOOKS_MIN) == ([1], LOOKS_MIN)


def test_a_server_that_is_away_for_a_moment_is_asked_again() -> None:
    assert look(*[AWAY] * (AWAY_LOOKS_MAX - 1), found()) == ([], AWAY_LOOKS_MAX)
    assert look(found(1), AWAY, found()) == ([], 3)
    with pytest.raises(Unavailable) as caught:
        look(AWAY)
    assert caught.value is AWAY
    assert caught.value.exit_code == Exit.UNREACHABLE
    with pytest.raises(Unavailable):
        look(AWAY, found(), left=0)


def test_when_the_time_is_over() -> None:
    with pytest.raises(OutOfTime, match="isn't sure yet") as caught:
        look(found(1), left=0)
    assert caught.value.exit_code == Exit.TIMED_OUT
    assert look(found(), left=0) == ([], 1), "one is enough to see that all is well"
    assert look(found(1), left=1) == ([1], LOOKS_MIN)
    with pytest.raises(OutOfTime, match="told to end"):
        look(found(1), drain=True)


# ── alone, or beside an instance ────────────────────────────────────────────────────────


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    made = Instance(tmp_path / "nfl")
    made.make()
    return made


@contextmanager
def another(*paths: Path) -> Iterator[int]:
    """Another process that holds these locks."""
    ready, tell = os.pipe()
    end, ended = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ended)
        locks = [process.Lock(path) for path in paths]
        os.write(tell, b"%d" % all(lock.try_acquire() for lock in locks))
        os.read(end, 1)  # until the test is over, or gone
        os._exit(0)
    os.close(end)
    try:
        assert os.read(ready, 1) == b"1"
        yield pid
    finally:
        for fd in (ended, ready, tell):
            os.close(fd)
        os.waitpid(pid, 0)


def turn(instance: Instance, errand: Errand) -> Any:
    return audit._turn(instance, errand)  # type: ignore[arg-type]


def test_alone_it_holds_the_instance_and_is_taken_for_none(instance: Instance) -> None:
    with turn(instance, Errand()) as alone:
        assert alone
        assert holder.draining(instance) == os.getpid()
        assert holder.parent(instance) is None
        assert not process.Lock(instance.lock).try_acquire()
    lock, drain = process.Lock(instance.lock), process.Lock(instance.drain_lock)
    assert lock.try_acquire()
    assert drain.try_acquire()
    lock.release()
    drain.release()


def test_beside_an_instance_it_is_in_nobodys_way(instance: Instance) -> None:
    with another(instance.lock), turn(instance, Errand()) as alone:
        assert not alone
        drain = process.Lock(instance.drain_lock)
        assert drain.try_acquire()
        drain.release()


def test_a_drain_that_is_alone_is_waited_for(instance: Instance) -> None:
    with (
        another(instance.drain_lock, instance.lock) as pid,
        pytest.raises(holder.StillHeld, match=f"pid {pid}") as caught,
        turn(instance, Errand(left=3)),
    ):
        pass
    assert caught.value.exit_code == Exit.TIMED_OUT


def test_where_no_instance_has_run(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n[source.s]\ntype = "stdin"\n')
    args = argparse.Namespace(config=str(file), recount=False, json=False, timeout=9.0)
    with pytest.raises(InstanceError, match="no instance has run") as caught:
        audit.run(args)
    assert caught.value.hint
    assert not (tmp_path / "state").exists()


# ── what is said ────────────────────────────────────────────────────────────────────────

WHOLE = Balance(
    {
        "tweets": Line(1_234_567, 1_000_000, 200_000, 1, 2, 3, 34_561, spooled=5),
        "log": Line(10, 10, stretches=2),
    },
    [],
    [Remark("the queue has forgotten some", "look"), Remark("so it is")],
    Recount("records", 1_000_010, {"tweets": 1}, rewrites=True),
)


def test_a_page_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    print(audit._page(WHOLE))
    assert capsys.readouterr().out.splitlines() == [
        "source   received     stored  filtered  dead  blank  lost  queued  difference",
        "tweets  1,234,567  1,000,000   200,000     1      2     3  34,561           0",
        "log            10         10         0     0      0     0       0           0",
        "all     1,234,577  1,000,010   200,000     1      2     3  34,561           0",
        "the queue has forgotten some",
        "  → look",
        "so it is",
        "2 stretches of source log never reached us, and nobody knows how many records they were",
        "counted: 1,000,010 rows in table records",
        "counted: 1 dead letters",
        "all 1,234,577 records are accounted for; 3 of them are lost",
    ]
    print(audit._page(Balance({"s": Line(received=10)}, [difference(4)])))
    assert capsys.readouterr().out.splitlines() == [
        "source  received  stored  filtered  dead  blank  lost  queued  difference",
        "s             10       0         0     0      0     0       0          10",
        "DIFFERENCE: frame 4 is gone",
        "  → look",
    ]


def test_a_page_when_nothing_came_yet(capsys: pytest.CaptureFixture[str]) -> None:
    print(audit._page(Balance()))
    assert capsys.readouterr().out == "all 0 records are accounted for\n"


def test_rows_that_were_written_over_have_no_own(capsys: pytest.CaptureFixture[str]) -> None:
    fewer = Recount("records", 9, {}, rewrites=True)
    assert "has none of its own" in audit._page(Balance({"s": Line(10, 10)}, recount=fewer))


def test_a_report_for_programs() -> None:
    report = json.loads(json.dumps(audit._report(WHOLE)))
    assert report.keys() == {"agrees", "sources", "total", "differences", "remarks", "recount"}
    assert report["agrees"]
    assert report["sources"]["tweets"]["queued"] == 34_561
    assert report["total"]["difference"] == 0
    assert report["recount"]["dead"] == {"tweets": 1}
    report = audit._report(found(4))
    assert not report["agrees"]
    assert report["recount"] is None
    assert report["total"]["difference"] == 10
    [one] = report["differences"]
    assert (one["kind"], one["run"], one["first"], one["records"]) == ("adrift", RUN, 4, 10)
