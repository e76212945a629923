"""Frames of each released version wait in the queue, and a `drain` of today stores them."""

import json
import re
from pathlib import Path

import pytest

from appliance.frame import FORMAT
from appliance.queues.keys import Keys
from tests.formats import make, versions
from tests.redis_servers import PrivateRedis
from tests.system import cron
from tests.system.daemon import unstarted
from tests.system.stores import Sqlite


@pytest.mark.parametrize("version", versions(), ids=lambda path: path.name)
def test_a_drain_stores_what_an_older_version_has_queued(
    version: Path, redis_server: PrivateRedis, seed: int
) -> None:
    """A frame of a version to come among them is refused by its name, and kept."""
    name = f"formats_{seed}"
    keys = Keys(name)
    frames = json.loads((version / "expected.json").read_bytes())["frames"]
    items = [(version / "frames" / f"{frame}.frame").read_bytes() for frame in frames]
    later = re.sub(rb'"format":\d+', b'"format":%d' % (FORMAT + 1), items[0])
    later = later.replace(make.RUN.encode(), b"f" * 32)
    url = f"unix://{redis_server.address.path}"
    config = (
        f'name = "{name}"\n[queue]\nurl = "{url}"\n'
        '[source.tweets]\ntype = "file"\npath = "/nowhere"\n'
    )
    with unstarted(config) as daemon, redis_server.client() as client:
        client.rpush(keys.working, items[0], later, *items[1:])
        client.set(keys.bytes, sum(map(len, [later, *items])))
        code, said = cron.run(daemon, "drain")
        assert code == 0
        assert f"a frame of format {FORMAT + 1} can't be read by this version" in said
        assert "upgrade this one" in said
        assert client.lrange(keys.bad, 0, -1) == [later]
        assert client.llen(keys.working) == 0
        store = Sqlite()
        assert [*store.raws(daemon)] == [
            line.encode() for frame in frames.values() for line in stored(frame)
        ]
        dead = store.rows(daemon, f"SELECT code, raw FROM {name}_dead ORDER BY frame")
        assert dead == [("too long", b"first bytes"), ("cut", b"half")]
        gaps = store.rows(daemon, f"SELECT cause, records FROM {name}_gaps ORDER BY gap")
        assert {*gaps} >= {("cut", None), ("connection lost", 2), ("source down", None)}
        runs = store.rows(daemon, f"SELECT source, up_to FROM {name}_runs ORDER BY run")
        assert ("log", 1) in runs
        client.delete(*client.keys(keys.every))


def stored(frame: dict[str, object]) -> list[str]:
    """The lines of a frame that become rows: not the blank ones, nor what was rejected."""
    header, body = frame["header"], frame["body"]
    assert isinstance(header, dict)
    assert isinstance(body, str)
    lines = body.split("\n")[:-1]
    return [line for n, line in enumerate(lines) if line and f"{n}" not in header["rejected"]]
