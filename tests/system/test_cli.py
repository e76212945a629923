"""The command line as its users meet it: exit codes, messages with the next step, no traceback.

What is refused before anything starts is one table; what needs a running instance shares one.
"""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance import cli, control
from tests.ports import free_port
from tests.system.daemon import (
    STOP_S,
    Daemon,
    connect,
    send_and_close,
    title_of,
    unstarted,
    until,
)
from tests.system.stores import Sqlite, until_rows

CLOSE_WAIT_S = 1.5
HEARD_S = 10.0
NOBODY = 65534

Done = subprocess.CompletedProcess[str]


def config(port: int, more: str = "") -> str:
    return (
        f'[source.lines]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        f"close_wait_s = {CLOSE_WAIT_S}\n{more}"
    )


def run(*words: str, **options: Any) -> Done:
    """The program with these words, as a shell runs it."""
    argv = [sys.executable, "-m", "appliance", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=STOP_S, **options)


def check(done: Done, code: int, *said: str) -> None:
    """It failed with this code, said this on stderr, and nothing a user needn't see."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    for words in said:
        assert words in done.stderr
    if code != 3:  # "not running" is an answer, not an error
        assert "\n  → " in done.stderr


# ── before anything starts ──────────────────────────────────────────────────────────────

REFUSED = {
    "unknown key": (
        'state_dir = "{dir}"\n[source.s]\ntype = "tcp"\nlisen = "127.0.0.1:1"\n',
        ("{file}:4: source.s.lisen: unknown key", "did you mean listen?"),
    ),
    "unknown section": (
        'state_dir = "{dir}"\n[sauce.s]\ntype = "tcp"\n',
        ("{file}:2: sauce: unknown", "did you mean source?"),
    ),
    "wrong type": (
        'state_dir = "{dir}"\n[source.s]\ntype = "tcp"\nlisten = 5170\n',
        ("{file}:4: source.s.listen: expected a text", 'write listen = "'),
    ),
    "no size": (
        'state_dir = "{dir}"\n[source.s]\ntype = "stdin"\nrecord_bytes_max = "big"\n',
        ("{file}:4: source.s.record_bytes_max", "1MiB"),
    ),
    "no port": (
        'state_dir = "{dir}"\n[source.s]\ntype = "tcp"\nlisten = "localhost"\n',
        ("{file}:4: source.s.listen",),
    ),
    "type of a later version": (
        'state_dir = "{dir}"\n[source.s]\ntype = "udp"\nlisten = ":1"\n',
        ('{file}:3: source.s.type: "udp" is not in this version', 'write type = "tcp"'),
    ),
    "key of a later version": (
        'state_dir = "{dir}"\n[source.s]\ntype = "stdin"\nurl = "http://h/"\n',
        ("{file}:4: source.s.url", "not in this version"),
    ),
    "section of a later version": (
        'state_dir = "{dir}"\n[source.s]\ntype = "stdin"\n[http]\nlisten = "127.0.0.1:1"\n',
        ("{file}:4: http", "not in this version"),
    ),
    "missing key": (
        'state_dir = "{dir}"\n[source.s]\ntype = "tcp"\n',
        ("{file}:2: source.s", "listen"),
    ),
    "no source": ('state_dir = "{dir}"\n', ("{file}: no source", "init", "demo")),
    "broken": ('state_dir = "{dir}"\n[source\n', ("{file}:2: this is not TOML", "[queue]")),
    "name": (
        'state_dir = "{dir}"\nname = "NFL"\n[source.s]\ntype = "stdin"\n',
        ("{file}:2: name", "small letter"),
    ),
    "password in a URL": (
        'state_dir = "{dir}"\n[source.s]\ntype = "stdin"\n[store]\nurl = "mysql://u:geheim@h/d"\n',
        ("{file}:5: store.url", "password = {{ file"),
    ),
    "secret that isn't there": (
        'state_dir = "{dir}"\n[source.s]\ntype = "stdin"\n[store]\nurl = "mysql://u@h/d"\n'
        'password = {{ env = "NOT_SET_ANYWHERE" }}\n',
        ("store.password", "NOT_SET_ANYWHERE is not set", "export"),
    ),
    "too long for a socket": (
        'state_dir = "{dir}/' + "x" * 100 + '"\n[source.s]\ntype = "stdin"\n',
        ("too many for a Unix socket (107)", "shorter state_dir"),
    ),
}


@pytest.mark.parametrize("verb", [("check", "--offline"), ("collect",)], ids=["check", "collect"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_configuration_that_is_refused(what: str, verb: tuple[str, ...], tmp_path: Path) -> None:
    text, said = REFUSED[what]
    file = tmp_path / "c.toml"
    file.write_text(text.format(dir=tmp_path / "state"))
    done = run("-c", str(file), *verb)
    check(done, 78, *(words.format(file=file) for words in said))
    assert "geheim" not in done.stderr
    assert [*tmp_path.iterdir()] == [file]  # nothing is opened before all is valid


def test_a_configuration_that_is_not_there(tmp_path: Path) -> None:
    check(run("-c", "/nowhere/c.toml", "collect"), 78, "/nowhere/c.toml", "No such file", "init")
    check(run("-c", str(tmp_path), "collect"), 78, "Is a directory", "-c")
    (tmp_path / "latin").write_bytes(b'name = "caf\xe9"\n')
    check(run("-c", str(tmp_path / "latin"), "collect"), 78, "not UTF-8")


@pytest.mark.parametrize("verb", [("check", "--offline"), ("collect",)], ids=["check", "collect"])
def test_no_configuration_at_all(verb: tuple[str, ...], tmp_path: Path) -> None:
    environment = environ(XDG_CONFIG_HOME=str(tmp_path), STREAM_DAEMON_CONFIG="/nowhere.toml")
    done = run(*verb, cwd=tmp_path, env=environment)
    check(done, 78, "/nowhere.toml", "./stream-daemon.toml", "stream-daemon demo", "init")
    assert f"{tmp_path}/stream-daemon/stream-daemon.toml" in done.stderr
    assert "/etc/stream-daemon/stream-daemon.toml" in done.stderr


def test_places_where_a_configuration_is_found(tmp_path: Path) -> None:
    places = {
        "given": tmp_path / "given.toml",
        "here": tmp_path / "stream-daemon.toml",
        "home": tmp_path / "home" / "stream-daemon" / "stream-daemon.toml",
    }
    places["home"].parent.mkdir(parents=True)
    for name, file in places.items():
        file.write_text(f'name = "{name}"\n[source.s]\ntype = "stdin"\n')
    environment = environ(
        XDG_CONFIG_HOME=str(tmp_path / "home"), STREAM_DAEMON_CONFIG=str(places["given"])
    )
    for name, file in places.items():  # one after the other goes, the next is found
        done = run("check", "--offline", cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert f"instance {name} in " in done.stdout
        file.unlink()
    check(run("check", "--offline", cwd=tmp_path, env=environment), 78, "no source")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frobnicate",),
        ("collect", "now"),
        ("collect", "--detached"),
        ("drain", "--timeout", "0"),
        ("completion",),
        ("completion", "csh"),
        ("-c",),
        ("stop", "--timeout"),
        ("stop", "--timeout", "soon"),
        ("stop", "--timeout", "nan"),
        ("stop", "--timeout", "inf"),
        ("stop", "--timeout", "0"),
        ("stop", "--timeout", "-1"),
        ("stop", "--timeout", "1e300"),
        ("demo", "--seed", "x"),
    ],
    ids=" ".join,
)
def test_usage(words: tuple[str, ...]) -> None:
    check(run(*words), 64, "stream-daemon")


def test_help_shows_an_example_for_each_verb() -> None:
    overview = run("--help")
    assert overview.returncode == 0
    for verb in cli.VERBS:
        done = run(verb, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        example = done.stdout.split("examples:\n")[1].strip()
        assert re.match(r"(sudo (\./)?)?stream-daemon ", example)  # root's, of the file as copied
        assert verb in example.split()
        assert example in overview.stdout
        assert "-c FILE" in done.stdout


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[0] == "stream-daemon"


def test_init_prints_a_configuration_that_is_valid(tmp_path: Path) -> None:
    done = run("init")
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "stream-daemon.toml").write_text(done.stdout)
    checked = run("check", "--offline", cwd=tmp_path, env=environ(STREAM_DAEMON_CONFIG=""))
    assert checked.returncode == 0, checked.stderr
    assert "source lines: tcp" in checked.stdout


@pytest.mark.parametrize("words", ["init", "--help", "stop --help"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_who_leaves_early(words: str, unbuffered: str) -> None:
    line = f"{{ {sys.executable} -m appliance {words}; echo $? >&2; }} | :"
    environment = environ(PYTHONUNBUFFERED=unbuffered)
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=STOP_S
    )
    assert done.stderr == "0\n"


def test_a_full_disk_and_a_closed_output() -> None:
    environment = environ(PYTHONUNBUFFERED="")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", "init"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=STOP_S,
        )
    assert done.returncode == 70
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        ["bash", "-c", f"exec {sys.executable} -m appliance init >&-"],
        capture_output=True,
        text=True,
        timeout=STOP_S,
    )
    assert (done.returncode, done.stderr) == (0, "")


TAB = """
complete() {{ builtin complete "$@"; [ "${{@: -1}}" = stream-daemon ] && of=${{@: -2:1}}; }}
source <({program} completion bash)
cd {folder}
press() {{
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    "$of" && printf '%s\\n' "${{COMPREPLY[@]}}" | sort | tr '\\n' ' '
    echo
}}
"""
PRESSED = [  # what stands before the cursor when TAB is pressed → what is offered
    ("''", sorted(cli.VERBS)),
    ("d", ["dead", "demo", "drain"]),
    ("-c c", ["c.toml"]),
    ("-c c.toml sta", ["status"]),
    ("-c c.toml collect --", ["--detach", "--help", "--if-needed", "--replace"]),
    ("drain -c ''", ["c.toml", "other"]),
    ("drain --t", ["--timeout"]),
    ("completion ''", ["bash", "fish", "zsh"]),
    ("demo --keep ''", ["other"]),  # a directory
]


def test_bash_completes(tmp_path: Path) -> None:
    (tmp_path / "c.toml").touch()
    (tmp_path / "other").mkdir()
    program = f"{sys.executable} -m appliance"
    lines = [TAB.format(program=program, folder=tmp_path)]
    lines += [f"press stream-daemon {words}" for words, _ in PRESSED]
    done = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)], capture_output=True, text=True, timeout=STOP_S
    )
    assert (done.returncode, done.stderr) == (0, "")
    offered = [line.split() for line in done.stdout.splitlines()]
    assert offered == [words for _, words in PRESSED]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_verb_and_option_is_in_the_script(shell: str) -> None:
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    words = set(re.findall(r"[a-z][a-z-]*", done.stdout))
    for verb, (_what, _example, options) in cli.VERBS.items():
        assert verb in words
        named = [flags[-1] for flags, _settings in options if flags[-1].startswith("-")]
        for flag in named:
            assert flag.strip("-") in words, (verb, flag)


def test_nothing_runs(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\n{config(1)}')
    for words in [("-c", str(file)), ()]:
        here = {"cwd": tmp_path, "env": environ(STREAM_DAEMON_CONFIG=str(file))}
        done = run(*words, "stop", **here)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "not running\n")
        check(run(*words, "running", **here), 3, "not running")
        check(run(*words, "status", **here), 3, "not running")
        check(run(*words, "status", "--json", **here), 3, "not running")
        done = run(*words, "running", "-q", **here)
        assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    assert [*tmp_path.iterdir()] == [file]  # asking makes nothing


# ── permissions ─────────────────────────────────────────────────────────────────────────

AS_NOBODY = f"""
import importlib, os, sys
from appliance import cli
for verb in cli.VERBS:  # now: whoever we become may not read where they are
    importlib.import_module("appliance.verbs." + verb)
