"""Configurations: what is read, and what every mistake is told.

A mistake's table entry is the text, then what its error must hold: the line, the full key
(together "file:line: key:"), words of the message, words of the next step.
"""

import string
import tomllib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.addresses import host_and_port
from appliance.config import (
    GIB,
    KIB,
    MIB,
    Column,
    Config,
    FileSource,
    Filter,
    LogConfig,
    QueueConfig,
    SecretRef,
    SpoolConfig,
    StdinSource,
    StoreConfig,
    TcpSource,
    UnixSource,
    name_and_state_dir,
    no_source,
    parse,
    search_paths,
)
from appliance.counters import SLOTS_MAX
from appliance.errors import ConfigError, Exit
from appliance.settings import (
    DEFAULT_COLUMNS,
    LATER_KEYS,
    LATER_VALUES,
    SOURCE_TYPES,
    SOURCES_LIMIT,
    SUBSCRIBERS_LIMIT,
)
from appliance.toml_lines import line_of
from appliance.toml_tables import size_text

STDIN = '[source.s]\ntype = "stdin"\n'
JSON = STDIN + 'format = "json"\n'


def failure(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse(text, "x.toml")
    assert caught.value.exit_code == Exit.CONFIG
    assert caught.value.hint, "what to do next"
    return caught.value


def source(lines: str, kind: str = "stdin") -> str:
    return f'[source.s]\ntype = "{kind}"\n{lines}\n'


# ── what is read ────────────────────────────────────────────────────────────────────────


def test_the_smallest_configuration_has_all_defaults() -> None:
    assert parse(STDIN, "x.toml") == Config(
        name="stream",
        state_dir=None,
        subscribers="auto",
        drain_s=60.0,
        ready_s=30.0,
        require_healthy=False,
        sources={
            "s": StdinSource(
                framing="newline",
                format="text",
                record_bytes_max=MIB,
                frame_bytes_max=MIB,
                frame_interval_ms=5,
                include=(),
            )
        },
        queue=QueueConfig(url="embedded", password=None, bytes_max=None, push_s=2.0),
        spool=SpoolConfig(bytes_max=8 * GIB),
        store=StoreConfig(
            url="embedded",
            password=None,
            table="records",
            on_duplicate="dead",
            lease_bytes_max=4 * MIB,
            columns={
                "source": Column(type="VARCHAR(32)", meta="source"),
                "received_at": Column(type="DATETIME(6)", meta="received_at"),
                "raw": Column(type="LONGTEXT", path=""),
            },
        ),
        log=LogConfig(to="stderr", level="info", format="text"),
    )


def test_everything_that_is_built_can_be_written() -> None:
    text = """
name = "nfl"
state_dir = "/srv/nfl"
subscribers = 3
drain_s = 7.5
ready_s = 1.5
require_healthy = true

[source.tweets]
type = "tcp"
listen = "[::1]:5170"
framing = "newline"
format = "json"
record_bytes_max = "64KiB"
frame_bytes_max = "2MB"
frame_interval_ms = 0
connections_max = 7
close_wait_s = 1
include = [
  { path = "text", any = ["Patriots"] },
  { path = "user.name", any = ["Ünal", "b c"] },
]

[source.local]
type = "unix"
listen = "/run/nfl/éééééééééééééééééééééééééééééééééééééééééééééééé.s"
mode = "0666"
owner = "nfl:adm"
format = "json"

[source.log]
type = "file"
path = "log/app.log"
start = "end"
follow = false
format = "json"
include = { path = "text", any = ["x"] }
exclude = [
  { path = "lang", equals = "de" },
  { path = "n", equals = ["a", 5, 1.5, true] },
  { path = "text", regex = '(?i)^rt\\b' },
]

[source.in]
type = "stdin"
format = "json"

[queue]
url = "rediss://me@redis.example.net:6390/2"
password = { env = "REDIS_PW" }
bytes_max = 1000000
push_s = 0.25

[spool]
bytes_max = 0

[store]
url = "mysql://nfl@db.example.net:3306/nfl?unix_socket=/run/mysqld.sock"
password = { cred = "mysql" }
table = "Tweets of 2024"
on_duplicate = "update"
lease_bytes_max = "8MiB"

[store.columns]
id = { path = "id", type = "BIGINT UNSIGNED" }
when = { meta = "received_at", type = "DATETIME(6)" }
raw = { path = "", type = "LONGTEXT" }

[log]
to = "stderr"
level = "debug"
format = "text"
"""
    config = parse(text, "x.toml")
    assert config == Config(
        name="nfl",
        state_dir="/srv/nfl",
        subscribers=3,
        drain_s=7.5,
        ready_s=1.5,
        require_healthy=True,
        sources={
            "tweets": TcpSource(
                listen="[::1]:5170",
                format="json",
                record_bytes_max=64 * KIB,
                frame_bytes_max=2_000_000,
                frame_interval_ms=0,
                connections_max=7,
                close_wait_s=1.0,
                include=(
                    Filter(path="text", any=("Patriots",)),
                    Filter(path="user.name", any=("Ünal", "b c")),
                ),
            ),
            "local": UnixSource(
                listen="/run/nfl/" + "é" * 48 + ".s", mode="0666", owner="nfl:adm", format="json"
            ),
            "log": FileSource(
                path="log/app.log",
                start="end",
                follow=False,
                format="json",
                include=(Filter(path="text", any=("x",)),),
                exclude=(
                    Filter(path="lang", equals=("de",)),
                    Filter(path="n", equals=("a", 5, 1.5, True)),
                    Filter(path="text", regex=r"(?i)^rt\b"),
                ),
            ),
            "in": StdinSource(format="json"),
        },
        queue=QueueConfig(
            url="rediss://me@redis.example.net:6390/2",
            password=SecretRef(env="REDIS_PW"),
            bytes_max=1_000_000,
            push_s=0.25,
        ),
        spool=SpoolConfig(bytes_max=0),
        store=StoreConfig(
            url="mysql://nfl@db.example.net:3306/nfl?unix_socket=/run/mysqld.sock",
            password=SecretRef(cred="mysql"),
            table="Tweets of 2024",
            on_duplicate="update",
            lease_bytes_max=8 * MIB,
            columns={
                "id": Column(type="BIGINT UNSIGNED", path="id"),
                "when": Column(type="DATETIME(6)", meta="received_at"),
                "raw": Column(type="LONGTEXT", path=""),
            },
        ),
        log=LogConfig(level="debug"),
    )
    assert list(config.store.columns) == ["id", "when", "raw"], "in their order"
    assert type(config.drain_s) is type(parse(STDIN, "x").drain_s) is float


def test_an_empty_table_of_columns_means_the_default_ones() -> None:
    assert parse(STDIN + "[store.columns]\n", "x").store.columns == DEFAULT_COLUMNS


def test_a_filter_of_the_whole_record_needs_no_json() -> None:
    config = parse(source('include = { path = "", any = ["error"] }'), "x")
    assert config.sources["s"].include == (Filter(path="", any=("error",)),)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("1", 1),
        ('"64KiB"', 65_536),
        ('"1 MiB"', MIB),
        ('"1KB"', 1000),
        ('"3MB"', 3_000_000),
        ('"2GiB"', 2 * GIB),
        ('"2GB"', 2_000_000_000),
    ],
)
def test_sizes(written: str, size: int) -> None:
    assert parse(STDIN + f"[queue]\nbytes_max = {written}\n", "x").queue.bytes_max == size


