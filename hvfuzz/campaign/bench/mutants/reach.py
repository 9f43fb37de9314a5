"""Which corpus program executes which lines: a mutant is judged only by the programs that reach it.

Measuring takes about twenty seconds, so it is kept in a file, with a digest of all that it depends on.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from hvfuzz.abi.boot import WORLDS
from hvfuzz.campaign.bench.mutants.generation import MUTATED
from hvfuzz.campaign.bench.mutants.module_source import PACKAGE
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.seed_corpus import read_entries, seed_files
from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program
from hvfuzz.targets.emulated.emulated_target import EmulatedTarget

EXECUTED: Final = ("machine", "abi", "guest", "hypervisor", "oracles", "targets")
"""Folders of the package on which it depends what a program executes."""

Lines = Mapping[str, frozenset[int]]
"""Executed lines, by file (relative to the package)."""


class NamedProgram(NamedTuple):
    """A corpus program, and the file that it comes from."""

    name: str
    program: Program


def corpus_programs(catalogue: Catalogue) -> list[NamedProgram]:
    """The seeds of all harnesses and the reproducers of all crashes below the current folder, by path."""
    folders = [path for path in sorted(Path("corpus").glob("*")) if path.is_dir()]
    files = [
        file for folder in sorted(Path("crashes").glob("*")) for file in seed_files([folder]) if file.suffix == ".hvp"
    ]
    return [NamedProgram(str(entry.path), entry.program) for entry in read_entries([*folders, *files], catalogue)]


class Reach(NamedTuple):
    """What the corpus executes."""

    programs: Sequence[NamedProgram]
    boot: Lines
    """Lines that run before the first op of any program: boot, and restoring the booted state."""
    lines: Sequence[Lines]
    """For each program, the lines that it executes when it is audited."""
    costs: Sequence[int]
    """For each program, the number of lines that it executes, repeated ones included: a cost that does not vary."""

    def at_boot(self, mutant: Mutant) -> bool:
        """Whether a machine that was booted without the mutant may be another one than with it."""
        return _meets(self.boot, mutant)

    def programs_at(self, mutant: Mutant) -> list[NamedProgram]:
        """The programs that reach the mutant, the cheapest first.

        If only boot does, it is the cheapest program of each world: each shows the machine that was booted.
        """
        order = sorted(range(len(self.programs)), key=lambda index: (self.costs[index], index))
        met = [index for index in order if _meets(self.lines[index], mutant)]
        if not met and self.at_boot(mutant):
            worlds: dict[int, int] = {}
            for index in order:
                worlds.setdefault(self.programs[index].program.world, index)
            met = list(worlds.values())
        return [self.programs[index] for index in met]


def _meets(lines: Lines, mutant: Mutant) -> bool:
    first, last = mutant.lines
    return not lines.get(mutant.path, frozenset()).isdisjoint(range(first, last + 1))


class _Recorder:
    """Notes the executed lines of the files that are mutated."""

    def __init__(self) -> None:
        self._files: Final = {
            os.path.join(PACKAGE, path): path
            for folder in MUTATED
            for path in (str(file.relative_to(PACKAGE)) for file in (PACKAGE / folder).rglob("*.py"))
        }
        self._lines: dict[str, set[int]] = {}
        self._count = 0
        self._locals: Final = {file: self._local(path) for file, path in self._files.items()}

    def _local(self, path: str) -> Callable[[FrameType, str, Any], Any]:
        def note(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line":
                self._count += 1
                self._lines.setdefault(path, set()).add(frame.f_lineno)
            return note

        return note

    def _called(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._locals.get(frame.f_code.co_filename)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record for the length of the block; a debugger's or coverage's trace function is put back after it."""
        before = sys.gettrace()
        self._lines, self._count = {}, 0
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def result(self) -> tuple[Lines, int]:
        """The lines of the last recording, and how many were executed."""
        return {path: frozenset(lines) for path, lines in sorted(self._lines.items())}, self._count


def measure_reach(programs: Sequence[NamedProgram], each: Callable[[int], None] = lambda done: None) -> Reach:
    """Run each program once, audited. `each` is called with the number of programs done."""
    recorder = _Recorder()
    with EmulatedTarget() as target:
        with recorder.recording():
            for world in range(len(WORLDS)):
                target.system(world).restore()
        boot, _ = recorder.result()
        results = []
        for done, named in enumerate(programs):
            each(done)
            with recorder.recording():
                target.run(named.program)
            results.append(recorder.result())
    return Reach(programs, boot, [lines for lines, _ in results], [count for _, count in results])


def kept_reach(file: Path, programs: Sequence[NamedProgram], each: Callable[[int], None] = lambda done: None) -> Reach:
    """The measurement kept in `file` if hvfuzz and the programs are still the same; else a new one, kept there."""
    digest = _digest(programs)
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(file.read_bytes())
        if kept["digest"] == digest:
            return Reach(programs, _frozen(kept["boot"]), [_frozen(each) for each in kept["lines"]], kept["costs"])
    reach = measure_reach(programs, each)
    document = {
        "digest": digest,
        "boot": _plain(reach.boot),
        "lines": [_plain(lines) for lines in reach.lines],
        "costs": list(reach.costs),
    }
    with suppress(OSError):  # a folder that cannot be written costs the time of measuring
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(document).encode())
    return reach


def usual_reach_file() -> Path:
    """Where the measurement is kept: in the user's folder of caches (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hvfuzz" / "mutant-reach.json"


def _frozen(lines: Mapping[str, Iterable[int]]) -> Lines:
    return {path: frozenset(numbers) for path, numbers in lines.items()}


def _plain(lines: Lines) -> dict[str, list[int]]:
    return {path: sorted(numbers) for path, numbers in lines.items()}


def _digest(programs: Sequence[NamedProgram]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for folder in EXECUTED:
        for path in sorted((PACKAGE / folder).rglob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name, program in programs:
        digest.update(f"{name}\0{render(program)}\0".encode())
    return digest.hexdigest()
