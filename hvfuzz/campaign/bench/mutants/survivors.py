"""What people have found out about mutants that survived: a text file each, which stands in the repository.

id: hypervisor/memory/frames.py:FrameTable.put:drop-call:2
verdict: equivalent
why: one paragraph, or several lines that
  are indented

--- the diff that was judged
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from hvfuzz.campaign.bench.mutants.generation import MutantError
from hvfuzz.campaign.bench.mutants.module_source import ModuleSource
from hvfuzz.campaign.bench.mutants.mutant import Mutant
from hvfuzz.engines.atomic_file import write_atomically

EQUIVALENT: Final = "equivalent"
"""No guest, and nobody who looks at the machine, can tell it from the original: it does not count."""
HOLE: Final = "hole"
"""It breaks something, and no oracle can see it, or no program shows it: `why` says which."""
OPEN: Final = "open"
"""Nobody has looked at it yet."""
VERDICTS_OF_PEOPLE: Final = (EQUIVALENT, HOLE, OPEN)
USUAL_FOLDER: Final = Path("tests", "quality", "mutants")
SUFFIX: Final = ".txt"
DIFF: Final = "---"
_FORM: Final = re.compile(r"id: (.+)\nverdict: (.+)\n(?:why: (.+(?:\n  .+)*)\n)?\n((?:.|\n)+)\Z")


class Survivor(NamedTuple):
    """A judged survivor."""

    id: str
    verdict: str
    """One of VERDICTS_OF_PEOPLE."""
    why: str
    diff: str

    @property
    def file_name(self) -> str:
        """The name of its file: the id, with what a file name cannot or should not have replaced."""
        return re.sub(r"[/:#]", lambda found: {"/": ".", ":": "--", "#": "@"}[found.group()], self.id) + SUFFIX

    def text(self) -> str:
        """The contents of its file."""
        lines = "\n  ".join(self.why.splitlines())
        why = f"why: {lines}\n" if lines else ""
        return f"id: {self.id}\nverdict: {self.verdict}\n{why}\n{self.diff}\n"

    @property
    def edit(self) -> tuple[str, ...]:
        """The changed lines of the diff; the lines around them may change without changing what was judged."""
        return edit_of(self.diff)


def edit_of(diff: str) -> tuple[str, ...]:
    """The lines of `diff` that it takes away or adds; where it only adds, the line before which, too."""
    lines = diff.splitlines()
    changed = [at for at, line in enumerate(lines) if line[:1] in ("-", "+")]
    following = changed[-1] + 1 if changed else len(lines)
    only_adds = not any(lines[at].startswith("-") for at in changed)
    return tuple(lines[at] for at in (*changed, *([following] if only_adds and following < len(lines) else [])))


def survivor(mutant: Mutant, verdict: str = OPEN, why: str = "") -> Survivor:
    """The record of `mutant` as the source is now."""
    return Survivor(mutant.id, verdict, why, mutant.diff(ModuleSource(mutant.path).bytes))


def read_survivor(file: Path) -> Survivor:
    """Read one file. Raises MutantError, which names the file."""
    try:
        found = _FORM.match(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise MutantError(f"{file}: not a text file") from error
    if found is None:
        raise MutantError(f"{file}: expected the lines 'id:', 'verdict:' and 'why:', an empty line, and a diff")
    identity, verdict, why, diff = found.groups()
    if verdict not in VERDICTS_OF_PEOPLE:
        raise MutantError(f"{file}: verdict {verdict!r} is none of {', '.join(VERDICTS_OF_PEOPLE)}")
    if verdict != OPEN and not why:
        raise MutantError(f"{file}: says {verdict!r}, but not why")
    reason = "\n".join(line.strip() for line in (why or "").splitlines())
    return Survivor(identity, verdict, reason, diff.rstrip("\n"))


def read_survivors(folder: Path) -> dict[str, Survivor]:
    """All survivors recorded in `folder`, which need not exist, by id, sorted by file. Raises MutantError."""
    if not folder.is_dir():
        return {}
    found = (read_survivor(file) for file in sorted(folder.glob(f"*{SUFFIX}")))
    return {each.id: each for each in found}


def record_survivors(folder: Path, mutants: Iterable[Mutant], known: Mapping[str, Survivor]) -> list[Path]:
    """Write a file, with the verdict OPEN, for each of `mutants` that `known` lacks; returns the new files."""
    written = []
    for mutant in mutants:
        if mutant.id not in known:
            record = survivor(mutant)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / record.file_name, record.text().encode())
            written.append(folder / record.file_name)
    return written
