"""Where the program starts: `stream-daemon`, `python -m appliance` and the frozen file."""

import sys

INTERNAL = 70  # errors.Exit.INTERNAL; this file imports nothing but the command line


def main() -> int:
    """Run the command line; the result is the exit code."""
    import appliance.cli  # only when called: importing this file must do nothing

    try:
        return appliance.cli.main()
    except Exception:  # noqa: BLE001 - the last to see it: a mistake of ours, said as it is
        import traceback  # takes a third of the time of `--version`

        traceback.print_exc()
        return INTERNAL


if __name__ == "__main__":
    sys.exit(main())
