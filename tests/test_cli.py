"""The command line's grammar: what is a verb, what its options become, what an error becomes."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

import appliance
from appliance import cli
from appliance.errors import ConfigError, Corrupt, InstanceError, StreamDaemonError, Unavailable


def parsed(*words: str) -> argparse.Namespace:
    return cli.parser().parse_args(words)


# ── grammar ─────────────────────────────────────────────────────────────────────────────


def test_each_verb_is_a_module_with_a_run() -> None:
    """And each module of appliance/verbs that has one is a verb."""
    folder = Path(appliance.__file__).parent / "verbs"
    runs = {
        (file.parent if file.name == "__init__.py" else file).stem
        for file in folder.rglob("*.py")
        if "\ndef run(" in file.read_text()
    }
    assert set(cli.VERBS) <= runs
    assert {name for name in runs if (folder / f"{name}.py").exists()} <= set(cli.VERBS)


POSITIONAL = {"completion": ["bash"], "dead": ["list"], "spool": ["check"]}
OPTIONS = [
    (("collect",), {"if_needed": False}),
    (("collect", "--if-needed"), {"if_needed": True}),
    (("collect", "--detach"), {"if_needed": False, "detach": True}),
    (("collect", "--detach", "--if-needed"), {"if_needed": True, "detach": True}),
    (("drain",), {"timeout": 60.0, "verbose": False}),
    (("audit",), {"timeout": 60.0, "json": False, "recount": False}),
    (("audit", "--json", "--recount", "--timeout", "9"), {"timeout": 9.0, "recount": True}),
    (("drain", "-v", "--timeout", "0.5"), {"timeout": 0.5, "verbose": True}),
    (("completion", "zsh"), {"shell": "zsh"}),
    (("dead", "list"), {"action": "list", "letter": [], "limit": None, "json": False}),
    (("dead", "show", "a:1:2", "b:3:4"), {"action": "show", "letter": ["a:1:2", "b:3:4"]}),
    (
        ("dead", "retry", "--source", "s", "--code", "too long", "--since", "1970-01-02"),
        {"source": "s", "code": "too long", "since": 86400.0, "dry_run": False},
    ),
    (
        ("dead", "export", "--limit", "7", "--incomplete", "--json"),
        {"limit": 7, "incomplete": True, "json": True},
    ),
    (("stop",), {"now": False, "timeout": None}),
    (("stop", "--now"), {"now": True}),
    (("stop", "--timeout", "90"), {"timeout": 90.0}),
    (("stop", "--timeout=0.5"), {"timeout": 0.5}),
    (("reload",), {"timeout": None}),
    (("reload", "--timeout", "9"), {"timeout": 9.0}),
    (("running",), {"quiet": False}),
    (("running", "-q"), {"quiet": True}),
    (("running", "--quiet"), {"quiet": True}),
    (("status",), {"json": False}),
    (("status", "--json"), {"json": True}),
    (("gaps",), {"json": False, "since": None, "all": False}),
    (("gaps", "--json", "--all", "--since", "1970-01-02"), {"json": True, "since": 86400.0}),
    (("check",), {"offline": False}),
    (("check", "--offline"), {"offline": True}),
    (("licenses",), {"text": False, "sbom": False}),
    (("licenses", "--text"), {"text": True, "sbom": False}),
    (("licenses", "--sbom"), {"text": False, "sbom": True}),
    (("demo",), {"keep": None, "seed": 1}),
    (("rehearse",), {"time": 60.0, "restarts": False, "rate": 2000, "seed": None}),
    (
        ("rehearse", "--time", "8", "--restarts", "--rate", "9", "--seed", "0"),
        {"time": 8.0, "restarts": True, "rate": 9, "seed": 0},
    ),
    (("demo", "--keep", "/tmp/x", "--seed", "7"), {"keep": "/tmp/x", "seed": 7}),
]


@pytest.mark.parametrize(("words", "options"), OPTIONS, ids=lambda value: " ".join(value))
def test_options(words: tuple[str, ...], options: dict[str, object]) -> None:
    found = vars(parsed(*words))
    assert found == found | options
    assert (found["verb"], found["config"]) == (words[0], None)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_configuration_is_named_before_or_behind_the_verb(verb: str) -> None:
    words = [verb, *POSITIONAL.get(verb, [])]
    assert parsed("-c", "a", *words).config == "a"
    assert parsed(*words, "-c", "a").config == "a"
    assert parsed("-ca", *words).config == "a"
    assert parsed("-c", "a", *words, "-c", "b").config == "b"
    assert parsed(*words).config is None


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_of_a_verb_is_valid(verb: str) -> None:
    """Up to what the shell does with it."""
    program, *words = cli.VERBS[verb][1].removeprefix("sudo ").split()
    ends = [at for at, word in enumerate(words) if word in ("|", ">", "&&")]
    assert program in ("stream-daemon", "./stream-daemon")
    assert parsed(*words[: min(ends, default=None)]).verb == verb


@given(st.floats(0.001, cli.TIMEOUT_S_MAX))
def test_times(value: float) -> None:
    assert cli.seconds(str(value)) == value


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "0", "-0.0", "-1", "1e7", "1 s"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 90"):
        cli.seconds(text)


# ── what comes out ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`running`, to be given another `run`."""
    module = ModuleType("appliance.verbs.running")
    monkeypatch.setitem(sys.modules, "appliance.verbs.running", module)
    return module


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_the_code_is_the_verbs(verb: ModuleType, code: int) -> None:
    seen = []

    def run(args: argparse.Namespace) -> int:
        seen.append(args.config)
        return code

    verb.run = run  # type: ignore[attr-defined]
    assert cli.main(["-c", "file", "running"]) == code
    assert seen == ["file"]


