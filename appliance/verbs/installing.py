"""What `install` and `uninstall` share: who may, the machine that is meant, steps one by one."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from appliance import program
from appliance.errors import InstanceError
from appliance.installation import Step
from appliance.installer import Installer

COMMAND_S_MAX = 900.0  # `systemctl stop` waits for all instances, as long as they may drain
WITHOUT_ROOT = (
    "run it as root: {line}\n"
    "    or go without: any user can run the file from anywhere, and cron can keep it running\n"
    "    (crontab -e: * * * * *  {file} collect --detach --if-needed)"
)

Before = Callable[[Step], None]


def machine_of(args: argparse.Namespace) -> Installer:
    """The machine that is meant.

    Raises:
        InstanceError: it needs root, and the caller isn't.
    """
    root = Path(args.root or "/").absolute()
    if root == Path("/") and not args.dry_run and os.geteuid() != 0:
        file = str(program.file() or "stream-daemon")
        line = shlex.join(["sudo", file, *sys.argv[1:]])
        raise InstanceError(
            f"{args.verb} writes where only root may",
            WITHOUT_ROOT.format(line=line, file=shlex.quote(file)),
        )
    return Installer(root, run_command, program.file())


@contextmanager
def alone(machine: Installer, dry_run: bool) -> Iterator[None]:
    """Nobody else installs meanwhile; a file that can't be looked at is said plainly.

    Raises:
        InstanceError: somebody does, or a file can't be read.
    """
    try:
        if dry_run:
            yield
        else:
            with machine.alone():
                yield
    except OSError as error:
        raise InstanceError(f"{error.filename}: {error.strerror}", "run it as root") from error


def carry_out(
    machine: Installer, steps: Sequence[Step], dry_run: bool, before: Before = lambda _: None
) -> None:
    """Do each step, and say it; or only say it."""
    for step in steps:
        if not dry_run:
            before(step)
            machine.carry_out(step)
        if sentence := step.said(dry_run):
            print(sentence, flush=True)


def run_command(command: Sequence[str]) -> str:
    """Run a command of the system; what it prints.

    Raises:
        InstanceError: it isn't there, fails, or takes too long.
    """
    line = shlex.join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S_MAX,
            env=dict(os.environ) | {"PATH": _path()},
        )
    except OSError as error:
        raise InstanceError(f"{line}: {error.strerror}", f"is {command[0]} installed?") from error
    except subprocess.TimeoutExpired as error:
        raise InstanceError(f"{line}: no end after {COMMAND_S_MAX:g} s", "look at it") from error
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise InstanceError(f"{line}: {said}", "mend that, then run the same again")
    return done.stdout


def _path() -> str:
    """Where commands are, with the folders that only root looks into."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
