"""Unpacking: many first starts at once, kills in the middle of it, damage, two versions."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from world import TREE, World, expect

STARTS = 20
KILLS = 10
UNPACKING_S = 0.2  # about as long as it takes
EXIT_DAMAGED = 70


def first_starts_at_once(world: World) -> str:
    """Of two versions, which also remove each other's trees as soon as nobody lives on them."""
    versions = [world.program, world.another_version()]
    started = [world.start("--version", program=versions[n % 2]) for n in range(STARTS)]
    codes = [one.wait(60) for one in started]
    expect(codes == [0] * STARTS, f"exit codes {codes}: {world.file('said').read_text()}")
    world.must("--version")  # the last one alone tidies up
    return f"{STARTS} of two versions"


def kills_while_unpacking(world: World) -> str:
    """Whatever a kill leaves, the next start removes, and runs."""
    seed = random.randrange(10**6)
    dice = random.Random(seed)
    hit = 0
    for _ in range(KILLS):
        shutil.rmtree(world.cache, ignore_errors=True)
        victim = world.start("--version")
        _wait_for_unpacking(world, victim)
        time.sleep(dice.uniform(0, UNPACKING_S))
        victim.kill()
        hit += victim.wait() == -signal.SIGKILL and not _whole(world)
        world.must("--version")
        world.check_nothing_left()
    expect(hit, f"no kill came in time (seed {seed})")
    return f"{hit} of {KILLS} kills came in the middle (seed {seed})"


def _whole(world: World) -> bool:
    return any(TREE.fullmatch(name) for name in world.trees())


def _wait_for_unpacking(world: World, victim: "subprocess.Popen[bytes]") -> None:
    while not world.trees() and victim.poll() is None:
        time.sleep(0.001)


def missing_file(world: World) -> str:
    """A tree that lost a file is made anew, also while somebody lives on it."""
    world.must("--version")
    [tree] = world.cache.iterdir()
    (tree / "lib/base_library.zip").unlink()
    world.must("--version")
    shorter = next(tree.glob("lib/libpython3*"))
    os.truncate(shorter, 4096)
    world.must("--version")
    return "a file gone, a file cut"


def damaged_file(world: World) -> str:
    """A copy that was cut short, or altered, says so instead of doing anything odd."""
    content = world.program.read_bytes()
    middle = len(content) // 2
    altered = content[:middle] + bytes(64) + content[middle + 64 :]
    for name, what in (("cut", content[:-1000]), ("altered", altered)):
        copy = world.file(name)
        copy.write_bytes(what)
        copy.chmod(0o755)
        done = world.run("--version", program=copy)
        sound = done.returncode == EXIT_DAMAGED and "copy it here again" in done.stderr
        expect(sound, f"a file that was {name} ends with {done.returncode}: {done.stderr}")
        expect(not world.trees(), f"a file that was {name} left {world.trees()}")
    return "cut short, altered: 70"


def foreign_folders(world: World) -> str:
    """Nothing is executed out of a folder in which others may write."""
    if os.geteuid() != 0:
        others, reason = [], ""
    else:
        theirs = world.file("theirs")
        theirs.mkdir()
        os.chown(theirs, 65534, 65534)
        others, reason = [(theirs, "belongs to another user")], ", another user's"
    open_to_all = world.file("open")
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    for folder, text in [(open_to_all, "others may write there"), *others]:
        _refused(world, folder, text)
    _refused(world, Path("relative"), "is not an absolute path")
    return f"writable for all{reason}, relative"


def _refused(world: World, folder: Path, text: str) -> None:
    """The next place is taken; where there is none it is said why."""
    environ = world.environ(STREAM_DAEMON_CACHE=str(folder), CACHE_DIRECTORY=str(world.cache))
    done = world.run("--version", environ=environ)
    expect(done.returncode == 0 and world.trees(), f"{folder}: {done.stderr}")
    if folder.is_absolute():
        expect(not list(folder.iterdir()), f"something was put into {folder} ({text})")


CASES: list[Callable[[World], str]] = [
    first_starts_at_once,
    kills_while_unpacking,
    missing_file,
    damaged_file,
    foreign_folders,
]
