"""Keeps the layers apart: who may import whom under appliance/.

Words know nothing, decisions touch nothing, hands touch one foreign thing each, roles are
processes, `app` wires them, verbs are what a user calls. A new file fails here until it has
its place in the table.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "appliance"

ROWS = {  # row: its files (a folder with its slash), the rows that they may import
    "packages": ("__init__", ""),
    "words": ("frame batch errors texts fdnames", "words"),
    "decisions": (
        "config addresses settings toml_lines toml_tables contracts framing filters holes "
        "reading rows isolate signals backoff poison refusals reload status herald rates tweets "
        "accounts balance installation pace",
        "decisions words",
    ),
    "sources": ("sources/", "sources decisions words"),
    "queues": ("queues/", "queues decisions words"),
    "stores": ("stores/", "stores decisions words"),
    "spool": ("spool shelf segments files salvage repair stock", "spool decisions words"),
    "hands": (
        "disk redis_server note counters deaths link control systemd credentials process "
        "program instance installer owner keeper_wire",
        "decisions words",
    ),
    "logs": ("logs loglines destinations journal", "logs decisions words"),
    "acceptor": ("acceptor", "hands logs decisions words"),
    "replay": ("replay", "decisions words"),
    "roles": ("collector subscriber recovery monitor keeper", "replay hands logs decisions words"),
    "auditor": ("auditor", "spool hands decisions words"),
    "child": ("child keeping", "acceptor hands logs decisions words"),
    "reloading": ("reloading", "child hands logs decisions words"),
    "watchdog": ("watchdog", "reloading child acceptor hands logs decisions words"),
    "kinds": ("kinds", "sources hands decisions words"),
    "app": (
        "app",
        "kinds watchdog reloading child acceptor auditor roles replay sources queues stores spool "
        "hands logs decisions words",
    ),
    "renewal": ("renewal", "app reloading child sources decisions words"),
    "verbs": (
        "verbs/",
        "verbs app renewal auditor sources queues stores spool hands logs decisions words",
    ),
    "cli": ("cli", "verbs words"),
    "entry": ("__main__", "cli"),
}
IMPURE = {"socket", "os", "time", "random", "subprocess", "redis", "pymysql", "sqlite3", "logging"}
OWNERS = {  # library: the rows and files that may touch it
    "redis": {"queues", "redis_server"},
    "pymysql": {"stores"},
    "sqlite3": {"stores", "account"},  # a witness shares no code with what it checks
}


def name_of(path: Path) -> str:
    """appliance/queues/redis.py is appliance.queues.redis; a package is its folder."""
    dotted = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return dotted.removesuffix(".__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def row_of(path: Path) -> str | None:
    """The row that holds a file, None if nobody has placed it."""
    folder = path.relative_to(PACKAGE).parts[0] + "/" if path.parent != PACKAGE else ""
    is_face = path.stem == "__init__" and len(path.relative_to(PACKAGE).parts) <= 2
    place = path.stem if is_face else folder or path.stem
    return next((row for row, (files, _) in ROWS.items() if place in files.split()), None)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it; ours by their full names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            named = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else str(node.module) for name in named)


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_what_its_row_may(module: str) -> None:
    path = FILES[module]
    row = row_of(path)
    assert row is not None, f"{module} is in no row of the table: place it"
    allowed = {*ROWS[row][1].split(), "packages"}
    for name in imports(path):
        library = name.partition(".")[0]
        if library == "appliance":
            assert name in FILES, f"{module} imports {name}, which doesn't exist"
            assert row_of(FILES[name]) in allowed, f"{module} ({row}) imports {name}"
            continue
        assert library not in OWNERS or OWNERS[library] & {row, path.stem}, (
            f"{module} may not use {library}"
        )
        assert row != "decisions" or library not in IMPURE, f"{module} decides, so no {library}"
        assert row != "words" or library in sys.stdlib_module_names, f"{module}: {library}"


def test_no_import_cycles() -> None:
    graph = {module: set(imports(path)) & FILES.keys() for module, path in FILES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle
