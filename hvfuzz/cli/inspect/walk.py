"""`hvfuzz walk`: shows how an address is translated at some point of a program, table by table."""

import re
import sys
from pathlib import Path
from typing import Final

import click
from rich.text import Text

from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.inspect.table_walk import path_of_gpa, path_of_iova
from hvfuzz.cli.inspect.walk_svg import draw, summary
from hvfuzz.cli.options import PATH, Command, Whole, json_option, option, refuse_without_effect, replay_bug_option
from hvfuzz.cli.repro import bug_for, refuse_deadly
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.engines.atomic_file import write_output
from hvfuzz.explain.pictures.path_drawing import draw_path
from hvfuzz.guest.format.op_parser import BASES
from hvfuzz.guest.format.scanner import shown, to_number
from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.guest.program.program import Actor, Op
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.addresses import U64, is_canonical
from hvfuzz.machine.cpu.vcpu import VCpu
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.emulated.page_walk import ACCESSES, FLAGS, LEVELS, Leg, Structure, Walk, walk

VCPU: Final = re.compile(r"dom([0-9]{1,3})(?:\.([0-9]{1,3}))?")
EPT_FLAGS: Final = ((0, "R"), (1, "W"), (2, "X"), (7, "large"), (8, "A"), (9, "D"))
GUEST_FLAGS: Final = ((0, "P"), (1, "RW"), (2, "US"), (5, "A"), (6, "D"), (7, "PS"), (8, "G"), (63, "NX"))


def address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Parse a guest virtual address: a number, or an offset from a name, such as DIRECT+0x1000."""
    if text is None:
        return None
    name, plus, offset = text.partition("+")
    base = next((start for known, start, _ in BASES if known == name), None)
    number = to_number(text if base is None else offset if plus else "0")
    if number is None:
        raise click.BadParameter(f"{shown(text)!r} is not an address (examples: 0x401000, DIRECT+0x1000)")
    gva = number + (base or 0)
    if not 0 <= gva <= U64:
        raise click.BadParameter(f"{shown(text)} is not a 64-bit address")
    if not is_canonical(gva):
        raise click.BadParameter(f"{gva:#x} is not canonical: bits 63 to 47 must be equal")
    return gva


def plain_address(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Parse an address of memory or of a device: a number."""
    number = 0 if text is None else to_number(text)
    if number is None or not 0 <= number <= U64:
        raise click.BadParameter(f"{shown(str(text))!r} is not an address (example: 0x41000)")
    return None if text is None else number


