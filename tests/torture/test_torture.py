"""The torture program itself: its plan, its account, and one short run of all of it."""

from collections.abc import Sequence
from itertools import islice, pairwise

import pytest

from tests.torture import __main__ as program
from tests.torture import plan
from tests.torture.account import Account, Dead, Gap, Row, compare
from tests.torture.lines import Lines, parse
from tests.torture.report import table
from tests.torture.run import Order, torture
from tests.torture.senders import TAKEN_S, Stretch, doubt

SEED = 4
SHORT_S = 12.0
RUN = b"r" * 16


# ── the plan ────────────────────────────────────────────────────────────────────────────


def first(faults: int, seed: int, only: tuple[str, ...] = plan.KINDS) -> list[plan.Fault]:
    return list(islice(plan.merged(plan.lanes(seed, only).values()), faults))


def test_a_seed_is_a_plan() -> None:
    assert first(500, seed=1) == first(500, seed=1)
    assert first(500, seed=1) != first(500, seed=2)


def test_faults_come_in_order_and_every_kind_comes() -> None:
    faults = first(2000, seed=3)
    assert faults == sorted(faults)
    assert {fault.kind for fault in faults} == set(plan.KINDS)
    targets = {target for lane in plan.LANES.values() for target in lane.targets}
    assert {fault.target for fault in faults} == targets


def test_lanes_overlap_and_within_a_lane_faults_do_not() -> None:
    for lane in plan.lanes(5).values():
        faults = list(islice(lane, 300))
        for one, next_one in pairwise(faults):
            assert next_one.at_s >= one.at_s + one.lasts_s
    lasting = [fault for fault in first(1000, seed=5) if fault.lasts_s]
    ends = [fault.at_s + fault.lasts_s for fault in lasting]
    assert any(end > later.at_s for end, later in zip(ends, lasting[1:], strict=False))


def test_only_kills_leaves_the_plan_of_a_lane_as_often() -> None:
    kills = first(100, seed=6, only=("kill",))
    assert {fault.kind for fault in kills} == {"kill"}
    assert {fault.target for fault in kills} >= {"parent", "redis", "mariadb", "recovery"}


def test_the_plan_is_printed_and_nothing_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--plan", "--seed", "7", "--kills", "20", "--only", "kills"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [str(fault) for fault in first(20, seed=7, only=("kill",))]


# ── the account ─────────────────────────────────────────────────────────────────────────

LINES = Lines(1, "tcp1", long_every=7)


def row(number: int, *, frame: int = 1, position: int | None = None, raw: bytes = b"") -> Row:
    place = number if position is None else position
    return (raw or LINES.line(number), RUN, frame, place)


def account(
    rows: list[Row],
    *stretches: Stretch,
    dead: Sequence[Dead] = (),
    gaps: Sequence[Gap] | None = None,
) -> Account:
    rests: list[Gap] = [("cut", None, None)] if dead else []
    return compare({"tcp1": (LINES, stretches)}, rows, dead, rests if gaps is None else gaps)


def test_a_record_says_whose_it_is() -> None:
    assert parse(LINES.line(6)) == ("tcp1", 6)
    assert len(LINES.line(6)) > 400_000 > len(LINES.line(5))
    assert parse(b"no record") is None


def test_all_there_once_is_good() -> None:
    found = account([row(0), row(1), row(2)], Stretch(0, 3, "whole"))
    assert (found.sent, found.stored, found.problems) == (3, 3, {})


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([row(0), row(2)], "lost"),
        ([row(0), row(1)], "lost"),
        ([row(0), row(1), row(2), row(1, frame=2)], "doubled"),
        ([row(0), row(1), row(2, raw=LINES.line(2) + b"?")], "changed"),
        ([row(0), row(1), row(2), row(3)], "lost"),
        ([row(0), row(1), row(2), (b"what is this", RUN, 1, 3)], "nobody's"),
        ([row(0), row(1, frame=3), row(2, frame=2)], "out of order"),
        ([row(1), row(0), row(2)], "out of order"),
    ],
)
def test_what_is_wrong_is_found(rows: list[Row], kind: str) -> None:
    end = 5 if len(rows) == 4 and rows[3] == row(3) else 3
    found = account(rows, Stretch(0, end, "whole"))
    assert set(found.counts) == {kind}


def test_of_a_refused_connection_a_beginning_may_be_stored() -> None:
    stretches = (Stretch(0, 10, "refused"), Stretch(11, 12, "whole"))
    rows = [row(0), row(1), row(11, frame=2)]
    found = account(rows, *stretches)
    assert (found.sent, found.stored, found.refused, found.problems) == (11, 3, 8, {})
    cut = [("cut", LINES.line(2)[:3], "1")]
    assert account(rows, *stretches, dead=cut).problems == {}
    assert account(rows, *stretches, dead=[("cut", LINES.line(3)[:30], "1")]).counts == {"dead": 1}
    assert account([row(0), row(2), row(11, frame=2)], *stretches).counts == {"lost": 1}


def test_a_broken_record_is_a_dead_letter_and_nothing_else_is() -> None:
    half = LINES.line(2)[:20]
    stretch = Stretch(0, 2, "broken", half)
    rows = [row(0), row(1)]
    cut, poison = ("cut", half, "1"), ("poison", b"x", "1")
    assert account(rows, stretch, dead=[cut]).problems == {}
    assert account(rows, stretch).counts == {"half lost": 1}
    assert account(rows, stretch, dead=[cut, cut]).counts == {"dead": 1}
    assert account(rows, stretch, dead=[cut, poison]).counts == {"dead": 1}
    assert account(rows, stretch, dead=[cut], gaps=[]).counts == {"gap": 1}


def test_half_a_record_before_a_proper_end_is_a_record() -> None:
    half = LINES.line(1)[:20]
    stretch = Stretch(0, 1, "half", half)
    assert account([row(0), row(1, raw=half)], stretch).problems == {}
    assert account([row(0)], stretch).counts == {"lost": 1}
    assert account([row(0), row(1)], stretch).counts == {"changed": 1}


@pytest.mark.parametrize(
    ("gap", "is_wrong"),
    [
        (("connection lost", None, 1), False),
        (("connection lost", None, 9), True),
        (("connection lost", 7, 1), True),
        (("cut", None, None), True),
        (("truncated", None, 1), True),
    ],
)
def test_only_what_a_parent_took_with_it_may_be_a_gap(gap: Gap, is_wrong: bool) -> None:
    found = account([row(0)], Stretch(0, 3, "refused"), gaps=[gap])
    assert found.counts == ({"gap": 1} if is_wrong else {})


def test_an_end_that_overlaps_with_a_death_proves_nothing() -> None:
    for fate, taken_s in (("whole", 0.0), ("broken", TAKEN_S)):
        for killed, expected in ((20.0 + taken_s, "refused"), (20.1 + taken_s, fate)):
            stretch = Stretch(0, 3, fate, opened_at=10.0, ended_at=20.0)
            doubt(stretch, [(1.0, 2.0), (killed, killed + 1)])
            assert stretch.fate == expected


# ── a run ───────────────────────────────────────────────────────────────────────────────


def test_a_short_run_of_everything() -> None:
    order = Order(SEED, SHORT_S, pace=2.0)
    report = torture(order)
    print(f"make torture SEED={SEED} TIME={SHORT_S:.0f}s MORE='--pace {order.pace}'")
    print(table(report))
    assert report.good
    assert report.account.stored > 0
    assert sum(report.done.values()) > 30
