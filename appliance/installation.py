"""What `install` and `uninstall` do, as lists of steps: decided here, carried out by installer.py.

A dry run prints the list that a run carries out, so the two can't disagree. Each step is done or
not done, never half; what was killed in the middle is finished by running it again, because the
steps are decided anew from what is found.

What becomes of a file that `install` would write:

    found                        the program      a unit          the example configuration
    missing                      write            write           write
    the same bytes               nothing          nothing         nothing
    what an earlier one wrote    write            write           write
    anything else                write if it is   keep, and say   keep, and say
                                 a stream-daemon,
                                 else refuse
    a symbolic link              keep if it leads keep, and say   keep, and say
                                 to the running
                                 one, else refuse
    a directory, a device        refuse           refuse          refuse

What earlier ones wrote is known from the record, a file beside the configuration with the hashes of
all that was ever written. It gets a hash before the file gets the bytes: a kill between the two
leaves a record that knows too much, never a file of ours that counts as yours.

`uninstall` removes what the record holds, but what you have changed. Configuration and data stay
unless asked for: `--purge` takes the configuration and the cache, `--data` what was collected. A
user that `install` made stays as long as its data does: a later user with its number would own it.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from appliance.errors import InstanceError

PROGRAM = "/usr/local/bin/stream-daemon"
PACKAGED_PROGRAM = "/usr/bin/stream-daemon"  # where the Debian package puts it
PACKAGED_UNIT = "/usr/lib/systemd/system/stream-daemon.service"
UNITS = "/etc/systemd/system"
CONFIGURATION = "/etc/stream-daemon"
EXAMPLE = f"{CONFIGURATION}/stream-daemon.toml"
RECORD = f"{CONFIGURATION}/.installed"
STATE = "/var/lib/stream-daemon"
CACHES = ("/var/cache/stream-daemon", "/var/tmp/stream-daemon-0")  # the unpacked program, of root
CRONTAB_LINE = f"* * * * *  {PROGRAM} collect --detach --if-needed"
USER_COMMENT = "made by stream-daemon install"  # in /etc/passwd: only such a user is removed
HASHES_KEPT = 64  # of each file: so many different versions of it count as ours


class Part(Enum):
    """What a file is for; what may be done to it depends on that."""

    PROGRAM = "program"
    UNIT = "unit"
    EXAMPLE = "example"


class Kind(Enum):
    """What is found at a path."""

    MISSING = "missing"
    FILE = "file"
    LINK = "link"
    OTHER = "other"  # a directory, a device


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path now: `digest` of a file's bytes, `target` of a link.

    Of the program: `running` it is the file that runs now; `ours` it is a stream-daemon.
    """

    kind: Kind
    digest: str = ""
    target: str = ""
    running: bool = False
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that shall be there."""

    path: str
    digest: str
    part: Part


@dataclass(frozen=True, slots=True)
class Record:
    """What was ever written (path → hashes, the newest last), and the user that the units name."""

    files: Mapping[str, tuple[str, ...]]
    user: str = ""

    def knows(self, path: str, found: Found) -> bool:
        """Whether a file is one that we wrote, unchanged."""
        return found.kind is Kind.FILE and found.digest in self.files.get(path, ())

    def adding(self, wanted: Sequence[Wanted], user: str) -> "Record":
        """The same, and these files too."""
        files = dict(self.files)
        for file in wanted:
            older = [digest for digest in files.get(file.path, ()) if digest != file.digest]
            files[file.path] = (*older, file.digest)[-HASHES_KEPT:]
        return Record(files, user)

    def to_json(self) -> str:
        """As it is kept."""
        return json.dumps({"files": self.files, "user": self.user}, indent=1) + "\n"


NO_RECORD = Record({})


def record_from(text: str) -> Record:
    """The record in this file; an empty one was never written.

    Raises:
        InstanceError: it is no record of ours.
    """
    if not text:
        return NO_RECORD
    try:
        read: dict[str, Any] = json.loads(text)
        files = {str(path): tuple(map(str, hashes)) for path, hashes in read["files"].items()}
        return Record(files, str(read["user"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InstanceError(
            f"{RECORD} is not what install writes",
            "move it away; files that install has written count as yours then, and are kept",
        ) from error


class Action(Enum):
    """What can be done to a path, a user, or by a command."""

    DIRECTORY = "make a directory"
    RECORD = "keep the record"
    WRITE = "write a file"
    NOTHING = "nothing"
    KEEP = "leave as it is"
    USER = "make a user"
    OWN_STATE = "make the state directory for a user"
    RUN = "run a command"
    REMOVE = "remove a file"
    REMOVE_TREE = "remove a directory with all in it"
    REMOVE_IF_EMPTY = "remove a directory if nothing is in it"
    REMOVE_USER = "remove a user"


SAID = {  # before, in a dry run; afterwards. What isn't here is of no interest to who reads it
    Action.DIRECTORY: ("would make {}", "made {}"),
    Action.WRITE: ("would write {}", "wrote {}"),
    Action.NOTHING: ("{}: nothing to do", "{}: nothing to do"),
    Action.KEEP: ("would keep {}", "kept {}"),
    Action.USER: ("would make the system user {}", "made the system user {}"),
    Action.OWN_STATE: (f"would make {STATE} for user {{}}", f"made {STATE} for user {{}}"),
    Action.RUN: ("would run {}", "ran {}"),
    Action.REMOVE: ("would remove {}", "removed {}"),
    Action.REMOVE_TREE: ("would remove {}", "removed {}"),
    Action.REMOVE_USER: ("would remove the user {}", "removed the user {}"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: to a path, a user, or a command line, and a word about why."""

    action: Action
    what: str
    why: str = ""

    def said(self, dry_run: bool) -> str:
        """In words, "" if it isn't worth a line."""
        if self.action not in SAID:
            return ""
        sentence = SAID[self.action][0 if dry_run else 1].format(self.what)
        return f"{sentence} ({self.why})" if self.why else sentence


