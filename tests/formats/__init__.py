"""One of each thing that outlives a process, as each released version has written it.

    VERSION/            what that version wrote; never changed once it is released
    VERSION/expected.json   what is in it, in words that no format of ours is needed for
    make.py                 writes the folder of this version

Tables of schema 1 (`ledger-1.…`) are those of an early 0.1.0, written before 2 was.

A released format stays readable: tests/test_formats.py reads all folders with today's program, and
sees that today's program still writes what is in the newest. Who changes a format on purpose makes
a folder for the version that will be released with it: `python -m tests.formats.make`.
"""

from pathlib import Path

HERE = Path(__file__).parent


def versions() -> list[Path]:
    """The folders, the newest last."""
    found = [path for path in HERE.iterdir() if path.is_dir() and path.name[0].isdigit()]
    return sorted(found, key=lambda path: [int(part) for part in path.name.split(".")])
