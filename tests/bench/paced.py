"""A sender that keeps a pace over many connections, as so many clients would: its own process.

    python -m tests.bench.paced PORT CONNECTIONS RECORDS_PER_S FILE

It connects, says `ready`, begins when it is sent a line, sends record k at k / RECORDS_PER_S
seconds over connection k mod CONNECTIONS, and says how many seconds all of them took. So each
connection has an equal pace, no two send at the same moment, and one alone sends everything. What
is due within one TICK_S goes in one call for each connection. On a machine that is too slow the
sender is late, and its seconds say so. At the end of its input it closes all connections.
"""

import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

TICK_S = 0.001


def send(connections: Sequence[socket.socket], lines: Sequence[bytes], rate: float) -> float:
    """Send all lines at this pace; the seconds that it took."""
    began = time.monotonic()
    sent = 0
    while sent < len(lines):
        due = min(len(lines), int((time.monotonic() - began) * rate) + 1)
        for first in range(sent, min(sent + len(connections), due)):
            some = b"".join(lines[first : due : len(connections)])
            connections[first % len(connections)].sendall(some)
        sent = due
        time.sleep(TICK_S)
    return time.monotonic() - began


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is due leaves at once
    return connection


def main(port: str, connections: str, rate: str, file: str) -> None:
    """The program."""
    lines = Path(file).read_bytes().splitlines(keepends=True)
    with ExitStack() as stack:
        opened = [stack.enter_context(_connected(int(port))) for _ in range(int(connections))]
        print("ready", flush=True)
        sys.stdin.readline()
        print(send(opened, lines, float(rate)), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
