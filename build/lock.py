"""Writes build/wheels.txt: the exact wheels that go into the frozen file, by their hashes.

    .venv/bin/python build/lock.py

Takes the newest versions that pyproject.toml allows and that have wheels for both kinds of
machine and for glibc 2.28; one hash per kind of machine where the wheels differ.
"""

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

BUILD = Path(__file__).parent
PYTHON = "3.13"
MACHINES = ("x86_64", "aarch64")
GLIBCS = ("_2_28", "_2_27", "_2_26", "_2_24", "_2_17", "2014")
HEAD = """\
# The wheels that build/tree.sh installs for the frozen file: python build/lock.py writes this
# list anew. One hash per wheel: x86-64, arm64, or one for both.
"""


def requirements() -> list[str]:
    """What pyproject.toml asks for, and PyInstaller."""
    project = tomllib.loads((BUILD.parent / "pyproject.toml").read_text())["project"]
    dev = project["optional-dependencies"]["dev"]
    return project["dependencies"] + [name for name in dev if name.startswith("pyinstaller")]


def resolve(machine: str) -> list[dict]:
    """Pip's answer to what would be installed on a machine of that kind."""
    pip = [sys.executable, "-m", "pip", "-qq", "install", "--dry-run", "--ignore-installed"]
    kind = ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    kind += [f"--platform=manylinux{glibc}_{machine}" for glibc in GLIBCS]
    report = ["--target=unused", "--report=-"]
    done = subprocess.run(
        [*pip, *kind, *report, *requirements()], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)["install"]


def main() -> None:
    """Write the list, sorted by name."""
    hashes = defaultdict(list)
    for machine in MACHINES:
        for wheel in resolve(machine):
            name = wheel["metadata"]["name"].lower().replace("_", "-")
            digest = wheel["download_info"]["archive_info"]["hashes"]["sha256"]
            wanted = hashes[f"{name}=={wheel['metadata']['version']}"]
            if digest not in wanted:
                wanted.append(digest)
    lines = [
        " \\\n".join([pin, *(f"    --hash=sha256:{digest}" for digest in digests)])
        for pin, digests in sorted(hashes.items())
    ]
    (BUILD / "wheels.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
