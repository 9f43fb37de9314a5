"""What the benchmarks that run campaigns share: their options' meaning, a bar, and a table."""

import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from hvfuzz.campaign.seed_corpus import seed_bytes
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.cli.live_view import FRAMES_PER_SECOND
from hvfuzz.engines.engine import EngineError, load_engine
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI

MAX_SEED: Final = 2**31 - 1
LONGEST_NAME: Final = 16


class Bar:
    """How far a benchmark is, on a terminal; a line for each result elsewhere. All of it on standard error."""

    def __init__(self, total: int) -> None:
        self._console: Final = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress: Final = Progress(*columns, console=self._console, auto_refresh=False, transient=True)
        self._task: Final = self._progress.add_task("", total=total)
        self._due = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: float, words: str) -> None:
        """Draw it anew, if the last time is long enough ago."""
        if self._console.is_terminal and time.monotonic() >= self._due:
            self._due = time.monotonic() + 1 / FRAMES_PER_SECOND
            self._progress.update(self._task, completed=done, description=words, refresh=True)

    def print_result(self, words: str) -> None:
        """A result, for those who do not see the bar."""
        if not self._console.is_terminal:
            self._console.print(words, markup=False, soft_wrap=True)


def figure_table(*titles: str) -> Table:
    """A table of figures, with a name in its first column."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, title in enumerate(titles):
        # The longest names of bugs, in full, where the screen is narrow.
        table.add_column(title, justify="right" if number else "left", min_width=None if number else LONGEST_NAME)
    return table


def benchmark_job(
    harness: str, engine: str, seed: int, seconds: float | None, feedback: str, seeds: list[str]
) -> WorkerJob:
    """A job without a bug and a folder, once all that is said of it is known to be good."""
    load_engine(engine)
    if engine == "replay" and not seeds:
        raise EngineError("engine 'replay' needs seeds: give some with --corpus")
    seed_bytes(map(Path, seeds), catalogue(ABI))
    return WorkerJob(harness, engine, seed, seconds, None, None, feedback, "", seeds)
