"""The corpus: seeds as text files that a person can review, and what each adds in features."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hvfuzz.campaign.files import ProgramFileError, read_program
from hvfuzz.engines.engine import write_whole
from hvfuzz.guest.ops import Catalogue
from hvfuzz.guest.program import Program
from hvfuzz.guest.text import render
from hvfuzz.targets.target import Target

SUFFIX: Final = ".hvp"


class Entry(NamedTuple):
    """One corpus program, and the features of its run (none before it has run)."""

    path: Path
    program: Program
    features: frozenset[int] = frozenset()


def seed_files(folders: Iterable[Path]) -> list[Path]:
    """The files in `folders` (or the files named), by path; hidden ones and folders are left out."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir():
            found += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        else:
            found.append(folder)
    return sorted(found)


def read_seeds(folders: Iterable[Path], catalogue: Catalogue) -> list[Entry]:
    """The programs of `folders`. Raises `ProgramFileError` at the first file that holds none."""
    return [Entry(path, read_program(path, catalogue)) for path in seed_files(folders)]


def measure(entries: Iterable[Entry], target: Target) -> list[Entry]:
    """Each entry with the features of its run."""
    return [entry._replace(features=frozenset(target.run(entry.program).features)) for entry in entries]


def cover(entries: Sequence[Entry]) -> tuple[list[Entry], list[Entry]]:
    """(kept, dropped): a small part of the measured `entries` that has all their features, and the rest.

    Greedy: always the entry that adds most, of equals the one with fewest ops, then by path.
    """
    left = sorted(entries, key=lambda entry: (len(entry.program.ops), entry.path))
    kept: list[Entry] = []
    covered: set[int] = set()
    while left:
        best = max(left, key=lambda entry: len(entry.features - covered))
        if not best.features - covered:
            break
        covered |= best.features
        kept.append(best)
        left.remove(best)
    return kept, left


def add(source: Path, folder: Path, catalogue: Catalogue) -> Path:
    """Write the program in `source` to `folder` as text, under its own name; returns the new path.

    Raises `ProgramFileError` if `source` holds no program or another program has that name already.
    """
    program = read_program(source, catalogue)
    text = render(program)
    path = folder / f"{source.stem}{SUFFIX}"
    if path.exists() and path.read_text() != text and path.resolve() != source.resolve():
        raise ProgramFileError(f"{path}: another program has this name")
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.encode())
    return path
