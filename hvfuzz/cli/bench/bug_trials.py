"""`hvfuzz bench bugs`: measures the effort that an engine needs to find each planted bug."""

import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from hvfuzz.bugs import Bug, BugError, Plant, find_bug, known_bugs
from hvfuzz.campaign.bench.trials import Spread, Trial, Trials, spread
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import seed_folders
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import bug_argument
from hvfuzz.cli.bench.benchmark_job import benchmark_job
from hvfuzz.cli.bench.benchmark_progress import Bar
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import (
    Command,
    Whole,
    corpus_option,
    engine_option,
    feedback_option,
    json_option,
    option,
    refuse_without_effect,
    seconds_range,
    seed_option,
    workers_option,
)
from hvfuzz.cli.screen import Screen, write_json


def _planted(names: tuple[str, ...]) -> dict[str, Bug]:
    """Map the --bug argument of the workers to the bug, for each of `names` (default: all)."""
    chosen = {bug_argument(name): find_bug(name) for name in names or known_bugs()}
    for bug in chosen.values():
        Plant(bug)
        if not bug.findings:
            raise BugError(f"{bug.name}: `findings` is empty; a trial needs the findings to wait for")
    return chosen


@click.command(
    "bugs",
    cls=Command,
    short_help="Measure how soon an engine finds each planted bug.",
    examples=(
        "hvfuzz bench bugs",
        "hvfuzz bench bugs xsa-212 xsa-222 --trials 20 --time 120 --json",
        "hvfuzz bench bugs hvfuzz/bugs/ipc/xsa_224.py --engine random --workers 2",
    ),
)
@click.argument("names", metavar="[NAME|FILE.py]...", nargs=-1)
@option(
    "--trials",
    metavar="N",
    type=Whole(1, 10_000),
    default=10,
    show_default=True,
    help="Number of trials for each bug.",
)
@option(
    "--time",
    "seconds",
    metavar="SECONDS",
    type=seconds_range(0.1),
    default=60.0,
    show_default=True,
    help="Time limit of a trial.",
)
@seed_option("Random seed of the first trial; the others count up from it.", default=0)
@engine_option
@feedback_option
@corpus_option("Seed file or folder; may be repeated. [default: none, since the shipped seeds trip most bugs at once]")
@workers_option("Number of trials to run in parallel.")
@json_option("Print one JSON object with every trial.")
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
    """Measure how soon an engine finds each planted bug (default: all), over trials with different random seeds.

    A trial fuzzes with the bug planted and an empty corpus until one of the expected findings of the bug appears.
    Other findings are listed below the table.

    The table gives the median and the range of the programs and the seconds needed. A trial that finds nothing counts
    as infinite in the median; the range covers the successful trials. The number of programs does not depend on the
    load of the machine; seconds include the start of the worker.

    Ctrl-C stops early and prints the figures so far.
    """
    if engine != "atheris":
        refuse_without_effect("--feedback", f"on engine {engine!r}")
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
        write_json({**document, "interrupted": stop.requested(), "bugs": rows})
    else:
        _print_bugs(rows)
    sys.exit(stop.status)


def _trial_line(trial: Trial) -> str:
    effort = f"{quantity(trial.runs, 'program')}, {trial.seconds:.1f} s"
    found = f"not found in {effort}" if trial.found is None else f"found {trial.found} after {effort}"
    return f"{trial.bug}, seed {trial.seed}: {found}"


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
    """Format the median and the range."""
    if figures is None:
        return "-", "-"
    median, low, high = Spread(**figures)
    return "-" if median is None else f"{median:,.{digits}f}", f"{low:,.{digits}f}-{high:,.{digits}f}"


def _print_bugs(rows: list[dict[str, Any]]) -> None:
    table = FigureTable("bug", "difficulty", "found", "programs", "range", "seconds", "range")
    notes: list[str] = []
    notices: list[str] = []
    for row in rows:
        found = f"{row['found']} of {len(row['trials'])}"
        cells = *_cells(row["programs"], 0), *_cells(row["seconds"], 1)
        table.add_row(row["bug"], str(row["difficulty"] or "-"), found, *cells)
        others = Counter(identity for trial in row["trials"] for identity in trial["others"])
        trials = quantity(len(row["trials"]), "trial")
        notes += [f"{row['bug']}: also found {each} in {times} of {trials}" for each, times in others.items()]
        for trial in row["trials"]:
            notices += [f"warning: {row['bug']}, seed {trial['seed']}: {notice}" for notice in trial["notices"]]
    console = Screen()
    console.print(table)
    for note in notes:
        console.print(note, style="dim", markup=False, soft_wrap=True)
    for notice in notices:
        console.print(notice, style="yellow", markup=False, soft_wrap=True)
