"""`dead`: what people type, and what they read."""

import base64
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import cli, framing, owner
from appliance.batch import Batch, DeadLetter
from appliance.errors import Unavailable
from appliance.rows import REASONS, split
from appliance.settings import Column
from appliance.stores.letters import Letters, Retried
from appliance.stores.sqlite import SQLiteStore
from appliance.verbs.dead import export, words

RUN, OTHER_RUN = bytes.fromhex("0190aa" + "0" * 26), bytes.fromhex("0190aa" + "0" * 25 + "1")
COLUMNS = {"team": Column(type="TEXT NOT NULL", path="team"), "raw": Column(type="TEXT", path="")}
CONFIG = """
name = "nfl"
state_dir = "{place}"
[source.tweets]
type = "file"
path = "/dev/null"
format = "json"
[store]
[store.columns]
team = {{ path = "team", type = "TEXT NOT NULL" }}
raw = {{ path = "", type = "TEXT" }}
"""

Run = Callable[..., tuple[int, str, str]]


class Place:
    """An instance with a store of its own, and dead letters to put into it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "stream-daemon.toml"
        self.file.write_text(CONFIG.format(place=folder))
        self.directory = folder / "nfl"

    def bury(self, *letters: DeadLetter, run: bytes = RUN, frame: int = 1) -> None:
        """Store a frame of nothing but these."""
        self.directory.mkdir(exist_ok=True)
        store = SQLiteStore(str(self.directory / "nfl.db"), "nfl", "records", COLUMNS)
        store.prepare()
        times = (1_700_000_000.0, 1_700_000_001.0)
        size = len(letters)
        store.store([Batch(run, frame, "tweets", size, 0, *times, [], [], [], [*letters])])
        store.close()

    def rows(self) -> list[tuple[str, str]]:
        store = SQLiteStore(str(self.directory / "nfl.db"), "nfl", "records", COLUMNS)
        with store._session():
            rows = store._query("SELECT team, raw FROM records ORDER BY seq")
        store.close()
        return rows


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def run(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run `dead …`; its exit code and what it says (bytes that are no UTF-8 escaped)."""

    def run(*args: str) -> tuple[int, str, str]:
        code = cli.main(["-c", str(place.file), "dead", *args])
        out, err = capfdbinary.readouterr()
        return code, out.decode(errors="backslashreplace"), err.decode()

    return run


def bad(position: int, raw: bytes = b"{", code: str = "json", reason: str = "no") -> DeadLetter:
    return DeadLetter(position, raw, code, reason)


GOOD = b'{"team": "Jets"}'
NAME = RUN.hex() + ":1:"


# ── list ────────────────────────────────────────────────────────────────────────────────


def test_a_list_begins_with_a_summary_and_shows_the_newest_first(place: Place, run: Run) -> None:
    place.bury(bad(0), bad(1, b"\x1b[31m\xff it's", "utf8", "not UTF-8"))
    place.bury(bad(7, b'{"x": 1}', "null", "may not be NULL: [bold]team"), run=OTHER_RUN, frame=12)
    code, out, err = run("list")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert lines[0] == "3 letters: 1 json, 1 null, 1 utf8"
    assert lines[1].split() == ["NAME", "SOURCE", "CODE", "DIED", "(UTC)", "REASON", "RECORD"]
    assert [line.split()[0].partition(":")[2] for line in lines[2:]] == ["12:7", "1:1", "1:0"]
    assert "may not be NULL: [bold]team" in lines[2]
    assert r"\x1b[31m\xff it's" in lines[3], "nothing of it reaches the terminal as it is"
    names = [line.split()[0] for line in lines[2:]]
    assert run("show", names[0])[1] == '{"x": 1}', "what is printed can be typed"
    assert run("show", names[2])[1] == "{"


def test_a_long_list_says_what_it_leaves_out(place: Place, run: Run) -> None:
    place.bury(*[bad(at) for at in range(1203)])
    lines = run("list")[1].splitlines()
    assert lines[0] == "1,203 letters: 1,203 json"
    assert len(lines) == 2 + 50 + 1
    assert lines[-1] == "… and 1,153 older ones (--limit)"
    assert len(run("list", "--limit", "700")[1].splitlines()) == 2 + 700 + 1
    assert len(run("list", "--json")[1].splitlines()) == 1203
    assert len(run("list", "--json", "--limit", "3")[1].splitlines()) == 3


