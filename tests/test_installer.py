"""install and uninstall on another machine's root: run, run again, killed at each change."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance import installation, installer
from appliance.errors import InstanceError
from appliance.installation import CONFIGURATION, EXAMPLE, PROGRAM, RECORD, STATE, UNITS, Kind
from appliance.installer import Installer
from tests import machine

SERVICE = f"{UNITS}/stream-daemon.service"
PAST = {"make": "made", "write": "wrote", "keep": "kept", "run": "ran", "remove": "removed"}
CHANGES_MAX = 200  # more changes than any of these makes


class Machine:
    """A machine's root, and versions of the one file beside it."""

    def __init__(self, folder: Path, *, systemd: bool = True) -> None:
        self.root = machine.make(folder / "root", systemd=systemd)
        self.old = machine.one_file(folder / "old", "0.1")
        self.new = machine.one_file(folder / "new", "0.2")
        self._said = folder / "said"

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def run(self, words: str, file: Path | None = None, kill_at: int = 0) -> int:
        words += f" --root {self.root}"
        return machine.run(file or self.new, words.split(), self._said, kill_at)

    def said(self, words: str, file: Path | None = None) -> list[str]:
        """What it says of its steps."""
        assert self.run(words, file) == 0, self._said.read_text()
        return self._said.read_text().split("\nnext:")[0].splitlines()

    def refused(self, words: str, code: int, file: Path | None = None) -> str:
        assert self.run(words, file) == code, self._said.read_text()
        return self._said.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def past(lines: list[str]) -> list[str]:
    """What was said to be done, as it is said when it is done."""
    return [
        " ".join([PAST[words[1]], *words[2:]]) if words[0] == "would" else line
        for line in lines
        if (words := line.split())
    ]


def installed(place: Machine) -> None:
    assert place.run("install", place.old) == 0


def changed(place: Machine) -> None:
    """Installed, and then its owner has written his own configuration, and enabled the unit."""
    installed(place)
    place.path(EXAMPLE).write_text("# mine\n")
    wants = place.path(f"{UNITS}/multi-user.target.wants")
    wants.mkdir()
    (wants / "stream-daemon.service").symlink_to(SERVICE)
    state = place.path(f"{STATE}/stream")
    state.mkdir(parents=True)
    (state / "stream.db").write_text("data")


def nothing(_place: Machine) -> None:
    """A machine that we were never on."""


SCENES: dict[str, tuple[Callable[[Machine], None], str]] = {
    "first": (nothing, "install"),
    "first for a user": (nothing, "install --user sd"),
    "upgrade": (changed, "install"),
    "other user": (changed, "install --user sd"),
    "again": (installed, "install"),
    "uninstall": (changed, "uninstall"),
    "purge": (changed, "uninstall --purge"),
    "all": (changed, "uninstall --purge --data --yes"),
}


@pytest.mark.parametrize("scene", SCENES)
def test_a_dry_run_says_what_a_run_does_and_does_nothing(scene: str, place: Machine) -> None:
    before, words = SCENES[scene]
    before(place)
    untouched = machine.tree(place.root)
    would = place.said(f"{words} --dry-run")
    assert machine.tree(place.root) == untouched
    assert past(would) == place.said(words)


@pytest.mark.parametrize("scene", ["first for a user", "upgrade", "uninstall", "all"])
def test_killed_at_each_change_and_run_again(scene: str, tmp_path: Path) -> None:
    """Each file is the old one or the new one at each moment; the next run completes all."""
    before, words = SCENES[scene]
    place = Machine(tmp_path)
    before(place)
    untouched = tmp_path / "untouched"
    shutil.copytree(place.root, untouched, symlinks=True)
    first = machine.tree(place.root)
    assert place.run(words) == 0
    last = machine.tree(place.root)
    for kill_at in range(1, CHANGES_MAX):
        shutil.rmtree(place.root)
        shutil.copytree(untouched, place.root, symlinks=True)
        if place.run(words, kill_at=kill_at) == 0:
            break
        for name, seen in machine.tree(place.root).items():
            hidden = name.rpartition("/")[2].startswith(".")  # the record, what isn't whole yet
            assert hidden or seen in (first.get(name), last.get(name)), (kill_at, name)
        assert place.run(words) == 0
        assert machine.tree(place.root) == last, kill_at
    assert kill_at > 5


def test_a_first_install(place: Machine) -> None:
    assert place.said("install") == [
        f"made {CONFIGURATION}",
        f"wrote {PROGRAM}",
        f"wrote {EXAMPLE}",
        *(f"wrote {UNITS}/{unit.name}" for unit in units()),
    ]
    assert place.path(PROGRAM).read_bytes() == place.new.read_bytes()
    assert os.access(place.path(PROGRAM), os.X_OK)
    for name in (EXAMPLE, SERVICE):
        assert place.path(name).stat().st_mode & 0o777 == 0o644
    assert (
        place.path(SERVICE).read_text()
        == (installer.templates() / "stream-daemon.service").read_text()
    )


