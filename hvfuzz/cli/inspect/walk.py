"""`hvfuzz walk`: how an address is translated at some point of a program, table by table."""

import json
import re
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.inspect.walk_svg import draw, summary
from hvfuzz.cli.repro import bug_for
from hvfuzz.guest.format.op_parser import BASES
from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.program import Actor, Program
from hvfuzz.machine.addresses import U64, is_canonical
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.targets.emulated_target import EmulatedTarget
from hvfuzz.targets.inspect.page_walk import ACCESSES, FLAGS, LEVELS, Leg, Structure, Walk, walk

VCPU: Final = re.compile(r"dom(\d+)(?:\.(\d+))?")
EPT_FLAGS: Final = ((0, "R"), (1, "W"), (2, "X"), (7, "large"), (8, "A"), (9, "D"))
GUEST_FLAGS: Final = ((0, "P"), (1, "RW"), (2, "US"), (5, "A"), (6, "D"), (7, "PS"), (8, "G"), (63, "NX"))


def address(_context: click.Context, _parameter: click.Parameter, text: str) -> int:
    """A linear address, as a program writes it: a number, or an offset from a name such as DIRECT+0x1000."""
    name, plus, offset = text.partition("+")
    base = next((start for known, start, _ in BASES if plus and known == name), None)
    try:
        gva = int(text, 0) if base is None else base + int(offset, 0)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number") from None
    if not 0 <= gva <= U64:
        raise click.BadParameter(f"{text} is no address of 64 bits")
    if not is_canonical(gva):
        raise click.BadParameter(f"{gva:#x} is not canonical: bits 63 to 47 of an address are all equal")
    return gva


@click.command("walk", short_help="Show how an address is translated, table by table.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--op", "index", type=click.IntRange(min=0), required=True, help="Translate just before this op.")
@click.option("--gva", callback=address, required=True, help="The guest virtual address.")
@click.option("--access", type=click.Choice(list(ACCESSES)), default="r", show_default=True, help="The access.")
@click.option("--user", is_flag=True, help="As user mode (default: the mode that the vCPU is in).")
@click.option("--vcpu", "who", metavar="domN.K", help="Whose address it is (default: the vCPU of the op).")
@click.option("--cold", is_flag=True, help="With caches that are and stay empty: every table is read.")
@click.option("--bug", help="Plant this bug (default: the one that finding.json beside FILE names; 'none' for none).")
@click.option("--svg", type=click.Path(path_type=Path), help="Draw it, too, to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    file: Path,
    index: int,
    gva: int,
    access: str,
    user: bool,
    who: str | None,
    cold: bool,
    bug: str | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Run the program in FILE up to an op, then translate an address as that op's vCPU would.

    Shows the two-dimensional walk: each entry of the guest's page tables, the EPT entries (up to 24 in all) that
    were read to get at it, what a cache spared, and where and why the walk ended. A cached paging-structure entry lets
    it begin further down: those lines name the entry, and the table that the walk goes on with. Ends with status 1 if
    it failed.

    \b
    Examples:
      hvfuzz walk program.hvp --op 3 --gva DIRECT+0x40000
      hvfuzz walk program.hvp --op 0 --gva 0x400000 --access w --user --cold --svg walk.svg
    """
    planted = bug_for(file, bug)
    with EmulatedTarget(planted, oracles=frozenset()) as target:
        program = read_program(file, target.catalogue)
        if index >= len(program.ops):
            raise click.UsageError(f"no op {index}: {file} has {len(program.ops)} ops, counted from 0")
        run = target.run(program._replace(ops=program.ops[:index]), audit=False)
        if run.trace.stopped:
            raise click.ClickException(f"{file}: the program ends before op {index}: {run.trace.stopped}")
        vcpu = _vcpu(target.system(program.world).machine.vcpus, program, index, who)
        done = walk(vcpu, gva, access, user=True if user else None, cold=cold)
    if svg is not None:
        svg.write_text(draw(done), encoding="utf-8")
    if as_json:
        legs = [
            leg._asdict()
            | {"references": [each._asdict() for each in leg.references]}
            | {"structure": leg.structure and leg.structure._asdict()}
            for leg in done.legs
        ]
        counts = {"table_references": done.references, "hits": done.hits, "began": done.began}
        print(json.dumps(done._asdict() | {"legs": legs} | counts))
    else:
        _print(done, f"before op {index}: {render_op(program.ops[index])}")
    sys.exit(0 if done.hpa is not None else 1)


def _vcpu(vcpus: list[VCpu], program: Program, index: int, who: str | None) -> VCpu:
    actor = program.ops[index].actor
    if who is not None:
        match = VCPU.fullmatch(who)
        if match is None:
            raise click.BadParameter(f"{who!r} is no vCPU such as dom1.0", param_hint="--vcpu")
        actor = Actor(int(match[1]), int(match[2] or 0))
    for vcpu in vcpus:
        if (vcpu.domain, vcpu.index) == actor:
            return vcpu
    raise click.BadParameter(f"there is no dom{actor.domain}.{actor.vcpu} in this world", param_hint="--vcpu")


def _print(done: Walk, when: str) -> None:
    out = Console(highlight=False, soft_wrap=True)
    verb = {"r": "read", "w": "write", "x": "fetch"}[done.access]
    mode = "user" if done.user else "supervisor"
    out.print(f"gva {done.gva:#x}, {mode} {verb} by {done.who}, {when}", markup=False)
    if done.hit:
        out.print("  TLB     combined mapping", style="green")
    for leg in done.legs:
        _print_leg(out, leg)
    style = "bold red" if done.hpa is None else "bold"
    out.print(f"= {summary(done)}", style=style, markup=False)


def _print_leg(out: Console, leg: Leg) -> None:
    name = "flags" if leg.level == FLAGS else LEVELS[leg.level]
    line = Text(f"  {name:7} gpa {leg.gpa:#x}", style="bold")
    if leg.hpa is not None:
        line.append(f" -> hpa {leg.hpa:#x}")
    if leg.entry is not None:
        line.append(f" = {leg.entry:#x}  {flags(leg.entry, GUEST_FLAGS)}")
    out.print(line)
    if leg.cached:
        out.print("      TLB     guest-physical mapping", style="green")
    if leg.structure is not None:
        out.print(f"      cached  {describe(leg.structure)}", style="green", markup=False)
    for number, reference in enumerate(leg.references, 1):
        failed = leg.hpa is None and leg.level != FLAGS and number == len(leg.references)
        text = f"      EPT {LEVELS[reference.level]:5} {reference.table:#x}[{reference.slot}] = {reference.entry:#x}"
        out.print(f"{text}  {flags(reference.entry, EPT_FLAGS)}", style="red" if failed else "dim", markup=False)


def describe(structure: Structure) -> str:
    """A cached paging-structure entry in words: which, the table that it names, and the rights so far."""
    stage, names = ("EPT ", EPT_FLAGS) if structure.stage == 2 else ("", GUEST_FLAGS)
    return f"{stage}{LEVELS[structure.level]} -> table {structure.table:#x}  {flags(structure.rights, names)}"


def flags(entry: int, names: tuple[tuple[int, str], ...]) -> str:
    """The flags that are set in an entry, by name."""
    return " ".join(name for bit, name in names if entry >> bit & 1) or "-"