@given(st.integers(1, 2**53))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    text = size_text(size)
    written = f'"{text}"' if isinstance(text, str) else text
    assert parse(STDIN + f"[queue]\nbytes_max = {written}\n", "x").queue.bytes_max == size


def test_frames_grow_with_records() -> None:
    grown = parse(source('record_bytes_max = "4MiB"'), "x").sources["s"]
    assert (grown.record_bytes_max, grown.frame_bytes_max) == (4 * MIB, 4 * MIB)
    small = parse(source('record_bytes_max = "1KiB"'), "x").sources["s"]
    assert (small.record_bytes_max, small.frame_bytes_max) == (KIB, MIB)


@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:5170", "127.0.0.1", 5170),
        (":5170", "", 5170),
        ("localhost:0", "localhost", 0),
        ("my-host.example.net.:65535", "my-host.example.net.", 65535),
        ("[::1]:80", "::1", 80),
        ("[::]:80", "::", 80),
    ],
)
def test_listening_addresses(listen: str, host: str, port: int) -> None:
    assert host_and_port(listen) == (host, port)
    assert parse(source(f'listen = "{listen}"', "tcp"), "x").sources["s"].listen == listen  # type: ignore[union-attr]


def test_an_instance_has_only_so_many_sources() -> None:
    """Each is a process, with a slot among the shared numbers."""
    sources = [
        f'[source.s{number}]\ntype = "file"\npath = "/{number}"\n'
        for number in range(SOURCES_LIMIT + 1)
    ]
    error = failure("".join(sources))
    assert f"{SOURCES_LIMIT + 1} sources are too many for one instance" in error.message
    assert "several instances" in error.hint
    assert len(parse("".join(sources[1:]), "x").sources) == SOURCES_LIMIT
    assert SOURCES_LIMIT + SUBSCRIBERS_LIMIT < SLOTS_MAX


@pytest.mark.parametrize("connect", ["stream.example.net:5170", "127.0.0.1:1", "[::1]:65535"])
def test_servers_to_connect_to(connect: str) -> None:
    """Several sources may connect to one server, which may send each something else."""
    text = source(f'connect = "{connect}"', "tcp")
    sources = parse(text + text.replace("source.s", "source.t"), "x").sources
    assert sources["s"] == sources["t"] == TcpSource(connect=connect)


def test_several_sources_may_listen_to_any_free_port() -> None:
    text = source("listen = ':0'", "tcp") + "[source.t]\ntype = 'tcp'\nlisten = ':0'"
    assert parse(text, "x").sources.keys() == {"s", "t"}


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://u%40b@[::1]:6379/15",
        "rediss://h:1/",
        "rediss://u@h/0?ca=/a%20b/ca.pem&cert=/c.pem&key=/k.pem",
        "unix:///run/redis.sock",
        "unix:///run/a:b@c.sock?db=3",
    ],
)
def test_queue_urls(url: str) -> None:
    assert parse(STDIN + f'[queue]\nurl = "{url}"\n', "x").queue.url == url


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///var/lib/x.db",
        "sqlite:////var/lib/x.db",
        "mysql://u@h/d",
        "mysql://u@h:3306/d-1",
        "mysql://u@/d?unix_socket=/run/a@b.sock",
        "mysql://u@h/d?tls=require&ca=/etc/ssl/ca.pem",
    ],
)
def test_store_urls(url: str) -> None:
    assert parse(STDIN + f'[store]\nurl = "{url}"\n', "x").store.url == url


@pytest.mark.parametrize(
    "written",
    [
        "BIGINT",
        "decimal(10, 2) unsigned",
        "VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        "ENUM('Gänse','it (is), \"so\"')",
        'ENUM("a", "b")',
        "INT NOT NULL DEFAULT '0'",
    ],
)
def test_column_types(written: str) -> None:
    quoted = '"""' + written + ' """'
    columns = f"[store.columns]\na = {{ path = '', type = {quoted} }}\n"
    assert parse(STDIN + columns, "x").store.columns["a"].type == written + " "


