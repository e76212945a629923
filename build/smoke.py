"""Tries the frozen file where no Python of ours can be seen: version, then the whole demo.

    python build/smoke.py dist/stream-daemon

The environment is empty but for a PATH of the system's own folders and private folders for
HOME and temporary files, which must be empty again at the end.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO_S_MAX = 120
TOTALS = ("sent", "filtered", "stored", "lost", "doubled")


class SmokeError(Exception):
    """The frozen file doesn't do what it should; the text says what it did."""


def run(program: Path, argument: str, home: Path) -> str:
    """The program's stdout; anything but exit 0 is an error."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(
        [program, argument],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=DEMO_S_MAX,
        text=True,
    )
    if done.returncode != 0:
        raise SmokeError(f"`{argument}` ended with {done.returncode}; stdout:\n{done.stdout}")
    return done.stdout


def totals(output: str) -> dict[str, int]:
    """The demo's last five lines as numbers."""
    lines = "".join(rf"{name} (?P<{name}>\d+)\n" for name in TOTALS)
    found = re.search(rf"^{lines}\Z", output, re.MULTILINE)
    if not found:
        raise SmokeError(f"the last lines aren't {', '.join(TOTALS)}:\n{output}")
    return {name: int(number) for name, number in found.groupdict().items()}


def check(program: Path, home: Path) -> str:
    """Try everything; one line that says what was seen."""
    version = run(program, "--version", home)
    if not re.match(r"stream-daemon \d+\.\d+", version):
        raise SmokeError(f"`--version` says {version!r}")
    began = time.monotonic()
    seen = totals(run(program, "demo", home))
    took_s = time.monotonic() - began
    if seen["sent"] != seen["filtered"] + seen["stored"] or not seen["stored"]:
        raise SmokeError(f"sent is not filtered + stored: {seen}")
    if seen["lost"] or seen["doubled"]:
        raise SmokeError(f"lost or doubled: {seen}")
    if left := sorted(path.name for path in home.iterdir()):
        raise SmokeError(f"left behind: {', '.join(left)}")
    return f"{version.strip()}; demo in {took_s:.0f} s: {seen}"


def main(program: Path) -> int:
    """Print what was seen; 1 if anything was not as it should be."""
    print(f"→ trying {program} in an empty environment", flush=True)
    with tempfile.TemporaryDirectory(prefix="smoke-") as home:
        try:
            print(f"→ {check(program.resolve(), Path(home))}")
        except (SmokeError, subprocess.TimeoutExpired) as error:
            print(f"smoke test failed: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