def units() -> list[Path]:
    return sorted(f for f in installer.templates().iterdir() if f.suffix in installer.UNIT_SUFFIXES)


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_whatever_the_umask(place: Machine, umask: int) -> None:
    before = os.umask(umask)
    try:
        place.said("install")
    finally:
        os.umask(before)
    modes = {
        name: place.path(name).stat().st_mode & 0o777 for name in (PROGRAM, EXAMPLE, CONFIGURATION)
    }
    assert modes == {PROGRAM: 0o755, EXAMPLE: 0o644, CONFIGURATION: 0o755}


def test_a_second_run_has_nothing_to_do(place: Machine) -> None:
    installed(place)
    before = machine.tree(place.root)
    said = place.said("install", place.old)
    assert said
    assert all(line.endswith(": nothing to do") for line in said)
    assert machine.tree(place.root) == before


def test_an_upgrade(place: Machine) -> None:
    installed(place)
    assert f"wrote {PROGRAM} (in place of an older version)" in place.said("install")
    assert place.path(PROGRAM).read_bytes() == place.new.read_bytes()


def test_what_you_have_changed_is_kept(place: Machine) -> None:
    installed(place)
    for name in (EXAMPLE, SERVICE):
        place.path(name).write_text("# mine\n")
        assert f"kept {name} (you have changed it)" in place.said("install")
        assert place.path(name).read_text() == "# mine\n"


