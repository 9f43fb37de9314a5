"""`hvfuzz show`: prints a program file as text."""

from pathlib import Path

import click

from hvfuzz.abi.boot import WORLDS
from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.options import PATH, Command, json_option
from hvfuzz.cli.screen import write_json, write_text
from hvfuzz.guest.format.binary import encode
from hvfuzz.guest.format.text import render, render_op
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI


@click.command(
    "show",
    cls=Command,
    short_help="Print a program as text.",
    examples=(
        "hvfuzz show corpus/multicall/many-calls-one-exit.hvp",
        "hvfuzz show crashes/host_memory--null--sched.poll@xsa-221/program.hvp > copy.hvp",
    ),
)
@click.argument("file", type=PATH)
@json_option("Print the world, the ops and the bytes as one JSON object.")
def command(file: Path, as_json: bool) -> None:
    """Print the program in FILE, which may be text or the fuzzer's byte form, as text."""
    ops = catalogue(ABI)
    program = read_program(file, ops)
    if as_json:
        write_json(
            {
                "world": WORLDS[program.world].name,
                "ops": [render_op(op) for op in program.ops],
                "bytes": encode(program, ops).hex(),
            }
        )
    else:
        write_text(render(program), end="")
