"""`hvfuzz corpus`: what the seeds are worth, and keeping them few."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from hvfuzz.campaign import seed_corpus
from hvfuzz.targets.emulated.emulated import EmulatedTarget
from hvfuzz.targets.harness import HARNESSES, find_harness

FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group("corpus", short_help="The corpus: stats, add, prune.")
def command() -> None:
    """The corpus of seed programs.

    \b
    Examples:
      hvfuzz corpus stats
      hvfuzz corpus add found.hvp --harness dma
      hvfuzz corpus prune out/corpus/hypercalls --dry-run
    """


@command.command("stats")
@click.option(
    "--root", type=FOLDER, default=Path("corpus"), show_default=True, help="Folder with one folder a harness."
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def stats(root: Path, as_json: bool) -> None:
    """Count programs, ops and the state features that they reach, for each harness and for all.

    \b
    Examples:
      hvfuzz corpus stats
      hvfuzz corpus stats --root my-corpus --json
    """
    rows: list[dict[str, Any]] = []
    everything: set[int] = set()
    with EmulatedTarget() as target:
        for harness in HARNESSES:
            folder = root / harness
            if not folder.is_dir():
                continue
            entries = seed_corpus.measure(seed_corpus.read_entries([folder], target.catalogue), target)
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
    if as_json:
        print(json.dumps(rows))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("harness")
    for title in ("programs", "ops", "features"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(highlight=False).print(table)


@command.command("add")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--harness", default="hypercalls", show_default=True, help="Whose seeds they become.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("corpus"), show_default=True, help="The corpus.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the paths written.")
def add(files: tuple[Path, ...], harness: str, root: Path, as_json: bool) -> None:
    """Add programs, bytes or text, to the seeds of a harness, as text.

    \b
    Examples:
      hvfuzz corpus add found.hvp --harness dma
      hvfuzz corpus add out/corpus/hypercalls/* --root my-corpus
    """
    name = find_harness(harness).name
    with EmulatedTarget() as target:
        paths = [str(seed_corpus.add(file, root / name, target.catalogue)) for file in files]
    print(json.dumps(paths) if as_json else "\n".join(paths))


@command.command("prune")
@click.argument("folder", type=FOLDER)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def prune(folder: Path, dry_run: bool, as_json: bool) -> None:
    """Delete the programs of FOLDER that add no state feature to the others.

    \b
    Example:
      hvfuzz corpus prune out/corpus/hypercalls --dry-run
    """
    with EmulatedTarget() as target:
        entries = seed_corpus.measure(seed_corpus.read_entries([folder], target.catalogue), target)
    kept, dropped = seed_corpus.cover(entries)
    if not dry_run:
        for entry in dropped:
            entry.path.unlink()
    if as_json:
        print(json.dumps({"kept": [str(e.path) for e in kept], "dropped": [str(e.path) for e in dropped]}))
        return
    for entry in dropped:
        print(f"{'would drop' if dry_run else 'dropped'} {entry.path}")
    print(f"{len(kept)} kept, {len(dropped)} {'to drop' if dry_run else 'dropped'}")
