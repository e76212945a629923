"""What the frozen file consists of: every part known, its licence read, and no newer glibc.

The whole of it is tried on the real file by `make binary`; here are the rules it goes by.
"""

import importlib
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from appliance import cli
from appliance.errors import Exit

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"


def build_module(name: str) -> ModuleType:
    """A file of build/, which is no package: they import each other by their bare names."""
    sys.path.insert(0, str(BUILD))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BUILD))


# ── who owns what ───────────────────────────────────────────────────────────────────────

TREE = Path("/nowhere")  # not the local Python's libraries

OWNERS = [
    ("libssl.so.3", "openssl"),
    ("libpython3.13.so.1.0", "cpython"),
    ("python3.13/lib-dynload/_ssl.cpython-313-x86_64-linux-gnu.so", "cpython"),
    ("base_library.zip", "cpython"),
    ("valkey-server.LICENSE", "valkey"),
    ("orjson/__init__.py", "orjson"),
]


@pytest.mark.parametrize(("path", "owner"), OWNERS)
def test_a_file_belongs_to_the_part_that_brought_it(path: str, owner: str) -> None:
    assert build_module("sbom").Parts(TREE).owner(path) == owner


MODULES = [("json.decoder", "cpython"), ("appliance.app", "stream-daemon"), ("redis", "redis")]


@pytest.mark.parametrize(("module", "owner"), MODULES)
def test_a_module_belongs_to_the_part_that_brought_it(module: str, owner: str) -> None:
    assert build_module("sbom").Parts(TREE).module_owner(module) == owner


def test_what_belongs_to_nobody_stops_the_build() -> None:
    sbom = build_module("sbom")
    parts = sbom.Parts(TREE)
    with pytest.raises(sbom.UnknownPartError, match=r"libnew\.so\.1"):
        parts.owner("libnew.so.1")
    with pytest.raises(sbom.UnknownPartError, match="stowaway"):
        parts.module_owner("stowaway.inner")


def test_a_wheel_brings_its_text_and_what_is_linked_into_it() -> None:
    part = build_module("sbom").Parts(None).use("cryptography")
    assert part.licence == "Apache-2.0 OR BSD-3-Clause"
    assert "Redistribution and use" in part.texts
    assert "openssl" in {entry["name"] for entry in part.inside}


def test_licences_are_spdx_expressions() -> None:
    known = tomllib.loads((BUILD / "components.toml").read_text())
    said = [*known["wheels"].values(), *(part["licence"] for part in known["parts"].values())]
    said += [part["licence"] for inner in known["inside"].values() for part in inner.values()]
    for licence in said:
        names = re.split(r" (?:AND|OR|WITH) ", licence)
        assert all(re.fullmatch(r"[A-Za-z0-9.-]+", name) for name in names), licence


# ── wheels ──────────────────────────────────────────────────────────────────────────────


def test_each_dependency_is_locked_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [re.split(r"[^\w-]", name)[0].lower() for name in project["dependencies"]]
    text = (BUILD / "wheels.txt").read_text()
    locked = re.findall(
        r"^([a-z0-9-]+)==\S+((?: \\\n    --hash=sha256:[0-9a-f]{64}){1,2})$", text, re.M
    )
    assert {*wanted, "pyinstaller"} <= {name for name, _ in locked}, "run build/lock.py"
    assert len(locked) == text.count("==")


# ── the floor ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one program of this machine in it, and a file that is none."""
    python = Path(sys.executable).resolve()
    (tmp_path / "lib").mkdir()
    shutil.copy(python, tmp_path / "lib/some-program")
    (tmp_path / "text").write_text("no ELF")
    return tmp_path


def test_the_floor_is_the_newest_version_asked_for(folder: Path) -> None:
    freeze = build_module("freeze")
    floor = freeze.glibc_floor(folder)
    assert floor > (2, 2)
    freeze.check_floor(folder, floor)


def test_a_file_above_the_floor_is_named_with_its_symbols(folder: Path) -> None:
    freeze = build_module("freeze")
    with pytest.raises(freeze.FloorError, match=r"lib/some-program needs 2\.\d+: \w+"):
        freeze.check_floor(folder, (2, 1))


# ── comparing ───────────────────────────────────────────────────────────────────────────


def packed(folder: Path, result: Path) -> Path:
    pack = build_module("pack")
    stub = result.with_name("stub")
    stub.write_bytes(b"\x7fELF stub")
    pack.pack(folder, stub, result)
    return result


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd, which `make binary` installs")
def test_what_differs_between_two_files_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = build_module("compare")
    files = []
    for name in ("one", "other"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "same").write_text("same")
        (folder / "inner").write_text(name)
        files.append(packed(folder, tmp_path / f"{name}.file"))
    assert compare.main(files[0], files[0]) == 0
    assert compare.main(*files) == 1
    assert capsys.readouterr().out == "the same bytes\ndiffers: inner (515 and 517 bytes)\n"


# ── the verb ────────────────────────────────────────────────────────────────────────────

LISTED = {
    "metadata": {
        "component": {"name": "stream-daemon", "version": "1", "licenses": [{"expression": "X"}]}
    },
    "components": [
        {
            "name": "engine",
            "version": "2.0",
            "licenses": [{"expression": "MIT OR Apache-2.0"}],
            "components": [
                {"type": "library", "name": "gear", "licenses": [{"license": {"id": "Zlib"}}]},
                {"type": "file", "name": "lib/engine.so", "hashes": []},
            ],
        }
    ],
}


@pytest.fixture
def frozen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if this were the frozen program."""
    place = tmp_path / "licences"
    place.mkdir()
    (place / "sbom.json").write_text(json.dumps(LISTED))
    for name in ("stream-daemon", "engine", "gear"):
        (place / f"{name}.txt").write_text(f"terms of {name}\n")
    monkeypatch.setattr(sys, "_MEIPASS", str(tmp_path), raising=False)
    return place


def test_parts_are_listed_with_what_is_linked_into_them(
    frozen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["licenses"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["stream-daemon", "1", "X"],
        ["engine", "2.0", "MIT", "OR", "Apache-2.0"],
        ["gear", "(in", "engine)", "-", "Zlib"],
    ]


def test_all_texts_are_printed(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["licenses", "--text"]) == 0
    assert re.findall("terms of (.*)", capsys.readouterr().out) == [
        "stream-daemon",
        "engine",
        "gear",
    ]


def test_the_list_is_printed_as_it_is(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["licenses", "--sbom"]) == 0
    assert json.loads(capsys.readouterr().out) == LISTED


def test_a_checkout_says_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["licenses"]) == 0
    seen = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert {"stream-daemon", "redis", "hiredis", "cryptography", "orjson"} <= seen
    assert "pytest" not in seen
    assert cli.main(["licenses", "--sbom"]) == Exit.USAGE
    assert "make binary" in capsys.readouterr().err
