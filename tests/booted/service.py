"""One instance of stream-daemon in a machine, as systemd runs it and as its user looks at it."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.booted.machine import Done, Machine
from tests.system.daemon import until

PROGRAM = Path(__file__).parents[2] / "dist" / "stream-daemon"
COPIED = "/root/stream-daemon"  # where the administrator has copied it to
INSTALLED = "/usr/local/bin/stream-daemon"
SQLITE = """
[store]
url = "embedded"
table = "records"
"""
STORED_S = 300.0
ACTIVE_S = 120.0


class Service:
    """The unit `unit`, whose configuration is `config` and whose instance is called `name`."""

    def __init__(
        self,
        machine: Machine,
        name: str = "stream",
        unit: str = "stream-daemon.service",
        config: str = "/etc/stream-daemon/stream-daemon.toml",
        state: str = "/var/lib/stream-daemon",
    ) -> None:
        self.machine, self.name, self.unit, self.config = machine, name, unit, config
        self._state = f"{state}/{name}"

    def install(self) -> "Service":
        """What README says: the file is there, and installs itself."""
        self.machine.run(COPIED, "install")
        return self

    def start(self, text: str) -> "Service":
        """Install it with this configuration, and have it started at each boot."""
        if not (self.machine.disk / INSTALLED.lstrip("/")).exists():
            self.install()
        self.configure(text)
        self.systemctl("enable", "--now")
        return self

    # ── systemd ─────────────────────────────────────────────────────────────────────────

    def configure(self, text: str) -> None:
        """Write its configuration."""
        (self.machine.disk / self.config.lstrip("/")).write_text(f'name = "{self.name}"\n{text}')

    def systemctl(self, *words: str, check: bool = True) -> Done:
        """`systemctl WORDS… UNIT`; what goes wrong is told with the unit's log."""
        done = self.machine.run("systemctl", *words, self.unit, check=False)
        assert not check or done.returncode == 0, (words, done, self.log())
        return done

    def stop(self) -> None:
        """Stop it, and see that it ended by itself: systemd had to kill nobody."""
        self.systemctl("stop")
        assert self.property("Result") == "success", self.log()

    def property(self, name: str) -> str:
        """What `systemctl show` says of it."""
        return self.systemctl("show", f"--property={name}", "--value").stdout.strip()

    def main_pid(self) -> int:
        """The parent's pid in there; 0 if there is none."""
        return int(self.property("MainPID"))

    def kill(self, whom: str, signal: str = "KILL") -> None:
        """Signal `main` or `all` of it, and wait until systemd has it running anew."""
        before = self.property("InvocationID")
        self.systemctl("kill", f"--signal={signal}", f"--kill-who={whom}")
        until(
            lambda: self.property("InvocationID") != before and self.is_active(),
            ACTIVE_S,
            f"systemd to start it again\n{self.log()}",
        )

    def is_active(self) -> bool:
        return self.property("ActiveState") in ("active", "reloading")

    def log(self, lines: int = 200) -> str:
        """The end of what the journal has of it."""
        words = ["--no-pager", f"--lines={lines}", "--output=short-monotonic", "--all"]
        return self.machine.run("journalctl", f"--unit={self.unit}", *words, check=False).stdout

    # ── the program ─────────────────────────────────────────────────────────────────────

    def ask(self, *verb: str, check: bool = True) -> Done:
        """Run a verb against its configuration."""
        done = self.machine.run(INSTALLED, "-c", self.config, *verb, check=False)
        assert not check or done.returncode == 0, (verb, done, self.log())
        return done

    def status(self) -> dict[str, Any]:
        """What `status --json` says."""
        status: dict[str, Any] = json.loads(self.ask("status", "--json").stdout)
        return status

    def audit(self) -> None:
        """Fails unless every record that came in is accounted for."""
        self.ask("audit", "--recount")

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query of its SQLite file gives."""
        # SQLite resolves links by itself, and would end up out here by way of /proc/PID/root.
        file = self.machine.disk / f"{self._state}/{self.name}.db".lstrip("/")
        if not file.exists():
            return []
        connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def raws(self, source: str) -> Iterator[bytes]:
        """The records stored of a source, byte for byte."""
        for (raw,) in self.rows(f"SELECT raw FROM records WHERE source = '{source}'"):
            yield raw.encode()

    def count(self) -> int:
        """How many rows there are."""
        try:
            found = self.rows("SELECT COUNT(*) FROM records")
        except sqlite3.OperationalError:  # there is no table yet
            return 0
        return int(found[0][0]) if found else 0

    def until_more_than(self, rows: int, breath_s: float) -> int:
        """Let it work for so long at least, and until there are more rows; how many."""
        time.sleep(breath_s)
        return int(until(lambda: (now := self.count()) > rows and now, STORED_S, "more rows"))

    def until_count(self, rows: int) -> None:
        """Wait for so many rows. Fewer, or more, is then for the content to show."""
        until(lambda: self.count() >= rows, STORED_S, f"{rows} rows\n{self.log()}")

    def until_stored(self, record: str) -> None:
        """Wait until this record is a row."""
        sql = f"SELECT COUNT(*) FROM records WHERE raw = '{record}'"
        until(lambda: self.rows(sql)[0][0], STORED_S, f"{record!r} to be stored\n{self.log()}")
