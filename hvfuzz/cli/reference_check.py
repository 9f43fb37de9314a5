"""`hvfuzz reference`: our hardware models against implementations that nobody here wrote."""

import json
import sys

import click
from rich.console import Console
from rich.progress import Progress

from hvfuzz.references.reference import REFERENCES, Report, load_reference


@click.command("reference", short_help="Check the hardware models against Unicorn, Bochs and QEMU.")
@click.argument("name", type=click.Choice(list(REFERENCES)))
@click.option("--cases", type=click.IntRange(min=1), default=2000, show_default=True, help="Cases to compare.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Random seed of the cases.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(name: str, cases: int, seed: int, as_json: bool) -> None:
    """Compare a hardware model with an independent implementation, outcome by outcome.

    stage1 is x86-64 paging against Unicorn, ept Intel EPT against Bochs, vtd the IOMMU against QEMU. The exit status is
    1 if there is a difference that no named quirk of the implementation explains.

    \b
    Examples:
      hvfuzz reference stage1 --cases 20000
      hvfuzz reference vtd --cases 3000 --seed 7 --json
    """
    reference = load_reference(name)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(name, total=cases)
        report = reference.compare(cases, seed, lambda done: progress.update(task, completed=done))
    if as_json:
        print(json.dumps(report._asdict() | {"differences": [each._asdict() for each in report.differences]}))
    else:
        _print(report)
    sys.exit(1 if report.differences else 0)


def _print(report: Report) -> None:
    out = Console(highlight=False, soft_wrap=True)
    rate = report.cases / report.seconds if report.seconds else 0.0
    out.print(
        f"{report.name}: {report.cases:,} cases against {report.version} in {report.seconds:.1f} s ({rate:,.0f}/s), "
        f"seed {report.seed}: {len(report.differences) or 'no'} unexplained "
        f"difference{'' if len(report.differences) == 1 else 's'}"
    )
    for quirk, count in sorted(report.quirks.items()):
        out.print(f"  quirk {quirk}: {count:,} cases", markup=False)
    for difference in report.differences:
        out.print(f"  case {difference.number}: {difference.case}", markup=False)
        out.print(f"    model      {difference.model}", markup=False)
        out.print(f"    reference  {difference.reference}", markup=False)