if os.geteuid() == 0:
    os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
sys.exit(cli.main(sys.argv[1:]))
"""


def run_as_nobody(*words: str, **options: Any) -> Done:
    """The program as a user who owns nothing (as ourselves, unless we are root)."""
    return subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *words],
        capture_output=True,
        text=True,
        timeout=STOP_S,
        **options,
    )


@pytest.fixture
def open_dir() -> Iterator[Path]:
    """A folder that everybody can look into, and one below it that nobody can.

    Not below pytest's own: whichever pytest starts next closes that to others again.
    """
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        open_dir = Path(name)
        open_dir.chmod(0o755)
        closed = open_dir / "closed"
        closed.mkdir(mode=0o000)
        yield open_dir
        closed.chmod(0o700)


def test_a_state_directory_that_is_not_ours(open_dir: Path) -> None:
    file = open_dir / "c.toml"
    for place in ("closed", "closed/below"):
        file.write_text(f'state_dir = "{open_dir}/{place}"\n{config(1)}')
        done = run_as_nobody("-c", str(file), "collect")
        check(done, 73, f"{open_dir}/{place}", "Permission denied", "state_dir")


def test_a_configuration_that_is_not_ours(open_dir: Path) -> None:
    file = open_dir / "closed" / "c.toml"
    for verb in ("collect", "status", "running", "stop", "drain"):
        check(run_as_nobody("-c", str(file), verb), 78, str(file), "Permission denied")


def test_a_home_that_is_not_ours(open_dir: Path) -> None:
    """`su` keeps $HOME: what can't be looked into holds no configuration for us."""
    environment = environ(XDG_CONFIG_HOME=str(open_dir / "closed"), STREAM_DAEMON_CONFIG="")
    environment["XDG_STATE_HOME"] = str(open_dir)
    check(run_as_nobody("collect", cwd=open_dir, env=environment), 78, "no source", "closed")
    check(run_as_nobody("status", cwd=open_dir, env=environment), 3, "not running")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user, which only root can become")
