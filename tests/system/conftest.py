"""What system tests share: a seed that is printed, and the databases to store into."""

import os
import random
from collections.abc import Iterator

import pytest

from tests.system.stores import MariaDB, Sqlite, StoreUnderTest


@pytest.fixture
def seed() -> int:
    """The seed of a randomised test; SEED=N repeats one."""
    chosen = int(os.environ.get("SEED", random.randrange(10**6)))
    print(f"SEED={chosen}")
    return chosen


@pytest.fixture(params=["sqlite", "mariadb"])
def store(request: pytest.FixtureRequest) -> Iterator[StoreUnderTest]:
    """Each of the databases."""
    if request.param == "sqlite":
        yield Sqlite()
    else:
        yield MariaDB(request.getfixturevalue("mariadb_database"))


@pytest.fixture
def mariadb_store(request: pytest.FixtureRequest) -> StoreUnderTest:
    """MariaDB alone."""
    return MariaDB(request.getfixturevalue("mariadb_database"))
