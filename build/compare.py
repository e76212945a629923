"""Names what differs between two files that `make binary` has made, stub and members alike.

    python build/compare.py A B

Exit 0 if they are the same, byte for byte; 1 and one line per differing member if not.
"""

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from pack import TRAILER_BYTES


def members(program: Path) -> dict[str, bytes]:
    """The parts of such a file: the stub, then the unpacked archive's members by their names."""
    content = program.read_bytes()
    found = re.search(rb"packed=(\d+)", content[-TRAILER_BYTES:])
    if not found:
        raise SystemExit(f"{program} has not been made by build/pack.py")
    end = len(content) - TRAILER_BYTES
    start = end - int(found[1])
    zstd = ["zstd", "-dc", "--quiet"]
    archive = subprocess.run(zstd, input=content[start:end], stdout=subprocess.PIPE, check=True)
    parts = {"(the stub)": content[:start]}
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for entry in tar:
            data = tar.extractfile(entry)
            # The head counts too: modes, links, times.
            parts[entry.name] = entry.tobuf() + (data.read() if data else b"")
    return parts


def main(one: Path, other: Path) -> int:
    """Compare, and name what differs."""
    if one.read_bytes() == other.read_bytes():
        print("the same bytes")
        return 0
    left, right = members(one), members(other)
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            print(f"only in {one if name in left else other}: {name}")
        elif left[name] != right[name]:
            print(f"differs: {name} ({len(left[name])} and {len(right[name])} bytes)")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
