"""`stream-daemon install`: make this one file a service of this machine, step by step.

What is done is decided in installation.py, and done by installer.py; a dry run prints the same.
"""

import argparse

from appliance import installation, program
from appliance.errors import Exit, InstanceError
from appliance.installation import Machine, Step
from appliance.installer import Installer
from appliance.verbs import installing


def run(args: argparse.Namespace) -> int:
    """Do it, say each step, and what comes next."""
    machine = installing.machine_of(args)
    with installing.alone(machine, args.dry_run):
        record = machine.record()
        user = args.user or record.user
        is_packaged = _is_packaged(machine, user)
        state = machine.machine(user)
        wanted = machine.wanted(user, packaged=is_packaged, units=state.units)
        found = {file.path: machine.found(file.path) for file in wanted}
        state = machine.machine(user)
        steps = installation.install(state, wanted, found, record, user)
        installing.carry_out(machine, steps, args.dry_run)
    _say_next(state, steps, user)
    return int(Exit.OK)


def _is_packaged(machine: Installer, user: str) -> bool:
    """Whether the program that runs came with a package, which has brought the units too.

    Raises:
        InstanceError: the units came with a package, and this file didn't; there is no one file.
    """
    file = program.file()
    if file is None:
        raise InstanceError(
            "this program runs from a checkout or a Python environment: there is no file to copy",
            "make binary, then: sudo dist/stream-daemon install",
        )
    if not machine.is_packaged():
        return False
    if str(file) != installation.PACKAGED_PROGRAM:
        raise InstanceError(
            "a package has installed stream-daemon on this machine already",
            "install the newer package, or remove it first: apt-get remove stream-daemon",
        )
    if user:
        raise InstanceError(
            "the units are the package's: --user can't change them",
            f"systemctl edit stream-daemon, with:  [Service] DynamicUser=no User={user}",
        )
    return True


def _say_next(state: Machine, steps: list[Step], user: str) -> None:
    print("\nnext:")
    commands = installation.after_install(state, steps, user)
    width = max(len(command) for command, _ in commands)
    for command, purpose in commands:
        print(f"  {command:{width}}   # {purpose}")
