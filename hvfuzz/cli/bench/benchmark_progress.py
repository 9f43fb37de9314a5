"""The progress of a benchmark: a bar on a terminal, one line per result elsewhere, all on standard error."""

import time
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hvfuzz.cli.live_view import FRAMES_PER_SECOND
from hvfuzz.cli.screen import Screen


class Bar:
    """Context in which a benchmark shows its progress."""

    def __init__(self, total: int) -> None:
        self._console: Final = Screen(stderr=True)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress: Final = Progress(*columns, console=self._console, auto_refresh=False, transient=True)
        self._task: Final = self._progress.add_task("", total=total)
        self._due = 0.0

    def __enter__(self) -> Self:
        if self._console.draws:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.draws:  # elsewhere `stop` would print an empty line
            self._progress.stop()

    def show(self, done: float, description: str) -> None:
        """Redraw the bar, at most `FRAMES_PER_SECOND` times a second."""
        if self._console.draws and time.monotonic() >= self._due:
            self._due = time.monotonic() + 1 / FRAMES_PER_SECOND
            self._progress.update(self._task, completed=done, description=description, refresh=True)

    def print_result(self, line: str) -> None:
        """Print an intermediate result, unless the bar is shown."""
        if not self._console.draws:
            self._console.print(line, markup=False, soft_wrap=True)
