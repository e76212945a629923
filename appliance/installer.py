"""Carries out the steps of installation.py, and finds what they are decided from.

Everything lies below `root`, which is "/" but for tests and for images of other machines. A file
is written beside its place, synced and renamed, so that whoever starts it finds the old one or the
new one; a name that is left there by a run that was killed is removed by the next.
"""

import fcntl
import hashlib
import os
import pwd
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from appliance import installation
from appliance.errors import InstanceError
from appliance.installation import Action, Found, Kind, Machine, Part, Step, Wanted

Run = Callable[[Sequence[str]], str]
"""Runs a command to its end; what it has printed. Raises InstanceError where it fails."""

EXAMPLE_NAME = "stream-daemon.toml"
UNIT_SUFFIXES = (".service", ".socket")
OUR_UNITS = [
    f"stream-daemon{instance}{suffix}" for instance in ("", "@*") for suffix in UNIT_SUFFIXES
]
TRAILER, TRAILER_BYTES = b"stream-daemon-archive ", 128  # as build/pack.py writes it
SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")


def templates() -> Path:
    """The folder with our units and the example: in a wheel, in a checkout or frozen in."""
    here = Path(__file__).parent
    packaged = here / "units"
    return packaged if packaged.is_dir() else here.parent / "systemd"


def digest_of(content: bytes) -> str:
    """How the record tells one version of a file from another."""
    return hashlib.sha256(content).hexdigest()


def is_one_file(content: bytes) -> bool:
    """Whether a file is a stream-daemon, of whatever version, by its last line (build/pack.py).

    It isn't asked: root would run what somebody else has put there, or a file of another machine.
    """
    return content[-TRAILER_BYTES:].startswith(TRAILER)