# ── mistakes ────────────────────────────────────────────────────────────────────────────


def column(spec: str) -> str:
    return JSON + f"[store.columns]\na = {{ {spec} }}\n"


# fmt: off
MISTAKES = [
    # TOML itself
    ("name = nfl\n" + STDIN, "x.toml:1: this is not TOML", "quotes"),
    ("\n\n[queue\n", "x.toml:3: this is not TOML", "brackets"),
    (STDIN + "[queue]\nurl = 'a", "x.toml: this is not TOML", "quotes"),
    (STDIN + STDIN, "x.toml:3: this is not TOML", "quotes"),
    ("a = " + "[" * 5000, "x.toml: nested too deeply", ""),
    # keys
    ("nmae = 'a'\n" + STDIN, "x.toml:1: nmae: unknown key", "did you mean name?"),
    (source("lisen = ':1'\nlisten=':2'", "tcp"), "x.toml:3: source.s.lisen: unknown", "listen?"),
    (STDIN + "[qeue]\nurl = 'embedded'", "x.toml:3: qeue: unknown", "did you mean queue?"),
    (STDIN + "[queue]\nurll = 'embedded'", "x.toml:4: queue.urll: unknown", "did you mean url?"),
    (STDIN + "[log]\nlevle = 'info'", "x.toml:4: log.levle: unknown", "did you mean level?"),
    (column("pth = 'a', type = 'INT'"), "x.toml:5: store.columns.a.pth", "did you mean path?"),
    (JSON + "include = {path='a', anny=['b']}", "x.toml:4: source.s.include.anny", "any?"),
    (JSON + "[[source.s.include]]\npath='a'\nany=['b']\n[[source.s.include]]\npath='a'\nayn=['b']",
     "x.toml:9: source.s.include[1].ayn: unknown", "any?"),
    ("'a\\b\t' = 1\n" + STDIN, 'x.toml:1: "a\\\\b\\t": unknown', "known here: name"),
    (STDIN + "drain_s = 5", "x.toml:3: source.s.drain_s: doesn't belong", "above the first"),
    ("url = 'embedded'\n" + STDIN, "x.toml:1: url: doesn't", "in [queue] or in [store]"),
    (source("path = '/a'"), "x.toml:3: source.s.path: doesn't belong here", 'of type "file"'),
    # values of another type
    (source("listen = 5170", "tcp"), "x.toml:3: source.s.listen: expected a text in quotes, found "
     "5170", 'write listen = "127.0.0.1:5170"'),
    (source("listen = ':1'\nconnections_max = 'many'", "tcp"),
     'x.toml:4: source.s.connections_max: expected a whole number, at least 1, at most 100000, '
     'found "many"', "write connections_max = 1000"),
    (source("listen=':1'\nconnections_max=true", "tcp"), "whole number, at least 1", "1000"),
    (source("listen=':1'\nconnections_max=0", "tcp"), "at least 1, at most 100000, found 0", ""),
    (source("listen=':1'\nclose_wait_s=-1", "tcp"), "number of seconds, at least 0", "= 5"),
    (source("path = ''", "file"), "expected a text in quotes, found \"\"", "/var/log/app.log"),
    (source("path = 'a'\nfollow = 1", "file"), "expected true or false, found 1", "follow = true"),
    (source("path = 'a'\nstart = 'middle'", "file"), 'expected "beginning" or "end", found '
     '"middle"', 'write start = "beginning"'),
    (source("format = 'xml'"), 'source.s.format: expected "text" or "json", found "xml"', ""),
    (source("framing = 'lines'"), 'source.s.framing: expected "newline", found "lines"', ""),
    (source("frame_interval_ms = 1.5"), "expected a whole number of milliseconds", "= 5"),
    ("subscribers = 65\n" + STDIN, 'x.toml:1: subscribers: expected a whole number, at least 0, '
     'at most 64 or "auto", found 65', 'write subscribers = "auto"'),
    ("subscribers = 'two'\n" + STDIN, 'found "two"', 'write subscribers = "auto"'),
    ("subscribers = 2.0\n" + STDIN, "found 2", ""),
    ("drain_s = 0\n" + STDIN, "above 0, at most 86400, found 0", "drain_s = 60"),
    ("ready_s = 0\n" + STDIN, "above 0, at most 86400, found 0", "ready_s = 30"),
    ("require_healthy = 1\n" + STDIN, "expected true or false, found 1", ""),
    ("drain_s = nan\n" + STDIN, "found nan", ""),
    ("drain_s = inf\n" + STDIN, "found inf", ""),
    (f"drain_s = 0x{'f' * 9000}\n" + STDIN, "found a number that is far too large", ""),
    ("state_dir = 2020-01-01\n" + STDIN, "found a date or time", "/var/lib/stream-daemon"),
    ("state_dir = ''\n" + STDIN, "state_dir: expected a text", ""),
    ('state_dir = "a\\u0000"\n' + STDIN, "state_dir: expected a text", ""),
    (STDIN + "[queue]\nbytes_max = '2 gigs'", "x.toml:4: queue.bytes_max: expected a size such as "
     '"64KiB", "1MiB" or a number of bytes, at least 1, at most', '= "2GiB"'),
    (STDIN + "[queue]\nbytes_max = '1mib'", 'found "1mib"', ""),
    (STDIN + "[queue]\nbytes_max = 0", "found 0", ""),
    (STDIN + "[spool]\nbytes_max = 'all'", "x.toml:4: spool.bytes_max: expected a size", '"8GiB"'),
    (STDIN + "[queue]\nbytes_max = '9999999999GiB'", "queue.bytes_max: expected a size", ""),
    (STDIN + "[queue]\npush_s = 21", "above 0, at most 20, found 21", "push_s = 2"),
    (STDIN + "[store]\nlease_bytes_max = '1GiB'", "store.lease_bytes_max", '= "4MiB"'),
    (STDIN + "[store]\non_duplicate = 'x'", '"dead" or "ignore" or "update", found "x"', '"dead"'),
    (STDIN + "[log]\nto = 'log'", '"log" is neither "stderr" nor the absolute path', 'to = "/'),
    (STDIN + "[log]\nformat = 'xml'", 'expected "text" or "json"', '"text"'),
    (STDIN + "[log]\nlevel = 'all'", '"debug" or "info" or "warning" or "error"', '"info"'),
    (STDIN + "[log]\nlevel = '" + "x" * 99 + "'", "found \"" + "x" * 40 + "…\"", ""),
    ("queue = 'embedded'\n" + STDIN, "x.toml:1: queue: expected a section, found a text",
     "write [queue]"),
    ("source = 'tcp'", "x.toml:1: source: expected a section", "write [source]"),
    ("[[source]]\ntype = 'stdin'", "x.toml:1: source: expected a section, found a list", ""),
    ("[source]\ntype = 'stdin'", "x.toml:2: source.type: expected a section", "[source.tweets]"),
    # what is missing
    ("", "x.toml: no source is configured", "stream-daemon demo"),
    ("[source]\n", "no source is configured", "stream-daemon init"),
    ("\n[source.s]\nlisten = ':1'", "x.toml:2: source.s: type is missing", '"tcp" or "unix"'),
    (source("", "tcp"), "x.toml:1: source.s: listen or connect is missing",
     'write listen = "127.0.0.1:5170" where senders come to us, or connect = '),
    (source("", "unix"), "x.toml:1: source.s: listen or connect is missing",
     'write listen = "/run/stream-daemon/lines.sock" where senders come to us, or connect = '),
    (source("connect = '/s'\nmode = '0600'", "unix"),
     "x.toml:4: source.s.mode: a source that connects", "take it out"),
    (source("", "file"), "x.toml:1: source.s: path is missing", "path ="),
    (column("path = 'a'"), "x.toml:5: store.columns.a: type is missing", "VARCHAR(64)"),
    (JSON + "include = { any = ['a'] }", "x.toml:4: source.s.include: path is missing", "path ="),
    # names
    ("name = 'NFL'\n" + STDIN, 'x.toml:1: name: "NFL" can\'t be a name', "small letter"),
    ("name = 'a" + "b" * 32 + "'\n" + STDIN, "x.toml:1: name:", ""),
    ("[source.1a]\ntype = 'stdin'", 'x.toml:1: source.1a: "1a" can\'t be a name', ""),
    ("[source.'a b']\ntype = 'stdin'", 'x.toml:1: source."a b": "a b" can\'t be', ""),
    (source("", "carrier"), 'x.toml:2: source.s.type: expected "tcp" or "unix" or "file" or '
     '"stdin", found "carrier"', "write type ="),
    ("[source.s]\ntype = 3", "x.toml:2: source.s.type: expected", "write type ="),
    # sources
    (STDIN + "[source.t]\ntype = 'stdin'", "x.toml:4: source.t.type: source s reads", "take one"),
    (source("listen = ':1'", "tcp") + "[source.t]\ntype = 'tcp'\nlisten = ':1'",
     "x.toml:6: source.t.listen: source s reads from there", ""),
    (source("frame_bytes_max = '1KiB'\nrecord_bytes_max = '2KiB'"),
     "x.toml:3: source.s.frame_bytes_max: a frame must hold the largest record",
     'write frame_bytes_max = "2KiB" or more'),
    (source("frame_bytes_max = 1000"), "x.toml:3: source.s.frame_bytes_max", '"1MiB" or more'),
    *((source(f"listen = '{listen}'", "unix"), f"x.toml:3: source.s.listen: {said}", "/run/")
      for listen, said in (
          ("a.sock", "needs an absolute path"), ("@a", "needs an absolute path"),
          ("/" + "é" * 53 + "a", "has 108 bytes, and the path of a Unix socket at most 107"))),
    (source("listen = '/a/b'", "unix") + "[source.t]\ntype = 'unix'\nlisten = '/a/./b'",
     "x.toml:6: source.t.listen: source s reads from there", ""),
    *((source(f"listen = '/a'\nmode = {mode}", "unix"),
       "x.toml:4: source.s.mode: expected three octal digits in quotes", 'mode = "0660"')
      for mode in ("'0860'", "'66'", "'01777'", "660", "0o660")),
    *((source(f"listen = '/a'\nowner = '{owner}'", "unix"),
       "source.s.owner: expected a user, a user:group or a :group", 'owner = "www-data:adm"')
      for owner in ("", ":", "a:", "a b", "a:b:c")),
    (source("record_bytes_max = '257MiB'"), "source.s.record_bytes_max: expected a size", ""),
    *((source(f"listen = '{listen}'", "tcp"), f"x.toml:3: source.s.listen: {said}", ":5170")
      for listen, said in (
          ("5170", "needs a host and a port"), ("a:b", "needs a host"), ("a:65536", "needs"),
          ("a:-1", "needs"), ("a: 1", "needs"), ("a:٣", "needs"), ("::1:5170", "an IPv6 address"),
          ("[::g]:1", "what stands in brackets"), ("[1.2.3.4]:1", "what stands in brackets"),
          ("*:5170", "its host"), ("a..b:1", "its host"),
          ("a" * 64 + ":1", "its host"), ("a b:1", "its host"), ("[::1:5170", "an IPv6"))),
    (source("listen = ':1'\nconnect = 'a:1'", "tcp"),
     "x.toml:4: source.s.connect: a source listens or connects, not both", "take one out"),
    (source("connect = 'a:1'\nconnections_max = 1000", "tcp"),
     "x.toml:4: source.s.connections_max: a source that connects has one connection", "take it"),
    *((source(f"connect = '{connect}'", "tcp"), f"x.toml:3: source.s.connect: {said}",
       'write connect = "stream.example.net:5170"')
      for connect, said in (
          ("5170", "needs a host and a port"), (":1", "needs a host and a port from 1 to 65535"),
          ("a:0", "needs a host and a port from 1"), ("::1:5170", "an IPv6 address"),
          ("[::g]:1", "what stands in brackets"), ("a b:1", "its host"))),
    (source("connect = 5170", "tcp"), "source.s.connect: expected a text in quotes, found 5170",
     'write connect = "stream.example.net:5170"'),
    (source("include = 'Patriots'"), "x.toml:3: source.s.include: expected a table, or a list of "
     "tables, found a text", "include = {"),
    (JSON + "include = ['Patriots']", "x.toml:4: source.s.include[0]: expected a table", ""),
    (JSON + "include = { path = 'a', any = 'b' }", "include.any: expected a list of one or more "
     'words, found "b"', 'any = ["Patriots", "Packers"]'),
    (JSON + "include = { path = 'a', any = [] }", "include.any: expected a list of one", ""),
    (JSON + "include = { path = 'a', any = [''] }", "include.any: expected a list of one", ""),
    (JSON + "include = { path = 'a' }", "x.toml:4: source.s.include: exactly one of any, equals "
     "and regex", "write include = {"),
    (JSON + "exclude = [{ path = 'a', any = ['b'], regex = 'b' }]", "source.s.exclude[0]: "
     "exactly one", "write exclude = {"),
    (JSON + "exclude = ['b']", "x.toml:4: source.s.exclude[0]: expected a table", "exclude = {"),
    *((JSON + f"exclude = {{ path = 'a', equals = {value} }}", "x.toml:4: source.s.exclude.equals: "
       "expected a text, a number of at most 64 bit, true or false, or a list of one or more of "
       f"them, found {said}", "equals = ")
      for value, said in (
          ("[]", "a list"), ("{}", "a table"), ("nan", "nan"), ("[1, inf]", "a list"),
          ("2024-02-29", "a date"), ("[['a']]", "a list"), (f"{2**64}", "a number that is far"),
          (f"{-2**63 - 1}", "-9223372036854775809"))),
    (STDIN + "include = { path = '', equals = ['a', 1] }", "x.toml:3: source.s.include.equals: path"
     ' "" is the record as it came', "in quotes"),
    (JSON + "\ninclude = [\n{ path = 'a', regex = 'b' }]\nexclude = { path = 'a', regex = '(b' }",
     "x.toml:7: source.s.exclude.regex: not a regular expression of RE2: missing ): \"(b\"", ""),
    (JSON + "[[source.s.include]]\npath = 'a'\nregex = 'b'\n[[source.s.include]]\npath = 'a'\n"
     "regex = '(?=b)'", "x.toml:9: source.s.include[1].regex: not a regular expression of RE2: "
     'invalid perl operator: "(?="', "RE2"),
    (JSON + "include = { path = 'a', regex = \"(a\\n\" }", 'RE2: missing ): "(a\\n"', ""),
    (JSON + "include = { path = 'a', regex = '(\\pL{1000})' }", "RE2: pattern too large", ""),
    (JSON + "include = { path = 'a', regex = '(((a{20}){20}){20})' }", "regex: not a regular "
     "expression of RE2: invalid repetition size", ""),
    (JSON + "include = { path = 'a', regex = '' }", 'expected a regular expression in quotes, '
     'found ""', ""),
    (JSON + "include = { path = 'a', regex = 5 }", "regular expression in quotes, found 5", ""),
    # JSON is needed
    (STDIN + "exclude = { path = 'a', equals = 1 }",
     "x.toml:1: source.s.format: exclude looks into records", 'write format = "json"'),
    (STDIN + "include = { path = 'a', any = ['b'] }",
     "x.toml:1: source.s.format: include looks into records", 'write format = "json"'),
    (STDIN + "format = 'text'\n[store.columns]\na = { path = 'b', type = 'INT' }",
     'x.toml:3: source.s.format: the path of column "a" looks', 'write format = "json"'),
    # queue
    *((STDIN + f"[queue]\nurl = '{url}'", f"x.toml:4: queue.url: {said}", "write url =")
      for url, said in (
          ("localhost", "is not a URL"), ("http://h", "this kind of queue"), ("redis:h", "is not"),
          ("redis://", "needs a host"), ("redis://h:0x1/", "is not"), ("redis://h/a", "the data"),
          ("redis://h/999999", "the database"), ("unix://h/p", "needs a path"), ("redis://[", "is"),
          ("unix:///p?db=x", "db is"), ("redis://h h", "is not a URL"), ("unix:///%00", "is not"),
          ("redis://h/0#1", "has a part behind #"))),
    *((STDIN + f"[queue]\nurl = 'rediss://h?{options}'", f"x.toml:4: queue.url: {said}", "?ca=/p")
      for options, said in (
          ("ca=ca.pem", "the file behind"), ("cert=/c", "?cert= and ?key= need each other"),
          ("ca=/a&key=/k", "?cert= and"), ("ca=", "the file"))),
    (STDIN + "[queue]\nurl = 'redis://h?ca=/ca.pem'", "has an unknown option", "something: none"),
    (STDIN + "[queue]\nurl = 'redis://h?x=1'", "has an unknown option", "mean something: none"),
    (STDIN + "[queue]\npassword = { env = 'A' }", "x.toml:4: queue.password: the embedded server",
     "take it out"),
    # store
    *((STDIN + f"[store]\nurl = '{url}'", f"x.toml:4: store.url: {said}", "write url =")
      for url, said in (
          ("a.db", "is not a URL"), ("postgres://u@h/d", "this kind"), ("sqlite://a.db", "needs t"),
          ("sqlite:///", "needs three"), ("mysql://h/d", "needs a user"),
          ("mysql://u@/d", "needs a host"), ("mysql://u@h", "needs the name"),
          ("mysql://u@h/a/b", "needs the name"))),
    (STDIN + "[store]\nurl = 'mysql://u@h/d?charset=x'", "unknown option", "?unix_socket="),
    (STDIN + "[store]\nurl = 'mysql://u@h/d?tls=on'", "x.toml:4: store.url: has an unknown tls",
     "?tls=off, ?tls=prefer, ?tls=require"),
    (STDIN + "[store]\nurl = 'mysql://u@h/d?tls=off&ca=/a'", "tls=off doesn't look at",
     "write tls=require"),
    (STDIN + "[store]\nurl = 'mysql://u@h/d?ca=a'", "isn't an absolute path", "?ca=/path"),
    (STDIN + "[store]\nurl = 'mysql://u@/d?unix_socket=/s&ca=/a'", "TLS on a Unix socket", "take"),
    (STDIN + "[store]\npassword = { env = 'A' }", "x.toml:4: store.password: SQLite", "take it"),
    (STDIN + "[store]\ntable = 'a`b'", "x.toml:4: store.table: \"a`b\" can't be", "backtick"),
    (STDIN + "[store]\ntable = '" + "a" * 65 + "'", "x.toml:4: store.table:", "64 characters"),
    ("name = 'nfl'\n" + STDIN + "[store]\ntable = 'NFL_Runs'",
     "x.toml:5: store.table: \"NFL_Runs\" is a table that the program keeps", '"records"'),
    # columns
    (JSON + "[store]\ncolumns = ['id']", "x.toml:5: store.columns: expected a section, found a "
     "list", "[store.columns]"),
    (JSON + "[store.columns]\nid = 'BIGINT'", "x.toml:5: store.columns.id: expected a table", "{"),
    (column("type = 'INT'"), "x.toml:5: store.columns.a: exactly one of path and meta", "path ="),
    (column("type = 'INT', path = '', meta = 'run'"), "a: exactly one of path and meta", ""),
    (column("type = 'INT', meta = 'time'"), 'expected "source" or "received_at" or "run" or '
     '"frame" or "position", found "time"', 'write meta = "received_at"'),
    (JSON + "[store.columns]\nSeq = { path = '', type = 'INT' }", "store.columns.Seq:", "another"),
    (JSON + "[store.columns]\n'`' = { path = '', type = 'INT' }", 'store.columns."`":', ""),
    (JSON + "[store.columns]\n'' = { path = '', type = 'INT' }", 'store.columns."":', ""),
    (JSON + "[store.columns]\na = { path = '', type = 'INT' }\nA = { path = '', type = 'INT' }",
     'x.toml:6: store.columns.A: databases take "A" and "a" for the same name', "another name"),
    *((column(f'path = "", type = """{kind} """'),
       "x.toml:5: store.columns.a.type", 'such as "BIGINT"')
      for kind in (
          "INT; DROP TABLE a", "INT) ENGINE (MyISAM", "INT, b INT", "INT -- x", "INT /* x */",
          "INT # x", "VARCHAR(64", "VARCHAR 64)", "ENUM('a", "ENUM('a\\\\')", "`INT`", "(INT)",
          "INT COMMENT 'a;b'", 'INT COMMENT "a;b"', "INT(1), b INT(2)",
          "INT(1), b INT)", "A" * 1025)),
]
# fmt: on


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_the_next_step(
    text: str, message: str, hint: str
) -> None:
    error = failure(text)
    assert message in error.message
    assert hint in error.hint
    assert error.message.startswith("x.toml:")
    assert "\n" not in error.message + error.hint


