"""What install and uninstall decide, as tables: each state of each kind of file."""

from collections.abc import Sequence

import pytest

from appliance import installation
from appliance.errors import InstanceError
from appliance.installation import (
    CACHES,
    CONFIGURATION,
    EXAMPLE,
    NO_RECORD,
    PROGRAM,
    STATE,
    UNITS,
    Action,
    Found,
    Kind,
    Machine,
    Part,
    Record,
    Removal,
    Step,
    Wanted,
    record_from,
    unit_for,
)

UNIT = f"{UNITS}/stream-daemon.service"
PLACES = {Part.PROGRAM: PROGRAM, Part.UNIT: UNIT, Part.EXAMPLE: EXAMPLE}
WANTED = [Wanted(place, "new", part) for part, place in PLACES.items()]
KNOWN = Record(dict.fromkeys(PLACES.values(), ("oldest", "older")))
SYSTEMD = Machine(units=True, runs=True, directories=frozenset({CONFIGURATION}))
PLAIN = Machine(units=True, runs=False)

STATES = {
    "missing": Found(Kind.MISSING),
    "same": Found(Kind.FILE, "new"),
    "older": Found(Kind.FILE, "older"),
    "oldest": Found(Kind.FILE, "oldest"),
    "changed": Found(Kind.FILE, "yours"),
    "ours": Found(Kind.FILE, "yours", ours=True),
    "running": Found(Kind.FILE, "yours", running=True),
    "link": Found(Kind.LINK, target="/dev/null"),
    "running link": Found(Kind.LINK, target="/opt/stream-daemon", running=True),
    "directory": Found(Kind.OTHER),
}
REFUSE = None
INSTALLED: dict[str, tuple[Action | None, Action | None, Action | None]] = {
    #                program         unit            example
    "missing": (Action.WRITE, Action.WRITE, Action.WRITE),
    "same": (Action.NOTHING, Action.NOTHING, Action.NOTHING),
    "older": (Action.WRITE, Action.WRITE, Action.WRITE),
    "oldest": (Action.WRITE, Action.WRITE, Action.WRITE),
    "changed": (REFUSE, Action.KEEP, Action.KEEP),
    "link": (REFUSE, Action.KEEP, Action.KEEP),
    "directory": (REFUSE, REFUSE, REFUSE),
}
CASES = [
    *((s, part, does[i]) for s, does in INSTALLED.items() for i, part in enumerate(Part)),
    ("ours", Part.PROGRAM, Action.WRITE),
    ("running", Part.PROGRAM, Action.NOTHING),
    ("running link", Part.PROGRAM, Action.KEEP),
]
REMOVED = {
    #                unit, plain       unit, purge    example, plain  example, purge
    "older": (Action.REMOVE, Action.REMOVE, Action.KEEP, Action.REMOVE),
    "changed": (Action.KEEP, Action.REMOVE, Action.KEEP, Action.REMOVE),
    "link": (Action.KEEP, Action.REMOVE, Action.KEEP, Action.REMOVE),
    "directory": (Action.KEEP, Action.KEEP, Action.KEEP, Action.KEEP),
    "missing": (None, None, None, None),
}
PROGRAM_REMOVED = {
    "older": Action.REMOVE,
    "ours": Action.REMOVE,
    "running": Action.REMOVE,
    "changed": Action.KEEP,
    "link": Action.KEEP,
    "directory": Action.KEEP,
    "missing": None,
}


def install(found: dict[str, Found], machine: Machine = SYSTEMD, user: str = "") -> list[Step]:
    everything = dict.fromkeys(PLACES.values(), STATES["same"]) | found
    return installation.install(machine, WANTED, everything, KNOWN, user)


def step_for(steps: Sequence[Step], what: str) -> Step | None:
    return next((step for step in steps if step.what == what), None)


def action_for(steps: Sequence[Step], what: str) -> Action | None:
    step = step_for(steps, what)
    return step.action if step else None


# ── install ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("state", "part", "action"), CASES)
def test_what_becomes_of_a_file(state: str, part: Part, action: Action | None) -> None:
    place = PLACES[part]
    if action is REFUSE:
        with pytest.raises(InstanceError, match=f"{place} .*nothing was changed"):
            install({place: STATES[state]})
    else:
        assert action_for(install({place: STATES[state]}), place) is action


