"""A wrong bit in the spool of a running instance: found, said, turned back, and stored."""

from pathlib import Path

from appliance import stock
from appliance.instance import Instance
from tests.ports import free_port
from tests.redis_servers import PrivateRedis, find_redis
from tests.system.daemon import Daemon, send_and_close, until
from tests.system.stores import Sqlite

SEEN_S = 20.0
FRAMES = 6
WRONG_IN = 3  # the frame with the wrong bit; those behind it wait for the repair, too


def test_damage_beside_a_running_instance_is_repaired_beside_it() -> None:
    port, store = free_port(), Sqlite()
    lines = [b"record %d %s\n" % (number, b"x" * 50) for number in range(FRAMES)]
    with PrivateRedis(find_redis(), tcp=True) as server:
        server.kill()
        config = (
            f'queue.url = "{server.tcp_address}"\n'
            f'[source.s]\ntype = "tcp"\nlisten = "127.0.0.1:{port}"\n'
        )
        with Daemon(config) as daemon:
            for number, line in enumerate(lines):
                send_and_close(port, [line])
                until(lambda n=number: waiting(daemon) == n + 1, SEEN_S, "it to be spooled")
            turn_a_bit(daemon)
            assert daemon.run("spool", "check").returncode == 1
            server.start()
            until(lambda: segments(daemon, "bad"), SEEN_S, "the damage to be found")
            until(lambda: "is damaged" in daemon.said(), SEEN_S, "it to be said")
            assert "stream-daemon spool repair" in daemon.said()
            assert dumped(daemon, "--bad") == b"".join(lines).decode()
            repaired = daemon.run("spool", "repair")
            assert repaired.returncode == 0, repaired.stdout + repaired.stderr
            assert f"{FRAMES} frames brought back, 1 wrong bits turned back" in repaired.stdout
            daemon.until_stored(FRAMES)
            assert sorted(store.raws(daemon)) == sorted(line.rstrip() for line in lines)
            until(lambda: not segments(daemon, "*"), SEEN_S, "the spool to be empty")
            assert daemon.run("spool", "check").returncode == 0
            assert daemon.stop() == 0


def waiting(daemon: Daemon) -> int:
    return len([*stock.headers(place(daemon))])


def dumped(daemon: Daemon, *words: str) -> str:
    done = daemon.run("spool", "dump", *words)
    return str(done.stdout)


def segments(daemon: Daemon, kind: str) -> list[Path]:
    return sorted(place(daemon).glob(f"*.{kind}"))


def place(daemon: Daemon) -> Path:
    return Instance(daemon.directory / "state" / "stream").spool_of("s")


def turn_a_bit(daemon: Daemon) -> None:
    """In the middle of a record."""
    (path,) = segments(daemon, "seg")
    data = bytearray(path.read_bytes())
    at = data.index(b"record %d " % (WRONG_IN - 1)) + 20
    data[at] ^= 1 << 6
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data[at : at + 1])
