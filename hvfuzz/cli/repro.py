"""`hvfuzz repro`: replays a program and reports its findings, with a trace on request."""

import sys
from pathlib import Path
from typing import Any, Final

import click
from rich.markup import escape

from hvfuzz.bugs import Bug, find_bug, recorded_bug
from hvfuzz.campaign.findings import RECORD, record_beside
from hvfuzz.campaign.forked_target import deadly_run
from hvfuzz.campaign.program_files import ProgramFileError, read_program
from hvfuzz.campaign.report import quantity
from hvfuzz.cli.options import PATH, Command, json_option, option, replay_bug_option
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.trace_recorder import TraceRecorder
from hvfuzz.targets.pairs.sampled_target import SampledTarget

NO_BUG: Final = "none"


def bug_for(file: Path, named: str | None) -> Bug | None:
    """The bug to plant for the program in `file`: the one `named` by the user, else the one in finding.json beside it.

    The former may be a Python file, which is run; the latter is the name of a planted bug only.
    """
    if named is not None:
        return None if named == NO_BUG else find_bug(named)
    record = record_beside(file)
    return None if record is None or record.bug is None else recorded_bug(record.bug, file.parent / RECORD)


def style_of(line: str) -> str:
    """The style of a trace line on a terminal."""
    if not line.startswith(" ") or line.lstrip()[:1].isdigit():
        return "bold"
    return "bold red" if "! FINDING" in line else "" if line.lstrip().startswith("=") else "dim"


def refuse_deadly(file: Path, program: Program, bug: Bug | None) -> None:
    """Raise `ProgramFileError` if `program`, of `file`, ends or blocks the process that runs it."""
    death = deadly_run(program, bug)
    if death is not None:
        raise ProgramFileError(file, f"{death.trace.stopped} (hvfuzz repro reports it as a finding)")


@click.command(
    "repro",
    cls=Command,
    short_help="Replay a program and report its findings.",
    examples=(
        "hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp",
        "hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp --trace",
        "hvfuzz repro corpus/multicall/many-calls-one-exit.hvp --bug xsa-78",
    ),
)
@click.argument("file", type=PATH)
@replay_bug_option
@option("--trace", "show_trace", is_flag=True, help="Print each op with its exits, walks, steps and status.")
@json_option()
def command(file: Path, bug: str | None, show_trace: bool, as_json: bool) -> None:
    """Replay the program in FILE (text or byte form) and report its findings.

    Exits with 1 if there are findings, with 0 if there are none, and with 2 for bad input.
    """
    planted = bug_for(file, bug)
    console = Screen()
    recorder = TraceRecorder() if show_trace else None
    program = read_program(file, catalogue(ABI))
    run = deadly_run(program, planted)  # which has no trace
    if run is None:
        record = record_beside(file)
        shown = "" if record is None else record.identity
        with SampledTarget(planted, observer=recorder, shown=shown) as target:
            run = target.run(program, digest=True)
    if as_json:
        document: dict[str, Any] = {
            "file": str(file),
            "bug": None if planted is None else planted.name,
            "findings": [{"identity": finding.identity, **finding._asdict()} for finding in run.findings],
            "excuses": dict(run.excuses),
            "digest": run.trace.digest(),
            "stopped": run.trace.stopped,
            "outcomes": [outcome._asdict() for outcome in run.trace.outcomes],
        }
        if recorder is not None:
            document["trace"] = recorder.lines
        write_json(document)
    else:
        if recorder is not None:
            for line in recorder.lines:
                console.print(escape(line), style=style_of(line), soft_wrap=True)
            console.print()
        for finding in run.findings:
            console.print(f"[bold red]{escape(finding.identity)}[/] at op {finding.op}", soft_wrap=True)
            console.print(f"  {finding.message}", markup=False, soft_wrap=True)
        found = quantity(len(run.findings), "finding")
        build = "without a planted bug" if planted is None else f"with bug {planted.name}"
        ops = quantity(len(program.ops), "op")
        console.print(f"{found} {build}: ran {ops}, trace {run.trace.digest()[:16]}", markup=False, soft_wrap=True)
    sys.exit(1 if run.findings else 0)