# ── what is not in this version ─────────────────────────────────────────────────────────

VALUES = {  # all that is refused as not in this version
    "source.SOURCE.type": ["udp", "http", "sse", "websocket", "jetstream"],
    "source.SOURCE.framing": ["nul", "octet-count", "length32", "length-line"],
    "source.SOURCE.format": ["syslog"],
}


def written(key: str, value: str) -> str:
    """A configuration whose first lines hold the key, in the section where it belongs."""
    section, _, last = key.replace("SOURCE", "s").rpartition(".")
    if section == "source.s":
        kind = "" if last == "type" else 'type = "stdin"\n'
        return f"[source.s]\n{kind}{last} = {value}\n"
    return f"[{section}]\n{last} = {value}\n" + STDIN if section else f"{last} = {value}\n" + STDIN


@pytest.mark.parametrize("key", sorted(LATER_KEYS))
@pytest.mark.parametrize("value", ["1", '"x"', "true", "{}", '{ listen = ":1" }'])
def test_later_keys_are_refused_whatever_they_hold(key: str, value: str) -> None:
    error = failure(written(key, value))
    assert f"{key.replace('SOURCE', 's')}: not in this version" in error.message
    assert error.hint == f"take {key.rpartition('.')[2]} out"


@pytest.mark.parametrize("header", ["[http]", '[http]\nlisten = "127.0.0.1:9170"'])
def test_later_sections_are_refused_even_when_empty(header: str) -> None:
    assert ": not in this version" in failure(STDIN + header).message


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, vs in VALUES.items() for v in vs])
def test_later_values_are_refused(key: str, value: str) -> None:
    error = failure(written(key, f'"{value}"'))
    assert f'{key.replace("SOURCE", "s")}: "{value}" is not in this version' in error.message
    assert error.hint.startswith(f"write {key.rpartition('.')[2]} = ")


