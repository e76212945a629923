"""stream-daemon: no record of a live stream is lost on its way into MySQL."""

__version__ = "0.1.0"
