"""What a new configuration changes: each key by itself, any two configurations, what is refused."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import reload
from appliance.config import parse
from appliance.errors import ConfigError
from appliance.reload import KEYS, Plan, Touch, plan
from appliance.settings import Config

TWO = """
name = "nfl"
state_dir = "/a"
[source.t]
type = "tcp"
listen = "127.0.0.1:5170"
format = "json"
[source.f]
type = "file"
path = "/f"
[queue]
url = "redis://h"
[store]
url = "mysql://u@h/d"
"""
EVERY = {"collectors": frozenset("tf"), "subscribers": True, "recovery": True}
SUBSCRIBERS = {"subscribers": True}
STORE = {"subscribers": True, "asks_store": True}
COLLECTORS = {"collectors": frozenset("tf")}
T = {"collectors": frozenset("t")}


def parsed(text: str) -> Config:
    return parse(text, "test.toml")


def planned(old: str, new: str, **more: Any) -> Plan:
    return plan(parsed(old), parsed(new), more.get("secrets", []), more.get("unheld", []))


def with_line(section: str, line: str) -> str:
    """TWO with a line more below a section's head, or at its top."""
    head = f"[{section}]\n" if section else 'name = "nfl"\n'
    text = TWO if head in TWO else f"{TWO}\n{head}"
    return text.replace(head, head + line + "\n")


ONE_KEY: list[tuple[str, str, str, dict[str, Any]]] = [  # section, line, key, what it touches
    ("", "subscribers = 3", "subscribers", {"resized": True}),
    ("", "drain_s = 9", "drain_s", EVERY),
    ("", "ready_s = 9", "ready_s", {}),
    ("", "require_healthy = true", "require_healthy", {}),
    ("", 'disk_free_min = "2GiB"', "disk_free_min", EVERY),
    ("source.t", "connections_max = 5", "source.t.connections_max", T | {"listeners": {"t"}}),
    ("source.t", "close_wait_s = 9", "source.t.close_wait_s", T),
    ("source.t", "frame_interval_ms = 9", "source.t.frame_interval_ms", T),
    ("source.t", 'frame_bytes_max = "2MiB"', "source.t.frame_bytes_max", T),
    ("source.t", 'include = { path = "a", any = ["b"] }', "source.t.include", SUBSCRIBERS),
    ("source.t", 'exclude = { path = "a", any = ["b"] }', "source.t.exclude", SUBSCRIBERS),
    ("source.f", 'start = "end"', "source.f.start", {"collectors": {"f"}}),
    ("source.f", "follow = false", "source.f.follow", {"collectors": {"f"}}),
    ("source.f", 'format = "json"', "source.f.format", SUBSCRIBERS),
    ("queue", 'password = { file = "/p" }', "queue.password", EVERY | {"asks_queue": True}),
    ("queue", "bytes_max = 9999", "queue.bytes_max", EVERY),
    ("queue", "push_s = 9", "queue.push_s", COLLECTORS),
    ("spool", "bytes_max = 9", "spool.bytes_max", COLLECTORS | {"recovery": True}),
    ("store", 'password = { file = "/p" }', "store.password", STORE),
    ("store", 'table = "other"', "store.table", STORE),
    ("store", 'on_duplicate = "ignore"', "store.on_duplicate", STORE),
    ("store", "lease_bytes_max = 9999", "store.lease_bytes_max", STORE),
    ("store.columns", 'a = { path = "", type = "TEXT" }', "store.columns", STORE),
    ("log", 'level = "debug"', "log.level", EVERY | {"relogged": True}),
]


@pytest.mark.parametrize(
    ("section", "line", "key", "touched"), ONE_KEY, ids=[r[2] for r in ONE_KEY]
)
def test_one_key(section: str, line: str, key: str, touched: dict[str, Any]) -> None:
    assert planned(TWO, with_line(section, line)) == Plan((key,), **touched)
    assert planned(with_line(section, line), TWO) == Plan((key,), **touched), "and back"


