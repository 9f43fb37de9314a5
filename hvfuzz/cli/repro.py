"""`hvfuzz repro`: does the finding in this file still happen?"""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from hvfuzz.bugs import Bug, find_bug
from hvfuzz.campaign.findings import record_beside
from hvfuzz.campaign.program_files import read_program
from hvfuzz.targets.emulated_target import EmulatedTarget
from hvfuzz.targets.inspect.trace_recorder import TraceRecorder
from hvfuzz.targets.watchdog import Watchdog

NO_BUG = "none"


def bug_for(file: Path, named: str | None) -> Bug | None:
    """The bug to plant for the program in `file`: the one named, or else the one that the record beside it names."""
    if named is None:
        record = record_beside(file)
        named = NO_BUG if record is None or record.bug is None else record.bug
    return None if named == NO_BUG else find_bug(named)


def style_of(line: str) -> str:
    """How a line of a trace looks on a terminal."""
    if not line.startswith(" ") or line.lstrip()[:1].isdigit():
        return "bold"
    return "bold red" if "! FINDING" in line else "" if line.lstrip().startswith("=") else "dim"


@click.command("repro", short_help="Replay a program: exit 1 and the finding if it still happens.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--bug", help="Plant this bug (default: the one that finding.json beside FILE names; 'none' for none).")
@click.option("--trace", "show_trace", is_flag=True, help="Print every op with its exits, walks, steps and status.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(file: Path, bug: str | None, show_trace: bool, as_json: bool) -> None:
    """Replay the program in FILE (text or bytes) and say what the oracles find.

    Ends with status 1 and the findings if there are any, with 0 if there are none, with 2 for bad input.

    \b
    Examples:
      hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp
      hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp --bug none
      hvfuzz repro program.hvp --bug xsa-78 --trace
    """
    planted = bug_for(file, bug)
    console = Console(highlight=False)
    recorder = TraceRecorder() if show_trace else None
    with Watchdog() as watchdog, EmulatedTarget(planted, observer=recorder, watchdog=watchdog) as target:
        program = read_program(file, target.catalogue)
        run = target.run(program, digest=True)
    if as_json:
        document: dict[str, Any] = {
            "file": str(file),
            "bug": None if planted is None else planted.name,
            "findings": [{"identity": finding.identity, **finding._asdict()} for finding in run.findings],
            "digest": run.trace.digest(),
            "stopped": run.trace.stopped,
            "outcomes": [outcome._asdict() for outcome in run.trace.outcomes],
        }
        if recorder is not None:
            document["trace"] = recorder.lines
        print(json.dumps(document))
    else:
        for line in recorder.lines if recorder is not None else ():
            console.print(escape(line), style=style_of(line), soft_wrap=True)
        for finding in run.findings:
            console.print(f"[bold red]{escape(finding.identity)}[/] at op {finding.op}", soft_wrap=True)
            console.print(f"  {finding.message}", markup=False, soft_wrap=True)
        if not run.findings:
            what = f" with {planted.name} planted" if planted else ""
            ops = len(program.ops)
            console.print(f"no findings{what}: {ops} ops ran, trace {run.trace.digest()[:16]}", soft_wrap=True)
    sys.exit(1 if run.findings else 0)
