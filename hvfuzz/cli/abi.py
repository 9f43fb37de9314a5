"""`hvfuzz abi`: the hypercall contract as a document, generated from the declarations."""

import sys
from pathlib import Path

import click

from hvfuzz.abi.manual.document import render
from hvfuzz.campaign.visible_text import print_error
from hvfuzz.cli.options import PATH, Command, json_option, option, refuse_both
from hvfuzz.cli.screen import command_line, write_json, write_text
from hvfuzz.engines.atomic_file import write_output
from hvfuzz.hypervisor.hypercalls import ABI


@click.command(
    "abi",
    cls=Command,
    short_help="Print, write or check the hypercall contract (ABI.md).",
    examples=("hvfuzz abi | head -40", "hvfuzz abi --write ABI.md", "hvfuzz abi --check ABI.md"),
)
@option("--write", metavar="FILE", type=PATH, help="Write the contract to FILE.")
@option("--check", metavar="FILE", type=PATH, help="Exit with 1 if FILE is out of date.")
@json_option("Print the calls as a JSON list.")
def command(write: Path | None, check: Path | None, as_json: bool) -> None:
    """Print the contract of every hypercall as Markdown.

    The contract is generated from the declarations that the hypervisor decodes and dispatches with.
    """
    refuse_both("--write", "--check", "--json")
    if as_json:
        calls = [
            {
                "number": call.number,
                "name": call.name,
                "since": call.since,
                "privileged": call.privileged,
                "fields": [{"name": f.name, "width": f.kind.width, "since": f.since} for f in call.fields],
                "errors": [error.name for error in call.errors],
            }
            for call in ABI.calls
        ]
        write_json(calls)
        return
    text = render(ABI)
    if write is not None:
        write_output(write, text.encode())
    elif check is not None:
        if check.read_bytes() != text.encode():
            print_error(f"{check} is out of date; update it with: {command_line('abi', '--write', check)}")
            sys.exit(1)
    else:
        write_text(text, end="")
