"""`collect --replace`: which instances are replaced, and what of a refusal is said."""

from pathlib import Path
from typing import Any

import pytest

from appliance.errors import AddressError, Exit
from appliance.instance import Instance
from appliance.verbs import replace
from appliance.verbs.replace import Contradiction, Refused, StillStopping

HOLDS = {"pid": 8, "restarts": 0, "sockets": 2, "holds": True}


def report(kind: str, **more: Any) -> dict[str, Any]:
    return {"pid": 7, "sources": {"a": {"type": kind}}, **more}


@pytest.mark.parametrize(
    "running",
    [
        report("tcp", keeper=HOLDS),
        report("unix", keeper=HOLDS),
        report("tcp", keeper={"pid": None, "restarts": 0, "sockets": 0, "holds": False}),
        report("file", keeper=None),
        report("file"),
        report("stdin"),
    ],
)
def test_who_cuts_nobody_is_replaced(running: dict[str, Any]) -> None:
    replace.refuse(running)


@pytest.mark.parametrize(
    ("running", "message", "hint"),
    [
        (report("tcp"), "of a version that can't leave its connections", "stream-daemon stop"),
        (report("unix", keeper=None), "no keeper", "systemctl restart"),
        (report("tcp", keeper=HOLDS | {"holds": False}), "doesn't answer now", "in a minute"),
    ],
)
def test_who_would_cut_his_senders_is_not(running: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(Refused, match=r"the running instance \(pid 7\)") as refused:
        replace.refuse(running)
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_where_nothing_runs_nothing_is_looked_at(tmp_path: Path) -> None:
    def look_ahead() -> None:
        raise AddressError("not asked")

    replace.end_running(Instance(tmp_path), 1.0, look_ahead)


def test_the_exit_codes() -> None:
    codes = [error.exit_code for error in (Refused, StillStopping, Contradiction)]
    assert codes == [Exit.TAKEN, Exit.TIMED_OUT, Exit.USAGE]
