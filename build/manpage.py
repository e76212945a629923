"""Prints the manual page stream-daemon(1), made of the command line's grammar.

python build/manpage.py YYYY-MM-DD
"""

import sys

from appliance import __version__
from appliance.cli import VERBS, Options, parser
from appliance.errors import Exit

EXITS = {
    Exit.OK: "clean, nothing lost",
    Exit.WRONG: "what was looked for has been found wrong (audit, spool)",
    Exit.DEGRADED: "status: something is awaited",
    Exit.NOT_RUNNING: "not running",
    Exit.UNKNOWN: "status: it runs, but doesn't answer",
    Exit.USAGE: "usage",
    Exit.UNREACHABLE: "something can't be reached, or listened on",
    Exit.INTERNAL: "internal error",
    Exit.TAKEN: "another instance runs, or this user may not",
    Exit.MAY_BE_LOST: "records may be lost",
    Exit.TIMED_OUT: "the deadline passed; the rest is safely queued",
    Exit.CONFIG: "configuration",
}
FILES = {
    "/etc/stream-daemon/stream-daemon.toml": "the configuration, unless -c names another",
    "/var/lib/stream-daemon": "what instances keep",
    "/usr/share/doc/stream-daemon/examples": "an example configuration",
}


def text(words: str) -> str:
    """Words, safe for roff."""
    return words.replace("\\", "\\e").replace("-", "\\-").replace("\n.", "\n\\&.")


def options(of: Options) -> list[str]:
    """Each option or argument with its help."""
    lines = []
    for flags, settings in of:
        value = (
            f" {settings['metavar']}" if flags[0].startswith("-") and "metavar" in settings else ""
        )
        name = ", ".join(flags) if flags[0].startswith("-") else flags[0].upper()
        lines += [".TP", f".B {text(name)}{text(value)}", text(str(settings.get("help", "")))]
    return lines


def commands() -> list[str]:
    """Each verb: what it does, its options, an example."""
    lines = [".SH COMMANDS"]
    for verb, (what, example, of) in VERBS.items():
        lines += [f".SS {verb}", text(what), *options(of), ".PP", "Example:", ".PP", ".EX"]
        lines += [text(example), ".EE"]
    return lines


def table(heading: str, rows: dict[str, str]) -> list[str]:
    """A section of names and what they mean."""
    lines = [f".SH {heading}"]
    for name, meaning in rows.items():
        lines += [".TP", f".B {text(name)}", text(meaning)]
    return lines


def page(date: str) -> str:
    """The whole page."""
    lines = [
        f'.TH STREAM\\-DAEMON 1 "{date}" "stream\\-daemon {__version__}"',
        ".SH NAME",
        "stream\\-daemon \\- collect a live stream and store each record once",
        ".SH SYNOPSIS",
        ".B stream\\-daemon",
        "[\\-c FILE] COMMAND [OPTION...]",
        ".SH DESCRIPTION",
        text(str(parser().description)),
        *commands(),
        *table("EXIT STATUS", {str(int(code)): meaning for code, meaning in EXITS.items()}),
        *table("FILES", FILES),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(sys.argv[1]), end="")
