"""What each signal means, as tables that can be printed.

`signal` is imported for the names of signals only: handlers and masks are process.py's.
"""

from signal import Signals

PARENT: dict[Signals, str] = {
    Signals.SIGTERM: "drain",
    Signals.SIGINT: "drain",
    Signals.SIGQUIT: "quick",
    Signals.SIGCHLD: "reap",
    Signals.SIGTTIN: "more",
    Signals.SIGTTOU: "fewer",
    Signals.SIGTSTP: "pause",
    Signals.SIGCONT: "resume",
    Signals.SIGHUP: "reload",
    Signals.SIGUSR1: "reopen",
    Signals.SIGUSR2: "report",
    Signals.SIGURG: "restart follows",
}
"""Signal to the parent → what it does. A second TERM or INT is `quick`.

URG is ignored by who doesn't know it, so that it does no harm at the wrong moment.
"""

URGENT = Signals.SIGURG
"""Obeyed before the others that have come meanwhile: it says what one of them means."""

PROCESS_ONLY = (Signals.SIGTTIN, Signals.SIGTTOU, Signals.SIGTSTP, Signals.SIGHUP)
"""A terminal sends these, too (Ctrl-Z, a hangup): they count only when a process has sent them."""

CHILD: dict[Signals, str] = {
    Signals.SIGTERM: "drain",
    Signals.SIGUSR2: "quick",
    Signals.SIGUSR1: "nudge",
    Signals.SIGRTMIN: "leave",
}
"""Signal from the parent to a child → what it does. PR_SET_PDEATHSIG sends SIGTERM."""

CHILD_IGNORES = (
    Signals.SIGINT,
    Signals.SIGQUIT,
    Signals.SIGTSTP,
    Signals.SIGTTIN,
    Signals.SIGTTOU,
    Signals.SIGHUP,
    Signals.SIGPIPE,
)
"""The terminal's signals reach the whole group; only the parent listens to them."""

ERRAND: dict[Signals, str] = {
    Signals.SIGTERM: "drain",
    Signals.SIGINT: "drain",
    Signals.SIGHUP: "drain",
    Signals.SIGQUIT: "quick",
}
"""Signal to a verb that works in its own process (`drain`). A second one is `quick`."""

DRAIN = Signals.SIGTERM
QUICK = Signals.SIGUSR2
NUDGE = Signals.SIGUSR1
LEAVE = Signals.SIGRTMIN

PAUSED = "storing is paused (TSTP); resume with CONT"
"""What a subscriber says of itself while it takes nothing."""