class Installer:
    """One machine below `root`. `run` runs commands on it; `program` is the one file, if any."""

    def __init__(self, root: Path, run: Run, program: Path | None) -> None:
        self._root = root
        self._run = run
        self._program = program
        self.contents: dict[str, bytes] = {}

    def path(self, name: str) -> Path:
        """Where a path of that machine is here.

        Raises:
            InstanceError: a link in it leads out of the root.
        """
        path = self._root / name.lstrip("/")
        if not path.parent.resolve().is_relative_to(self._root.resolve()):
            raise InstanceError(
                f"{path.parent} leads out of {self._root}", "run install on that machine itself"
            )
        return path

    # ── what is wanted ──────────────────────────────────────────────────────────────────

    def wanted(self, user: str, *, packaged: bool, units: bool) -> list[Wanted]:
        """The files that shall be there, their contents kept for `carry_out`.

        `packaged`: program and units are a package's, who looks after them.
        """
        folder = templates()
        wanted = [self._wanted(installation.EXAMPLE, folder / EXAMPLE_NAME, Part.EXAMPLE)]
        if packaged:
            return wanted
        assert self._program
        wanted = [self._wanted(installation.PROGRAM, self._program, Part.PROGRAM), *wanted]
        if units:
            for file in sorted(folder.iterdir()):
                if file.suffix in UNIT_SUFFIXES:
                    place = f"{installation.UNITS}/{file.name}"
                    wanted.append(self._wanted(place, file, Part.UNIT, user))
        return wanted

    def _wanted(self, place: str, source: Path, part: Part, user: str = "") -> Wanted:
        content = source.read_bytes()
        if part is Part.UNIT:
            content = installation.unit_for(content.decode(), user).encode()
        self.contents[place] = content
        return Wanted(place, digest_of(content), part)

    # ── what is found ───────────────────────────────────────────────────────────────────

    def record(self) -> installation.Record:
        """What earlier runs have written."""
        path = self.path(installation.RECORD)
        return installation.record_from(path.read_text() if path.exists() else "")

    def found(self, name: str) -> Found:
        """What is at a path of that machine."""
        path = self.path(name)
        try:
            mode = path.lstat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return Found(Kind.MISSING)
        if stat.S_ISLNK(mode):
            return Found(Kind.LINK, target=os.readlink(path), running=self._runs_from(path))
        if not stat.S_ISREG(mode):
            return Found(Kind.OTHER)
        running = self._runs_from(path)
        content = path.read_bytes()
        ours = name == installation.PROGRAM and not running and is_one_file(content)
        return Found(Kind.FILE, digest_of(content), running=running, ours=ours)

    def _runs_from(self, path: Path) -> bool:
        return bool(self._program and path.exists() and path.samefile(self._program))

    def machine(self, user: str) -> Machine:
        """The rest of what is found; `user` is the one that the units name, or "" ."""
        here = self._root == Path("/")
        runs = here and Path("/run/systemd/system").is_dir()
        places = (installation.CONFIGURATION, installation.STATE, *installation.CACHES)
        entry = self._entry(user) if user else None
        return Machine(
            units=runs or any(self.path(place).exists() for place in SYSTEMD),
            runs=runs,
            stale=runs and self._is_stale(),
            directories=frozenset(name for name in places if _leads_or_led(self.path(name))),
            user_exists=entry is not None,
            user_is_ours=bool(entry and entry.pw_gecos == installation.USER_COMMENT),
            loaded=self._loaded() if runs else (),
            links=tuple(self._links()),
            unfinished=tuple(self._unfinished(places)),
            bytes={name: size_of(self.path(name)) for name in places[1:]},
        )

    def _unfinished(self, places: Iterable[str]) -> Iterator[str]:
        for name in (installation.RECORD, *self.record().files, *self.contents, *places):
            beside = _beside(self.path(name))
            if beside.exists() or beside.is_symlink():
                yield f"/{beside.relative_to(self._root)}"

    def is_packaged(self) -> bool:
        """Whether a package has brought the units."""
        return self.path(installation.PACKAGED_UNIT).exists()

    def _is_stale(self) -> bool:
        show = ["systemctl", "show", "--property=NeedDaemonReload", *OUR_UNITS[::2]]
        return "NeedDaemonReload=yes" in self._run(show)

    def _loaded(self) -> tuple[str, ...]:
        """Our units that run or have failed: name, loaded, active and more in each line."""
        options = ["--all", "--plain", "--no-legend", "--no-pager"]
        lines = self._run(["systemctl", "list-units", *options, *OUR_UNITS]).splitlines()
        fields = [line.split() for line in lines]
        return tuple(field[0] for field in fields if len(field) > 2 and field[2] != "inactive")

    def _links(self) -> list[str]:
        """What `systemctl enable` has made: links in folders named TARGET.wants and the like."""
        units = self.path(installation.UNITS)
        folders = [*units.glob("*.wants"), *units.glob("*.requires")]
        names = [f"/{link.relative_to(self._root)}" for f in folders for link in f.iterdir()]
        return sorted(name for name in names if _is_our_unit(name.rpartition("/")[2]))

    def _entry(self, user: str) -> "pwd.struct_passwd | None":
        """A user's entry, None if there is no such user."""
        if self._root == Path("/"):  # it may also come from a directory service
            try:
                return pwd.getpwnam(user)
            except KeyError:
                return None
        passwd = self.path("/etc/passwd")
        lines = passwd.read_text().splitlines() if passwd.exists() else []
        return next((_parsed(line) for line in lines if line.startswith(f"{user}:")), None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second install or uninstall away meanwhile.

        Raises:
            InstanceError: another one is at work.
        """
        etc = self.path("/etc")
        _make(etc, 0o755)
        fd = os.open(etc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise InstanceError(
                "another install or uninstall is at work", "wait for its end, then look again"
            ) from error
        finally:
            os.close(fd)

    # ── doing it ────────────────────────────────────────────────────────────────────────

    def carry_out(self, step: Step) -> None:
        """Do one step.

        Raises:
            InstanceError: it can't be done; says what to do.
        """
        try:
            self._do(step)
        except OSError as error:
            raise InstanceError(
                f"{error.filename or step.what}: {error.strerror}",
                "mend that, then run the same again: it goes on where it was",
            ) from error

    def _do(self, step: Step) -> None:
        actions: Mapping[Action, Callable[[str], object]] = {
            Action.DIRECTORY: lambda name: _make(self.path(name), 0o755),
            Action.RECORD: self._keep_record,
            Action.WRITE: self._write,
            Action.USER: lambda user: self._run(self._on_it(installation.useradd(user))),
            Action.OWN_STATE: self._make_state,
            Action.RUN: lambda line: self._run(shlex.split(line)),
            Action.REMOVE: lambda name: _remove(self.path(name)),
            Action.REMOVE_TREE: self._remove_tree,
            Action.REMOVE_IF_EMPTY: lambda name: _remove_if_empty(self.path(name)),
            Action.REMOVE_USER: lambda user: self._run(self._on_it(["userdel", user])),
        }
        if step.action in actions:
            actions[step.action](step.what)

    def _write(self, name: str) -> None:
        mode = 0o755 if name == installation.PROGRAM else 0o644
        write_whole(self.path(name), self.contents[name], mode)

    def _keep_record(self, text: str) -> None:
        path = self.path(installation.RECORD)
        if text:
            write_whole(path, text.encode(), 0o644)
        else:
            _remove(path)

    def _on_it(self, command: list[str]) -> list[str]:
        """A command of the shadow suite, for that machine."""
        if self._root == Path("/"):
            return command
        return [command[0], "--prefix", str(self._root), *command[1:]]

    def _make_state(self, user: str) -> None:
        """Made beside and renamed: it is the user's from its first moment."""
        path = self.path(installation.STATE)
        unfinished = _beside(path)
        _make(path.parent, 0o755)
        unfinished.mkdir(mode=0o700, exist_ok=True)
        if entry := self._entry(user):
            os.chown(unfinished, entry.pw_uid, entry.pw_gid)
        os.rename(unfinished, path)
        _sync(path.parent)

    def _remove_tree(self, name: str) -> None:
        """systemd keeps what belongs to users of its own in a folder beside, behind a link."""
        path = self.path(name)
        if not path.is_symlink():
            shutil.rmtree(path)
            return
        private = path.with_name("private") / path.name
        if private.exists():
            shutil.rmtree(private)
        _remove(path)  # last: killed before, the next run finds what to remove by it


def _leads_or_led(path: Path) -> bool:
    """Whether a directory is there, or a link that is left of one that systemd had made."""
    return path.is_dir() or path.is_symlink()


def _is_our_unit(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in OUR_UNITS)


def _parsed(line: str) -> pwd.struct_passwd:
    """A line of passwd(5)."""
    name, password, uid, gid, *more = line.split(":")
    return pwd.struct_passwd((name, password, int(uid), int(gid), *more))


def size_of(directory: Path) -> int:
    """How many bytes the files in a directory have; what can't be looked at doesn't count."""
    files = (Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sum(map(_size, files))


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # gone meanwhile
        return 0


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """Put a file there, so that it is the old one or the new one at each moment, whole."""
    _make(path.parent, 0o755)
    unfinished = _beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(unfinished, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.rename(unfinished, path)
    except OSError:  # a full disk gets its room back
        unfinished.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _beside(path: Path) -> Path:
    """What it is called until it is whole."""
    return path.with_name(f".{path.name}.new")


def _make(directory: Path, mode: int) -> None:
    """The directory, and those above it that are missing, whatever the umask says."""
    if directory.is_dir():
        return
    _make(directory.parent, 0o755)
    directory.mkdir(mode=mode)
    directory.chmod(mode)
    _sync(directory.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()  # one that was being made, still empty
    else:
        path.unlink(missing_ok=True)
    _sync(path.parent)


def _remove_if_empty(directory: Path) -> None:
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def _sync(directory: Path) -> None:
    """Return when the names in it outlive a crash of the machine."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
