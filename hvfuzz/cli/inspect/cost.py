"""`hvfuzz cost`: the virtual cycles that a program takes, by op and by kind of event, and the cost table."""

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hvfuzz.campaign.program_files import read_program
from hvfuzz.cli.options import PATH, Command, json_option, option, refuse_without_effect, replay_bug_option
from hvfuzz.cli.repro import bug_for, refuse_deadly
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.guest.format.text import render_op
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.machine.clock import Cost
from hvfuzz.targets.emulated.cycle_account import KINDS, CycleAccount, OpCost
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

INDENT = 2
TABLE_WIDTH = 60
"""Narrower terminals get lines of text instead of a table, which would cut words and figures."""
OP_WIDTH = 40
"""Minimum width of an op beside its figures; on a narrower terminal the figures go to the next line."""


@click.command(
    "cost",
    cls=Command,
    short_help="Show the virtual cycles that a program takes.",
    examples=(
        "hvfuzz cost corpus/multicall/many-calls-one-exit.hvp",
        "hvfuzz cost corpus/multicall/many-calls-one-exit.hvp --json",
        "hvfuzz cost --table",
    ),
)
@click.argument("file", type=PATH, required=False)
@option("--table", "as_table", is_flag=True, help="Show the cycles of each event and the source of the figure.")
@replay_bug_option
@json_option()
def command(file: Path | None, as_table: bool, bug: str | None, as_json: bool) -> None:
    """Run the program in FILE and show the virtual cycles of each op, by exits, entries, walks, flushes and copies.

    One exit with its entry costs about a thousand instructions, which is why guests batch their calls.
    """
    if file is None and not as_table:
        raise click.UsageError("missing argument 'FILE', or --table")
    if file is None:
        refuse_without_effect("--bug", "without FILE")
    console = Screen()
    document: dict[str, Any] = {}
    if as_table:
        document["table"] = [{"name": name, **figure._asdict()} for name, figure in Cost.figures.items()]
        if not as_json:
            _show_table(console)
    if file is not None:
        planted = bug_for(file, bug)
        costs = CycleAccount(render_op)
        program = read_program(file, catalogue(ABI))
        refuse_deadly(file, program, planted)
        with EmulatedTarget(planted, oracles=frozenset(), observer=costs) as target:
            stopped = target.run(program, audit=False).trace.stopped
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
                console.print(f"the program stopped early: {stopped}", style="yellow", soft_wrap=True)
    if as_json:
        write_json(document)
    if document.get("stopped"):
        sys.exit(1)  # a host that stops is a finding; `hvfuzz repro` names it


def _show(console: Screen, ops: list[OpCost], total: Counter[str]) -> None:
    """Print one row per op with its cycles by kind; on a narrow terminal the kinds go to a second line."""
    shown = [kind for kind in KINDS if total[kind]]
    if console.width < TABLE_WIDTH:
        for name, cycles, kinds in (
            *((f"{op.op} {op.text}", op.total, op.kinds) for op in ops),
            ("all", total.total(), total),
        ):
            parts = ", ".join(f"{kind} {kinds[kind]:,}" for kind in shown if kinds.get(kind))
            console.print(Text(name, "bold", overflow="fold"))
            console.print(Padding(Text(f"{cycles:,} cycles: {parts}", overflow="fold"), (0, 0, 0, INDENT)))
        return
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
            table.add_row("", _in_words(op.kinds, shown, left))
    if not wide:
        table.add_row("", Text("all", "bold"), Text(f"{total.total():,}", "bold"))
        table.add_row("", _in_words(total, shown, left))
    console.print(table)


def _in_words(kinds: Mapping[str, int], shown: list[str], width: int) -> Padding:
    """Format cycles as "exits 700, entries 500", in lines of at most `width` that break after a comma."""
    lines = [""]
    for kind in shown:
        if not kinds.get(kind):
            continue
        item = f"{kind} {kinds[kind]:,}"
        if lines[-1] and len(lines[-1]) + len(item) + INDENT + 2 > width:
            lines[-1] += ","
            lines.append(item)
        else:
            lines[-1] += f", {item}" if lines[-1] else item
    return Padding(Text("\n".join(lines), "dim", overflow="fold"), (0, 0, 0, INDENT))


def _show_table(console: Screen) -> None:
    """Print the cost of each event, with the source of the figure on the line below."""
    if console.width < TABLE_WIDTH:
        for name, figure in Cost.figures.items():
            console.print(Text(f"{name} {figure.cycles}", "bold", overflow="fold"))
            for text, style in ((figure.what, ""), (f"{figure.certainty}: {figure.source}", "dim")):
                console.print(Padding(Text(text, style, overflow="fold"), (0, 0, 0, INDENT)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("event", no_wrap=True)
    table.add_column("cycles", justify="right", no_wrap=True)
    table.add_column("description, and source of the figure", ratio=1)
    for name, figure in Cost.figures.items():
        table.add_row(name, str(figure.cycles), figure.what)
        table.add_row("", "", Text(f"{figure.certainty}: {figure.source}", "dim"))
    console.print(table)
