"""The program by itself: what it says, and what goes through the stub unchanged."""

import re
import resource
from collections.abc import Callable
from pathlib import Path

from world import World, expect

TIMES = 5


def says_its_version(world: World) -> str:
    """Once while it unpacks, then warm; the processor's time is printed, not judged."""
    version = world.must("--version").strip()
    expect(re.fullmatch(r"stream-daemon \d+\.\d+\S*", version), f"`--version` says {version!r}")
    before = _spent_s()
    for _ in range(TIMES):
        world.must("--version")
    return f"{version}, warm in {(_spent_s() - before) / TIMES * 1000:.0f} ms of the processor"


def passes_exit_codes(world: World) -> str:
    """They are its own ones, as without the stub."""
    codes = {"frobnicate": 64, "running": 3}
    for word, code in codes.items():
        done = world.run(word)
        expect(done.returncode == code, f"`{word}` ends with {done.returncode}: {done.stderr}")
    return ", ".join(f"`{word}` {code}" for word, code in codes.items())


ENVIRONMENT = """\
#!/bin/sh
env > "$0.environment"
"""


def knows_its_file(world: World) -> str:
    """Started through a link it knows the file itself, and what it starts knows it, too.

    What it starts sees nothing of the loader's variables: it would take our libraries for those
    that were asked for. `install` starts what makes users.
    """
    folder = world.file("folder")
    folder.mkdir()
    asked = folder / "useradd"
    asked.write_text(ENVIRONMENT)
    asked.chmod(0o755)
    link = world.file("link")
    link.symlink_to(world.program)
    path = f"{folder}:{world.environ()['PATH']}"
    for given in (None, "/opt/theirs/lib"):
        environ = world.environ(PATH=path) | ({"LD_LIBRARY_PATH": given} if given else {})
        words = ["install", "--user", "somebody", "--root", str(world.file("root"))]
        done = world.run(*words, program=link, environ=environ)
        expect(done.returncode == 0, f"`install` ends with {done}")
        _check_environment(world, Path(f"{asked}.environment").read_text(), given)
    return "also through a link; what it starts gets LD_LIBRARY_PATH as it was given"


def _check_environment(world: World, text: str, given: str | None) -> None:
    seen = dict(line.partition("=")[::2] for line in text.splitlines())
    file = seen.get("STREAM_DAEMON_FILE")
    expect(file == str(world.program), f"it takes itself for {file}")
    path = seen.get("LD_LIBRARY_PATH")
    expect(path == given, f"LD_LIBRARY_PATH was {given} and is {path}")
    loader = [name for name in seen if name.startswith(("_PYI_", "LD_LIBRARY_PATH_"))]
    expect(not loader, f"what it starts sees {loader}")


def _spent_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


CASES: list[Callable[[World], str]] = [
    says_its_version,
    passes_exit_codes,
    knows_its_file,
]
