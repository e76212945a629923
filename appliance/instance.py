"""The state directory of one instance: where each of its files lies.

state_dir/NAME/lock           held while the instance, or a child of a dead one, lives
               control.sock   how stop, running and status reach it
               sources/       a note file for each source; beginnings of unfinished records
               queue/         the embedded server: data, socket, log, lock
               NAME.db        SQLite, when the store is embedded
"""

import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import InstanceError

ROOT_STATE_DIR = "/var/lib/stream-daemon"


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
    def control(self) -> Path:
        """The control socket."""
        return self.directory / "control.sock"

    @property
    def queue(self) -> Path:
        """The embedded server's directory."""
        return self.directory / "queue"

    def note(self, source: str) -> Path:
        """The note file of a source."""
        return self.directory / "sources" / f"{source}.note"

    def beginnings(self, source: str) -> Path:
        """The directory for the beginnings of a source's unfinished records."""
        return self.directory / "sources" / f"{source}.beginnings"

    def make(self) -> None:
        """Make the directories that are missing, for this user alone.

        Raises:
            InstanceError: the state directory can't be used by this user.
        """
        try:
            for directory in (self.queue, self.directory / "sources"):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(directory))
        except OSError as error:
            raise InstanceError(
                f"state directory {self.directory}: {error.strerror} ({error.filename})",
                "set state_dir to a directory that this user can write, or run as its owner",
            ) from error

    def owner(self) -> str | None:
        """The user that the instance belongs to; None if there is no such instance."""
        try:
            uid = self.directory.stat().st_uid
        except OSError:
            return None
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            return f"#{uid}"


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
