"""`stream-daemon licenses`: what this program consists of, and under which licences.

The frozen file holds a list of all its parts (CycloneDX JSON, an SBOM) and their licence texts,
made when it was built (build/sbom.py). A checkout has neither: there the installed packages
are asked, and Python, server and libraries are those of the machine.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from appliance.errors import Exit, StreamDaemonError

FOLDER = "licences"
LIST = "sbom.json"
RULE_CHARS = 78


class NoListError(StreamDaemonError):
    """Only a frozen file knows all its parts."""

    exit_code = Exit.USAGE


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name, its version, and its terms as an SPDX expression."""

    name: str
    version: str
    licence: str
    text: str = ""


def run(args: argparse.Namespace) -> int:
    """Print names, versions and licences; or all texts; or the list for machines."""
    folder = _folder()
    if args.sbom:
        if folder is None:
            raise NoListError("only the frozen file has a list of its parts", "make binary")
        print((folder / LIST).read_text(encoding="utf-8"), end="")
        return Exit.OK
    parts = list(_of_file(folder) if folder else _of_checkout())
    print(_texts(parts) if args.text else _table(parts))
    if folder is None:
        print("and Python, libraries and servers of this machine", file=sys.stderr)
    return Exit.OK


def _folder() -> Path | None:
    """Where the frozen file has its list and texts; None in a checkout."""
    unpacked = getattr(sys, "_MEIPASS", None)  # PyInstaller's name for where it has put data
    return Path(unpacked, FOLDER) if unpacked else None


def _of_file(folder: Path) -> Iterator[Part]:
    """The parts, then texts of what is linked into them and can't be told apart in files."""
    listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
    entries = [listed["metadata"]["component"], *listed["components"]]
    for entry in entries:
        text = (folder / f"{entry['name']}.txt").read_text(encoding="utf-8")
        yield Part(entry["name"], entry["version"], _expression(entry), text)
    names = {f"{entry['name']}.txt" for entry in entries}
    for entry in entries:
        for inner in entry.get("components", ()):
            if inner["type"] != "file":
                yield _inner(folder, entry["name"], inner, names)


def _inner(folder: Path, owner: str, entry: Mapping[str, str], seen: set[str]) -> Part:
    """A part of a part; its text, if there is one of its own that wasn't said yet."""
    text = folder / f"{entry['name']}.txt"
    own = text.read_text(encoding="utf-8") if text.exists() and text.name not in seen else ""
    seen.add(text.name)
    name = f"{entry['name']} (in {owner})"
    return Part(name, entry.get("version", "-"), _expression(entry), own)


def _expression(entry: Mapping[str, object]) -> str:
    licences = entry.get("licenses")
    match licences:
        case [{"expression": str(expression)}, *_]:
            return expression
        case [{"license": {"id": str(name)}}, *_] | [{"license": {"name": str(name)}}, *_]:
            return name
    return "not told"


def _of_checkout() -> Iterator[Part]:
    """This program and all that is installed because it asks for it."""
    waiting, seen = ["stream-daemon"], set()
    while waiting:
        name = waiting.pop(0)
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # asked for on other systems, or by an extra that nobody has chosen
        waiting += [
            re.split(r"[^\w.-]", wanted, maxsplit=1)[0]
            for wanted in package.requires or ()
            if "extra ==" not in wanted or re.search(r"extra == .(hiredis|rsa)", wanted)
        ]
        yield Part(package.name, package.version, _said(package), _text(package))


def _said(package: Distribution) -> str:
    """The licence in the package's metadata, in the first of three forms that is there."""
    metadata = package.metadata
    for key in ("License-Expression", "License"):
        if key in metadata:
            return metadata[key]
    classifiers = metadata.get_all("Classifier") or ()
    found = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License ::")]
    return ", ".join(found) or "not told"


def _text(package: Distribution) -> str:
    files = (file for file in package.files or () if ".dist-info/" in str(file))
    found = (file for file in files if re.search(r"LICEN[CS]E|COPYING|NOTICE", str(file)))
    return "\n".join(file.read_text(encoding="utf-8") for file in found)


def _table(parts: list[Part]) -> str:
    """Three columns."""
    name_chars = max(len(part.name) for part in parts)
    version_chars = max(len(part.version) for part in parts)
    return "\n".join(
        f"{part.name:{name_chars}}  {part.version:{version_chars}}  {part.licence}"
        for part in parts
    )


def _texts(parts: list[Part]) -> str:
    """All texts, each below its part's name."""
    return "\n".join(
        f"{'=' * RULE_CHARS}\n{part.name} {part.version}: {part.licence}\n\n{part.text}"
        for part in parts
        if part.text
    )
