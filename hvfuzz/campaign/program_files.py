"""Programs in files: reading what people hand in, with one clear line when it is no program."""

import os
from pathlib import Path
from typing import Final

from hvfuzz.guest.format.binary import decode, encode
from hvfuzz.guest.format.scanner import TextError
from hvfuzz.guest.format.text import MAGIC, parse
from hvfuzz.guest.program.ops import Catalogue
from hvfuzz.guest.program.program import Program

SUFFIX: Final = ".hvp"
MAX_FILE: Final = 1 << 20
"""Largest program file in bytes; the longest program is a small part of this."""


class ProgramFileError(Exception):
    """A file that holds no program: which file, and what is wrong with it."""


def read_program(path: Path, catalogue: Catalogue) -> Program:
    """The program in `path`, text or bytes. Raises `ProgramFileError`.

    Every byte string is a program for an engine; for a person who names the wrong file, that would hide the
    mistake. So here a file must be text with the magic line, or bytes in the canonical form.
    """
    data = _read(path)
    if data.startswith(MAGIC.encode()):
        return _parsed(path, data, catalogue)
    program = decode(data, catalogue)
    if encode(program, catalogue) != data:
        raise ProgramFileError(
            f"{path}: not a program, neither as text (its first line would be '{MAGIC}1') nor in the fuzzer's byte form"
        )
    return program


def read_seed(path: Path, catalogue: Catalogue) -> bytes:
    """The bytes of a seed: any at all, but for text that is no program. Raises `ProgramFileError`.

    An engine would take a text with a typing error for a program in byte form.
    """
    data = _read(path)
    if path.suffix == SUFFIX or data.startswith(MAGIC.encode()):
        read_program(path, catalogue)
    return data


def _parsed(path: Path, data: bytes, catalogue: Catalogue) -> Program:
    try:
        return parse(data.decode(), catalogue)
    except TextError as error:
        raise ProgramFileError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProgramFileError(f"{path}: line {line}: byte {data[error.start]:#x} is not UTF-8 text") from error


def _read(path: Path) -> bytes:
    """The bytes of a file of a sensible size; never more than that is read, whatever `path` is."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
            size = os.fstat(file.fileno()).st_size
    except IsADirectoryError as error:
        raise ProgramFileError(f"{path}: is a folder, expected a program file") from error
    except OSError as error:
        raise ProgramFileError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_FILE:
        much = f"{size} bytes" if size > MAX_FILE else f"more than {MAX_FILE} bytes"
        raise ProgramFileError(f"{path}: {much}, and a program has at most {MAX_FILE}")
    if not data:
        raise ProgramFileError(f"{path}: is empty")
    return data
