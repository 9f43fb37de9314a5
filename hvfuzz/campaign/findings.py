"""The findings of a campaign on disk: one folder a bucket, holding the program and what it showed."""

import json
from pathlib import Path
from typing import Any, Final, NamedTuple

from hvfuzz.campaign.files import read_program
from hvfuzz.engines.engine import write_whole
from hvfuzz.guest.ops import Catalogue
from hvfuzz.guest.program import Program
from hvfuzz.guest.text import render
from hvfuzz.oracles.finding import Finding

PROGRAM: Final = "program.hvp"
RECORD: Final = "finding.json"


class FindingFileError(Exception):
    """A bucket whose record cannot be read: which, and why."""


class Record(NamedTuple):
    """What `finding.json` says: the finding, the bug that was planted, and when it was seen first."""

    identity: str
    message: str
    bug: str | None
    runs: int
    seconds: float
    confirmed: bool
    """Whether the program was replayed in another process with the same finding."""
    ops: int


def bucket_name(identity: str) -> str:
    """The name of the folder for findings of `identity`: letters, digits, dots and dashes."""
    return "".join(
        character if character.isalnum() or character in ".-_" else "--" if character == "/" else "-"
        for character in identity
    )


class FindingStore:
    """The buckets below `root`. Each file is written whole or not at all."""

    def __init__(self, root: Path) -> None:
        self.root: Final = root

    def save(self, record: Record, program: Program) -> Path:
        """Keep `program` as the reproducer of its bucket, unless a shorter confirmed one is there; its path."""
        folder = self.root / bucket_name(record.identity)
        path = folder / PROGRAM
        folder.mkdir(parents=True, exist_ok=True)
        known = self.load(folder) if (folder / RECORD).exists() and path.exists() else None
        if known is not None:
            if known.ops <= record.ops and known.confirmed >= record.confirmed and known.bug == record.bug:
                return path
            record = record._replace(runs=known.runs, seconds=known.seconds)
        write_whole(path, render(program).encode())
        write_whole(folder / RECORD, (json.dumps(record._asdict(), indent=2) + "\n").encode())
        return path

    def load(self, folder: Path) -> Record:
        """The record of one bucket. Raises `FindingFileError`."""
        path = folder / RECORD
        try:
            fields: dict[str, Any] = json.loads(path.read_text())
            return Record(**fields)
        except OSError as error:
            raise FindingFileError(f"{path}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise FindingFileError(f"{path}: not a finding's record ({error})") from error

    def buckets(self) -> list[Path]:
        """The folders of all buckets, by name."""
        return sorted(path.parent for path in self.root.glob(f"*/{RECORD}"))


def record_of(finding: Finding, program: Program, bug: str | None, runs: int, seconds: float) -> Record:
    """The record of a finding as it was first seen."""
    return Record(
        finding.identity, finding.message, bug, runs, round(seconds, 3), confirmed=False, ops=len(program.ops)
    )


def load_program(folder: Path, catalogue: Catalogue) -> Program:
    """The reproducer of one bucket."""
    return read_program(folder / PROGRAM, catalogue)
