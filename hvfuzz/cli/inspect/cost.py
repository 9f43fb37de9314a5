"""`hvfuzz cost`: what a program cost in virtual cycles, op by op, and what for; and what anything costs."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.repro import bug_for
from hvfuzz.guest.format.text import render_op
from hvfuzz.machine.clock import Cost
from hvfuzz.targets.emulated_target import EmulatedTarget
from hvfuzz.targets.inspect.cycle_account import KINDS, CycleAccount, OpCost

OP_WIDTH = 40
"""Columns that an op needs beside its figures; with fewer, they go to a line of their own."""


@click.command("cost", short_help="Show what a program cost in virtual cycles, and where.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--table", "as_table", is_flag=True, help="Show what an event costs, and where the figure comes from.")
@click.option("--bug", help="Plant this bug (default: the one that finding.json beside FILE names; 'none' for none).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(file: Path | None, as_table: bool, bug: str | None, as_json: bool) -> None:
    """Run the program in FILE and account for the virtual cycles of each op: exits, entries, walks, flushes, copies.

    An exit and entry cost as much as a thousand instructions, which is why guests batch their calls. --table lists the
    figures of the machine's cost table, each with its source.

    \b
    Examples:
      hvfuzz cost corpus/multicall/many-calls-one-exit.hvp
      hvfuzz cost program.hvp --json
      hvfuzz cost --table
    """
    if file is None and not as_table:
        raise click.UsageError("Give a FILE, or --table.")
    console = Console(highlight=False)
    document: dict[str, Any] = {}
    if as_table:
        document["table"] = [{"name": name, **figure._asdict()} for name, figure in Cost.figures.items()]
        if not as_json:
            _show_table(console)
    if file is not None:
        planted = bug_for(file, bug)
        costs = CycleAccount(render_op)
        with EmulatedTarget(planted, oracles=frozenset(), observer=costs) as target:
            stopped = target.run(read_program(file, target.catalogue), audit=False).trace.stopped
        total: Counter[str] = Counter()
        for op in costs.ops:
            total.update(op.kinds)
        ops = [{**op._asdict(), "total": op.total} for op in costs.ops]
        document |= {"file": str(file), "ops": ops, "kinds": total, "total": total.total(), "stopped": stopped}
        if not as_json:
            if as_table:
                console.print()
            _show(console, costs.ops, total)
            if stopped:
                console.print(f"the program ended early: {stopped}", style="yellow")
    if as_json:
        print(json.dumps(document))


def _show(console: Console, ops: list[OpCost], total: Counter[str]) -> None:
    """A row an op. Where that leaves too little of the op to see, what it cost is in a second line."""
    shown = [kind for kind in KINDS if total[kind]]
    widths = [max(len(f"{total[kind]:,}"), *map(len, kind.split())) for kind in shown]
    number = len(str(ops[-1].op)) if ops else 1
    cycles = max(len(f"{total.total():,}"), len("cycles"))
    left = console.width - (number + 2) - (2 + cycles)
    beside = left - sum(width + 2 for width in widths)
    wide = beside >= OP_WIDTH
    longest = max((len(op.text) for op in ops), default=0)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True, show_footer=wide)
    table.add_column("", justify="right", width=number)
    table.add_column("op", "all", overflow="ellipsis", no_wrap=True, width=min(longest, beside) if wide else left)
    table.add_column("cycles", f"{total.total():,}", justify="right", width=cycles)
    if wide:
        for kind, width in zip(shown, widths, strict=True):
            table.add_column(kind, f"{total[kind]:,}", justify="right", header_style="dim", width=width)
    for op in ops:
        cells = [f"{op.kinds[kind]:,}" if op.kinds.get(kind) else "" for kind in shown] if wide else []
        table.add_row(str(op.op), Text(op.text), f"{op.total:,}", *cells)
        if not wide:
            table.add_row("", _in_words(op.kinds, shown))
    if not wide:
        table.add_row("", Text("all", "bold"), Text(f"{total.total():,}", "bold"))
        table.add_row("", _in_words(total, shown))
    console.print(table)


def _in_words(kinds: Mapping[str, int], shown: list[str]) -> Padding:
    """What something cost, as "exits 700, entries 500"."""
    said = ", ".join(f"{kind} {kinds[kind]:,}" for kind in shown if kinds.get(kind))
    return Padding(Text(said, "dim", no_wrap=False, overflow="fold"), (0, 0, 0, 2))


def _show_table(console: Console) -> None:
    """What an event costs, and below it where the figure comes from."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("cost", no_wrap=True)
    table.add_column("cycles", justify="right", no_wrap=True)
    table.add_column("what, and where the figure comes from", ratio=1)
    for name, figure in Cost.figures.items():
        table.add_row(name, str(figure.cycles), figure.what)
        table.add_row("", "", Text(f"{figure.certainty}: {figure.source}", "dim"))
    console.print(table)
