"""`hvfuzz bench oracles`: what each oracle costs."""

from pathlib import Path

import click

from hvfuzz.campaign.bench.oracle_costs import ALL, NONE, OracleCost, measure_oracles
from hvfuzz.campaign.bench.speed import typical_programs
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.seed_corpus import read_entries, seed_folders
from hvfuzz.cli.bench.benchmark_progress import Bar
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import Command, Whole, json_option, option, seed_option
from hvfuzz.cli.screen import Screen, write_json
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget


@click.command(
    "oracles",
    cls=Command,
    short_help="Measure what each oracle costs.",
    examples=("hvfuzz bench oracles", "hvfuzz bench oracles --rounds 9 --json"),
)
@option(
    "--rounds", metavar="N", type=Whole(1, 1000), default=5, show_default=True, help="Number of rounds of each set-up."
)
@seed_option("Random seed of the programs.", default=1)
@json_option()
def oracles(rounds: int, seed: int, as_json: bool) -> None:
    """Measure the processor time that each oracle adds to an op, in plain and in audited runs.

    An oracle costs what a run takes less when it alone is left out. What oracles share belongs to none of them, so the
    shares do not add up to the whole. Figures are medians over the rounds.
    """
    with EmulatedTarget() as target:
        folders = seed_folders("hypercalls", ())
        seeds = [entry.program for entry in read_entries(map(Path, folders), target.catalogue)]
        programs = typical_programs(target, seed, seeds)
    costs: list[OracleCost] = []
    with Bar(rounds) as bar:
        bar.show(0, "measuring oracles")
        for step in measure_oracles(programs, rounds):
            if isinstance(step, list):
                costs = step
            else:
                bar.show(step, f"round {step} of {rounds}")
    if as_json:
        write_json({"rounds": rounds, "programs": len(programs), "oracles": [cost._asdict() for cost in costs]})
        return
    out = Screen()
    title = f"oracles: {quantity(len(programs), 'program')}, median of {quantity(rounds, 'round')}; microseconds an op"
    out.print(title, style="bold")
    whole = costs[0]
    table = FigureTable("set-up", "plain", "share", "audited", "share")
    for cost in costs:
        shares = (cost.plain / whole.plain, cost.audited / whole.audited)
        sign = "" if cost.name in (ALL, NONE) else "+"
        table.add_row(
            cost.name,
            f"{cost.plain:{sign}.1f}",
            f"{shares[0]:.1%}",
            f"{cost.audited:{sign}.1f}",
            f"{shares[1]:.1%}",
        )
    out.print(table)
