"""Whatever keeps a promise is missed when it is switched off, by the test meant for it."""

import pytest

from tests.sabotage.build import TREE, survives
from tests.sabotage.sabotages import SABOTAGES, Sabotage

NAMES = [sabotage.name.partition(":")[0] for sabotage in SABOTAGES]


@pytest.mark.parametrize("sabotage", [s for s in SABOTAGES if s.basic], ids=lambda s: s.name)
def test_the_test_meant_for_it_fails(sabotage: Sabotage) -> None:
    assert survives(sabotage) == ""


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=NAMES)
def test_its_place_is_still_there(sabotage: Sabotage) -> None:
    """All of them, also those that only `make sabotage` tries."""
    text = (TREE / sabotage.file).read_text(encoding="utf-8")
    assert text.count(sabotage.old) == 1
    path, _, test = sabotage.test.partition("::")
    assert f"def {test.partition('[')[0]}(" in (TREE / path).read_text(encoding="utf-8")
