"""Says what the frozen folder consists of, with licences, and puts that inside.

    lib/licences/sbom.json    CycloneDX 1.6: each part, what is linked into it, its files' hashes
    lib/licences/NAME.txt     the licence texts of that part

Each file of the folder and each Python module in it belongs to a part, or the build fails: a
part that nobody knows has a licence that nobody has read. Who owns a file is looked up where it
is known best: a wheel's own list (RECORD), the list that build/tree.sh writes, and
components.toml for the rest. Where the local Python was frozen, its libraries belong to the
machine's packages.
"""

import csv
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
import tomllib
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PyInstaller.archive.readers import CArchiveReader

ROOT = Path(__file__).parent.parent
KNOWN = tomllib.loads(Path(__file__).with_name("components.toml").read_text())
NAME_SPACE = uuid.UUID("5c0f8c5e-7c57-5d0b-8d3a-2f6f0e6a9f41")  # of our serial numbers
SPDX = re.compile(r"[A-Za-z0-9.+-]+(-only|-or-later|-[0-9.]+(-Clause)?)|MIT|MIT-0|Zlib|ISC")
OURS = "stream-daemon"
SERVER = ROOT / ".venv/libexec/stream-daemon/valkey-server"
BUILT_IN = ("zlib", "libffi")  # linked into Python's own modules by build/tree.sh


class UnknownPartError(Exception):
    """Something in the folder belongs to nobody; the text names it and says what to do."""


@dataclass
class Part:
    """One component: who made it, under which terms, and which files of ours are it."""

    name: str
    version: str
    licence: str
    purl: str
    texts: str = ""
    inside: list[dict] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


# ── parts ───────────────────────────────────────────────────────────────────────────────


class Parts:
    """The parts that are inside, found one by one as they are seen.

    Args:
        tree: what build/tree.sh made; None if the local Python was frozen.
    """

    def __init__(self, tree: Path | None) -> None:
        self.tree = tree
        self.used: dict[str, Part] = {}
        self.wheel_files = _wheel_files()

    def use(self, name: str) -> Part:
        """The part of that name, from now on inside."""
        if name not in self.used:
            self.used[name] = self._find(name)
            self.used[name].inside += _declared(name)
        return self.used[name]

    def _find(self, name: str) -> Part:
        if name == OURS:
            return _ourselves()
        if name == "valkey":
            return _server()
        if name == "cpython" and self.tree is None:
            return _local_python()
        return _from_tree(name, self.tree) or _from_wheel(name) or _from_machine(name)

    def owner(self, path: str) -> str:
        """The name of the part that a file in lib/ belongs to.

        Raises:
            UnknownPartError: nobody owns it.
        """
        if path in self.wheel_files:
            return self.wheel_files[path]
        if path.startswith("systemd/"):
            return OURS
        if path.startswith("valkey-server"):
            return "valkey"
        if path == "base_library.zip" or re.match(r"python3\.\d+/lib-dynload/", path):
            return "cpython"
        name = path.rpartition("/")[2]
        if self.tree is None and not name.startswith("libpython"):
            return _package_with(name)
        for beginning, part in KNOWN["libraries"].items():
            if name.startswith(beginning):
                return part
        raise UnknownPartError(
            f"{path}: no part is known to which this file belongs\n"
            "  → name it in build/components.toml, or leave it out in build/stream-daemon.spec"
        )

    def module_owner(self, module: str) -> str:
        """The same for a Python module.

        Raises:
            UnknownPartError: nobody owns it.
        """
        top = module.partition(".")[0]
        if top == "appliance":
            return OURS
        if top in sys.stdlib_module_names or top.startswith("_sysconfigdata"):
            return "cpython"
        stem = module.replace(".", "/")
        for path in (f"{stem}.py", f"{stem}/__init__.py"):
            if path in self.wheel_files:
                return self.wheel_files[path]
        if top.startswith(("pyimod", "pyi_", "_pyi_")):
            return "pyinstaller"
        raise UnknownPartError(f"{module}: no part is known to which this module belongs")


@cache
def _wheel_files() -> dict[str, str]:
    """Every file of an installed wheel, and whose it is."""
    return {
        path: _plain_name(wheel.name)
        for wheel in importlib.metadata.distributions()
        for path, *_ in csv.reader((wheel.read_text("RECORD") or "").splitlines())
    }


def _plain_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _from_wheel(name: str) -> Part | None:
    try:
        wheel = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    texts = [
        path for path in wheel.files or () if re.search(r"LICEN[CS]E|COPYING|NOTICE", str(path))
    ]
    text = "\n".join(path.read_text() for path in texts if path.suffix not in (".py", ".pyc"))
    part = Part(
        name, wheel.version, _wheel_licence(wheel), f"pkg:pypi/{name}@{wheel.version}", text
    )
    for path in wheel.files or ():
        if ".dist-info/sboms/" in str(path):
            part.inside += [_short(entry) for entry in json.loads(path.read_text())["components"]]
    return part


def _wheel_licence(wheel: importlib.metadata.Distribution) -> str:
    name = _plain_name(wheel.name)
    said = wheel.metadata.get("License-Expression") or wheel.metadata.get("License", "")
    licence = KNOWN["wheels"].get(name, said)
    if "License-Expression" in wheel.metadata or name in KNOWN["wheels"] or SPDX.fullmatch(licence):
        return str(licence)
    raise UnknownPartError(f"{name} says its licence is {said!r}: name it in build/components.toml")