@dataclass(frozen=True, slots=True)
class Machine:
    """What is found on the machine, apart from files that install writes.

    `units`: install writes them (systemd is there); `runs`: and it can be asked. `stale`: it has
    not read all units yet. `user_exists` and `user_is_ours` are about the user that is asked for,
    or that the record names. `loaded` are our units that run, or have failed; `links` what
    `systemctl enable` has made for them; `unfinished` files were left by a run that was killed.
    `bytes` are what the directories hold.
    """

    units: bool
    runs: bool
    stale: bool = False
    directories: frozenset[str] = frozenset()
    user_exists: bool = False
    user_is_ours: bool = False
    loaded: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()
    bytes: Mapping[str, int] = field(default_factory=dict)


# ── install ─────────────────────────────────────────────────────────────────────────────


def unit_for(text: str, user: str) -> str:
    """A unit's text for this user; "" leaves it to systemd, which makes one while the unit runs.

    The files of Unix sockets then live through a restart: their directory is the user's own.
    """
    if not user:
        return text
    without = re.sub(r"^(User|Group)=.*\n", "", text, flags=re.MULTILINE)
    named = re.sub(r"^DynamicUser=.*$", f"User={user}", without, flags=re.MULTILINE)
    preserve = r"\g<0>\nRuntimeDirectoryPreserve=restart"
    return re.sub(r"^RuntimeDirectory=.*$", preserve, named, flags=re.MULTILINE)


def install(
    machine: Machine,
    wanted: Sequence[Wanted],
    found: Mapping[str, Found],
    record: Record,
    user: str,
) -> list[Step]:
    """What is to be done so that all that is wanted is there.

    Raises:
        InstanceError: something is in the way; nothing may be done then.
    """
    files = [_file(file, found[file.path], record) for file in wanted]
    written = [file for file, step in zip(wanted, files, strict=True) if _is_ours(step)]
    after = record.adding(written, user)
    return [
        *_leftovers(machine),
        _directory(CONFIGURATION, machine),
        *([Step(Action.RECORD, after.to_json())] if after != record else []),
        *(_user(user, machine) if user else ()),
        *files,
        *(_reload(machine, wanted, files) if machine.runs else ()),
    ]


