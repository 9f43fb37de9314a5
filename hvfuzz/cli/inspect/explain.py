"""`hvfuzz explain`: why a finding is one, told to someone who has never seen the program."""

import sys
from pathlib import Path

import click
from rich.markup import escape

from hvfuzz.campaign.findings import record_beside
from hvfuzz.campaign.forked_target import deadly_run
from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.options import PATH, Command, json_option, option, replay_bug_option
from hvfuzz.cli.repro import bug_for
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.engines.atomic_file import write_output
from hvfuzz.explain.explainer import explain, explain_without_run
from hvfuzz.explain.telling.as_page import page
from hvfuzz.explain.telling.as_text import HEADINGS, lines
from hvfuzz.explain.telling.explanation import Explanation
from hvfuzz.explain.telling.schema import explanation_schema
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI


@click.command(
    "explain",
    cls=Command,
    short_help="Explain the finding of a program.",
    examples=(
        "hvfuzz explain crashes/stale--tlb--memory.exchange@xsa-346/program.hvp",
        "hvfuzz explain crashes/recount--pins--grant.unmap@xsa-224/program.hvp --html explanation.html",
    ),
)
@click.argument("file", type=PATH, required=False)
@replay_bug_option
@option("--html", metavar="FILE", type=PATH, help="Also write the explanation as a page, with pictures, to FILE.")
@option("--schema", is_flag=True, help="Print the JSON Schema of what --json prints.")
@json_option()
def command(file: Path | None, bug: str | None, html: Path | None, schema: bool, as_json: bool) -> None:
    """Run the program in FILE and explain what it finds: what the guest did, what the hypervisor forgot, whose memory
    was reached, how bad that is, and where to look.

    Exits with 1 if there are findings, with 0 if there are none, and with 2 for bad input.
    """
    if schema:
        write_json(explanation_schema())
        return
    if file is None:
        raise click.UsageError("missing argument 'FILE', or --schema")
    planted = bug_for(file, bug)
    program = read_program(file, catalogue(ABI))
    record = record_beside(file)
    deadly = deadly_run(program, planted)
    told: Explanation | None
    if deadly is not None:
        told = explain_without_run(program, planted, deadly.findings)
    else:
        told = explain(program, planted, "" if record is None else record.identity)
    if html is not None and told is not None:
        write_output(html, page(told).encode())
    if as_json:
        write_json({"file": str(file), "explanation": None if told is None else told.as_document()})
        sys.exit(0 if told is None else 1)
    out = Screen(soft_wrap=True)
    if told is None:
        out.print(f"nothing to explain: {file} has no findings", markup=False)
        return
    width = min(max(out.width, 40), 100) if out.is_terminal else 100
    for number, line in enumerate(lines(told, width)):
        style = "bold red" if number == 0 else "bold" if line in HEADINGS or line.startswith("Frame ") else ""
        out.print(escape(line), style=style)
    sys.exit(1)
