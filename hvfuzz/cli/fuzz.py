"""`hvfuzz fuzz`: runs a campaign with a live view; confirms and minimises the findings at its end."""

import os
import random
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from hvfuzz.bugs import Plant, find_bug
from hvfuzz.campaign.campaign import Campaign
from hvfuzz.campaign.internal_error import EXIT_BAD_INPUT, EXIT_INTERNAL, EXIT_PIPE
from hvfuzz.campaign.program_files import SUFFIX, ProgramFileError
from hvfuzz.campaign.report import Summary, quantity
from hvfuzz.campaign.seed_corpus import passed_over, seed_bytes, seed_folders
from hvfuzz.campaign.visible_text import print_error
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.campaign.workers.worker import WorkerJob, bug_argument
from hvfuzz.cli.live_view import print_summary, run_with_view
from hvfuzz.cli.options import (
    PATH,
    Command,
    Whole,
    corpus_option,
    engine_option,
    feedback_option,
    json_option,
    option,
    refuse_both,
    refuse_without_effect,
    seconds_range,
    seed_option,
    workers_option,
)
from hvfuzz.cli.screen import Screen, write_json, write_text
from hvfuzz.engines.all_engines import load_engine
from hvfuzz.engines.engine import EngineError
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.harness import HARNESSES, find_harness

DEFAULT_SECONDS: Final = 60.0


def _check_writable(out: Path) -> None:
    """Raise OSError now, rather than at the first finding."""
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


def _check_apart_from_seeds(out: Path, harness: str, seeds: list[str]) -> None:
    """Refuse an output folder whose new files would land among seeds, which are reviewed text (*.hvp)."""
    units = out / "corpus" / harness
    for folder in (out, units):
        reviewed = folder.is_dir() and any(path.suffix == SUFFIX for path in folder.iterdir())
        if (folder == out and str(out) in seeds) or (reviewed and (folder == units or out.name in HARNESSES)):
            raise click.BadParameter(
                f"new files would land among the seeds in {folder}; name another folder", param_hint="--out"
            )


