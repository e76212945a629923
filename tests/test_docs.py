"""The documentation tells the truth: its tables and examples against the program."""

import importlib
import operator
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance import reload, signals
from appliance.cli import VERBS
from appliance.config import (
    Config,
    FileSource,
    SourceConfig,
    StdinSource,
    TcpSource,
    UnixSource,
    parse,
)
from appliance.errors import Exit
from appliance.settings import LATER_KEYS, LATER_VALUES, Column, Filter, SecretRef
from appliance.toml_tables import size_text, toml
from appliance.verbs.init import EXAMPLE, run

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

NESTED: dict[str, tuple[str, type[msgspec.Struct]]] = {
    "password": ("password", SecretRef),
    "include": ("include", Filter),
    "exclude": ("exclude", Filter),
    "columns": ("columns.COLUMN", Column),
}
UNITS = {"bytes_max": "bytes", "free_min": "bytes", "_ms": "milliseconds", "_s": "seconds"}


def rows(section: str) -> list[list[str]]:
    """The cells of the table under a heading of docs/configuration.md."""
    text = CONFIGURATION.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.split("\n") if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def fields(shape: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Each key of a struct, and of those in it, with its default (... if it is required)."""
    for field in msgspec.structs.fields(shape):
        key, default = prefix + field.encode_name, field.default
        if field.encode_name == "source":
            yield from source_fields()
        elif isinstance(default, msgspec.Struct):
            yield from fields(type(default), key + ".")
        else:
            if field.encode_name.endswith(("bytes_max", "free_min")) and isinstance(default, int):
                default = size_text(default)
            yield key, ... if field.required else default
            if field.encode_name in NESTED:
                name, nested = NESTED[field.encode_name]
                yield from fields(nested, f"{prefix}{name}.")


def source_fields() -> Iterator[tuple[str, object]]:
    yield "source.SOURCE.type", ...
    for shape in (SourceConfig, TcpSource, UnixSource, FileSource, StdinSource):
        yield from fields(shape, "source.SOURCE.")


EXPECTED = dict(fields(Config))


def test_the_table_lists_exactly_the_keys() -> None:
    listed = [row[0].strip("`") for row in rows("All keys")]
    assert sorted(listed) == sorted(EXPECTED), "and no key twice"


@pytest.mark.parametrize("row", rows("All keys"), ids=lambda row: row[0].strip("`"))
def test_a_key_is_listed_with_its_default_and_unit(row: list[str]) -> None:
    key, default, unit, meaning = row
    expected = EXPECTED[key.strip("`")]
    if expected is ...:
        assert default == "required"
    elif isinstance(expected, str | int | float):
        assert default == f"`{toml(expected)}`"
    else:  # nothing, or what only words can say
        assert default
        assert not default.startswith('`"')
    units = [word for end, word in UNITS.items() if key.strip("`").endswith(end)]
    assert unit in units or (not units and unit in ("", "processes", "connections"))
    assert meaning


def test_what_comes_later_is_listed() -> None:
    later = {row[0].strip("`"): row[1] for row in rows("Not in this version")}
    assert later.keys() == LATER_KEYS | LATER_VALUES.keys()
    for key, values in LATER_VALUES.items():
        listed = re.findall(r'"([^"]*)"', later[key])
        assert listed or later[key] == "a path"
        assert all(re.fullmatch(values, value) for value in listed)
        assert len(listed) == (0 if later[key] == "a path" else values.count("|") + 1)


def test_every_signal_to_the_parent_is_listed() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    table = text.partition("\n## Signals to the parent\n")[2].strip()
    meaning = {
        f"SIG{name.strip()}": row.split("|")[2]
        for row in table.partition("\n\n")[0].splitlines()[2:]
        for name in row.split("|")[1].split(",")
    }
    assert meaning.keys() == {number.name for number in signals.PARENT}


def test_init_prints_a_configuration_that_parses(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(None) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert printed == EXAMPLE
    assert parse(printed, "stream-daemon.toml").sources["lines"] == TcpSource(
        listen="127.0.0.1:5170"
    )


def test_the_keys_that_init_comments_out_are_valid_and_defaults_are_true() -> None:
    everything = parse(re.sub(r"^#(?=[a-z\[])", "", EXAMPLE, flags=re.MULTILINE), "all.toml")
    assert everything.sources.keys() == {"lines", "feed", "local", "log", "input"}
    lines = everything.sources["lines"]
    assert isinstance(lines, TcpSource)
    changed = msgspec.structs.replace(lines, format="text", include=(), exclude=())
    assert changed == TcpSource(listen="127.0.0.1:5170"), "what is shown as default is it"
    store = msgspec.structs.replace(everything.store, columns={})
    assert store == Config(sources={}).store
    assert (everything.drain_s, everything.subscribers) == (60.0, "auto")
    assert everything.log == Config(sources={}).log


def blocks() -> Iterator[object]:
    for page in PAGES:
        if page.exists():
            text = page.read_text(encoding="utf-8")
            found = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
            for number, block in enumerate(found, 1):
                yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.mark.parametrize("block", list(blocks()))
def test_toml_in_the_documentation_parses(block: str) -> None:
    """A block without a source shows a section of a file; it gets one."""
    if "[source" not in block:
        block += '\n[source.input]\ntype = "stdin"\nformat = "json"\n'
    parse(block, "block")


# ── commands, exit codes, signals ───────────────────────────────────────────────────────

OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def first_cells(section: str) -> list[str]:
    """The first cell of each row of a table of docs/operations.md."""
    text = OPERATIONS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [line.strip("|").split("|")[0].strip() for line in text.split("\n") if "|" in line][2:]


def test_every_command_and_option_is_documented() -> None:
    documented = {cell.strip("`").split()[0]: cell for cell in first_cells("Commands")}
    assert documented.keys() >= VERBS.keys()
    for verb, (_what, _example, options) in VERBS.items():
        for flags in (flags for flags, _settings in options if flags[0].startswith("-")):
            assert any(flag in documented[verb] for flag in flags), f"{verb} {flags}"


def test_what_a_reload_takes_up_is_documented_for_each_key() -> None:
    section = OPERATIONS.partition("\n## Change the configuration\n")[2].partition("\n## ")[0]
    told = {
        key: row.split("|")[2].strip()
        for row in section.split("\n")
        if row.startswith("| `")
        for key in re.findall(r"`([^`]+)`", row.split("|")[1])
    }
    restart = {key for key, touch in reload.KEYS.items() if reload.Touch.RESTART in touch}
    assert told == {key: "restart" if key in restart else "reload" for key in reload.KEYS}
    assert {reload.key_of(key) for key in EXPECTED} == reload.KEYS.keys()


def test_every_exit_code_is_documented() -> None:
    assert sorted(map(int, first_cells("Exit codes"))) == sorted(Exit)


# ── limits ──────────────────────────────────────────────────────────────────────────────

PACKAGE = ROOT / "appliance"
# A verb may be called as a file of the package itself, which goes before.
MODULES = {path.stem: path for path in (*PACKAGE.glob("*s/*.py"), *PACKAGE.glob("*.py"))}
LIMITS = re.findall(r"^\| `([a-z]\w*\.[\w.]+)` \| ([\d,]+) \| (\w+) \|", OPERATIONS, re.MULTILINE)


@pytest.mark.parametrize(("name", "limit", "unit"), LIMITS, ids=lambda cell: cell)
def test_a_limit_is_what_the_program_has(name: str, limit: str, unit: str) -> None:
    module, _, attributes = name.partition(".")
    dotted = ".".join(MODULES[module].relative_to(ROOT).with_suffix("").parts)
    value = operator.attrgetter(attributes)(importlib.import_module(dotted))
    assert value == int(limit.replace(",", ""))
    if attributes.lower().endswith("_s"):
        assert unit == "seconds"
    if "BYTES" in attributes:
        assert unit == "bytes"


def test_the_limits_are_found() -> None:
    assert len(LIMITS) > 30
