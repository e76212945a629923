"""Where a rehearsal takes place: names that nobody else has, and nothing left behind.

    state_dir/NAME_rehearsal/   its directory, with
        rehearsal               a mark: what bears these names is a rehearsal's and may go
        rehearsal.lock          held while a rehearsal is at work
    NAME_rehearsal_…            its tables, where the user's are
    {NAME_rehearsal}:…          its keys, where the user's are

The mark is written after it was seen that nobody has these names, and before anything is made; it
goes last. So a rehearsal that was killed leaves its mark, and the next one cleans up; tables or
keys without a mark belong to somebody else, and are never touched.
"""

import os
import shutil
import signal
from collections.abc import Callable, Iterator

from appliance import keeper_wire, process
from appliance.app import App
from appliance.errors import InstanceError, StreamDaemonError, Unavailable
from appliance.instance import Instance

END_S_MAX = 20.0
Say = Callable[[str], None]


class Ground:
    """The names of one rehearsal. `claim` before anything, `clear` whatever happens."""

    def __init__(self, instance: Instance, app: App, say: Say) -> None:
        self._instance = instance
        self._directory = instance.directory
        self._mark = instance.directory / "rehearsal"
        self._lock = process.Lock(instance.directory / "rehearsal.lock")
        self._app = app
        self._makes_state_dir = False
        self._say = say

    def claim(self) -> None:
        """Take the names, and clean up what a rehearsal that was killed has left.

        Raises:
            InstanceError: they are an instance's, or another rehearsal is at work.
            Unavailable: the queue or the store doesn't answer, or our tables can't be dropped.
        """
        self._refuse_instance()
        self._makes_state_dir = not self._directory.parent.exists()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._lock.try_acquire() or process.lock_owner(self._lock.path) != os.getpid():
            raise InstanceError(
                f"another rehearsal is at work (pid {process.lock_owner(self._lock.path)})",
                "wait for its end, or interrupt it",
            )
        try:
            if self._mark.exists():
                self._say("cleaning up what a rehearsal that was killed has left")
                self._clean()
            self._refuse_names()
            self._try_to_drop()
        except BaseException:
            if self._mark.exists():  # there is something to clean up still
                self._lock.release()
            else:
                self._remove_directory()
            raise
        self._write_mark()

    def clear(self) -> bool:
        """Leave nothing behind; False (and it is said) where something could not be removed."""
        try:
            self._clean()
        except StreamDaemonError as error:
            self._say(f"could not clean up: {error}")
            self._say("the next rehearsal does it")
            self._lock.release()
            return False
        self._remove_directory()
        return True

    # ── whose are the names? ────────────────────────────────────────────────────────────

    def _refuse_instance(self) -> None:
        """Raise if a real instance has the directory."""
        try:
            found = {entry.name for entry in self._directory.iterdir()}
        except FileNotFoundError:
            return
        if found - {self._lock.path.name} and not self._mark.exists():
            raise self._taken(f"{self._directory} belongs to an instance")

    def _refuse_names(self) -> None:
        """Raise if somebody has the tables or the keys."""
        with self._app.traces() as (queue, store):
            if tables := store.tables():
                raise self._taken(f"the store has tables {', '.join(tables)}")
            if queue and (keys := queue.keys()):
                raise self._taken(f"the queue has keys {', '.join(sorted(keys))}")

    def _taken(self, what: str) -> InstanceError:
        return InstanceError(
            f"{what}, and no mark of a rehearsal says that they may be removed",
            f"if nobody needs them, remove them; else rename that instance: a rehearsal is called"
            f" {self._directory.name}",
        )

    def _try_to_drop(self) -> None:
        """See that what will be made can be removed: MySQL asks for a right of its own."""
        with self._app.traces() as (_, store):
            try:
                store.drop()
            except Unavailable as error:
                raise Unavailable(
                    error.message, "a rehearsal drops its own tables at its end: GRANT DROP, too"
                ) from error

    def _write_mark(self) -> None:
        with self._mark.open("w") as file:
            file.write("made by `stream-daemon rehearse`; all of this may be removed\n")
            file.flush()
            os.fsync(file.fileno())

    # ── leaving nothing ─────────────────────────────────────────────────────────────────

    def _clean(self) -> None:
        """Processes, then tables and keys, then files, and the mark as the last of all."""
        for pid in self._processes():
            _kill(pid)
        keeper_wire.end(self._instance.keeper, _kill)
        with self._app.traces() as (queue, store):
            store.drop()
            if queue:
                queue.delete_all()
        for entry in self._directory.iterdir():
            if entry not in (self._mark, self._lock.path):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        self._mark.unlink(missing_ok=True)

    def _processes(self) -> Iterator[int]:
        """What still runs of it: the parent first, which would start the others again."""
        for lock in (self._instance.lock, self._instance.queue / "valkey.lock"):
            if not lock.exists():
                continue
            parent = process.lock_owner(lock)
            yield from ([parent] if parent else [])
            yield from process.holders(lock)

    def _remove_directory(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._makes_state_dir and not any(self._directory.parent.iterdir()):
            self._directory.parent.rmdir()
        self._lock.release()


def _kill(pid: int) -> None:
    process.kill_and_wait(pid, signal.SIGKILL, END_S_MAX)
