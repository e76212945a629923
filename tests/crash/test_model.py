"""The protocol searched: no interleaving breaks a promise, and without any of its rules one does.

A larger world takes minutes: python -m tests.crash.search --kills 2 --outages 1
"""

from dataclasses import fields, replace

import pytest

from tests.crash.model import Limits, Model, Rules
from tests.crash.search import STUCK, Outcome, search

CALM = Limits(kills=0, outages=0)
ONE_KILL = Limits(kills=1, outages=0)
ONE_OUTAGE = Limits(kills=0, outages=1)
TWO_KILLS = Limits(kills=2, outages=0)
FORGETFUL = Limits(kills=0, outages=0, forgets=1)

SABOTAGES = {  # rule: what is broken without it, and in how small a world that shows
    "peek_leaves_bytes": ("lost", CALM),
    "push_before_discard": ("lost", CALM),
    "word_after_discard": ("doubled", ONE_KILL),
    "two_slots": ("damaged note", ONE_KILL),
    "birth_heeds_doubt": ("doubled", ONE_KILL),
    "again_is_what_was_noted": ("lost", ONE_KILL),
    "begun_discard_is_finished": ("doubled", ONE_KILL),
    "one_collector": ("lost", CALM),
    "spool_goes_first": ("overtaken", ONE_OUTAGE),
    "forget_after_push": ("lost", ONE_OUTAGE),
    "commit_before_confirm": ("lost", CALM),
    "new_owner_after_error": ("lost", ONE_OUTAGE),
    "give_back": (STUCK, ONE_KILL),
    "scan_before_list": ("taken away", ONE_KILL),
    "living_keep_theirs": ("taken away", CALM),
    "look_into_ledger": ("doubled", ONE_KILL),
    "one_row_per_frame": ("doubled", ONE_KILL),
    "shared_lock": ("doubled", ONE_KILL),
    "exclusive_lock": ("doubled", ONE_KILL),
    "fold_cuts_gaps": (STUCK, CALM),
    "gap_is_not_stored": ("lost", CALM),
    "look_again_before_gap": ("doubled", ONE_KILL),
    "look_whether_queue_forgot": (STUCK, FORGETFUL),
}


def report(title: str, outcome: Outcome) -> Outcome:
    """Show it to whoever looks (pytest -s), or has a failure to look at."""
    print(f"\n{title}: {outcome}")
    return outcome


@pytest.mark.parametrize(
    "limits",
    [
        TWO_KILLS,
        Limits(units=2, kills=2, outages=1),
        Limits(kills=1, outages=1),
        Limits(kills=1, outages=0, forgets=1),
        Limits(kills=0, outages=1, forgets=1),
    ],
    ids=str,
)
def test_every_promise_holds_whatever_happens_when(limits: Limits) -> None:
    outcome = report(str(limits), search(Model(Rules(), limits)))
    assert not outcome.broken, outcome
    assert outcome.ends > 0


@pytest.mark.parametrize("rule", SABOTAGES)
def test_without_this_rule_a_promise_breaks(rule: str) -> None:
    promise, limits = SABOTAGES[rule]
    broken = replace(Rules(), **{rule: False})
    outcome = report(f"without {rule}", search(Model(broken, limits), promise))
    assert outcome.broken == promise, outcome


def test_every_rule_is_broken_once() -> None:
    assert [*SABOTAGES] == [field.name for field in fields(Rules)]
