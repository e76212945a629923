"""Freezes the program into dist/stream-daemon and says how big it is and where it runs.

    .build/tree/python build/freeze.py         the Python that build/tree.sh has made, or
    .venv/bin/python build/freeze.py           the local one

PyInstaller makes a folder out of the program, its libraries, Python and the embedded server;
sbom.py adds what it consists of, and pack.py makes one file out of it. The same commit frozen
with the same Python gives the same bytes, in whatever folder (compare.py names what differs).

The system's C library is the only thing the file takes from the machine it runs on. The
oldest one that will do (the floor) is the newest version that anything inside asks for, so
every ELF file in the folder is looked at. With build/tree.sh's Python it must be FLOOR_MAX.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pack
import sbom

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "dist/stream-daemon"
WORK = ROOT / ".build/freeze"
TREE = ROOT / ".build/tree"
SERVER = ROOT / ".venv/libexec/stream-daemon/valkey-server"
FLOOR_MAX = (2, 28)  # of glibc, wherever build/tree.sh can be run
SYMBOLS_SHOWN_MAX = 5
ELF = b"\x7fELF"

LOCAL = ": that of this machine, whose Python it was frozen with (docs/building.md)"

Version = tuple[int, ...]


class FloorError(Exception):
    """A file asks for a newer glibc than promised; the text names it and its symbols."""


def date_of_source() -> str:
    """When this commit was made, in seconds since 1970: the only time that gets inside."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    git = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    try:
        done = subprocess.run(git, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except FileNotFoundError:
        return "0"
    return done.stdout.strip() or "0"


def freeze() -> Path:
    """Run PyInstaller; the folder that it has made, which holds the program and all it needs."""
    pyinstaller = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--clean"]
    folders = ["--workpath", str(WORK / "work"), "--distpath", str(WORK)]
    spec = str(ROOT / "build/stream-daemon.spec")
    # Stored as they are, modules are read faster, and pack better as a whole.
    settings = {"PYI_LOG_LEVEL": "ERROR", "PYINSTALLER_ZLIB_COMPRESSION_LEVEL": "0"}
    settings["PYTHONHASHSEED"] = "1"  # sets are written into modules in their order
    subprocess.run([*pyinstaller, *folders, spec], check=True, env=os.environ | settings)
    return WORK / "stream-daemon"


def glibc_needs(elf: Path) -> dict[Version, list[str]]:
    """The versions of glibc that a file asks for, and the symbols for which it does."""
    said = subprocess.run(["objdump", "-pT", elf], check=True, capture_output=True, text=True)
    needs: dict[Version, list[str]] = {}
    # What the loader checks is the list of versions; the symbols say why they are in it.
    for version in re.findall(r"\sGLIBC_([0-9.]+)$", said.stdout, re.MULTILINE):
        needs[_version(version)] = []
    for version, symbol in re.findall(r"\*UND\*.*\(GLIBC_([0-9.]+)\) +(\S+)$", said.stdout, re.M):
        needs.setdefault(_version(version), []).append(symbol)
    if "GLIBC_ABI_DT_RELR" in said.stdout:
        needs[2, 36] = ["GLIBC_ABI_DT_RELR"]
    return needs


def _version(text: str) -> Version:
    return tuple(map(int, text.split(".")))


def elf_files(folder: Path) -> list[Path]:
    """Everything in a folder that the kernel or the dynamic linker loads."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return [path for path in files if path.open("rb").read(len(ELF)) == ELF]


def glibc_floor(folder: Path) -> Version:
    """The oldest glibc under which all that is in a folder will run. (The stub needs none.)"""
    return max(need for elf in elf_files(folder) for need in glibc_needs(elf))


def check_floor(folder: Path, allowed: Version = FLOOR_MAX) -> None:
    """See that nothing in a folder needs a newer glibc than is allowed.

    Raises:
        FloorError: something does.
    """
    wrong = []
    for elf in elf_files(folder):
        for version, symbols in sorted(glibc_needs(elf).items()):
            if version > allowed:
                some = ", ".join(symbols[:SYMBOLS_SHOWN_MAX])
                wrong.append(f"  {elf.relative_to(folder)} needs {_dotted(version)}: {some}")
    if wrong:
        raise FloorError("\n".join([f"glibc {_dotted(allowed)} is not enough for", *wrong]))


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def main() -> int:
    """Freeze, look at what is in it, pack, then tell size and floor."""
    if not SERVER.exists():
        print(f"no embedded server to put inside ({SERVER}); see above", file=sys.stderr)
        return 1
    os.environ["SOURCE_DATE_EPOCH"] = date_of_source()
    tree = TREE if Path(sys.prefix).is_relative_to(TREE) else None
    print(f"→ freezing dist/stream-daemon with Python {sys.version.split()[0]}", flush=True)
    folder = freeze()
    try:
        parts = sbom.write(folder, tree)
        if tree:
            check_floor(folder)
    except (sbom.UnknownPartError, FloorError) as error:
        print(error, file=sys.stderr)
        return 1
    stub = WORK / "stub"
    pack.compile_stub(stub)
    RESULT.parent.mkdir(exist_ok=True)
    pack.pack(folder, stub, RESULT)
    size, unpacked = RESULT.stat().st_size / 1e6, _size(folder) / 1e6
    print(f"→ dist/stream-daemon: {size:.1f} MB ({unpacked:.1f} unpacked), {parts} parts")
    print(f"→ it runs from glibc {_dotted(glibc_floor(folder))} on{'' if tree else LOCAL}")
    return 0


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
