"""The view of a running campaign and its final summary: drawn in place on a terminal, as plain lines elsewhere."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.report import Summary, quantity
from hvfuzz.campaign.visible_text import one_line
from hvfuzz.cli.screen import Screen, command_line, short_path, write_json
from hvfuzz.engines.engine import Progress

PLAIN_SECONDS: Final = 5.0
"""Interval between progress lines without a terminal."""
RATE_SECONDS: Final = 3.0
"""Window over which rates are averaged."""
FRAMES_PER_SECOND: Final = 4
MAX_WIDTH: Final = 100
FRAME_WIDTH: Final = 4
"""Columns taken by the border and its padding."""
COLUMN_WIDTH: Final = 25
"""Columns needed by one figure with its label."""
SHOWN_FINDINGS: Final = 8


def format_count(number: float) -> str:
    """Format a number in at most five characters: 950, 12.3k, 4.56M."""
    for limit, scale, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= limit:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.0f}"


def format_duration(seconds: float) -> str:
    """Format `seconds` as M:SS, or H:MM:SS from one hour on."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class View:
    """The live view of a campaign, as a rich renderable."""

    def __init__(self, campaign: Campaign, title: str) -> None:
        self.campaign: Final = campaign
        self.title: Final = title
        self._past: Final[deque[Progress]] = deque()

    def _rates(self, progress: Progress) -> tuple[float, float]:
        """Programs and ops per second over the last `RATE_SECONDS`."""
        past = self._past
        past.append(progress)
        while len(past) > 2 and progress.seconds - past[1].seconds >= RATE_SECONDS:
            past.popleft()
        first = past[0]
        elapsed = max(progress.seconds - first.seconds, 0.5)
        return max(0, progress.runs - first.runs) / elapsed, max(0, progress.ops - first.ops) / elapsed

    def _figures(self, progress: Progress) -> list[tuple[str, str | Text]]:
        runs, ops = self._rates(progress)
        seconds = self.campaign.job.seconds
        quiet = f"{format_duration(max(0.0, progress.seconds - progress.last_new))} ago" if progress.features else "-"
        found = len(self.campaign.pool.discoveries)
        return [
            ("programs", format_count(progress.runs)),
            ("ops", format_count(progress.ops)),
            ("programs/s", format_count(runs)),
            ("ops/s", format_count(ops)),
            ("features", format_count(progress.features)),
            ("corpus", format_count(progress.corpus)),
            ("last new", quiet),
            ("findings", Text(str(found), "bold red" if found else "green")),
            ("time", format_duration(progress.seconds)),
            ("time limit", "-" if seconds is None else format_duration(seconds)),
            ("workers", str(self.campaign.workers)),
            ("", "" if self.campaign.pool.started else "starting"),
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress = self.campaign.pool.progress()
        figures = self._figures(progress)
        columns = next(each for each in (3, 2, 1) if options.max_width >= COLUMN_WIDTH * each or each == 1)
        rows = -(-len(figures) // columns)
        grid = Table.grid(padding=(0, 1), expand=True)
        for _ in range(columns):
            # The columns of the figures are wide enough for any figure, so that nothing moves while numbers grow.
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(justify="right", min_width=9, no_wrap=True)
            grid.add_column(ratio=1)
        for row in range(rows):
            cells: list[str | Text] = []
            for label, figure in figures[row::rows]:
                cells += [label, figure, ""]
            grid.add_row(*cells)
        parts: list[RenderableType] = [grid]
        seconds = self.campaign.job.seconds
        if seconds is not None:
            width = options.max_width - FRAME_WIDTH
            done = round(width * min(progress.seconds / seconds, 1.0))
            full, empty = ("=", "-") if options.ascii_only else ("━", "─")
            parts.append(Text.assemble((full * done, "green"), (empty * (width - done), "dim")))
        found = list(self.campaign.pool.discoveries.values())
        if found:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
            table.add_column("finding", style="bold red", overflow="ellipsis", no_wrap=True, ratio=1)
            table.add_column("time", justify="right", min_width=7)
            table.add_column("programs", justify="right", min_width=8)
            for discovery in found[-SHOWN_FINDINGS:]:
                table.add_row(discovery.identity, format_duration(discovery.seconds), format_count(discovery.runs))
            parts += [Text(), table]
            if len(found) > SHOWN_FINDINGS:
                parts.append(Text(f"and {len(found) - SHOWN_FINDINGS} earlier", "dim"))
        parts += [Text(notice, style="yellow") for notice in self.campaign.pool.notices[-3:]]
        yield Panel(Group(*parts), title=escape(self.title), title_align="left", padding=(0, 1))


def run_with_view(campaign: Campaign, title: str, console: Screen, *, as_json: bool) -> None:
    """Fuzz to the end of the campaign; show progress in place on a terminal, as lines or as JSON lines elsewhere.

    Raises OSError if the output can no longer be written; the campaign has ended then, too.
    """
    with closing(campaign.fuzz()) as run:
        if not as_json and console.draws:
            _draw(run, campaign, title, console)
        else:
            _print_lines(run, campaign, title, console, as_json=as_json)


def _draw(run: Iterator[None], campaign: Campaign, title: str, console: Screen) -> None:
    console.width = min(console.width, MAX_WIDTH)
    view = View(campaign, title)
    with Live(view, console=console, auto_refresh=False) as live:
        due = 0.0
        for _ in run:
            if time.monotonic() >= due:
                due = time.monotonic() + 1 / FRAMES_PER_SECOND
                live.refresh()
        live.refresh()


def _print_lines(run: Iterator[None], campaign: Campaign, title: str, console: Screen, *, as_json: bool) -> None:
    if not as_json:
        console.print(title, markup=False, soft_wrap=True)
    due = time.monotonic() + PLAIN_SECONDS
    reported = 0
    for _ in run:
        found = list(campaign.pool.discoveries.values())
        if not as_json:
            for discovery in found[reported:]:
                console.print(f"FINDING {discovery.identity}", style="bold red", markup=False, soft_wrap=True)
            reported = len(found)
        if time.monotonic() < due:
            continue
        due += PLAIN_SECONDS
        progress = campaign.pool.progress()
        if as_json:
            write_json({**progress._asdict(), "findings": [each.identity for each in found]})
        elif not campaign.pool.started:
            console.print("starting")
        else:
            line = (
                f"{format_duration(progress.seconds)}  programs {format_count(progress.runs)}  "
                f"ops {format_count(progress.ops)}  features {progress.features}  "
                f"corpus {progress.corpus}  findings {len(found)}"
            )
            console.print(line, soft_wrap=True)


def print_summary(console: Screen, summary: Summary, out: Path, report: Path | None) -> None:
    """Print the findings of a campaign with the commands that replay them, its figures, and where its files are."""
    for finding in summary.findings:
        note = {True: "", False: "  [yellow](not reproduced on replay)[/]", None: "  [dim](not replayed)[/]"}
        console.print(f"[bold red]{escape(finding.identity)}[/]{note[finding.confirmed]}", soft_wrap=True)
        if finding.summary:
            console.print(f"  {finding.summary[0]}", style="bold", markup=False, soft_wrap=True)
        console.print(f"  {finding.message}", markup=False, soft_wrap=True)
        console.print(f"  {quantity(finding.ops, 'op')}, found after {quantity(finding.runs, 'program')}", style="dim")
        if finding.file is not None:
            line = command_line(*summary.replay(short_path(Path(finding.file))))
            console.print(f"  {line}", markup=False, soft_wrap=True)
        else:
            console.print(finding.text, markup=False, soft_wrap=True)
    if summary.findings:
        console.print()
    for notice in summary.notices:
        console.print(f"warning: {escape(notice)}", style="yellow", soft_wrap=True)
    seconds = max(summary.seconds, 0.001)
    good = summary.error is None and summary.runs and not summary.findings
    console.print(
        f"{summary.headline()} in {quantity(summary.runs, 'program')} and {quantity(summary.ops, 'op')} "
        f"({format_duration(seconds)}, {summary.ops / seconds:,.0f} ops/s, {summary.features:,} features, "
        f"seed {summary.seed})",
        style="bold green" if good else "bold red",
        soft_wrap=True,
    )
    for name, folder in (("findings", out / "findings"), ("corpus", out / "corpus" / summary.harness)):
        if folder.is_dir():
            console.print(f"{name:9} {one_line(short_path(folder))}", markup=False, soft_wrap=True)
    if report is not None:
        console.print(f"report    {one_line(short_path(report))}", markup=False, soft_wrap=True)
