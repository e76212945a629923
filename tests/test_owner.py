"""Root that becomes another user, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534
PROBE = """
import os, sys
from pathlib import Path
from appliance import owner
owner.become(65534, 65533)
place = Path(sys.argv[1])
(place / "hidden" / "made").write_text("")
for path, mode in ((place / "other", "w"), (place / "roots", "a")):
    try:
        open(path, mode)
    except PermissionError:
        continue
    sys.exit(f"{path} could be written")
assert (place / "roots").read_text() == "a secret"
assert os.access(place / "hidden", os.W_OK | os.X_OK), "access(2) asks for the real user's rights"
assert not os.access(place, os.W_OK)
os.execlp("cat", "cat", str(place / "roots"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_it_writes_as_the_owner_and_enters_and_reads_as_root(tmp_path: Path) -> None:
    """So does what it starts, such as the embedded server."""
    tmp_path.chmod(0o700)
    (tmp_path / "hidden").mkdir(mode=0o700)
    os.chown(tmp_path / "hidden", NOBODY, NOBODY)
    (tmp_path / "roots").write_text("a secret")
    (tmp_path / "roots").chmod(0o600)
    command = [sys.executable, "-c", PROBE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "a secret"), done.stderr
    made = (tmp_path / "hidden" / "made").stat()
    assert (made.st_uid, made.st_gid) == (NOBODY, NOBODY - 1)
