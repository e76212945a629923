"""The state directory of one instance: where each of its files lies.

state_dir/NAME/lock           held while the instance, or a child of a dead one, lives
               drain.lock     held by a `drain`, or by an `audit` without an instance
               control.sock   how stop, running and status reach it
               keeper.sock    where a successor gets the connections of a killed instance
               id             tells it from an instance of the same name elsewhere
               sources/       for each source a note file, beginnings of unfinished records, or
                             since when its server is away
               queue/         the embedded server: data, socket, log, lock
               spool/         frames that the queue didn't take, a directory for each source
               log            what an instance in the background says (collect --detach)
               NAME.db        SQLite, when the store is embedded
"""

import hashlib
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InstanceError

ROOT_STATE_DIR = "/var/lib/stream-daemon"
ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Instance:
    """Paths of one instance; `make` makes the directories."""

    directory: Path

    @property
    def lock(self) -> Path:
        """Held while the instance, or a child of a dead one, lives."""
        return self.directory / "lock"

    @property
    def turnstile(self) -> Path:
        """Held by a `collect` that waits for the lock, so that only one does."""
        return self.directory / "lock.next"

    @property
    def drain_lock(self) -> Path:
        """Held by a `drain`, or an `audit` without an instance: only one is at work."""
        return self.directory / "drain.lock"

    @property
    def log(self) -> Path:
        """What an instance in the background says."""
        return self.directory / "log"

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.directory / "control.sock"

    @property
    def keeper(self) -> Path:
        """The keeper's socket."""
        return self.directory / "keeper.sock"

    @property
    def queue(self) -> Path:
        """The embedded server's directory."""
        return self.directory / "queue"

    @property
    def spool(self) -> Path:
        """The directory of all sources' spools."""
        return self.directory / "spool"

    def spool_of(self, source: str) -> Path:
        """The spool of a source, made when it is first needed."""
        return self.spool / source

    def noted_sources(self) -> list[str]:
        """Sources that have a note file here."""
        return [path.stem for path in (self.directory / "sources").glob("*.note")]

    def queue_has_data(self) -> bool:
        """Whether an embedded server has run here."""
        return (self.queue / "appendonlydir").is_dir()

    def note(self, source: str) -> Path:
        """The note file of a source."""
        return self.directory / "sources" / f"{source}.note"

    def beginnings(self, source: str) -> Path:
        """The directory for the beginnings of a source's unfinished records."""
        return self.directory / "sources" / f"{source}.beginnings"

    def absence(self, source: str) -> Path:
        """Since when the server of a source is away."""
        return self.directory / "sources" / f"{source}.absence"

    def make(self) -> None:
        """Make the directories that are missing, for this user alone.

        Raises:
            InstanceError: the state directory can't be used by this user.
        """
        try:
            for directory in (self.directory, self.queue, self.directory / "sources", self.spool):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(directory))
        except OSError as error:
            raise InstanceError(
                f"state directory {self.directory}: {error.strerror} ({error.filename})",
                "set state_dir to a directory that this user can write, or run as its owner",
            ) from error

    def owner_uid(self) -> int | None:
        """Whose the instance is; None if there is no such instance.

        One that is hidden from us belongs to whoever owns the directory that hides it.
        """
        for place in (self.directory, *self.directory.parents):
            try:
                return place.stat().st_uid
            except PermissionError:
                continue
            except OSError:
                return None
        return None

    def identity(self, machine: str) -> str:
        """This instance's id, hex digits, to tell it from one of the same name elsewhere.

        The same at each start. It is made of a random number, which is kept here, and of the
        machine's id: a copy of this directory on another machine is another instance.

        Raises:
            InstanceError: the random number can be neither read nor kept.
        """
        path = self.directory / "id"
        try:
            kept = _read(path)
            if len(kept) != ID_BYTES:  # there is none, or the machine died while it was written
                kept = os.urandom(ID_BYTES)
                _write_for_good(path, kept)
        except OSError as error:
            raise InstanceError(
                f"{path}: {error.strerror}", "state_dir has to belong to the user who runs this"
            ) from error
        return hashlib.blake2b(kept + machine.encode(), digest_size=8).hexdigest()

    def owner(self) -> str | None:
        """The name of the user that the instance belongs to; None if there is no such instance."""
        uid = self.owner_uid()
        if uid is None:
            return None
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"#{uid}"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _write_for_good(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def directory_of(
    name: str, configured: str | None, environ: Mapping[str, str], is_root: bool
) -> Path:
    """The directory of the instance with this name, see `state_directory`.

    A template unit gives each instance its own: then it bears the name already.
    """
    directory = state_directory(configured, environ, is_root)
    is_own = not configured and bool(environ.get("STATE_DIRECTORY")) and directory.name == name
    return directory if is_own else directory / name


def state_directory(configured: str | None, environ: Mapping[str, str], is_root: bool) -> Path:
    """state_dir, or where this user's instances live by default."""
    if configured:
        return Path(configured).absolute()
    if environ.get("STATE_DIRECTORY"):  # systemd.exec(5); the first of several
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    if is_root:
        return Path(ROOT_STATE_DIR)
    state_home = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME') or '/tmp'}/.local/state"
    return Path(state_home) / "stream-daemon"
