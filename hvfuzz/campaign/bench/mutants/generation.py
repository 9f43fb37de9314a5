"""All mutants of the hypervisor and of the MMU, TLB and IOMMU, in a fixed order, and samples of them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Final

from hvfuzz.campaign.bench.mutants.module_source import PACKAGE, ModuleSource, places
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.campaign.bench.mutants.mutant_kinds import KINDS

MUTATED: Final = ("hypervisor", "machine/mmu", "machine/vtd")
"""Folders of the package whose functions are mutated."""
CRITICAL: Final = (
    "hypervisor/memory/*",
    "hypervisor/hypercalls/memory/*",
    "hypervisor/hypercalls/grant/*",
    "hypervisor/hypercalls/device/*",
    "hypervisor/core/dispatch.py",
    "hypervisor/ipc/grants.py",
    "machine/mmu/*",
    "machine/vtd/*",
)
"""Patterns of the files on which isolation rests: a fault there gives a guest what is not its own."""


class MutantError(Exception):
    """There is no such mutant or file; the message suggests a similar one where there is one."""


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path` is one of `patterns`, lies below one, or is matched by one with wildcards."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") or fnmatchcase(path, each) for each in patterns)


def is_critical(path: str) -> bool:
    """Whether isolation rests on the file."""
    return matches(path, CRITICAL)


def mutated_files(patterns: Sequence[str] = ()) -> list[str]:
    """The files that have mutants, relative to the package, sorted; those that `patterns` name (none: all).

    A pattern may begin with ``hvfuzz/``. Raises MutantError for a pattern that names no file.
    """
    paths = sorted(str(file.relative_to(PACKAGE)) for folder in MUTATED for file in (PACKAGE / folder).rglob("*.py"))
    wanted = [each.removeprefix("./").removeprefix("hvfuzz/") for each in patterns]
    for pattern in wanted:
        if not any(matches(path, [pattern]) for path in paths):
            near = get_close_matches(pattern, paths, 1, 0.5)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise MutantError(f"no file of {', '.join(MUTATED)} matches {pattern!r}{hint}")
    return [path for path in paths if not wanted or matches(path, wanted)]


def mutants_of(source: ModuleSource) -> Iterator[Mutant]:
    """The mutants of one file: function by function, kind by kind, in the order of the source."""
    seen: dict[str, int] = {}
    for name, function in source.functions():
        # A property and its setter share a qualified name; an ordinal keeps their mutants apart.
        count = seen[name] = seen.get(name, 0) + 1
        called = name if count == 1 else f"{name}#{count}"
        body = list(places(function))
        for kind, make in KINDS.items():
            edits = sorted(make(source, function, body), key=lambda edit: (edit.start, edit.end))
            for number, (start, end, after, lines) in enumerate(edits, 1):
                before = source.bytes[start:end].decode()
                yield Mutant(source.path, called, kind, number, lines, start, end, before, after)


def all_mutants(patterns: Sequence[str] = ()) -> list[Mutant]:
    """The mutants of the files that `patterns` name; see `mutated_files`."""
    return [mutant for path in mutated_files(patterns) for mutant in mutants_of(ModuleSource(path))]


def sample(mutants: Sequence[Mutant], count: int | None, seed: int) -> list[Mutant]:
    """`count` mutants chosen at random (None: all), in a random order, so that a run cut short is a sample, too.

    Each mutant's place depends on the seed and its id only. So a larger sample begins with the smaller one, and a
    change of the source leaves the sample as it was, but for the mutants that come or go.
    """
    chosen = sorted(mutants, key=lambda mutant: hashlib.sha256(f"{seed}:{mutant.id}".encode()).digest())
    return chosen if count is None else chosen[:count]


def find_mutant(identity: str) -> Mutant:
    """The mutant with this id. Raises MutantError."""
    path = identity.partition(":")[0].removeprefix("hvfuzz/")
    known = {mutant.id: mutant for mutant in all_mutants([path])}
    found = known.get(identity.removeprefix("hvfuzz/"))
    if found is None:
        near = get_close_matches(identity, known, 1, 0.5)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise MutantError(f"no mutant {identity!r}{hint}")
    return found
