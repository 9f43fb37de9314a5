"""`hvfuzz repro`: does the finding in this file still happen?"""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape

from hvfuzz.bugs import find_bug
from hvfuzz.campaign.files import read_program
from hvfuzz.campaign.findings import RECORD, FindingStore
from hvfuzz.targets.emulated import EmulatedTarget
from hvfuzz.targets.recorder import Recorder


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
      hvfuzz repro crashes/xsa-212/program.hvp
      hvfuzz repro crashes/xsa-212/program.hvp --bug none
      hvfuzz repro program.hvp --bug xsa-78 --trace
    """
    if bug is None and (file.parent / RECORD).is_file():
        bug = FindingStore(file.parent.parent).load(file.parent).bug
    planted = None if bug in (None, "none") else find_bug(bug or "")
    console = Console(highlight=False)
    recorder = Recorder() if show_trace else None
    with EmulatedTarget(planted, recorder=recorder) as target:
        program = read_program(file, target.catalogue)
        run = target.run(program, digest=True)
    if as_json:
        findings = [{"identity": finding.identity, **finding._asdict()} for finding in run.findings]
        outcomes = [outcome._asdict() for outcome in run.trace.outcomes]
        document: dict[str, Any] = {
            "file": str(file),
            "bug": None if planted is None else planted.name,
            "findings": findings,
            "digest": run.trace.digest(),
            "outcomes": outcomes,
        }
        if recorder is not None:
            document["trace"] = recorder.lines
        print(json.dumps(document))
    else:
        for line in recorder.lines if recorder is not None else ():
            style = "bold" if not line.startswith(" ") else "red" if "FINDING" in line else "dim"
            console.print(escape(line), style=style, soft_wrap=True)
        for finding in run.findings:
            console.print(f"[bold red]{escape(finding.identity)}[/] at op {finding.op}")
            console.print(f"  {escape(finding.message)}", soft_wrap=True)
        if not run.findings:
            what = f" with {planted.name} planted" if planted else ""
            console.print(f"no findings{what}: {len(program.ops)} ops ran, trace {run.trace.digest()[:16]}")
    sys.exit(1 if run.findings else 0)
