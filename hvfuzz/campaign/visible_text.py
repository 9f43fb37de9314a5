"""Text from outside (paths, names, messages) made fit to print, and commands that a shell takes as they are printed."""

import io
import os
import shlex
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

LONGEST_WORD: Final = 255
"""Longest part of a path in bytes (NAME_MAX of Linux). What is longer, with neither "/" nor space, is no name."""
LONGEST_LINE: Final = 6000
"""Greatest length of an error message, above that of one with the longest path (PATH_MAX of Linux: 4,096 bytes)."""
SHOWN_OF_LONG: Final = 60


def visible(text: str, keep: str = "\n") -> str:
    r"""`text` with every character that does not print as an escape, such as \x1b; those in `keep` stay.

    A terminal would obey control characters, and a byte of a path that is not UTF-8 (a lone surrogate in Python's
    strings) cannot be encoded; it becomes \xff.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(character)[1:-1]


def one_line(text: str) -> str:
    """`text` as one visible line of bounded length: words that are too long for a name are cut, and so is the line."""
    words = visible(text, keep="").split(" ")
    line = " ".join("/".join(map(_cut, word.split("/"))) for word in words)
    return line if len(line) <= LONGEST_LINE else f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 4 :]}"


def _cut(word: str) -> str:
    return word if len(word) <= LONGEST_WORD + len("'':") else f"{word[:SHOWN_OF_LONG]}...{word[-2:]}"


def shell_line(words: Iterable[str], encoding: str = "utf-8") -> str:
    """The command `words` for a POSIX shell, of characters that print and that `encoding` has.

    Other characters become bytes in quotes of the form $'...\\xff' (POSIX.1-2024, section 2.2.4; bash, ksh, zsh).
    """
    return " ".join(_shell_word(word, encoding) for word in words)


def _shell_word(word: str, encoding: str) -> str:
    try:
        word.encode(encoding)
        plain = word.isprintable()
    except UnicodeEncodeError:
        plain = False
    if plain:
        return shlex.quote(word)
    quoted = ""
    for byte in word.encode("utf-8", "surrogateescape"):
        quoted += chr(byte) if 0x20 <= byte < 0x7F and byte not in b"'\\" else f"\\x{byte:02x}"
    return f"$'{quoted}'"


def prepare_streams() -> None:
    """Open the standard streams that are closed; make output and error write an escape for what they cannot encode.

    Else the next file that this process or a worker opens would take the number of a closed stream, and get its text.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if _is_closed(number):
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_closed(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return True
    return False


def print_error(message: str) -> None:
    """Print one line "hvfuzz: message" to standard error, after everything on standard output.

    Where standard error cannot be written, only the exit status can tell: this must not change it.
    """
    with suppress(OSError, ValueError, AttributeError):  # closed, full, or none at all
        sys.stdout.flush()
    try:
        print(f"hvfuzz: {one_line(message)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        with suppress(OSError):  # nor must what is left in the buffer, at the end of the interpreter
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
