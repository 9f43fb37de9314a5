"""`hvfuzz bench traces`: checks that a program gives the same trace in any order, process and Python version."""

import hashlib
import platform
import sys

import click

from hvfuzz.campaign.bench.trace_equality import SHOWN, OtherProcess, Rerun, differing, lines, shuffled_lines
from hvfuzz.campaign.report import quantity
from hvfuzz.cli.bench.benchmark_progress import Bar
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import Command, Whole, json_option, option, seed_option
from hvfuzz.cli.screen import Screen, write_json


@click.command(
    "traces",
    cls=Command,
    short_help="Check that runs are deterministic.",
    examples=(
        "hvfuzz bench traces --programs 10000",
        "hvfuzz bench traces --python .venv/bin/python",
    ),
)
@option(
    "--programs",
    metavar="N",
    type=Whole(min=1),
    default=1000,
    show_default=True,
    help="Number of programs to run.",
)
@seed_option("Random seed of the programs.", default=0)
@option("--python", "pythons", multiple=True, metavar="PATH", help="Another Python to compare with; may be repeated.")
@json_option()
def traces(programs: int, seed: int, pythons: tuple[str, ...], as_json: bool) -> None:
    """Run the same random programs in another order, in another process and with each --python, and compare.

    Compares each outcome with its virtual time, the machine's memory at the end, the features and the findings. In
    the other order every second run goes without the audit, as most runs of a campaign do. The Pythons need the
    dependencies of hvfuzz, but not hvfuzz itself. Exits with 1 if any program differs.
    """
    others = [("another process", sys.executable), *((f"with {path}", path) for path in pythons)]
    expected: list[str] = []
    reruns: list[Rerun] = []
    running: list[OtherProcess] = []
    with Bar(programs * (2 + len(others))) as bar:
        try:
            for line in lines(programs, seed):
                expected.append(line)
                bar.show(len(expected), f"program {len(expected):,}")
            bar.show(programs, "another order, half of the runs without audit")
            reruns.append(Rerun("another order", sys.executable, differing(expected, shuffled_lines(programs, seed))))
            for number, (name, python) in enumerate(others):
                bar.show(programs * (2 + number), name)
                running.append(OtherProcess(python, number + 1, programs, seed))
                reruns.append(Rerun(name, python, differing(expected, running[-1].lines())))
        finally:
            for process in running:
                process.stop()
    digest = hashlib.sha256("\n".join(expected).encode()).hexdigest()
    different = sorted({number for rerun in reruns for number in rerun.different})
    if as_json:
        document = {"programs": programs, "seed": seed, "python": platform.python_version(), "digest": digest}
        write_json({**document, "runs": [rerun._asdict() for rerun in reruns], "different": len(different)})
    else:
        _print_reruns(programs, reruns, digest, different)
    sys.exit(1 if different else 0)


def _print_reruns(programs: int, reruns: list[Rerun], digest: str, different: list[int]) -> None:
    table = FigureTable("run", "same", "different")
    for rerun in reruns:
        table.add_row(rerun.name, f"{programs - len(rerun.different):,}", f"{len(rerun.different):,}")
    console = Screen(soft_wrap=True)
    console.print(table)
    verdict = f"{len(different):,} differ" if different else "all the same"
    style = "bold red" if different else "green"
    console.print(f"{quantity(programs, 'program')}: {verdict}, digest {digest}", style=style)
    if different:
        more = ", ..." if len(different) > SHOWN else ""
        console.print(f"different: programs {', '.join(map(str, different[:SHOWN]))}{more}", style="bold red")
