"""The live view of a campaign: figures and findings, redrawn in place on a terminal."""

import time

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.pool import Pool
from hvfuzz.engines.engine import Progress


def count(number: float) -> str:
    """`number` as people read it: 950, 12.3k, 4.56M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if number >= limit:
            scale = {"G": 1e9, "M": 1e6, "k": 1e3}[unit]
            return f"{number / scale:.3g}{unit}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """`seconds` as minutes:seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class View:
    """Draws a pool; rates are over the last few seconds."""

    def __init__(self, title: str, pool: Pool, seconds: float | None) -> None:
        self.title = title
        self.pool = pool
        self.seconds = seconds
        self._past: list[tuple[float, Progress]] = []

    def _rates(self, progress: Progress) -> tuple[float, float]:
        now = time.monotonic()
        self._past.append((now, progress))
        while len(self._past) > 1 and now - self._past[0][0] > 3:
            self._past.pop(0)
        then, first = self._past[0]
        elapsed = max(now - then, 0.2)
        return max(0, progress.runs - first.runs) / elapsed, max(0, progress.ops - first.ops) / elapsed

    def __rich__(self) -> RenderableType:
        progress = self.pool.progress()
        runs, ops = self._rates(progress)
        grid = Table.grid(padding=(0, 3))
        for _ in range(6):
            grid.add_column(justify="right")
        quiet = max(0.0, progress.seconds - progress.last_new)
        grid.add_row("runs/s", count(runs), "runs", count(progress.runs), "features", count(progress.features))
        grid.add_row("ops/s", count(ops), "ops", count(progress.ops), "corpus", count(progress.corpus))
        total = f" of {clock(self.seconds)}" if self.seconds is not None else ""
        last = f"{clock(quiet)} ago" if progress.features else "-"
        grid.add_row("time", clock(progress.seconds) + total, "", "", "last new feature", last)
        parts: list[RenderableType] = [grid]
        if self.seconds is not None:
            parts.append(ProgressBar(total=self.seconds, completed=min(progress.seconds, self.seconds)))
        found = self.pool.discoveries
        if found:
            table = Table(box=None, pad_edge=False, padding=(0, 2))
            table.add_column("finding", style="bold red", overflow="fold")
            table.add_column("after", justify="right")
            table.add_column("runs", justify="right")
            for discovery in found.values():
                table.add_row(discovery.identity, clock(discovery.seconds), count(discovery.runs))
            parts += [Text(), table]
        else:
            parts.append(Text("no findings so far", style="green"))
        parts += [Text(notice, style="yellow") for notice in self.pool.notices[-3:]]
        return Panel(Group(*parts), title=self.title, title_align="left")
