"""`hvfuzz abi`: the hypercall contract as a document, generated from the declarations."""

import json
import sys
from pathlib import Path

import click

from hvfuzz.abi.document import render
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.hypervisor.hypercalls import ABI


@click.command("abi", short_help="The hypercall contract: print, write or check ABI.md.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the document to this file.")
@click.option("--check", type=click.Path(path_type=Path), help="Exit 1 if this file is not up to date.")
@click.option("--json", "as_json", is_flag=True, help="Print the calls as JSON.")
def command(write: Path | None, check: Path | None, as_json: bool) -> None:
    """Print the contract of every hypercall, from the same declarations that the hypervisor runs on.

    \b
    Examples:
      hvfuzz abi | less
      hvfuzz abi --write ABI.md
      hvfuzz abi --check ABI.md
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
            print(f"{check}: out of date; run: hvfuzz abi --write {check}", file=sys.stderr)
            sys.exit(1)
    else:
        click.echo(text, nl=False)
