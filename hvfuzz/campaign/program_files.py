"""Reading program files from users, in text or byte form, with a one-line error for anything else."""

import os
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from contextlib import nullcontext
from pathlib import Path
from typing import Final

from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import MAGIC, TEXT_STARTS, parse
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import MAX_OPS, Program

SUFFIX: Final = ".hvp"
STDIN: Final = "-"
"""The path that stands for standard input."""
MAX_FILE: Final = 1 << 20
"""Size limit of a program file in bytes, far above the longest program."""


class ProgramFileError(Exception):
    """A file that is not a program: its path and what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path: Final = path
        self.reason: Final = reason


def read_program(path: Path, catalogue: Catalogue) -> Program:
    """Read the program in `path`, in text or byte form. Raises `ProgramFileError`.

    The decoder accepts any byte string, as an engine needs. To catch a wrong file name, this function accepts only
    text that begins with the magic line, and bytes in canonical form (those that `encode` produces).
    """
    data = _read(path)
    if data.startswith(TEXT_STARTS):
        return _parsed(path, data, catalogue)
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):  # no canonical bytes: the first is the number of a world
        raise ProgramFileError(path, "text in UTF-16; save it as UTF-8")
    program = decode(data, catalogue)
    canonical = encode(program, catalogue)
    if canonical != data:
        if len(program.ops) == MAX_OPS and data.startswith(canonical):
            raise ProgramFileError(path, f"it has more than {MAX_OPS} ops")
        raise ProgramFileError(
            path, f"not a program (expected text that begins with '{MAGIC}1', or the fuzzer's byte form)"
        )
    return program


def read_seed(path: Path, catalogue: Catalogue) -> bytes:
    """Read the bytes of a seed. Raises `ProgramFileError` for text that does not parse.

    Without this check an engine would decode a text with a typing error as a program in byte form.
    """
    data = _read(path)
    if path.suffix == SUFFIX or data.startswith(TEXT_STARTS):
        read_program(path, catalogue)
    return data


def _parsed(path: Path, data: bytes, catalogue: Catalogue) -> Program:
    try:
        return parse(data.decode(), catalogue)
    except TextError as error:
        raise ProgramFileError(path, str(error)) from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProgramFileError(path, f"line {line}: byte {data[error.start]:#x} is not UTF-8 text") from error


def _read(path: Path) -> bytes:
    """Read a file of at most `MAX_FILE` bytes; never reads more than that, even from a device or a pipe."""
    try:
        with nullcontext(sys.stdin.buffer) if str(path) == STDIN else path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
            size = os.fstat(file.fileno()).st_size
    except IsADirectoryError as error:
        raise ProgramFileError(path, "is a folder; expected a program file") from error
    except OSError as error:
        raise ProgramFileError(path, error.strerror or str(error)) from error
    if len(data) > MAX_FILE:
        much = f"{size} bytes" if size > MAX_FILE else f"more than {MAX_FILE} bytes"
        raise ProgramFileError(path, f"too large for a program: {much}, but at most {MAX_FILE} are allowed")
    if not data:
        raise ProgramFileError(path, "the file is empty")
    return data
