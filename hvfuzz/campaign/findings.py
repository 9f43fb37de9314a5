"""The findings of a campaign on disk: one folder a bucket, holding the program and what it showed."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.engines.engine import write_whole
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding

PROGRAM: Final = "program.hvp"
RECORD: Final = "finding.json"


class FindingFileError(Exception):
    """A bucket whose record cannot be read: which, and why."""


class Record(NamedTuple):
    """What `finding.json` says: the finding, the bug that was planted, and when it was seen first."""

    identity: str
    message: str
    bug: str | None
    """Name of the planted bug, or the path of the Python file that defines it."""
    runs: int
    seconds: float
    confirmed: bool
    """Whether the program was replayed in another process with the same finding."""
    ops: int


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "identity": (str,),
    "message": (str,),
    "bug": (str, type(None)),
    "runs": (int,),
    "seconds": (int, float),
    "confirmed": (bool,),
    "ops": (int,),
}


def bucket_name(identity: str, bug: str | None) -> str:
    """The name of the folder for findings of `identity`: letters, digits, dots and dashes.

    What a planted bug showed has the bug's name behind an @, so that it never takes the place of a real finding.
    """
    name = identity if bug is None else f"{identity}@{Path(bug).stem}"
    return "".join(
        character if character.isalnum() or character in ".-_@" else "--" if character == "/" else "-"
        for character in name
    )


def load_record(folder: Path) -> Record:
    """The record of the bucket `folder`. Raises `FindingFileError`."""
    path = folder / RECORD
    try:
        fields: Any = json.loads(path.read_text())
    except OSError as error:
        raise FindingFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FindingFileError(f"{path}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise FindingFileError(f"{path}: not a finding's record")
    for name, types in _TYPES.items():
        if not isinstance(fields.get(name), types):
            raise FindingFileError(f"{path}: not a finding's record ({name!r} is missing or wrong)")
    return Record(**{name: fields[name] for name in _TYPES})


def record_beside(program: Path) -> Record | None:
    """The record of the bucket that `program` lies in, if it lies in one."""
    return load_record(program.parent) if (program.parent / RECORD).is_file() else None


class FindingStore:
    """The buckets below `root`. Each file is written whole or not at all; workers may write at the same time."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Until the end of the block no other process writes a bucket: program and record belong together."""
        self.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def save(self, record: Record, program: Program, *, replace: bool = False) -> Path:
        """Keep `program` as the reproducer of its bucket, unless a better one is there; its path.

        Better is: confirmed, or as well confirmed and not longer. The record keeps when the finding was seen first.
        With `replace`, what is there is known not to show the finding (any more).
        """
        folder = self.root / bucket_name(record.identity, record.bug)
        path = folder / PROGRAM
        with self._locked():
            folder.mkdir(exist_ok=True)
            known = None if replace else self._existing_record(folder)
            if known is not None:
                if (known.confirmed, -known.ops) >= (record.confirmed, -record.ops):
                    return path
                record = record._replace(runs=known.runs, seconds=known.seconds)
            write_whole(path, render(program).encode())
            write_whole(folder / RECORD, (json.dumps(record._asdict(), indent=2) + "\n").encode())
        return path

    def _existing_record(self, folder: Path) -> Record | None:
        """The record of a complete bucket; a damaged one is as good as none."""
        if not (folder / PROGRAM).exists():
            return None
        try:
            return load_record(folder)
        except FindingFileError:
            return None


def record_of(finding: Finding, program: Program, bug: str | None, runs: int, seconds: float) -> Record:
    """The record of a finding as it was first seen."""
    return Record(
        finding.identity, finding.message, bug, runs, round(seconds, 3), confirmed=False, ops=len(program.ops)
    )
