"""`hvfuzz bench traces`: that the same bytes give the same trace, in any order, process and Python version."""

import hashlib
import json
import platform
import sys

import click
from rich.console import Console

from hvfuzz.campaign.bench.trace_equality import SHOWN, OtherProcess, Rerun, differing, lines, shuffled_lines
from hvfuzz.cli.bench.progress_bar import MAX_SEED, Bar, figure_table


@click.command("traces", short_help="That the same program gives the same trace everywhere.")
@click.option("--programs", type=click.IntRange(min=1), default=1000, show_default=True, help="Programs to run.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=0, show_default=True, help="Of the programs.")
@click.option("--python", "pythons", multiple=True, metavar="PATH", help="Another interpreter; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def traces(programs: int, seed: int, pythons: tuple[str, ...], as_json: bool) -> None:
    """Run the same programs again in another order, in another process, and with each PATH, and compare everything.

    What is compared of a program: each outcome with the virtual clock, the machine's whole memory at the end, the
    features, and the findings. In the other order every second run is not audited, as most are while fuzzing. An
    interpreter given as PATH needs hvfuzz's dependencies, but not hvfuzz. Ends with status 1 if any program differs
    anywhere.

    \b
    Examples:
      hvfuzz bench traces --programs 10000
      hvfuzz bench traces --python ~/venv312/bin/python --python ~/venv313/bin/python
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
            bar.show(programs, "in another order, half of them not audited")
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
        print(json.dumps({**document, "runs": [rerun._asdict() for rerun in reruns], "different": len(different)}))
    else:
        _print_reruns(programs, reruns, digest, different)
    sys.exit(1 if different else 0)


def _print_reruns(programs: int, reruns: list[Rerun], digest: str, different: list[int]) -> None:
    table = figure_table("run", "the same", "different")
    for rerun in reruns:
        table.add_row(rerun.name, f"{programs - len(rerun.different):,}", f"{len(rerun.different):,}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(f"{programs:,} programs, digest of all {digest}")
    if different:
        console.print(f"different: programs {', '.join(map(str, different[:SHOWN]))}", style="bold red")
