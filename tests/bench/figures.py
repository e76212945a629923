"""The figures that there are, by name, in the order in which they are measured.

Whoever adds one says in docs/benchmarks.md what it means.
"""

from collections.abc import Mapping

from tests.bench import (
    backlog,
    burst,
    connections,
    idle,
    latency,
    memory,
    queue_side,
    scale,
    sqlite,
    store_side,
    whole,
)
from tests.bench.run import Figure

FIGURES: Mapping[str, Figure] = {
    "B1": queue_side.b1,
    "B2": queue_side.b2,
    "B3": store_side.b3,
    "B4": store_side.b4,
    "B5": whole.b5,
    "B6": whole.b6,
    "B7": whole.b7,
    "B8": sqlite.b8,
    "B9": latency.b9,
    "B10": backlog.b10,
    "B11": memory.b11,
    "connections": connections.connections,
    "idle": idle.idle,
    "burst": burst.burst,
    "scale-subscribers": scale.subscribers,
    "scale-size": scale.size,
    "scale-columns": scale.columns,
}
