"""Refusals in a row: said once, with the fix, and over when a row is stored."""

from hypothesis import given
from hypothesis import strategies as st

from appliance import poison
from appliance.batch import DeadLetter, Stored
from appliance.counters import TEXT_BYTES_MAX
from appliance.refusals import FIXES, REFUSALS_MAX, Refusals, advice
from appliance.rows import REASONS
from appliance.stores import mysql_errors, sqlite

LETTER = DeadLetter(0, b"{}", "too long", "Data too long for column 'team' at row 1 (1406 …)")


def dead(count: int) -> Stored:
    return Stored(frames=1, dead=count, refusal=LETTER)


def test_a_thousand_in_a_row_are_said_once_with_column_and_fix() -> None:
    refusals = Refusals()
    assert not refusals.note(dead(REFUSALS_MAX - 1))
    assert refusals.text == ""
    assert refusals.note(dead(1))
    assert refusals.text == (
        "1000 records in a row became dead letters: Data too long for column 'team' at row 1"
        f" (1406 …); {FIXES['too long']}; then: stream-daemon dead retry"
    )
    assert not refusals.note(dead(5000))


def test_it_is_over_when_a_row_is_stored() -> None:
    refusals = Refusals()
    refusals.note(dead(2 * REFUSALS_MAX))
    assert not refusals.note(Stored())
    assert not refusals.note(Stored(frames=1, filtered=7, blank=1))
    assert refusals.note(Stored(frames=1, stored=1, dead=900, refusal=LETTER))
    assert (refusals.text, refusals.in_a_row) == ("", 0)
    assert not refusals.note(dead(REFUSALS_MAX - 1))
    assert refusals.note(dead(1))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 600))))
def test_any_history(leases: list[tuple[bool, int]]) -> None:
    refusals, in_a_row = Refusals(), 0
    for stored, count in leases:
        was = bool(refusals.text)
        in_a_row = 0 if stored else in_a_row + count
        lease = Stored(1, stored=int(stored), dead=count, refusal=LETTER if count else None)
        changed = refusals.note(lease)
        assert bool(refusals.text) == (in_a_row >= REFUSALS_MAX)
        assert changed == (was != bool(refusals.text))


def test_each_code_has_its_fix_and_all_of_it_fits_into_a_slot() -> None:
    reactions = [reaction for _, reaction in mysql_errors.ERRORS.values()] + [
        *mysql_errors.CLASSES.values()
    ]
    codes = {reaction.code for reaction in reactions if isinstance(reaction, mysql_errors.Refuse)}
    codes |= {*sqlite.CODES.values(), *REASONS, "json", "utf8"}
    assert codes == FIXES.keys()
    for code, fix in FIXES.items():
        refusals = Refusals()
        letter = DeadLetter(0, b"", code, "x" * 1000)
        refusals.note(Stored(1, dead=10**6, refusal=letter))
        then = "" if code in ("cut", "utf8") else "; then: stream-daemon dead retry"
        assert refusals.text.endswith(fix + then)
        assert len(refusals.text.encode()) <= TEXT_BYTES_MAX
    refusals = Refusals()
    refusals.note(Stored(1, dead=10**6, refusal=DeadLetter(0, b"", "error 5999", "odd")))
    assert "see their reasons: stream-daemon dead list" in refusals.text


def test_each_code_has_advice() -> None:
    for code in (*FIXES, poison.CODE, "error 5999"):
        assert advice(code, False)
    for code in REASONS:
        assert "--incomplete" in advice(code, True)
    assert advice("poison", False).endswith("stream-daemon dead retry --code poison)")