def test_a_list_as_json(place: Place, run: Run) -> None:
    place.bury(bad(3, b"x" * 1000, "too long", REASONS["too long"]))
    _, out, _ = run("list", "--json")
    found = json.loads(out)
    assert found.pop("dead_at").endswith("Z")
    assert found == {
        "name": NAME + "3",
        "source": "tweets",
        "code": "too long",
        "reason": REASONS["too long"],
        "received_at": "2023-11-14T22:13:20.000000Z",
        "bytes": 1000,
        "incomplete": True,
        "beginning": "x" * 200,
    }


def test_filters(place: Place, run: Run) -> None:
    place.bury(bad(0), bad(1, code="too long"))
    assert run("list", "--code", "too long")[1].startswith("1 letter: 1 too long\n")
    assert run("list", "--source", "tweets")[1].startswith("2 letters: ")
    assert run("list", "--source", "others")[1] == "no dead letters\n"
    assert run("list", "--since", "1h")[1].startswith("2 letters: ")
    assert run("list", "--since", "2999-01-01")[1] == "no dead letters\n"


def test_where_nothing_is_kept_yet_nothing_is_made(place: Place, run: Run) -> None:
    said = "no dead letters: store embedded has no tables of this instance yet\n"
    for action in ("list", "retry", "export"):
        assert run(action) == (0, "", said)
    code, out, err = run("show", "a:1:1")
    assert (code, out) == (64, "")
    assert said in err
    assert not place.directory.exists()


# ── show ────────────────────────────────────────────────────────────────────────────────


