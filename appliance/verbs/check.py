"""`stream-daemon check`: will it work? Looks at everything, changes nothing.

The configuration first; then, unless --offline, each source, the queue, the store, and what
earlier runs have left. Every look is done, also behind one that failed, so that one call names
all that has to be mended.
"""

import argparse
import os

from appliance import control, credentials, process
from appliance.app import App, Look
from appliance.counters import Board
from appliance.errors import ConfigError, Exit, StreamDaemonError
from appliance.instance import Instance
from appliance.settings import Config
from appliance.verbs import holder, locate

CHECK_S = 120.0  # for all looks together; each has limits of its own


def run(args: argparse.Namespace) -> int:
    """Check what can be checked; exit 0, or 69 if something can't be reached, or 78."""
    config, instance, file = locate.load(args)
    control.check_path(instance.control)
    process.fill_standard_descriptors()
    _check_secrets(config)
    print(f"{file} is valid.")
    print(f"instance {config.name} in {instance.directory}")
    if args.offline:
        _say_what_is_configured(config)
        return int(Exit.OK)
    return int(_look_at_everything(App(config, instance), instance))


def _say_what_is_configured(config: Config) -> None:
    for name, source in config.sources.items():
        print(f"source {name}: {source.__struct_config__.tag}, format {source.format}")
    print(f"queue: {config.queue.url}")
    print(f"store: {config.store.url}, table {config.store.table}")


def _look_at_everything(app: App, instance: Instance) -> Exit:
    runs = holder.parent(instance) is not None
    with process.Errand(CHECK_S):
        looks = app.looks(Board().slot("check"), runs)
        codes = {_look(what, look) for what, look in looks}
    return next((code for code in (Exit.CONFIG, Exit.UNREACHABLE) if code in codes), Exit.OK)


def _look(what: str, look: Look) -> Exit:
    """Do one look and say what was seen."""
    try:
        remarks = look()
    except StreamDaemonError as error:
        print(f"{what}: FAILED: {error}")
        return Exit.CONFIG if isinstance(error, ConfigError) else Exit.UNREACHABLE
    except process.Overdue:
        print(f"{what}: FAILED: no answer\n  → is its server stopped, or overloaded?")
        return Exit.UNREACHABLE
    for remark in remarks:
        print(f"{what}: {remark.text}")
        if remark.hint:
            print(f"  → {remark.hint}")
    return Exit.OK


def _check_secrets(config: Config) -> None:
    for key, reference in (
        ("queue.password", config.queue.password),
        ("store.password", config.store.password),
    ):
        if reference:
            credentials.resolve(reference, key, os.environ)
