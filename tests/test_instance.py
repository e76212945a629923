"""Where an instance lives: by configuration, by systemd, by user; and what is refused."""

import os
import re
import shutil
from pathlib import Path

import pytest

from appliance.errors import Exit, InstanceError
from appliance.instance import Instance, directory_of, state_directory

HERE = Path.cwd()
ALL = {
    "STATE_DIRECTORY": "/var/lib/private/unit",
    "XDG_STATE_HOME": "/xdg/state",
    "HOME": "/home/ann",
}


def without(*names: str) -> dict[str, str]:
    return {name: value for name, value in ALL.items() if name not in names}


CASES = [  # configured, environment, is root, the directory
    ("/srv/streams", ALL, True, "/srv/streams"),
    ("/srv/streams", {}, False, "/srv/streams"),
    ("here", {}, False, f"{HERE}/here"),
    (None, ALL, True, "/var/lib/private/unit"),
    (None, ALL, False, "/var/lib/private/unit"),
    (None, ALL | {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, False, "/var/lib/a"),
    (None, ALL | {"STATE_DIRECTORY": ""}, True, "/var/lib/stream-daemon"),
    (None, without("STATE_DIRECTORY"), True, "/var/lib/stream-daemon"),
    (None, without("STATE_DIRECTORY"), False, "/xdg/state/stream-daemon"),
    (
        None,
        {"XDG_STATE_HOME": "", "HOME": "/home/ann"},
        False,
        "/home/ann/.local/state/stream-daemon",
    ),
    (None, {"HOME": "/home/ann"}, False, "/home/ann/.local/state/stream-daemon"),
    (None, {"HOME": ""}, False, "/tmp/.local/state/stream-daemon"),
    (None, {}, True, "/var/lib/stream-daemon"),
    (None, {}, False, "/tmp/.local/state/stream-daemon"),
]


@pytest.mark.parametrize(("configured", "environ", "is_root", "directory"), CASES)
def test_the_state_directory(
    configured: str | None, environ: dict[str, str], is_root: bool, directory: str
) -> None:
    assert state_directory(configured, environ, is_root) == Path(directory)


def test_everything_of_an_instance_lies_in_its_directory_and_is_its_users_alone(
    tmp_path: Path,
) -> None:
    instance = Instance(tmp_path / "state" / "nfl")
    instance.make()
    instance.make()  # what is there already is no error
    names = sorted(path.name for path in instance.directory.iterdir())
    assert names == ["queue", "sources", "spool"]
    made = (instance.directory, *instance.directory.iterdir())
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700}
    assert instance.note("tweets") == instance.directory / "sources" / "tweets.note"
    assert instance.spool_of("tweets") == instance.directory / "spool" / "tweets"
    paths = [instance.lock, instance.turnstile, instance.control, instance.queue]
    paths += [instance.drain_lock, instance.log, instance.spool]
    assert len({*paths}) == 7
    assert {path.parent for path in paths} == {instance.directory}


def test_an_instance_keeps_its_id_and_a_copy_elsewhere_has_another(tmp_path: Path) -> None:
    one, other = Instance(tmp_path / "one"), Instance(tmp_path / "other")
    one.make()
    other.make()
    identity = one.identity("machine")
    assert re.fullmatch("[0-9a-f]{16}", identity)
    assert Instance(tmp_path / "one").identity("machine") == identity
    assert other.identity("machine") != identity
    assert (one.directory / "id").stat().st_mode & 0o777 == 0o600
    shutil.copy(one.directory / "id", other.directory / "id")
    assert other.identity("another machine") != identity
    assert other.identity("machine") == identity
    (one.directory / "id").write_bytes(b"cut")  # the machine died while it was written
    assert one.identity("machine") != identity
    assert one.identity("machine") == one.identity("machine")


def test_an_id_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "id").mkdir()
    with pytest.raises(InstanceError, match="Is a directory") as raised:
        Instance(tmp_path).identity("")
    assert "state_dir" in raised.value.hint


def test_a_directory_that_cannot_be_made_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InstanceError) as raised:
        Instance(tmp_path / "taken" / "nfl").make()
    assert raised.value.exit_code is Exit.TAKEN
    assert str(tmp_path / "taken") in raised.value.message
    assert "Not a directory" in raised.value.message
    assert "state_dir" in raised.value.hint


def test_the_owner(tmp_path: Path) -> None:
    assert Instance(tmp_path / "nobody's").owner() is None
    mine = Instance(tmp_path / "mine")
    mine.make()
    assert mine.owner() == tmp_path.owner()
    if os.getuid() == 0:
        os.chown(mine.directory, 54321, -1)
        assert mine.owner() == "#54321"
        assert mine.owner_uid() == 54321


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_owner_of_what_is_hidden_is_who_hides_it(short_dir: Path) -> None:
    for directory in (short_dir, *short_dir.parents):
        if directory.owner() == short_dir.owner() and directory.stat().st_mode & 0o077 == 0:
            directory.chmod(0o755)
    instance = Instance(short_dir / "closed" / "nfl")
    instance.make()
    os.chown(short_dir / "closed", 54321, -1)
    (short_dir / "closed").chmod(0o700)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        os._exit(0 if instance.owner_uid() == 54321 else 1)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize(
    ("configured", "given", "expected"),
    [
        (None, "/var/lib/stream-daemon", "/var/lib/stream-daemon/nfl"),
        (None, "/var/lib/stream-daemon/nfl", "/var/lib/stream-daemon/nfl"),
        (None, "/var/lib/nfl:/srv/nfl", "/var/lib/nfl"),
        ("/srv/nfl", "/var/lib/nfl", "/srv/nfl/nfl"),
        ("/srv/nfl", "", "/srv/nfl/nfl"),
    ],
)
def test_a_directory_that_is_given_to_one_instance_is_its_own(
    configured: str | None, given: str, expected: str
) -> None:
    environ = {"STATE_DIRECTORY": given} if given else {}
    assert directory_of("nfl", configured, environ, is_root=True) == Path(expected)
