"""A running instance: one process, its signals, its end, its file replaced; the whole demo."""

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from world import World, children, copy, expect, free_listener, is_gone, wait_until

TOTALS = ("sent", "filtered", "stored", "lost", "doubled")
LISTENS = """\
state_dir = "{folder}/state"
subscribers = 1
[source.s]
type = "tcp"
listen = "127.0.0.1:0"
"""
DIALS = """\
state_dir = "{folder}/state"
subscribers = 1
[source.s]
type = "tcp"
connect = "localhost:{port}"
"""
READS = """\
state_dir = "{folder}/state"
subscribers = 0
[source.s]
type = "file"
path = "{folder}/in"
"""
FILES = ("said", "state", "c.toml")


def _configure(world: World, text: str, **words: object) -> tuple[str, str]:
    for name in FILES:
        world.file(name)
    file = world.file("c.toml", text.format(folder=world.folder, **words))
    return "-c", str(file)


def _ready(world: World, config: tuple[str, str], program: Path | None = None) -> None:
    """The sentence of `status` stands in its first line once all children are up."""

    def healthy() -> bool:
        return world.run(*config, "status", program=program).returncode == 0

    wait_until("the instance is healthy", healthy)


def one_process(world: World) -> str:
    """The parent is the process that was started: nobody above it, and nothing lost on the way."""
    config = _configure(world, LISTENS)
    read, write = os.pipe()
    parent = world.start(*config, "collect", pass_fds=[read])
    _ready(world, config)
    told = int(world.must(*config, "running"))
    expect(told == parent.pid, f"started as {parent.pid}, runs as {told}")
    status = Path(f"/proc/{told}/status").read_text()
    expect(f"PPid:\t{os.getpid()}\n" in status, "it isn't our child")
    expect("Name:\tstream-daemon" in status, "ps calls it something else")
    pipe = os.readlink(f"/proc/self/fd/{read}")
    theirs = os.readlink(f"/proc/{told}/fd/{read}")
    expect(pipe == theirs, f"descriptor {read} was {pipe} and is {theirs}")
    for fd in (read, write):
        os.close(fd)
    parent.send_signal(signal.SIGTERM)
    code = parent.wait(30)
    expect(code == 0, f"TERM ends it with {code}")
    return f"pid {told}, exit 0 after TERM"


def closed_descriptors(world: World) -> str:
    """The lock on the tree doesn't take the number of a closed standard descriptor."""
    config = _configure(world, LISTENS)
    line = 'exec "$0" "$@" <&- >&- 2>&-'
    parent = world.start(
        "-c", line, str(world.program), *config, "collect", program=Path("/bin/sh")
    )
    _ready(world, config)
    files = {fd: os.readlink(f"/proc/{parent.pid}/fd/{fd}") for fd in _descriptors(parent.pid)}
    trees = [fd for fd, name in files.items() if name.startswith(str(world.cache))]
    expect(len(trees) == 1 and trees[0] > 2, f"the tree is held by {trees}: {files}")
    world.must(*config, "stop")
    return f"all three closed, it holds its tree as {trees[0]}"


def _descriptors(pid: int) -> list[int]:
    return [int(name) for name in os.listdir(f"/proc/{pid}/fd")]


def signals_arrive(world: World) -> str:
    """Each signal of the parent does what it is for."""
    config = _configure(world, LISTENS)
    parent = world.start(*config, "collect")
    _ready(world, config)

    def subscribers() -> int:
        titles = children(parent.pid).values()
        return sum("subscriber" in title for title in titles)

    def said(text: str) -> bool:
        return text in world.file("said").read_text()

    parent.send_signal(signal.SIGTTIN)
    wait_until("TTIN brings a subscriber", lambda: subscribers() == 2)
    parent.send_signal(signal.SIGTTOU)
    wait_until("TTOU takes it away", lambda: subscribers() == 1)
    parent.send_signal(signal.SIGTSTP)
    wait_until("TSTP pauses storing", lambda: said("storing is paused"))
    parent.send_signal(signal.SIGCONT)
    wait_until("CONT resumes it", lambda: said("storing goes on"))
    parent.send_signal(signal.SIGUSR2)
    wait_until("USR2 reports", lambda: said('"state": "healthy"'))
    parent.send_signal(signal.SIGQUIT)
    code = parent.wait(30)
    expect(code == 0, f"QUIT ends it with {code}")
    return "TTIN, TTOU, TSTP, CONT, USR2, QUIT"


