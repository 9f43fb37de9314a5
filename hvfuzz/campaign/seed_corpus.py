"""The seed corpus: reading seeds, measuring the features each one covers, and keeping a minimal covering set."""

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from hvfuzz.campaign.program_files import SUFFIX, ProgramFileError, read_program, read_seed
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.guest.format.text import TEXT_STARTS, render
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.target import Target


class Entry(NamedTuple):
    """One corpus program, and the features of its run (empty until `measure`)."""

    path: Path
    program: Program
    features: frozenset[int] = frozenset()


def seed_folders(harness: str, given: Iterable[Path] = ()) -> list[str]:
    """Absolute paths of the seeds for `harness`: those in `given`, else the folder corpus/`harness` if it exists."""
    usual = Path("corpus") / harness
    return [str(folder.resolve()) for folder in given] or [str(path.resolve()) for path in (usual,) if path.is_dir()]


def seed_files(folders: Iterable[Path]) -> list[Path]:
    """List the files in `folders` (which may also name files), sorted by path, without hidden files and subfolders."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir():
            found += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        else:
            found.append(folder)
    return sorted(found)


def seed_bytes(folders: Iterable[Path], catalogue: Catalogue) -> list[bytes]:
    """Read the seeds in `folders` for an engine. Raises `ProgramFileError` for text that does not parse."""
    return [read_seed(path, catalogue) for path in seed_files(folders)]


def read_entries(folders: Iterable[Path], catalogue: Catalogue) -> list[Entry]:
    """Read the programs in `folders`. Raises `ProgramFileError` at the first file that is not a program."""
    return [Entry(path, read_program(path, catalogue)) for path in seed_files(folders)]


def measure(entries: Iterable[Entry], target: Target) -> list[Entry]:
    """Run each entry on `target` and fill in its features."""
    return [entry._replace(features=frozenset(target.run(entry.program).features)) for entry in entries]


def cover(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """Split the measured `entries` into (kept, dropped), where `kept` is small and has all the features.

    Greedy set cover: take the entry that adds the most features; break ties by fewest ops, then by path.
    """
    ordered = sorted(entries, key=lambda entry: (len(entry.program.ops), entry.path))
    # The number of features an entry adds only ever falls, so an old figure is an upper bound (lazy greedy).
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
    """Write the program in `source` to `folder` as text under the same name, and return the new path.

    Text is copied verbatim, with its comments. Raises `ProgramFileError` if `source` is not a program, or if a
    different program of that name exists.
    """
    program = read_program(source, catalogue)
    path = folder / f"{source.stem}{SUFFIX}"
    if path.exists():
        if read_program(path, catalogue) != program:
            raise ProgramFileError(f"{path}: a different program of this name exists")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    write_atomically(path, data if data.startswith(TEXT_STARTS) else render(program).encode())
    return path
