"""What the program says that it consists of, held against what it unpacks."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from world import World, expect

# They are linked into others or found in no folder of their own: the easiest to forget.
MUST = {"cpython", "valkey", "pyinstaller", "zstd", "glibc", "orjson", "redis"}
LIBRARIES = ("ssl", "sqlite")  # under the names of this machine's packages, where they are its own


def tells_its_parts(world: World) -> str:
    """Each file that it unpacks is in its list, by its hash, and nothing else is."""
    listed = json.loads(world.must("licenses", "--sbom"))
    (name,) = world.trees()
    tree = world.cache / name
    files = dict(_files(listed))
    found = {str(path.relative_to(tree)): path for path in _unpacked(tree)}
    expect(
        files.keys() == found.keys(), f"not both listed and there: {files.keys() ^ found.keys()}"
    )
    for name, path in found.items():
        expect(files[name] == hashlib.sha256(path.read_bytes()).hexdigest(), f"{name} is another")
    names = {part["name"] for part in listed["components"]}
    expect(names >= MUST, f"not in the list: {MUST - names}")
    for library in LIBRARIES:
        expect(any(library in name for name in names), f"no {library} in the list")
    texts = world.must("licenses", "--text")
    for text in ("PYTHON SOFTWARE FOUNDATION LICENSE", "Valkey contributors", "Apache License"):
        expect(text.lower() in texts.lower(), f"no {text!r} in the texts")
    return f"{len(names)} parts, {len(files)} files, {len(texts) // 1000} KB of licence texts"


def _files(listed: dict) -> Iterator[tuple[str, str]]:
    for part in [listed["metadata"]["component"], *listed["components"]]:
        for inner in part.get("components", ()):
            if inner["type"] == "file":
                yield inner["name"], inner["hashes"][0]["content"]


def _unpacked(tree: Path) -> Iterator[Path]:
    """All but links, and the list with its texts."""
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.parent.name != "licences":
            yield path


CASES: list[Callable[[World], str]] = [tells_its_parts]
