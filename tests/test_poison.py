"""The poison rule: from the deaths over a frame to what is done with it."""

import random

import pytest

from appliance.poison import ALONE_AFTER, judge

ALONE = "SIGKILL SIGSEGV exit-code-1"

HISTORIES = {  # name: deaths, whether it goes alone, positions that are condemned, news
    "nothing happened": ("", False, [], False),
    "one death": ("SIGSEGV", False, [], False),
    "two deaths": ("SIGSEGV SIGSEGV", False, [], False),
    "three deaths": (ALONE, True, [], True),
    "one with a record": (f"{ALONE} SIGSEGV@7", True, [], False),
    "two with the same record": (f"{ALONE} SIGSEGV@7 SIGSEGV@7", True, [7], True),
    "record 0": (f"{ALONE} SIGABRT@0 SIGBUS@0", True, [0], True),
    "of an error of ours": (f"{ALONE} exit-code-1@7 exit-code-1@7", True, [7], True),
    "with two records": (f"{ALONE} SIGSEGV@7 SIGSEGV@8", True, [], False),
    "not in a row": (f"{ALONE} SIGSEGV@7 SIGSEGV@8 SIGSEGV@7", True, [], False),
    "between rows": (f"{ALONE} SIGSEGV@7 SIGSEGV SIGSEGV@7", True, [], False),
    "in a row at last": (f"{ALONE} SIGSEGV@7 SIGSEGV@8 SIGSEGV@8", True, [8], True),
    "two, one behind the other": (
        f"{ALONE} SIGSEGV@7 SIGSEGV@7 SIGSEGV@9 SIGSEGV@9",
        True,
        [7, 9],
        True,
    ),
    "the first stays dead": (f"{ALONE} SIGSEGV@7 SIGSEGV@7 SIGSEGV@9", True, [7], False),
    "behind the verdict": (f"{ALONE} SIGSEGV@7 SIGSEGV@7 SIGSEGV", True, [7], False),
    "killed twice": (f"{ALONE} SIGKILL@7 SIGKILL@7", True, [], False),
    "killed three times": (f"{ALONE} SIGKILL@7 SIGKILL@7 SIGKILL@7", True, [], False),
    "killed four times": (f"{ALONE}{' SIGKILL@7' * 4}", True, [7], True),
    "killed, then crashed": (f"{ALONE} SIGKILL@7 SIGSEGV@7", True, [7], True),
    "crashed, then killed": (f"{ALONE} SIGSEGV@7 SIGKILL@7", True, [], False),
    "only without a record": (f"{ALONE}{' SIGSEGV' * 50}", True, [], False),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_rule(name: str) -> None:
    deaths, alone, condemned, news = HISTORIES[name]
    verdict = judge(deaths)
    assert (verdict.alone, list(verdict.condemned), verdict.news) == (alone, condemned, news)


def test_the_reason_says_how_often_what_died_of_what() -> None:
    verdict = judge(f"{ALONE} SIGABRT@7 exit-code-1@7 SIGSEGV@9 SIGSEGV@9")
    assert verdict.condemned == {
        7: "2 times in a row a subscriber died (SIGABRT, exit code 1) with this record in hand;"
        " 7 deaths over its frame in all",
        9: "2 times in a row a subscriber died (SIGSEGV) with this record in hand;"
        " 7 deaths over its frame in all",
    }


def test_who_is_killed_at_random_practically_never_has_the_same_record_in_hand_so_often() -> None:
    """A hundred records are as many as may be in hand when the killer's clock is a good one."""
    dice, condemned = random.Random(1), 0
    for _ in range(1000):
        words = ["SIGKILL"] * ALONE_AFTER
        words += [f"SIGKILL@{dice.randrange(100)}" for _ in range(100)]
        condemned += len(judge(" ".join(words)).condemned)
    assert condemned <= 1  # of 100,000 kills


def test_what_eats_all_memory_is_found_although_others_kill_too() -> None:
    words = f"{ALONE} SIGKILL@3 SIGKILL@500 SIGKILL@2 SIGKILL@7" + " SIGKILL@7" * 3
    assert list(judge(words).condemned) == [7]
