"""Try all sabotages, or those that are named, and print how each ended."""

import sys

from tests.sabotage.build import survives
from tests.sabotage.sabotages import SABOTAGES


def main(names: list[str]) -> int:
    """Exit 1 if one survives."""
    chosen = [one for one in SABOTAGES if not names or any(name in one.name for name in names)]
    survivors = 0
    for sabotage in chosen:
        output = survives(sabotage)
        print(f"{'SURVIVES' if output else 'found   '}  {sabotage.name}", flush=True)
        survivors += bool(output)
        if output:
            print(output, file=sys.stderr)
    print(f"{len(chosen) - survivors} of {len(chosen)} found")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
