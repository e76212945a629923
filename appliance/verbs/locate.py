"""Which configuration and which instance a verb is about."""

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from appliance import config, owner
from appliance.errors import ConfigError, InstanceError
from appliance.instance import Instance, directory_of
from appliance.settings import Config

DYNAMIC_STATE = "/var/lib/private"  # only root may enter it


def load(args: argparse.Namespace) -> tuple[Config, Instance, str]:
    """The whole configuration, its instance, and the file it came from.

    Raises:
        ConfigError: there is none, or it isn't valid.
    """
    file = configuration_file(args)
    if file is None:
        searched = ", ".join(config.search_paths(os.environ))
        raise config.no_source(f"no configuration found (searched {searched})")
    parsed = config.parse(_read(file), file)
    return parsed, _instance(parsed.name, parsed.state_dir), file


def read_again(file: str) -> Config:
    """The same file as it is now.

    Raises:
        ConfigError: it is gone, or isn't valid.
    """
    return config.parse(_read(file), file)


def instance(args: argparse.Namespace) -> Instance:
    """The instance that is meant, also where the configuration is broken or missing."""
    file = configuration_file(args)
    if file is None:
        return _instance(*config.name_and_state_dir(""))
    return _instance(*config.name_and_state_dir(_read(file), file))


def configuration_file(args: argparse.Namespace) -> str | None:
    """The file named by -c, or the first that exists of the places searched."""
    if args.config:
        return str(args.config)
    return next(filter(os.path.exists, config.search_paths(os.environ)), None)


def not_ours(instance: Instance) -> InstanceError:
    """The error for an instance that belongs to another user."""
    name = instance.owner() or "its owner"
    return InstanceError(
        f"{instance.directory} belongs to user {name}",
        f"run it as that user: sudo -u {name} stream-daemon …",
    )


def as_owner(instance: Instance, args: argparse.Namespace, words: Sequence[str]) -> None:
    """Go on as the instance's owner: files of another user would keep him from using it.

    Where that can't be done by a sudo line, because systemd has made the owner for its service
    alone, root becomes the owner, for the rest of this process.

    Raises:
        InstanceError: the caller is another user; it has the line to type, with these words.
    """
    uid = instance.owner_uid()
    if uid in (None, os.geteuid()):
        return None
    if os.geteuid() == 0 and _is_dynamic(instance):
        return owner.become(uid, instance.directory.stat().st_gid)
    name, file = instance.owner() or "", configuration_file(args)
    line = ["sudo", "-u", name, "stream-daemon"]
    line += ["-c", str(Path(file).absolute())] if file else []
    raise InstanceError(
        f"{instance.directory} belongs to user {name}",
        f"run it as that user: {shlex.join([*line, *words])}",
    )


def _instance(name: str, state_dir: str | None) -> Instance:
    return Instance(directory_of(name, state_dir, os.environ, os.geteuid() == 0))


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror}",
            "name another file with -c, or make one: stream-daemon init > stream-daemon.toml",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: byte {error.start} is not UTF-8", "save the file as UTF-8"
        ) from error


def _is_dynamic(instance: Instance) -> bool:
    """Whether nobody can log in as its owner (DynamicUser= of systemd.exec(5))."""
    is_hidden = instance.directory.resolve().is_relative_to(DYNAMIC_STATE)
    return is_hidden or (instance.owner() or "").startswith("#")
