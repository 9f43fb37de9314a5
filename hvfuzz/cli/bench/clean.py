"""`hvfuzz bench clean`: that fuzzing the hypervisor without a bug finds nothing, over a given number of ops."""

import json
import sys
from contextlib import closing

import click
from rich.console import Console

from hvfuzz.campaign.bench.trials import CleanResult, CleanRun
from hvfuzz.campaign.seed_corpus import seed_folders
from hvfuzz.campaign.workers.shutdown import StopSignal
from hvfuzz.cli.bench.progress_bar import MAX_SEED, Bar, benchmark_job, figure_table
from hvfuzz.engines.engine import Feedback
from hvfuzz.targets.harness import HARNESSES, find_harness


@click.command("clean", short_help="That fuzzing the hypervisor without a bug finds nothing.")
@click.argument("harnesses", metavar="[HARNESS]...", nargs=-1)
@click.option("--ops", type=click.IntRange(min=1), default=100_000, show_default=True, help="Ops for each harness.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the first worker.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def clean(harnesses: tuple[str, ...], ops: int, workers: int, seed: int, as_json: bool) -> None:
    """Fuzz the hypervisor without a bug with each HARNESS (default: all), until its workers have run enough ops.

    Any finding is a false alarm, or a bug that nobody planted: ends with status 1 then, and keeps the programs.
    Seeds are those of the harness, as with `hvfuzz fuzz`. Ctrl-C gives what has been measured until then.

    \b
    Examples:
      hvfuzz bench clean --ops 1000000
      hvfuzz bench clean dma translation --workers 2 --json
    """
    names = list(dict.fromkeys(find_harness(name).name for name in harnesses or HARNESSES))
    jobs = [benchmark_job(name, "atheris", seed, None, Feedback.STATE.value, seed_folders(name)) for name in names]
    rows: list[CleanResult] = []
    with StopSignal() as stop, Bar(ops * len(jobs)) as bar:
        for job in jobs:
            measured = CleanRun(job, ops, workers)
            with closing(measured.run()) as run:
                for _ in run:
                    now = measured.now
                    words = f"{job.harness}: {now.ops:,} ops, {len(now.findings)} findings"
                    bar.show(len(rows) * ops + min(now.ops, ops), words)
                    if stop.requested():
                        break
            rows.append(measured.now)
            bar.print_result(f"{job.harness}: {measured.now.ops} ops, {len(measured.now.findings)} findings")
            if stop.requested():
                break
    found = [finding for row in rows for finding in row.findings]
    if as_json:
        plain = [{**row._asdict(), "findings": [finding._asdict() for finding in row.findings]} for row in rows]
        print(json.dumps({"ops": ops, "workers": workers, "interrupted": stop.requested(), "harnesses": plain}))
    else:
        _print_clean(rows)
    sys.exit(stop.status or int(bool(found)))


def _print_clean(rows: list[CleanResult]) -> None:
    table = figure_table("harness", "programs", "ops", "seconds", "ops/s", "findings")
    everything = ("all", sum(row.runs for row in rows), sum(row.ops for row in rows), sum(row.seconds for row in rows))
    lines = [(*row[:4], len(row.findings)) for row in rows]
    for name, runs, ops, seconds, found in (*lines, (*everything, sum(len(row.findings) for row in rows))):
        rate = ops / max(seconds, 0.001)
        table.add_row(name, f"{runs:,}", f"{ops:,}", f"{seconds:,.1f}", f"{rate:,.0f}", str(found))
    console = Console(highlight=False)
    console.print(table)
    for row in rows:
        for notice in row.notices:
            console.print(f"{row.harness}: {notice}", style="yellow", markup=False, soft_wrap=True)
        for finding in row.findings:
            console.print(finding.identity, style="bold red", markup=False, soft_wrap=True)
            where = finding.text if finding.file is None else f"  hvfuzz repro {finding.file}"
            console.print(f"  {finding.message}\n{where}", markup=False, soft_wrap=True)
