"""Every answer of a database server, produced for real, over every kind of server.

Which kinds those are is said once, by `sql_server`. The answers about one record are a table
(tests/error_cases.py); those about the server itself, about tables that exist already and about
duplicates are tests of their own here.
"""

from collections.abc import Iterator

import pytest

from tests import error_cases
from tests.error_cases import CASES, Case
from tests.sql_server import SQLDatabase, SQLServer, empty_database


@pytest.fixture(scope="session", params=["mariadb"])
def sql_server(request: pytest.FixtureRequest) -> SQLServer:
    """Each kind of server that we store into."""
    server: SQLServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def database(sql_server: SQLServer) -> Iterator[SQLDatabase]:
    """An empty database, dropped after the test."""
    with empty_database(sql_server) as database:
        yield database


# ── about one record ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_record_is_refused(database: SQLDatabase, case: Case) -> None:
    if case.answer_of(database.server.flavour) is None:
        pytest.skip(f"{database.server.flavour} has no such thing")
    error_cases.check(database, case)
