"""The table of MySQL's and MariaDB's errors itself; what each does is in tests/contract/."""

import re
import subprocess

import pytest

from appliance.stores.mysql_errors import ERRORS, Reaction, Refuse, Wait, reaction_to
from tests.conftest import find_service


def test_the_table_of_errors_has_short_codes_and_hints() -> None:
    for name, reaction in ERRORS.values():
        assert name.startswith(("ER_", "CR_", "WARN_", "HA_ERR_"))
        if isinstance(reaction, Refuse):
            assert 0 < len(reaction.code) <= 32


def test_the_table_of_errors_names_them_as_the_server_does() -> None:
    """From 3000 on MariaDB's numbers mean other things than MySQL's; 2000 to 2999 are clients'."""
    program = find_service("perror")
    numbers = [number for number in ERRORS if 1000 <= number < 2000]
    said = subprocess.run(
        [program, *map(str, numbers)], capture_output=True, text=True, check=False
    ).stdout
    names = dict(re.findall(r"error code (\d+) \((\w+)\)", said))
    assert len(names) > 100
    only_mysql = {"ER_INNODB_FORCED_RECOVERY"}
    wrong = {n: ERRORS[n][0] for n in numbers if names.get(str(n)) != ERRORS[n][0]}
    assert set(wrong.values()) == only_mysql


@pytest.mark.parametrize(
    ("number", "sqlstate", "reaction"),
    [
        (1406, "22001", Refuse("too long")),
        (65000, "22001", Refuse("value")),
        (65000, "23000", Refuse("constraint")),
        (65000, "08S01", Wait()),
        (65000, "40001", Wait()),
        (65000, "45000", Refuse("signal")),
        (1213, "45001", Refuse("signal")),
        (65000, "HY000", None),
        (65000, "", None),
    ],
)
def test_what_a_number_and_its_sqlstate_mean(
    number: int, sqlstate: str, reaction: Reaction | None
) -> None:
    assert reaction_to(number, sqlstate)[1] == reaction
