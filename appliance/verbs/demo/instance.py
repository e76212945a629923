"""The instance that `demo` runs, with a configuration file of its own."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.verbs.demo.account import Database
from appliance.verbs.staged import Staged, free_port, kill_child

NAME = "demo"
SOURCE = "tweets"
TABLE = "records"

CONFIGURATION = """\
# What `stream-daemon demo` ran with.
name = {name}
state_dir = {state_dir}
drain_s = 10

[source.{source}]
type = "tcp"
listen = {listen}
format = "json"
include = {{ path = "text", any = {teams} }}

[queue]
url = "embedded"

[store]
url = "embedded"
table = {table}

[store.columns]
id          = {{ path = "id", type = "BIGINT" }}
created_at  = {{ path = "created_at", type = "VARCHAR(32)" }}
screen_name = {{ path = "user.screen_name", type = "VARCHAR(64)" }}
text        = {{ path = "text", type = "TEXT" }}
lang        = {{ path = "lang", type = "VARCHAR(8)" }}
retweet_of  = {{ path = "retweeted_status.id", type = "BIGINT" }}
raw         = {{ path = "", type = "LONGTEXT" }}
received_at = {{ meta = "received_at", type = "DATETIME(6)" }}
"""


@dataclass(frozen=True, slots=True)
class Status:
    """What the demo reads from `status --json`; a child that doesn't run has pid None."""

    pid: int
    collector: int | None
    subscriber: int | None
    stored: int
    filtered: int
    queued: int


def configuration(directory: Path, port: int, teams: Sequence[str]) -> str:
    """The text of the instance's configuration file."""
    # JSON's strings and lists of strings are TOML's, too.
    values = {
        "name": NAME,
        "state_dir": str(directory),
        "listen": f"127.0.0.1:{port}",
        "teams": list(teams),
        "table": TABLE,
    }
    return CONFIGURATION.format(
        source=SOURCE,
        **{key: json.dumps(value, ensure_ascii=False) for key, value in values.items()},
    )


class Instance(Staged):
    """One instance in one directory. Use `end` whatever happens; it leaves no process."""

    def __init__(self, directory: Path, teams: Sequence[str]) -> None:
        self.port = free_port()
        self.database = Database(directory / NAME / f"{NAME}.db", NAME, TABLE)
        text = configuration(directory, self.port, teams)
        (directory / "demo.toml").write_text(text, encoding="utf-8")
        super().__init__(
            "the demo's instance",
            directory / "demo.toml",
            directory / "log",
            directory / NAME / "control.sock",
            keep="`demo --keep DIR` keeps all of it",
        )

    def status(self) -> Status | None:
        """What the instance says of itself; None if it doesn't answer now."""
        answer = self.report()
        return None if answer is None else read_status(answer)

    def kill(self, child: int, status: Status) -> bool:
        """Kill a child that the instance has named, with SIGKILL; False if it is gone."""
        return kill_child(child, status.pid)


def read_status(answer: dict[str, Any]) -> Status:
    """Pick what the demo needs from the answer of the control socket."""
    subscribers = answer["subscribers"]
    queue, store = answer["queue"], answer["store"]
    return Status(
        pid=answer["pid"],
        collector=answer["sources"][SOURCE]["pid"] or None,
        subscriber=(subscribers[0]["pid"] or None) if subscribers else None,
        stored=store["stored"],
        filtered=store["filtered"],
        queued=queue["frames"] + queue["busy"],
    )
