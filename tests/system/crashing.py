"""stream-daemon as a program that kills its own children at chosen steps.

    python -m tests.system.crashing -c FILE collect

CRASH_STEPS="noted=0.02,pushed=0.02": chance of kill -9 each time a step is done. CRASH_LOG: a
file that gets one line for each kill (the step); no more than CRASH_MAX lines. CRASH_SEED
makes the dice repeatable, as far as the machine's timing lets it.

LETHAL="parsing=700,storing=900": whoever parses, or stores, the record that begins with this
number dies of SIGSEGV, each time, as a library with a bug does.
"""

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import cli
from appliance.batch import Batch
from appliance.contracts import Checkpoint
from appliance.frame import Frame
from appliance.rows import RowMaker
from appliance.stores import mysql, sqlite
from appliance.stores.ledger import LedgerStore
from appliance.stores.tables import Writer
from appliance.verbs import collect


class Dice:
    """A checkpoint that kills its own process now and then."""

    def __init__(self, chances: dict[str, float], log: Path, kills_max: int, seed: str) -> None:
        self._chances = chances
        self._log = log
        self._kills_max = kills_max
        self._seed = seed
        self._random: tuple[int, random.Random] | None = None

    def __call__(self, step: str) -> None:
        chance = self._chances.get(step, 0.0)
        if chance and self._own_random().random() < chance and self._claims_a_kill(step):
            os.kill(os.getpid(), signal.SIGKILL)

    def _own_random(self) -> random.Random:
        """Dice of this process: a fork must not throw what its sister threw."""
        if self._random is None or self._random[0] != os.getpid():
            self._random = (os.getpid(), random.Random(f"{self._seed} {os.getpid()}"))
        return self._random[1]

    def _claims_a_kill(self, step: str) -> bool:
        with self._log.open("ab", buffering=0) as log:
            if log.tell() and len(self._log.read_bytes().splitlines()) >= self._kills_max:
                return False
            log.write(step.encode() + b"\n")
        return True


def checkpoint(environ: "os._Environ[str]") -> Checkpoint:
    """The dice that the environment describes."""
    pairs = (pair.split("=") for pair in environ["CRASH_STEPS"].split(",") if pair)
    return Dice(
        {step: float(chance) for step, chance in pairs},
        Path(environ["CRASH_LOG"]),
        int(environ["CRASH_MAX"]),
        environ["CRASH_SEED"],
    )


def die_of(record: bytes | str) -> None:
    """A segmentation fault, without the core of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError(f"alive after {record[:50]!r}")


def make_lethal(when: str, number: str) -> None:
    """Put the bug into the library."""
    start = f"{number} "
    if when == "parsing":
        plain = RowMaker.batch

        def batch(maker: RowMaker, frame: Frame) -> Batch:
            for position, line in enumerate(frame.body.split(b"\n")):
                if line.startswith(start.encode()) and position not in frame.header.rejected:
                    die_of(line)
            return plain(maker, frame)

        RowMaker.batch = batch  # type: ignore[method-assign]
    else:
        _make_lethal_to_store(start)


def _make_lethal_to_store(start: str) -> None:
    for store in (mysql.MySQLStore, sqlite.SQLiteStore):
        store._writer = _dying_of(f"'{start}", store._writer)  # type: ignore[method-assign]


def _dying_of(text: str, write: Callable[..., Writer]) -> Callable[..., Writer]:
    """A preparation of rows for the user's table that this text is the death of."""

    def writer(store: LedgerStore, table: str, columns: Any, rows: Any, **more: Any) -> Writer:
        if table == store._table and text in repr(rows):
            die_of(text)
        return write(store, table, columns, rows, **more)

    return writer


if __name__ == "__main__":
    for pair in filter(None, os.environ.get("LETHAL", "").split(",")):
        make_lethal(*pair.split("="))
    sys.exit(collect.run(cli.parser().parse_args(), checkpoint(os.environ)))
