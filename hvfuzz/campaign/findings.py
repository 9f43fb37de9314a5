"""Findings on disk: one folder (bucket) for each identity and bug, with the reproducer and its record."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.engines.atomic_file import write_atomically
from hvfuzz.explain.telling.program_header import with_header
from hvfuzz.guest.format.text import render
from hvfuzz.guest.program.program import Program
from hvfuzz.oracles.framework.finding import Finding

PROGRAM: Final = "program.hvp"
RECORD: Final = "finding.json"
MAX_RECORD: Final = 1 << 20
"""Size limit of a record in bytes, far above the longest message."""


class FindingFileError(Exception):
    """A `finding.json` that cannot be read: its path and the reason."""


class Record(NamedTuple):
    """The contents of `finding.json`: the finding, the planted bug, and when it was first seen."""

    identity: str
    message: str
    bug: str | None
    """Name of the planted bug, or path of the Python file that defines it; None for the clean hypervisor.

    Only the user's own word runs such a file: see `hvfuzz.bugs.recorded_bug`."""
    runs: int
    """Programs run before the finding was first seen."""
    seconds: float
    confirmed: bool
    """Whether another process reproduced the finding."""
    ops: int
    found_by: str = ""
    """The engine and its seed, in words; "" if that is not known."""


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
    """Name of the folder for findings of `identity`: letters, digits, dots, dashes, underscores and @.

    A planted bug's name is appended after an @, so that its findings never overwrite those of the clean hypervisor.
    """
    name = identity if bug is None else f"{identity}@{Path(bug).stem}"
    return "".join(
        character if character.isalnum() or character in ".-_@" else "--" if character == "/" else "-"
        for character in name
    )


def load_record(folder: Path) -> Record:
    """Read the record in the bucket `folder`. Raises `FindingFileError`."""
    path = folder / RECORD
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECORD + 1)
        if len(data) > MAX_RECORD:
            raise FindingFileError(f"{path}: too large for a record: more than {MAX_RECORD} bytes")
        fields: Any = json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise FindingFileError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise FindingFileError(f"{path}: not JSON ({error})") from error
    except RecursionError as error:
        raise FindingFileError(f"{path}: not a record: lists or objects in more levels than can be read") from error
    if not isinstance(fields, dict):
        raise FindingFileError(f"{path}: expected a JSON object")
    for name, types in _TYPES.items():
        if not isinstance(fields.get(name), types):
            raise FindingFileError(f"{path}: {name!r} is missing or has the wrong type")
    if not math.isfinite(fields["seconds"]):
        raise FindingFileError(f"{path}: 'seconds' is not finite")
    found_by = fields.get("found_by", "")
    if not isinstance(found_by, str):
        raise FindingFileError(f"{path}: 'found_by' has the wrong type")
    return Record(**{name: fields[name] for name in _TYPES}, found_by=found_by)


def record_beside(program: Path) -> Record | None:
    """Read the record in the folder of `program`; None if that folder has none. Raises `FindingFileError`."""
    return load_record(program.parent) if (program.parent / RECORD).is_file() else None


class FindingStore:
    """The buckets below the folder `root`. Writes are atomic, and several processes may write at the same time."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock out other writers for the block, so that a program and its record always match."""
        self.root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def save(self, record: Record, program: Program, *, replace: bool = False) -> Path:
        """Save `program` as the reproducer of its bucket unless a better one exists, and return its path.

        A confirmed program is better than an unconfirmed one; then a shorter one is better than a longer one. The
        record keeps the time of the first sighting. Pass `replace` if the existing program no longer reproduces.
        """
        folder = self.root / bucket_name(record.identity, record.bug)
        path = folder / PROGRAM
        with self._locked():
            folder.mkdir(exist_ok=True)
            known = None if replace else self._existing_record(folder)
            if known is not None:
                if (known.confirmed, -known.ops) >= (record.confirmed, -record.ops):
                    return path
                found_by = record.found_by or known.found_by
                record = record._replace(runs=known.runs, seconds=known.seconds, found_by=found_by)
            text = with_header(render(program), record.identity, record.message, record.bug, record.found_by)
            write_atomically(path, text.encode(), durable=True)
            write_atomically(folder / RECORD, (json.dumps(record._asdict(), indent=2) + "\n").encode(), durable=True)
        return path

    def _existing_record(self, folder: Path) -> Record | None:
        """The record of a complete bucket; None if the bucket is missing or damaged."""
        if not (folder / PROGRAM).exists():
            return None
        try:
            return load_record(folder)
        except FindingFileError:
            return None


def record_of(finding: Finding, program: Program, bug: str | None, runs: int, seconds: float, found_by: str) -> Record:
    """Make the record of a finding that was just seen for the first time."""
    ops = len(program.ops)
    return Record(finding.identity, finding.message, bug, runs, round(seconds, 3), False, ops, found_by)