def _short(entry: dict) -> dict:
    """What we keep of a part of a part: a wheel's own list says more than is asked for here."""
    return {
        key: entry[key] for key in ("type", "name", "version", "licenses", "purl") if key in entry
    }


def _declared(name: str) -> list[dict]:
    return [
        {"type": "library", "name": inner, **({"version": v} if (v := said.get("version")) else {})}
        | {"licenses": [{"expression": said["licence"]}]}
        for inner, said in KNOWN["inside"].get(name, {}).items()
    ]


def _from_tree(name: str, tree: Path | None) -> Part | None:
    if tree is None:
        return None
    for line in (tree / "licences/components.tsv").read_text().splitlines():
        said, version, licence, purl = line.split("\t")
        if said == name:
            return Part(name, version, licence, purl, (tree / f"licences/{name}.txt").read_text())
    return None


# ── parts that are neither a wheel nor built ────────────────────────────────────────────


def _ourselves() -> Part:
    version = re.search(
        '"(.+)"', (ROOT / "appliance/__init__.py").read_text().partition("__version__")[2]
    )
    assert version
    text = (ROOT / "LICENSE").read_text()
    return Part(OURS, version[1], "Unlicense", f"pkg:pypi/{OURS}@{version[1]}", text)


def _server() -> Part:
    said = subprocess.run([SERVER, "--version"], check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"v=([0-9.]+)", said.stdout)
    version = found[1] if found else "unknown"
    licence = KNOWN["parts"]["valkey"]["licence"]
    text = SERVER.with_name("valkey-server.LICENSE").read_text()
    return Part("valkey", version, licence, f"pkg:generic/valkey@{version}", text)


# ── the machine's own packages ──────────────────────────────────────────────────────────


def _local_python() -> Part:
    version, notice = platform.python_version(), Path(os.__file__).with_name("LICENSE.txt")
    text = notice.read_text() if notice.exists() else sys.copyright
    return Part("cpython", version, "Python-2.0.1", f"pkg:generic/cpython@{version}", text)


def _dpkg(*words: str) -> str:
    try:
        return subprocess.run(
            ["dpkg-query", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ).stdout
    except FileNotFoundError:
        return ""


@cache
def _package_with(file: str) -> str:
    """The Debian package with a library of that name, else that name itself."""
    found = _dpkg("-S", f"*/{file}").partition(":")[0]
    return found if found and "," not in found else file


def _from_machine(name: str) -> Part:
    """A part as this machine has it: its version and terms are whatever is installed here."""
    known = KNOWN["parts"].get(name, {})
    package = known.get("package", name)
    version = _dpkg("-W", "-f", "${Version}\n", package).partition("\n")[0] or "unknown"
    notice = Path("/usr/share/doc", package, "copyright")
    text = notice.read_text(errors="replace") if notice.exists() else ""
    licence = known.get("licence", "LicenseRef-see-its-text")
    return Part(name, version, licence, f"pkg:deb/debian/{package}@{version}", text)


# ── what is inside ──────────────────────────────────────────────────────────────────────


def modules(program: Path) -> list[str]:
    """The names of all Python modules that are packed into the frozen program.

    Those of base_library.zip aren't among them: they are Python's own.
    """
    archive = CArchiveReader(str(program))
    return sorted(archive.open_embedded_archive("PYZ.pyz").toc)


def look(folder: Path, tree: Path | None) -> Parts:
    """Give every file and module of a frozen folder to its part.

    Raises:
        UnknownPartError: one of them belongs to nobody.
    """
    parts = Parts(tree)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            name = str(path.relative_to(folder))
            owner = "pyinstaller" if name == OURS else parts.owner(name.removeprefix("lib/"))
            parts.use(owner).files.append(path)
    for module in modules(folder / OURS):
        parts.use(parts.module_owner(module))
    for name in ("zstd", "glibc", *BUILT_IN * (tree is not None)):
        parts.use(name)
    return parts


def document(parts: Parts, folder: Path) -> dict:
    """All of it as CycloneDX JSON, the same for the same parts."""
    ours = parts.used[OURS]
    components = [
        _component(part, folder) for name, part in sorted(parts.used.items()) if part is not ours
    ]
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    serial = uuid.uuid5(NAME_SPACE, json.dumps([made, components]))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "timestamp": made,
            "component": {"type": "application", **_component(ours, folder)},
        },
        "components": components,
    }


def _component(part: Part, folder: Path) -> dict:
    files = [
        {
            "type": "file",
            "name": str(path.relative_to(folder)),
            "hashes": [
                {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}
            ],
        }
        for path in part.files
    ]
    inside = {"components": part.inside + files} if part.inside or files else {}
    return {
        "type": "library",
        "bom-ref": part.purl,
        "name": part.name,
        "version": part.version,
        "licenses": [{"expression": part.licence}],
        "purl": part.purl,
        **inside,
    }


def write(folder: Path, tree: Path | None) -> int:
    """Put list and texts into a frozen folder; how many parts it has.

    Raises:
        UnknownPartError: something belongs to nobody.
    """
    parts = look(folder, tree)
    place = folder / "lib/licences"
    place.mkdir()
    listed = json.dumps(document(parts, folder), indent=1, sort_keys=True) + "\n"
    (place / "sbom.json").write_text(listed)
    texts = {name: part.texts for name, part in parts.used.items()}
    for text in sorted((tree / "licences").glob("*.txt")) if tree else ():
        known, more = texts.get(text.stem, ""), text.read_text()
        texts[text.stem] = known if more in known else known + more
    for name, content in texts.items():
        (place / f"{name}.txt").write_text(content)
    return len(parts.used)
