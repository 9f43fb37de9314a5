"""The Markdown of the ABI document: tables, and how numbers are written."""

from collections.abc import Iterable, Sequence
from textwrap import dedent


def text(block: str) -> str:
    """A block of prose written indented in the source."""
    return dedent(block).strip("\n")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar within a cell is escaped."""
    return "\n".join((_line(heads), "|" + "---|" * len(heads), *(_line(row) for row in rows)))


def address(value: int) -> str:
    """A u64 in groups of four hexadecimal digits."""
    digits = f"{value:016x}"
    return "0x" + "_".join(digits[start : start + 4] for start in range(0, 16, 4))


def integer(width: int) -> str:
    """The name of an unsigned integer of `width` bytes."""
    return f"u{8 * width}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
