"""Every example configuration that is shown to users runs: `collect` becomes healthy with it.

Only what belongs to the reader's machine is put in its place: addresses, paths, the database
and its password. What is in the example for show (columns, filters, limits) stays.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.verbs.init import EXAMPLE
from tests.database_server import PASSWORD, Database
from tests.ports import free_port
from tests.redis_servers import PrivateRedis
from tests.system.daemon import Daemon, until

ROOT = Path(__file__).parent.parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
HEALTHY_S = 30.0
OTHERS = ("the file is not there yet", "a connection to ")  # files and servers of the reader


def examples() -> Iterator[object]:
    yield pytest.param(EXAMPLE, id="init")
    for file in sorted((ROOT / "systemd").glob("*.toml")):
        yield pytest.param(file.read_text(encoding="utf-8"), id=file.name)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for number, block in enumerate(found, 1):
            if "[source" in block:
                yield pytest.param(block, id=f"{page.name}-{number}")


def put_in_place(
    example: str, folder: Path, database: Database | None, redis: PrivateRedis | None
) -> str:
    """The example with addresses, paths and the servers of this test."""
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    text = re.sub(r"^state_dir.*\n", "", example, flags=re.MULTILINE)
    text = re.sub(r'"[^"\n]*:\d+"', lambda _: f'"127.0.0.1:{free_port()}"', text)
    text = re.sub(r'"/[^"\n]*/([^"/\n]+)"', rf'"{folder}/\1"', text)
    text = re.sub(r"^owner.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"password\s*=\s*\{.*?\}", f'password = {{ file = "{password}" }}', text)
    if redis:
        text = re.sub(r'"rediss?://[^"\n]*"(\npassword.*)?', f'"{redis.address}"', text)
    if database:
        server = database.server
        text = re.sub(r'"mysql://[^"?\n]*', f'"{database.url()}', text)
        text = re.sub(r'\bunix_socket=[^"&\n]*', f"unix_socket={server.unix_socket}", text)
        text = re.sub(r'\bca=[^"&\n]*', f"ca={server.certificates.ca}", text)
    return text


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_runs(example: str, short_dir: Path, request: pytest.FixtureRequest) -> None:
    written = re.sub(r"^\s*#.*\n", "", example, flags=re.MULTILINE)
    database = request.getfixturevalue("mariadb_database") if "mysql:" in written else None
    redis = request.getfixturevalue("redis_server") if "redis" in written else None
    with Daemon(put_in_place(written, short_dir, database, redis)) as daemon:
        until(
            lambda: daemon.ended() or not awaited(daemon), HEALTHY_S, "it to wait for nothing more"
        )
        # Standard input ends at once here, and with it an instance that reads nothing else.
        assert (daemon.wait() if daemon.ended() else daemon.stop()) == 0


def awaited(daemon: Daemon) -> list[str]:
    """What it waits for, but for what a test can't bring; a child, if one isn't there."""
    status = daemon.try_status()
    if status is None:
        return ["an answer"]
    everything = [*status["sources"].values(), *status["subscribers"], status["recovery"]]
    missing = ["a child" for one in everything if not one["pid"]]
    texts = [one.get("waiting_for", "") for one in (*everything, status["queue"])]
    return missing + [text for text in texts if text and not any(words in text for words in OTHERS)]
