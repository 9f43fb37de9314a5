"""`hvfuzz fuzz`: a campaign of worker processes with a live view, its findings confirmed and minimised at the end."""

import json
import math
import random
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.campaign.files import read_program
from hvfuzz.campaign.findings import FindingStore, Record
from hvfuzz.campaign.minimise import minimise
from hvfuzz.campaign.pool import Discovery, Pool
from hvfuzz.campaign.report import write_report
from hvfuzz.campaign.worker import WorkerJob
from hvfuzz.cli.live import View, clock, count
from hvfuzz.engines.engine import ENGINES, Feedback, load_engine
from hvfuzz.guest.text import parse
from hvfuzz.targets.emulated import EmulatedTarget
from hvfuzz.targets.harness import find_harness

MINIMISE_SECONDS: Final = 10.0
DEFAULT_SECONDS: Final = 60.0
PLAIN_SECONDS: Final = 5.0
"""How often a run without a terminal says how far it is."""


class _Stopped(Exception):
    """A signal asked us to end: its number."""


@contextmanager
def _signals() -> Iterator[None]:
    """SIGINT and SIGTERM end the campaign in order: workers stopped, findings kept, summary printed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _seed_folders(harness: str, given: tuple[Path, ...]) -> list[str]:
    folders = given or tuple(path for path in (Path("corpus") / harness,) if path.is_dir())
    return [str(folder.resolve()) for folder in folders]


def _check_writable(out: Path) -> None:
    """Fail before the campaign and not at its first finding."""
    out.mkdir(parents=True, exist_ok=True)
    probe = out / ".writable"
    probe.write_bytes(b"hvfuzz")
    probe.unlink()


def _confirm(discovery: Discovery, store: FindingStore, bug: Bug | None, note: Any) -> dict[str, Any]:
    """Replay one finding here, in a process that has run nothing else, minimise it, and keep the result."""
    with EmulatedTarget(bug) as target:
        if discovery.file is not None:
            program = read_program(Path(discovery.file), target.catalogue)
        else:
            program = parse(discovery.text, target.catalogue)
        found = [finding for finding in target.run(program).findings if finding.identity == discovery.identity]
        note(f"minimising {discovery.identity}")
        if found:
            program = minimise(program, discovery.identity, target, seconds=MINIMISE_SECONDS)
    record = Record(
        discovery.identity,
        found[0].message if found else discovery.message,
        None if bug is None else bug.name,
        discovery.runs,
        discovery.seconds,
        confirmed=bool(found),
        ops=len(program.ops),
    )
    return {
        "identity": discovery.identity,
        "message": record.message,
        "file": str(store.save(record, program)),
        "runs": discovery.runs,
        "seconds": discovery.seconds,
        "confirmed": record.confirmed,
        "ops": record.ops,
    }


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
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out"), show_default=True, help="Output folder.")
@click.option(
    "--corpus",
    "corpora",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Seeds (default: corpus/HARNESS, if there).",
)
@click.option("--minimise/--no-minimise", "shrink", default=True, help="Confirm and minimise each finding at the end.")
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
    shrink: bool,
    as_json: bool,
) -> None:
    """Fuzz the emulated hypervisor with HARNESS (hypercalls, abi, translation, dma or multicall).

    Ends with status 1 if anything was found, 0 if nothing was. Findings lie in OUT/findings, each with a
    minimised program; new inputs in OUT/corpus, so that the next run goes on from there.

    \b
    Examples:
      hvfuzz fuzz hypercalls --time 60
      hvfuzz fuzz dma --engine random --runs 20000 --seed 1
      hvfuzz fuzz --bug xsa-212 --time 60 --json
      hvfuzz fuzz --bug my_bug.py --workers 2
    """
    harness = find_harness(harness).name
    planted = None if bug is None else find_bug(bug)
    load_engine(engine)
    if seconds is None and runs is None:
        seconds = DEFAULT_SECONDS
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 30)
    out = out.resolve()
    _check_writable(out)
    job = WorkerJob(
        harness=harness,
        engine=engine,
        seed=seed,
        seconds=seconds,
        runs=None if runs is None else math.ceil(runs / workers),
        bug=str(Path(bug).resolve()) if bug is not None and bug.endswith(".py") else bug,
        feedback=feedback,
        out=str(out),
        seeds=_seed_folders(harness, corpora),
        arguments=[],
    )
    console = Console(stderr=as_json)
    pool = Pool(job, workers)
    title = f"hvfuzz {harness} with {engine}, seed {seed}" + (f", bug {planted.name}" if planted else "")
    stopped = 0
    try:
        with _signals():
            _watch(pool, View(title, pool, seconds), console, as_json)
    except _Stopped as stop:
        stopped = stop.args[0]
    # The second signal, if the user is in a hurry, ends us at once: every finding is on disk already.
    store = FindingStore(out / "findings")
    findings = []
    for discovery in pool.discoveries.values():
        if discovery.error is not None:
            print(f"hvfuzz: {discovery.error}; the program that shows {discovery.identity}:", file=sys.stderr)
            print(discovery.text, file=sys.stderr)
        if shrink and not stopped:
            findings.append(_confirm(discovery, store, planted, lambda text: console.print(text, style="dim")))
        else:
            kept = ("identity", "message", "file", "runs", "seconds")
            findings.append({name: getattr(discovery, name) for name in kept})
    progress = pool.progress()
    summary: dict[str, Any] = {
        "harness": harness,
        "engine": engine,
        "feedback": feedback,
        "bug": None if planted is None else planted.name,
        "seed": seed,
        "workers": workers,
        "runs": progress.runs,
        "ops": progress.ops,
        "seconds": progress.seconds,
        "features": progress.features,
        "corpus": progress.corpus,
        "notices": pool.notices,
        "findings": findings,
    }
    report = write_report(out, summary)
    if as_json:
        print(json.dumps(summary))
    else:
        _say(console, summary, out, report)
    if stopped:
        sys.exit(128 + stopped)
    sys.exit(1 if findings else 0)


def _watch(pool: Pool, view: View, console: Console, as_json: bool) -> None:
    """Run the pool to its end, showing how far it is in the way that fits where our output goes."""
    if as_json or not console.is_terminal:
        due = PLAIN_SECONDS
        for _ in pool.run():
            progress = pool.progress()
            if progress.seconds < due:
                continue
            due += PLAIN_SECONDS
            if as_json:
                print(json.dumps({**progress._asdict(), "findings": list(pool.discoveries)}), flush=True)
            else:
                console.print(
                    f"{clock(progress.seconds)}  runs {count(progress.runs)}  ops {count(progress.ops)}  "
                    f"features {progress.features}  corpus {progress.corpus}  findings {len(pool.discoveries)}",
                    highlight=False,
                )
        return
    with Live(view, console=console, refresh_per_second=4):
        for _ in pool.run():
            pass


def _say(console: Console, summary: dict[str, Any], out: Path, report: Path) -> None:
    seconds = max(summary["seconds"], 0.001)
    console.print(
        f"{count(summary['runs'])} programs, {count(summary['ops'])} ops in {clock(seconds)} "
        f"({count(summary['ops'] / seconds)} ops/s), {summary['features']} features, seed {summary['seed']}",
        highlight=False,
    )
    for notice in summary["notices"]:
        console.print(notice, style="yellow", highlight=False)
    for finding in summary["findings"]:
        console.print(f"[bold red]{finding['identity']}[/]", highlight=False)
        console.print(f"  {finding['message']}", highlight=False, markup=False)
        console.print(f"  hvfuzz repro {finding['file']}", highlight=False, markup=False, soft_wrap=True)
    if not summary["findings"]:
        console.print("no findings", style="green")
    console.print(f"findings  {out / 'findings'}", highlight=False, soft_wrap=True)
    console.print(f"corpus    {out / 'corpus' / summary['harness']}", highlight=False, soft_wrap=True)
    console.print(f"report    {report}", highlight=False, soft_wrap=True)
