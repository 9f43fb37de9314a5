"""Scanner for one line of the text form, and the errors that it raises."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final, NoReturn

SHOWN: Final = 40
"""Most characters of the text that an error message repeats."""
BLANKS: Final = " \t\r\f\v"
"""What may stand between two words. Other spaces of Unicode look like these, and hide a mistake."""
_NUMBER: Final = re.compile(r"[+-]?[0-9A-Za-z_]+")


class TextError(ValueError):
    """The text is not a program: what was expected, what was found, and where. `line` and `column` start at 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column
        self.message = message


class Scanner:
    """One line without its comment, and the position from which it is read."""

    __slots__ = ("line", "position", "start", "text")

    def __init__(self, text: str, line: int) -> None:
        self.text = text.partition("#")[0].rstrip(BLANKS)
        self.line = line
        self.position = self.start = 0
        self.skip()

    def skip(self) -> None:
        text, position = self.text, self.position
        while position < len(text) and text[position] in BLANKS:
            position += 1
        self.position = position

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def take(self, pattern: str) -> str | None:
        """Skip the text that `pattern` matches here, and return it, or its first group if there is one; else None."""
        self.skip()
        match = re.compile(pattern).match(self.text, self.position)
        if match is None:
            return None
        self.start, self.position = self.position, match.end()
        return match.group(match.re.groups and 1)

    def expect(self, token: str) -> None:
        if self.take(re.escape(token)) is None:
            self.fail(f"expected '{token}'{self.found()}")

    def number(self, what: str, most: int) -> int:
        """Take a number from 0 to `most`; `what` describes it in the error."""
        word = self.take(r"[0-9A-Za-z_]+")
        value = to_number(word or "")
        if value is None or value > most:
            found = self.found() if word is None else f", found '{shown(word)}'"
            self.fail(f"expected {what}{found}", start=word is not None)
        return value

    def finish(self) -> None:
        self.skip()
        if not self.at_end():
            self.fail(f"expected the end of the line{self.found()}")

    def found(self) -> str:
        """The end of an error message: what the line has at this position."""
        return f", found '{self.text[self.position]}'" if not self.at_end() else ", found the end of the line"

    def fail(self, message: str, *, start: bool = False) -> NoReturn:
        """Raise TextError at this position or, with `start`, at the start of the text taken last."""
        raise TextError(self.line, (self.start if start else self.position) + 1, message)


def to_number(word: str) -> int | None:
    """The number that `word` spells, in any base of Python's literals, with the digits of ASCII; None if none."""
    try:
        return int(word, 0) if _NUMBER.fullmatch(word) else None
    except ValueError:
        return None


def shown(word: str) -> str:
    """`word` as an error message repeats it: cut, if it is long."""
    return word if len(word) <= SHOWN else f"{word[:SHOWN]}..."


def unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    """The message for a name that is not in `known`: with a close name, or all names if they are few."""
    close = get_close_matches(name, known, n=1)
    if close:
        return f"unknown {what} '{shown(name)}' - did you mean '{close[0]}'?"
    return f"unknown {what} '{shown(name)}'" + (f": expected {', '.join(known)}" if 0 < len(known) <= 16 else "")
