"""A table of figures for people: names on the left, numbers on the right."""

import sys
from collections.abc import Sequence


def print_figures(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print it, drawn on a terminal, plain elsewhere. The first column holds names."""
    if sys.stdout.isatty():
        from rich.console import Console  # here: nobody but a terminal needs it
        from rich.table import Table

        table = Table()
        for index, column in enumerate(columns):
            table.add_column(column, justify="right" if index else "left")
        for row in rows:
            table.add_row(*row)
        Console().print(table)
        return
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    for name, *numbers in (columns, *rows):
        cells = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
        print("  ".join(cells))
