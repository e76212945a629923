"""The program behind `make bench`.

    python -m tests.bench [FIGURE …] [--json FILE] [--pictures DIR]
                          [--records N] [--rounds N] [--seed N]

Says on stderr what it does, prints the tables on stdout, and writes the same as JSON into a
file if asked, and pictures into a directory. A figure for which something isn't installed is left
out, and named. Exit code 0: the others were measured, and each table held what was sent; 69: there
are no others.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import Exit
from tests.bench import report
from tests.bench.database import OPTIONS, private_database
from tests.bench.figures import FIGURES
from tests.bench.lines import make_lines
from tests.bench.measure import Findings
from tests.bench.run import Run, one_of
from tests.bench.ways import LEASE_BYTES

RECORDS = 300_000
ROUNDS = 3
SEED = 1


def main(words: Sequence[str]) -> int:
    """Measure what is asked for."""
    asked = _arguments(words)
    try:
        findings, settings, seconds = _measured(asked)
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        print(missing, file=sys.stderr)
        return Exit.UNREACHABLE
    if not findings:
        return Exit.UNREACHABLE
    print(report.text([*findings, report.times(seconds)]), end="")
    if asked.json:
        content = report.as_json(findings, settings) | {"seconds": seconds}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        asked.json.write_text(text + "\n")
    if asked.pictures:
        Path(asked.pictures).mkdir(parents=True, exist_ok=True)
        for name, picture in [item for found in findings for item in found.pictures.items()]:
            Path(asked.pictures, name).write_text(picture)
    return Exit.OK


Seconds = dict[str, float]  # that each figure has taken, "all" of it


def _measured(asked: argparse.Namespace) -> tuple[list[Findings], dict[str, Any], Seconds]:
    began, seconds = time.perf_counter(), {}
    lines = make_lines(asked.records, asked.seed)
    _say(
        f"{asked.records:,} lines of {len(lines.body) / asked.records:.0f} bytes, seed {asked.seed}"
    )
    with private_database() as database:
        run = Run(database, lines, asked.rounds, _say)
        findings = []
        for name in asked.figures or FIGURES:
            _say(f"{name}:")
            at = time.perf_counter()
            try:
                findings.append(FIGURES[name](run))
            except pytest.skip.Exception as missing:
                _say(f"{name} is left out: {missing}")
            seconds[name] = round(time.perf_counter() - at, 1)
            _say(f"{name} took {seconds[name]:.0f} s")
        [(version,)] = database.run("SELECT VERSION()")
    seconds["all"] = round(time.perf_counter() - began, 1)
    settings = {
        "records": asked.records,
        "line_bytes": round(len(lines.body) / asked.records, 1),
        "seed": asked.seed,
        "transaction_bytes": LEASE_BYTES,
        "database": f"{version}, {' '.join(OPTIONS)}",
    }
    return findings, settings, seconds


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description="Measure how fast the whole way is."
    )
    parser.add_argument("figures", nargs="*", type=one_of(FIGURES), metavar="FIGURE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures there")
    parser.add_argument("--records", type=int, default=RECORDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seed", type=int, default=SEED)
    return parser.parse_args(words)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
