"""The figures that there are, by name, in the order in which they are measured.

Whoever adds one says in docs/benchmarks.md what it means.
"""

from collections.abc import Mapping

from tests.bench import queue_side, whole
from tests.bench.run import Figure

FIGURES: Mapping[str, Figure] = {
    "B1": queue_side.b1,
    "B2": queue_side.b2,
    "B5": whole.b5,
    "B7": whole.b7,
}
