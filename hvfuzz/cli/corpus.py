"""`hvfuzz corpus`: counts, extends and prunes the seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hvfuzz.campaign import seed_corpus
from hvfuzz.campaign.program_files import ProgramFileError
from hvfuzz.campaign.report import quantity
from hvfuzz.campaign.visible_text import one_line, print_error
from hvfuzz.cli.figure_table import FigureTable
from hvfuzz.cli.options import PATH, Group, json_option, option
from hvfuzz.cli.screen import Screen, write_json, write_text
from hvfuzz.guest.program.ops import catalogue
from hvfuzz.hypervisor.hypercalls import ABI
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES, find_harness

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


def _warn(passed: Sequence[ProgramFileError]) -> None:
    notice = seed_corpus.passed_over(passed)
    if notice is not None:
        print_error(f"warning: {notice}")


@click.group(
    "corpus",
    cls=Group,
    short_help="Count, add and prune seed programs.",
    examples=(
        "hvfuzz corpus stats",
        "hvfuzz corpus add crashes/secrets--canary--memory.populate@xsa-100/program.hvp --root my-corpus --harness dma",
        "hvfuzz corpus prune out/corpus/hypercalls --dry-run",
    ),
)
def command() -> None:
    """Count, add and prune the seed programs that campaigns start from (corpus/HARNESS)."""


@command.command(
    "stats",
    short_help="Count programs, ops and features of the seeds.",
    examples=("hvfuzz corpus stats", "hvfuzz corpus stats --root corpus --json"),
)
@option(
    "--root",
    metavar="FOLDER",
    type=FOLDER,
    default=Path("corpus"),
    show_default=True,
    help="Folder that holds one folder for each harness.",
)
@json_option("Print a JSON list.")
def stats(root: Path, as_json: bool) -> None:
    """Count the programs, their ops, and the state features they reach, for each harness and in total."""
    rows: list[dict[str, Any]] = []
    everything: set[int] = set()
    passed: list[ProgramFileError] = []
    with EmulatedTarget() as target:
        for harness in HARNESSES:
            folder = root / harness
            if not folder.is_dir():
                continue
            entries = seed_corpus.measure(seed_corpus.read_entries([folder], target.catalogue, passed), target)
            features = frozenset[int]().union(*(entry.features for entry in entries))
            everything |= features
            ops = sum(len(entry.program.ops) for entry in entries)
            rows.append({"harness": harness, "programs": len(entries), "ops": ops, "features": len(features)})
    rows.append(
        {
            "harness": "all",
            "programs": sum(row["programs"] for row in rows),
            "ops": sum(row["ops"] for row in rows),
            "features": len(everything),
        }
    )
    _warn(passed)
    if as_json:
        write_json(rows)
        return
    table = FigureTable("harness", "programs", "ops", "features")
    for row in rows:
        name, *figures = row.values()
        table.add_row(name, *(f"{figure:,}" for figure in figures))
    Screen().print(table)


@command.command(
    "add",
    short_help="Add programs to the seeds of a harness.",
    examples=(
        "hvfuzz corpus add crashes/secrets--canary--memory.populate@xsa-100/program.hvp --root my-corpus --harness dma",
        "hvfuzz corpus add out/corpus/hypercalls/* --root my-corpus",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
@option("--harness", metavar="NAME", default="hypercalls", show_default=True, help="Harness to add the seeds to.")
@option(
    "--root", metavar="FOLDER", type=PATH, default=Path("corpus"), show_default=True, help="Root folder of the corpus."
)
@json_option("Print a JSON list of the paths written.")
def add(files: tuple[Path, ...], harness: str, root: Path, as_json: bool) -> None:
    """Add programs, in text or byte form, to the seeds of a harness; prints the paths of the seeds.

    Seeds are stored as text under their own name. A name that a different program uses is an error.
    """
    name = find_harness(harness).name
    paths: list[str] = []
    try:
        for file in files:
            paths.append(str(seed_corpus.add(file, root / name, catalogue(ABI))))
    finally:  # those before one that cannot be added are there
        if as_json:
            write_json(paths)
        elif paths:
            write_text("\n".join(map(one_line, paths)))


@command.command(
    "prune",
    short_help="Delete programs that add no features.",
    examples=("hvfuzz corpus prune out/corpus/hypercalls --dry-run", "hvfuzz corpus prune out/corpus/hypercalls"),
)
@click.argument("folder", type=FOLDER)
@option("--dry-run", is_flag=True, help="List the programs without deleting them.")
@json_option()
def prune(folder: Path, dry_run: bool, as_json: bool) -> None:
    """Delete the programs in FOLDER that reach no state feature beyond those of the programs kept."""
    passed: list[ProgramFileError] = []
    with EmulatedTarget() as target:
        entries = seed_corpus.measure(seed_corpus.read_entries([folder], target.catalogue, passed), target)
    _warn(passed)
    kept, dropped = seed_corpus.cover(entries)
    if not dry_run:
        for entry in dropped:
            entry.path.unlink()
    if as_json:
        write_json({"kept": [str(e.path) for e in kept], "dropped": [str(e.path) for e in dropped]})
        return
    verb = "would delete" if dry_run else "deleted"
    for entry in dropped:
        write_text(one_line(f"{verb} {entry.path}"))
    write_text(f"{verb} {len(dropped)} of {quantity(len(entries), 'program')}")
