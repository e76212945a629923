"""Try all sabotages, or those that are named, and print how each ended."""

import sys
import time

from tests.sabotage.build import fails_anyway, survives
from tests.sabotage.sabotages import SABOTAGES


def main(names: list[str]) -> int:
    """Exit 1 if one survives, or if its test fails without it, too."""
    chosen = [one for one in SABOTAGES if not names or any(name in one.name for name in names)]
    if not chosen:
        print("none is called so; there are:", *(one.name for one in SABOTAGES), sep="\n  ")
        return 1
    if output := fails_anyway(chosen):
        print(output, "a test fails though nothing is switched off", sep="\n", file=sys.stderr)
        return 1
    survivors = 0
    for sabotage in chosen:
        began = time.monotonic()
        output = survives(sabotage)
        seconds = time.monotonic() - began
        print(
            f"{'SURVIVES' if output else 'found   '}  {seconds:4.0f} s  {sabotage.name}", flush=True
        )
        survivors += bool(output)
        if output:
            print(output, file=sys.stderr)
    print(f"{len(chosen) - survivors} of {len(chosen)} found")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
