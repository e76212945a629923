"""`stream-daemon uninstall`: take away what `install` has made; data and configuration stay.

What is done is decided in installation.py, and done by installer.py; a dry run prints the same.
"""

import argparse

from appliance import installation, process
from appliance.errors import Exit, InstanceError, StreamDaemonError
from appliance.installation import Action, Record, Removal, Step
from appliance.installer import Installer
from appliance.verbs import installing


class NotSure(StreamDaemonError):
    """Data would be removed, and nobody has said that this is meant."""

    exit_code = Exit.USAGE


def run(args: argparse.Namespace) -> int:
    """Do it, and say each step."""
    machine = installing.machine_of(args)
    with installing.alone(machine, args.dry_run):
        record = machine.record()
        _refuse_package(machine, record)
        found = {path: machine.found(path) for path in record.files}
        state = machine.machine(record.user)
        steps = installation.uninstall(state, found, record, Removal(args.purge, args.data))
        is_sure = args.yes or args.dry_run or not any(map(_takes_data, steps))
        installing.carry_out(
            machine, steps, args.dry_run or not is_sure, lambda step: _refuse_running(machine, step)
        )
    if not is_sure:
        raise NotSure("this removes what was collected; nothing was done", "if so: --data --yes")
    if not any(step.said(True) for step in steps):
        print("nothing is installed here")
    return int(Exit.OK)


def _refuse_package(machine: Installer, record: Record) -> None:
    """What a package has brought is dpkg's; what install has put before it is still ours."""
    if machine.is_packaged() and installation.PROGRAM not in record.files:
        raise InstanceError(
            "a package has installed stream-daemon on this machine",
            "apt-get remove stream-daemon, or purge: both keep what was collected",
        )


def _refuse_running(machine: Installer, step: Step) -> None:
    """Data of an instance that runs is not taken from under it.

    Raises:
        InstanceError: one runs that systemd hasn't started.
    """
    if not _takes_data(step):
        return
    for lock in sorted(machine.path(step.what).glob("*/lock")):
        if process.lock_is_held(lock):
            raise InstanceError(
                f"an instance runs in {lock.parent}",
                "stop it (and take its line out of the crontab), then run the same again",
            )


def _takes_data(step: Step) -> bool:
    return step.action is Action.REMOVE_TREE and step.what == installation.STATE