@click.command(
    "walk",
    cls=Command,
    short_help="Show how an address is translated, table by table.",
    examples=(
        "hvfuzz walk corpus/translation/large-stage1-pages.hvp --op 3 --gva DIRECT+0x40000",
        "hvfuzz walk corpus/translation/pcids.hvp --op 0 --gva 0x400000 --access w --user --cold --svg walk.svg",
        "hvfuzz walk corpus/dma/two-devices.hvp --gpa 0x40000 --vcpu dom1",
        "hvfuzz walk corpus/dma/two-devices.hvp --op 5 --iova 0x1000 --device 0",
    ),
)
@click.argument("file", type=PATH)
@option(
    "--op",
    "index",
    metavar="N",
    type=Whole(min=0),
    help="Translate just before op N, counted from 0. [default: after the last op]",
)
@option("--gva", metavar="ADDRESS", callback=address, help="Guest virtual address to translate.")
@option("--gpa", metavar="ADDRESS", callback=plain_address, help="Guest physical address to translate.")
@option("--iova", metavar="ADDRESS", callback=plain_address, help="Address that a device uses.")
@option("--device", metavar="N", type=Whole(min=0), help="Translate --iova for this device. [default: 0]")
@option(
    "--access",
    type=click.Choice(list(ACCESSES)),
    default="r",
    show_default=True,
    help="Access to translate for: read, write or execute.",
)
@option("--user", is_flag=True, help="Translate for user mode. [default: the current mode of the vCPU]")
@option("--vcpu", "who", metavar="domN.K", help="Translate as this vCPU. [default: the vCPU of the op]")
@option("--cold", is_flag=True, help="Ignore TLB and paging-structure caches, so that every table is read.")
@replay_bug_option
@option("--svg", metavar="FILE", type=PATH, help="Also draw the walk to FILE.")
@json_option()
def command(
    file: Path,
    index: int | None,
    gva: int | None,
    gpa: int | None,
    iova: int | None,
    device: int | None,
    access: str,
    user: bool,
    who: str | None,
    cold: bool,
    bug: str | None,
    svg: Path | None,
    as_json: bool,
) -> None:
    """Run the program in FILE up to an op, then translate an address as the vCPU of that op, or a device, would.

    For --gva: the two-dimensional walk, each entry of the guest's page tables, the EPT entries read to reach it (up to
    24 references in all), the steps that a cache saved, and the result. A line "cached" names the paging-structure
    entry that the walk starts from and the table it continues with. For --gpa and --iova: each entry of the tables in
    memory, and what the caches say. Exits with 1 if the translation faults.
    """
    if sum(each is not None for each in (gva, gpa, iova)) != 1:
        raise click.UsageError("give one of --gva, --gpa and --iova")
    if device is not None and iova is None:
        refuse_without_effect("--device", "without --iova")
    planted = bug_for(file, bug)
    program = read_program(file, catalogue(ABI))
    if not program.ops or (index is not None and index >= len(program.ops)):
        last = f"the ops of {file} are 0 to {len(program.ops) - 1}" if program.ops else f"{file} has no ops"
        raise click.UsageError(f"no op {index or 0}: {last}")
    before = program if index is None else program._replace(ops=program.ops[:index])
    acting = program.ops[-1 if index is None else index]
    when = "after the last op" if index is None else f"before op {index}: {render_op(acting)}"
    refuse_deadly(file, before, planted)
    with EmulatedTarget(planted, oracles=frozenset()) as target:
        run = target.run(before, audit=False)
        if run.trace.stopped:
            raise click.ClickException(f"{file}: the program stops {when.partition(':')[0]}: {run.trace.stopped}")
        machine = target.system(program.world).machine
        if gva is not None:
            done = walk(_vcpu(machine.vcpus, acting, who), gva, access, user=True if user else None, cold=cold)
            if svg is not None:
                write_output(svg, draw(done).encode())
            _tell(done, when, as_json=as_json)
            sys.exit(0 if done.hpa is not None else 1)
        if gpa is not None:
            path = path_of_gpa(machine, _vcpu(machine.vcpus, acting, who), gpa)
        else:
            path = path_of_iova(machine, device or 0, iova or 0)
    if svg is not None:
        write_output(svg, draw_path(path.story, alone=True).encode())
    if as_json:
        write_json({"when": when, **path.as_document()})
    else:
        out = Screen(soft_wrap=True)
        for line in path.lines(when):
            out.print(line, markup=False)
    sys.exit(0 if path.hpa is not None else 1)


def _tell(done: Walk, when: str, *, as_json: bool) -> None:
    if not as_json:
        _print(done, when)
        return
    legs = [
        leg._asdict()
        | {"references": [each._asdict() for each in leg.references]}
        | {"structure": leg.structure and leg.structure._asdict()}
        for leg in done.legs
    ]
    counts = {"table_references": done.references, "hits": done.hits, "began": done.began}
    write_json(done._asdict() | {"legs": legs} | counts)


def _vcpu(vcpus: list[VCpu], op: Op, who: str | None) -> VCpu:
    actor = op.actor
    if who is not None:
        match = VCPU.fullmatch(who)
        if match is None:
            raise click.BadParameter(f"{who!r} is not a vCPU (example: dom1.0)", param_hint="--vcpu")
        actor = Actor(int(match[1]), int(match[2] or 0))
    for vcpu in vcpus:
        if (vcpu.domain, vcpu.index) == actor:
            return vcpu
    raise click.BadParameter(f"no vCPU dom{actor.domain}.{actor.vcpu} in this world", param_hint="--vcpu")


def _print(done: Walk, when: str) -> None:
    out = Screen(soft_wrap=True)
    verb = {"r": "read", "w": "write", "x": "fetch"}[done.access]
    mode = "user" if done.user else "supervisor"
    out.print(f"gva {done.gva:#x}, {mode} {verb} by {done.who}, {when}", markup=False)
    if done.hit:
        out.print("  TLB     combined mapping", style="green")
    for leg in done.legs:
        _print_leg(out, leg)
    style = "bold red" if done.hpa is None else "bold"
    out.print(f"= {summary(done)}", style=style, markup=False)


def _print_leg(out: Screen, leg: Leg) -> None:
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
    """Describe a cached paging-structure entry: its level, the table it points to, and the accumulated rights."""
    stage, names = ("EPT ", EPT_FLAGS) if structure.stage == 2 else ("", GUEST_FLAGS)
    return f"{stage}{LEVELS[structure.level]} -> table {structure.table:#x}  {flags(structure.rights, names)}"


def flags(entry: int, names: tuple[tuple[int, str], ...]) -> str:
    """The names of the flags set in `entry`, or "-"."""
    return " ".join(name for bit, name in names if entry >> bit & 1) or "-"
