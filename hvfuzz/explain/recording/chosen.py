"""Numbers that a guest chose, and those that the hypervisor computes from them: each knows how it came to be.

The arguments of a call are replaced by such numbers while a run is recorded. They are equal to the plain ones, so the
run is the same; but where one is used as an address, an index or a length, its origin can be read off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Self

LONGEST: Final = 120
"""Characters of an origin; a longer one is cut in the middle."""
ONE_DIGIT: Final = 10
PRODUCTS: Final = ("*", "<<", ">>", "&", "//", "%")
"""Operators that bind more tightly than a sum."""


class Chosen(int):
    """An int with an `origin`: an expression over the names of the guest's operands."""

    origin: str

    def __new__(cls, value: int, origin: str) -> Self:
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int(self),)


def origin_of(value: object) -> str:
    """How a number came from what the guest chose; "" if it did not."""
    return value.origin if isinstance(value, Chosen) else ""


def _shown(value: object) -> str:
    if isinstance(value, Chosen):
        return value.origin
    return hex(value) if isinstance(value, int) and abs(value) >= ONE_DIGIT else str(value)


def _operator(symbol: str, operation: Callable[[int, int], int], *, swapped: bool = False) -> Callable[..., Any]:
    def apply(self: Chosen, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        value = operation(int(self), int(other))
        if value == int(self) and symbol in ("&", "+", "-", "|"):
            return self  # A mask that cuts nothing off, or a sum with nothing, is no news.
        left, right = (_shown(other), _shown(self)) if swapped else (_shown(self), _shown(other))
        if symbol in PRODUCTS:
            left, right = _enclosed(left), _enclosed(right)
        return Chosen(value, _cut(f"{left} {symbol} {right}"))

    return apply


def _enclosed(text: str) -> str:
    return f"({text})" if " " in text and not text.startswith("(") else text


def _cut(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


_OPERATIONS: Final[dict[str, tuple[str, Callable[[int, int], int]]]] = {
    "add": ("+", int.__add__),
    "sub": ("-", int.__sub__),
    "mul": ("*", int.__mul__),
    "and": ("&", int.__and__),
    "or": ("|", int.__or__),
    "xor": ("^", int.__xor__),
    "lshift": ("<<", int.__lshift__),
    "rshift": (">>", int.__rshift__),
    "floordiv": ("//", int.__floordiv__),
    "mod": ("%", int.__mod__),
}


def _turned(operation: Callable[[int, int], int]) -> Callable[[int, int], int]:
    return lambda one, two: operation(two, one)


for _name, (_symbol, _operation) in _OPERATIONS.items():
    setattr(Chosen, f"__{_name}__", _operator(_symbol, _operation))
    setattr(Chosen, f"__r{_name}__", _operator(_symbol, _turned(_operation), swapped=True))
