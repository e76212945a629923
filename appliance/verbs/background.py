"""An instance in the background: started by `collect --detach`, which returns when it is ready.

The instance is this program started once more (see program.py), in a session of its own, with
a file of the state directory for a terminal (where `log.to` is a path, only its last words go
there). Whoever started it looks at its state through the control socket, like anybody else, and
returns when one of these is so:

    it is ready       0
    it has ended      its exit code; what it said is said again here
    ready_s is over   0: it waits for what is away, and goes on by itself; says what that is

A start that fails at once (an address in use) is so the same here as in the foreground.
"""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from appliance import control, program, status
from appliance.errors import Exit, InstanceError
from appliance.instance import Instance
from appliance.settings import LOG_TO_STDERR, Config

LOOK_EVERY_S = 0.1
ANSWER_S = 1.0
SPARE_S = 30.0  # beyond ready_s, for an instance that has to give up then (require_healthy)
SAID_BYTES_MAX = 64 * 1024


def start(
    config: Config, instance: Instance, file: str, environ: Mapping[str, str], *options: str
) -> int:
    """Start it and wait until it is ready; the exit code for who has asked for it.

    `options` are given to its `collect`.
    """
    said = Said.so_far(instance.log, config)
    with _open_log(instance.log) as log:
        words = ["-c", str(Path(file).absolute()), "collect", *options]
        started = program.start(words, log, environ)
    pidfd = os.pidfd_open(started.pid)
    try:
        return _follow(started, pidfd, config, instance, said)
    finally:
        os.close(pidfd)


def _follow(
    started: "subprocess.Popen[bytes]",
    pidfd: int,
    config: Config,
    instance: Instance,
    said: "Said",
) -> int:
    limit_s = config.ready_s + (SPARE_S if config.require_healthy else 0.0)
    deadline = time.monotonic() + limit_s
    report = None
    while time.monotonic() < deadline:
        if select.select([pidfd], [], [], LOOK_EVERY_S)[0]:
            return _ended(started.wait(), said)
        report = _report(instance, started.pid) or report
        if report and report["ready"]:
            if sys.stdout.isatty():
                print(f"{config.name} runs (pid {report['pid']}); its log is {said.log}")
            return int(Exit.OK)
    awaited = "; ".join(status.awaited(report) if report else []) or f"it to start: {said.log}"
    print(
        f"{config.name} runs, but isn't ready after {config.ready_s:g} s: waiting for {awaited}"
        "\n  → it goes on by itself; look again: stream-daemon status",
        file=sys.stderr,
    )
    return int(Exit.OK)


def _report(instance: Instance, pid: int) -> dict[str, Any] | None:
    """What the instance that we have started says of itself, once it answers."""
    try:
        report = control.ask(instance.control, {"verb": "status"}, ANSWER_S)
        return report if report["pid"] == pid else None
    except (control.NotRunning, TimeoutError):
        return None


def _ended(code: int, said: "Said") -> int:
    """It has ended already, which may be right: say what it said if it isn't."""
    if code != Exit.OK:
        print(said.since(), end="", file=sys.stderr)
    return code if code >= 0 else int(Exit.INTERNAL)


@dataclass(frozen=True, slots=True)
class Said:
    """Where an instance in the background says something, and how much stood there before.

    First its log, then what it wrote to stderr: how it ended. Mostly they are one file.
    """

    before: Mapping[Path, int]

    @classmethod
    def so_far(cls, stderr: Path, config: Config) -> "Said":
        """What is there before it is started."""
        log = stderr if config.log.to == LOG_TO_STDERR else Path(config.log.to)
        return cls({path: _size(path) for path in (log, stderr)})

    @property
    def log(self) -> Path:
        """Its log."""
        return next(iter(self.before))

    def since(self) -> str:
        """What it has said since it was started."""
        return "".join(_text_behind(path, at) for path, at in self.before.items())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _text_behind(path: Path, at: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(at)
            return file.read(SAID_BYTES_MAX).decode(errors="replace")
    except OSError:  # it had nothing to say there
        return ""


def _open_log(path: Path) -> BinaryIO:
    try:
        return open(path, "ab", opener=_private)
    except OSError as error:
        raise InstanceError(
            f"{path}: {error.strerror}", "it is the log of an instance in the background"
        ) from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
