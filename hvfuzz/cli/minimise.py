"""`hvfuzz minimise`: the smallest program that still shows a finding."""

import json
import sys
from pathlib import Path

import click
from rich.console import Console

from hvfuzz.campaign.findings import record_beside
from hvfuzz.campaign.minimise.minimiser import minimise
from hvfuzz.campaign.program_files import ProgramFileError, read_program
from hvfuzz.campaign.workers.shutdown import StopSignal
from hvfuzz.cli.repro import bug_for
from hvfuzz.engines.engine import write_whole
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated import EmulatedTarget
from hvfuzz.targets.emulated.watchdog import Watchdog


@click.command("minimise", short_help="Make a program smaller while it keeps its finding.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--bug", help="Plant this bug (default: the one that finding.json beside FILE names; 'none' for none).")
@click.option("--identity", help="The finding to keep (default: the one of FILE's folder, or else the first).")
@click.option(
    "--time",
    "seconds",
    type=click.FloatRange(min=0.1),
    default=30.0,
    show_default=True,
    help="Seconds at most.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write here (default: print).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    file: Path, bug: str | None, identity: str | None, seconds: float, output: Path | None, as_json: bool
) -> None:
    """Make the program in FILE smaller and plainer, op by op and number by number, while its finding stays.

    Ctrl-C ends it early, with the smallest program until then. Ends with status 2 if FILE does not show the finding.

    \b
    Examples:
      hvfuzz minimise out/findings/host_memory--null--sched.poll@xsa-221/program.hvp
      hvfuzz minimise crash.hvp --bug xsa-222 --time 120 -o smaller.hvp
    """
    console = Console(stderr=True, highlight=False)
    with (
        StopSignal() as stop,
        Watchdog() as watchdog,
        EmulatedTarget(bug_for(file, bug), watchdog=watchdog) as target,
    ):
        program = read_program(file, target.catalogue)
        identities = [finding.identity for finding in target.run(program).findings]
        if not identities or (identity is not None and identity not in identities):
            shown = ", ".join(identities) or "none"
            wanted = f"{identity!r}" if identity else "a finding"
            raise ProgramFileError(f"{file}: does not show {wanted} (findings: {shown}); is its --bug planted?")
        record = record_beside(file)
        known = record.identity if record is not None and record.identity in identities else identities[0]
        kept = identity or known
        before = len(program.ops)
        tried = 0

        def show_progress(smaller: Program, count: int) -> None:
            nonlocal tried
            tried = count
            status.update(f"{len(smaller.ops)} ops after {count} programs")

        with console.status("minimising") as status:
            program = minimise(
                program, kept, target, seconds=seconds, proceed=lambda: not stop.requested(), on_progress=show_progress
            )
    text = render(program)
    if output is not None:
        try:
            write_whole(output, text.encode())
        except OSError:
            click.echo(text, nl=False)  # the work of minutes is not to be lost
            raise
    if as_json:
        document = {"identity": kept, "before": before, "ops": len(program.ops), "tried": tried, "program": text}
        print(json.dumps(document))
    else:
        console.print(f"{kept}: {before} ops, now {len(program.ops)}", soft_wrap=True)
        if output is None:
            click.echo(text, nl=False)
    sys.exit(stop.status)
