"""Texts that others wrote, on their way to a terminal or into a log line."""


def printable(text: str) -> str:
    """The text with all that would not show, or would do something, as its escape sequence."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
