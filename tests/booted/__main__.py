"""Whether machines can be booted here: boots one once. Its last line says why not.

python -m tests.booted TREE
"""

import subprocess
import sys
from pathlib import Path

from tests.booted.machine import booted


def main() -> int:
    try:
        with booted(Path(sys.argv[1]).absolute()):
            return 0
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        print(" ".join(str(error).split()))
        return 1


if __name__ == "__main__":
    sys.exit(main())
