"""`hvfuzz bench`: measures speed, detection, determinism and oracles on this machine."""

import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from hvfuzz.campaign.bench.speed import measure_reset, measure_speed, typical_programs
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import read_entries, seed_folders
from hvfuzz.campaign.workers.pool import Pool
from hvfuzz.campaign.workers.worker import WorkerJob
from hvfuzz.cli.bench.bug_trials import bugs
from hvfuzz.cli.bench.false_alarms import clean
from hvfuzz.cli.bench.mutants import mutants
from hvfuzz.cli.bench.oracles import oracles
from hvfuzz.cli.bench.traces import traces
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import Group, Whole, json_option, option, seconds_range, seed_option
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.engines.engine import Feedback
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget


@click.group(
    "bench",
    cls=Group,
    short_help="Measure speed, bug detection, false alarms, determinism and oracles.",
    examples=(
        "hvfuzz bench speed",
        "hvfuzz bench bugs xsa-212 xsa-222 --trials 5",
        "hvfuzz bench clean --ops 1000000",
        "hvfuzz bench traces --programs 10000",
        "hvfuzz bench mutants --sample 100",
        "hvfuzz bench oracles",
    ),
)
def command() -> None:
    """Measure speed, bug detection, false alarms, determinism and oracles on this machine."""


@command.command(
    "speed",
    short_help="Measure programs and ops per second.",
    examples=("hvfuzz bench speed", "hvfuzz bench speed --rounds 21 --json"),
)
@option(
    "--rounds",
    metavar="N",
    type=Whole(3, 1000),
    default=7,
    show_default=True,
    help="Number of rounds of each set-up.",
)
@seed_option("Random seed of the programs.", default=1)
@option(
    "--engine-time",
    metavar="SECONDS",
    type=seconds_range(0),
    default=10.0,
    show_default=True,
    help="Time for each feedback of the atheris engine; 0 skips them.",
)
@option(
    "--corpus",
    metavar="FOLDER",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Seeds of the programs. [default: corpus/hypercalls; without it, programs are generated]",
)
@json_option()
def speed(rounds: int, seed: int, engine_time: float, as_json: bool, corpus: Path | None) -> None:
    """Measure programs and ops per second: bare, with oracles, and with each feedback of the atheris engine.

    Also measures the time to reset the machine, with a small and a large host memory. Figures are medians over the
    rounds.
    """
    console = Screen(stderr=True)
    folders = seed_folders("hypercalls", () if corpus is None else (corpus,))
    with EmulatedTarget() as target:
        seeds = [entry.program for entry in read_entries(map(Path, folders), target.catalogue)]
        programs = typical_programs(target, seed, seeds)
    with console.status("measuring the op loop"):
        speeds = measure_speed(programs, rounds)
    with console.status("measuring reset"):
        resets = measure_reset(programs)
    engines: list[dict[str, Any]] = []
    for feedback in Feedback if engine_time else ():
        with console.status(f"measuring the atheris engine with feedback {feedback}"):
            engines.append(_engine(feedback, engine_time, seed, folders))
    if as_json:
        write_json(
            {
                "python": sys.version.split()[0],
                "rounds": rounds,
                "speed": [row._asdict() for row in speeds],
                "reset": [row._asdict() for row in resets],
                "engine": engines,
            }
        )
        return
    out = Screen()
    out.print(f"speed: {quantity(len(programs), 'program')}, median of {rounds} rounds", style="bold")
    table = FigureTable("set-up", "programs/s", "ops/s", "slowest", "fastest", "vs bare")
    bare = speeds[0].ops_per_second
    for row in speeds:
        figures = (row.programs_per_second, row.ops_per_second, row.slowest, row.fastest)
        table.add_row(row.name, *(f"{figure:,.0f}" for figure in figures), f"{row.ops_per_second / bare:.2f}")
    for engine in engines:
        rates = (engine["runs"] / engine["seconds"], engine["ops"] / engine["seconds"])
        table.add_row(
            f"atheris, feedback {engine['feedback']}", *(f"{r:,.0f}" for r in rates), "", "", f"{rates[1] / bare:.2f}"
        )
    out.print(table)
    out.print()
    out.print("reset after a program: time in microseconds", style="bold")
    table = FigureTable("host memory", "median", "10 %", "90 %", "dirty frames")
    for reset in resets:
        table.add_row(
            f"{reset.memory >> 20} MiB",
            f"{reset.median:.1f}",
            f"{reset.low:.1f}",
            f"{reset.high:.1f}",
            f"{reset.dirty:.0f}",
        )
    out.print(table)


def _engine(feedback: Feedback, seconds: float, seed: int, folders: list[str]) -> dict[str, Any]:
    """Run one worker of the atheris engine for `seconds` with this feedback; returns its figures."""
    with tempfile.TemporaryDirectory(prefix="hvfuzz-bench-") as folder:
        job = WorkerJob(
            harness="hypercalls",
            engine="atheris",
            seed=seed,
            seconds=seconds,
            runs=None,
            bug=None,
            feedback=feedback.value,
            out=folder,
            seeds=folders,
        )
        pool = Pool(job, 1)
        for _ in pool.run():
            pass
        worker = pool.worker_progress()
    if not worker.runs:
        raise click.ClickException(
            f"the atheris engine ran no program in {seconds:g} s with feedback {feedback}; give it more --engine-time"
        )
    return {"feedback": feedback.value, "runs": worker.runs, "ops": worker.ops, "seconds": worker.seconds}


command.add_command(bugs)
command.add_command(clean)
command.add_command(traces)
command.add_command(mutants)
command.add_command(oracles)
