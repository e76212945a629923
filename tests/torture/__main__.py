"""The program behind `make torture`.

    python -m tests.torture [--time 10m] [--seed N] [--only kills] [--kills N] [--rate N]
                            [--pace X] [--scenario NAME] [--plan] [--keep]

Says on stderr how far it is, prints a table on stdout. Exit code 0: nothing was lost, doubled,
changed or out of order, and nothing was left behind; 1: something was, and all that one needs
to find out why is kept in the folder that is named; 69: a server that is needed isn't installed.
"""

import argparse
import random
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import pytest

from appliance.errors import Exit
from tests.torture import plan
from tests.torture.report import table
from tests.torture.run import Order, torture
from tests.torture.scenarios import RATE as SCENARIO_RATE
from tests.torture.scenarios import SCENARIOS

FAILED = 1
UNITS_S = {"s": 1, "m": 60, "h": 3600}
GROUPS = {"kills": ("kill",), "links": tuple(plan.LINK), "senders": ("break", "end", "slow")}


def main(words: Sequence[str]) -> int:
    """Run what is asked for."""
    asked = _arguments(words)
    order = _order(asked)
    if asked.plan:
        faults = plan.merged(order.lanes().values())
        for fault in islice(faults, asked.kills or None):
            print(fault)
        return Exit.OK
    print(f"seed {asked.seed}", file=sys.stderr)
    try:
        report = torture(order, keep=asked.keep)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(missing, file=sys.stderr)
        return Exit.UNREACHABLE
    print(table(report))
    return Exit.OK if report.good else FAILED


def _order(asked: argparse.Namespace) -> Order:
    order = Order(asked.seed, asked.time, asked.only, asked.kills, asked.pace, asked.rate)
    if asked.scenario:
        scenario = SCENARIOS[asked.scenario]
        time_s = scenario.time_s / asked.pace
        return replace(order, time_s=time_s, kills=0, rate=SCENARIO_RATE, scenario=scenario)
    return order


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.torture",
        description="Strike a whole instance at random, and count what became of every record.",
    )
    parser.add_argument(
        "--time", type=_seconds, default=_seconds("1m"), help="such as 90s, 10m, 2h"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--only",
        type=_kinds,
        default=plan.KINDS,
        metavar="KIND,…",
        help=f"of {', '.join((*GROUPS, *plan.KINDS))}",
    )
    parser.add_argument("--kills", type=int, default=0, help="until so many, whatever --time says")
    parser.add_argument("--pace", type=float, default=1.0, help="so many times as often")
    parser.add_argument("--rate", type=float, default=2500.0, help="records a second, of all")
    parser.add_argument("--scenario", choices=SCENARIOS, help="a long outage instead of chance")
    parser.add_argument("--plan", action="store_true", help="print what would be done")
    parser.add_argument("--keep", action="store_true", help="keep what a good run leaves, too")
    return parser.parse_args(words)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9.]+)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text} is no time such as 90s, 10m, 2h")
    return float(found[1]) * UNITS_S[found[2]]


def _kinds(text: str) -> tuple[str, ...]:
    kinds: list[str] = []
    for word in text.split(","):
        if word not in GROUPS and word not in plan.KINDS:
            raise argparse.ArgumentTypeError(f"{word} is no kind of fault")
        kinds += GROUPS.get(word, (word,))
    return tuple(kinds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
