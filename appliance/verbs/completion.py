"""`stream-daemon completion SHELL`: print what makes a shell complete our commands and options.

The script is made from the grammar itself (by shtab) and is static: pressing TAB starts no
process of ours.
"""

import argparse

import shtab

PLACES = {"FILE": shtab.FILE, "DIR": shtab.DIRECTORY}
"""What the argument of an option is completed to, by what the help calls it."""


def run(args: argparse.Namespace) -> int:
    """Print the script for this shell."""
    _mark(args.grammar)
    print(shtab.complete(args.grammar, shell=args.shell))
    return 0


def _mark(grammar: argparse.ArgumentParser) -> None:
    """Say in the way of shtab which arguments are files and directories, below verbs too."""
    for action in grammar._actions:  # argparse has no public way to them; shtab goes this way too
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _mark(verb)
        elif isinstance(action.metavar, str) and action.metavar in PLACES:
            action.complete = PLACES[action.metavar]  # type: ignore[attr-defined]
