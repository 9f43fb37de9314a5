"""`hvfuzz repro`: replays a program and reports its findings, with a trace on request."""

import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
from rich.markup import escape

from hvfuzz.bugs import Bug, find_bug, recorded_bug
from hvfuzz.campaign.findings import RECORD, record_beside
from hvfuzz.campaign.forked_target import deadly_run
from hvfuzz.campaign.program_files import ProgramFileError, read_program
from hvfuzz.campaign.report import quantity
from hvfuzz.cli.options import PATH, Command, json_option, option, refuse_without_effect, replay_bug_option
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.explain.explainer import NOTHING_RECORDED, explain_without_run, replay
from hvfuzz.explain.recording.recorded_moments import Recording
from hvfuzz.explain.telling.as_text import first_paragraph
from hvfuzz.explain.telling.explanation import Explanation
from hvfuzz.explain.telling.program_header import bug_in_header
from hvfuzz.explain.telling.trace_lines import LEGEND, trace_lines
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.target import Run

NO_BUG: Final = "none"


def bug_for(file: Path, named: str | None) -> Bug | None:
    """The bug to plant for the program in `file`: the one `named` by the user, else the one in finding.json beside it,
    else the one in the head of the file.

    The former may be a Python file, which is run; the latter is the name of a planted bug only.
    """
    if named is not None:
        return None if named == NO_BUG else find_bug(named)
    record = record_beside(file)
    if record is not None:
        return None if record.bug is None else recorded_bug(record.bug, file.parent / RECORD)
    name = bug_in_header(file)
    return None if name is None else recorded_bug(name, file)


def style_of(line: str) -> str:
    """The style of a trace line on a terminal."""
    if not line.startswith(" ") or line.lstrip()[:1].isdigit():
        return "bold"
    return "bold red" if line.lstrip().startswith("! ") else "" if line.lstrip().startswith("=") else "dim"


def refuse_deadly(file: Path, program: Program, bug: Bug | None) -> None:
    """Raise `ProgramFileError` if `program`, of `file`, ends or blocks the process that runs it."""
    death = deadly_run(program, bug)
    if death is not None:
        raise ProgramFileError(file, f"{death.trace.stopped} (hvfuzz repro reports it as a finding)")


@click.command(
    "repro",
    cls=Command,
    short_help="Replay programs and report their findings.",
    examples=(
        "hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp",
        "hvfuzz repro crashes/host_memory--null--sched.poll@xsa-221/program.hvp --trace",
        "hvfuzz repro corpus/multicall/many-calls-one-exit.hvp --bug xsa-78",
        "cat corpus/multicall/many-calls-one-exit.hvp | hvfuzz repro -",
    ),
)
@click.argument("files", metavar="FILE...", type=PATH, nargs=-1, required=True)
@replay_bug_option
@option("--trace", "show_trace", is_flag=True, help="Print each op with its exits, calls, steps, frames and status.")
@option("-v", "--verbose", is_flag=True, help="With --trace: print all of it, and fold nothing.")
@json_option("Print one JSON object for each file.")
def command(files: tuple[Path, ...], bug: str | None, show_trace: bool, verbose: bool, as_json: bool) -> None:
    """Replay the program in each FILE (text or byte form; - is standard input) and report its findings.

    The findings of a program have one cause: the root comes first, what follows from it stands below. Exits with 1 if
    there are findings, with 0 if there are none, and with 2 for bad input.
    """
    if verbose and not show_trace:
        refuse_without_effect("--verbose", "without --trace")
    found = False
    for number, file in enumerate(files):
        planted = bug_for(file, bug)
        replayed = _replay(file, planted)
        found = found or bool(replayed.run.findings)
        trace = [*trace_lines(replayed.recording, verbose=verbose)] if show_trace else None
        if as_json:
            write_json(_document(file, planted, replayed, trace))
            continue
        console = Screen()
        if len(files) > 1:
            console.print(f"{chr(10) if number else ''}{file}", style="bold", markup=False, soft_wrap=True)
        if trace is not None:
            for line in (*LEGEND, "", *trace):
                console.print(escape(line), style=style_of(line), soft_wrap=True)
            console.print()
        _print(console, planted, replayed)
    sys.exit(1 if found else 0)


class _Replayed(NamedTuple):
    """A replay, and the number of ops of its program."""

    run: Run
    recording: Recording
    told: Explanation | None
    ops: int


def _replay(file: Path, planted: Bug | None) -> _Replayed:
    program = read_program(file, catalogue(ABI))
    deadly = deadly_run(program, planted)
    if deadly is not None:
        told = explain_without_run(program, planted, deadly.findings)
        return _Replayed(deadly, NOTHING_RECORDED, told, len(program.ops))
    record = record_beside(file)
    done = replay(program, planted, "" if record is None else record.identity)
    return _Replayed(*done, len(program.ops))


def _document(file: Path, planted: Bug | None, replayed: _Replayed, trace: list[str] | None) -> dict[str, Any]:
    run = replayed.run
    document: dict[str, Any] = {
        "file": str(file),
        "bug": None if planted is None else planted.name,
        "severity": None if replayed.told is None else replayed.told.severity,
        "findings": [{"identity": finding.identity, **finding._asdict()} for finding in run.findings],
        "excuses": dict(run.excuses),
        "digest": run.trace.digest(),
        "stopped": run.trace.stopped,
        "outcomes": [outcome._asdict() for outcome in run.trace.outcomes],
    }
    return document if trace is None else document | {"trace": trace}


def _print(console: Screen, planted: Bug | None, replayed: _Replayed) -> None:
    told, run = replayed.told, replayed.run
    if told is not None:
        title, *paragraph = first_paragraph(told)
        console.print(escape(title), style="bold red", soft_wrap=True)
        for line in paragraph:
            console.print(line, markup=False, soft_wrap=True)
        console.print()
        for number, finding in enumerate((told.root, *told.follows)):
            lead = "  follows: " if number else ""
            console.print(f"{lead}[bold red]{escape(finding.identity)}[/] at op {finding.op}", soft_wrap=True)
            console.print(f"{'    ' if number else '  '}{finding.message}", markup=False, soft_wrap=True)
    found = quantity(len(run.findings), "finding")
    build = "without a planted bug" if planted is None else f"with bug {planted.name}"
    ops = quantity(replayed.ops, "op")
    console.print(f"{found} {build}: ran {ops}, trace {run.trace.digest()[:16]}", markup=False, soft_wrap=True)
