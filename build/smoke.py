"""Tries the frozen file where no Python of ours can be seen.

Its version, an instance in the background that outlives who started it, the whole demo.

    python build/smoke.py dist/stream-daemon

The environment is empty but for a PATH of the system's own folders and private folders for
HOME and temporary files, which must be empty again at the end.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DEMO_S_MAX = 120
TOTALS = ("sent", "filtered", "stored", "lost", "doubled")


class SmokeError(Exception):
    """The frozen file doesn't do what it should; the text says what it did."""


BACKGROUND = """\
state_dir = "{home}/state"
subscribers = 0
[source.s]
type = "file"
path = "{home}/in"
"""


def run(program: Path, home: Path, *arguments: str) -> str:
    """The program's stdout; anything but exit 0 is an error."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(
        [program, *arguments],
        env=environment,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=DEMO_S_MAX,
        text=True,
    )
    if done.returncode != 0:
        words = " ".join(arguments)
        raise SmokeError(f"`{words}` ended with {done.returncode}; stdout:\n{done.stdout}")
    return done.stdout


def totals(output: str) -> dict[str, int]:
    """The demo's last five lines as numbers."""
    lines = "".join(rf"{name} (?P<{name}>\d+)\n" for name in TOTALS)
    found = re.search(rf"^{lines}\Z", output, re.MULTILINE)
    if not found:
        raise SmokeError(f"the last lines aren't {', '.join(TOTALS)}:\n{output}")
    return {name: int(number) for name, number in found.groupdict().items()}


def check_background(program: Path, home: Path) -> None:
    """Start an instance that goes on, store beside it, and stop it.

    What the frozen file unpacks for a command goes with the command; the instance, its
    server too, needs files of its own.
    """
    file = home / "c.toml"
    file.write_text(BACKGROUND.format(home=home))
    (home / "in").write_text("one\ntwo\n")
    run(program, home, "-c", str(file), "collect", "--detach")
    try:
        parent = int(run(program, home, "-c", str(file), "running"))
        _end_server(parent)
        seen = run(program, home, "-c", str(file), "drain", "-v")
    finally:
        run(program, home, "-c", str(file), "stop")
    if not seen.startswith("stored 2 records"):
        raise SmokeError(f"`drain` beside an instance in the background says {seen!r}")
    shutil.rmtree(home / "state")
    for name in ("c.toml", "in"):
        (home / name).unlink()


def _end_server(parent: int) -> None:
    """It has to be started again from where it lies now."""
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if Path(f"/proc/{pid}/comm").read_text().strip() == "valkey-server":
            os.kill(int(pid), signal.SIGKILL)
            return
    raise SmokeError("an instance in the background has no server")


def check(program: Path, home: Path) -> str:
    """Try everything; one line that says what was seen."""
    version = run(program, home, "--version")
    if not re.match(r"stream-daemon \d+\.\d+", version):
        raise SmokeError(f"`--version` says {version!r}")
    check_background(program, home)
    began = time.monotonic()
    seen = totals(run(program, home, "demo"))
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
