"""What all tests share: where services come from and what a missing one means."""

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

pytest_plugins = ["tests.redis_servers", "tests.mariadb_server", "tests.mysql_server"]


def find_service(*programs: str) -> str:
    """The first of these programs that is installed."""
    for program in programs:
        found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if found:
            return found
    wanted = ", ".join(programs)
    missing_service(f"needs one of: {wanted} (apt-get install redis-server mariadb-server)")
    raise AssertionError  # for ruff, which knows no NoReturn


def missing_service(message: str) -> NoReturn:
    """End the test: a missing service is a skip at a user's desk and a failure in CI."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def short_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for Unix sockets (107 bytes)."""
    return tmp_path_factory.mktemp("d", numbered=True)
