"""The layout of all tables of figures that the commands print."""

from typing import Final

from rich.table import Table

LONGEST_NAME: Final = 16
"""Width reserved for the first column, so that the longest name of a bug is not cut on a narrow terminal."""


def figure_table(*titles: str) -> Table:
    """Make a table with a left-aligned name in the first column and right-aligned figures in the others."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(titles):
        table.add_column(title, justify="right" if number else "left", min_width=None if number else LONGEST_NAME)
    return table