def test_an_older_example_is_brought_up_to_date(
    place: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = place.root.parent / "templates"
    older.mkdir()
    for file in installer.templates().iterdir():
        (older / file.name).write_text(f"# older\n{file.read_text()}")
    with monkeypatch.context() as patch:
        patch.setattr(installer, "templates", lambda: older)
        installed(place)
    assert f"wrote {EXAMPLE} (in place of an older version)" in place.said("install")
    assert "# older" not in place.path(EXAMPLE).read_text()


def test_another_program_of_that_name_is_left(place: Machine) -> None:
    program = place.path(PROGRAM)
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho stream-daemon 0.0; touch $0.was-run\n")
    program.chmod(0o755)
    before = machine.tree(place.root)
    assert "is another program; nothing was changed" in place.refused("install", 73)
    assert machine.tree(place.root) == before


def test_a_program_that_was_copied_by_hand_is_replaced_and_removed(place: Machine) -> None:
    place.path(PROGRAM).parent.mkdir(parents=True)
    machine.one_file(place.path(PROGRAM), "0.0")
    assert f"wrote {PROGRAM} (in place of an older version)" in place.said("install")
    machine.one_file(place.path(PROGRAM), "0.3")
    assert f"removed {PROGRAM}" in place.said("uninstall")


def test_the_program_installs_itself_where_it_is(place: Machine) -> None:
    program = place.path(PROGRAM)
    program.parent.mkdir(parents=True)
    machine.one_file(program, "0.1")
    assert f"{PROGRAM}: nothing to do" in place.said("install", program)
    assert f"removed {PROGRAM}" in place.said("uninstall", program)


def test_a_masked_unit_stays_masked(place: Machine) -> None:
    installed(place)
    place.path(SERVICE).unlink()
    place.path(SERVICE).symlink_to("/dev/null")
    assert f"kept {SERVICE} (it is a link to /dev/null)" in place.said("install")
    assert f"kept {SERVICE} (it is a link to /dev/null)" in place.said("uninstall")


def test_without_systemd(tmp_path: Path) -> None:
    place = Machine(tmp_path, systemd=False)
    place.said("install")
    assert not place.path(UNITS).exists()
    assert place.path(PROGRAM).exists()
    assert installation.CRONTAB_LINE in (tmp_path / "said").read_text()


def test_a_user_is_remembered(place: Machine) -> None:
    place.said("install --user sd")
    assert "\nUser=sd\n" in place.path(SERVICE).read_text()
    assert "\nDynamicUser=" not in place.path(SERVICE).read_text()
    assert place.path(STATE).stat().st_mode & 0o777 == 0o700
    assert f"{SERVICE}: nothing to do" in place.said("install")
    place.said("uninstall --purge --data --yes")
    assert "sd:" in place.path("/etc/passwd").read_text(), "install hasn't made that user"


def test_uninstall_leaves_configuration_and_data(place: Machine) -> None:
    clean = machine.tree(place.root)
    changed(place)
    place.said("uninstall")
    left = machine.tree(place.root).keys() - clean.keys()
    files = {name for name in left if place.path(name).is_file()}
    assert files == {name.lstrip("/") for name in (EXAMPLE, RECORD, f"{STATE}/stream/stream.db")}


def test_purge_and_data_leave_nothing(place: Machine) -> None:
    changed(place)
    place.said("uninstall --purge --data --yes")
    left = [name for name in machine.tree(place.root) if "stream" in name]
    assert left == []
    assert place.said("uninstall --purge --data --yes") == ["nothing is installed here"]


def test_a_file_of_yours_beside_the_configuration_stays(place: Machine) -> None:
    installed(place)
    mine = place.path(f"{CONFIGURATION}/nfl.toml")
    mine.touch()
    place.said("uninstall --purge")
    assert [*place.path(CONFIGURATION).iterdir()] == [mine]


def test_data_is_not_removed_without_a_yes(place: Machine) -> None:
    changed(place)
    before = machine.tree(place.root)
    said = place.refused("uninstall --data", 64)
    assert f"would remove {STATE} (0.0 MB)" in said
    assert "nothing was done" in said
    assert machine.tree(place.root) == before


def test_data_in_the_private_folder_of_systemd(place: Machine) -> None:
    installed(place)
    private = place.path("/var/lib/private/stream-daemon")
    private.mkdir(parents=True)
    (private / "file").touch()
    place.path(STATE).symlink_to("private/stream-daemon")
    kill_at = 1
    while place.run("uninstall --data --yes", kill_at=kill_at) != 0:
        found_by_the_next = place.path(STATE).is_symlink()
        assert found_by_the_next or not private.exists()
        kill_at += 1
    assert kill_at > 1
    assert not private.exists()
    assert not place.path(STATE).is_symlink()


def test_a_link_beside_what_is_removed_is_not_followed(place: Machine) -> None:
    """Anybody may make folders in /var/tmp."""
    installed(place)
    ours, theirs = place.path("/var/tmp/stream-daemon-0"), place.path("/var/mail/stream-daemon-0")
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
    place.path("/var/tmp/private").symlink_to("../mail")
    place.said("uninstall --purge")
    assert not ours.exists()
    assert theirs.exists()


def test_data_of_an_instance_that_runs_stays(place: Machine) -> None:
    changed(place)
    with place.path(f"{STATE}/stream/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "an instance runs in" in place.refused("uninstall --data --yes", 73)
    assert place.path(f"{STATE}/stream/stream.db").read_text() == "data"


def test_a_link_out_of_the_root(place: Machine, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place.path("/usr/local").mkdir()
    place.path("/usr/local/bin").symlink_to(outside)
    assert "leads out of" in place.refused("install", 73)
    assert not any(outside.iterdir())


def test_a_damaged_record(place: Machine) -> None:
    installed(place)
    place.path(RECORD).write_text("{")
    assert "is not what install writes" in place.refused("install", 73)


def test_only_one_at_a_time(place: Machine) -> None:
    one = Installer(place.root, lambda _: "", place.new)
    with one.alone():
        assert "another install or uninstall is at work" in place.refused("install", 73)
    installed(place)


def test_a_package_looks_after_its_own(place: Machine) -> None:
    unit = place.path(installation.PACKAGED_UNIT)
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    assert "a package has installed" in place.refused("install", 73)
    assert "a package has installed" in place.refused("uninstall", 73)
    packaged = Path(installation.PACKAGED_PROGRAM)
    assert "--user can't change them" in place.refused("install --user sd", 73, packaged)
    assert place.said("install", packaged) == [f"made {CONFIGURATION}", f"wrote {EXAMPLE}"]


def test_what_goes_before_a_package_can_be_taken_away(place: Machine) -> None:
    installed(place)
    unit = place.path(installation.PACKAGED_UNIT)
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    assert f"removed {SERVICE}" in place.said("uninstall")
    assert unit.exists()


# ── what systemd says ───────────────────────────────────────────────────────────────────

LISTED = """\
stream-daemon.service loaded active running Collect a stream
stream-daemon@a.service loaded failed failed Collect a stream
stream-daemon@b.service loaded inactive dead Collect a stream
stream-daemon.socket not-found inactive dead stream-daemon.socket
"""


def test_what_systemd_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[str] = []

    def run(command: object) -> str:
        asked.append(str(command))
        return (
            LISTED
            if "list-units" in str(command)
            else "NeedDaemonReload=no\nNeedDaemonReload=yes\n"
        )

    here = Installer(Path("/"), run, None)
    monkeypatch.setattr(Path, "is_dir", lambda path: path == Path("/run/systemd/system"))
    found = here.machine("")
    assert found.runs
    assert found.stale
    assert found.loaded == ("stream-daemon.service", "stream-daemon@a.service")
    assert all("stream-daemon@*.service" in question for question in asked)


def test_a_full_disk_gets_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        installer.write_whole(tmp_path / "file", b"x", 0o644)
    assert not any(tmp_path.iterdir())


def test_a_step_that_fails_says_what_to_do(place: Machine) -> None:
    one = Installer(place.root, lambda _: "", place.new)
    one.contents[EXAMPLE] = b"x"
    place.path(CONFIGURATION).touch()
    with pytest.raises(InstanceError, match="run the same again"):
        one.carry_out(installation.Step(installation.Action.WRITE, EXAMPLE))
    assert one.found(EXAMPLE).kind is Kind.MISSING