def _leftovers(machine: Machine) -> Iterator[Step]:
    for path in machine.unfinished:
        yield Step(Action.REMOVE, path, "left by a run that was killed")


def _is_ours(step: Step) -> bool:
    return step.action in (Action.WRITE, Action.NOTHING)


def _file(wanted: Wanted, found: Found, record: Record) -> Step:
    if found.kind is Kind.MISSING:
        return Step(Action.WRITE, wanted.path)
    if found.kind is Kind.FILE and (found.running or found.digest == wanted.digest):
        return Step(Action.NOTHING, wanted.path)
    if record.knows(wanted.path, found) or (found.ours and found.kind is Kind.FILE):
        return Step(Action.WRITE, wanted.path, "in place of an older version")
    if found.kind is Kind.OTHER or (wanted.part is Part.PROGRAM and not found.running):
        raise _in_the_way(wanted.path, found)
    return Step(Action.KEEP, wanted.path, _whose(found))


def _whose(found: Found) -> str:
    if found.kind is Kind.LINK:
        return f"it is a link to {found.target}"
    return "you have changed it"


def _in_the_way(path: str, found: Found) -> InstanceError:
    what = {
        Kind.FILE: "is another program",
        Kind.LINK: f"is a link to {found.target}",
        Kind.OTHER: "is no file",
    }[found.kind]
    return InstanceError(f"{path} {what}; nothing was changed", "move it away, then install again")


def _directory(path: str, machine: Machine) -> Step:
    if path in machine.directories:
        return Step(Action.NOTHING, path)
    return Step(Action.DIRECTORY, path)


def _user(user: str, machine: Machine) -> Iterator[Step]:
    """The user, and its state directory: systemd makes that only where it makes the user, too."""
    if machine.user_exists:
        yield Step(Action.NOTHING, f"user {user}")
    else:
        yield Step(Action.USER, user, shlex.join(useradd(user)))
    if STATE in machine.directories:
        yield Step(Action.NOTHING, STATE)
    else:
        yield Step(Action.OWN_STATE, user)


def useradd(user: str) -> list[str]:
    """The command that makes a system user, its group with it."""
    options = ["--system", "--user-group", "--no-create-home", "--home-dir", STATE]
    return [
        *("useradd", *options, "--shell", "/usr/sbin/nologin"),
        *("--comment", USER_COMMENT, user),
    ]


def _reload(machine: Machine, wanted: Sequence[Wanted], steps: Sequence[Step]) -> Iterator[Step]:
    pairs = zip(wanted, steps, strict=True)
    written = any(w.part is Part.UNIT and s.action is Action.WRITE for w, s in pairs)
    reload = "systemctl daemon-reload"
    yield Step(Action.RUN if written or machine.stale else Action.NOTHING, reload)


def after_install(machine: Machine, steps: Sequence[Step], user: str) -> list[tuple[str, str]]:
    """The next three commands, each with what it is for."""
    first = [
        (f"editor {EXAMPLE}", "what is collected, and where to"),
        ("stream-daemon check", "is it valid, and will it work?"),
    ]
    if not machine.runs:
        whose = f" -u {user}" if user else ""
        return [*first, (f"crontab{whose} -e", f"with this line:  {CRONTAB_LINE}")]
    services = [unit for unit in machine.loaded if unit.endswith(".service")]
    if services and any(step.action is Action.WRITE for step in steps):
        return [*first, (f"systemctl restart {shlex.join(services)}", "the new version takes over")]
    if services:
        return [*first, (f"systemctl status {shlex.join(services)}", "it runs already")]
    return [*first, ("systemctl enable --now stream-daemon", "now, and at each boot")]


