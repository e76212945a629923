"""The ring of deaths: written by the parent, read across a fork, never half an entry."""

import os

from appliance.contracts import Death
from appliance.deaths import DEATHS_KEPT, Deaths


def a_death(number: int) -> Death:
    record = number if number % 2 else None
    return Death(f"nfl-subscriber-{number}", "0a:7" * (number % 3), record, "SIGSEGV")


def test_what_is_reported_is_read_by_a_process_that_was_there_before() -> None:
    deaths = Deaths()
    assert deaths.newest() == []
    ask, asked = os.pipe()
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.read(ask, 1)
        os.write(tell, b"yes" if deaths.newest() == [a_death(1), a_death(2)] else b"no")
        os._exit(0)
    deaths.report(a_death(1))
    deaths.report(a_death(2))
    os.write(asked, b"!")
    os.waitpid(pid, 0)
    assert os.read(told, 10) == b"yes"
    for fd in (ask, asked, told, tell):
        os.close(fd)


def test_the_oldest_make_room_for_the_newest() -> None:
    deaths = Deaths()
    for number in range(3 * DEATHS_KEPT + 5):
        deaths.report(a_death(number))
    newest = {a_death(number) for number in range(2 * DEATHS_KEPT + 5, 3 * DEATHS_KEPT + 5)}
    assert set(deaths.newest()) == newest


def test_an_entry_that_is_being_written_is_left_out() -> None:
    """Killed in the middle of a report, the parent leaves an entry without a number."""
    deaths = Deaths()
    deaths.report(a_death(1))
    deaths.report(a_death(2))
    deaths._entries[1].cast("q")[0] = 0
    assert deaths.newest() == [a_death(1)]


def test_a_name_of_any_length_is_no_error() -> None:
    deaths = Deaths()
    deaths.report(Death("o" * 5000, "0a:7", None, "SIGSEGV"))
    deaths.report(Death("o" * 500, "0a:7", None, "SIGSEGV"))
    assert [death.owner for death in deaths.newest()] == ["o" * 500]