REPLACED: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("127.0.0.1:5170", ":5171", ("source.t.listen",), {"listeners": {"t"}}),
    ('"/f"', '"/g"', ("source.f.path",), {"collectors": {"f"}}),
    ("mysql://u@h/d", "mysql://v@h:3306/d?tls=require", ("store.url",), STORE),
    (
        "[source.f]",
        "[source.g]",
        ("source.g is new", "source.f is gone"),
        {"added": ("g",), "removed": ("f",), "subscribers": True, "recovery": True},
    ),
]


@pytest.mark.parametrize(("old", "new", "changes", "touched"), REPLACED)
def test_what_is_replaced(
    old: str, new: str, changes: tuple[str, ...], touched: dict[str, Any]
) -> None:
    assert planned(TWO, TWO.replace(old, new)) == Plan(changes, **touched)


def test_a_longer_record_has_to_fit_into_the_store() -> None:
    line = 'record_bytes_max = "2MiB"'
    keys = ("source.t.frame_bytes_max", "source.t.record_bytes_max")
    assert planned(TWO, with_line("source.t", line)) == Plan(keys, **T, **STORE)
    both = with_line("source.t", line).replace("[source.f]", "[source.f]\n" + line)
    keys = ("source.f.frame_bytes_max", "source.f.record_bytes_max")
    expected = Plan(keys, collectors=frozenset("f"), subscribers=True)
    assert planned(with_line("source.t", line), both) == expected, (
        "the longest is as long as before"
    )


def test_another_server_ends_the_connection_first() -> None:
    dialled = TWO.replace("listen", "connect")
    assert planned(dialled, dialled.replace("5170", "5171")) == Plan(
        ("source.t.connect",), **T, redialled=frozenset("t")
    )


def test_the_order_of_columns_counts() -> None:
    a, b = ('a = { path = "", type = "TEXT" }\n', 'b = { path = "", type = "TEXT" }\n')
    texts = [f"{TWO}[store.columns]\n{columns}" for columns in (a + b, b + a)]
    assert planned(*texts) == Plan(("store.columns",), **STORE)


def test_a_secret_that_was_changed_where_it_lies() -> None:
    texts = [with_line("store", f'password = {{ file = "/{name}" }}') for name in "pq"]
    said = Plan(("store.password (the secret itself)",), **STORE)
    assert planned(texts[0], texts[0], secrets=["store.password"]) == said
    assert planned(*texts, secrets=["store.password"]) == Plan(("store.password",), **STORE)


# ── refused ─────────────────────────────────────────────────────────────────────────────

UNIX = TWO.replace('"tcp"', '"unix"').replace("127.0.0.1:5170", "/s")
EMBEDDED = TWO.replace("redis://h", "embedded")
STDIN = TWO.replace('"file"\npath = "/f"', '"stdin"')
REFUSED: list[tuple[str, str, list[str]]] = [
    (TWO, TWO.replace('"nfl"', '"nba"').replace('"/a"', '"/b"'), ["name; state_dir"]),
    (TWO, TWO.replace("redis://h", "redis://i"), ["queue.url"]),
    (TWO, EMBEDDED, ["queue.url"]),
    (TWO, UNIX, ["source.t.type (give it another name"]),
    (TWO, TWO.replace("listen", "connect"), ["source.t: from listen to connect"]),
    (TWO, TWO.replace("mysql://u@h/d", "mysql://u@h/e"), ["store.url (another database"]),
    (TWO, TWO.replace("mysql://u@h/d", "mysql://u@i/d"), ["store.url (another database"]),
    (TWO, TWO.replace("mysql://u@h/d", "mysql://u@h:3307/d"), ["store.url (another database"]),
    (TWO, TWO.replace("mysql://u@h/d", "mysql://u@h/d?unix_socket=/s"), ["store.url (another"]),
    (TWO, TWO.replace("mysql://u@h/d", "sqlite:///d"), ["store.url (another database"]),
    (
        EMBEDDED,
        EMBEDDED.replace('"embedded"', '"embedded"\nbytes_max = 9'),
        ["queue.bytes_max (the embedded server"],
    ),
    (TWO, STDIN.replace("source.f", "source.g"), ["source.g (standard input is taken up"]),
    (STDIN, TWO.replace("source.f", "source.g"), ["source.f (standard input is taken up"]),
    (
        STDIN,
        STDIN.replace('"nfl"', '"nba"').replace('"stdin"', '"stdin"\nframe_interval_ms = 9'),
        ["name", "source.f.frame_interval_ms (no successor of source f's collector"],
    ),
]