# ── uninstall ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Removal:
    """How much goes: configuration and cache, what was collected."""

    purge: bool = False
    data: bool = False


def uninstall(
    machine: Machine, found: Mapping[str, Found], record: Record, removal: Removal
) -> list[Step]:
    """What is to be done so that nothing is left but what shall be kept.

    `found` has each file of the record.
    """
    files = [
        _removed(path, found[path], record, removal)
        for path in sorted(found, key=_order)
        if found[path].kind is not Kind.MISSING
    ]
    data = [*_data(machine, removal)]
    after = _remaining(record, files, data)
    emptied = after == NO_RECORD
    return [
        *_leftovers(machine),
        *(_stop(machine) if machine.runs else ()),
        *(Step(Action.REMOVE, link) for link in machine.links),
        *files,
        *_reload_without(machine, files),
        *(_cache(machine) if removal.purge else ()),
        *data,
        *_user_gone(machine, record, data),
        *([Step(Action.RECORD, "" if emptied else after.to_json())] if after != record else []),
        *([Step(Action.REMOVE_IF_EMPTY, CONFIGURATION)] if emptied else []),
    ]


def _order(path: str) -> tuple[bool, str]:
    """The program last: as long as it is there, the rest can be removed with it."""
    return path == PROGRAM, path


def _removed(path: str, found: Found, record: Record, removal: Removal) -> Step:
    known = record.knows(path, found) or found.running or found.ours
    is_configuration = path.startswith(CONFIGURATION)
    if is_configuration and not removal.purge:
        return Step(Action.KEEP, path, "--purge removes it")
    if known:
        return Step(Action.REMOVE, path)
    if removal.purge and path != PROGRAM and found.kind is not Kind.OTHER:
        return Step(Action.REMOVE, path, "you had changed it")
    return Step(Action.KEEP, path, _whose(found))


def _stop(machine: Machine) -> Iterator[Step]:
    if machine.loaded:
        names = shlex.join(machine.loaded)
        yield Step(Action.RUN, f"systemctl stop {names}")
        yield Step(Action.RUN, "systemctl reset-failed 'stream-daemon[.@]*'")


def _reload_without(machine: Machine, files: Sequence[Step]) -> Iterator[Step]:
    removed = any(s.what.startswith(UNITS) and s.action is Action.REMOVE for s in files)
    if machine.runs and (removed or machine.links or machine.stale):
        yield Step(Action.RUN, "systemctl daemon-reload")


def _cache(machine: Machine) -> Iterator[Step]:
    for cache in CACHES:
        if cache in machine.directories:
            yield Step(Action.REMOVE_TREE, cache, _size(machine, cache))


def _data(machine: Machine, removal: Removal) -> Iterator[Step]:
    if STATE not in machine.directories:
        return
    if removal.data:
        yield Step(Action.REMOVE_TREE, STATE, _size(machine, STATE))
    else:
        size = _size(machine, STATE)
        yield Step(Action.KEEP, STATE, f"{size}; --data removes what was collected")


def _size(machine: Machine, directory: str) -> str:
    return f"{machine.bytes.get(directory, 0) / 1e6:,.1f} MB"


def _user_gone(machine: Machine, record: Record, data: Sequence[Step]) -> Iterator[Step]:
    if not machine.user_is_ours:
        return
    if any(step.action is Action.KEEP for step in data):
        yield Step(Action.KEEP, f"user {record.user}", f"{STATE} is its own")
    else:
        yield Step(Action.REMOVE_USER, record.user)


def _remaining(record: Record, files: Sequence[Step], data: Sequence[Step]) -> Record:
    kept = {step.what for step in files if step.action is Action.KEEP}
    is_kept = any(step.action is Action.KEEP for step in data)
    files_kept = {path: hashes for path, hashes in record.files.items() if path in kept}
    return replace(record, files=files_kept, user=record.user if is_kept else "")
