"""A test build: a copy of the tree with one thing switched off, and a test run in it."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.sabotage.sabotages import Sabotage

TREE = Path(__file__).resolve().parent.parent.parent
PARTS = ("appliance", "tests", "pyproject.toml", "README.md", "docs")
TESTS_S_MAX = 900
PASSED, SOME_FAILED = 0, 1  # pytest's exit codes; all others say that nothing was tried
A_FAILURE = "\nFAILED "  # and not only an error in what a test needs


def survives(sabotage: Sabotage) -> str:
    """Try one; how it ended if its test did not notice it, else nothing."""
    with _tree() as tree:
        switch_off(tree, sabotage)
        code, output = _run(tree, [sabotage.test])
    return "" if code == SOME_FAILED and A_FAILURE in output else output


def fails_anyway(sabotages: Sequence[Sabotage]) -> str:
    """Run their tests in a build in which nothing is switched off; how it ended if one fails."""
    with _tree() as tree:
        code, output = _run(tree, sorted({sabotage.test for sabotage in sabotages}))
    return "" if code == PASSED else output


def _run(tree: Path, tests: list[str]) -> tuple[int, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=TESTS_S_MAX,
    )
    return ended.returncode, ended.stdout + ended.stderr


def switch_off(tree: Path, sabotage: Sabotage) -> None:
    """Change the one place in a tree. Raises LookupError where it isn't there exactly once."""
    path = tree / sabotage.file
    text = path.read_text(encoding="utf-8")
    times = text.count(sabotage.old)
    if times != 1:
        raise LookupError(f"{sabotage.name}: {times} times in {sabotage.file}: {sabotage.old!r}")
    path.write_text(text.replace(sabotage.old, sabotage.new), encoding="utf-8")


@contextmanager
def _tree() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sd-") as folder:
        tree = Path(folder)
        for part in PARTS:
            if (TREE / part).is_dir():
                ignore = shutil.ignore_patterns("__pycache__")
                shutil.copytree(TREE / part, tree / part, ignore=ignore)
            else:
                shutil.copy(TREE / part, tree / part)
        for made in (".venv", ".build"):  # servers that the tests start are looked for there
            if (TREE / made).exists():
                (tree / made).symlink_to(TREE / made)
        yield tree
