"""The corpus: seeds as text files that a person can review, and what each adds in features."""

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hvfuzz.campaign.program_files import SUFFIX, ProgramFileError, read_program, read_seed
from hvfuzz.engines.engine import write_whole
from hvfuzz.guest.format.text import MAGIC, render
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.target import Target


class Entry(NamedTuple):
    """One corpus program, and the features of its run (none before it has run)."""

    path: Path
    program: Program
    features: frozenset[int] = frozenset()


def seed_folders(harness: str, given: Iterable[Path] = ()) -> list[str]:
    """Where a campaign of `harness` takes its seeds from, wherever its workers run: what was `given`, or its corpus."""
    usual = Path("corpus") / harness
    return [str(folder.resolve()) for folder in given] or [str(path.resolve()) for path in (usual,) if path.is_dir()]


def seed_files(folders: Iterable[Path]) -> list[Path]:
    """The files in `folders` (or the files named), by path; hidden ones and folders are left out."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir():
            found += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        else:
            found.append(folder)
    return sorted(found)


def seed_bytes(folders: Iterable[Path], catalogue: Catalogue) -> list[bytes]:
    """The seeds in `folders` for an engine. Raises `ProgramFileError` for text that is no program."""
    return [read_seed(path, catalogue) for path in seed_files(folders)]


def read_entries(folders: Iterable[Path], catalogue: Catalogue) -> list[Entry]:
    """The programs of `folders`. Raises `ProgramFileError` at the first file that holds none."""
    return [Entry(path, read_program(path, catalogue)) for path in seed_files(folders)]


def measure(entries: Iterable[Entry], target: Target) -> list[Entry]:
    """Each entry with the features of its run."""
    return [entry._replace(features=frozenset(target.run(entry.program).features)) for entry in entries]


def cover(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(kept, dropped): a small part of the measured `entries` that has all their features, and the rest.

    Greedy: always the entry that adds most, of equals the one with fewest ops, then by path.
    """
    ordered = sorted(entries, key=lambda entry: (len(entry.program.ops), entry.path))
    # What an entry adds only ever gets less: an old figure is a bound, and most need not be computed again.
    bounds = [(-len(entry.features), number) for number, entry in enumerate(ordered)]
    heapq.heapify(bounds)
    kept: list[Entry] = []
    covered: set[int] = set()
    while bounds and bounds[0][0]:
        _, number = heapq.heappop(bounds)
        added = ordered[number].features - covered
        if bounds and (-len(added), number) > bounds[0]:
            heapq.heappush(bounds, (-len(added), number))
        elif added:
            covered |= added
            kept.append(ordered[number])
    chosen = {entry.path for entry in kept}
    return kept, [entry for entry in ordered if entry.path not in chosen]


def add(source: Path, folder: Path, catalogue: Catalogue) -> Path:
    """Write the program in `source` to `folder` as text, under its own name; returns the new path.

    Text is taken as it is, with its comments. Raises `ProgramFileError` if `source` holds no program, or if another
    program has that name already.
    """
    program = read_program(source, catalogue)
    path = folder / f"{source.stem}{SUFFIX}"
    if path.exists():
        if read_program(path, catalogue) != program:
            raise ProgramFileError(f"{path}: another program has this name")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    write_whole(path, data if data.startswith(MAGIC.encode()) else render(program).encode())
    return path