def test_all_later_values_are_in_the_table() -> None:
    assert VALUES.keys() == LATER_VALUES.keys()


# ── secrets ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["file", "env", "cred"])
def test_a_password_is_a_reference(kind: str) -> None:
    text = STDIN + f'[queue]\nurl = "redis://h"\npassword = {{ {kind} = "there" }}\n'
    assert parse(text, "x").queue.password == SecretRef(**{kind: "there"})


@pytest.mark.parametrize(
    "password",
    [
        '"hunter2"',
        '["hunter2"]',
        '{ value = "hunter2" }',
        '{ hunter2 = "x" }',
        '{ file = ["hunter2"] }',
        '{ file = "" }',
        '{ file = "hunter2", env = "hunter2" }',
        '{ env = "hunter2!" }',
        '{ cred = "../hunter2" }',
        '{ cred = ".." }',
        "{}",
        "5",
    ],
)
def test_a_wrong_reference_is_refused_and_not_shown(password: str) -> None:
    error = failure(STDIN + f'[queue]\nurl = "redis://h"\npassword = {password}\n')
    assert error.message.startswith("x.toml:5: queue.password: ")
    assert 'password = { file = "/path" }' in error.hint
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h",
        "redis://me:hunter2@h:6379/0",
        "rediss://me:hun/t#er?hunter2@h",
        "unix://me:hunter2@/run/x",
        "unix:///x?password=hunter2",
        "http://me:hunter2@h",
        "mysql://me:hunter2@h/d",
        "mysql://me:@h/d",
        "mysql://me@h/d?unix_socket=/x&password=hunter2",
        "sqlite://a:hunter2@/d",
    ],
)
@pytest.mark.parametrize("section", ["queue", "store"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str, section: str) -> None:
    error = failure(STDIN + f'[{section}]\nurl = "{url}"\n')
    assert error.message == f"x.toml:4: {section}.url: a password stands in the URL"
    assert 'password = { file = "/path/to/it" }' in error.hint
    assert "hunter2" not in str(error)


# ── lines ───────────────────────────────────────────────────────────────────────────────

LINES = '''# a = 1
a = """
b = 2
[c]
"""  # [d]
e.f = 'x # """'
"g h" . i = 3

[ j . "k" ]  # """
l = { m = 1 }
  n = ["""
o = 1""",
  "p = 1" ]
[[q]]
r = 1
[[q]]
r = 2
[q.s]
t = \'\'\'
u = 1\'\'\'
v = "\\"#"
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("a",), 2),
        (("b",), None),
        (("c",), None),
        (("e",), 6),
        (("e", "f"), 6),
        (("g h", "i"), 7),
        (("j",), 9),
        (("j", "k"), 9),
        (("j", "k", "missing"), 9),
        (("j", "k", "l", "m"), 10),
        (("j", "k", "n", "[0]"), 11),
        (("j", "k", "o"), 9),
        (("q", "[0]", "r"), 15),
        (("q", "[1]"), 16),
        (("q", "[1]", "r"), 17),
        (("q", "s", "t"), 19),
        (("q", "s", "u"), 18),
        (("q", "s", "v"), 21),
        ((), None),
    ],
)
def test_keys_are_found_on_their_lines(key: tuple[str, ...], line: int | None) -> None:
    tomllib.loads(LINES)  # it is TOML
    assert line_of(LINES, key) == line


bare_keys = st.text(string.ascii_lowercase, min_size=1, max_size=3)


@given(st.dictionaries(bare_keys, st.dictionaries(bare_keys, st.text(max_size=9), max_size=4)))
def test_every_key_of_a_plain_file_is_found(tables: dict[str, dict[str, str]]) -> None:
    lines: list[str] = []
    expected = {}
    for name, table in tables.items():
        lines.append(f"[{name}]")
        expected[(name,)] = len(lines)
        for key, value in table.items():
            escaped = "".join(f"\\U{ord(letter):08x}" for letter in value)
            lines.append(f'{key} = "{escaped}"')
            expected[(name, key)] = len(lines)
    text = "\n".join(lines)
    assert {key: line_of(text, key) for key in expected} == expected


# ── name and state_dir of a file that may be broken ─────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "name", "state_dir"),
    [
        ("", "stream", None),
        (STDIN, "stream", None),
        ('name = "nfl"\nstate_dir = "/a b"\n', "nfl", "/a b"),
        ('queue.url = "x"\nunknown = 1\nname = "nfl"', "nfl", None),
        # broken from here on
        ('name = "nfl"\nstate_dir = "/a"\n[queue\nurl = 1', "nfl", "/a"),
        ("drain_s = \nname=\"nfl\" # the name\r\n\tstate_dir = 'C:\\x'\n[", "nfl", "C:\\x"),
        ('state_dir = "\\u00e4\\"b"\n[queue\n', "stream", 'ä"b'),
        ("name = nfl\n", "nfl", None),
        ('name = "nfl\nstate_dir = "/a\n', "nfl", "/a"),
        ('#name = "old"\nnames = "x"\nmy_name = "y"\nbroken', "stream", None),
        ('broken\n[store.columns]\nname = "other"\nstate_dir = "/other"', "stream", None),
    ],
)
def test_an_instance_is_found_by_a_broken_file(text: str, name: str, state_dir: str | None) -> None:
    assert name_and_state_dir(text, "x.toml") == (name, state_dir)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('name = "NFL"', "name"),
        ("name = 5", "name"),
        ("name = \n[", "name"),
        ("name = nfl!\n[", "name"),
        ('name = "../x"\n[', "name"),
        ("state_dir = 5", "state_dir"),
        ("state_dir = ''", "state_dir"),
        ("state_dir = \n[", "state_dir"),
    ],
)
def test_another_instance_is_never_taken_for_the_one_meant(text: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^x.toml:1: {key}: "):
        name_and_state_dir(text, "x.toml")


# ── where the file is ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("environ", "paths"),
    [
        ({}, ["./stream-daemon.toml"]),
        (
            {"HOME": "/home/u"},
            ["./stream-daemon.toml", "/home/u/.config/stream-daemon/stream-daemon.toml"],
        ),
        (
            {"HOME": "/home/u", "XDG_CONFIG_HOME": "/x", "STREAM_DAEMON_CONFIG": "my.toml"},
            ["my.toml", "./stream-daemon.toml", "/x/stream-daemon/stream-daemon.toml"],
        ),
        (
            {"HOME": "/home/u", "XDG_CONFIG_HOME": "", "STREAM_DAEMON_CONFIG": ""},
            ["./stream-daemon.toml", "/home/u/.config/stream-daemon/stream-daemon.toml"],
        ),
    ],
)
def test_where_a_configuration_is_looked_for(environ: dict[str, str], paths: list[str]) -> None:
    assert search_paths(environ) == [*paths, "/etc/stream-daemon/stream-daemon.toml"]


def test_no_source_names_what_was_searched() -> None:
    error = no_source("a.toml, b.toml")
    assert error.message == "a.toml, b.toml: no source is configured"


# ── nothing but ConfigError ─────────────────────────────────────────────────────────────

WORDS = " ".join(
    [
        "name state_dir subscribers drain_s source queue store log url password bytes_max push_s",
        "table on_duplicate lease_bytes_max columns type path meta file env cred listen include",
        "any start follow framing format record_bytes_max frame_bytes_max connections_max level to",
        "http connect exclude equals regex seq s t ready_s require_healthy",
    ]
)
KEYS = st.sampled_from(WORDS.split()) | st.text(max_size=3)
SCALARS = (
    st.sampled_from([*SOURCE_TYPES, "json", "text", "embedded", "1MiB", "redis://h", "mysql://u@h"])
    | st.text(max_size=9)
    | st.integers(-2, 2)
    | st.integers()
    | st.booleans()
    | st.floats()
)
VALUES_OF_ANY_KIND = st.recursive(
    SCALARS, lambda v: st.lists(v, max_size=2) | st.dictionaries(KEYS, v, max_size=4), max_leaves=9
)


def toml_of(value: object) -> str:
    """Any value as TOML, every character escaped."""
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{toml_of(k)}={toml_of(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(toml_of, value)) + "]"
    return str(value).lower()


def error_of(function: Callable[[str, str], object], text: str) -> ConfigError | None:
    try:
        function(text, "x.toml")
    except ConfigError as error:
        return error
    return None


def read(text: str) -> None:
    """Nothing but a result or a ConfigError comes out, whatever goes in."""
    for error in (error_of(parse, text), error_of(name_and_state_dir, text)):
        if error is not None:
            assert error.hint
            assert error.message.startswith("x.toml")


PIECES = [
    *("name", "state_dir", "[source.s]", "type", '"stdin"', "queue", "url", "1", ",", ".", "#"),
    *("=", "=", "\n", "\n", " ", "{", "}", "[", "]", '"', "'", '"""', "'''", "\\"),
]


