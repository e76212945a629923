"""`stream-daemon dead`: records that could not be stored, for people.

    list      which there are, and why
    show      everything about one; its bytes to stdout
    retry     store them, after table or configuration was mended (retry.py)
    export    their bytes to stdout, so that they can be sent in again, or as JSON

Each works beside a running instance and without one, and speaks to the database only.
"""

import argparse

from appliance.app import App
from appliance.errors import Exit
from appliance.verbs import locate
from appliance.verbs.dead import asked, export, look, retry

ACTIONS = {"list": look.list_letters, "show": look.show, "export": export.export}


def run(args: argparse.Namespace) -> int:
    """Do what is asked for; exit 0, also where there is no dead letter."""
    asked.check(args)
    config, instance, _file = locate.load(args)
    if not config.store.url.startswith("mysql:"):  # SQLite makes files beside its own
        locate.as_owner(instance, args, ["dead", args.action, "…"])
    with App(config, instance).letters() as (letters, maker):
        if not letters.is_prepared():
            asked.say_nothing_there(args, config.store.url)
        elif args.action == "retry":
            retry.retry(args, letters, maker)
        else:
            ACTIONS[args.action](args, letters)
    return int(Exit.OK)
