"""Machines for these tests, and why they run only when asked for: `make check-system`."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted.machine import Machine, booted
from tests.booted.service import COPIED, PROGRAM, Service

ROOT = Path(__file__).parents[2]
TREES = ROOT / ".build" / "trees"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.booted)


@pytest.fixture(scope="session")
def full() -> bool:
    """All of it, which takes a quarter of an hour; else what fits into three minutes."""
    return bool(os.environ.get("FULL"))


@pytest.fixture
def dice() -> random.Random:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def suite() -> str:
    return "bookworm"


@pytest.fixture
def machine(suite: str) -> Iterator[Machine]:
    """A machine that was booted, with the program copied to it and nothing else."""
    tree = TREES / suite
    if not tree.exists():
        pytest.skip(f"no {tree}: make check-system makes it")
    with booted(tree, copy_program) as machine:
        yield machine


@pytest.fixture
def service(machine: Machine) -> Iterator[Service]:
    """The service of one machine, not installed yet. Should the test fail, its log is shown."""
    service = Service(machine)
    yield service
    if machine.is_on():
        print(service.log())


def copy_program(machine: Machine) -> None:
    """`scp dist/stream-daemon root@server:`, before it is switched on."""
    to = machine.disk / COPIED.lstrip("/")
    to.write_bytes(PROGRAM.read_bytes())
    to.chmod(0o755)
