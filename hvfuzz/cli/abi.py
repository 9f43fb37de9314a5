"""`hvfuzz abi`: the hypercall contract as a document, generated from the declarations."""

import json
import sys
from pathlib import Path

import click

from hvfuzz.abi.manual.document import render
from hvfuzz.cli.options import PATH, Command, json_option, option
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.hypervisor.hypercalls import ABI


@click.command(
    "abi",
    cls=Command,
    short_help="Print, write or check the hypercall contract (ABI.md).",
    examples=("hvfuzz abi | less", "hvfuzz abi --write ABI.md", "hvfuzz abi --check ABI.md"),
)
@option("--write", metavar="FILE", type=PATH, help="Write the contract to FILE.")
@option("--check", metavar="FILE", type=PATH, help="Exit with 1 if FILE is out of date.")
@json_option("Print the calls as a JSON list.")
def command(write: Path | None, check: Path | None, as_json: bool) -> None:
    """Print the contract of every hypercall as Markdown.

    The contract is generated from the declarations that the hypervisor decodes and dispatches with.
    """
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
        print(json.dumps(calls))
        return
    text = render(ABI)
    if write is not None:
        write_atomically(write, text.encode())
    elif check is not None:
        if check.read_text() != text:
            print(f"{check} is out of date; update it with: hvfuzz abi --write {check}", file=sys.stderr)
            sys.exit(1)
    else:
        click.echo(text, nl=False)