@click.command(
    "fuzz",
    cls=Command,
    short_help="Fuzz the hypervisor, with a live view.",
    examples=(
        "hvfuzz fuzz                                   fuzz whole programs for a minute",
        "hvfuzz fuzz dma --time 600 --workers 2        fuzz devices and the IOMMU for ten minutes",
        "hvfuzz fuzz --bug xsa-212                     see whether a planted bug is found",
        "hvfuzz fuzz --bug hvfuzz/bugs/ipc/xsa_224.py  plant a bug that a file defines",
        "hvfuzz fuzz --engine random --runs 2000 --json > progress.jsonl",
    ),
)
@click.argument("harness", default="hypercalls")
@engine_option
@option(
    "--time",
    "seconds",
    metavar="SECONDS",
    type=seconds_range(0.1),
    help="Time limit. [default: 60, or none with --runs]",
)
@option("--runs", metavar="N", type=Whole(min=1), help="Number of programs to run, over all workers together.")
@workers_option()
@seed_option("Random seed. [default: a new one, printed at the start]", default=None)
@option("--bug", metavar="NAME|FILE.py", help="Plant this bug (see `hvfuzz bugs list`).")
@feedback_option
@option(
    "--out",
    metavar="FOLDER",
    type=PATH,
    default=Path("out"),
    show_default=True,
    help="Folder for findings, new inputs, logs and the report.",
)
@corpus_option("Seed file or folder; may be repeated. [default: corpus/HARNESS, if it exists]")
@option("--no-corpus", is_flag=True, help="Start without seeds.")
@option("--rotate", is_flag=True, help="Aim at each family of ops, and at each pair of families, in turn.")
@option(
    "--minimise/--no-minimise", default=True, show_default=True, help="Confirm and minimise the findings at the end."
)
@json_option("Print progress as JSON lines; the last line is the summary.")
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
    rotate: bool,
    minimise: bool,
    as_json: bool,
) -> None:
    """Fuzz the emulated hypervisor and report every finding with a minimised program.

    \b
    HARNESS selects what the programs are made of:
      hypercalls   every hypercall, instruction and race (default)
      abi          malformed structs, raw VMCALLs, hostile buffers
      translation  page tables, TLB and stage 2
      dma          devices and the IOMMU
      multicall    many calls in one exit

    Findings are saved to OUT/findings, and new inputs to OUT/corpus, where the next campaign picks them up. Ctrl-C
    stops the campaign and keeps everything.

    Exits with 1 if there are findings, with 0 if there are none.
    """
    refuse_both("--no-corpus", "--corpus")
    if engine != "atheris":
        refuse_without_effect("--feedback", f"on engine {engine!r}")
    if engine == "replay" and workers > 1:
        refuse_without_effect("--workers", "on engine 'replay', which runs each seed once")
    harness = find_harness(harness).name
    load_engine(engine)
    planted = None
    if bug is not None:
        planted = find_bug(bug)
        Plant(planted)  # fail here rather than in every worker
    if seconds is None and runs is None and engine != "replay":
        seconds = DEFAULT_SECONDS
    if seed is None:
        seed = random.SystemRandom().randrange(1 << 30)
    folders = [] if no_corpus else seed_folders(harness, corpora)
    passed: list[ProgramFileError] = []
    seeds = seed_bytes(map(Path, folders), catalogue(ABI), passed)  # fail here rather than in every worker
    if engine == "replay" and not seeds:
        where = f"there are none in {', '.join(map(str, corpora))}" if corpora else "name some with --corpus"
        raise EngineError(f"engine 'replay' needs seeds; {where}")
    out = Path(os.path.realpath(out))  # `Path.resolve` raises RuntimeError at a loop of links
    _check_apart_from_seeds(out, harness, folders)
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
        rotate=rotate,
    )
    console = Screen(stderr=as_json)
    output_error: OSError | None = None
    with StopSignal() as stop:
        campaign = Campaign(job, workers, stop)
        if (notice := passed_over(passed)) is not None:
            campaign.pool.notices.append(notice)
        title = f"hvfuzz {harness}, engine {engine}, seed {seed}" + (f", bug {planted.name}" if planted else "")
        try:
            run_with_view(campaign, title, console, as_json=as_json)
            if campaign.found() and minimise and not stop.requested():
                console.print(f"confirming and minimising {quantity(campaign.found(), 'finding')}", style="dim")
        except OSError as error:
            output_error = error
        summary = campaign.finish(minimise=minimise and output_error is None)
        if summary.error is not None:
            _tell(summary.error)
        if output_error is None:
            try:
                _print_result(console, summary, campaign, as_json=as_json)
            except OSError as error:
                output_error = error
        if output_error is not None:
            _tell_findings_elsewhere(summary, campaign)
            with suppress(OSError, ValueError):  # what is left in the buffer has nowhere to go
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(_status(stop, summary, campaign, output_error))


def _print_result(console: Screen, summary: Summary, campaign: Campaign, *, as_json: bool) -> None:
    if as_json:
        write_json(summary.as_dict())
    else:
        print_summary(console, summary, campaign.out, campaign.report)
        sys.stdout.flush()


def _tell(message: str) -> None:
    """Print one line to standard error, if that can be written."""
    with suppress(OSError):
        print_error(message)


def _tell_findings_elsewhere(summary: Summary, campaign: Campaign) -> None:
    """Print the findings that no file has to standard error, since standard output is gone."""
    for finding in summary.findings:
        if finding.file is None and campaign.report is None:
            _tell(f"FINDING {finding.identity}: {finding.message}")
            with suppress(OSError):
                write_text(finding.text, stderr=True)


def _status(stop: StopSignal, summary: Summary, campaign: Campaign, output_error: OSError | None) -> int:
    """The exit status: that of a signal, else that of the findings, whatever else went wrong."""
    if stop.status:
        return stop.status
    if summary.findings:
        return 1
    if summary.error is not None:
        return EXIT_INTERNAL if campaign.internal_error_seen else EXIT_BAD_INPUT
    if isinstance(output_error, BrokenPipeError):
        return EXIT_PIPE
    if output_error is not None:
        _tell(f"output: {output_error.strerror}")
        return EXIT_BAD_INPUT
    return 0