def test_an_instance_that_is_not_ours(daemon: Daemon) -> None:
    for place in (daemon.directory, daemon.directory / "state"):
        place.chmod(0o755)
    for verb in ("status", "running", "stop", "collect", "drain"):
        done = run_as_nobody("-c", str(daemon.file), verb)
        assert done.returncode == 73, done.stderr
        assert "Traceback" not in done.stderr
        if verb != "collect":
            check(done, 73, "belongs to user root", "sudo -u root stream-daemon")
        if verb == "drain":
            line = f"sudo -u root stream-daemon -c {daemon.file} drain --timeout 60"
            assert done.stderr.endswith(f"run it as that user: {line}\n")
    assert daemon.status()["state"] == "healthy"


# ── beside a running instance ───────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """An instance that nobody stops: tests look, and try what must not hurt it."""
    with Daemon(config(free_port())) as daemon:
        yield daemon
        assert daemon.stop() == 0, daemon.said()


def port_of(daemon: Daemon) -> int:
    return int(daemon.file.read_text().split("127.0.0.1:")[1].split('"')[0])


def test_a_second_instance(daemon: Daemon) -> None:
    pid = daemon.status()["pid"]
    check(daemon.run("collect"), 73, f"already runs (pid {pid})", "stream-daemon stop")
    assert daemon.status()["state"] == "healthy"


