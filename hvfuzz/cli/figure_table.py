"""The layout of all tables of figures that the commands print."""

from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


class FigureTable:
    """A table with a name in the first column and figures in the others, as a rich renderable.

    A figure is never cut: where the table is too wide, each row becomes its name with one line per figure.
    """

    def __init__(self, *titles: str) -> None:
        self._titles: Final = titles
        self._rows: Final[list[tuple[str, ...]]] = []

    def add_row(self, *cells: str) -> None:
        """Add a row of plain text."""
        self._rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for number, title in enumerate(self._titles):
            table.add_column(title, justify="right" if number else "left", no_wrap=True)
        for row in self._rows:
            table.add_row(*map(Text, row))
        needed = Measurement.get(console, options.update(max_width=10_000), table).maximum
        if needed <= options.max_width:
            yield table
            return
        for name, *figures in self._rows:
            yield Text(f"{self._titles[0]} {name}", "bold", overflow="fold")
            for title, figure in zip(self._titles[1:], figures, strict=True):
                if figure:
                    yield Text(f"  {title} {figure}", overflow="fold")
