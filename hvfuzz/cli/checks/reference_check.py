"""`hvfuzz reference`: compares the hardware models with independent implementations."""

import json
import sys

import click
from rich.console import Console
from rich.progress import Progress

from hvfuzz.campaign.report import quantity
from hvfuzz.cli.options import Command, json_option, option, seed_option
from hvfuzz.references.all_references import REFERENCES, load_reference
from hvfuzz.references.reference import Report


@click.command(
    "reference",
    cls=Command,
    short_help="Compare the hardware models with Unicorn, Bochs and QEMU.",
    examples=("hvfuzz reference stage1 --cases 20000", "hvfuzz reference vtd --cases 3000 --seed 7 --json"),
)
@click.argument("name", metavar="MODEL", type=click.Choice(list(REFERENCES)))
@option("--cases", metavar="N", type=click.IntRange(min=1), default=2000, show_default=True, help="Cases to compare.")
@seed_option("Random seed of the cases.", default=1, maximum=None)
@json_option()
def command(name: str, cases: int, seed: int, as_json: bool) -> None:
    """Compare a hardware model with an independent implementation on random cases.

    \b
    MODEL is one of:
      stage1  x86-64 paging, compared with Unicorn
      ept     Intel EPT, compared with Bochs
      ring    rings, exceptions and VM entry and exit, compared with Bochs
      vtd     the Intel VT-d IOMMU, compared with QEMU

    Where the implementation is known to depart from the manual, a named quirk explains the difference; for each quirk
    the number of cases is shown that would be a difference without it. Exits with 1 if any difference is unexplained.
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
    found = quantity(len(report.differences), "unexplained difference")
    out.print(
        f"{report.name}: {found} in {report.cases:,} cases against {report.version}, seed {report.seed} "
        f"({report.seconds:.1f} s, {rate:,.0f} cases/s)"
    )
    for quirk, count in sorted(report.quirks.items()):
        out.print(f"  quirk {quirk}: changed the verdict of {quantity(count, 'case')}", markup=False)
    for difference in report.differences:
        out.print(f"  case {difference.number}: {difference.case}", markup=False)
        out.print(f"    model      {difference.model}", markup=False)
        out.print(f"    reference  {difference.reference}", markup=False)
