"""Where it unpacks: folders that won't do, in a mount namespace of the case's own."""

import functools
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from world import Done, Skipped, World, copy, expect

EXIT_NO_PLACE = 73
UNSHARE = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), "--mount"]


@functools.cache
def _can_mount() -> bool:
    try:
        words = [*UNSHARE, "mount", "-t", "tmpfs", "none", "/tmp"]
        return subprocess.run(words, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _run(world: World, mounts: str, program: Path | None = None, **environ: str) -> Done:
    """Run `--version` after these mounts, which nobody else sees; `$0` is our folder.

    The environment has no HOME, and nothing but what is given here.
    """
    if not _can_mount():
        raise Skipped("no mounts for this user here (unshare --mount)")
    line = f'set -e; {mounts}; exec "$@"'
    before = [*UNSHARE, "/bin/sh", "-c", line, str(world.folder)]
    path = {"PATH": world.environ()["PATH"]}
    return world.run("--version", program=program, before=before, environ=path | environ)


def _runs(done: Done) -> None:
    sound = done.returncode == 0 and done.stdout.startswith("stream-daemon ")
    expect(sound, f"ends with {done.returncode}; stdout: {done.stdout}; stderr: {done.stderr}")


def bare_environment(world: World) -> str:
    """No HOME, no variable: root's cache folder; where that won't do, /var/tmp."""
    show = 'trap "ls $PLACE" EXIT; "$@"; exit'
    mounts = "mount -t tmpfs none /var/cache; mount -t tmpfs none /var/tmp"
    for place, more in (
        ("/var/cache/stream-daemon", ""),
        ("/var/tmp/stream-daemon-0", "; mount -o remount,bind,ro /var/cache"),
    ):
        done = _run(world, f"{mounts}{more}; PLACE={place}; {show}")
        _runs(done)
        expect("\nunpacked." in done.stdout, f"nothing in {place}: {done.stdout}")
    return "/var/cache/stream-daemon, /var/tmp/stream-daemon-0"


def unfit_tmp(world: World) -> str:
    """/tmp is mounted noexec, or is full: nothing is looked for there."""
    copy(world.program, world.file("copy"))  # the file itself may be in /tmp
    for options in ("noexec", "size=4k"):
        fill = "head -c 4096 /dev/zero > /mnt/fill" if "size" in options else ":"
        mounts = (
            f'mount -t tmpfs -o {options} none /mnt; {fill}; mount --bind "$0" /var/cache;'
            " mount --bind /mnt /tmp"
        )
        _runs(_run(world, mounts, Path("/var/cache/copy"), TMPDIR="/tmp"))
    world.file("stream-daemon").rename(world.cache)
    return "noexec, full"


def unfit_folder(world: World) -> str:
    """A folder that is mounted noexec, or gets full while unpacking, is left as it was."""
    for options in ("noexec", "size=6m"):
        show = '"$@"; ls /mnt'
        mounts = f"mount -t tmpfs -o mode=755,{options} none /mnt; {show}; exit"
        places = {"STREAM_DAEMON_CACHE": "/mnt", "CACHE_DIRECTORY": str(world.cache)}
        done = _run(world, mounts, **places)
        _runs(done)
        expect("unpacked." not in done.stdout, f"{options}: left {done.stdout}")
        expect(world.trees(), f"{options}: not unpacked in the next folder")
    return "noexec, full"


def read_only_root(world: World) -> str:
    """Nothing can be written but a state directory, or a cache directory."""
    only = 'mount --bind "$0" "$0"; mount -o remount,bind,ro /'
    for below in ("/var/cache", "/var/lib", "/var/tmp"):  # there may be trees of others
        only += f"; mount -t tmpfs -o ro none {below}"
    for variable in ("STATE_DIRECTORY", "CACHE_DIRECTORY", "STREAM_DAEMON_CACHE"):
        _runs(_run(world, only, **{variable: str(world.cache)}))
    for variable in ("XDG_CACHE_HOME", "HOME"):
        done = _run(world, only, **{variable: str(world.folder)})
        expect(done.returncode == EXIT_NO_PLACE or os.geteuid(), f"{variable}: {done}")
    return _no_place(_run(world, only, CACHE_DIRECTORY="/proc"))


def _no_place(done: Done) -> str:
    """Each folder that was tried is named with its reason, and what to do."""
    expect(done.returncode == EXIT_NO_PLACE, f"ends with {done.returncode}: {done.stderr}")
    said = done.stderr
    for text in ("/proc: ", "/var/cache/stream-daemon: Read-only", "/var/tmp/stream-daemon-0: "):
        expect(f"\n  {text}" in said, f"{text!r} isn't in:\n{said}")
    expect("set STREAM_DAEMON_CACHE to a folder" in said, f"it doesn't say what to do:\n{said}")
    return "with a state or a cache directory it runs, without any it says why not"


def link_in_var_tmp(world: World) -> str:
    """Somebody else may have made a link of our name there: it isn't followed."""
    mounts = (
        "mount -t tmpfs none /var/tmp; mount -t tmpfs -o ro none /var/cache;"
        ' mount -t tmpfs -o ro none /var/lib; ln -s "$0/cache" /var/tmp/stream-daemon-0'
    )
    world.cache.mkdir()
    done = _run(world, mounts)
    expect(done.returncode == EXIT_NO_PLACE, f"ends with {done.returncode}: {done.stderr}")
    expect(not world.trees(), f"unpacked behind the link: {world.trees()}")
    return "it isn't followed"


CASES: list[Callable[[World], str]] = [
    bare_environment,
    unfit_tmp,
    unfit_folder,
    read_only_root,
    link_in_var_tmp,
]