def test_a_port_in_use(daemon: Daemon) -> None:
    port = port_of(daemon)
    with unstarted(config(port)) as second:
        check(second.run("collect"), 69, f"127.0.0.1:{port}", "in use", "ss -ltnp")
        check(second.run("status"), 3)


def test_an_address_that_is_not_ours() -> None:
    with unstarted(config(1).replace("127.0.0.1:1", "192.0.2.1:5170")) as elsewhere:
        check(elsewhere.run("collect"), 69, "192.0.2.1:5170", "not this machine's")


def test_running_prints_the_parents_pid(daemon: Daemon) -> None:
    assert daemon.process
    done = daemon.run("running")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{daemon.process.pid}\n", "")
    done = daemon.run("running", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_configuration_before_and_behind_the_verb(daemon: Daemon) -> None:
    file = str(daemon.file)
    assert run("-c", file, "running").stdout == run("running", "-c", file).stdout != ""
    assert run("-c", "/nowhere", "running", "-c", file).returncode == 0


def test_a_broken_edit_leaves_it_in_reach(daemon: Daemon) -> None:
    text = daemon.file.read_text()
    pid = daemon.status()["pid"]
    edits = [text + "[[broken", text + "unknown = 1\n", text.replace('"tcp"', '"unix"')]
    edits += [text.replace("[source.lines]", "[source.lines")]
    try:
        for edit in edits:
            daemon.file.write_text(edit)
            check(daemon.run("collect"), 78, str(daemon.file))
            assert daemon.run("running").stdout == f"{pid}\n"
            assert daemon.run("status").returncode == 0
    finally:
        daemon.file.write_text(text)


def test_status_is_a_sentence_first(daemon: Daemon) -> None:
    done = daemon.run("status")
    assert (done.returncode, done.stderr) == (0, "")
    first = done.stdout.splitlines()[0]
    assert first.startswith("stream collects and stores (pid ")
    assert first.endswith(".")
    for words in ("source lines (tcp)", "queue: ", "store: ", "subscriber 1: ", "recovery: "):
        assert words in done.stdout


def test_status_as_json_has_the_keys_of_the_contract(daemon: Daemon) -> None:
    send_and_close(port_of(daemon), [b"one\n", b"two\n"])
    daemon.until_stored(2)
    done = daemon.run("status", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    status = json.loads(done.stdout)
    child: dict[str, Any] = {"pid": int, "restarts": int}
    source = child | {"type": str, "connections": int, "records": int, "bytes": int}
    source |= {"at_risk": {"records": int, "bytes": int}, "waiting_for": str}
    contract = {
        "name": str,
        "version": str,
        "state": str,
        "pid": int,
        "since": str,
        "sources": {"lines": source},
        "subscribers": [child | {"n": int, "records": int}],
        "recovery": child,
        "queue": {"frames": int, "bytes": int, "busy": int},
        "store": {"stored": int, "filtered": int, "dead": int, "lost": int, "waiting_for": str},
        "last_error": str,
    }
    assert_shape(status, contract, "status")
    assert (status["name"], status["state"]) == ("stream", "healthy")
    assert (status["sources"]["lines"]["records"], status["store"]["stored"]) == (2, 2)
    assert status["sources"]["lines"]["bytes"] == 8


def test_titles_are_what_ps_shows(daemon: Daemon) -> None:
    assert daemon.process
    status = daemon.status()
    assert title_of(status["pid"]) == "stream-daemon stream"
    assert title_of(status["sources"]["lines"]["pid"]) == "stream-daemon stream collector lines"
    assert title_of(status["subscribers"][0]["pid"]) == "stream-daemon stream subscriber 1"
    assert title_of(status["recovery"]["pid"]) == "stream-daemon stream recovery"
    children = daemon.children()
    ours = {title for title in children if title.startswith("stream-daemon ")}
    [server] = [pid for title, pid in children.items() if title not in ours]
    assert {"stream-daemon stream keeper", "stream-daemon stream recovery"} < ours
    assert len(ours) == 4
    assert comm_of(server) in ("valkey-server", "redis-server")


HARMLESS = {
    "SIGHUP": "nothing has changed",
    "SIGUSR1": "the log goes to",
    "SIGCONT": "",
    "SIGWINCH": "",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_signals_that_change_nothing(daemon: Daemon, name: str) -> None:
    """None of them ends it or stops it, or replaces anybody; it says what it has done."""
    assert daemon.process
    children = daemon.children()
    daemon.process.send_signal(signal.Signals[name])
    until(lambda: HARMLESS[name] in daemon.said(), HEARD_S, HARMLESS[name])
    assert daemon.status()["state"] == "healthy"
    assert daemon.children() == children
    assert "Traceback" not in daemon.said()


def test_collect_if_needed_beside_one_that_runs(daemon: Daemon) -> None:
    """Silent, also where an edit has broken the configuration since."""
    text = daemon.file.read_text()
    children = daemon.children()
    try:
        for edit in (text, text + "[[broken"):
            daemon.file.write_text(edit)
            done = daemon.run("collect", "--if-needed")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    finally:
        daemon.file.write_text(text)
    assert daemon.children() == children


def test_clients_that_talk_nonsense(daemon: Daemon) -> None:
    path = daemon.directory / "state" / "stream" / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    unknown = {"error": "unknown verb; this version knows status, stop, reload"}
    for sent in (b"nonsense\n", b'"stop"\n', b"[]\n", b'{"verb": []}\n', b"\xff\n", b"\n"):
        assert spoken(path, sent) == unknown
    assert spoken(path, b'{"verb":"status"}') == unknown  # its line was never whole
    assert spoken(path, b"x" * (control.REQUEST_BYTES_MAX + 1)) == unknown
    with connected(path):  # says nothing, and holds nobody up
        assert daemon.status()["state"] == "healthy"


def test_a_parent_that_is_stopped_is_found_all_the_same(daemon: Daemon) -> None:
    assert daemon.process
    pid = daemon.process.pid
    path = daemon.directory / "state" / "stream" / "control.sock"
    asked: list[socket.socket] = []
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        assert daemon.run("running").stdout == f"{pid}\n"
        for _ in range(2 * control.CLIENTS_MAX):  # more have asked than it keeps in mind
            asked.append(socket.socket(socket.AF_UNIX))
            asked[-1].setblocking(False)
            asked[-1].connect_ex(str(path))
        assert daemon.run("running").stdout == f"{pid}\n"
        check(daemon.run("status"), 4, "doesn't answer")
        check(daemon.run("stop", "--timeout", "0.1"), 75, "nothing was killed")
        check(daemon.run("collect"), 73, f"already runs (pid {pid})")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
        for connection in asked:
            connection.close()
    until(lambda: daemon.status()["state"] == "healthy", HEARD_S, "it to go on")


# ── started if needed, paused, asked for its state ──────────────────────────────────────

HOLD = """
import sys, pathlib, signal
from appliance import process
locks = [process.Lock(pathlib.Path(name)) for name in sys.argv[1:]]
assert all(lock.try_acquire() for lock in locks)
locks[0].path.write_text("")  # as if its owner were dead
print(flush=True)
signal.pause()
"""


def test_collect_if_needed_while_another_waits_for_the_lock() -> None:
    with unstarted(config(free_port())) as daemon:
        directory = daemon.directory / "state" / "stream"
        directory.mkdir(parents=True)
        names = [str(directory / name) for name in ("lock", "lock.next")]
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLD, *names], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout
            assert holder.stdout.readline() == "\n"
            check(daemon.run("collect"), 73, "another `collect` already waits")
            done = daemon.run("collect", "--if-needed")
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        finally:
            holder.kill()
            holder.communicate()


def test_collect_if_needed_where_nothing_runs() -> None:
    with unstarted('[source.s]\ntype = "stdin"\n') as daemon:
        done = daemon.run_in_shell("printf 'a\\nb\\n' | {collect} --if-needed")
        assert done.returncode == 0, done.stderr
        assert sorted(Sqlite().raws(daemon)) == [b"a", b"b"]
        daemon.file.write_text("[[broken")
        check(daemon.run("collect", "--if-needed"), 78, str(daemon.file))


def test_sources_that_end_while_it_is_paused_wait_in_the_queue_until_it_is_resumed() -> None:
    said = b"".join(b"record %d\n" % number for number in range(1000))
    paused = "storing is paused (TSTP); resume with CONT"
    with unstarted('[source.s]\ntype = "stdin"\n[log]\nlevel = "warning"\n') as daemon:
        daemon.spawn(stdin=subprocess.PIPE)
        assert daemon.process
        assert daemon.process.stdin
        until(daemon.try_status, HEARD_S, "the control socket")
        daemon.signal(signal.SIGTSTP)
        rests = lambda: daemon.status()["store"]["waiting_for"] == paused  # noqa: E731
        until(rests, HEARD_S, "it to pause")
        daemon.process.stdin.write(said)
        daemon.process.stdin.close()
        until(lambda: daemon.status()["sources"]["s"]["pid"] is None, HEARD_S, "the end of s")
        done = daemon.run("status")
        assert (done.returncode, done.stderr) == (2, "")
        assert done.stdout.startswith(f"stream collects, but {paused} (pid ")
        status = daemon.status()
        assert (status["paused"], status["store"]["stored"]) == (True, 0)
        assert (status["sources"]["s"]["records"], status["queue"]["busy"]) == (1000, 0)
        daemon.signal(signal.SIGUSR2)
        until(lambda: '"paused": true' in daemon.said(), HEARD_S, "the state in the log")
        assert not daemon.ended()
        daemon.signal(signal.SIGCONT)
        assert daemon.wait() == 0, daemon.said()
        assert sorted(Sqlite().raws(daemon)) == sorted(said.splitlines())


# ── stopping ────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stoppable() -> Iterator[tuple[Daemon, int]]:
    """An instance of the test's own, and its port; its stop waits for senders, however slow."""
    port = free_port()
    patient = config(port).replace(f"= {CLOSE_WAIT_S}\n", "= 60\n")
    with Daemon(patient) as daemon:
        yield daemon, port


@pytest.mark.parametrize("words", [(), ("--now",), ("--timeout", "60")], ids=["", "now", "60"])
def test_stop(stoppable: tuple[Daemon, int], words: tuple[str, ...]) -> None:
    daemon, port = stoppable
    send_and_close(port, [b"a\nb\nc"])
    done = daemon.run("stop", *words)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert daemon.wait(HEARD_S) == 0
    check(daemon.run("running"), 3)
    assert daemon.run("stop").stderr == "not running\n"
    with daemon.start():  # and what was left in the queue is stored now
        until_rows(Sqlite(), daemon, 3)
        assert list(Sqlite().raws(daemon)) == [b"a", b"b", b"c"]


def test_stop_with_a_broken_configuration(stoppable: tuple[Daemon, int]) -> None:
    daemon, _ = stoppable
    daemon.file.write_text(daemon.file.read_text() + "[[broken")
    assert daemon.run("stop").returncode == 0
    assert daemon.wait(HEARD_S) == 0


def test_a_stop_that_takes_longer(stoppable: tuple[Daemon, int]) -> None:
    """--timeout and Ctrl-C end the waiting, not the stopping; all who wait get the code."""
    daemon, port = stoppable
    with connect(port) as sender:
        sender.sendall(b"who doesn't close\n")
        daemon.until_stored(1)
        done = daemon.run("stop", "--timeout", "0.1")
        check(done, 75, "still stopping after 0.1 s", "nothing was killed", "running")
        assert daemon.run("status").returncode == 2
        assert "is stopping" in daemon.run("status").stdout
        waiting = [start_stop(daemon) for _ in range(3)]
        until(lambda: waits(waiting[0]), HEARD_S, "stop to wait")
        waiting[0].send_signal(signal.SIGINT)
        out, said = waiting[0].communicate(timeout=HEARD_S)
        assert (waiting[0].returncode, out, said) == (130, "", "")
        assert daemon.run("running").returncode == 0
    for stop in waiting[1:]:
        assert stop.communicate(timeout=STOP_S) == ("", "")
        assert stop.returncode == 0
    assert daemon.wait(HEARD_S) == 0


def test_a_parent_that_is_killed_while_it_stops(stoppable: tuple[Daemon, int]) -> None:
    daemon, port = stoppable
    with connect(port) as sender:
        sender.sendall(b"kept\n")
        daemon.until_stored(1)
        stop = start_stop(daemon)
        until(lambda: "is stopping" in daemon.run("status").stdout, HEARD_S, "it to stop")
        daemon.kill_parent()
        out, said = stop.communicate(timeout=HEARD_S)
        assert (stop.returncode, out) == (70, "")
        assert "killed before it had ended" in said
        assert "Traceback" not in said


def test_closed_descriptors_at_birth() -> None:
    """Some start programs without 0, 1 and 2; no file of ours may take their place."""
    port = free_port()
    with unstarted(config(port)) as daemon:
        line = f"exec {sys.executable} -m appliance -c {daemon.file} collect <&- >&- 2>&-"
        daemon.process = subprocess.Popen(["bash", "-c", line], start_new_session=True)
        until(daemon.try_status, HEARD_S, "the control socket")
        send_and_close(port, [b"a\nb\n"])
        daemon.until_stored(2)
        assert list(Sqlite().raws(daemon)) == [b"a", b"b"]
        for pid in (daemon.process.pid, daemon.status()["sources"]["lines"]["pid"]):
            opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
            assert opened == ["/dev/null"] * 3
        assert daemon.stop() == 0


def test_a_closed_standard_input_is_an_empty_one() -> None:
    with unstarted('[source.s]\ntype = "stdin"\n') as daemon:
        done = daemon.run_in_shell("{collect} <&-")
        assert done.returncode == 0, done.stderr
        assert "every source has ended and everything is stored" in done.stderr


# ── helpers ─────────────────────────────────────────────────────────────────────────────


def environ(**more: str) -> dict[str, str]:
    return os.environ | more


def assert_shape(found: Any, shape: Any, where: str) -> None:
    """Every key of the shape is there, with its type; more keys may be."""
    if isinstance(shape, dict):
        assert isinstance(found, dict), where
        for key, below in shape.items():
            assert key in found, f"{where}.{key}"
            assert_shape(found[key], below, f"{where}.{key}")
    elif isinstance(shape, list):
        assert found, where
        for one, below in zip(found, itertools.cycle(shape), strict=False):
            assert_shape(one, below, where)
    else:
        assert type(found) is shape, f"{where}: {found!r}"


def comm_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(HEARD_S)
    connection.connect(str(path))
    return connection


def spoken(path: Path, sent: bytes) -> Any:
    """What the control socket answers; None when it just hangs up."""
    with connected(path) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile("rb").readline()
    return json.loads(answer) if answer else None


def start_stop(daemon: Daemon) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "appliance", "-c", str(daemon.file), "stop"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def waits(process: "subprocess.Popen[str]") -> bool:
    """Whether it has asked and waits for the answer (a process with a Unix socket that sleeps)."""
    names = Path(f"/proc/{process.pid}/fd").iterdir()
    try:
        has_socket = any(os.readlink(name).startswith("socket:") for name in names)
    except FileNotFoundError:  # closed since it was listed
        return False
    return has_socket and Path(f"/proc/{process.pid}/wchan").read_text() != "0"
