"""`hvfuzz minimise`: reduces a program to the smallest one that still shows a finding."""

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

import click

from hvfuzz.campaign.findings import RECORD, record_beside
from hvfuzz.campaign.forked_target import ForkedTarget, deadly_run
from hvfuzz.campaign.minimise.minimiser import minimise
from hvfuzz.campaign.program_files import ProgramFileError, read_program
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.workers.stop_signal import StopSignal
from hvfuzz.cli.options import PATH, Command, json_option, option, replay_bug_option, seconds_range
from hvfuzz.cli.repro import bug_for
from hvfuzz.cli.screen import Screen, write_json, write_text
from hvfuzz.engines.atomic_file import write_output
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.pairs.sampled_target import target_that_shows


@click.command(
    "minimise",
    cls=Command,
    short_help="Reduce a program while it keeps its finding.",
    examples=(
        "hvfuzz minimise crashes/host_memory--null--sched.poll@xsa-221/program.hvp",
        "hvfuzz minimise crashes/exits--registers--cpuid@xsa-110/program.hvp --bug xsa-110 --time 120 -o smaller.hvp",
    ),
)
@click.argument("file", type=PATH)
@replay_bug_option
@option(
    "--identity",
    metavar="ORACLE/RULE/OP",
    help="Finding to keep. [default: the one in finding.json beside FILE, else the first]",
)
@option(
    "--time",
    "seconds",
    metavar="SECONDS",
    type=seconds_range(0.1),
    default=30.0,
    show_default=True,
    help="Time limit.",
)
@option("-o", "--output", metavar="FILE", type=PATH, help="Write the program to FILE instead of printing it.")
@json_option()
def command(
    file: Path, bug: str | None, identity: str | None, seconds: float, output: Path | None, as_json: bool
) -> None:
    """Reduce the program in FILE, op by op and value by value, while it still shows its finding.

    Ctrl-C stops early and keeps the smallest program so far. Exits with 2 if FILE does not show the finding.
    """
    console = Screen(stderr=True)
    planted = bug_for(file, bug)
    program = read_program(file, catalogue(ABI))
    deadly = deadly_run(program, planted) is not None
    record = record_beside(file)
    sought = identity or (None if record is None else record.identity)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignal())
        shows = stack.enter_context(ForkedTarget(planted) if deadly else target_that_shows(sought, planted))
        identities = [finding.identity for finding in shows.run(program).findings]
        if not identities:
            raise ProgramFileError(file, "the program shows no finding; does it need --bug?")
        if identity is not None and identity not in identities:
            shown = ", ".join(identities)
            raise ProgramFileError(file, f"the program does not show {identity!r}; it shows {shown}")
        kept = identity or (identities[0] if record is None else record.identity)
        if kept not in identities:
            shown = ", ".join(identities)
            where = f"that {RECORD} names; it shows {shown} (choose one with --identity)"
            raise ProgramFileError(file, f"the program does not show {kept!r}, {where}")
        # Only now is it known what has to be run for each candidate.
        target = shows if deadly or sought else stack.enter_context(target_that_shows(kept, planted))
        before = len(program.ops)
        tried = 0

        def show_progress(smaller: Program, count: int) -> None:
            nonlocal tried
            tried = count
            if status is not None:
                status.update(f"minimising: {quantity(len(smaller.ops), 'op')} after {quantity(count, 'program')}")

        # A process with a spinner has a second thread, and must not fork.
        with nullcontext() if deadly else console.status("minimising") as status:
            program = minimise(
                program,
                kept,
                target,
                seconds=seconds,
                proceed=lambda: not stop.requested(),
                on_progress=show_progress,
            )
    text = render(program)
    if output is not None:
        try:
            write_output(output, text.encode())
        except OSError:
            write_text(text, end="")  # keep the result of minutes of work
            raise
    if as_json:
        document = {"identity": kept, "before": before, "ops": len(program.ops), "tried": tried, "program": text}
        write_json(document)
    else:
        after = len(program.ops)
        outcome = (
            f"reduced from {quantity(before, 'op')} to {after}" if after < before else f"still {quantity(after, 'op')}"
        )
        console.print(f"{kept}: {outcome}", soft_wrap=True)
        if output is None:
            write_text(text, end="")
    sys.exit(stop.status)