def test_the_record_knows_a_file_before_it_is_written() -> None:
    steps = install({EXAMPLE: STATES["missing"], UNIT: STATES["older"]})
    actions = [step.action for step in steps]
    assert actions.index(Action.RECORD) < actions.index(Action.WRITE)
    [record] = [record_from(step.what) for step in steps if step.action is Action.RECORD]
    assert record.files[EXAMPLE] == ("oldest", "older", "new")


def test_a_file_that_is_kept_does_not_become_ours() -> None:
    steps = install({EXAMPLE: STATES["changed"]})
    [record] = [record_from(step.what) for step in steps if step.action is Action.RECORD]
    assert record.files[EXAMPLE] == KNOWN.files[EXAMPLE]
    assert record.files[UNIT][-1] == "new"


def test_a_second_install_has_nothing_to_do() -> None:
    done = KNOWN.adding(WANTED, "")
    same = dict.fromkeys(PLACES.values(), STATES["same"])
    steps = installation.install(SYSTEMD, WANTED, same, done, "")
    assert {step.action for step in steps} == {Action.NOTHING}
    assert all(step.said(False).endswith(": nothing to do") for step in steps)


def test_hashes_are_bounded() -> None:
    record = NO_RECORD
    for number in range(installation.HASHES_KEPT + 5):
        record = record.adding([Wanted(EXAMPLE, str(number), Part.EXAMPLE)], "")
    assert len(record.files[EXAMPLE]) == installation.HASHES_KEPT
    assert record.files[EXAMPLE][-1] == str(installation.HASHES_KEPT + 4)


@pytest.mark.parametrize(
    ("unit", "stale", "action"),
    [
        ("missing", False, Action.RUN),
        ("older", False, Action.RUN),
        ("same", False, Action.NOTHING),
        ("same", True, Action.RUN),  # killed between the write and this
        ("changed", False, Action.NOTHING),
    ],
)
def test_systemd_reads_units_again_when_they_changed(
    unit: str, stale: bool, action: Action
) -> None:
    machine = Machine(units=True, runs=True, stale=stale)
    assert action_for(install({UNIT: STATES[unit]}, machine), "systemctl daemon-reload") is action


def test_without_systemd_nothing_is_asked_of_it() -> None:
    steps = install({UNIT: STATES["missing"]}, PLAIN)
    assert not any("systemctl" in step.what for step in steps)
    words = str(installation.after_install(PLAIN, steps, ""))
    assert installation.CRONTAB_LINE in words
    assert "systemctl" not in words


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("has_state", [False, True])
def test_a_user(exists: bool, has_state: bool) -> None:
    directories = frozenset({CONFIGURATION, STATE} if has_state else {CONFIGURATION})
    machine = Machine(units=True, runs=True, directories=directories, user_exists=exists)
    steps = install({}, machine, "sd")
    actions = {step.action for step in steps}
    assert (Action.USER in actions) is not exists
    assert (Action.OWN_STATE in actions) is not has_state
    if not exists:
        user = next(step for step in steps if step.action is Action.USER)
        assert "useradd --system" in user.said(dry_run=False)


@pytest.mark.parametrize(
    ("loaded", "found", "third"),
    [
        ((), "missing", "systemctl enable --now stream-daemon"),
        (("stream-daemon.service",), "older", "systemctl restart stream-daemon.service"),
        (("stream-daemon.service",), "same", "systemctl status stream-daemon.service"),
        (
            ("stream-daemon.socket", "stream-daemon@a.service", "stream-daemon@b.service"),
            "older",
            "systemctl restart stream-daemon@a.service stream-daemon@b.service",
        ),
    ],
)
def test_the_next_three_commands(loaded: tuple[str, ...], found: str, third: str) -> None:
    machine = Machine(units=True, runs=True, loaded=loaded)
    steps = install({PROGRAM: STATES[found]}, machine)
    commands = [command for command, _ in installation.after_install(machine, steps, "")]
    assert len(commands) == 3
    assert commands[2] == third


def test_a_unit_for_a_user_of_ones_own() -> None:
    text = "[Service]\n# DynamicUser= makes one\nDynamicUser=yes\nUser=x\nGroup=x\n"
    text += "RuntimeDirectory=a/%i\nRuntimeDirectoryMode=0755\n"
    assert unit_for(text, "") == text
    expected = "[Service]\n# DynamicUser= makes one\nUser=sd\nRuntimeDirectory=a/%i\n"
    expected += "RuntimeDirectoryPreserve=restart\nRuntimeDirectoryMode=0755\n"
    assert unit_for(text, "sd") == expected


