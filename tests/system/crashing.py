"""stream-daemon as a program that kills its own children at chosen steps.

    python -m tests.system.crashing -c FILE collect

CRASH_STEPS="noted=0.02,pushed=0.02": chance of kill -9 each time a step is done. CRASH_LOG: a
file that gets one line for each kill (the step); no more than CRASH_MAX lines. CRASH_SEED
makes the dice repeatable, as far as the machine's timing lets it.
"""

import os
import random
import signal
import sys
from pathlib import Path

from appliance import cli
from appliance.contracts import Checkpoint
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


if __name__ == "__main__":
    sys.exit(collect.run(cli.parser().parse_args(), checkpoint(os.environ)))
