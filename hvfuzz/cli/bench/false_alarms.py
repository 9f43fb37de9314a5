"""`hvfuzz bench clean`: checks that fuzzing the hypervisor without a planted bug finds nothing."""

import sys
from contextlib import closing

import click

from hvfuzz.campaign.bench.trials import CleanResult, CleanRun
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import seed_folders
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.cli.bench.benchmark_job import benchmark_job
from hvfuzz.cli.bench.benchmark_progress import Bar
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import Command, Whole, json_option, option, seed_option, workers_option
from hvfuzz.cli.screen import Screen, command_line, write_json
from hvfuzz.engines.engine import Feedback
from hvfuzz.targets.harness import HARNESSES, find_harness


@click.command(
    "clean",
    cls=Command,
    short_help="Check that the clean hypervisor gives no findings.",
    examples=("hvfuzz bench clean --ops 1000000", "hvfuzz bench clean dma translation --workers 2 --json"),
)
@click.argument("harnesses", metavar="[HARNESS]...", nargs=-1)
@option(
    "--ops",
    metavar="N",
    type=Whole(min=1),
    default=100_000,
    show_default=True,
    help="Number of ops to run with each harness.",
)
@workers_option()
@seed_option("Random seed of the first worker.", default=0)
@json_option()
def clean(harnesses: tuple[str, ...], ops: int, workers: int, seed: int, as_json: bool) -> None:
    """Fuzz the hypervisor without a planted bug, with each HARNESS (default: all), and report any finding.

    Each campaign rotates through weight profiles, so that every family of ops and every pair of families has its turn.
    A finding is a false alarm of an oracle or an unknown bug in the hypervisor; its program is kept, and the command
    exits with 1. Campaigns start from corpus/HARNESS. Ctrl-C stops early and prints the figures so far.
    """
    names = list(dict.fromkeys(find_harness(name).name for name in harnesses or HARNESSES))
    jobs = [
        benchmark_job(name, "atheris", seed, None, Feedback.STATE.value, seed_folders(name))._replace(rotate=True)
        for name in names
    ]
    rows: list[CleanResult] = []
    with StopSignal() as stop, Bar(ops * len(jobs)) as bar:
        for job in jobs:
            measured = CleanRun(job, ops, workers)
            with closing(measured.run()) as run:
                for _ in run:
                    now = measured.now
                    words = f"{job.harness}: {now.ops:,} ops, {quantity(len(now.findings), 'finding')}"
                    bar.show(len(rows) * ops + min(now.ops, ops), words)
                    if stop.requested():
                        break
            rows.append(measured.now)
            now = measured.now
            bar.print_result(f"{job.harness}: {now.ops:,} ops, {quantity(len(now.findings), 'finding')}")
            if stop.requested():
                break
    found = [finding for row in rows for finding in row.findings]
    if as_json:
        plain = [{**row._asdict(), "findings": [finding._asdict() for finding in row.findings]} for row in rows]
        write_json({"ops": ops, "workers": workers, "interrupted": stop.requested(), "harnesses": plain})
    else:
        _print_clean(rows)
    sys.exit(stop.status or int(bool(found)))


def _print_clean(rows: list[CleanResult]) -> None:
    table = FigureTable("harness", "programs", "ops", "profiles", "seconds", "ops/s", "findings")
    lines = [(*row[:5], len(row.findings)) for row in rows]
    everything = (sum(row.runs for row in rows), sum(row.ops for row in rows), min(row.profiles for row in rows))
    found = sum(len(row.findings) for row in rows)
    for name, runs, ops, profiles, seconds, findings in (
        *lines,
        ("all", *everything, sum(row.seconds for row in rows), found),
    ):
        rate = ops / max(seconds, 0.001)
        table.add_row(name, f"{runs:,}", f"{ops:,}", str(profiles), f"{seconds:,.1f}", f"{rate:,.0f}", str(findings))
    console = Screen()
    console.print(table)
    for row in rows:
        for notice in row.notices:
            console.print(f"warning: {row.harness}: {notice}", style="yellow", markup=False, soft_wrap=True)
        for finding in row.findings:
            console.print(finding.identity, style="bold red", markup=False, soft_wrap=True)
            where = finding.text if finding.file is None else f"  {command_line('repro', finding.file)}"
            console.print(f"  {finding.message}\n{where}", markup=False, soft_wrap=True)