# ── uninstall ───────────────────────────────────────────────────────────────────────────


def uninstall(
    found: dict[str, Found],
    machine: Machine = SYSTEMD,
    record: Record = KNOWN,
    *,
    purge: bool = False,
    data: bool = False,
) -> list[Step]:
    everything = dict.fromkeys(record.files, STATES["older"]) | found
    return installation.uninstall(machine, everything, record, Removal(purge, data))


@pytest.mark.parametrize("state", REMOVED)
def test_what_is_removed_of_what_install_wrote(state: str) -> None:
    place: str
    for column, (place, purge) in enumerate(
        [(UNIT, False), (UNIT, True), (EXAMPLE, False), (EXAMPLE, True)]
    ):
        steps = uninstall({place: STATES[state]}, purge=purge)
        assert action_for(steps, place) is REMOVED[state][column], (place, purge)


@pytest.mark.parametrize("purge", [False, True])
@pytest.mark.parametrize("state", PROGRAM_REMOVED)
def test_the_program_is_removed_if_it_is_ours(state: str, purge: bool) -> None:
    steps = uninstall({PROGRAM: STATES[state]}, purge=purge)
    assert action_for(steps, PROGRAM) is PROGRAM_REMOVED[state]


def test_what_was_never_installed() -> None:
    assert uninstall({}, Machine(units=True, runs=True), NO_RECORD, purge=True, data=True) == [
        Step(Action.REMOVE_IF_EMPTY, CONFIGURATION)
    ]


def test_the_order_of_an_uninstall() -> None:
    """What runs is stopped while its unit is known; the program goes when all else works."""
    machine = Machine(
        units=True,
        runs=True,
        directories=frozenset({CONFIGURATION, STATE, *CACHES}),
        loaded=("stream-daemon.service", "stream-daemon@a.service"),
        links=(f"{UNITS}/multi-user.target.wants/stream-daemon.service",),
        user_exists=True,
        user_is_ours=True,
        bytes={STATE: 1_200_000_000},
    )
    record = Record(KNOWN.files, "sd")
    steps = uninstall({}, machine, record, purge=True, data=True)
    assert [step.said(dry_run=False) for step in steps if step.said(False)] == [
        "ran systemctl stop stream-daemon.service stream-daemon@a.service",
        "ran systemctl reset-failed 'stream-daemon[.@]*'",
        f"removed {UNITS}/multi-user.target.wants/stream-daemon.service",
        f"removed {EXAMPLE}",
        f"removed {UNIT}",
        f"removed {PROGRAM}",
        "ran systemctl daemon-reload",
        f"removed {CACHES[0]} (0.0 MB)",
        f"removed {CACHES[1]} (0.0 MB)",
        f"removed {STATE} (1,200.0 MB)",
        "removed the user sd",
    ]
    assert steps[-2:] == [Step(Action.RECORD, ""), Step(Action.REMOVE_IF_EMPTY, CONFIGURATION)]


@pytest.mark.parametrize(
    ("has_state", "data", "ours", "action"),
    [
        (True, False, True, Action.KEEP),  # whoever got its number next would own the data
        (True, True, True, Action.REMOVE_USER),
        (False, False, True, Action.REMOVE_USER),
        (True, True, False, None),  # it was there before us
    ],
)
def test_a_user_goes_with_its_data(
    has_state: bool, data: bool, ours: bool, action: Action | None
) -> None:
    directories = frozenset({STATE} if has_state else ())
    machine = Machine(
        units=True, runs=True, directories=directories, user_exists=True, user_is_ours=ours
    )
    steps = uninstall({}, machine, Record({}, "sd"), data=data)
    assert next((s.action for s in steps if s.what in ("sd", "user sd")), None) is action


def test_what_stays_is_still_known() -> None:
    steps = uninstall({UNIT: STATES["changed"]})
    [record] = [record_from(step.what) for step in steps if step.action is Action.RECORD]
    assert record.files.keys() == {UNIT, EXAMPLE}


# ── the record ──────────────────────────────────────────────────────────────────────────


def test_a_record_is_read_back() -> None:
    record = Record({EXAMPLE: ("a", "b")}, "sd")
    assert record_from(record.to_json()) == record
    assert record_from("") == NO_RECORD


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": 1, "user": ""}', "\0"])
def test_a_record_that_is_none(text: str) -> None:
    with pytest.raises(InstanceError, match="not what install writes"):
        record_from(text)
