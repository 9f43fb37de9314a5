"""`hvfuzz cost`: what a program cost in virtual cycles, op by op, and what for."""

import json
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.files import read_program
from hvfuzz.cli.repro import bug_for
from hvfuzz.guest.text import render_op
from hvfuzz.targets.cost import KINDS, Costs, OpCost
from hvfuzz.targets.emulated import EmulatedTarget


@click.command("cost", short_help="Show what a program cost in virtual cycles, and where.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--bug", help="Plant this bug (default: the one that finding.json beside FILE names; 'none' for none).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(file: Path, bug: str | None, as_json: bool) -> None:
    """Run the program in FILE and account for the virtual cycles of each op: exits, entries, walks, flushes, copies.

    The figures are those of the machine's cost table (hvfuzz/machine/clock.py, each with its source): a VM exit and
    entry cost a thousand instructions, which is why guests batch their calls.

    \b
    Examples:
      hvfuzz cost corpus/multicall/many-calls-one-exit.hvp
      hvfuzz cost program.hvp --json
    """
    planted = bug_for(file, bug)
    costs = Costs(render_op)
    with EmulatedTarget(planted, oracles=frozenset(), recorder=costs) as target:
        run = target.run(read_program(file, target.catalogue), audit=False)
    total: Counter[str] = Counter()
    for op in costs.ops:
        total.update(op.kinds)
    if as_json:
        ops = [{**op._asdict(), "total": op.total} for op in costs.ops]
        document = {"file": str(file), "ops": ops, "kinds": total, "total": total.total(), "stopped": run.trace.stopped}
        print(json.dumps(document))
        return
    shown = [kind for kind in KINDS if total[kind]]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_footer=True)
    table.add_column("", justify="right")
    table.add_column("op", "all", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("cycles", f"{total.total():,}", justify="right")
    for kind in shown:
        table.add_column(kind, f"{total[kind]:,}", justify="right", header_style="dim")
    for op in costs.ops:
        table.add_row(str(op.op), Text(op.text), f"{op.total:,}", *_cells(op, shown))
    console = Console(highlight=False)
    console.print(table)
    if run.trace.stopped:
        console.print(f"the program ended early: {run.trace.stopped}", style="yellow")


def _cells(op: OpCost, kinds: list[str]) -> list[str]:
    return [f"{op.kinds[kind]:,}" if op.kinds.get(kind) else "" for kind in kinds]
