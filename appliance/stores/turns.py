"""Turns: whoever inserts many rows into one table of a server on this machine does it alone.

Sessions that append to a table at the same time meet at its end inside of the server, and it spins
while they wait for each other: for two of them it took 7.0 to 8.9 CPU seconds a million rows where
it took 4.2 to 4.7 for the same one after the other (docs/benchmarks.md). On a machine of its own a
server may do so; here the processors are ours, too, and while one subscriber inserts another one
has rows to make. So a writer's rows go behind a lock of the server's that has only a name.

It is a courtesy. Nothing depends on having it: nobody waits for it longer than TURN_S_MAX, since
who has it may wait for a row that we have inserted, and it ends with its session.

Source: https://mariadb.com/kb/en/get_lock/
"""

import hashlib

from appliance.stores.tables import Statement

TURN_S_MAX = 0.1  # a writer's rows take a fifth of it
NAME_BYTES = 12  # a name may have 64 characters


def turn(database: str, table: str) -> tuple[Statement, Statement]:
    """The statements that take a turn at a table and end it."""
    # The server knows one name for all databases; tables may be called in more than 64 letters.
    place = hashlib.blake2s(f"{database}.{table}".encode(), digest_size=NAME_BYTES).hexdigest()
    name = f"stream-daemon {place}"
    return ("DO GET_LOCK(?, ?)", name, TURN_S_MAX), ("DO RELEASE_LOCK(?)", name)
