"""`stream-daemon check --offline`: is the configuration whole and valid? Changes nothing."""

import argparse
import os
import sys

from appliance import control, credentials
from appliance.errors import Exit
from appliance.settings import Config
from appliance.verbs import locate


def run(args: argparse.Namespace) -> int:
    """Check what can be checked without connecting; say what it would do."""
    if not args.offline:
        print(
            "check of connections is not in this version\n  → use: stream-daemon check --offline",
            file=sys.stderr,
        )
        return int(Exit.USAGE)
    config, instance, file = locate.load(args)
    control.check_path(instance.control)
    _check_secrets(config)
    print(f"{file} is valid.")
    print(f"instance {config.name} in {instance.directory}")
    for name, source in config.sources.items():
        print(f"source {name}: {source.__struct_config__.tag}, format {source.format}")
    print(f"queue: {config.queue.url}")
    print(f"store: {config.store.url}, table {config.store.table}")
    return int(Exit.OK)


def _check_secrets(config: Config) -> None:
    for key, reference in (
        ("queue.password", config.queue.password),
        ("store.password", config.store.password),
    ):
        if reference:
            credentials.resolve(reference, key, os.environ)
