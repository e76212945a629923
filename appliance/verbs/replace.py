"""`collect --replace`: a running instance ends, and leaves its connections to the one that starts.

It is asked through its control socket, once the new configuration is known to be good and its
addresses to be free. Its keeper goes on holding listening sockets and connections; their senders
don't notice, and what they send waits in the kernel until the new instance reads.
"""

import logging
import os
import select
from collections.abc import Callable
from typing import Any

from appliance import control
from appliance.errors import Exit, InstanceError, StreamDaemonError
from appliance.instance import Instance
from appliance.verbs import locate

SPARE_S = 30.0  # what the old instance gets beyond our drain_s: its own may be longer
INSTEAD = "stop it, then start the new one (its senders are cut): stream-daemon stop"
SOCKETS = ("tcp", "unix")

_log = logging.getLogger("parent")


class Contradiction(StreamDaemonError):
    """Options that exclude each other."""

    exit_code = Exit.USAGE


class Refused(InstanceError):
    """The running instance can't be replaced in this way; it goes on."""


class StillStopping(StreamDaemonError):
    """The old instance takes longer than we wait."""

    exit_code = Exit.TIMED_OUT


def end_running(instance: Instance, drain_s: float, look_ahead: Callable[[], None]) -> None:
    """Ask a running instance to leave its connections to us, and wait for its end.

    Raises:
        Refused: it can't; it goes on.
        StillStopping: it was asked, and hasn't ended in time.
        AddressError: by `look_ahead`, which is called before it is asked.
    """
    try:
        connection = control.connect(instance.control)
        with connection:
            report = _report(instance)
            refuse(report)
            look_ahead()
            _log.info("replacing the running instance (pid %d)", report["pid"])
            _leave(connection, report["pid"], drain_s + SPARE_S)
    except control.NotRunning:
        return  # or it has just ended
    except TimeoutError:
        raise Refused("the running instance doesn't answer", INSTEAD) from None
    except PermissionError:
        raise locate.not_ours(instance) from None


def _report(instance: Instance) -> dict[str, Any]:
    return control.ask(instance.control, {"verb": "status"})


def refuse(report: dict[str, Any]) -> None:
    """Raise if this instance would cut its senders.

    Raises:
        Refused: with what to do instead.
    """
    has_sockets = any(one["type"] in SOCKETS for one in report["sources"].values())
    if not has_sockets:
        return  # nobody is connected
    who = f"the running instance (pid {report['pid']})"
    if "keeper" not in report:
        raise Refused(f"{who} is of a version that can't leave its connections", INSTEAD)
    if report["keeper"] is None:
        raise Refused(
            f"{who} has no keeper that would hold its connections",
            f"under systemd: systemctl restart; else {INSTEAD}",
        )

    if report["keeper"]["sockets"] and not report["keeper"]["holds"]:
        raise Refused(f"{who} has a keeper that doesn't answer now", "try again in a minute")


def _leave(connection: Any, pid: int, timeout_s: float) -> None:
    pidfd = _pidfd(pid)
    connection.settimeout(timeout_s)
    try:
        answer = control.converse(connection, {"verb": "stop", "leave": True})
        if "error" in answer:
            raise Refused(f"it is not replaced: {answer['error']}", "try again in a moment")
        if pidfd is not None:
            select.select([pidfd], [], [], timeout_s)
    except TimeoutError:
        raise StillStopping(
            f"the old instance is still stopping after {timeout_s:g} s; nothing was killed",
            "start the new one when it has ended, within a minute: stream-daemon collect",
        ) from None
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
