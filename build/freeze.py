"""Freezes the program into dist/stream-daemon and says how big it is and where it runs.

    .venv/bin/python build/freeze.py

PyInstaller makes a folder out of the program, its libraries, Python and the embedded server;
pack.py makes one file out of it.

The system's C library is the only thing the file takes from the machine it runs on. The
oldest one that will do (the floor) is the newest symbol version that anything inside asks
for, so every ELF file in the folder is looked at.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pack

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "dist/stream-daemon"
WORK = ROOT / ".build/freeze"
SERVER = ROOT / ".venv/libexec/stream-daemon/valkey-server"
ELF = b"\x7fELF"


def freeze() -> Path:
    """Run PyInstaller; the folder that it has made, which holds the program and all it needs."""
    pyinstaller = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean"]
    folders = ["--workpath", str(WORK / "work"), "--distpath", str(WORK)]
    spec = str(ROOT / "build/stream-daemon.spec")
    # Stored as they are, modules are read faster, and pack better as a whole.
    settings = {"PYI_LOG_LEVEL": "ERROR", "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0"}
    subprocess.run([*pyinstaller, *folders, spec], check=True, env=os.environ | settings)
    return WORK / "stream-daemon"


def glibc_needs(elf: Path) -> set[tuple[int, ...]]:
    """The versions of glibc that a file's symbols ask for."""
    table = subprocess.run(["objdump", "-T", elf], check=True, capture_output=True, text=True)
    versions = re.findall(r"\(?GLIBC_([0-9.]+)\)?", table.stdout)
    return {tuple(map(int, version.split("."))) for version in versions}


def elf_files(folder: Path) -> list[Path]:
    """Everything in a folder that the kernel or the dynamic linker loads."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if path.open("rb").read(len(ELF)) == ELF]


def glibc_floor(folder: Path) -> tuple[int, ...]:
    """The oldest glibc under which all that is in a folder will run. (The stub needs none.)"""
    return max(need for elf in elf_files(folder) for need in glibc_needs(elf))


def main() -> int:
    """Freeze, pack, then tell size and floor."""
    if not SERVER.exists():
        print(f"no embedded server to put inside ({SERVER}); see above", file=sys.stderr)
        return 1
    print("→ freezing dist/stream-daemon", flush=True)
    folder = freeze()
    stub = WORK / "stub"
    pack.compile_stub(stub)
    RESULT.parent.mkdir(exist_ok=True)
    pack.pack(folder, stub, RESULT)
    floor = ".".join(map(str, glibc_floor(folder)))
    size, unpacked = RESULT.stat().st_size / 1e6, _size(folder) / 1e6
    print(
        f"→ dist/stream-daemon: {size:.1f} MB ({unpacked:.1f} unpacked), runs from glibc {floor} on"
    )
    return 0


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
