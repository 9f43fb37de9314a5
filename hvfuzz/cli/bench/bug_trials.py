"""`hvfuzz bench bugs`: how soon an engine finds each planted bug."""

import json
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from hvfuzz.bugs import Bug, BugError, Plant, find_bug, known_bugs
from hvfuzz.campaign.bench.trials import Spread, Trial, Trials, spread
from hvfuzz.campaign.seed_corpus import seed_folders
from hvfuzz.campaign.workers.shutdown import StopSignal
from hvfuzz.campaign.workers.worker import bug_argument
from hvfuzz.cli.bench.progress_bar import MAX_SEED, Bar, benchmark_job, figure_table
from hvfuzz.engines.engine import ENGINES, Feedback


def _planted(names: tuple[str, ...]) -> dict[str, Bug]:
    """The bugs to find, by what a worker finds them with."""
    chosen = {bug_argument(name): find_bug(name) for name in names or known_bugs()}
    for bug in chosen.values():
        Plant(bug)
        if not bug.findings:
            raise BugError(f"{bug.name} names no findings: nothing says when it is found")
    return chosen


@click.command("bugs", short_help="How soon an engine finds each planted bug.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--trials", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Trials of each bug.")
@click.option("--time", "seconds", type=click.FloatRange(min=0.1), default=60.0, show_default=True, help="Of a trial.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the first trial.")
@click.option("--engine", default="atheris", show_default=True, help=f"One of {', '.join(ENGINES)}.")
@click.option(
    "--feedback",
    type=click.Choice([feedback.value for feedback in Feedback]),
    default="state",
    show_default=True,
    help="What tells the atheris engine that an input is new.",
)
@click.option(
    "--corpus",
    "corpora",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Folder or file of seeds (default: none at all, since some seed of ours trips nearly every bug at once).",
)
@click.option("--workers", type=click.IntRange(1, 256), default=1, help="Trials side by side.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every trial.")
def bugs(
    names: tuple[str, ...],
    trials: int,
    seconds: float,
    seed: int,
    engine: str,
    feedback: str,
    corpora: tuple[Path, ...],
    workers: int,
    as_json: bool,
) -> None:
    """Measure how soon an engine finds each planted bug NAME (default: all), over trials with different seeds.

    A trial is `hvfuzz fuzz --bug NAME` from an empty corpus until it finds what the bug promises (`hvfuzz bugs
    list`); another finding does not count, and is noted. Programs are the figure that a busy machine does not
    change; seconds include the start of the worker. A median counts a trial without success as longer than all
    others; the ranges are those of the successes. Ctrl-C gives what has been measured until then.

    \b
    Examples:
      hvfuzz bench bugs
      hvfuzz bench bugs xsa-212 xsa-222 --trials 20 --time 120 --json
      hvfuzz bench bugs my_bug.py --engine random --workers 2
    """
    chosen = _planted(names)
    job = benchmark_job(
        "hypercalls", engine, seed, seconds, feedback, seed_folders("hypercalls", corpora) if corpora else []
    )
    measured = Trials(chosen, job, trials, workers)
    with StopSignal() as stop, Bar(measured.total) as bar, closing(measured.run()) as run:
        reported = 0
        for _ in run:
            for trial in measured.done[reported:]:
                bar.print_result(_trial_line(trial))
            reported = len(measured.done)
            found = sum(trial.found is not None for trial in measured.done)
            now = ", ".join(measured.running)
            bar.show(reported, f"{now}: {reported} of {measured.total} trials, {found} found")
            if stop.requested():
                break
    rows = [_row(bug, [trial for trial in measured.done if trial.bug == bug.name]) for bug in chosen.values()]
    if as_json:
        document = {"engine": engine, "feedback": feedback, "corpus": job.seeds, "seconds": seconds, "trials": trials}
        print(json.dumps({**document, "interrupted": stop.requested(), "bugs": rows}))
    else:
        _print_bugs(rows)
    sys.exit(stop.status)


def _trial_line(trial: Trial) -> str:
    how = "not found" if trial.found is None else f"{trial.found}"
    return f"{trial.bug} seed {trial.seed}: {how} after {trial.runs} programs, {trial.seconds:.1f} s"


def _row(bug: Bug, trials: list[Trial]) -> dict[str, Any]:
    hits = [trial for trial in trials if trial.found is not None]
    runs = spread((trial.runs for trial in hits), len(trials))
    seconds = spread((trial.seconds for trial in hits), len(trials))
    return {
        "bug": bug.name,
        "difficulty": bug.difficulty,
        "found": len(hits),
        "programs": None if runs is None else runs._asdict(),
        "seconds": None if seconds is None else seconds._asdict(),
        "trials": [trial._asdict() for trial in sorted(trials, key=lambda trial: trial.seed)],
    }


def _cells(figures: dict[str, float] | None, digits: int) -> tuple[str, str]:
    """Median and range."""
    if figures is None:
        return "-", "-"
    median, low, high = Spread(**figures)
    return "-" if median is None else f"{median:,.{digits}f}", f"{low:,.{digits}f} to {high:,.{digits}f}"


def _print_bugs(rows: list[dict[str, Any]]) -> None:
    table = figure_table("bug", "difficulty", "found", "programs", "from to", "seconds", "from to")
    notes: list[str] = []
    notices: list[str] = []
    for row in rows:
        found = f"{row['found']} of {len(row['trials'])}"
        cells = *_cells(row["programs"], 0), *_cells(row["seconds"], 1)
        table.add_row(escape(row["bug"]), str(row["difficulty"] or "-"), found, *cells)
        others = Counter(identity for trial in row["trials"] for identity in trial["others"])
        notes += [f"{row['bug']}: also {each}, in {times} of {len(row['trials'])}" for each, times in others.items()]
        for trial in row["trials"]:
            notices += [f"{row['bug']} seed {trial['seed']}: {notice}" for notice in trial["notices"]]
    console = Console(highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)
    for notice in notices:
        console.print(notice, style="yellow", markup=False, soft_wrap=True)
