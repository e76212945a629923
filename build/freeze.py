"""Freezes the program into dist/stream-daemon and says how big it is and where it runs.

    .venv/bin/python build/freeze.py

The system's C library is the only thing the file takes from the machine it runs on. The
oldest one that will do (the floor) is the newest symbol version that anything inside asks
for, so every ELF file is taken out of the finished file and looked at.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from PyInstaller.archive.readers import CArchiveReader

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "dist/stream-daemon"
SERVER = ROOT / ".venv/libexec/stream-daemon/valkey-server"
ELF = b"\x7fELF"


def freeze() -> None:
    """Run PyInstaller; its own work stays under .build."""
    pyinstaller = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean"]
    folders = ["--workpath", str(ROOT / ".build"), "--distpath", str(RESULT.parent)]
    spec = str(ROOT / "build/stream-daemon.spec")
    quiet = os.environ | {"PYI_LOG_LEVEL": "ERROR"}
    subprocess.run([*pyinstaller, *folders, spec], check=True, env=quiet)


def glibc_needs(elf: Path) -> set[tuple[int, ...]]:
    """The versions of glibc that a file's symbols ask for."""
    table = subprocess.run(["objdump", "-T", elf], check=True, capture_output=True, text=True)
    versions = re.findall(r"\(?GLIBC_([0-9.]+)\)?", table.stdout)
    return {tuple(map(int, version.split("."))) for version in versions}


def glibc_floor(program: Path) -> tuple[int, ...]:
    """The oldest glibc under which a frozen file and all that is in it will run."""
    needs = glibc_needs(program)
    archive = CArchiveReader(str(program))
    with tempfile.TemporaryDirectory() as folder:
        elf = Path(folder, "elf")
        for name in archive.toc:
            # PYZ holds only Python; symbolic links hold only a name.
            content = archive.extract(name) if not name.endswith(".pyz") else b""
            if content.startswith(ELF):
                elf.write_bytes(content)
                needs |= glibc_needs(elf)
    return max(needs)


def main() -> int:
    """Freeze, then tell size and floor."""
    if not SERVER.exists():
        print(f"no embedded server to put inside ({SERVER}); see above", file=sys.stderr)
        return 1
    print("→ freezing dist/stream-daemon", flush=True)
    freeze()
    floor = ".".join(map(str, glibc_floor(RESULT)))
    size = RESULT.stat().st_size / 1e6
    print(f"→ dist/stream-daemon: {size:.1f} MB, runs from glibc {floor} on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