@pytest.mark.parametrize(("old", "new", "words"), REFUSED)
def test_what_takes_a_restart_is_named_all_at_once(old: str, new: str, words: list[str]) -> None:
    with pytest.raises(ConfigError, match="only a restart can change this: ") as raised:
        planned(old, new, unheld=["f"])
    assert all(word in raised.value.message for word in words), raised.value.message
    assert "stop and start" in raised.value.hint


def test_what_no_successor_can_go_on_with_is_touched_by_no_reload() -> None:
    with pytest.raises(ConfigError, match=r"drain_s \(no successor of source t's collector"):
        planned(TWO, with_line("", "drain_s = 9"), unheld=["t"])
    line = 'include = { path = "a", any = ["b"] }'
    assert planned(TWO, with_line("source.t", line), unheld=["t"]).subscribers
    gone = planned(TWO, TWO.replace("source.t", "source.u"), unheld=["t"])
    assert gone.removed == ("t",), "it ends as in a stop, and nobody goes on with it"


# ── any two ─────────────────────────────────────────────────────────────────────────────

names = st.sampled_from("abc")
source = st.tuples(
    st.sampled_from(['type = "tcp"\nlisten = "NAME:1"', 'type = "file"\npath = "/NAME"']),
    st.sampled_from(["", "frame_interval_ms = 1", 'include = { path = "", any = ["x"] }']),
)
configs = st.builds(
    lambda sources, rest: parsed(
        rest
        + "".join(
            f"[source.{name}]\n{a.replace('NAME', name)}\n{b}\n" for name, (a, b) in sources.items()
        )
    ),
    st.dictionaries(names, source, min_size=1),
    st.sampled_from(["", "drain_s = 1\n", "subscribers = 0\n", 'name = "x"\n']),
)


@settings(max_examples=60)
@given(configs, configs)
def test_any_two_configurations(old: Config, new: Config) -> None:
    """Only who has something else to do is touched; nothing is forgotten."""
    try:
        made = plan(old, new, [], [])
    except ConfigError:
        moved = [n for n in old.sources if type(new.sources.get(n)) is not type(old.sources[n])]
        assert old.name != new.name or any(name in new.sources for name in moved)
        return
    assert (not made.changes) == (old == new)
    assert {*old.sources} - {*made.removed} | {*made.added} == {*new.sources}
    assert made.collectors <= old.sources.keys() & new.sources.keys()
    for name in old.sources.keys() & new.sources.keys():
        same = [msgspec.structs.replace(c.sources[name], include=()) for c in (old, new)]
        assert (name in made.collectors) == (same[0] != same[1] or old.drain_s != new.drain_s)
    assert plan(old, old, [], []) == Plan(())


def test_each_key_has_its_row() -> None:
    """A key inside of another is that one's; what isn't there has none."""
    assert reload.key_of("store.columns.COLUMN.type") == "store.columns"
    assert reload.key_of("source.tweets.include.path") == "source.SOURCE.include"
    with pytest.raises(KeyError):
        reload.key_of("store.colour")
    for key, touch in KEYS.items():
        assert touch is Touch.RESTART or Touch.RESTART not in touch, key
