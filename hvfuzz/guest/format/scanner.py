"""Reads a line of the text form piece by piece, and says what was expected where."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import NoReturn


class TextError(ValueError):
    """The text is not a program; `line` and `column` count from 1."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.line = line
        self.column = column
        self.message = message


class Scanner:
    """What is left of one line."""

    __slots__ = ("line", "position", "start", "text")

    def __init__(self, text: str, line: int) -> None:
        self.text = text.partition("#")[0].rstrip()
        self.line = line
        self.position = self.start = 0
        self.skip()

    def skip(self) -> None:
        text, position = self.text, self.position
        while position < len(text) and text[position].isspace():
            position += 1
        self.position = position

    def at_end(self) -> bool:
        return self.position >= len(self.text)

    def take(self, pattern: str) -> str | None:
        """The text that `pattern` matches here (its first group, if it has one), passed over; or None."""
        self.skip()
        match = re.compile(pattern).match(self.text, self.position)
        if match is None:
            return None
        self.start, self.position = self.position, match.end()
        return match.group(match.re.groups and 1)

    def expect(self, token: str) -> None:
        if self.take(re.escape(token)) is None:
            self.fail(f"expected '{token}'{self.instead()}")

    def number(self, what: str, most: int) -> int:
        word = self.take(r"[\w]+")
        value = to_number(word or "")
        if value is None or value > most:
            self.fail(f"expected {what}", start=word is not None)
        return value

    def finish(self) -> None:
        self.skip()
        if not self.at_end():
            self.fail(f"expected the end of the line{self.instead()}")

    def instead(self) -> str:
        return f", not '{self.text[self.position]}'" if not self.at_end() else ", not the end of the line"

    def fail(self, message: str, *, start: bool = False) -> NoReturn:
        """Raise TextError here, or with `start` at the beginning of what was taken last."""
        raise TextError(self.line, (self.start if start else self.position) + 1, message)


def to_number(word: str) -> int | None:
    try:
        return int(word, 0)
    except ValueError:
        return None


def unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    close = get_close_matches(name, known, n=1)
    if close:
        return f"unknown {what} '{name}' - did you mean '{close[0]}'?"
    return f"unknown {what} '{name}'" + (f": expected {', '.join(known)}" if 0 < len(known) <= 16 else "")