def kill_leaves_nothing(world: World) -> str:
    """After kill -9 of the parent its children end, and no file is left but the tree.

    The keeper waits a minute for another parent, and lives on the tree, too.
    """
    config = _configure(world, LISTENS)
    parent = world.start(*config, "collect")
    _ready(world, config)
    family = children(parent.pid)
    keepers = [pid for pid, title in family.items() if "keeper" in title]
    expect(len(keepers) == 1, f"no keeper, or more than one: {family}")
    parent.kill()
    code = parent.wait()
    expect(code == -signal.SIGKILL, f"kill -9 is seen as {code}")
    for pid in family.keys() - keepers:
        wait_until(f"{family[pid]} ends", lambda pid=pid: is_gone(pid))
    world.check_nothing_left()
    _holds_its_tree(world, keepers[0])
    return f"{len(family) - 1} children ended by themselves; the keeper held the tree"


def _holds_its_tree(world: World, keeper: int) -> None:
    """Another version doesn't remove the tree as long as this process lives."""
    another, [tree] = world.another_version(), world.trees()
    world.must("--version", program=another)
    expect(tree in world.trees(), "the tree of a process that lives was removed")
    os.kill(keeper, signal.SIGKILL)
    wait_until("the keeper ends", lambda: is_gone(keeper))
    world.must("--version", program=another)
    expect(tree not in world.trees(), "the tree of no process was left")


@contextlib.contextmanager
def _detached(world: World, config: tuple[str, str], program: Path) -> Iterator[int]:
    """An instance in the background; stopped at the end."""
    world.must(*config, "collect", "--detach", program=program)
    try:
        yield int(world.must(*config, "running", program=program))
    finally:
        world.must(*config, "stop")


def detached_outlives(world: World) -> str:
    """An instance in the background goes on without who started it, and without the file."""
    config = _configure(world, READS)
    world.file("in", "one\ntwo\n")
    program = copy(world.program, world.file("moved"))
    with _detached(world, config, program) as parent:
        program.unlink()
        world.must("--version", program=world.another_version())  # removes unused trees
        server = _server(parent)
        os.kill(server, signal.SIGKILL)
        wait_until("another server", lambda: _server(parent) not in (0, server))
        seen = world.must(*config, "drain", "-v")
    expect(seen.startswith("stored 2 records"), f"`drain` beside it says {seen!r}")
    world.must("--version")
    return "and its server was started again"


def _server(parent: int) -> int:
    titles = children(parent).items()
    return next((pid for pid, title in titles if "valkey-server" in title), 0)


def replaced_file(world: World) -> str:
    """With another version in its place, and in use, it still finds all that it hasn't read yet.

    A collector that dials reads the tables of international host names (encodings.idna and an
    extension module) when it first does so, and the next one, forked by the parent, again.
    """
    file = copy(world.program, world.file("bin"))
    with free_listener() as listener:
        config = _configure(world, DIALS, port=listener.getsockname()[1])
        parent = world.start(*config, "collect", program=file)
        first, _ = listener.accept()
        old = world.trees()
        another = world.another_version()
        os.replace(another, file)
        world.must("--version", program=file)
        expect(old < world.trees() and len(world.trees()) == 2, f"trees: {world.trees()}")
        collector = next(pid for pid, title in children(parent.pid).items() if "collector" in title)
        os.kill(collector, signal.SIGKILL)
        second = _accept_another(listener, first)
        second.sendall(b"late\n")
        second.close()
        first.close()
        _stored(world, config, file)
        world.must(*config, "stop", program=file)
    expect(parent.wait(30) == 0, "it was not stopped in order")
    world.must("--version", program=file)
    expect(not old & world.trees(), f"the unused tree is still there: {world.trees()}")
    return "it dialled on; then its tree was removed"


def _accept_another(listener: socket.socket, first: socket.socket) -> socket.socket:
    """The same connection may be kept for the successor; it is ended so that it must dial."""
    first.close()
    return listener.accept()[0]


def _stored(world: World, config: tuple[str, str], program: Path) -> None:
    def look() -> bool:
        return "store: 1 stored" in world.run(*config, "status", program=program).stdout

    wait_until("the record is stored", look)


def whole_demo(world: World) -> str:
    """The demo's totals add up; it and its server leave nothing."""
    began = time.monotonic()
    output = world.must("demo")
    took_s = time.monotonic() - began
    seen = _totals(output)
    expect(seen["sent"] == seen["filtered"] + seen["stored"], f"sent is not both: {seen}")
    expect(seen["stored"] and not seen["lost"] and not seen["doubled"], f"not sound: {seen}")
    return f"{took_s:.0f} s: {seen}"


def _totals(output: str) -> dict[str, int]:
    """The demo's last five lines as numbers."""
    lines = "".join(rf"{name} (?P<{name}>\d+)\n" for name in TOTALS)
    found = re.search(rf"^{lines}\Z", output, re.MULTILINE)
    expect(found, f"the last lines aren't {', '.join(TOTALS)}:\n{output}")
    assert found
    return {name: int(number) for name, number in found.groupdict().items()}


CASES: list[Callable[[World], str]] = [
    one_process,
    closed_descriptors,
    signals_arrive,
    kill_leaves_nothing,
    detached_outlives,
    replaced_file,
    whole_demo,
]