def test_show_gives_the_bytes_as_they_are(
    place: Place, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    raw = bytes(set(range(256)) - {10})
    place.bury(bad(0, raw, "utf8", "not\x1b UTF-8"), bad(1, b"{"))
    assert cli.main(["-c", str(place.file), "dead", "show", "0190AA:1:0"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == raw
    said = err.decode()
    assert f"dead letter {NAME}0\n" in said
    assert r"not\x1b UTF-8" in said
    assert "→ send UTF-8" in said
    assert cli.main(["-c", str(place.file), "dead", "show", NAME + "0", NAME + "1"]) == 0
    assert capfdbinary.readouterr()[0] == raw + b"\n{\n"


def test_show_says_what_to_do(place: Place, run: Run) -> None:
    place.bury(bad(0, code="too long", reason="column"), bad(1, b"", "cut", REASONS["cut"]))
    assert "→ widen that column" in run("show", NAME + "0")[2]
    err = run("show", NAME + "1")[2]
    assert "→ its rest is gone" in err
    assert "record    0 bytes, only its beginning" in err


def test_names_that_are_none(place: Place, run: Run) -> None:
    place.bury(bad(0))
    place.bury(bad(0), run=OTHER_RUN)
    for name, said in [
        ("x:1:1", "is no name of a dead letter"),
        ("0190aa:1", "is no name of a dead letter"),
        ("0190ab:1:0", "no dead letter 0190ab:1:0"),
        ("0190aa:1:0", f"may be of 2 runs\n  → write more of it: {RUN.hex()}, {OTHER_RUN.hex()}"),
        (NAME + "5", f"no dead letter {NAME}5"),
    ]:
        code, out, err = run("show", name)
        assert (code, out) == (64, "")
        assert said in err


@pytest.mark.parametrize(
    "args",
    [
        ["show"],
        ["show", "a:1:1", "--code", "json"],
        ["show", "a:1:1", "--json"],
        ["list", "a:1:1"],
        ["list", "--incomplete"],
        ["retry", "--json"],
        ["retry", "a:1:1", "--since", "2h"],
        ["export", "--dry-run"],
        ["export", "a:1:1", "--limit", "5"],
    ],
)
def test_words_that_do_not_fit_together(run: Run, args: Sequence[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*args)
    assert caught.value.code == 64


# ── retry ───────────────────────────────────────────────────────────────────────────────


def test_retry_stores_what_is_good_now(place: Place, run: Run) -> None:
    place.bury(bad(0, GOOD), bad(1), bad(2, GOOD), bad(3, GOOD, "cut", REASONS["cut"]))
    place.bury(bad(0, GOOD, "poison", "died"), bad(1, GOOD), run=OTHER_RUN)
    dry = run("retry", "--dry-run")
    assert dry[:2] == (0, "stored 3, filtered 0, still dead 1 (a dry run: nothing was changed)\n")
    assert place.rows() == []
    code, out, err = run("retry")
    assert (code, out) == (0, "stored 3, filtered 0, still dead 1\n")
    assert err.splitlines() == [
        "1 cut left out: only a part of such a record was kept (take it with --incomplete)",
        "1 poison left out: whoever touched it died (take it with --code poison, or by its name)",
    ]
    assert place.rows() == [("Jets", GOOD.decode())] * 3
    assert run("retry")[1] == "stored 0, filtered 0, still dead 1\n"
    assert run("retry", "--incomplete")[1] == "stored 1, filtered 0, still dead 1\n"
    assert run("retry", "--code", "poison")[1] == "stored 1, filtered 0, still dead 0\n"
    assert len(place.rows()) == 5
    assert run("list")[1].startswith("1 letter: 1 json\n")


def test_retry_of_some(place: Place, run: Run) -> None:
    place.bury(*[bad(at, GOOD, "poison") for at in range(1200)])
    named = run("retry", NAME + "1", "0190aa:1:1100", NAME + "1")
    assert named[1] == "stored 2, filtered 0, still dead 0\n"
    assert run("retry", NAME + "1")[1] == "stored 0, filtered 0, still dead 0\n"
    assert run("retry", "--code", "poison", "--limit", "3")[1].startswith("stored 3,")
    assert run("retry", "--code", "poison", "--limit", "700")[1].startswith("stored 700,")
    assert run("retry", "--code", "poison")[1].startswith("stored 495,")
    assert len(place.rows()) == 1200
    assert "retried   " in run("show", NAME + "1")[2]


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception | None]]:
    """What the next pages meet, in their order; None: nothing."""
    plan: list[Exception | None] = []
    real = Letters.retry_letters

    def retry(self: Letters, *args: object, **more: object) -> Retried:
        error = plan.pop(0) if plan else None
        if error:
            raise error
        return real(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Letters, "retry_letters", retry)
    monkeypatch.setattr("appliance.verbs.dead.retry.time.sleep", lambda _: None)
    yield plan
    assert plan == []


def test_an_outage_ends_a_retry_and_the_next_one_does_the_rest(
    place: Place, run: Run, outage: list[Exception | None]
) -> None:
    place.bury(*[bad(at, GOOD) for at in range(1200)])
    outage[:] = [None, Unavailable("deadlock"), None, *[Unavailable("gone")] * 4]
    code, out, err = run("retry")
    assert (code, out) == (69, "")
    assert err == (
        "stream-daemon: stored 1000, filtered 0, still dead 0; then: gone\n"
        "  → what is done stays done: run it again\n"
    )
    outage[:] = [Unavailable("no such table", "make it", loud=True)]
    assert run("retry")[2].endswith("then: no such table\n  → make it\n")
    assert run("retry")[1] == "stored 200, filtered 0, still dead 0\n"
    assert len(place.rows()) == 1200


def test_an_interrupted_retry_says_what_is_done(
    place: Place, run: Run, outage: list[BaseException | None]
) -> None:
    place.bury(*[bad(at, GOOD) for at in range(1200)])
    outage[:] = [None, KeyboardInterrupt()]
    assert run("retry") == (130, "", "stored 500, filtered 0, still dead 0\n")


def test_a_column_that_is_missing_still_is_said_first(place: Place, run: Run) -> None:
    place.bury(bad(0, GOOD))
    place.file.write_text(place.file.read_text() + 'id = { path = "id", type = "BIGINT" }\n')
    code, out, err = run("retry")
    assert (code, out) == (69, "")
    assert 'ALTER TABLE "records" ADD COLUMN "id" BIGINT;' in err
    assert run("list")[1].startswith("1 letter: 1 json\n"), "looking works"


def test_on_a_terminal_it_shows_how_far_it_is(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.bury(*[bad(at, GOOD) for at in range(3)])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert cli.main(["-c", str(place.file), "dead", "retry"]) == 0
    assert "dead retry" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user's directory")
def test_the_directory_is_another_users(
    place: Place, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would leave there would be the caller's, and in the owner's way."""
    became: list[tuple[int, int]] = []
    monkeypatch.setattr(owner, "become", lambda *ids: became.append(ids))
    place.bury(bad(0))
    os.chown(place.directory, 64729, 65533)
    assert run("list")[0] == 0
    assert became == [(64729, 65533)], "root goes on as a user that systemd has made"
    os.chown(place.directory, 65534, 65533)
    code, _, err = run("list")
    assert code == 73
    assert f"sudo -u nobody stream-daemon -c {place.file} dead list" in err


# ── export ──────────────────────────────────────────────────────────────────────────────

RAWS = st.binary(min_size=1, max_size=20).map(lambda raw: raw.replace(b"\n", b"\r") or b"x")


@given(st.lists(RAWS))
def test_what_is_exported_is_the_same_record_when_it_is_sent_in_again(raws: list[bytes]) -> None:
    sent = b"".join(map(export.line, raws))
    found = framing.cut(sent, 0, len(sent), record_bytes_max=1000)
    assert split(bytes(found.body(sent))) == raws if raws else not found.records


def test_export(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    place.bury(bad(5, b"\xff\r"), bad(2, b"{"), bad(3, b"{x", "too long", REASONS["too long"]))
    place.bury(bad(0, "é".encode(), "poison"), run=OTHER_RUN)

    def exported(*args: str) -> tuple[bytes, bytes]:
        assert cli.main(["-c", str(place.file), "dead", "export", *args]) == 0
        return capfdbinary.readouterr()

    out, err = exported()
    assert out == b"{\n\xff\r\r\n" + "é\n".encode()
    assert err.startswith(b"1 too long left out: only a part")
    assert exported("--incomplete") == (b"{\n{x\n\xff\r\r\n" + "é\n".encode(), b"")
    assert exported("--limit", "1")[0] == b"{\n"
    assert exported("--code", "json") == (b"{\n\xff\r\r\n", b"")
    assert exported(OTHER_RUN.hex() + ":1:0") == ("é\n".encode(), b"")
    objects = [json.loads(line) for line in exported("--json")[0].splitlines()]
    assert [found["name"] for found in objects] == [
        NAME + "2",
        NAME + "5",
        OTHER_RUN.hex() + ":1:0",
    ]
    assert [found.get("raw") for found in objects] == ["{", None, "é"]
    assert base64.b64decode(objects[1]["raw_base64"]) == b"\xff\r"


def test_a_reader_that_has_seen_enough(place: Place) -> None:
    import subprocess

    place.bury(*[bad(at, b"x" * 1000) for at in range(2000)])
    line = f"{sys.executable} -m appliance -c {place.file} dead export | head -c 10"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x" * 10, b"")


# ── words ───────────────────────────────────────────────────────────────────────────────


@given(st.sets(st.binary(min_size=16, max_size=16), min_size=1, max_size=20))
def test_shortened_names_tell_runs_apart(runs: set[bytes]) -> None:
    digits = words.digits_needed(sorted(runs))
    assert len({run.hex()[:digits] for run in runs}) == len(runs)
    assert digits >= 8


@given(st.binary())
def test_what_is_printed_does_no_harm_to_a_terminal(raw: bytes) -> None:
    assert words.printable(raw).isprintable()


def test_sentences() -> None:
    assert words.sentence({}) == "no dead letters"
    assert words.sentence({"json": 1}) == "1 letter: 1 json"
    counts = {"duplicate": 3000, "json": 120}
    assert words.sentence(counts) == "3,120 letters: 3,000 duplicate, 120 json"