@given(st.text())
def test_any_text(text: str) -> None:
    read(text)


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_pieces_of_toml(text: str) -> None:
    read(text)


@given(st.dictionaries(KEYS, VALUES_OF_ANY_KIND, max_size=5))
def test_any_table(table: dict[str, object]) -> None:
    lines = "\n".join(f"{toml_of(key)} = {toml_of(value)}" for key, value in table.items())
    tomllib.loads(lines)
    read(lines)


@given(
    st.sampled_from(["source.s", "queue", "store", "log", "store.columns", "store.columns.a"]),
    st.dictionaries(KEYS, VALUES_OF_ANY_KIND, max_size=3),
)
def test_any_section(section: str, table: dict[str, object]) -> None:
    """Deep enough to meet every reader."""
    lines = "\n".join(f"{toml_of(key)} = {toml_of(value)}" for key, value in table.items())
    read(("" if section == "source.s" else JSON) + f"[{section}]\n{lines}")


@given(st.text())
def test_any_address_and_url(text: str) -> None:
    for key in ("listen", "connect"):
        read(source(f"{key} = {toml_of(text)}", "tcp"))
    for section in ("queue", "store"):
        for scheme in ("", "redis://", "unix://", "mysql://u@", "sqlite://"):
            read(STDIN + f"[{section}]\nurl = {toml_of(scheme + text)}")


@pytest.mark.parametrize("to", ["stderr", "/var/log/x.log"])
@pytest.mark.parametrize("format", ["text", "json"])
def test_where_and_how_it_logs(to: str, format: str) -> None:
    config = parse(f'{STDIN}[log]\nto = "{to}"\nformat = "{format}"\n', "x.toml")
    assert (config.log.to, config.log.format) == (to, format)
