"""A sender that is gone without a word, in a network namespace of this process alone.

    unshare --net python -m tests.system.vanished

Sends over the loopback interface, takes it down, and prints what the source makes of it.
"""

import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.socket_place import TCP, Place

GONE_S = 30.0
PROBES = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 1}


def main() -> None:
    """Print the record, what is left of the cut one, its code, and that nobody is there."""
    loopback("up")
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder), TCP)
        sender = place.connect()
        sender.sendall(b"whole\nhalf")
        print(place.collect_slowly(b"\n").decode().strip())
        for option, value in PROBES.items():
            place.kept[0].setsockopt(socket.IPPROTO_TCP, option, value)
        loopback("down")
        deadline = time.monotonic() + GONE_S
        while place.source.connections and time.monotonic() < deadline:
            place.source.wait(1.0)
            chunk = place.source.peek()
            if chunk:
                print(bytes(chunk.body).decode().strip(), *chunk.rejected.values())
                place.source.discard(chunk)
                place.source.settle()
        print("there still" if place.source.connections else "gone")
        place.close()


def loopback(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


if __name__ == "__main__":
    main()
