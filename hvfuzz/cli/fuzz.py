"""`hvfuzz fuzz`: a campaign of worker processes with a live view, its findings confirmed and minimised at the end."""

import json
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from hvfuzz.bugs import Plant, find_bug
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL
from hvfuzz.campaign.seed_corpus import seed_bytes, seed_folders
from hvfuzz.campaign.workers.shutdown import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob, bug_argument
from hvfuzz.cli.live_view import print_summary, run_with_view
from hvfuzz.engines.engine import ENGINES, EngineError, Feedback, load_engine
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import find_harness

DEFAULT_SECONDS: Final = 60.0
FILE: Final = click.Path(path_type=Path)


def _check_writable(out: Path) -> None:
    """Fail before the campaign and not at its first finding."""
    probe = out / ".writable"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"hvfuzz")
    except OSError as error:
        error.filename = str(out)
        raise
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


@click.command("fuzz", short_help="Fuzz with worker processes and a live view.")
@click.argument("harness", default="hypercalls")
@click.option("--engine", default="atheris", show_default=True, help=f"One of {', '.join(ENGINES)}.")
@click.option("--time", "seconds", type=click.FloatRange(min=0.1), help="Seconds to fuzz (default 60, unless --runs).")
@click.option("--runs", type=click.IntRange(min=1), help="Programs to run, all workers together.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Random seed (default: a fresh one, printed).")
@click.option("--bug", help="Plant this bug: a name (see `hvfuzz bugs list`), or a Python file that defines one.")
@click.option(
    "--feedback",
    type=click.Choice([feedback.value for feedback in Feedback]),
    default="state",
    show_default=True,
    help="What tells the atheris engine that an input is new.",
)
@click.option("--out", type=FILE, default=Path("out"), show_default=True, help="Output folder.")
@click.option(
    "--corpus",
    "corpora",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Folder or file of seeds; may be repeated (default: corpus/HARNESS, if there).",
)
@click.option("--no-corpus", is_flag=True, help="Begin with no seeds.")
@click.option("--minimise/--no-minimise", default=True, help="Confirm and minimise each finding at the end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines; the last one is the summary.")
def command(
    harness: str,
    engine: str,
    seconds: float | None,
    runs: int | None,
    workers: int,
    seed: int | None,
    bug: str | None,
    feedback: str,
    out: Path,
    corpora: tuple[Path, ...],
    no_corpus: bool,
    minimise: bool,
    as_json: bool,
) -> None:
    """Fuzz the emulated hypervisor with HARNESS (hypercalls, abi, translation, dma or multicall).

    Ends with status 1 if anything was found, 0 if nothing was. Findings lie in OUT/findings, each with a
    minimised program; new inputs in OUT/corpus, so that the next run goes on from there. Ctrl-C ends the
    campaign early and keeps everything.

    \b
    Examples:
      hvfuzz fuzz hypercalls --time 60
      hvfuzz fuzz dma --engine random --runs 20000 --seed 1
      hvfuzz fuzz --bug xsa-212 --time 60 --json
      hvfuzz fuzz --bug my_bug.py --workers 2
    """
    harness = find_harness(harness).name
    load_engine(engine)
    planted = None
    if bug is not None:
        planted = find_bug(bug)
        Plant(planted)  # fails here rather than in every worker
    if seconds is None and runs is None and engine != "replay":
        seconds = DEFAULT_SECONDS
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 30)
    folders = [] if no_corpus else seed_folders(harness, corpora)
    seeds = seed_bytes(map(Path, folders), catalogue(ABI))  # fails here rather than in every worker
    if engine == "replay" and not seeds:
        raise EngineError("engine 'replay' needs seeds: give some with --corpus")
    out = out.resolve()
    _check_writable(out)
    job = WorkerJob(
        harness=harness,
        engine=engine,
        seed=seed,
        seconds=seconds,
        runs=runs,
        bug=None if bug is None else bug_argument(bug),
        feedback=feedback,
        out=str(out),
        seeds=folders,
    )
    console = Console(stderr=as_json, highlight=False)
    with StopSignal() as stop:
        # Each seed is to be replayed once, whatever the number of workers.
        campaign = Campaign(job, 1 if engine == "replay" else workers, stop)
        title = f"hvfuzz {harness}, engine {engine}, seed {seed}" + (f", bug {planted.name}" if planted else "")
        run_with_view(campaign, title, console, as_json=as_json)
        if campaign.pool.discoveries and minimise and not stop.requested():
            console.print(f"confirming and minimising {len(campaign.pool.discoveries)} finding(s)", style="dim")
        summary = campaign.finish(minimise=minimise)
        if campaign.error is not None:
            print(f"hvfuzz: {campaign.error}", file=sys.stderr)
        if as_json:
            document: dict[str, Any] = summary.as_dict()
            if campaign.error is not None:
                document["error"] = campaign.error
            print(json.dumps(document), flush=True)
        else:
            print_summary(console, summary, out, campaign.report)
    if stop.status:
        sys.exit(stop.status)
    if campaign.error is not None:
        sys.exit(EXIT_INTERNAL if campaign.internal_error_seen else EXIT_BAD_INPUT)
    sys.exit(1 if summary.findings else 0)