ERRORS = [
    (ConfigError("file:3: a key is wrong", "write b"), 78),
    (InstanceError("it already runs", "stop it"), 73),
    (Unavailable("no answer", "start it"), 69),
    (Corrupt("damaged", "look"), 70),
    (StreamDaemonError("something", "do"), 70),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_that_we_know_are_a_message_and_a_code(
    verb: ModuleType, capsys: pytest.CaptureFixture[str], error: StreamDaemonError, code: int
) -> None:
    def run(_args: argparse.Namespace) -> int:
        raise error

    verb.run = run  # type: ignore[attr-defined]
    assert cli.main(["running"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"stream-daemon: {error.message}\n  → {error.hint}\n")


def test_an_interrupt_is_no_error(verb: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    verb.run = run  # type: ignore[attr-defined]
    assert cli.main(["running"]) == 130
    assert capsys.readouterr() == ("", "")


def test_what_we_do_not_know_is_not_hidden(verb: ModuleType) -> None:
    def run(_args: argparse.Namespace) -> int:
        raise ZeroDivisionError

    verb.run = run  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.main(["running"])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["frob"],
        ["stop", "--timeout", "x"],
        ["collect", "x"],
        ["completion", "csh"],
        ["dead"],
        ["dead", "bury"],
        ["dead", "list", "--limit", "0"],
        ["dead", "list", "--since", "soon"],
    ],
)
def test_usage_errors_say_how_to_see_what_is_right(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(words)
    assert raised.value.code == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("stream-daemon")
    assert err.endswith("--help\n")
    assert "\n  → see: stream-daemon" in err


VERSION = """
import sys
import appliance.__main__
sys.argv = ["stream-daemon", "--version"]
try:
    appliance.__main__.main()
finally:
    print(*sorted(name.partition(".")[0] for name in sys.modules))
"""
SLOW = "asyncio ctypes inspect logging multiprocessing socket ssl subprocess tempfile traceback"


def test_the_version_is_said_without_what_takes_long_to_import() -> None:
    """Nor anything that isn't Python's own: there is no site-packages for it here."""
    said = subprocess.run(
        [sys.executable, "-S", "-c", VERSION],
        cwd=Path(appliance.__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    version, imported = said.splitlines()
    assert version == f"stream-daemon {appliance.__version__}"
    assert not set(imported.split()) & set(SLOW.split())
