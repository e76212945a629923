"""Tries the frozen file where no Python of ours can be seen: its form, its unpacking, its demo.

    python build/smoke dist/stream-daemon [CASE…]

Every case is a function that returns what it has seen. Each has a private folder, which must
be empty again at its end but for what it made itself and one unpacked tree.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alone import CASES as ALONE
from instances import CASES as INSTANCES
from parts import CASES as PARTS
from places import CASES as PLACES
from trees import CASES as TREES
from world import Skipped, SmokeError, World

CASES = [*ALONE, *PARTS, *TREES, *PLACES, *INSTANCES]


def main(program: Path, wanted: list[str]) -> int:
    """Print what was seen; 1 if anything was not as it should be."""
    print(f"→ trying {program} in an empty environment", flush=True)
    failed = 0
    for case in CASES:
        name = case.__name__
        if wanted and name not in wanted:
            continue
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
            world = World(program.resolve(), Path(folder))
            try:
                seen = case(world)
                world.check_nothing_left()
            except Skipped as reason:
                seen = f"SKIPPED: {reason}"
            except (SmokeError, subprocess.TimeoutExpired, OSError) as error:
                seen = f"FAILED: {error}"
                failed += 1
            finally:
                world.end()
        print(f"  {name.replace('_', ' ')}: {seen} ({time.monotonic() - began:.1f} s)", flush=True)
    if failed:
        print(f"smoke test failed: {failed} case(s), see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
