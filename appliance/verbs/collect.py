"""`stream-daemon collect`: start an instance and run it to its end, or leave it running."""

import argparse
import logging
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from appliance import control, keeper_wire, logs, process, program, systemd
from appliance.app import App
from appliance.contracts import Checkpoint, no_checkpoint
from appliance.errors import ConfigError, Exit
from appliance.instance import Instance
from appliance.renewal import Renewer
from appliance.settings import Config, StdinSource
from appliance.verbs import background, holder, locate, replace
from appliance.verbs.surroundings import Surroundings, look


def run(args: argparse.Namespace, checkpoint: Checkpoint = no_checkpoint) -> int:
    """Run until stopped, or until ready with --detach; the exit code says whether all is safe."""
    if args.if_needed and args.replace:
        raise replace.Contradiction("--if-needed and --replace exclude each other")
    if args.if_needed and _runs(locate.instance(args)):
        return int(Exit.OK)
    config, instance, file = locate.load(args)
    logs.set_up_stderr(config.log, config.name)  # until it is known that we are the only one
    logs.check(config.log)
    process.fill_standard_descriptors()
    control.check_path(instance.control)
    if args.detach:
        _refuse_stdin(config)
    environ = _for_second_start(os.environ)
    around = Surroundings() if args.detach else look(config.drain_s)
    app = App(  # the last that can find the configuration wanting
        config,
        instance,
        checkpoint,
        inherited=around.inherited,
        holder=around.holder,
        manager=around.manager,
    )
    instance.make()
    try:
        if args.detach and args.replace:
            return background.start(config, instance, file, environ, "--replace")
        if args.detach:
            holder.refuse_second(instance)
            return background.start(config, instance, file, environ)
        if args.replace:
            replace.end_running(instance, config.drain_s, app.look_ahead)
        return _run_here(app, config, instance, file)
    except holder.AlreadyRuns:
        if args.if_needed:
            return int(Exit.OK)
        raise


def _for_second_start(environ: Mapping[str, str]) -> dict[str, str]:
    """For an instance in the background: with the secrets, which App takes out of ours; but what
    systemd says to this process isn't for that one.
    """
    return {name: value for name, value in environ.items() if name not in systemd.VARIABLES}


def _run_here(app: App, config: Config, instance: Instance, file: str) -> int:
    read = partial(_read_again, str(Path(file).absolute()))
    lock = process.Lock(instance.lock)
    with keeper_wire.waited_for(instance.keeper):  # a killed parent's children may take their time
        holder.acquire(lock, instance, config.drain_s)
    try:
        logs.set_up(config.log, config.name)
        renewer = Renewer(app, read, _change_log)
        return int(app.run(lock.release, renewer, partial(_say_places, instance, file)))
    finally:
        lock.release()


def _read_again(file: str) -> Config:
    """The configuration as it is now, for a reload."""
    config = locate.read_again(file)
    logs.check(config.log)
    return config


def _change_log(config: Config) -> None:
    """Log as a reload has it; it was looked at before."""
    try:
        logs.set_up(config.log, config.name)
    except ConfigError as error:
        logging.getLogger("parent").error("%s", error.line)


def _say_places(instance: Instance, file: str) -> None:
    """Where it keeps what: the defaults depend on who has started it."""
    unpacked = f", the program unpacked in {Path(sys.executable).parent}" if program.file() else ""
    logging.getLogger("parent").info(
        "configuration %s, all files of this instance in %s%s",
        Path(file).absolute(),
        instance.directory,
        unpacked,
    )


def _runs(instance: Instance) -> bool:
    """Whether it runs; a broken configuration or a missing secret is no reason to ask more."""
    try:
        return holder.parent(instance) is not None
    except PermissionError:  # not ours: said where the directory is made
        return False


def _refuse_stdin(config: Config) -> None:
    for name, source in config.sources.items():
        if isinstance(source, StdinSource):
            raise ConfigError(
                f"source {name} reads standard input, which an instance in the background hasn't",
                "run collect without --detach, or take records from a file or from connections",
            )
