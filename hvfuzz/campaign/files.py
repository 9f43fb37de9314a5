"""Programs in files: reading what people hand in, with one clear line when it is no program."""

from pathlib import Path
from typing import Final

from hvfuzz.guest.binary import decode, encode
from hvfuzz.guest.ops import Catalogue
from hvfuzz.guest.program import Program
from hvfuzz.guest.text import MAGIC, TextError, parse

MAX_FILE: Final = 1 << 20
"""Largest program file in bytes; the longest program is a small part of this."""


class ProgramFileError(Exception):
    """A file that holds no program: which file, and what is wrong with it."""


def read_program(path: Path, catalogue: Catalogue) -> Program:
    """The program in `path`, text or bytes. Raises `ProgramFileError`.

    Every byte string is a program for an engine; for a person who names the wrong file, that would hide the
    mistake. So here a file must be text with the magic line, or bytes in the canonical form.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ProgramFileError(f"{path}: is a folder, expected a program file")
        if size > MAX_FILE:
            raise ProgramFileError(f"{path}: {size} bytes, a program has at most {MAX_FILE}")
        data = path.read_bytes()
    except OSError as error:
        raise ProgramFileError(f"{path}: {error.strerror}") from error
    if not data:
        raise ProgramFileError(f"{path}: is empty")
    if data.startswith(MAGIC.encode()):
        try:
            return parse(data.decode(), catalogue)
        except TextError as error:
            raise ProgramFileError(f"{path}: {error}") from error
        except UnicodeDecodeError as error:
            raise ProgramFileError(f"{path}: byte {error.start} is not UTF-8 text") from error
    program = decode(data, catalogue)
    if encode(program, catalogue) != data:
        raise ProgramFileError(
            f"{path}: neither a program in text form (first line {MAGIC!r}) nor one in canonical byte form"
        )
    return program
