"""The servers that the contract suites run over."""

from collections.abc import Iterator

import pytest

from tests.sql_server import SERVERS, SQLDatabase, SQLServer, empty_database


@pytest.fixture(scope="session", params=SERVERS)
def sql_server(request: pytest.FixtureRequest) -> SQLServer:
    """Each kind of server that we store into."""
    server: SQLServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def sql_database(sql_server: SQLServer) -> Iterator[SQLDatabase]:
    """An empty database, dropped after the test."""
    with empty_database(sql_server) as database:
        yield database
