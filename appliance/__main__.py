"""Where the program starts: `stream-daemon`, `python -m appliance` and the frozen file."""

import sys


def main() -> int:
    """Run the command line; the result is the exit code."""
    import appliance.cli  # only when called: importing this file must do nothing

    return appliance.cli.main()


if __name__ == "__main__":
    sys.exit(main())
