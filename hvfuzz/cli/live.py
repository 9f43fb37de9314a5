"""What a campaign shows while it runs, and at its end: redrawn in place on a terminal, lines elsewhere."""

import json
import time
from collections import deque
from pathlib import Path
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.report import Summary
from hvfuzz.engines.engine import Progress

PLAIN_SECONDS: Final = 5.0
"""How often a run without a terminal says how far it is."""
RATE_SECONDS: Final = 3.0
"""Rates are over so long a time."""
FRAMES_PER_SECOND: Final = 4
MAX_WIDTH: Final = 100
SHOWN_FINDINGS: Final = 8


def count(number: float) -> str:
    """`number` as people read it: 950, 12.3k, 4.56M."""
    for limit, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= limit:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.0f}"


def clock(seconds: float) -> str:
    """`seconds` as minutes:seconds, with hours where there are some."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class View:
    """Draws a campaign."""

    def __init__(self, campaign: Campaign, title: str) -> None:
        self.campaign: Final = campaign
        self.title: Final = title
        self._past: Final[deque[Progress]] = deque()

    def _rates(self, progress: Progress) -> tuple[float, float]:
        """Programs and ops a second, of late."""
        past = self._past
        past.append(progress)
        while len(past) > 2 and progress.seconds - past[1].seconds >= RATE_SECONDS:
            past.popleft()
        first = past[0]
        elapsed = max(progress.seconds - first.seconds, 0.5)
        return max(0, progress.runs - first.runs) / elapsed, max(0, progress.ops - first.ops) / elapsed

    def __rich__(self) -> RenderableType:
        progress = self.campaign.pool.progress()
        runs, ops = self._rates(progress)
        grid = Table.grid(padding=(0, 1), expand=True)
        for _ in range(3):
            # Figures have columns of their own, as wide as they ever get: nothing moves when a number grows.
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(justify="right", min_width=9, no_wrap=True)
            grid.add_column(ratio=1)
        seconds = self.campaign.job.seconds
        total = f"/{clock(seconds)}" if seconds is not None else ""
        quiet = f"{clock(max(0.0, progress.seconds - progress.last_new))} ago" if progress.features else "-"
        found = self.campaign.pool.discoveries
        rows = (
            ("programs", count(progress.runs), "features", count(progress.features), "time", clock(progress.seconds)),
            ("ops", count(progress.ops), "corpus", count(progress.corpus), "of", total.strip("/") or "-"),
            ("programs/s", count(runs), "last new", quiet, "workers", str(self.campaign.workers)),
            ("ops/s", count(ops), "findings", Text(str(len(found)), "bold red" if found else "green"), "", ""),
        )
        for first, one, second, two, third, three in rows:
            grid.add_row(first, one, "", second, two, "", third, three, "")
        parts: list[RenderableType] = [grid]
        if seconds is not None:
            parts.append(ProgressBar(total=seconds, completed=min(progress.seconds, seconds)))
        if found:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
            table.add_column("finding", style="bold red", overflow="ellipsis", no_wrap=True, ratio=1)
            table.add_column("after", justify="right", min_width=7)
            table.add_column("programs", justify="right", min_width=8)
            for discovery in list(found.values())[-SHOWN_FINDINGS:]:
                table.add_row(discovery.identity, clock(discovery.seconds), count(discovery.runs))
            parts += [Text(), table]
        parts += [Text(notice, style="yellow") for notice in self.campaign.pool.notices[-3:]]
        return Panel(Group(*parts), title=escape(self.title), title_align="left", padding=(0, 1))


def watch(campaign: Campaign, title: str, console: Console, *, as_json: bool) -> None:
    """Run the campaign's fuzzing to its end, showing how far it is in the way that fits where our output goes."""
    if not as_json and console.is_terminal and not console.is_dumb_terminal:
        console.width = min(console.width, MAX_WIDTH)
        view = View(campaign, title)
        with Live(view, console=console, auto_refresh=False) as live:
            due = 0.0
            for _ in campaign.fuzz():
                if time.monotonic() >= due:
                    due = time.monotonic() + 1 / FRAMES_PER_SECOND
                    live.refresh()
            live.refresh()
        return
    if not as_json:
        console.print(title, markup=False, soft_wrap=True)
    due = PLAIN_SECONDS
    told = 0
    for _ in campaign.fuzz():
        found = list(campaign.pool.discoveries.values())
        if not as_json:
            for discovery in found[told:]:
                console.print(f"FINDING {discovery.identity}", style="bold red", markup=False, soft_wrap=True)
            told = len(found)
        progress = campaign.pool.progress()
        if progress.seconds < due:
            continue
        due += PLAIN_SECONDS
        if as_json:
            print(json.dumps({**progress._asdict(), "findings": [each.identity for each in found]}), flush=True)
        else:
            line = (
                f"{clock(progress.seconds)}  programs {count(progress.runs)}  ops {count(progress.ops)}  "
                f"features {progress.features}  corpus {progress.corpus}  findings {len(found)}"
            )
            console.print(line, soft_wrap=True)


def say(console: Console, summary: Summary, out: Path, report: Path | None) -> None:
    """Say what a campaign found, and where it lies."""
    seconds = max(summary.seconds, 0.001)
    console.print(
        f"{count(summary.runs)} programs, {count(summary.ops)} ops in {clock(seconds)} "
        f"({count(summary.ops / seconds)} ops/s), {summary.features} features, seed {summary.seed}",
        soft_wrap=True,
    )
    for notice in summary.notices:
        console.print(escape(notice), style="yellow", soft_wrap=True)
    for finding in summary.findings:
        note = {True: "", False: "  [yellow](not seen again on replay)[/]", None: "  [dim](not replayed)[/]"}
        console.print(f"[bold red]{escape(finding.identity)}[/]{note[finding.confirmed]}", soft_wrap=True)
        console.print(f"  {finding.message}", markup=False, soft_wrap=True)
        if finding.file is not None:
            console.print(f"  {finding.ops} ops: hvfuzz repro {finding.file}", markup=False, soft_wrap=True)
        else:
            console.print(finding.text, markup=False, soft_wrap=True)
    if not summary.findings:
        console.print("no findings", style="green")
    console.print(f"findings  {out / 'findings'}", markup=False, soft_wrap=True)
    console.print(f"corpus    {out / 'corpus' / summary.harness}", markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"report    {report}", markup=False, soft_wrap=True)
