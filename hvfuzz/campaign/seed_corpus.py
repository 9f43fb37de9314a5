"""The seed corpus: reading seeds, measuring the features each one covers, and keeping a minimal covering set."""

import hashlib
import heapq
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from hvfuzz.campaign.program_files import MAX_FILE, SUFFIX, ProgramFileError, read_program, read_seed
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.guest.format.text import TEXT_STARTS, render
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.target import Target

UNIT_NAME: Final = re.compile("[0-9a-f]{40}")
UNIT_WRITE_SECONDS: Final = 0.1
"""libFuzzer takes far less time than this to write a unit."""
NAMED: Final = 20
"""Files that a notice names for each reason."""
T = TypeVar("T")


class Entry(NamedTuple):
    """One corpus program, and the features of its run (empty until `measure`)."""

    path: Path
    program: Program
    features: frozenset[int] = frozenset()


def seed_folders(harness: str, given: Iterable[Path] = ()) -> list[str]:
    """Absolute paths of the seeds for `harness`: those in `given`, else the folder corpus/`harness` if it exists."""
    usual = Path("corpus") / harness
    return [os.path.realpath(path) for path in given] or [os.path.realpath(path) for path in (usual,) if path.is_dir()]


def seed_files(folders: Iterable[Path]) -> list[Path]:
    """List the files in `folders` (which may also name files), sorted by path, without hidden files and subfolders."""
    found: list[Path] = []
    for folder in folders:
        if folder.is_dir():
            found += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        else:
            found.append(folder)
    return sorted(found)


def seed_bytes(
    folders: Iterable[Path],
    catalogue: Catalogue,
    passed: list[ProgramFileError] | None = None,
    each: Callable[[], None] = lambda: None,
) -> list[bytes]:
    """Read the seeds in `folders` for an engine; see `_read_all`. Text that does not parse is no seed."""
    return [data for _, data in _read_all(folders, lambda path: read_seed(path, catalogue), passed, each)]


def read_entries(
    folders: Iterable[Path], catalogue: Catalogue, passed: list[ProgramFileError] | None = None
) -> list[Entry]:
    """Read the programs in `folders`; see `_read_all`."""
    return [Entry(*each) for each in _read_all(folders, lambda path: read_program(path, catalogue), passed)]


def _read_all(
    folders: Iterable[Path],
    read: Callable[[Path], T],
    passed: list[ProgramFileError] | None,
    each: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Path, T]]:
    """Each file of `folders` with what `read` makes of it. Calls `each` before each file.

    The error of a file that is not a program is appended to `passed`, and the file is passed over: a full disk or an
    interrupted copy leaves such files. Without `passed`, the first one is raised; so is that of a file which `folders`
    names itself.
    """
    named = frozenset(folders := list(folders))
    for path in seed_files(folders):
        each()
        try:
            yield path, read(path)
        except ProgramFileError as error:
            if passed is None or path in named:
                raise
            passed.append(error)


def passed_over(passed: Sequence[ProgramFileError]) -> str | None:
    """One notice that names the files that were passed over, by reason; None if there are none."""
    if not passed:
        return None
    reasons: dict[str, list[str]] = {}
    for error in passed:
        reasons.setdefault(error.reason, []).append(str(error.path))
    named = "; ".join(f"{reason}: {_some(paths)}" for reason, paths in reasons.items())
    return f"passed over {len(passed)} {'file' if len(passed) == 1 else 'files'} in folders of programs: {named}"


def _some(paths: Sequence[str]) -> str:
    more = len(paths) - NAMED
    return ", ".join(paths[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def remove_damaged_units(folder: Path) -> int:
    """Delete the units in `folder` that libFuzzer could not write whole; returns their number.

    libFuzzer names a unit after its SHA-1, and does not notice when a disk is full. Another campaign may be writing to
    the folder: what changes while it is looked at is left alone.
    """
    suspects = [(path, state) for path in _unit_files(folder) if (state := _damage(path)) is not None]
    if suspects:
        time.sleep(UNIT_WRITE_SECONDS)
    damaged = [path for path, state in suspects if _damage(path) == state]
    for path in damaged:
        with suppress(OSError):
            path.unlink()
    return len(damaged)


def _unit_files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if UNIT_NAME.fullmatch(path.name) and path.is_file()]
    except OSError:
        return []


def _damage(path: Path) -> tuple[int, int] | None:
    """Size and time of change of a unit whose contents do not match its name; None for a good one."""
    try:
        state = path.stat()
        if state.st_size > MAX_FILE:
            return None
        good = hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest() == path.name
    except OSError:
        return None
    return None if good else (state.st_size, state.st_mtime_ns)


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
            raise ProgramFileError(path, "a different program of this name exists")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    data = source.read_bytes()
    write_atomically(path, data if data.startswith(TEXT_STARTS) else render(program).encode(), durable=True)
    return path
